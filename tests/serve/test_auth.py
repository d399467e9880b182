"""Keys and rates."""

from pathlib import Path

import pytest

from sfumato.serve.auth import OWNERS, Keys, RateLimit
from sfumato.serve.errors import ApiError


def keys(tmp_path: Path, text: str) -> Keys:
    file = tmp_path / "keys"
    file.write_text(text, "utf-8")
    return Keys.read(file)


def test_a_key_has_a_name_and_opens(tmp_path: Path):
    found = keys(tmp_path, "# people\n\nalice: sk-alice\nsk-nobody\n")
    assert found.owner("Bearer sk-alice") == "alice"
    assert found.owner("bearer  sk-nobody ") == "key-4"


@pytest.mark.parametrize("said", [None, "", "sk-alice", "Basic sk-alice", "Bearer", "Bearer sk-alic", "Bearer ß\udcff"])
def test_nothing_else_opens(tmp_path: Path, said: str | None):
    with pytest.raises(ApiError) as caught:
        keys(tmp_path, "alice:sk-alice").owner(said)
    assert caught.value.status == 401 and caught.value.code == "invalid_api_key"


@pytest.mark.parametrize("text", ["", "# none\n", "a:\n", ":key", "one\na:one", "schlüssel"])
def test_a_file_that_cannot_be_used_says_so(tmp_path: Path, text: str):
    with pytest.raises(ValueError, match="key|KEY"):
        keys(tmp_path, text)


def test_keys_are_not_kept_as_they_are(tmp_path: Path):
    assert "sk-secret" not in repr(keys(tmp_path, "sk-secret"))


def test_a_bucket_is_refilled_evenly():
    rate = RateLimit(per_minute=2)
    rate.take("a", 0.0)
    rate.take("a", 0.0)
    rate.take("b", 0.0)
    with pytest.raises(ApiError) as caught:
        rate.take("a", 1.0)
    assert (caught.value.status, caught.value.retry_after) == (429, 29)
    rate.take("a", 30.0)
    with pytest.raises(ApiError):
        rate.take("a", 31.0)


def test_no_limit_counts_nobody():
    rate = RateLimit(0)
    for _ in range(100):
        rate.take("a", 0.0)
    assert not rate.buckets


def test_owners_that_are_remembered_are_bounded():
    rate = RateLimit(5)
    for i in range(OWNERS + 10):
        rate.take(str(i), 0.0)
    assert len(rate.buckets) == OWNERS

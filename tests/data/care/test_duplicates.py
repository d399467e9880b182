import random

import pytest

from sfumato.data.care.duplicates import Exact, Near, shingles

WORDS = [f"word{n}" for n in range(2000)]


def text(seed: int, words: int = 200) -> list[str]:
    return random.Random(seed).choices(WORDS, k=words)


def test_the_same_text_goes_however_it_is_spaced():
    exact = Exact(known=["held out"])
    assert [bool(exact(one)) for one in ("a b", "a  b\n", "A b", "a b c", "held\tout")] == [0, 1, 0, 0, 1]


@pytest.mark.parametrize(("changed", "goes"), [(0, True), (2, True), (60, False)])
def test_nearly_the_same_text_goes(changed: int, goes: bool):
    """A changed word changes five shingles: 2 of 200 words leave a similarity of about 0.9."""
    near = Near(0.8)
    first = text(1)
    second = list(first)
    for place in range(0, 3 * changed, 3):
        second[place] = f"other{place}"
    assert near(" ".join(first)) == ""
    assert bool(near(" ".join(second).upper())) == goes


def test_the_estimate_is_near_the_true_similarity():
    first, second = text(1), text(1)[:150] + text(2)[:50]
    one, other = shingles(" ".join(first)), shingles(" ".join(second))
    truth = len(one & other) / len(one | other)
    near = Near(0.3)
    near(" ".join(first))
    said = near(" ".join(second))
    assert abs(float(said.split()[1]) - truth) < 3 * (truth * (1 - truth) / 128) ** 0.5


def test_unlike_texts_stay_and_what_is_known_goes():
    near = Near(0.8, known=[" ".join(text(0))])
    assert [bool(near(" ".join(text(seed)))) for seed in range(50)] == [True] + [False] * 49


def test_short_texts_and_texts_without_spaces_have_shingles_too():
    assert shingles("Two words") == {b"two words"} and shingles("") == {b""}
    assert len(shingles("从前有一个小男孩他很喜欢在公园里和他的朋友们一起玩红色的球")) > 10


def test_a_threshold_must_be_a_similarity():
    with pytest.raises(ValueError, match="between 0 and 1, got 1"):
        Near(1.0)

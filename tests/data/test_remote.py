"""Sources behind URLs: in memory, on a disk that fails now and then, and in an object store that speaks S3."""

import gzip
import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sfumato.config import DataConfig, Source
from sfumato.data import remote
from sfumato.data.cache import open_corpora
from sfumato.data.files import File
from sfumato.data.sources import DataError, Report, content_key, documents
from sfumato.text.tokenizer import Tokenizer

fsspec = pytest.importorskip("fsspec")


@pytest.fixture
def memory() -> Iterator[Any]:
    system = fsspec.filesystem("memory")
    yield system
    system.store.clear()
    system.pseudo_dirs[:] = [""]


def read(url: str) -> list[Any]:
    return list(documents(Source(url), Report()))


def lines(*texts: str) -> bytes:
    return "".join(json.dumps({"text": text}) + "\n" for text in texts).encode()


def test_a_file_a_folder_and_a_pattern_are_read_in_order(memory: Any):
    memory.pipe({"/d/b.jsonl": lines("three"), "/d/a/x.jsonl.gz": gzip.compress(lines("one", "two"))})
    memory.pipe({"/d/.hidden/c.txt": b"no", "/d/readme.html": b"no", "/d/c.txt": b"four"})
    assert read("memory://d") == ["one", "two", "three", "four"]
    assert read("memory://d/b.jsonl") == read("memory://d/*.jsonl") == ["three"]
    assert read("memory://d/**/*.gz") == ["one", "two"]


def test_a_table_is_read_behind_a_url(memory: Any):
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    with memory.open("/d/a.parquet", "wb") as handle:
        parquet.write_table(pyarrow.table({"text": ["one", "two"]}), handle)
    assert read("memory://d/a.parquet") == ["one", "two"]


def test_a_local_url_is_a_local_file(tmp_path: Path):
    (tmp_path / "a.txt").write_text("one")
    assert read(f"file://{tmp_path}") == read(str(tmp_path)) == ["one"]


def test_the_key_follows_the_content_though_nothing_is_downloaded(memory: Any):
    source = Source("memory://d")
    memory.pipe("/d/a.txt", b"one")
    key = content_key(source)
    assert content_key(source) == key
    memory.pipe("/d/a.txt", b"two")
    assert content_key(source) != key


def test_what_is_behind_a_url_is_tokenised_once(memory: Any, tmp_path: Path, tokenizer: Tokenizer):
    memory.pipe("/d/a.jsonl", lines("one tale", "two tales"))
    data = DataConfig((Source("memory://d"),), cache=str(tmp_path))
    (first,) = open_corpora(data, tokenizer)
    created = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.bin")}
    (again,) = open_corpora(data, tokenizer)
    assert len(created) == 1 and created == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.bin")}
    assert first.key == again.key and first.path == "memory://d"


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("memory://none/a.jsonl", "no such file, folder or bucket"),
        ("memory://none/*.jsonl", "no data in this folder"),
        ("nothing://x", "Protocol not known"),
        ("memory://d/a.csv", "unknown kind of data"),
    ],
)
def test_what_is_not_there_is_told_in_one_line(memory: Any, url: str, why: str):
    memory.pipe("/d/a.csv", b"x")
    with pytest.raises(DataError, match=why) as error:
        read(url)
    assert str(error.value).startswith(url) and "\n" not in str(error.value)


def test_a_missing_package_is_named():
    if importlib.util.find_spec("ocifs"):
        pytest.skip("ocifs is installed")
    with pytest.raises(DataError, match=r"oci://b: a package is missing .*ocifs.*; pip install 'sfumato\[remote\]'"):
        read("oci://b")


class Shaky(fsspec.get_filesystem_class("file")):
    """A local disk that breaks off every file after some bytes, and refuses the first attempts to list."""

    protocol = "shaky"
    cachable = False
    listings, opened = 2, 0
    error: Exception = ConnectionResetError("the line is dead")

    def info(self, path: str, **options: Any) -> Any:
        if Shaky.listings:
            Shaky.listings -= 1
            raise self.error
        return super().info(path, **options)

    def _open(self, path: str, mode: str = "rb", block_size: Any = None, **options: Any) -> Any:
        Shaky.opened += 1
        handle = super()._open(path, mode, block_size, **options)
        good, read = [3 * Shaky.opened], handle.f.read

        class Broken:
            tell, seek, close = handle.tell, handle.seek, handle.close

            def read(self, count: int) -> bytes:
                if not good[0]:
                    raise Shaky.error
                good[0] -= 1
                return read(min(count, 1000))

        return Broken()


@pytest.fixture
def shaky(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Shaky]]:
    fsspec.register_implementation("shaky", Shaky, clobber=True)
    monkeypatch.setattr(remote, "PAUSES", (0.0, 0.0))
    Shaky.listings, Shaky.opened, Shaky.error = 2, 0, ConnectionResetError("the line is dead")
    yield Shaky


def test_a_file_is_read_on_where_the_connection_broke(shaky: type[Shaky], tmp_path: Path):
    text = "".join(f"line {n}\n" for n in range(2000))
    (tmp_path / "a.txt").write_text(text)
    assert read(f"shaky://{tmp_path}/a.txt") == [text]
    assert shaky.opened > 3


def test_what_stays_broken_is_an_error_after_so_many_attempts(shaky: type[Shaky], tmp_path: Path):
    (tmp_path / "a.txt").write_text("one")
    shaky.listings = 3
    with pytest.raises(DataError, match=r"a.txt: cannot be read \(the line is dead\)"):
        read(f"shaky://{tmp_path}/a.txt")


def test_no_patience_helps_against_a_refusal(shaky: type[Shaky], tmp_path: Path):
    shaky.error = PermissionError("forbidden")
    with pytest.raises(DataError, match=r"a.txt: access denied \(forbidden\); check the credentials"):
        read(f"shaky://{tmp_path}/a.txt")
    assert shaky.listings == 1


class Forward(Shaky):
    """A server that gives files from their beginning alone."""

    protocol = "forward"

    def info(self, path: str, **options: Any) -> Any:
        return super().info(path, **options) | {"partial": False}

    def _open(self, path: str, mode: str = "rb", block_size: Any = None, **options: Any) -> Any:
        handle = super()._open(path, mode, block_size, **options)
        del type(handle).seek, type(handle).tell
        return handle


def test_what_cannot_seek_is_read_from_its_beginning_again(shaky: type[Shaky], tmp_path: Path):
    fsspec.register_implementation("forward", Forward, clobber=True)
    (tmp_path / "a.jsonl").write_bytes(lines(*map(str, range(400))))
    assert read(f"forward://{tmp_path}/a.jsonl") == [str(n) for n in range(400)]


def test_a_signature_in_a_url_is_no_part_of_the_name():
    url = "https://host/texts/a.jsonl.gz?signature=secret"
    assert (File(url, "", 1).format, File(url, "", 1).compression) == (".jsonl", ".gz")
    assert remote.without_query(url) == "https://host/texts/a.jsonl.gz"
    assert remote.without_query("texts/what?.txt") == "texts/what?.txt"


def test_nobody_is_shown_a_signature_or_a_password():
    url = "https://me:pass@host:1/a.jsonl?signature=secret"
    seen = File(url, "", 1).shown
    assert seen == "https://host:1/a.jsonl"
    assert remote.shown(f"{url}: no (404, url='{url}')") == f"{seen}: no (404, url='{seen}')"
    for name in ("s3://bucket/what?.txt", "abfs://box@account/a.txt", "hf://datasets/me/it@main/a.txt", "C:/a?b"):
        assert remote.shown(name) == name
    with pytest.raises(DataError, match="^nowhere://host/a.jsonl: "):
        read("nowhere://me:pass@host/a.jsonl")

"""A file is read in portions, and each from any place in it."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from sfumato.config import Source
from sfumato.data.files import File, files
from sfumato.data.formats import read

TEXTS = [f"text {n} " + "x" * (n * 7 % 40) for n in range(61)]


def lines(folder: Path) -> Path:
    path = folder / "a.jsonl"
    records = [json.dumps({"text": text}) for text in TEXTS]
    path.write_bytes(b"\xef\xbb\xbf" + "\r\n\n".join(records).encode())  # marked, with blank lines, no end of line
    return path


def packed(folder: Path) -> Path:
    path = folder / "a.jsonl.gz"
    path.write_bytes(gzip.compress(lines(folder).read_bytes()))
    return path


def table(folder: Path) -> Path:
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    parquet.write_table(pyarrow.table({"n": range(len(TEXTS)), "text": TEXTS}), folder / "a.parquet", row_group_size=10)
    return folder / "a.parquet"


@pytest.fixture(params=[lines, packed, table])
def file(request: pytest.FixtureRequest, tmp_path: Path) -> File:
    make: Callable[[Path], Path] = request.param
    (found,) = files(str(make(tmp_path)))
    return found


@pytest.mark.parametrize("portions", [1, 2, 7, 200])
def test_portions_hold_each_value_once(file: File, portions: int):
    found = [[item.value for item in read(file, Source(file.name), i, portions)] for i in range(portions)]
    assert sorted(sum(found, [])) == sorted(TEXTS)
    if portions == 7:
        assert all(5 <= len(portion) <= 12 for portion in found)


def test_a_portion_goes_on_behind_any_item(file: File):
    source = Source(file.name)
    for portion in range(3):
        items = list(read(file, source, portion, 3))
        for i, item in enumerate(items):
            rest = read(file, source, portion, 3, item.after)
            assert [(item.value, item.after) for item in rest] == [(item.value, item.after) for item in items[i + 1 :]]


def test_a_broken_line_of_a_later_portion_is_named_by_its_byte(tmp_path: Path):
    (tmp_path / "a.jsonl").write_text('{"text": "a"}\n' * 3 + "broken\n")
    (file,) = files(str(tmp_path / "a.jsonl"))
    items = [item for i in range(2) for item in read(file, Source(file.name), i, 2)]
    assert [item.line for item in items] == [1, 2, "byte 28", "byte 42"]
    assert isinstance(items[-1].value, ValueError)

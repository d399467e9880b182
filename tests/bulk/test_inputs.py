"""Any stretch of an input reads as it does in the whole, wherever it begins and whatever the files are."""

import gzip
import json
from pathlib import Path

import pytest

from sfumato.bulk.inputs import GRAIN, Input, look, read

COUNTS = {"a.jsonl": 3 * GRAIN + 5, "b/c.txt": GRAIN, "b/d.jsonl.gz": 2 * GRAIN, "e.parquet": 77}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import pyarrow
    import pyarrow.parquet

    path = tmp_path_factory.mktemp("input")
    (path / "b").mkdir()
    lines = [json.dumps({"text": f"größer {i}", "n": i}, ensure_ascii=False) for i in range(COUNTS["a.jsonl"])]
    (path / "a.jsonl").write_text("\ufeff" + "\n\n".join(lines[:100]) + "\r\n" + "\n".join(lines[100:]), "utf-8")
    (path / "b/c.txt").write_text("".join(f" line {i} \n" for i in range(COUNTS["b/c.txt"])))
    with gzip.open(path / "b/d.jsonl.gz", "wt") as file:
        file.write("".join(f'{{"n": {i}}}\n' for i in range(COUNTS["b/d.jsonl.gz"])))
    table = pyarrow.table({"n": list(range(77)), "none": [None] * 77, "list": [["a"]] * 77})
    pyarrow.parquet.write_table(table, path / "e.parquet", row_group_size=20)
    (path / ".hidden.jsonl").write_text("{}\n")
    (path / "README.md").write_text("no record")
    return path


@pytest.fixture(scope="module")
def found(folder: Path) -> Input:
    return look(str(folder))


def test_the_records_of_all_files_are_numbered_through(folder: Path, found: Input):
    records = list(read(found.pieces(0, found.rows), "text"))
    assert len(records) == found.rows == sum(COUNTS.values())
    assert [record.number for record in records] == list(range(found.rows)) and not any(r.error for r in records)
    first = iter(records)
    assert [next(first).content for _ in range(2)] == [{"text": "größer 0", "n": 0}, {"text": "größer 1", "n": 1}]
    by_file = [[r for r in records if r.where.startswith(f"{folder / name}:")] for name in COUNTS]
    assert [len(part) for part in by_file] == list(COUNTS.values())
    assert by_file[0][2].where == f"{folder}/a.jsonl:5"  # blank lines count as lines, not as records
    assert by_file[1][7].content == {"text": " line 7 "}
    assert by_file[2][-1].content == {"n": COUNTS["b/d.jsonl.gz"] - 1}
    assert by_file[3][45].content == {"n": 45, "none": None, "list": ["a"]}


@pytest.mark.parametrize("size", [1, 7, GRAIN, GRAIN + 1, 200, 1000])
def test_shards_hold_what_the_whole_holds(found: Input, size: int):
    whole = list(read(found.pieces(0, found.rows), "text"))
    for begin in range(0, found.rows, max(size, 50)):
        end = min(begin + size, found.rows)
        assert list(read(found.pieces(begin, end), "text")) == whole[begin:end]


def test_a_reader_begins_near_its_records(found: Input):
    piece = found.pieces(3 * GRAIN + 2, 3 * GRAIN + 3)[0]
    assert (piece.skip, piece.rows) == (2, 1) and piece.begin > 100 and piece.line > 100


def test_the_digest_changes_with_the_content_and_the_order(tmp_path: Path):
    (tmp_path / "a.jsonl").write_text('{"n": 1}\n')
    (tmp_path / "b.jsonl").write_text('{"n": 2}\n')
    before = look(str(tmp_path)).digest
    assert look(str(tmp_path)).digest == before
    (tmp_path / "b.jsonl").rename(tmp_path / "_.jsonl")
    assert look(str(tmp_path)).digest != before


def test_the_digest_of_a_table_changes_with_a_value(tmp_path: Path):
    import pyarrow
    import pyarrow.parquet

    found = set()
    for text in ("one", "two"):  # of the same description and size
        pyarrow.parquet.write_table(pyarrow.table({"prompt": [text] * 3}), tmp_path / "a.parquet")
        found.add(look(str(tmp_path / "a.parquet")).digest)
    assert len(found) == 2


def test_a_file_behind_a_url_reads_like_one_here(tmp_path: Path):
    fsspec = pytest.importorskip("fsspec")
    lines = "".join(f'{{"n": {i}}}\n' for i in range(2 * GRAIN))
    with fsspec.open("memory://bulk/a.jsonl", "w") as file:
        file.write(lines)
    (tmp_path / "a.jsonl").write_text(lines)
    near, far = look(str(tmp_path)), look("memory://bulk")
    part = [[r.content for r in read(one.pieces(GRAIN + 3, GRAIN + 9), "text")] for one in (near, far)]
    assert part[0] == part[1] == [{"n": GRAIN + i} for i in range(3, 9)] and near.rows == far.rows


def test_what_cannot_be_read_is_named(tmp_path: Path):
    (tmp_path / "empty.jsonl").write_text("\n\n")
    for name, why in (("empty.jsonl", "no records in it"), ("none.jsonl", "no such file"), ("a.doc", "unknown kind")):
        if name == "a.doc":
            (tmp_path / name).write_text("a")
        with pytest.raises(ValueError, match=why):
            look(str(tmp_path / name))
    (tmp_path / "bad.parquet").write_text("no table")
    with pytest.raises(ValueError, match=r"bad\.parquet: unreadable Parquet"):
        look(str(tmp_path / "bad.parquet"))


def test_a_table_with_what_json_cannot_hold_is_an_error_in_its_place(tmp_path: Path):
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.table({"n": [1.0, float("nan"), 2.0]}), tmp_path / "a.parquet")
    found = look(str(tmp_path))
    assert [bool(record.error) for record in read(found.pieces(0, 3), "text")] == [False, True, False]

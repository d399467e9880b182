"""A source in parts, which lanes share fairly."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from sfumato.config import Source
from sfumato.data.document import Report
from sfumato.data.shards import beginning, dealt, parts


def write(path: Path, texts: list[str]) -> Path:
    lines = "".join(json.dumps({"text": text}) + "\n" for text in texts).encode()
    path.write_bytes(gzip.compress(lines) if path.suffix == ".gz" else lines)
    return path


def values(part: Any, source: Source, place: Any = 0) -> list[Any]:
    return [item.value for item in part.read(source, place).items]


def test_parts_are_dealt_by_their_size():
    hands = dealt([4, 1, 1, 1, 1, 4], [0, 1, 2, 3, 4, 5], 3)
    assert sorted(sum(hands, [])) == list(range(6))
    assert hands == [[0], [1, 3, 5], [2, 4]]


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.txt"])
def test_parts_hold_each_document_once_and_there_are_enough_for_all_lanes(tmp_path: Path, name: str):
    source, texts = Source(str(tmp_path)), [f"text {n}" for n in range(50)]
    if name == "a.txt":
        (tmp_path / name).write_text("\n".join(f"{n} " * 3000 for n in range(50)))
        texts = [str(section) for section in values(parts(source, 1)[0], source)]
    else:
        write(tmp_path / name, texts)
    found = parts(source, 4)
    assert len(found) >= 4
    assert sorted(value for part in found for value in values(part, source)) == sorted(texts)


def test_many_compressed_files_are_not_shared(tmp_path: Path):
    for n in range(8):
        write(tmp_path / f"{n}.jsonl.gz", [f"text {n}"])
    assert [part.name for part in parts(Source(str(tmp_path)), 8)] == [
        str(tmp_path / f"{n}.jsonl.gz") for n in range(8)
    ]


def test_one_large_file_among_small_ones_is_shared(tmp_path: Path):
    for n in range(4):
        write(tmp_path / f"{n}.jsonl.gz", [f"text {n}"])
    write(tmp_path / "large.jsonl.gz", [json.dumps(list(range(n, n + 500))) for n in range(300)])
    names = [Path(part.name).name for part in parts(Source(str(tmp_path)), 4)]
    assert [names.count(f"{n}.jsonl.gz") for n in range(4)] == [1] * 4 and names.count("large.jsonl.gz") == 4


def test_a_dataset_has_parts_that_go_on_anywhere(tmp_path: Path):
    datasets = pytest.importorskip("datasets")
    texts = [f"text {n}" for n in range(20)]
    datasets.Dataset.from_dict({"text": texts, "n": range(20)}).save_to_disk(tmp_path / "saved")
    (tmp_path / "named").mkdir()
    for n in range(2):
        write(tmp_path / "named" / f"{n}.jsonl", texts[n::2])
    for source in (Source(str(tmp_path / "saved")), Source(f"hf:{tmp_path / 'named'}")):
        found = parts(source, 3)
        assert len(found) >= 3
        assert sorted(value for part in found for value in values(part, source)) == sorted(texts)
        part = max(found, key=lambda part: len(values(part, source)))
        whole, reading = values(part, source), part.read(source)
        for i, item in enumerate(reading.items):
            if i in (1, len(whole) - 1):
                place = json.loads(json.dumps(reading.place(item)))
                assert values(part, source, place) == whole[i + 1 :]


def test_the_beginning_is_taken_from_everywhere_and_is_all_of_a_small_source(tmp_path: Path):
    for n in range(40):
        write(tmp_path / f"{n:02}.jsonl", [f"{n:02} {i} " + "x" * 100 for i in range(20)])
    source = Source(str(tmp_path))
    some = [str(text) for text in beginning(source, Report(), 5000)]
    assert 45 < len(some) < 50 and len({text[:2] for text in some}) == 16
    assert len(list(beginning(source, Report(), 10**6))) == 800

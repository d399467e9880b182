"""The dataset's folder: what a person may change, what is held out, and what comes back broken."""

import json
from pathlib import Path

import pytest

from sfumato.data.sources import DataError
from sfumato.improve.dataset import Dataset, save
from sfumato.improve.items import Gathered, Item


def items(count: int, openings: int = 10**6) -> list[Item]:
    made = []
    for i in range(count):
        prompt = [{"role": "user", "content": f"Hello {i % openings}"}]
        prompt += [{"role": "assistant", "content": "Yes?"}, {"role": "user", "content": f"more {i}"}] if i % 2 else []
        made.append(Item(f"{i:016x}", "pair" if i % 3 else "answer", prompt, *(("", "a", "b") if i % 3 else ("a",))))
    return made


def saved(parent: Path, made: list[Item], **options) -> Dataset:
    gathered = Gathered(made, len(made), cursor=("2031-01-01T00:00:00+00:00", "f1"), first="2030-12-31T00:00:00+00:00")
    return save(gathered, parent, kind="chat", **options)


def edit(dataset: Dataset, line: int, **changes) -> None:
    path = dataset.folder / "review.jsonl"
    lines = path.read_text().splitlines()
    lines[line] = json.dumps(json.loads(lines[line]) | changes)
    path.write_text("\n".join(lines) + "\n")


def test_it_is_dated_reviewable_and_read_back_as_it_was(tmp_path):
    made = items(30)
    dataset = saved(tmp_path, made)
    assert dataset.items == tuple(made) and Dataset.load(dataset.folder) == dataset
    assert dataset.folder.name[:2] == "20" and dataset.folder.name.endswith(dataset.manifest["digest"][:12])
    assert dataset.manifest["digest"] == dataset.digest and dataset.manifest["feedback"] == 30
    assert (dataset.manifest["from"][:4], dataset.manifest["to"][:4]) == ("2030", "2031")
    assert dataset.folder.stat().st_mode & 0o077 == 0
    assert saved(tmp_path, made).folder == dataset.folder


def test_one_opening_never_crosses_between_learning_and_judging(tmp_path):
    dataset = saved(tmp_path, items(400, openings=80), held_out=0.25)
    sides = {held_out: {} for held_out in (False, True)}
    for held_out, found in sides.items():
        for kind in ("answer", "pair"):
            for item in dataset.chosen(kind, held_out=held_out):
                found[item.opening] = item
    assert not sides[True].keys() & sides[False].keys() and len(sides[True]) + len(sides[False]) == 80
    assert 8 <= len(sides[True]) <= 32  # 20 +- 3 standard errors
    told = [json.loads(line)["held_out"] for line in (dataset.folder / "review.jsonl").read_text().splitlines()]
    assert told.count(True) == sum(len(dataset.chosen(kind, held_out=True)) for kind in ("answer", "pair"))


def test_more_feedback_moves_nothing_from_one_side_to_the_other(tmp_path):
    few, many = saved(tmp_path, items(100)), saved(tmp_path, items(200))
    for held_out in (False, True):
        now = {item.id for item in many.chosen("answer", held_out=held_out)}
        assert {item.id for item in few.chosen("answer", held_out=held_out)} <= now


def test_where_there_are_two_openings_one_is_held_out(tmp_path):
    for count in range(2, 6):
        dataset = saved(tmp_path, [Item(f"{i}", "answer", f"Hi {i}", "a") for i in range(count)], held_out=0.01)
        assert len(dataset.chosen("answer", held_out=True)) == 1
    assert not saved(tmp_path, [Item("0", "answer", "Hi", "a")]).chosen("answer", held_out=True)


def test_what_a_person_changes_counts(tmp_path):
    dataset = saved(tmp_path, items(12))
    edit(dataset, 0, keep=False)
    edit(dataset, 3, response="written by hand", weight=2.5)
    changed = Dataset.load(dataset.folder)
    assert changed.digest != dataset.digest and changed.counts()["left_out_by_hand"] == 1
    kept = [item for held_out in (False, True) for item in changed.chosen("answer", held_out=held_out)]
    assert {item.id for item in kept} == {f"{i:016x}" for i in (3, 6, 9)}
    assert {(item.response, item.weight) for item in kept} == {("written by hand", 2.5), ("a", 1.0)}


def test_what_was_left_out_once_stays_out(tmp_path):
    first = saved(tmp_path, items(12))
    edit(first, 4, keep=False)
    second = saved(tmp_path, items(15))
    assert [item.id for item in second.items if not item.keep] == [f"{4:016x}"]
    assert saved(tmp_path, items(15)).folder == second.folder


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"keep": "perhaps"}, "keep: expected true or false"),
        ({"kind": "praise"}, "expected an answer with a response"),
        ({"response": "  "}, "expected an answer with a response"),
        ({"weight": 0}, "expected an answer with a response"),
        ({"prompt": [{"rolle": "user"}]}, "not an item"),
        ({"wait": 1}, "unknown key wait; did you mean weight"),
    ],
    ids=str,
)
def test_a_broken_line_is_named(tmp_path, change, why):
    dataset = saved(tmp_path, items(6))
    edit(dataset, 3, **change)
    with pytest.raises(DataError, match=rf"review.jsonl:4: .*{why}"):
        Dataset.load(dataset.folder)


def test_lines_that_are_no_json_and_folders_that_are_none(tmp_path):
    dataset = saved(tmp_path, items(3))
    with open(dataset.folder / "review.jsonl", "a") as file:
        file.write("\n{broken\n")
    with pytest.raises(DataError, match="review.jsonl:5: not an item of a dataset"):
        Dataset.load(dataset.folder)
    with pytest.raises(DataError, match="no dataset of feedback; make one"):
        Dataset.load(tmp_path)
    (dataset.folder / "manifest.json").write_text("{}")
    with pytest.raises(DataError, match='expected "format"'):
        Dataset.load(dataset.folder)


def test_a_full_disk_leaves_no_half_dataset(tmp_path, disk_full):
    with disk_full(1000), pytest.raises(OSError):
        saved(tmp_path, items(100))
    assert list(tmp_path.iterdir()) == []

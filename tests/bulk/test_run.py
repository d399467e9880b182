"""A run in shards: the same records however it is cut, stopped and gone on with, and no other run's."""

import shutil
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

import pytest
from doubling import EXPECTED, ROWS, kind, whole, worked_on

from sfumato.bulk.run import run, shard_size, sharded
from sfumato.bulk.shards import Shards
from sfumato.sample.journal import OtherRun
from sfumato.sample.records import Record


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "in.jsonl"
    path.write_text("".join(f'{{"n": {i}}}\n' for i in range(ROWS)))
    return path


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "log"
    path.touch()
    return path


@pytest.mark.parametrize("size", [0, 1, 33, 100, 1000])
@pytest.mark.parametrize("name", ["out.jsonl", "out"])
def test_however_it_is_cut_the_records_are_the_same(source: Path, log: Path, tmp_path: Path, size: int, name: str):
    target = tmp_path / "deep" / name
    done = run(kind(log), str(source), str(target), shard_rows=size)
    assert whole(target) == EXPECTED and done == {"rows": ROWS, "resumed": 0, "sum": ROWS * (ROWS - 1)}
    assert [path.name for path in (tmp_path / "deep").iterdir()] == [name]


@pytest.mark.parametrize("name", ["out.jsonl", "out"])
def test_an_error_keeps_what_was_done_and_it_is_never_done_again(source: Path, log: Path, tmp_path: Path, name: str):
    target = tmp_path / name
    for stop in (17, 40, 41, 99):
        with pytest.raises(ValueError, match=rf"in\.jsonl:{stop + 1}: cannot"):
            run(kind(log, stop), str(source), str(target), shard_rows=20 if stop == 17 else 7)  # the first one counts
    done = run(kind(log), str(source), str(target))
    assert whole(target) == EXPECTED and worked_on(log) == [*range(ROWS)]
    assert (done["rows"], done["resumed"], done["sum"]) == (ROWS, 99, ROWS * (ROWS - 1))
    assert run(kind(log), str(source), str(target))["resumed"] == ROWS and whole(target) == EXPECTED


def test_a_torn_shard_loses_no_more_than_its_last_line(source: Path, log: Path, tmp_path: Path):
    target = tmp_path / "out"
    with pytest.raises(ValueError, match="cannot"):
        run(kind(log, 55), str(source), str(target), shard_rows=20)
    part = target / "part-00002.jsonl.partial"
    part.write_bytes(part.read_bytes()[:-3])
    run(kind(log), str(source), str(target))
    assert whole(target) == EXPECTED and sorted(worked_on(log)) == sorted([*range(ROWS), 54])


def test_a_killed_process_is_gone_on_with(source: Path, log: Path, tmp_path: Path):
    target = tmp_path / "out.jsonl"
    child = (
        "import sys; from pathlib import Path; from doubling import kind; from sfumato.bulk.run import run;"
        "run(kind(Path(sys.argv[1]), pause=0.01), *sys.argv[2:], shard_rows=16)"
    )
    words = [sys.executable, "-c", child, str(log), str(source), str(target)]
    process = subprocess.Popen(words, cwd=Path(__file__).parents[1])
    while process.poll() is None and len(worked_on(log)) < 40:
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert not target.exists()
    done = run(kind(log), str(source), str(target))
    assert whole(target) == EXPECTED and 40 <= done["resumed"] < ROWS
    assert len(worked_on(log)) <= ROWS + 1  # the one that was killed between its two lines


def test_what_one_process_has_begun_is_gone_on_with_in_shards(source: Path, log: Path, tmp_path: Path):
    target = tmp_path / "out.jsonl"
    target.write_bytes(EXPECTED[: EXPECTED.index(b'{"n": 47') + 5])
    done = run(kind(log), str(source), str(target), shard_rows=20)
    assert whole(target) == EXPECTED and done["resumed"] == 47 and worked_on(log)[0] == 47


@pytest.mark.parametrize("name", ["out.jsonl", "out"])
def test_another_run_is_refused_and_leaves_what_is_there(source: Path, log: Path, tmp_path: Path, name: str):
    target = tmp_path / name
    run(kind(log, seed=1), str(source), str(target), shard_rows=20)
    if name == "out":
        with pytest.raises(OtherRun, match="out: not what this run would write"):
            run(kind(log, seed=2), str(source), str(target))
    source.write_text(source.read_text().replace('"n": 7}', '"n": 8}'))
    with pytest.raises(OtherRun, match=rf"{name}: not what this run would write .* name another output, or remove"):
        run(kind(log, seed=1), str(source), str(target))
    assert whole(target) == EXPECTED and not (tmp_path / f"{name}.parts").exists()


def test_a_run_of_other_settings_is_refused_while_it_is_under_way(source: Path, log: Path, tmp_path: Path):
    target = tmp_path / "out.jsonl"
    with pytest.raises(ValueError, match="cannot"):
        run(kind(log, 50, seed=1), str(source), str(target), shard_rows=20)
    with pytest.raises(OtherRun, match=r"out\.jsonl\.parts: not what this run would write"):
        run(kind(log, seed=2), str(source), str(target))
    run(kind(log, seed=1), str(source), str(target))
    assert whole(target) == EXPECTED


def test_two_runs_cannot_write_the_same_output(source: Path, log: Path, tmp_path: Path):
    target = tmp_path / "out.jsonl"
    with (
        Shards(target, {"rows": ROWS, "shard_rows": 20}, "doubled"),
        pytest.raises(ValueError, match="another process is writing it"),
    ):
        run(kind(log), str(source), str(target))


def test_a_folder_of_somebody_else_is_left_alone(source: Path, log: Path, tmp_path: Path):
    for folder, target in (("out", "out"), ("out.jsonl.parts", "out.jsonl")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "note").write_text("mine")
        with pytest.raises(ValueError, match=f"{folder}: not empty, and no run of ours"):
            run(kind(log), str(source), str(tmp_path / target), shard_rows=20)
    with pytest.raises(ValueError, match="the same"):
        run(kind(log), str(source), str(source))
    assert all((tmp_path / folder / "note").read_text() == "mine" for folder in ("out", "out.jsonl.parts"))


def test_a_check_comes_before_anything_is_written(source: Path, log: Path, tmp_path: Path):
    def check(records: Iterable[Record]) -> None:
        if any(record.content["n"] == 63 for record in records):
            raise ValueError("63: no")

    with pytest.raises(ValueError, match="63: no"):
        run(kind(log), str(source), str(tmp_path / "out.jsonl"), check=check)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.jsonl", "log"]


def test_progress_counts_what_is_under_way_too(source: Path, log: Path, tmp_path: Path):
    seen: list[tuple[int, int]] = []
    run(kind(log), str(source), str(tmp_path / "out"), progress=lambda *now: seen.append(now))
    assert seen and all(total == ROWS and 0 <= done <= ROWS for done, total in seen)
    with Shards(tmp_path / "new", {"rows": 9, "shard_rows": 3}, "n") as shards:
        part = tmp_path / "new" / "part-00001.jsonl.partial"
        for text, lines in (("{}\n{}\n{", 2), ("}\n", 3)):
            with part.open("a") as file:
                file.write(text)
            assert shards.under_way() == lines
        shutil.move(part, part.with_suffix(""))
        assert shards.under_way() == 0 and shards.missing() == [0, 2]


def test_the_size_of_shards_keeps_workers_busy_and_batches_full():
    assert shard_size(10, batch=8, replicas=0) == 10
    assert shard_size(100, batch=8, replicas=2) == 50  # less than wished for, but both have something to do
    assert shard_size(2000, batch=8, replicas=2) == 128
    assert shard_size(5000, batch=8, replicas=2) == 313
    assert shard_size(10**6, batch=8, replicas=2) == 512


def test_plain_files_need_no_shards(tmp_path: Path, source: Path, log: Path):
    assert not sharded("in.jsonl", "out.jsonl") and not sharded("prompts", "out.jsonl")
    assert (
        sharded("in.jsonl", "out") and sharded("in.jsonl", "out.jsonl", replicas=1) and sharded("a.parquet", "o.jsonl")
    )
    assert sharded("a.parquet", "out.jsonl")
    assert sharded(str(tmp_path), "out.jsonl") and sharded("s3://bucket/a.jsonl", "out.jsonl")
    with pytest.raises(ValueError, match="cannot"):
        run(kind(log, 5), str(source), str(tmp_path / "out.jsonl"))
    assert sharded(str(source), str(tmp_path / "out.jsonl"))

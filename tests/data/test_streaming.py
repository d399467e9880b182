"""Streamed rows: the same on any number of processes and after any interruption, each document once an epoch."""

import gc
import json
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from sfumato.config import DataConfig, Source
from sfumato.data import lanes
from sfumato.data.batches import Batch
from sfumato.data.cache import Corpus, Plain, held_out_limit, open_corpora
from sfumato.data.lanes import Cursor, Plan, Reader, Supply
from sfumato.data.shards import parts
from sfumato.data.sources import DataError, Report
from sfumato.data.streaming import ShardedStream
from sfumato.text.tokenizer import Tokenizer

ROWS = 12  # of a step; 1, 2, 3, 4 and 6 processes divide it
Make = Callable[..., ShardedStream]


@pytest.fixture(scope="module")
def data(stories: list[str], tmp_path_factory: pytest.TempPathFactory) -> DataConfig:
    """Two sources, one of them in three files."""
    folder = tmp_path_factory.mktemp("streamed")
    (folder / "a").mkdir()
    for n in range(3):
        lines = "".join(json.dumps({"text": text}) + "\n" for text in stories[n:200:3])
        (folder / "a" / f"{n}.jsonl").write_text(lines)
    (folder / "b.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in stories[200:]))
    sources = (Source(str(folder / "a"), weight=3), Source(str(folder / "b.jsonl")))
    cache = str(folder / "cache")
    return DataConfig(sources, held_out=0.1, cache=cache, stream=True, lanes=4, shuffle=64)


@pytest.fixture
def make(data: DataConfig, tokenizer: Tokenizer) -> Make:
    def stream(config: DataConfig = data, seed: int = 1) -> ShardedStream:
        return ShardedStream(config, open_corpora(config, tokenizer), context=32, tokenizer=tokenizer, seed=seed)

    return stream


def steps(streams: list[ShardedStream], count: int) -> list[Tensor]:
    """The tokens of so many steps, put together from what each process gets."""
    found = []
    for _ in range(count):
        tokens_BL = torch.empty(ROWS, 32, dtype=torch.int64)
        for rank, stream in enumerate(streams):
            tokens_BL[rank :: len(streams)] = stream.rows(ROWS, rank, len(streams)).tokens_BL
        found.append(tokens_BL)
    return found


def same(a: list[Tensor], b: list[Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def stored(streams: list[ShardedStream]) -> dict[str, Any]:
    return json.loads(json.dumps(streams[0].merged([stream.state() for stream in streams])))


@pytest.mark.parametrize("world", [2, 3, 4])
def test_processes_together_get_the_rows_of_one(make: Make, world: int):
    assert same(steps([make() for _ in range(world)], 30), steps([make()], 30))


@pytest.mark.parametrize("done", [1, 27])
def test_a_run_goes_on_with_the_same_rows_on_any_number_of_processes(make: Make, done: int):
    whole = steps([make()], done + 40)
    streams, at = [make() for _ in range(4)], done
    assert same(steps(streams, done), whole[:done])
    for world, count in ((2, 3), (1, 20), (3, 4), (4, 13)):
        state = stored(streams)
        streams = [make() for _ in range(world)]
        for stream in streams:
            stream.restore(state)
        assert same(steps(streams, count), whole[at : at + count])
        at += count


def test_the_state_is_that_of_the_rows_given_out_and_not_of_those_made_ahead(make: Make):
    stream = make()
    steps([stream], 5)
    state = stored([stream])
    rest = steps([stream], 3)
    assert stored([stream]) != state
    stream.restore(state)
    assert same(steps([stream], 3), rest)


def test_a_process_reads_no_lanes_but_those_of_its_rows(make: Make):
    stream = make()
    stream.rows(ROWS, 1, 2)
    assert sorted(stream.state()["marks"]) == ["1", "3"]


def test_rows_are_whole_and_only_text_is_scored(make: Make, tokenizer: Tokenizer):
    stream = make()
    batches = [stream.rows(ROWS) for _ in range(30)]
    batch = Batch(*(torch.cat(parts) for parts in zip(*(vars(batch).values() for batch in batches), strict=True)))
    assert ((batch.tokens_BL == tokenizer.pad_id) == (batch.position_BL < 0)).all()
    assert (batch.editable_BL == (batch.position_BL > 0)).all()
    assert (batch.position_BL >= 0).float().mean() > 0.97
    assert not same(steps([make()], 3), steps([make(seed=2)], 3))


def test_sources_have_their_share_of_the_tokens(make: Make):
    stream = make()
    steps([stream], 200)
    taken = torch.tensor([mark[2] for mark in stored([stream])["marks"].values()])
    share_S = taken[:, 0] / taken.sum(1)
    assert (share_S - 0.75).abs().max() < 0.02


def reader(data: DataConfig, tokenizer: Tokenizer, corpora: list[Corpus], lane: int) -> Reader:
    limit = held_out_limit(corpora, data.held_out)
    supplies = [Supply(s, i, parts(s, data.lanes), Report(), limit) for i, s in enumerate(data.sources)]
    weights = [source.weight for source in data.sources]
    plan = Plan(supplies, weights, data.lanes, 5, 32, tokenizer, Plain(), 0)
    return Reader(plan, supplies[0], lane, Cursor())


def epochs(reader: Reader, count: int) -> list[list[tuple[int, ...]]]:
    """The documents of some epochs, in order."""
    found: list[list[tuple[int, ...]]] = [[] for _ in range(count)]
    while True:
        text = tuple(reader.take().tokens.tolist())
        if reader.cursor.epoch >= count:
            return found
        found[reader.cursor.epoch].append(text)


def texts(corpora: list[Corpus], held_out: bool) -> list[tuple[int, ...]]:
    corpus = corpora[0]
    chosen = corpus.held_out if held_out else corpus.train
    return sorted(tuple(corpus.tokens[corpus.offsets[i] : corpus.offsets[i + 1]].tolist()) for i in chosen)


def test_an_epoch_holds_each_document_once_and_none_that_is_held_out(data: DataConfig, tokenizer: Tokenizer):
    corpora = open_corpora(data, tokenizer)
    read = [epochs(reader(data, tokenizer, corpora, lane), 3) for lane in range(data.lanes)]
    for epoch in range(3):
        found = [text for lane in read for text in lane[epoch]]
        assert sorted(found) == texts(corpora, held_out=False)
        assert not set(found) & set(texts(corpora, held_out=True))
    assert read[0][0] != read[0][1]
    assert all(35 <= len(lane[0]) <= 55 for lane in read)


def test_the_same_documents_are_held_out_as_without_streaming(data: DataConfig, tokenizer: Tokenizer):
    streamed, cached = (open_corpora(replace(data, stream=stream), tokenizer) for stream in (True, False))
    assert len(texts(streamed, held_out=True)) > 5
    for held_out in (False, True):
        assert texts(streamed, held_out) == texts(cached, held_out)
    assert [corpus.whole for corpus in (*streamed, *cached)] == [False, False, True, True]


def test_a_streamed_dataset_goes_on_where_it_was(tmp_path: Path, stories: list[str], make: Make):
    datasets = pytest.importorskip("datasets")
    datasets.Dataset.from_dict({"text": stories}).save_to_disk(tmp_path / "saved")
    config = DataConfig((Source(str(tmp_path / "saved")),), cache=str(tmp_path), stream=True, lanes=2, shuffle=20)
    stream, again = make(config), make(config)
    steps([stream], 20)
    again.restore(stored([stream]))
    assert same(steps([stream], 20), steps([again], 20))


def test_long_texts_are_shared_among_lanes_by_sections(tmp_path: Path, make: Make):
    (tmp_path / "book.txt").write_text("\n".join(f"Page {n}. " + "the cat sat " * 100 for n in range(60)))
    config = DataConfig((Source(str(tmp_path / "book.txt")),), cache=str(tmp_path), stream=True, lanes=2)
    assert same(steps([make(config) for _ in range(2)], 10), steps([make(config)], 10))


# --- what can go wrong ------------------------------------------------------------------------------------------------


def test_other_data_or_lanes_are_refused(data: DataConfig, make: Make, tmp_path: Path):
    state = stored([make()])
    with pytest.raises(DataError, match=r"data.lanes: this run was begun with 4, got 2; use those"):
        make(replace(data, lanes=2)).restore(state)
    (tmp_path / "a.jsonl").write_text(Path(data.sources[1].path).read_text() + '{"text": "more"}\n')
    with pytest.raises(DataError, match="the training data is not what it was"):
        make(replace(data, sources=(data.sources[0], Source(str(tmp_path / "a.jsonl"))))).restore(state)


def test_processes_that_read_other_data_are_told(data: DataConfig, make: Make, tmp_path: Path):
    (tmp_path / "a.jsonl").write_text(Path(data.sources[1].path).read_text() + '{"text": "more"}\n')
    other = make(replace(data, sources=(data.sources[0], Source(str(tmp_path / "a.jsonl")))))
    with pytest.raises(DataError, match="process 1 reads other data than process 0"):
        make().merged([make().state(), other.state()])


def test_what_goes_wrong_in_the_thread_is_raised_where_rows_are_asked_for(tmp_path: Path, make: Make):
    path = tmp_path / "a.txt"
    path.write_text("some text " * 1000)
    stream = make(DataConfig((Source(str(path)),), cache=str(tmp_path / "cache"), stream=True, lanes=1, held_out=0))
    path.unlink()
    for _ in range(2):
        with pytest.raises(FileNotFoundError, match=r"a\.txt"):
            stream.rows(4)
    path.write_text("some text " * 1000)
    assert len(stream.rows(4).tokens_BL) == 4


def test_broken_lines_stop_the_run_or_are_left_out(tmp_path: Path, make: Make, stories: list[str]):
    pieces = [json.dumps({"text": story}) for story in stories]
    (tmp_path / "a.jsonl").write_text("\n".join([*pieces, "broken", *pieces]))
    data = DataConfig((Source(str(tmp_path)),), cache=str(tmp_path / "cache"), stream=True, lanes=1, on_error="skip")
    assert len(make(data).rows(700).tokens_BL) == 700
    with pytest.raises(DataError, match=r"a\.jsonl:byte \d+: not JSON"):
        make(replace(data, on_error="stop")).rows(700)


def test_too_little_text_for_the_lanes_is_told(tmp_path: Path, make: Make, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(lanes, "PATIENCE", 3)
    (tmp_path / "a.jsonl").write_text('{"text": "one"}\n{"text": "two"}\n')
    data = DataConfig((Source(str(tmp_path / "a.jsonl")),), cache=str(tmp_path / "cache"), stream=True)
    with pytest.raises(DataError, match=r"too little text to train on for 64 lanes; use fewer data.lanes"):
        make(data).rows(ROWS)


def test_the_thread_ends_with_the_stream(make: Make):
    before = set(threading.enumerate())
    stream = make()
    stream.rows(4)
    (thread,) = set(threading.enumerate()) - before
    del stream
    gc.collect()
    assert not thread.is_alive()

"""Training rows that are read, tokenised and packed as training goes, on any number of processes.

The counterpart of `batches.Stream`, which needs everything tokenised beforehand. A thread works ahead of the training
step.
"""

import queue
import threading
import weakref
from collections.abc import Sequence
from typing import Any

from sfumato.config import DataConfig
from sfumato.data.cache import Corpus, Encoder, Plain, held_out_limit
from sfumato.data.document import DataError, Report
from sfumato.data.lanes import Cursor, Lanes, Mark, Plan, Supply
from sfumato.data.rows import Batch
from sfumato.data.shards import parts
from sfumato.text.interface import AnyTokenizer

AHEAD = 4  # batches that wait for the training step
_Ask = tuple[int, int, int]  # rows, rank, world
_Made = tuple[Batch, int, dict[int, Mark]]  # the rows; the next row and the lanes' pages behind them


class ShardedStream:
    """The training rows of streamed sources, without end, the same whatever the number of processes."""

    def __init__(
        self,
        data: DataConfig,
        corpora: Sequence[Corpus],
        *,
        context: int,
        tokenizer: AnyTokenizer,
        seed: int,
        encoder: Encoder | None = None,
    ):
        """Start at the first row.

        Args:
            data: the sources and their weights, and how to shuffle.
            corpora: what `open_corpora` gave for the same data; no document that it held out is trained on.
            context: places in a row.
            tokenizer: turns text into tokens.
            seed: of all shuffling.
            encoder: makes the token rows, as in `open_corpora`.

        Raises:
            DataError: there is nothing to train on, or it cannot be listed.
        """
        limit = held_out_limit(corpora, data.held_out)
        weights = [source.weight for source in data.sources]
        supplies = [
            Supply(source, i, parts(source, data.lanes) if source.weight else (), Report(data.on_error), limit)
            for i, source in enumerate(data.sources)
        ]
        if not any(supply.parts for supply in supplies):
            raise DataError("no data to train on: every source is empty or has weight 0; add text or a --data.sources")
        window = max(1, data.shuffle // data.lanes)
        self._plan = Plan(supplies, weights, data.lanes, window, context, tokenizer, encoder or Plain(), seed)
        self._about = [f"{corpus.key}:{limit}" for corpus in corpora]
        self._row = 0
        self._marks: dict[int, Mark] = {}
        self._worker: _Worker | None = None

    def rows(self, count: int, rank: int = 0, world: int = 1) -> Batch:
        """Of the next `count` rows those that a process works on: every `world`-th, from the `rank`-th on.

        A process reads the lanes of its rows. Where `world` divides the lanes and `count` no other process reads them.

        Raises:
            DataError: a source cannot be read any more, or a broken line while `data.on_error` is "stop".
        """
        ask = count, rank, world
        if self._worker is None or self._worker.ask != ask:
            self.close()
            self._worker = _Worker(Lanes(self._plan, self._marks), self._row, ask)
        try:
            batch, self._row, self._marks = self._worker.take()
        except BaseException:
            self.close()
            raise
        return batch

    def state(self) -> dict[str, Any]:
        """Where the rows that were given out end, in plain numbers and text that JSON can hold."""
        return {
            "corpora": self._about,
            "lanes": self._plan.lanes,
            "row": self._row,
            "marks": {str(number): mark for number, mark in sorted(self._marks.items())},
        }

    def merged(self, states: list[dict[str, Any]]) -> dict[str, Any]:
        """One state out of those of all processes, each of which knows the lanes that it reads.

        Raises:
            DataError: they do not read the same data.
        """
        for rank, state in enumerate(states):
            if state["corpora"] != states[0]["corpora"]:
                raise DataError(f"process {rank} reads other data than process 0: the files on its machine differ")
        marks: dict[str, Any] = {}
        for state in states:
            for number, mark in state["marks"].items():
                marks[number] = max(marks.get(number, mark), mark, key=lambda mark: mark[0])
        return states[0] | {"marks": marks}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on exactly where `state` was taken, whatever the number of processes now.

        Raises:
            DataError: the data has changed since, or is read in another number of lanes.
        """
        if state["corpora"] != self._about:
            raise DataError("the training data is not what it was when this run stopped; restore it or start a new run")
        if state["lanes"] != self._plan.lanes:
            raise DataError(f"data.lanes: this run was begun with {state['lanes']}, got {self._plan.lanes}; use those")
        self.close()
        self._row = state["row"]
        self._marks = {
            int(number): Mark(row, page, tuple(tokens), tuple(Cursor(*cursor) for cursor in cursors))
            for number, (row, page, tokens, cursors) in state["marks"].items()
        }

    def close(self) -> None:
        """End the thread that works ahead; the next rows start another one."""
        if self._worker is not None:
            self._worker.end()
        self._worker = None


class _Worker:
    """A thread that makes one batch after the other, some of them ahead of those who take them."""

    def __init__(self, lanes: Lanes, first: int, ask: _Ask):
        self.ask = ask
        self._made: queue.Queue[_Made | Exception] = queue.Queue(AHEAD)
        stop = threading.Event()
        # a daemon, since whoever forgets to end it must not wait for ever; nobody dies in the middle of a read
        thread = threading.Thread(target=_work, args=(lanes, first, ask, self._made, stop), daemon=True)
        self.end = weakref.finalize(self, _end, thread, stop)
        thread.start()

    def take(self) -> _Made:
        """The next batch; raises what went wrong with it."""
        made = self._made.get()
        if isinstance(made, Exception):
            raise made
        return made


def _work(lanes: Lanes, first: int, ask: _Ask, made: "queue.Queue[_Made | Exception]", stop: threading.Event) -> None:
    while not stop.is_set():
        result: _Made | Exception
        try:
            batch = lanes.batch(first, *ask)
            first += ask[0]
            result = batch, first, lanes.marks()
        except Exception as error:
            result = error
        while not stop.is_set():
            try:
                made.put(result, timeout=0.1)
                break
            except queue.Full:
                continue
        if isinstance(result, Exception):
            return


def _end(thread: threading.Thread, stop: threading.Event) -> None:
    stop.set()
    if thread is not threading.current_thread():
        thread.join(timeout=10)

"""Work that is quickly done: numbers are doubled, and who did which of them is written down."""

import json
import os
import time
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path

from sfumato.bulk.run import Kind
from sfumato.sample.journal import Journal, OtherRun
from sfumato.sample.records import Record

ROWS = 100


def count(there: Iterable[Mapping]) -> dict[str, float]:
    found = list(there)
    return {"rows": len(found), "resumed": len(found), "sum": sum(record["doubled"] for record in found)}


class Doubling:
    """Doubles numbers; keeps which it has worked on in a file, and stops where it is told to."""

    def __init__(self, log: Path, stop: int = -1, pause: float = 0.0):
        self.log, self.stop, self.pause = log, stop, pause

    def __call__(self, records: Iterable[Record], journal: Journal) -> dict[str, float]:
        records, done = iter(records), count(journal.there)
        for there in journal.there:
            if next(records).content["n"] * 2 != there["doubled"]:
                raise OtherRun.at(str(journal.path))
        for record in records:
            if record.number == self.stop:
                raise ValueError(f"{record.where}: cannot")
            time.sleep(self.pause)
            journal.add({**record.content, "doubled": record.content["n"] * 2, "number": record.number})
            with self.log.open("a") as log:
                log.write(f"{record.number} {os.getpid()}\n")
            done = {"rows": done["rows"] + 1, "resumed": done["resumed"], "sum": done["sum"] + record.content["n"] * 2}
        return done


def kind(log: Path, stop: int = -1, pause: float = 0.0, **about: int) -> Kind:
    return Kind("doubled", "text", partial(Doubling, log, stop, pause), count, dict(about), batch=2)


EXPECTED = "".join(json.dumps({"n": i, "doubled": 2 * i, "number": i}) + "\n" for i in range(ROWS)).encode()


def whole(target: Path) -> bytes:
    if target.is_file():
        return target.read_bytes()
    return b"".join(path.read_bytes() for path in sorted(target.glob("*.jsonl")))


def worked_on(log: Path) -> list[int]:
    """The numbers of the records, in the order of the work."""
    return [int(line.split()[0]) for line in log.read_text().splitlines()]


def workers(log: Path) -> set[int]:
    """The processes that have worked."""
    return {int(line.split()[1]) for line in log.read_text().splitlines()}

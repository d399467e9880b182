"""The output of a run in shards, of which each is done, begun or not, whatever happened to those who wrote it.

A shard under way is `part-00003.jsonl.partial`, to which a journal appends; one that is done has lost the last word of
its name. `manifest.json` says how the input was cut and what the run is, so that another run is told apart.
"""

import fcntl
import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

from sfumato.config import ConfigError
from sfumato.sample.journal import Journal, OtherRun

MANIFEST, PARTS, WHOLE = "manifest.json", ".parts", "whole"
_PART = re.compile(r"part-\d+\.jsonl(\.partial)?")


class Shards:
    """The folder that shards are in, held by this process alone."""

    def __init__(self, target: str | Path, manifest: dict[str, Any], mark: str):
        """Open the folder of a run, or begin one.

        Args:
            target: a file (`.jsonl`), whose shards are in `target.parts` until all are done; else the folder itself.
            manifest: what the run is, with `rows` in all and in a shard (`shard_rows`); an earlier run of the same kind
                keeps its `shard_rows`.
            mark: a key that every line written here has.

        Raises:
            ValueError: what is there is of another run, or another process is at it.
            OSError: the folder cannot be read or written.
        """
        self.target, self.mark, self.whole = Path(target), mark, is_file(target)
        self.folder = folder_of(target)
        self._seen: dict[Path, tuple[int, int]] = {}  # of a shard under way the bytes read, and the lines in them
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock = self._locked()
        self.fresh = not begun(target)
        try:
            self.manifest = manifest_of(target) or self._begin(manifest)
            known = {"shard_rows": self.manifest.get("shard_rows")}
            if self.manifest != manifest | known:
                raise OtherRun.at(str(self.folder))
        except ValueError:
            self._lock.close()
            raise

    def give_up(self) -> None:
        """Leave what was there before this run, if it has begun; what one process has written is as it was."""
        if self.fresh and self.whole:
            shutil.rmtree(self.folder)

    @property
    def count(self) -> int:
        """Shards in all."""
        return -(-self.manifest["rows"] // self.manifest["shard_rows"])

    def bounds(self, shard: int) -> tuple[int, int]:
        """The numbers of its first record, and of the one behind its last."""
        size = self.manifest["shard_rows"]
        return shard * size, min((shard + 1) * size, self.manifest["rows"])

    def path(self, shard: int) -> Path:
        """Where it is when it is done."""
        return self.folder / f"part-{shard:05}.jsonl"

    def missing(self) -> list[int]:
        """Those that are not done."""
        return [shard for shard in range(self.count) if not self.path(shard).exists()]

    def under_way(self) -> int:
        """Whole records in shards that are not done; reads only what is new since it was asked."""
        found = 0
        for path in self.folder.glob("part-*.partial"):
            offset, lines = self._seen.get(path, (0, 0))
            with suppress(FileNotFoundError), open(path, "rb") as file:  # done, meanwhile
                file.seek(offset)
                new = file.read()
                self._seen[path] = offset + new.rfind(b"\n") + 1, lines + new.count(b"\n")
                found += self._seen[path][1]
        return found

    def gather(self) -> None:
        """When all are done: make the file of them that was asked for, at once, and take them away."""
        assert not self.missing()
        if self.whole:
            draft = self.folder / WHOLE
            with open(draft, "wb") as file:
                for shard in range(self.count):
                    with open(self.path(shard), "rb") as part:
                        shutil.copyfileobj(part, file, 1 << 20)
                file.flush()
                os.fsync(file.fileno())
            draft.replace(self.target)
            (self.folder / MANIFEST).unlink()  # first: without it the file is what counts
            shutil.rmtree(self.folder)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lock.close()

    def _locked(self) -> BinaryIO:
        lock = open(self.folder / ".lock", "ab")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            raise ConfigError(
                f"{self.target}: another process is writing it; wait for it, or name another output"
            ) from None
        return lock

    def _begin(self, manifest: dict[str, Any]) -> dict[str, Any]:
        """A new run; one process may have written the beginning of the file, which then is copied to the shards."""
        left = [name for name in os.listdir(self.folder) if not name.startswith(".")]
        if not all(self.whole and (name == WHOLE or _PART.fullmatch(name)) for name in left):
            raise ConfigError(f"{self.folder}: not empty, and no run of ours; name another output")
        for name in left:
            (self.folder / name).unlink()
        self.manifest = manifest
        if self.whole and self.target.exists():
            with Journal(self.target, self.mark) as journal:
                if len(journal.there) > manifest["rows"]:
                    raise ConfigError(
                        f"{self.target}: {len(journal.there)} lines, and this run would write {manifest['rows']}; name "
                        "another output, or remove this one to begin anew"
                    )
                for shard in range(self.count):
                    begin, end = self.bounds(shard)
                    if begin < len(journal.there):
                        with Journal(partial(self.path(shard)), self.mark) as part:
                            for record in journal.there[begin:end]:
                                part.add(record)
        draft = self.folder / ".manifest"
        draft.write_text(json.dumps(manifest, indent=1) + "\n")
        draft.replace(self.folder / MANIFEST)
        return manifest


def folder_of(target: str | Path) -> Path:
    """Where the shards of an output are."""
    path = Path(target)
    return path.with_name(path.name + PARTS) if is_file(path) else path


def begun(target: str | Path) -> bool:
    """Whether an earlier run has left shards for this output."""
    return (folder_of(target) / MANIFEST).exists()


def manifest_of(target: str | Path) -> dict[str, Any] | None:
    """What the run is that has left shards for this output; None = there is none.

    Raises:
        ConfigError: it cannot be understood.
    """
    path = folder_of(target) / MANIFEST
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValueError:
        raise ConfigError(f"{path}: not JSON; name another output, or remove it") from None


def is_file(target: str | Path) -> bool:
    """Whether an output is one file, and no folder of shards."""
    return Path(target).suffix == ".jsonl"


def partial(path: Path) -> Path:
    """Where a shard is while it is written."""
    return path.with_name(path.name + ".partial")


def records(path: Path) -> Iterator[dict[str, Any]]:
    """What is in a shard that is done."""
    with open(path, encoding="utf-8") as file:
        yield from map(json.loads, file)

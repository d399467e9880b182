"""A dataset made of feedback: a dated folder that a person may look at, and change, before a model learns from it.

    DATASET/review.jsonl    an item a line, with the ids of the feedback it comes from; set `keep` to false to leave it
                            out, or change a text
            manifest.json   how many of what, from when to when, and a digest of all

What is held out follows from the prompt alone: items with the same opening are all held out or all learned, in this
dataset and in every later one.
"""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sfumato.config import ConfigError, from_mapping
from sfumato.data.cache import digest
from sfumato.data.sources import DataError
from sfumato.improve.items import Gathered, Item
from sfumato.store.files import sync

FORMAT = "sfumato-feedback-1"
HELD_OUT = 0.2


@dataclass(frozen=True)
class Dataset:
    """The items of a folder, as they are in it now."""

    folder: Path
    items: tuple[Item, ...]
    manifest: dict[str, Any]
    digest: str
    """SHA-256 of review.jsonl as it is now."""

    @classmethod
    def load(cls, folder: Path) -> "Dataset":
        """Read a folder, with what a person has changed in it.

        Raises:
            DataError: it is none, or a line of it is broken; names the line.
        """
        folder = Path(folder)
        try:
            raw = (folder / "review.jsonl").read_bytes()
            manifest = json.loads((folder / "manifest.json").read_text("utf-8"))
        except (FileNotFoundError, NotADirectoryError):
            raise DataError(f"{folder}: no dataset of feedback; make one: sfumato improve --collect-only") from None
        if manifest.get("format") != FORMAT:
            raise DataError(f'{folder / "manifest.json"}: expected "format": "{FORMAT}"')
        items = []
        for number, line in enumerate(raw.decode("utf-8", "replace").splitlines(), 1):
            if line.strip():
                items.append(_item(line, f"{folder / 'review.jsonl'}:{number}"))
        return cls(folder, tuple(items), manifest, hashlib.sha256(raw).hexdigest())

    def chosen(self, kind: str, *, held_out: bool) -> list[Item]:
        """The items to learn from, or those to judge by; without those that a person has left out."""
        limit = _limit(self.items, self.manifest["held_out"])
        kept = [item for item in self.items if item.keep and item.kind == kind]
        return [item for item in kept if (_place(item) < limit) == held_out]

    def counts(self) -> dict[str, int]:
        """How many items of each kind, to learn from and held out."""
        found = {}
        for kind in ("answer", "pair"):
            found[f"{kind}s"] = len(self.chosen(kind, held_out=False))
            found[f"held_out_{kind}s"] = len(self.chosen(kind, held_out=True))
        return found | {"left_out_by_hand": sum(not item.keep for item in self.items)}


def save(gathered: Gathered, parent: Path, *, kind: str, held_out: float = HELD_OUT) -> Dataset:
    """Write a dataset into a new folder of `parent`, which appears complete or not at all.

    What a person has left out of an earlier dataset there is left out of this one too.

    Args:
        gathered: the items.
        parent: the folder of the datasets.
        kind: of the requests, chat or completion.
        held_out: share of the openings to judge by.
    """
    parent.mkdir(parents=True, exist_ok=True)
    unwanted = _left_out_before(parent)
    items = [replace(item, keep=item.id not in unwanted) for item in gathered.items]
    limit = _limit(items, held_out)
    lines = "".join(_line(item, _place(item) < limit) for item in items)
    now = datetime.now(UTC)
    manifest = {
        "format": FORMAT,
        "created": now.isoformat(timespec="seconds"),
        "kind": kind,
        "held_out": held_out,
        "feedback": gathered.read,
        "from": gathered.first,
        "to": gathered.cursor[0],
        "cursor": list(gathered.cursor),
        "left_out": dict(gathered.left_out),
        "digest": hashlib.sha256(lines.encode()).hexdigest(),
    }
    folder = parent / f"{now:%Y-%m-%d}-{manifest['digest'][:12]}"
    draft = Path(tempfile.mkdtemp(prefix=".collecting-", dir=parent))
    try:
        draft.chmod(0o700)  # it holds what users wrote
        for name, text in (("review.jsonl", lines), ("manifest.json", json.dumps(manifest, indent=1) + "\n")):
            (draft / name).write_text(text, encoding="utf-8")
            sync(draft / name)
        if not folder.exists():  # else it was collected before, and a person may have changed it
            os.rename(draft, folder)
            sync(parent)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return Dataset.load(folder)


def _line(item: Item, held_out: bool) -> str:
    values = {name: value for name, value in asdict(item).items() if value != ""}
    return json.dumps({**values, "held_out": held_out}, ensure_ascii=False) + "\n"


def _item(line: str, where: str) -> Item:
    try:
        values = json.loads(line)
        values.pop("held_out", None)  # for people to read; it follows from the prompt
        prompt = values.pop("prompt")
        item = replace(from_mapping(Item, values, where), prompt=prompt)
        item.opening  # noqa: B018
    except (json.JSONDecodeError, AttributeError, KeyError, TypeError):
        raise DataError(f"{where}: not an item of a dataset; restore the line or remove it") from None
    except ConfigError as error:
        raise DataError(str(error)) from None
    texts = (item.response,) if item.kind == "answer" else (item.chosen, item.rejected)
    if item.kind not in ("answer", "pair") or not all(text.strip() for text in texts) or item.weight <= 0:
        raise DataError(f"{where}: expected an answer with a response, or a pair with chosen and rejected")
    return item


def _place(item: Item) -> int:
    return digest([item.opening])


def _limit(items: Iterable[Item], held_out: float) -> int:
    """Openings below it are held out; where there are two or more, at least one is and one is not."""
    places = [_place(item) for item in items]
    if not places or not held_out:
        return 0
    return min(max(int(held_out * 2.0**64), min(places) + 1), max(places))


def _left_out_before(parent: Path) -> set[str]:
    """Ids of what a person has left out of the datasets of a folder."""
    found = set()
    for path in sorted(parent.glob("[!.]*/review.jsonl")):
        for line in path.read_text("utf-8", "replace").splitlines():
            try:
                item = json.loads(line)
                if item.get("keep") is False:
                    found.add(item["id"])
            except (ValueError, AttributeError, KeyError):
                continue  # `Dataset.load` tells about it
    return found

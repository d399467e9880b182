"""The model registry: the versions of a model, where each one comes from, and which of them is served.

    REGISTRY/versions/2026-11-21-3fa9c1d2e4b5/model/          a bundle that nobody changes
                                              version.json    when it was made, and from what
                                              evidence.json   what speaks for it or against it, if anything does
             history.jsonl                                    promotions and rollbacks, only ever appended to

The history is the pointer: replayed, it says which version is current. So no crash can leave a pointer and a history
that disagree; a line that was not written to its end is no line, and a version without its whole folder is no version.
"""

import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sfumato.config import from_mapping
from sfumato.store.files import append_line, locked, read_lines, sync, write_file

DAY = 86400  # seconds
ANY = "(any)"


class RegistryError(ValueError):
    """No such registry or version, or something that the registry's rules forbid."""


@dataclass(frozen=True)
class Version:
    """A version of the model."""

    id: str
    """Its date and its fingerprint."""
    created: str
    """ISO 8601, UTC."""
    fingerprint: str
    """What a server tells as the version of the model."""
    digest: str
    """SHA-256 of all files."""
    parent: str = ""
    """The version that it was tuned from; empty = it came from elsewhere."""
    dataset: str = ""
    """Digest of what it was tuned on."""
    recipes: tuple[str, ...] = ()
    """How it was tuned, as TOML, one recipe after the other."""
    note: str = ""


@dataclass(frozen=True)
class Event:
    """A version became current."""

    time: str
    event: str
    """promote or rollback."""
    version: str
    previous: str = ""
    """The one that was current before; empty = none."""
    reason: str = ""
    forced: bool = False
    """Without evidence, or against it."""
    by: str = ""


class Registry:
    """A folder of versions. May be used by several processes at a time; reading takes no lock."""

    def __init__(self, folder: str | Path, *, create: bool = False):
        """Open it.

        Args:
            folder: where it is.
            create: make it where there is none.

        Raises:
            RegistryError: there is none.
        """
        self.folder = Path(folder).expanduser().absolute()
        self._versions, self._history = self.folder / "versions", self.folder / "history.jsonl"
        if create:
            self._versions.mkdir(parents=True, exist_ok=True)
        elif not self._versions.is_dir():
            raise RegistryError(f"registry {folder}: there is none; begin one: sfumato models add MODEL --registry DIR")

    def versions(self) -> list[Version]:
        """All of them, oldest first."""
        found = [path.parent.name for path in self._versions.glob("[!.]*/version.json")]
        return sorted(map(self._read, found), key=lambda version: (version.created, version.id))

    def find(self, name: str) -> Version:
        """A version by its id or a part of it that no other id has; or `current`, or `newest`.

        Raises:
            RegistryError: there is none, or more than one.
        """
        if name == "current":
            return self.current()
        versions = self.versions()
        if name == "newest" and versions:
            return versions[-1]
        found = [v for v in versions if v.id == name] or [v for v in versions if name and name in v.id]
        if len(found) != 1:
            ids = [version.id for version in found or versions]
            what = "several versions are called so" if found else "no such version"
            raise RegistryError(f"{name}: {what}; {'there are ' + ', '.join(ids[-5:]) if ids else 'there are none'}")
        return found[0]

    def model(self, version: Version) -> Path:
        """The bundle's folder."""
        return self._versions / version.id / "model"

    def evidence(self, version: Version) -> dict[str, Any] | None:
        """What speaks for a version or against it; None = nobody measured it."""
        path = self._versions / version.id / "evidence.json"
        return json.loads(path.read_text("utf-8")) if path.exists() else None

    def lineage(self, version: Version) -> list[Version]:
        """The version, what it was tuned from, what that was tuned from, and so on."""
        found = [version]
        while found[-1].parent:
            found.append(self._read(found[-1].parent))
        return found

    def history(self) -> list[Event]:
        """All promotions and rollbacks, oldest first.

        Raises:
            RegistryError: somebody has changed the file.
        """
        found = []
        for number, line in enumerate(read_lines(self._history), 1):
            try:
                found.append(from_mapping(Event, json.loads(line), f"{self._history}:{number}"))
            except (ValueError, TypeError):
                raise RegistryError(f"{self._history}:{number}: damaged; restore it from a backup") from None
        return found

    def stamp(self) -> tuple[int, int]:
        """What changes when the current version may have changed; cheaper than `current`."""
        try:
            found = self._history.stat()
        except FileNotFoundError:
            return 0, 0
        return found.st_mtime_ns, found.st_size

    def current(self) -> Version:
        """The version that is served.

        Raises:
            RegistryError: none was promoted yet.
        """
        if not (ids := stack(self.history())):
            raise RegistryError(
                f"registry {self.folder}: no version is current yet; sfumato models promote VERSION --registry DIR"
            )
        return self._read(ids[-1])

    def add(
        self,
        bundle: Path,
        fingerprint: str,
        *,
        parent: str = "",
        dataset: str = "",
        recipes: Sequence[str] = (),
        note: str = "",
        evidence: Mapping[str, Any] | None = None,
    ) -> Version:
        """Keep a copy of a bundle as a new version; it is not promoted.

        Args:
            bundle: the folder.
            fingerprint: hex digits that change with the model.
            parent: id of the version that it was tuned from.
            dataset: digest of what it was tuned on.
            recipes: how, as TOML.
            note: whatever else there is to say.
            evidence: what speaks for it, as JSON values; `passed` = false speaks against it.

        Returns:
            The version. Where a version has that fingerprint already, that one; the evidence becomes its evidence.

        Raises:
            RegistryError: an unknown parent.
            OSError: it cannot be copied; the registry is as it was.
        """
        if parent:
            self._read(parent)
        self._clear()
        draft = Path(tempfile.mkdtemp(prefix=".adding-", dir=self._versions))
        try:
            draft.chmod(0o755)
            shutil.copytree(bundle, draft / "model")
            now = datetime.now(UTC)
            version = Version(
                f"{now:%Y-%m-%d}-{fingerprint}",
                now.isoformat(timespec="milliseconds"),
                fingerprint,
                _digest(draft / "model"),
                parent,
                dataset,
                tuple(recipes),
                note,
            )
            (draft / "version.json").write_text(_json(asdict(version)), encoding="utf-8")
            if evidence is not None:
                (draft / "evidence.json").write_text(_json(evidence), encoding="utf-8")
            _seal(draft)
            with locked(self.folder / ".lock"):
                for known in self.versions():
                    if known.fingerprint == fingerprint:
                        if evidence is not None:
                            self._replace_evidence(known, evidence)
                        return known
                os.rename(draft, self._versions / version.id)
                sync(self._versions)
            return version
        finally:
            shutil.rmtree(draft, ignore_errors=True)

    def promote(
        self, version: Version, *, reason: str = "", force: bool = False, expected: str = ANY, by: str = ""
    ) -> Event | None:
        """Make a version the current one.

        Args:
            version: which one.
            reason: why, for the history.
            force: even without evidence, or against it; needs a reason.
            expected: id of the version that must be current at this moment, empty = none.
            by: who.

        Returns:
            What the history got; None if it is the current one already.

        Raises:
            RegistryError: no evidence, a damaged copy, or not what was expected.
        """
        evidence = self.evidence(version)
        against = evidence is not None and evidence.get("passed") is False
        if force and not reason.strip():
            raise RegistryError("force: expected a reason, for the history")
        if not force and (evidence is None or against):
            why = "its evidence speaks against it" if against else "nothing speaks for it: it has no evidence"
            raise RegistryError(f"{version.id}: {why}; to promote it all the same, say why: --force REASON")
        self._check(version)
        with locked(self.folder / ".lock"):
            previous = (stack(self.history()) or [""])[-1]
            if expected not in (ANY, previous):
                raise RegistryError(f"{version.id}: {previous or 'nothing'} is current now, expected {expected}")
            if previous == version.id:
                return None
            forced = force and (evidence is None or against)
            return self._append(Event(_now(), "promote", version.id, previous, reason, forced, by))

    def rollback(self, to: Version | None = None, *, reason: str = "", by: str = "") -> Event:
        """Take the last promotion back, or all those after an earlier version was current.

        Raises:
            RegistryError: there was nothing before, or not that version.
        """
        with locked(self.folder / ".lock"):
            ids = stack(self.history())
            before = ids[:-1]
            if not before:
                raise RegistryError(f"registry {self.folder}: nothing to go back to: no other version was current")
            if to is not None and to.id not in before:
                raise RegistryError(f"{to.id}: was not current before {ids[-1]}; promote it instead")
            target = self._read(before[-1] if to is None else to.id)
            self._check(target)
            return self._append(Event(_now(), "rollback", target.id, ids[-1], reason, by=by))

    def _replace_evidence(self, version: Version, evidence: Mapping[str, Any]) -> None:
        """A new judgement of the same model; what was thought before is kept."""
        before = self.evidence(version)
        earlier = [before, *before.pop("earlier", [])] if before else []
        write_file(self._versions / version.id / "evidence.json", _json({**evidence, "earlier": earlier}))

    def _append(self, event: Event) -> Event:
        append_line(self._history, json.dumps(asdict(event)))
        return event

    def _read(self, version: str) -> Version:
        path = self._versions / version / "version.json"
        try:
            return from_mapping(Version, json.loads(path.read_text("utf-8")), str(path))
        except FileNotFoundError:
            raise RegistryError(f"{version}: no such version in {self.folder}") from None

    def _check(self, version: Version) -> None:
        """Refuse a version whose files are not what they were."""
        if _digest(self.model(version)) != version.digest:
            raise RegistryError(f"{self.model(version)}: somebody has changed it since it was added; restore its files")

    def _clear(self) -> None:
        """Drafts of processes that were killed."""
        for left in self._versions.glob(".adding-*"):
            if time.time() - left.stat().st_mtime > DAY:
                shutil.rmtree(left, ignore_errors=True)


def stack(history: Sequence[Event]) -> list[str]:
    """Ids of the versions that a rollback can go back to, and at the end that of the current one."""
    ids: list[str] = []
    for event in history:
        if event.event == "promote":
            ids.append(event.version)
        else:  # the last time that it was current, but not now
            last = max(i for i, known in enumerate(ids[:-1]) if known == event.version)
            del ids[last + 1 :]
    return ids


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _json(content: Any) -> str:
    return json.dumps(content, indent=1, allow_nan=False) + "\n"


def _seal(folder: Path) -> None:
    """All of a folder on disk, and its files for reading only."""
    for path in sorted(folder.rglob("*"), reverse=True):
        path.chmod(0o755 if path.is_dir() else 0o444)
        sync(path)
    sync(folder)


def _digest(folder: Path) -> str:
    """SHA-256 of the names and the contents of all files."""
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        with open(path, "rb") as handle:
            content = hashlib.file_digest(handle, "sha256").hexdigest()
        digest.update(f"{path.relative_to(folder).as_posix()} {content}\n".encode())
    return digest.hexdigest()

"""`sfumato models`: the versions of a model, and which of them is served."""

import json
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, TextIO

from sfumato.cli import choose
from sfumato.config import ConfigError, argument, option, parse

if TYPE_CHECKING:
    from sfumato.store.registry import Registry, Version


@dataclass(frozen=True, kw_only=True)
class Options:
    """The flags of `list`."""

    registry: str = option("", "the registry's folder (default: $SFUMATO_REGISTRY)")
    json: bool = option(False, "write the result as JSON, and nothing else, to standard output")

    def open(self, *, create: bool = False) -> "Registry":
        """The registry."""
        return open_registry(self.registry, create=create)


@dataclass(frozen=True, kw_only=True)
class About(Options):
    """The flags of `show` and `lineage`."""

    version: str = argument("an id, a part of one, newest or current", "current")


@dataclass(frozen=True, kw_only=True)
class Addition(Options):
    """The flags of `add`."""

    model: str = argument("folder of a model bundle, or the name of one that comes along")
    parent: str = option("", "the version that it was tuned from")
    evidence: str = option("", "a JSON file of what speaks for it, such as `sfumato evaluate --json` writes")
    note: str = option("", "where it comes from")


@dataclass(frozen=True, kw_only=True)
class Promotion(Options):
    """The flags of `promote`."""

    version: str = argument("an id, a part of one, or newest")
    reason: str = option("", "why, for the history")
    force: str = option("", "promote it without evidence, or against it, for this reason")


@dataclass(frozen=True, kw_only=True)
class Return(Options):
    """The flags of `rollback`."""

    version: str = argument("one that was current before (default: the one before this)", "")
    reason: str = option("", "why, for the history")


def run(words: list[str], out: TextIO) -> None:
    """Dispatch to the commands about versions."""
    commands = {
        "list": "list the versions, and what became of them",
        "show": "show a version and its evidence",
        "add": "copy a model into the registry",
        "promote": "make a version the current one; a server that follows the registry serves it",
        "rollback": "go back to the version that was current before",
        "lineage": "show what a version was tuned from",
        "history": "show all promotions and rollbacks",
    }
    name, words = choose(words, commands, "sfumato models", "Versions of a model: what there is, what is served.")
    actions = {
        "list": _list,
        "show": _show,
        "add": _add,
        "promote": _promote,
        "rollback": _rollback,
        "lineage": _lineage,
        "history": _history,
    }
    actions[name](words, out, f"sfumato models {name}", f"{commands[name][:1].upper()}{commands[name][1:]}.")


def open_registry(folder: str, *, create: bool = False) -> "Registry":
    """The registry in a folder, or the one that the environment names."""
    import os

    from sfumato.store.registry import Registry

    found = folder or os.environ.get("SFUMATO_REGISTRY")
    if not found:
        raise ConfigError("missing --registry DIR: the folder of the registry (or set $SFUMATO_REGISTRY)")
    return Registry(found, create=create)


def _list(words: list[str], out: TextIO, prog: str, about: str) -> None:
    options = parse(Options, words, prog, about)
    registry = options.open()
    found = [_facts(registry, version) for version in registry.versions()]
    if options.json:
        print(json.dumps(found), file=out)
        return
    for facts in found:
        origin = f"from {facts['parent']}" if facts["parent"] else facts["note"]
        print(f"{'*' if facts['current'] else ' '} {facts['id']}  {_evidence(facts):12}  {origin}".rstrip(), file=out)


def _show(words: list[str], out: TextIO, prog: str, about: str) -> None:
    options = parse(About, words, prog, about)
    registry = options.open()
    version = registry.find(options.version)
    facts = _facts(registry, version) | {"recipes": list(version.recipes), "evidence": registry.evidence(version)}
    if options.json:
        print(json.dumps(facts), file=out)
        return
    for name in ("id", "created", "current", "parent", "dataset", "digest", "model", "note"):
        print(f"{name:9} {facts[name]}", file=out)
    print("\n".join(["", *version.recipes]) if version.recipes else "", file=out)
    print(json.dumps(facts["evidence"], indent=2) if facts["evidence"] else "no evidence", file=out)


def _add(words: list[str], out: TextIO, prog: str, about: str) -> None:
    options = parse(Addition, words, prog, about)
    from pathlib import Path
    from tempfile import TemporaryDirectory

    import torch

    from sfumato.model.bundle import Bundle, find_bundle
    from sfumato.sample.front import Front

    folder = find_bundle(options.model)
    bundle = Bundle.load(folder)  # nothing that is broken comes in
    evidence = _json_object(Path(options.evidence)) if options.evidence else None
    registry = options.open(create=True)
    parent = registry.find(options.parent).id if options.parent else ""
    note = options.note or f"added from {folder.name}"
    with TemporaryDirectory() as scratch:
        if bundle.adapter is not None:  # a version stands for itself, whatever becomes of the adapter's base
            folder = Path(scratch) / "whole"
            replace(bundle, adapter=None).save(folder, torch.bfloat16)
        version = registry.add(folder, Front.load(folder).version(), parent=parent, note=note, evidence=evidence)
    _say(options, {"version": version.id, "model": str(registry.model(version))}, version.id, out)


def _promote(words: list[str], out: TextIO, prog: str, about: str) -> None:
    options = parse(Promotion, words, prog, about)
    registry = options.open()
    version = registry.find(options.version)
    reason = options.force or options.reason
    event = registry.promote(version, reason=reason, force=bool(options.force), by=user())
    previous = f" (before: {event.previous})" if event and event.previous else ""
    said = f"current: {version.id}{previous}" if event else f"{version.id} is current already"
    _say(options, {"current": version.id, "changed": event is not None}, said, out)


def _rollback(words: list[str], out: TextIO, prog: str, about: str) -> None:
    options = parse(Return, words, prog, about)
    registry = options.open()
    to = registry.find(options.version) if options.version else None
    event = registry.rollback(to, reason=options.reason, by=user())
    said = f"current: {event.version} (before: {event.previous})"
    _say(options, {"current": event.version, "previous": event.previous}, said, out)


def _lineage(words: list[str], out: TextIO, prog: str, about: str) -> None:
    options = parse(About, words, prog, about)
    registry = options.open()
    found = [_facts(registry, version) for version in registry.lineage(registry.find(options.version))]
    if options.json:
        print(json.dumps(found), file=out)
        return
    for facts in found:
        data = f"  tuned on {facts['dataset'][:12]}" if facts["dataset"] else ""
        print(f"{facts['id']}  {_evidence(facts)}{data}  {facts['note']}".rstrip(), file=out)


def _history(words: list[str], out: TextIO, prog: str, about: str) -> None:
    options = parse(Options, words, prog, about)
    events = options.open().history()
    if options.json:
        print(json.dumps([asdict(event) for event in events]), file=out)
        return
    for event in events:
        forced = " (forced)" if event.forced else ""
        line = f"{event.time[:19].replace('T', ' ')}  {event.event:8}  {event.version}{forced}  {event.by}"
        print(f"{line}  {event.reason}".rstrip(), file=out)


def _facts(registry: "Registry", version: "Version") -> dict[str, Any]:
    from sfumato.store.registry import stack

    ids, evidence = stack(registry.history()), registry.evidence(version)
    facts = {name: value for name, value in asdict(version).items() if name != "recipes"}
    passed = None if evidence is None else bool(evidence.get("passed", True))
    return facts | {"current": ids[-1:] == [version.id], "passed": passed, "model": str(registry.model(version))}


def _evidence(facts: dict[str, Any]) -> str:
    return {None: "no evidence", True: "passed", False: "refused"}[facts["passed"]]


def _json_object(path: Any) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text("utf-8"))
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise ConfigError(f"--evidence {path}: expected a file with a JSON object")
    return found


def _say(options: Options, facts: dict[str, Any], line: str, out: TextIO) -> None:
    print(json.dumps(facts) if options.json else line, file=out)


def user() -> str:
    """Who gives the command, as far as the system knows."""
    import getpass

    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):
        return ""

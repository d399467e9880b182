"""The cycle: feedback -> dataset -> candidate -> evidence -> gate -> new version.

WORK/datasets/2026-11-21-4f0c.../     what users said, see `improve.dataset`
     cycles/0001/plan.json            what the cycle starts from, and what it learns, stage by stage
                 data/  stages/       what each stage learns from; its run
                 candidate/           the bundle
                 result.json          how it ended; until then the next call continues it
"""

import dataclasses
import json
import shutil
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from sfumato.config import Recipe, Source, from_mapping, to_toml
from sfumato.data.sources import content_key
from sfumato.improve.dataset import Dataset
from sfumato.improve.gate import Rule, Verdict, judge
from sfumato.improve.measure import Measured, held_out_texts, measure, trusted_texts
from sfumato.improve.stages import Mixture, stages
from sfumato.model.bundle import Bundle
from sfumato.sample.front import Front
from sfumato.sample.language_model import LanguageModel
from sfumato.store.files import write_file
from sfumato.store.registry import Registry, RegistryError, Version
from sfumato.tune.methods import tune

BY = "sfumato improve"
Follow = Callable[[Recipe, Path], Mapping[str, Any]]
"""Makes the arguments of `tune` that tell how a run goes, from its recipe and its folder."""


@dataclass(frozen=True)
class Wish:
    """What a cycle is to learn, and how it is judged."""

    recipes: tuple[Recipe, ...]
    documents: tuple[Source, ...] = ()
    """To learn beside the recipes' own sources."""
    held_out: tuple[Source, ...] = ()
    """Texts that no model learns from, to show that nothing was forgotten."""
    mixture: Mixture = field(default_factory=Mixture)
    rule: Rule = field(default_factory=Rule)


@dataclass(frozen=True)
class Plan:
    """plan.json: what does not change from the beginning of a cycle to its end."""

    parent: str
    """Id of the version that the candidate is tuned from and compared with."""
    dataset: str
    """Folder of the dataset."""
    digest: str
    """Of the dataset."""
    stages: tuple[str, ...]
    """Recipes as TOML."""
    judged: tuple[str, ...]
    """Recipes whose held-out text must stay."""
    documents: tuple[str, ...]
    held_out: tuple[str, ...]
    contents: tuple[str, ...]
    """Digests of the documents."""
    since: str
    """Time of the last feedback that the parent has learned from."""
    rule: Rule


@dataclass(frozen=True)
class Outcome:
    """How a cycle ended."""

    status: str
    """promoted, refused, passed (not promoted, as wished), interrupted, abandoned, failed or nothing."""
    version: str = ""
    """Id of the candidate in the registry."""
    parent: str = ""
    dataset: str = ""
    reasons: tuple[str, ...] = ()
    signal: int = 0
    """Of the interruption."""


def unfinished(work: Path) -> Path | None:
    """The cycle that was interrupted, if one was."""
    found = sorted((work / "cycles").glob("[0-9]*"))
    return found[-1] if found and (found[-1] / "plan.json").exists() and not _result(found[-1]).exists() else None


def used(work: Path) -> tuple[int, set[str]]:
    """How much feedback there was when the last cycle began that was judged, and digests of the documents it read."""
    for folder in sorted((work / "cycles").glob("[0-9]*"), reverse=True):
        try:
            if json.loads(_result(folder).read_text("utf-8"))["status"] in ("abandoned", "failed"):
                continue
            plan = json.loads((folder / "plan.json").read_text("utf-8"))
            manifest = json.loads((Path(plan["dataset"]) / "manifest.json").read_text("utf-8"))
            return manifest["feedback"], set(plan.get("contents", ()))
        except FileNotFoundError:
            continue
    return 0, set()


def begin(registry: Registry, dataset: Dataset, wish: Wish, work: Path) -> Path | None:
    """Plan a cycle.

    Returns:
        Its folder; None where there is nothing to learn.

    Raises:
        ValueError: recipes or documents that cannot be used.
    """
    parent = registry.current()
    folder = work / "cycles" / f"{_number(work):04d}"
    shutil.rmtree(folder, ignore_errors=True)  # of a call that was killed before it had a plan
    front = Front.load(registry.model(parent))
    staged = stages(wish.recipes, dataset, wish.documents, front.config, front.tokenizer, folder / "data", wish.mixture)
    if not staged:
        return None
    judged = [_staged(recipe, staged) for recipe in wish.recipes if recipe.method in ("answers", "text")]
    plan = Plan(
        parent.id,
        str(dataset.folder.absolute()),
        dataset.digest,
        tuple(map(to_toml, staged)),
        tuple(map(to_toml, judged)),
        tuple(source.path for source in wish.documents),
        tuple(source.path for source in wish.held_out),
        tuple(map(content_key, wish.documents)),
        _learned_until(registry, parent),
        wish.rule,
    )
    folder.mkdir(parents=True, exist_ok=True)
    write_file(folder / "plan.json", json.dumps(asdict(plan), indent=1))
    return folder


def run(registry: Registry, folder: Path, follow: Follow, *, promote: bool = True) -> Outcome:
    """Carry out a cycle, or go on with it where it was interrupted.

    Args:
        registry: where the current model is and the candidate goes.
        folder: as `begin` gave it.
        follow: who is told how tuning goes.
        promote: a candidate that passed the gate.

    Raises:
        ValueError: data or recipes that cannot be used. The cycle has ended; what it wanted to learn is still new.
        OSError: a disk that cannot be used; called again, it goes on.
    """
    plan = from_mapping(Plan, json.loads((folder / "plan.json").read_text("utf-8")), str(folder / "plan.json"))
    try:
        return _run(registry, plan, folder, follow, promote)
    except ValueError as error:
        _end(folder, Outcome("failed", "", plan.parent, plan.dataset, (str(error),)))
        raise


def _run(registry: Registry, plan: Plan, folder: Path, follow: Follow, promote: bool) -> Outcome:
    parent, current = registry.find(plan.parent), registry.current()
    if (current.parent, current.dataset, current.recipes) == (plan.parent, plan.digest, plan.stages):
        return _end(folder, Outcome("promoted", current.id, parent.id, plan.dataset))  # and then it was killed
    if current.id != parent.id:
        return _end(folder, Outcome("abandoned", "", parent.id, plan.dataset, ("another version became current",)))
    number = _tune(registry.model(parent), plan, folder, follow)
    if number:
        return Outcome("interrupted", "", parent.id, plan.dataset, signal=number)
    dataset = Dataset.load(Path(plan.dataset))
    measured, verdict = _judge(registry.model(parent), plan, dataset, folder)
    version = _keep(registry, parent, plan, dataset, folder, measured, verdict)
    status = "passed" if verdict.passed else "refused"
    reasons = verdict.reasons
    if verdict.passed and promote:
        try:
            registry.promote(version, reason=f"better than {parent.id}", expected=parent.id, by=BY)
            status = "promoted"
        except RegistryError as error:  # somebody was faster
            status, reasons = "abandoned", (str(error), *reasons)
    return _end(folder, Outcome(status, version.id, parent.id, plan.dataset, reasons))


def _tune(parent: Path, plan: Plan, folder: Path, follow: Follow) -> int:
    """Make the candidate, unless it is there; the number of a signal that interrupted it."""
    if (folder / "candidate").exists():
        return 0
    model = parent
    for number, text in enumerate(plan.stages):
        recipe = dataclasses.replace(_recipe(text), init=str(model))
        out = folder / "stages" / f"{number}-{recipe.method}"
        if not (out / "model").exists():
            made, stopped = tune(recipe, out, **follow(recipe, out))
            if made is None:
                return stopped
        model = out / "model"
    bundle, was = Bundle.load(model), Front.load(parent).config
    # Whole, even where adapters were trained, and used as the current model is.
    config = dataclasses.replace(bundle.config, sampler=was.sampler, chat=was.chat)
    dataclasses.replace(bundle, config=config, adapter=None).save(folder / "candidate", torch.bfloat16)
    return 0


def _judge(parent: Path, plan: Plan, dataset: Dataset, folder: Path) -> tuple[Measured, Verdict]:
    old, new = LanguageModel.load(parent), LanguageModel.load(folder / "candidate")
    texts, wished = held_out_texts(list(map(_recipe, plan.judged)), plan.documents, folder / "data", old)
    texts |= trusted_texts([Source(path) for path in plan.held_out], old)
    measured = measure(old, new, dataset, texts, wished, plan.since)
    margin = measured.pairs.margin if measured.pairs else None
    return measured, judge(measured.texts, measured.wished, margin, plan.rule)


def _keep(
    registry: Registry,
    parent: Version,
    plan: Plan,
    dataset: Dataset,
    folder: Path,
    measured: Measured,
    verdict: Verdict,
) -> Version:
    """The candidate in the registry, with its evidence."""
    recipes = [_recipe(text) for text in plan.stages]
    evidence = {
        "format": "sfumato-evidence-1",
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "passed": verdict.passed,
        "reasons": list(verdict.reasons),
        "rule": asdict(plan.rule),
        "measured": measured.to_dict(),
        "parent": parent.id,
        "dataset": {
            "name": dataset.folder.name,
            "digest": dataset.digest,
            **{name: dataset.manifest[name] for name in ("feedback", "from", "to")},
            **dataset.counts(),
        },
        "stages": [{"name": recipe.name, "method": recipe.method} for recipe in recipes],
    }
    candidate = folder / "candidate"
    return registry.add(
        candidate,
        Front.load(candidate).version(),
        parent=parent.id,
        dataset=dataset.digest,
        recipes=plan.stages,
        note=f"feedback until {dataset.manifest['to'][:19] or 'now'}",
        evidence=evidence,
    )


def _learned_until(registry: Registry, version: Version) -> str:
    evidence = registry.evidence(version) or {}
    return str(evidence.get("dataset", {}).get("to", "")) if version.dataset else ""


def _end(folder: Path, outcome: Outcome) -> Outcome:
    """Write down how it ended; of the runs, what was measured and said stays."""
    write_file(_result(folder), json.dumps(asdict(outcome), indent=1))
    for left in (folder / "candidate", *folder.glob("stages/*/checkpoints"), *folder.glob("stages/*/model")):
        shutil.rmtree(left, ignore_errors=True)
    return outcome


def _recipe(text: str) -> Recipe:
    return from_mapping(Recipe, tomllib.loads(text), "plan.json")


def _staged(recipe: Recipe, staged: Sequence[Recipe]) -> Recipe:
    """The recipe with the data that it was given, if it was given some."""
    return next((one for one in staged if (one.method, one.name) == (recipe.method, recipe.name)), recipe)


def _number(work: Path) -> int:
    done = [path for path in (work / "cycles").glob("[0-9]*") if _result(path).exists()]
    return max((int(path.name) for path in done), default=0) + 1


def _result(folder: Path) -> Path:
    return folder / "result.json"

"""Settings that adapt: a preset for each request that chooses nothing itself, learned from feedback and latency.

What is learned (`sample.controller`) is kept in a file, which holds numbers and no text.
"""

import difflib
import json
import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from sfumato.config import ConfigError
from sfumato.sample.controller import Controller, Utility
from sfumato.sample.front import Front
from sfumato.sample.presets import Preset, Tables, presets_for
from sfumato.store.files import write_file
from sfumato.store.records import Feedback, Response

FORMAT = "sfumato-controller-1"
KINDS = {"chat": "chat", "completion": "completion", "fim": "infill", "edit": "infill", "denoise": "infill"}
STRUCTURED = "structured"
REMEMBERED = 10_000
"""Responses of which it is known how they were written."""
SAVE_SECONDS = 5.0
"""How much of what was timed, but not judged, may be lost."""
COMPARED = 500
"""Characters of a correction that are compared with the text."""

log = logging.getLogger("sfumato.serve")


@dataclass(frozen=True)
class Choice:
    """What was chosen for a request."""

    preset: Preset
    told: dict[str, Any]
    """The decision, as the response explains it."""


@dataclass
class _Learner:
    """The controller of one model, and the presets that it knows."""

    presets: dict[str, Preset]
    controller: Controller
    version: str = ""

    def described(self) -> dict[str, Any]:
        return {name: preset.told() for name, preset in self.presets.items()}


@dataclass
class _Written:
    """How a response was written, for those who judge it."""

    model: str
    kind: str
    preset: str
    judged: set[str] = field(default_factory=set)


class Adapting:
    """Chooses presets and learns from what becomes of them. May be used from several threads."""

    def __init__(self, path: Path, utility: Utility | None = None, tables: Tables | None = None, seed: int = 0):
        """Go on with what a file holds, if there is one.

        Args:
            path: of what is learned.
            utility: what is wanted.
            tables: presets, beside those of the package.
            seed: of the draws.

        Raises:
            ConfigError, OSError: the file cannot be used; one line.
        """
        self.path, self.utility, self.tables, self.seed = path, utility or Utility(), tables, seed
        self._lock, self._file = threading.Lock(), threading.Lock()
        self._learners: dict[str, _Learner] = {}
        self._written: OrderedDict[str, _Written] = OrderedDict()
        self._saved = time.monotonic()
        self._old = _read(path)  # of each model, until it is first used

    def check(self, model: str, front: Front) -> None:
        """ConfigError unless a model can write with all its presets."""
        presets_for(front, model, self.tables)

    def choose(self, model: str, front: Front, version: str, kind: str, *, structured: bool) -> Choice:
        """A preset for a request that chooses no settings itself."""
        with self._lock:
            learner = self._learner(model, front, version)
            decision = learner.controller.choose(STRUCTURED if structured else KINDS[kind], [*learner.presets])
            return Choice(learner.presets[decision.preset], decision.told())

    def begin(self, response: str, model: str, choice: Choice) -> None:
        """A response is written with what was chosen."""
        with self._lock:
            self._written[response] = _Written(model, choice.told["kind"], choice.preset.name)
            while len(self._written) > REMEMBERED:
                self._written.popitem(last=False)

    def wrote(self, response: str, seconds: float, tokens: int) -> bool:
        """All texts of a response are written; whether it is time to save."""
        with self._lock:
            if found := self._written.get(response):
                self._learners[found.model].controller.responded(found.kind, found.preset, seconds, tokens)
            return found is not None and time.monotonic() > self._saved + SAVE_SECONDS

    def judged(self, feedback: Feedback, texts: Iterable[Response]) -> bool:
        """Learn from feedback, if it is the first on a text; whether there was anything to learn."""
        learned = False
        for text in texts:
            good = goodness(feedback, text)
            with self._lock:
                found = self._written.get(text.id.partition(":")[0])
                if found and text.id not in found.judged:
                    found.judged.add(text.id)
                    self._learners[found.model].controller.judged(found.kind, found.preset, good)
                    learned = True
        return learned

    def reset(self, model: str) -> None:
        """Forget what was learned of a model."""
        with self._lock:
            self._old.pop(model, None)
            if learner := self._learners.get(model):
                learner.controller = Controller(self.utility, self.seed)
                gone = [name for name, written in self._written.items() if written.model == model]
                for name in gone:  # what was chosen before teaches nothing new
                    del self._written[name]

    def told(self) -> dict[str, Any]:
        """What is believed, for people: by model, kind and preset."""
        with self._lock:
            models = {
                name: {"presets": learner.described(), "kinds": _believed(learner)}
                for name, learner in self._learners.items()
            }
        return {"utility": asdict(self.utility), "models": models}

    def save(self) -> None:
        """Put what was learned into the file, all or nothing.

        Raises:
            OSError: it cannot be written; what was there before is intact.
        """
        with self._file:
            with self._lock:
                self._saved = time.monotonic()
                models = self._old | {
                    name: {"presets": learner.described(), "controller": learner.controller.state()}
                    for name, learner in self._learners.items()
                }
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_file(self.path, json.dumps({"format": FORMAT, "models": models}, indent=1))

    def _learner(self, model: str, front: Front, version: str) -> _Learner:
        """The controller of a model; a new one where its presets are others than those it has learned about."""
        learner = self._learners.get(model)
        if learner and learner.version == version:
            return learner
        try:
            presets = presets_for(front, model, self.tables)
        except ConfigError as error:  # it was replaced by a model of another kind
            log.warning("%s; using the presets of the package", error)
            presets = presets_for(front, model)
        found = _Learner(presets, Controller(self.utility, self.seed), version)
        if learner and learner.described() == found.described():
            found.controller = learner.controller
        elif (old := self._old.pop(model, None)) and old["presets"] == found.described():
            found.controller = Controller.restore(self.utility, old["controller"])
        self._learners[model] = found
        return found


def goodness(feedback: Feedback, text: Response) -> float:
    """What feedback says of a text, from 0 (bad) to 1: a correction says which share of the text is right."""
    if feedback.kind == "preference":
        return float(text.id == feedback.response_id)
    if feedback.kind == "correction":
        pair = (text.completion[:COMPARED], (feedback.correction or "")[:COMPARED])
        return difflib.SequenceMatcher(None, *pair, autojunk=False).ratio()
    assert feedback.value is not None
    return (feedback.value + 1) / 2 if feedback.kind == "thumb" else (feedback.value - 1) / 4


def _believed(learner: _Learner) -> dict[str, Any]:
    shown = {}
    for kind, seen in learner.controller.kinds.items():
        estimates = learner.controller.estimates(kind, [*learner.presets])
        shown[kind] = {
            name: {
                "used": seen.arms[name].used if name in seen.arms else 0,
                **{key: round(getattr(one, key), 3) for key in ("judged", "quality", "speed", "utility")},
            }
            for name, one in estimates.items()
        }
    return shown


def _read(path: Path) -> dict[str, Any]:
    """What each model has learned, as it was saved.

    Raises:
        ConfigError: this is no such file, or a broken one.
    """
    if not path.exists():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["format"] != FORMAT:
            raise ValueError(f"expected format {FORMAT}")
        for saved in content["models"].values():
            Controller.restore(Utility(), saved["controller"])
            dict(saved["presets"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"{path}: not the state of a controller ({reason}); delete it to learn anew") from None
    return content["models"]

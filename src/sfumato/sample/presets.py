"""Presets: named settings that are safe to choose for somebody who has chosen none.

Those of the package go by the noise process of a model; a TOML file may give others, for a process or for one model:

    [masked.fast]                       # every model with masked noise
    threshold = 0.6
    [tiny-chat.careful]                 # this model alone; its other presets stay as they are
    sampler = "margin"
    tokens_per_step = 1
"""

import math
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from sfumato.config import ConfigError, closest
from sfumato.sample.front import Front
from sfumato.sample.settings import Settings

BALANCED = "balanced"
"""The preset that is there always: the model's own defaults."""
_FIELDS = frozenset(f.name for f in fields(Settings)) - {"seed", "cache", "refresh", "compile", "steps"}
_NAME = re.compile("[a-z][a-z0-9_-]{0,31}")


@dataclass(frozen=True)
class Preset:
    """Settings by a name. What it leaves out is the model's own default."""

    name: str
    settings: Mapping[str, Any]
    """Fields of `Settings`; none says where randomness or the hardware's time goes."""
    tokens_per_step: float = 0.0
    """How many tokens a step writes on average; 0 = as many as the sampler wants."""

    def steps(self, room: int) -> int | None:
        """Forward passes for so many tokens; None = whatever suits the sampler."""
        return max(1, math.ceil(room / self.tokens_per_step)) if self.tokens_per_step else None

    def told(self) -> dict[str, Any]:
        """As values that JSON can hold."""
        return {**self.settings, **({"tokens_per_step": self.tokens_per_step} if self.tokens_per_step else {})}


Tables = Mapping[str, Mapping[str, Mapping[str, Any]]]
"""process or model -> name of a preset -> its values."""

_BUILT_IN: Tables = {
    "masked": {
        "careful": {"sampler": "threshold", "threshold": 0.98},
        "fast": {"sampler": "threshold", "threshold": 0.6, "tokens_per_step": 2.0},
    },
    **dict.fromkeys(
        ("uniform", "hybrid", "gaussian", "insertion"),
        {"careful": {"tokens_per_step": 1.0}, "fast": {"tokens_per_step": 4.0}},
    ),
    "autoregressive": {"careful": {"temperature": 0.3}},  # a token a step, whatever one does
}


def read_presets(path: str | Path) -> Tables:
    """Presets out of a TOML file.

    Raises:
        ConfigError: one line: no TOML, or a name or a setting that cannot be one.
        OSError: there is no such file.
    """
    try:
        tables = tomllib.loads(Path(path).read_bytes().decode("utf-8-sig"))
    except ValueError as error:
        raise ConfigError(f"{path}: not valid TOML: {' '.join(str(error).split())}") from None
    for owner, presets in tables.items():
        if not isinstance(presets, dict) or not all(isinstance(values, dict) for values in presets.values()):
            raise ConfigError(f"{path}: {owner}: expected tables such as [{owner}.fast]")
        for name, values in presets.items():
            _check(f"{path}: [{owner}.{name}]", name, values)
    return tables


def _check(where: str, name: str, values: Mapping[str, Any]) -> None:
    if name == BALANCED or not _NAME.fullmatch(name):
        taken = f"{BALANCED} is what a model does by itself" if name == BALANCED else "use small letters and digits"
        raise ConfigError(f"{where}: not a name for a preset: {taken}")
    known = _FIELDS | {"tokens_per_step"}
    for key in values:
        if key not in known:
            hint = closest(key, known)
            raise ConfigError(f"{where}: unknown key {key}; {f'did you mean {hint}?' if hint else 'see docs/serve.md'}")
    pace = values.get("tokens_per_step", 0)
    if isinstance(pace, bool) or not isinstance(pace, (int, float)) or not (pace == 0 or 0.1 <= pace <= 1024):
        raise ConfigError(f"{where}: tokens_per_step: expected a number from 0.1 to 1024, got {pace!r:.40}")


def presets_for(front: Front, model: str, tables: Tables | None = None) -> dict[str, Preset]:
    """The presets of a model by their names, `balanced` first.

    Args:
        front: the model.
        model: the name that it is known by.
        tables: what a file gives; it goes before the package's own.

    Raises:
        ConfigError: one that the model cannot write with; one line that begins with its name.
    """
    process = front.process.name
    chosen: dict[str, Mapping[str, Any]] = {}
    for table in (_BUILT_IN, tables or {}):
        for owner in (process, model):
            chosen |= table.get(owner, {})
    presets = {BALANCED: Preset(BALANCED, {})}
    for name, values in chosen.items():
        if process == "autoregressive" and values.get("tokens_per_step"):
            raise ConfigError(f"preset {name} of {model}: tokens_per_step: this model writes one token a step")
        own = {key: value for key, value in values.items() if key != "tokens_per_step"}
        try:
            front.plan(own)
        except ValueError as error:
            raise ConfigError(f"preset {name} of {model}: {error}") from None
        presets[name] = Preset(name, own, float(values.get("tokens_per_step", 0)))
    return presets

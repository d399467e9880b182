"""A study as JSON, and as a page that people read."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from sfumato.scale.law import LEVEL, Interval
from sfumato.scale.study import Comparison, Kind

NAMES = {"masked": "masked", "block": "block", "ar": "AR twin"}
FIGURES = ("E", "alpha", "beta", "size_exponent")


def record(about: Mapping[str, Any], kinds: Mapping[str, Kind], compared: Sequence[Comparison]) -> dict[str, Any]:
    """Everything in plain numbers, for scale.json; what is infinite becomes null."""
    return {
        "about": dict(about),
        "rungs": [asdict(r.rung) | asdict(r.outcome) for kind in kinds.values() for r in kind.results],
        "kinds": {name: _kind(kind) for name, kind in kinds.items()},
        "comparisons": [asdict(one) | {"factor": _interval(one.factor)} for one in compared],
    }


def _kind(kind: Kind) -> dict[str, Any]:
    found = kind.fit
    return {
        "law": asdict(found.law) if found else None,
        "why": kind.why or None,
        "intervals": {name: _interval(found.interval(name)) for name in FIGURES} if found else {},
        "notes": [*(found.notes if found else ()), *kind.valleys.notes],
        "isoflop": [{"budget": v.budget, "parameters": v.best} for v in kind.valleys.groups],
        "isoflop_size_exponent": _interval(kind.valleys.exponent) if kind.valleys.exponent else None,
        "predictions": [
            {"rung": p.rung.name, "predicted": _interval(p.predicted), "measured": p.measured, "error": p.error}
            for p in kind.predictions
        ],
    }


def _interval(found: Interval) -> dict[str, float | None]:
    return {name: value if math.isfinite(value) else None for name, value in asdict(found).items()}


def page(about: Mapping[str, Any], kinds: Mapping[str, Kind], compared: Sequence[Comparison]) -> str:
    """report.md: tables, pictures, and what is not known."""
    done = sum(len(kind.results) for kind in kinds.values())
    lines = [
        f"# Scaling study: {about['name']}",
        "",
        f"{done} of {about['trainings']} trainings; {about['machine']}; {about['date']}.",
        f"Losses are nats a token of held-out text (1 nat = {about['bits_per_byte_per_nat']:.4f} bits/byte); those of "
        f"masked and block models are upper bounds. Intervals hold {LEVEL:.0%}. N: parameters without the embeddings.",
        "",
        "## The law: L = E + A / N^alpha + B / D^beta",
        "",
        *_table(
            ("kind", "rungs", "E", "alpha", "beta", "a: N ~ C^a", "a by parabolas", "scatter"),
            map(_law, kinds.values()),
        ),
        "",
        *(f"- {NAMES[kind.name]}: {note}." for kind in kinds.values() for note in _notes(kind)),
        "",
        "![isoFLOP groups](isoflop.svg)",
        "",
        "## Predictions of trainings that were not fitted",
        "",
        *_predictions(kinds),
        "",
        "![Loss against compute](compute.svg)",
        "",
        "## Diffusion against the AR twin",
        "",
        *_compared(compared),
        "",
        "![Quality against parameters](parameters.svg)",
        "",
        "## Trainings",
        "",
        *_table(
            ("kind", "FLOPs", "N", "tokens", "epochs", "nats/token", "bits/byte", "s"),
            (_rung(result) for kind in kinds.values() for result in kind.results),
        ),
    ]
    return "\n".join(lines) + "\n"


def _notes(kind: Kind) -> list[str]:
    return [*([kind.why] if kind.why else []), *(kind.fit.notes if kind.fit else ()), *kind.valleys.notes]


def _law(kind: Kind) -> list[str]:
    valley = shown(kind.valleys.exponent) if kind.valleys.exponent else "-"
    if kind.fit is None:
        return [NAMES[kind.name], str(len(kind.fitted)), "-", "-", "-", "-", valley, "-"]
    scatter = math.sqrt(sum(r * r for r in kind.fit.residuals) / len(kind.fit.residuals))
    figures = [shown(kind.fit.interval(name)) for name in FIGURES]
    return [NAMES[kind.name], str(len(kind.fitted)), *figures, valley, f"{scatter:.2%}"]


def shown(found: Interval) -> str:
    """An interval in a table."""
    high = f"{found.high:.3g}" if math.isfinite(found.high) else "no bound"
    return f"{found.value:.3g} ({found.low:.3g} to {high})"


def _predictions(kinds: Mapping[str, Kind]) -> list[str]:
    rows = [
        [
            NAMES[name],
            f"{p.rung.flops:.3g}",
            f"{p.rung.parameters:,}",
            f"{p.rung.tokens:,}",
            f"{p.predicted.value:.3f} ({p.predicted.low:.3f} to {p.predicted.high:.3f})",
            f"{p.measured:.3f}",
            f"{p.error:+.2%}",
            "yes" if p.inside else "no",
        ]
        for name, kind in kinds.items()
        for p in kind.predictions
    ]
    if not rows:
        return ["None yet: no --check budget was trained, or there is no law."]
    return _table(("kind", "FLOPs", "N", "tokens", "predicted", "measured", "error", "inside"), rows)


def _compared(compared: Sequence[Comparison]) -> list[str]:
    if not compared:
        return ["Needs laws of the AR twin and of masked or block models."]
    return [f"- {NAMES[one.kind]}: {_compared_one(one)}." for one in compared]


def _compared_one(one: Comparison) -> str:
    unit, twin = "FLOPs", f"the best twin of {one.amount:.3g} FLOPs"
    if one.at == "tokens":
        unit, twin = "parameters", f"a twin of {one.parameters:,.0f} parameters, both after {one.amount:,.0f} tokens"
    if not math.isfinite(one.factor.value):
        return f"by its law no number of {unit} is enough for the loss of {twin}"
    beyond = ", extrapolated beyond the ladder" if one.extrapolated else ""
    return f"for the loss of {twin}, {shown(one.factor)} times the {unit}{beyond}"


def _rung(result: Any) -> list[str]:
    rung, outcome = result.rung, result.outcome
    return [
        NAMES[rung.kind] + ("" if rung.fitted else " (check)"),
        f"{rung.flops:.3g}",
        f"{rung.parameters:,}",
        f"{rung.tokens:,}",
        f"{outcome.epochs:.2g}",
        f"{outcome.nats_per_token:.4f}",
        f"{outcome.bits_per_byte:.4f}",
        f"{outcome.seconds:.0f}",
    ]


def _table(head: Sequence[str], rows: Any) -> list[str]:
    return [f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows)]

"""The three pictures of a study: isoFLOP groups, loss against compute, quality against parameters."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from sfumato.scale.isoflop import Valley
from sfumato.scale.record import NAMES
from sfumato.scale.study import Frontier, Kind, Result
from sfumato.show.plots import Curve
from sfumato.show.scaling import Band, Scene, Series, plot_scenes

DENSE = 40  # points of a curve
LOSS, SIZE = "held-out bits/byte", "parameters without embeddings"


def pictures(folder: Path, name: str, kinds: Mapping[str, Kind], frontiers: Mapping[str, Frontier]) -> list[Path]:
    """Draw what the trainings that are done allow; returns the files."""
    made = [folder / f"{picture}.svg" for picture in ("isoflop", "compute", "parameters")]
    scenes = [_isoflop(kind) for kind in kinds.values()]
    plot_scenes(made[0], f"{name}: equal FLOPs in each curve; stars: least loss of a parabola", scenes)
    plot_scenes(made[1], f"{name}: loss against compute; hollow: not fitted", [_compute(kinds, frontiers)])
    both = [_equal_tokens(kinds), _equal_flops(kinds)]
    plot_scenes(made[2], f"{name}: quality against parameters", both, share_y=True)
    return made


def _unit(kind: Kind) -> float:
    """Bits a byte for each nat a token: the same text and tokenizer for all."""
    outcome = kind.results[0].outcome
    return outcome.bits_per_byte / outcome.nats_per_token


def _isoflop(kind: Kind) -> Scene:
    unit = _unit(kind)
    budgets = sorted({r.rung.budget for r in kind.results})
    valleys = {valley.budget: valley for valley in kind.valleys.groups}
    series = []
    for i, budget in enumerate(budgets):
        group = sorted((r for r in kind.results if r.rung.budget == budget), key=lambda r: r.rung.parameters)
        valley, fitted = valleys.get(budget), group[0].rung.fitted
        measured = _points("", group, lambda r: r.rung.parameters)
        series.append(
            Series(
                f"{budget:.2g} FLOPs".replace("e+", "e"),
                measured if fitted else Curve("", [], []),
                line=_parabola(valley, unit) if valley else None,
                unseen=None if fitted else measured,
                best=(valley.best, valley.loss(valley.best) * unit) if valley and valley.best else None,
                shade=i / max(1, len(budgets) - 1),
            )
        )
    return Scene(NAMES[kind.name], SIZE, LOSS, series, counts=True)


def _points(name: str, results: Sequence[Result], x) -> Curve:  # noqa: ANN001
    return Curve(name, [x(r) for r in results], [r.outcome.bits_per_byte for r in results])


def _parabola(valley: Valley, unit: float) -> Curve:
    sizes = np.geomspace(valley.low, valley.high, DENSE)
    return Curve("", sizes.tolist(), [valley.loss(size) * unit for size in sizes])


def _compute(kinds: Mapping[str, Kind], frontiers: Mapping[str, Frontier]) -> Scene:
    series = []
    for name, kind in kinds.items():
        unit, found = _unit(kind), kind.fit
        line = band = None
        if found:
            flops = [r.rung.flops for r in kind.results]
            grid = np.geomspace(min(flops) / 1.5, max(flops) * 3, DENSE).tolist()
            at = {c: [frontiers[name].loss(law, c) * unit for law in (found.law, *found.draws)] for c in grid}
            line = Curve("", grid, [at[c][0] for c in grid])
            low, high = (np.quantile([at[c][1:] for c in grid], q, axis=1).tolist() for q in (0.025, 0.975))
            band = Band(grid, low, high)
        unseen = [r for r in kind.results if not r.rung.fitted]
        series.append(
            Series(
                NAMES[name],
                _points("", kind.fitted, lambda r: r.rung.flops),
                line,
                band,
                _points("", unseen, lambda r: r.rung.flops),
            )
        )
    return Scene("line: the law's best network for each budget", "training FLOPs", LOSS, series)


def _equal_tokens(kinds: Mapping[str, Kind]) -> Scene:
    """Each point is moved along its law to the same number of tokens."""
    fitted = [r for kind in kinds.values() for r in kind.fitted]
    tokens = math.exp(sum(math.log(r.rung.tokens) for r in fitted) / len(fitted))
    series = []
    for name, kind in kinds.items():
        if kind.fit is None:
            continue
        unit, law = _unit(kind), kind.fit.law
        sizes = [r.rung.parameters for r in kind.fitted]
        grid = np.geomspace(min(sizes), max(sizes), DENSE)
        draws = np.stack([draw(grid, tokens) for draw in kind.fit.draws]) * unit
        low, high = np.quantile(draws, (0.025, 0.975), axis=0).tolist()
        moved = [
            r.outcome.bits_per_byte * float(law(r.rung.parameters, tokens) / law(r.rung.parameters, r.rung.tokens))
            for r in kind.fitted
        ]
        line = Curve("", grid.tolist(), (law(grid, tokens) * unit).tolist())
        series.append(Series(NAMES[name], Curve("", sizes, moved), line, Band(grid.tolist(), low, high)))
    return Scene(f"equal tokens ({tokens / 1e6:.2g}M): points moved along the law", SIZE, LOSS, series, counts=True)


def _equal_flops(kinds: Mapping[str, Kind]) -> Scene:
    """The largest group that all kinds have."""
    shared = set.intersection(*({v.budget for v in kind.valleys.groups} for kind in kinds.values()))
    series = []
    for name, kind in kinds.items():
        group = [r for r in kind.fitted if shared and r.rung.budget == max(shared)]
        valley = next((v for v in kind.valleys.groups if shared and v.budget == max(shared)), None)
        line = _parabola(valley, _unit(kind)) if valley else None
        series.append(Series(NAMES[name], _points("", group, lambda r: r.rung.parameters), line))
    return Scene(f"equal FLOPs ({max(shared, default=0):.2g})".replace("e+", "e"), SIZE, LOSS, series, counts=True)

"""Pictures of a scaling study: measured points, fitted curves with their bands, and what was not fitted."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from sfumato.show.plots import Curve, begin_figure, colour, finish_figure, marker, panels_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True)
class Band:
    """A curve between two others."""

    x: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]


@dataclass(frozen=True)
class Series:
    """What belongs together, in one colour."""

    name: str
    measured: Curve
    """Filled points."""
    line: Curve | None = None
    band: Band | None = None
    unseen: Curve | None = None
    """Hollow points: measured, and not fitted."""
    best: tuple[float, float] | None = None
    """A star."""
    shade: float | None = None
    """Of an ordered family, 0 to 1: light to dark; None = a colour of its own, by its place."""


@dataclass(frozen=True)
class Scene:
    """One diagram: series over a logarithmic axis."""

    title: str
    label_x: str
    label_y: str
    series: Sequence[Series] = field(default_factory=tuple)
    counts: bool = False
    """Mark the horizontal axis with 10k, 20k, 50k, ... instead of powers of ten."""


def plot_scenes(path: Path, title: str, scenes: Sequence[Scene], *, share_y: bool = False) -> None:
    """Diagrams side by side, with one legend.

    Args:
        path: the picture; replaced as a whole.
        title: says what was measured.
        scenes: one diagram each.
        share_y: give all of them the same vertical range.
    """
    figure = begin_figure((max(4.2 * len(scenes), 6.4), 4.4))
    axes = panels_of(figure, len(scenes))
    for one, scene in zip(axes, scenes, strict=True):
        _draw(one, scene)
    if share_y and len(axes) > 1:
        low, high = min(a.get_ylim()[0] for a in axes), max(a.get_ylim()[1] for a in axes)
        for one in axes:
            one.set_ylim(low, high)
    finish_figure(figure, path, title)


def _draw(axes: "Axes", scene: Scene) -> None:
    for i, series in enumerate(scene.series):
        tone = colour(i) if series.shade is None else _shade(series.shade)
        if series.band:
            axes.fill_between(series.band.x, series.band.low, series.band.high, color=tone, alpha=0.15, linewidth=0)
        if series.line:
            axes.plot(series.line.x, series.line.y, color=tone, linewidth=1.4)
        named = "" if series.measured.x else series.name
        for curve, filled, name in ((series.measured, True, series.name), (series.unseen, False, named)):
            if curve and curve.x:
                axes.errorbar(
                    curve.x,
                    curve.y,
                    list(curve.error) or None,
                    label=name or None,
                    color=tone,
                    marker=marker(i),
                    markersize=5 if filled else 7,
                    markerfacecolor=tone if filled else "white",
                    linestyle="none",
                    capsize=2,
                    elinewidth=0.8,
                )
        if series.best:
            axes.plot(*series.best, marker="*", markersize=12, color=tone, markeredgecolor="black", markeredgewidth=0.5)
    axes.set_xscale("log")
    if scene.counts:
        from matplotlib.ticker import EngFormatter, LogLocator

        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        axes.minorticks_off()
    axes.set_title(scene.title, fontsize=10)
    axes.set_xlabel(scene.label_x)
    axes.set_ylabel(scene.label_y)


def _shade(level: float) -> tuple[float, float, float]:
    """From light to dark blue, told apart in grey too."""
    light, dark = (0.55, 0.75, 0.92), (0.03, 0.16, 0.36)
    return tuple(a + (b - a) * level for a, b in zip(light, dark, strict=True))  # type: ignore[return-value]

"""Pictures of measurements, as SVG, PNG or PDF by the name of the file.

Colours are those of Okabe and Ito 2008 ("Color universal design"), which readers with every kind of colour vision can
tell apart; curves differ in their markers as well.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SUFFIXES = (".svg", ".png", ".pdf")
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
_GREY = "#666666"


@dataclass(frozen=True)
class Curve:
    """Points with a name."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    error: Sequence[float] = ()
    """Half the length of each error bar; empty = no bars."""


@dataclass(frozen=True)
class Panel:
    """One diagram of a picture."""

    label: str
    """Of the vertical axis."""
    curves: Sequence[Curve]
    level: float | None = None
    """A horizontal line to compare with."""
    level_name: str = ""


def check_picture(path: Path) -> None:
    """Refuse, before any work is done, a picture that cannot be made.

    Raises:
        ValueError: an unknown kind of file, or matplotlib is not installed.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise ValueError(f"{path}: unknown kind of picture; expected a name that ends in {', '.join(SUFFIXES)}")
    begin_figure((1, 1))


def plot_against_nfe(path: Path, title: str, panels: Sequence[Panel]) -> None:
    """Figures of quality against forward passes, side by side, with one legend; see `plot_against`."""
    plot_against(path, title, panels, "forward passes of a text (NFE)", powers=True)


def plot_against(path: Path, title: str, panels: Sequence[Panel], label: str, *, powers: bool = False) -> None:
    """Figures side by side, with one legend, over one logarithmic axis.

    Args:
        path: the picture; replaced as a whole.
        title: says what was measured.
        panels: one diagram each, with the same curves in the same order.
        label: of the horizontal axis.
        powers: mark the powers of two.
    """
    figure = begin_figure((max(4.6 * len(panels), 5.6), 4.2))
    for axes, panel in zip(panels_of(figure, len(panels)), panels, strict=True):
        _draw(axes, panel.curves)
        if panel.level is not None:
            axes.axhline(panel.level, color=_GREY, linestyle="--", linewidth=1, label=panel.level_name)
        axes.set_xscale("log", base=2 if powers else 10)
        if powers:
            axes.set_xticks(_ticks([x for curve in panel.curves for x in curve.x]))
            axes.xaxis.set_major_formatter("{x:.0f}")
            axes.minorticks_off()
        axes.set_xlabel(label)
        axes.set_ylabel(panel.label)
    finish_figure(figure, path, title)


def plot_reliability(path: Path, title: str, curves: Sequence[Curve]) -> None:
    """A reliability diagram: accuracy against confidence; a calibrated model lies on the diagonal.

    Args:
        path: the picture; replaced as a whole.
        title: says what was measured.
        curves: one for each band of noise, x the confidence and y the accuracy of its bins, from 0 to 1.
    """
    figure = begin_figure((5.2, 5.2))
    (axes,) = panels_of(figure, 1)
    axes.plot([0, 1], [0, 1], color=_GREY, linestyle="--", linewidth=1, label="calibrated")
    _draw(axes, curves)
    axes.set(
        xlim=(-0.02, 1.02),
        ylim=(-0.02, 1.02),
        xlabel="confidence (highest probability)",
        ylabel="accuracy",
        aspect="equal",
    )
    finish_figure(figure, path, title)


def begin_figure(size: tuple[float, float]) -> "Figure":
    """An empty picture of so many inches. ValueError: matplotlib is not installed."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ValueError("pictures need matplotlib, which is not installed: pip install 'sfumato[plot]'") from None
    return Figure(figsize=size, layout="constrained")


def panels_of(figure: "Figure", count: int) -> list["Axes"]:
    """So many diagrams side by side."""
    found = [figure.add_subplot(1, count, i + 1) for i in range(count)]
    for axes in found:
        axes.grid(color="#DDDDDD", linewidth=0.6)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    return found


def colour(i: int) -> str:
    """The colour of the i-th curve."""
    return _COLOURS[i % len(_COLOURS)]


def marker(i: int) -> str:
    """The marker of the i-th curve."""
    return _MARKERS[i % len(_MARKERS)]


def _draw(axes: "Axes", curves: Sequence[Curve]) -> None:
    for i, curve in enumerate(curves):
        axes.errorbar(
            curve.x,
            curve.y,
            list(curve.error) or None,
            label=curve.name,
            color=colour(i),
            marker=marker(i),
            markersize=5,
            linewidth=1.4,
            capsize=3,
        )


def _ticks(values: Sequence[float]) -> list[float]:
    """The powers of two among the values, or their ends where there are not two."""
    low, high = min(values), max(values)
    powers = [2.0**k for k in range(32) if low / 1.05 <= 2**k <= high * 1.05]
    return powers if len(powers) > 1 else sorted({low, high})


def finish_figure(figure: "Figure", path: Path, title: str) -> None:
    """Title, legend below, and the file: all of it or nothing, and the same bytes for the same measurement."""
    import matplotlib

    figure.suptitle(title, fontsize=11)
    columns = int(figure.get_figwidth() // 1.6)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, frameon=False, fontsize=9)
    path.parent.mkdir(parents=True, exist_ok=True)
    kind = path.suffix.lower().removeprefix(".")
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    undated = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(kind)
    try:
        with matplotlib.rc_context({"svg.hashsalt": "sfumato", "svg.fonttype": "none"}):
            figure.savefig(scratch, format=kind, dpi=150, metadata=undated)
        scratch.replace(path)
    finally:
        scratch.unlink(missing_ok=True)

"""How `sfumato compress` shows a smaller model beside the original."""

from typing import Any

TITLES = ("original", "compressed", "change")


def rows_of(result: dict[str, Any]) -> list[tuple[str, ...]]:
    """The lines of the table: a name, and a cell for each of the titles."""
    return [*_quality_rows(result["quality"]), *_cost_rows(result["original"], result["compressed"])]


def notes_of(result: dict[str, Any]) -> list[str]:
    """How the smaller one was made, and what the figures mean."""
    from sfumato.evaluate.machine import Machine

    how, found = result["how"], result["quality"]
    made = []
    if shape := how.get("pruned"):
        made.append("pruned to " + ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in shape.items()))
    if tokens := how.get("healed_tokens"):
        made.append(f"healed on {tokens:,} tokens")
    if kind := how.get("quantised"):
        made.append(f"quantised to {kind}")
    return [
        f"{how['model']}, {', '.join(made)}",
        f"{found['rows']} held-out rows, {found['samples']} noisings of each, the same for both, seed {found['seed']}; "
        "+- is a standard error; <= an upper bound",
        "speed: both write the same texts in turn, after a warm-up (slowest-fastest round)",
        Machine(**result["machine"]).line,
    ]


def card(result: dict[str, Any], original: str) -> str:
    """The model card: both models side by side, then what the original's card says."""
    lines = ["# A smaller model", "", *(f"{note}  " for note in notes_of(result)), ""]
    lines += [f"| | {' | '.join(TITLES)} |", "|---|---|---|---|"]
    lines += [f"| {' | '.join(row)} |" for row in rows_of(result)]
    lines += ["", "What follows describes the model that it was made from.", "", original]
    return "\n".join(lines)


def _quality_rows(found: dict[str, Any]) -> list[tuple[str, ...]]:
    sign = "<= " if found["kind"] == "bound" else ""
    figures = [("bits/byte", found["bits_per_byte"])]
    figures += [(f"nats/token, noise {one['low']:g} to {one['high']:g}", one["nats"]) for one in found["levels"]]
    return [
        (
            name,
            f"{sign}{one['original']:.4f}",
            f"{sign}{one['compressed']:.4f}",
            f"{one['difference']:+.4f}" + ("" if one["stderr"] is None else f" +- {one['stderr']:.4f}"),
        )
        for name, one in figures
    ]


def _cost_rows(old: dict[str, Any], new: dict[str, Any]) -> list[tuple[str, ...]]:
    rows = [_row("parameters", old["parameters"], new["parameters"], "{:,}")]
    for title, name in (("on disk", "disk"), ("in memory", "memory"), ("peak memory, writing", "peak")):
        before, after = (one[f"{name}_bytes"] for one in (old, new))
        if before is not None and after is not None:
            rows.append(_row(f"{title}, MiB", before / 2**20, after / 2**20, "{:,.2f}"))
    rows.append(_row("forward passes a text", old["nfe"], new["nfe"], "{:.1f}"))
    rows.append(_row("tokens/s", old["tokens_per_second"], new["tokens_per_second"], "{:,.0f}"))
    spread = [f"({one['slowest']:,.0f}-{one['fastest']:,.0f})" for one in (old, new)]
    return [*rows, ("", *spread, "")]


def _row(title: str, old: float, new: float, form: str) -> tuple[str, str, str, str]:
    return title, form.format(old), form.format(new), f"x {new / old:.2f}" if old else ""

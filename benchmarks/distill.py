"""What distillation into fewer steps keeps: quality against forward passes (NFE), of a teacher and its students.

    python benchmarks/distill.py tiny runs/few-steps/model --data recipes/data/heldout.jsonl --json distill.json

Everybody continues the same held-out beginnings with the same sampler and the same numbers of steps. Three figures, of
which none says enough alone: bits per byte under an autoregressive judge (less is more probable, also where a text
repeats itself), the entropy of a text's tokens (less than real text has = repetition), and the Jensen-Shannon
divergence of token pairs from those of real text (what lies below the floor is chance).
"""

import argparse
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench import add_flags, begin, existing_file, finish, machine, print_table

import sfumato
from sfumato.config import Source
from sfumato.data.sources import Report, documents
from sfumato.evaluate import divergence
from sfumato.evaluate.judge import check_judge
from sfumato.evaluate.passage import Passage, held_out_passages, written
from sfumato.evaluate.sweep import Point, Quality, continuing, figures, grid, means
from sfumato.sample.language_model import Generation, LanguageModel
from sfumato.show.plots import Curve, Panel, plot_against_nfe

FIGURES = {"bits_per_byte": "judge, bits/byte", "entropy": "entropy, nats/token", "divergence": "divergence, nats"}


def main() -> None:
    """Write, judge, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_flags(parser)
    parser.add_argument("models", nargs="+", help="the teacher, then its students")
    parser.add_argument("--judge", default="tiny-ar", help="an autoregressive model (default: %(default)s)")
    parser.add_argument("--data", type=existing_file, required=True, help="held-out text, JSON lines")
    parser.add_argument("--sampler", default="ancestral", help="(default: %(default)s)")
    parser.add_argument("--steps", type=int, nargs="+", default=[8, 16, 32], help="of a text (default: 8 16 32)")
    parser.add_argument("--block", type=int, help="tokens a block (default: each model's own)")
    parser.add_argument("--texts", type=int, default=32, help="texts of a point and seed (default: %(default)s)")
    parser.add_argument("--seeds", type=int, default=2, help="(default: %(default)s)")
    parser.add_argument("--tokens", type=int, default=64, help="of a text (default: %(default)s)")
    parser.add_argument("--prompt-tokens", type=int, default=16, help="given to go on from (default: %(default)s)")
    parser.add_argument("--temperature", type=float, default=1.0, help="(default: %(default)s)")
    parser.add_argument("--picture", type=Path, help="draw the curves here: svg, png or pdf")
    args = parser.parse_args()
    device, dtype = begin(args)
    judge = sfumato.load(args.judge, device.type, args.dtype)
    check_judge(judge)
    real = passages(args, judge)
    half = real[: args.texts]  # what is continued; the others are what real text looks like
    rows: list[dict[str, Any]] = []
    for name in args.models:
        model = sfumato.load(name, device.type, args.dtype)
        points = swept(model, args, half, quality(judge, model, half, real[args.texts :]))
        rows += [{"model": name, **row} for row in averaged(points)]
    known = {"bits_per_byte": figures(judge, half)["bits_per_byte"], "entropy": figures(judge, half)["entropy"]}
    head = ["model", "steps", "NFE", *FIGURES.values()]
    cells = [[row["model"], str(row["steps"]), f"{row['nfe']:.1f}", *map(shown, map(row.get, FIGURES))] for row in rows]
    print_table(head, [*cells, ["real text", "", "", *(f"{known[f]:.3f}" if f in known else "" for f in FIGURES)]])
    if args.picture:
        drawn(args.picture, rows, known)
    notes = [
        f"{args.texts} texts of at most {args.tokens} tokens x {args.seeds} seeds, {args.sampler}, temperature "
        f"{args.temperature:g}; +- is the standard error over the seeds",
        "the judge learned from text of the same kind as the writers",
    ]
    finish(args.json, machine(device, dtype), notes, rows=rows, real=known)


def passages(args: argparse.Namespace, judge: LanguageModel) -> list[Passage]:
    """Held-out texts cut in two: as many as are continued, and as many again to compare with."""
    found = documents(Source(str(args.data)), Report())
    lengths = {"prompt_tokens": args.prompt_tokens, "max_tokens": args.tokens}
    return held_out_passages(found, judge.tokenizer, **lengths, count=2 * args.texts)


def quality(judge: LanguageModel, writer: LanguageModel, half: Sequence[Passage], other: Sequence[Passage]) -> Quality:
    """The three figures of texts that continue the prompts."""
    prompts, encode = [passage.prompt for passage in half], judge.tokenizer.encode
    reference = [encode(passage.completion) for passage in other]

    def measured(generations: Sequence[Generation]) -> dict[str, float]:
        texts = written(prompts, generations)
        found = divergence([encode(text.completion) for text in texts], reference, 2)
        return figures(judge, texts, writer.bundle.config) | {"divergence": found.nats, "floor": found.floor}

    return measured


def swept(model: LanguageModel, args: argparse.Namespace, half: Sequence[Passage], rate: Quality) -> list[Point]:
    """Every number of steps, every seed."""
    settings = {"temperature": args.temperature, **({"block": args.block} if args.block else {})}
    prompts = [passage.prompt for passage in half]
    measure = continuing(model, prompts, rate, max_tokens=args.tokens, batch=16, **settings)
    return [measure(cell) for cell in grid([args.sampler], args.steps, args.seeds, args.tokens)]


def averaged(points: Sequence[Point]) -> list[dict[str, Any]]:
    """One row for each number of steps; of each figure the mean over the seeds and its standard error."""
    rows = []
    for steps in dict.fromkeys(point.steps for point in points):
        mine = [point for point in points if point.steps == steps]
        found = {figure: next(iter(means(mine, figure).values()))[0] for figure in (*FIGURES, "floor")}
        row = {figure: {"value": mean.value, "stderr": mean.stderr} for figure, mean in found.items()}
        rows.append({"steps": steps, "nfe": found["entropy"].nfe, **row, "points": [asdict(one) for one in mine]})
    return rows


def shown(mean: dict[str, float] | None) -> str:
    """`value +- error`."""
    assert mean is not None
    return f"{mean['value']:.3f} +- {mean['stderr']:.3f}"


def drawn(path: Path, rows: Sequence[dict[str, Any]], known: dict[str, float]) -> None:
    """The curves, one a model."""
    panels = []
    for figure, label in FIGURES.items():
        curves = []
        for name in dict.fromkeys(row["model"] for row in rows):
            mine = [row for row in rows if row["model"] == name]
            heights, bars = ([row[figure][key] for row in mine] for key in ("value", "stderr"))
            curves.append(Curve(name, [row["nfe"] for row in mine], heights, bars))
        panels.append(Panel(label, curves, known.get(figure), "real text"))
    plot_against_nfe(path, "a teacher and its students", panels)


if __name__ == "__main__":
    main()

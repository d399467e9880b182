"""Do the best learning rates stay where they are when the network becomes wider?

    python benchmarks/transfer.py muon       Muon's rate and AdamW's (embeddings, gains), each with the other held fixed
    python benchmarks/transfer.py adamw      AdamW for everything, as it is, and with train.transfer_width

Trains recipes/scale.toml at several widths and one depth, for equal tokens; what is trained already is kept. Prints the
held-out loss of each rate, and the rate of the least loss by a parabola through the three best.
"""

import argparse
import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import bench
import numpy as np
import torch

from sfumato.config import ProcessConfig, Recipe, load_recipe
from sfumato.evaluate.machine import this_machine
from sfumato.scale.trials import Outcome, Trial, common_tokenizer, outcome_of, run_trials
from sfumato.show.plots import Curve
from sfumato.show.scaling import Scene, Series, plot_scenes

RECIPE = Path(__file__).parent.parent / "recipes" / "scale.toml"
RATES = (1e-2, 2e-2, 4e-2, 8e-2, 1.6e-1)
SMALL = (2e-3, 4e-3, 8e-3, 1.6e-2, 3.2e-2)
SWEEPS: dict[str, dict[str, tuple[str, Mapping[str, Any], Sequence[float]]]] = {
    "muon": {
        "Muon's rate (matrices)": ("matrix_lr", {}, RATES),
        "AdamW's rate (the rest)": ("lr", {}, RATES),
    },
    "adamw": {
        "AdamW's rate": ("lr", {"optimizer": "adamw"}, SMALL),
        "AdamW's rate, transfer_width = 32": ("lr", {"optimizer": "adamw", "transfer_width": 32}, SMALL),
    },
}


class Told:
    """Says what is done."""

    def begun(self, trial: Trial) -> None:
        """Nobody watches the steps."""

    def ended(self, trial: Trial, outcome: Outcome) -> None:
        """One line a training."""
        print(f"{trial.name}: {outcome.nats_per_token:.4f} nats/token, {outcome.seconds:.0f} s", flush=True)


def trial(recipe: Recipe, kind: str, width: int, tokens: int, tokenizer: Path, **train: Any) -> Trial:
    """One training: only width and learning rates differ."""
    own = recipe.model
    model = dataclasses.replace(
        own,
        width=width,
        heads=width // own.head_size,
        mlp_width=round(own.mlp_width * width / own.width / 8) * 8,
    )
    steps = tokens // (recipe.train.batch * own.context)
    process = ProcessConfig(kind="autoregressive") if kind == "ar" else recipe.process
    name = "-".join([kind, str(width), *(f"{name}={value}" for name, value in sorted(train.items()))])
    config = dataclasses.replace(
        recipe.train, steps=steps, tokens=0, warmup=min(recipe.train.warmup, steps // 10), **train
    )
    made = dataclasses.replace(
        recipe,
        name=name,
        model=model,
        process=process,
        train=config,
        tokenizer=dataclasses.replace(recipe.tokenizer, path=str(tokenizer)),
    )
    return Trial(name, made, width**2)


def best(rates: Sequence[float], losses: Sequence[float]) -> float:
    """The rate of the least loss: the vertex of the parabola through the three best neighbours; an end stays an end."""
    i = int(np.argmin(losses))
    if i in (0, len(rates) - 1):
        return rates[i]
    square, slope, _ = np.polyfit(np.log(rates[i - 1 : i + 2]), losses[i - 1 : i + 2], 2)
    return math.exp(-slope / (2 * square))


def main() -> None:
    """Train, report, draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sweep", choices=list(SWEEPS))
    parser.add_argument("--out", type=Path, default=Path("runs/transfer"), help="(default: %(default)s)")
    parser.add_argument("--kind", choices=("ar", "masked"), default="ar", help="(default: %(default)s)")
    parser.add_argument("--widths", type=int, nargs="+", default=[16, 32, 64], help="(default: %(default)s)")
    parser.add_argument("--tokens", type=int, default=100_000, help="of each training (default: %(default)s)")
    parser.add_argument("--cache", default="", help="folder of the tokenised text")
    args = parser.parse_args()
    recipe = load_recipe(str(RECIPE), {"data.cache": args.cache} if args.cache else {})
    common_tokenizer(recipe, args.out)
    scenes, rows, cells = [], [], []
    for label, (field, fixed, rates) in SWEEPS[args.sweep].items():
        series = []
        for i, width in enumerate(args.widths):
            trials = [
                trial(recipe, args.kind, width, args.tokens, args.out / "tokenizer.json", **fixed, **{field: rate})
                for rate in rates
            ]
            if stopped := run_trials(trials, args.out, Told()):
                raise SystemExit(128 + stopped)
            outcomes = [outcome_of(one, args.out) for one in trials]
            losses = [outcome.nats_per_token for outcome in outcomes if outcome]
            if len(losses) < len(rates):
                raise SystemExit("not all is trained yet: somebody else is at it, or it was stopped; run again")
            optimum = best(rates, losses)
            rows.append({"rate": field, "width": width, "rates": rates, "losses": losses, "best": optimum})
            cells.append([label, str(width), *(f"{loss:.3f}" for loss in losses), f"{optimum:.2g}"])
            shade = i / max(1, len(args.widths) - 1)
            curve = Curve(f"width {width}", rates, losses)
            series.append(Series(curve.name, curve, curve, shade=shade))
        scenes.append(Scene(label, "peak learning rate", "held-out nats/token", series))
        bench.print_table(["rate", "width", *(f"{rate:g}" for rate in rates), "best"], cells)
        cells = []
    title = f"{args.kind}, {args.tokens:,} tokens, depth {recipe.model.layers}"
    plot_scenes(args.out / f"{args.sweep}.svg", title, scenes, share_y=True)
    machine = this_machine(torch.device("cpu"), torch.float32)
    print(machine.line)
    content = {"tokens": args.tokens, "kind": args.kind, "rows": rows, "machine": machine.line}
    (args.out / f"{args.sweep}.json").write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()

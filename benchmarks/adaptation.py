"""How much of an autoregressive model a diffusion model can inherit: held-out bound against tokens read.

    python benchmarks/adaptation.py --out runs/adaptation

One recipe (recipes/adapt.toml), one budget and one set of data; the contestants begin with the weights of the
autoregressive model or with none, keep its shift or not, and see what comes later at once or little by little. Trains
what is not trained yet (a run that was stopped goes on), then reports from the runs: a table, JSON and a picture.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from bench import print_table
from fair_comparison import curve

from sfumato.evaluate.machine import this_machine
from sfumato.model.bundle import find_bundle
from sfumato.show.plots import Curve, Panel, plot_against

RECIPE = Path(__file__).parent.parent / "recipes" / "adapt.toml"
CONTESTANTS = {
    "adapted, shift kept": ["tune"],
    "adapted, shift removed": ["tune", "--adapt.shift", "remove"],
    "adapted, shift kept, at once": ["tune", "--adapt.anneal", "0"],
    "from scratch": ["train", "--init", "", "--tokenizer.path", str(find_bundle("tiny-ar"))],
}


def train(out: Path, names: list[str], flags: list[str]) -> None:
    """Every run that is not finished."""
    for name in names:
        if not (folder(out, name) / "model").is_dir():
            command, *own = CONTESTANTS[name]
            words = [command, str(RECIPE), "--out", str(folder(out, name)), *own, *flags]
            print("sfumato", *words, file=sys.stderr, flush=True)
            subprocess.run([sys.executable, "-m", "sfumato", *words], stdout=subprocess.DEVNULL, check=True)


def folder(out: Path, name: str) -> Path:
    """Where a run is."""
    return out / name.replace(", ", "-").replace(" ", "-")


def main() -> None:
    """Train, report, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/adaptation"), help="(default: %(default)s)")
    parser.add_argument("--only", nargs="+", choices=list(CONTESTANTS), help="default: all")
    parser.add_argument("--report", action="store_true", help="train nothing")
    args, flags = parser.parse_known_args()
    names = args.only or list(CONTESTANTS)
    if not args.report:
        train(args.out, names, flags)
    rows: list[dict[str, Any]] = []
    for name in names:
        if (folder(args.out, name) / "metrics.jsonl").exists() and (points := curve(folder(args.out, name))):
            rows.append({"name": name, "tokens": [t for t, _ in points], "bits_per_byte": [b for _, b in points]})
    marks = sorted({tokens for row in rows for tokens in row["tokens"]})
    cells = []
    for row in rows:
        known = dict(zip(row["tokens"], row["bits_per_byte"], strict=True))
        cells.append([row["name"], *(f"{known[mark]:.3f}" if mark in known else "" for mark in marks)])
    print("held-out text, at most so many bits per byte, after so many tokens")
    print_table(["", *(f"{mark:,.0f}" for mark in marks)], cells)
    curves = [Curve(row["name"], row["tokens"], row["bits_per_byte"]) for row in rows]
    panel = Panel("held-out bits per byte, at most", curves)
    plot_against(args.out / "adaptation.svg", "with and without an autoregressive past", [panel], "tokens read")
    about = this_machine(torch.device("cpu"), torch.float32)
    print(about.line)
    (args.out / "adaptation.json").write_text(json.dumps({"rows": rows, "machine": about.line}, indent=1) + "\n")


if __name__ == "__main__":
    main()

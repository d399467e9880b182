"""Does the controller of decoding settings find what users want? Simulated users with hidden preferences.

Requests of four kinds come in turn. Each preset has a quality and a latency that vary from response to response; users
like a response with a probability that falls with what it lacks and with what it took, and how much either matters to
them is hidden and differs by kind. In the middle the users of one kind change their minds. A share of the responses is
judged, some requests later. The regret of a choice is the expected utility of the best preset for its kind less that of
the chosen one; every fixed preset for all kinds is run on the same users.

    python benchmarks/controller.py --seeds 20
"""

import argparse
import json
import math
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from sfumato import rng
from sfumato.sample.controller import Controller, Utility

PRESETS = ("balanced", "careful", "fast")
QUALITY = {"careful": 0.90, "balanced": 0.75, "fast": 0.50}
"""Mean of what a judge would give, from 0 to 1."""
PACE = {"careful": 0.10, "balanced": 0.05, "fast": 0.015}
"""Mean seconds a token."""
TOKENS = 48


@dataclass(frozen=True)
class Taste:
    """What a kind's users want: how much quality and seconds count in the log-odds of a thumb up."""

    quality: float
    seconds: float

    def likes(self, preset: str, z: float = 0.0) -> float:
        """Probability of a thumb up."""
        pace = PACE[preset] * math.exp(0.3 * z)
        return 1 / (1 + math.exp(-(self.quality * (QUALITY[preset] - 0.6) - self.seconds * (pace * TOKENS - 2.0))))


KINDS = {
    "chat": Taste(quality=2.0, seconds=0.9),
    "completion": Taste(quality=8.0, seconds=0.1),
    "infill": Taste(quality=6.0, seconds=0.5),
    "structured": Taste(quality=8.0, seconds=0.1),
}
AFTER = KINDS | {"structured": Taste(quality=1.0, seconds=1.0)}
"""In the second half."""


def utilities(tastes: Mapping[str, Taste], utility: Utility) -> dict[str, dict[str, float]]:
    """The expected utility of each preset for each kind: an average over the latencies."""
    spread = torch.special.ndtri((torch.arange(201).double() + 0.5) / 201).tolist()

    def expected(taste: Taste, preset: str) -> float:
        good = sum(taste.likes(preset, z) for z in spread) / len(spread)
        speed = sum(utility.speed(PACE[preset] * math.exp(0.3 * z), 1) for z in spread) / len(spread)
        return (1 - utility.weight) * good + utility.weight * speed

    return {kind: {preset: expected(taste, preset) for preset in PRESETS} for kind, taste in tastes.items()}


def simulate(seed: int, requests: int, rate: float, delay: int, chooser: Callable, utility: Utility) -> list[dict]:
    """One run; `chooser(kind, controller)` names the preset, and the controller is told whatever happens."""
    controller, waiting, told = Controller(utility, seed), deque(), []
    before, after = utilities(KINDS, utility), utilities(AFTER, utility)
    for number in range(requests):
        late = number >= requests // 2
        tastes, worth = (AFTER, after) if late else (KINDS, before)
        kind = list(KINDS)[number % len(KINDS)]
        preset = chooser(kind, controller)
        z = float(rng.normal(seed, number, 1))
        judged, liked = rng.uniform(seed, number, torch.tensor([2, 3])).tolist()
        controller.responded(kind, preset, PACE[preset] * math.exp(0.3 * z) * TOKENS, TOKENS)
        if judged < rate:
            waiting.append((number + delay, kind, preset, float(liked < tastes[kind].likes(preset, z))))
        while waiting and waiting[0][0] <= number:
            controller.judged(*waiting.popleft()[1:])
        best = max(worth[kind].values())
        told.append(
            {"kind": kind, "preset": preset, "utility": worth[kind][preset], "regret": best - worth[kind][preset]}
        )
    return told


def learned(kind: str, controller: Controller) -> str:
    return controller.choose(kind, PRESETS).preset


def interval(values: list[float]) -> tuple[float, float]:
    """Mean, and half the width of its 95 % interval."""
    mean = sum(values) / len(values)
    if len(values) < 2:
        return mean, math.inf
    sd = math.sqrt(sum((value - mean) ** 2 for value in values) / (len(values) - 1))
    return mean, 1.96 * sd / math.sqrt(len(values))


def compare(seeds: int, requests: int, rate: float, delay: int, utility: Utility) -> dict:
    """Utility and regret of the controller and of every fixed preset, with intervals over the seeds."""
    worth = utilities(KINDS, utility), utilities(AFTER, utility)
    fixed = {p: sum(sum(w[k][p] for k in KINDS) for w in worth) / (2 * len(KINDS)) for p in PRESETS}
    best = sum(sum(max(w[k].values()) for k in KINDS) for w in worth) / (2 * len(KINDS))
    runs = [simulate(seed, requests, rate, delay, learned, utility) for seed in range(seeds)]
    parts = {}
    for part in range(8):
        cut = slice(part * requests // 8, (part + 1) * requests // 8)
        parts[part] = interval([sum(r["regret"] for r in run[cut]) / len(run[cut]) for run in runs])
    ends = {}
    for name, world, cut in (
        ("before", worth[0], slice(3 * requests // 8, requests // 2)),
        ("after", worth[1], slice(7 * requests // 8, requests)),
    ):
        for kind in KINDS:
            top = max(world[kind], key=world[kind].__getitem__)
            share = [
                sum(r["preset"] == top for r in run[cut] if r["kind"] == kind)
                / sum(r["kind"] == kind for r in run[cut])
                for run in runs
            ]
            ends[f"{kind}, {name}"] = {"best": top, "chosen": interval(share)}
    return {
        "controller": interval([sum(r["utility"] for r in run) / len(run) for run in runs]),
        "second_best_known_per_kind": best,
        "fixed": fixed,
        "best_possible": best,
        "regret_by_eighth": parts,
        "best_preset_chosen": ends,
        "presets_used": sorted({r["preset"] for run in runs for r in run}),
    }


def main() -> None:
    """Simulate and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=20, help="runs (default: %(default)s)")
    parser.add_argument("--requests", type=int, default=4000, help="of each run (default: %(default)s)")
    parser.add_argument("--rate", type=float, default=0.3, help="share that is judged (default: %(default)s)")
    parser.add_argument("--delay", type=int, default=20, help="requests until then (default: %(default)s)")
    parser.add_argument("--out", default="", help="write the figures as JSON to this file")
    args = parser.parse_args()
    found = compare(args.seeds, args.requests, args.rate, args.delay, Utility())
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()

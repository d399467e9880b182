"""Does the controller of decoding settings find what users want? Simulated users with hidden preferences.

Requests of four kinds come in turn. Each preset has a quality and a latency that vary from response to response; users
like a response with a probability that falls with what it lacks and with what it took, and how much either matters to
them is hidden and differs by kind. In the middle the users of one kind change their minds. A share of the responses is
judged, some requests later. The regret of a choice is the expected utility of the best preset for its kind less that of
the chosen one; every fixed preset for all kinds is run on the same users.

    python benchmarks/controller.py --seeds 20
"""

import argparse
import math
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from bench import add_flags, begin, finish, machine, print_table

from sfumato import rng
from sfumato.sample.controller import Controller, Utility

PRESETS = ("balanced", "careful", "fast")
QUALITY = {"careful": 0.90, "balanced": 0.75, "fast": 0.50}
"""Mean of what a judge would give, from 0 to 1."""
PACE = {"careful": 0.10, "balanced": 0.05, "fast": 0.015}
"""Mean seconds a token."""
SPREAD = 0.3
"""Standard deviation of the logarithm of a latency."""
TOKENS = 48


@dataclass(frozen=True)
class Taste:
    """What a kind's users want: how much quality and seconds count in the log-odds of a thumb up."""

    quality: float
    seconds: float

    def likes(self, preset: str, z: float = 0.0) -> float:
        """Probability of a thumb up."""
        pace = PACE[preset] * math.exp(SPREAD * z)
        return 1 / (1 + math.exp(-(self.quality * (QUALITY[preset] - 0.6) - self.seconds * (pace * TOKENS - 2.0))))


KINDS = {
    "chat": Taste(quality=2.0, seconds=0.9),
    "completion": Taste(quality=8.0, seconds=0.1),
    "infill": Taste(quality=10.0, seconds=0.7),
    "structured": Taste(quality=8.0, seconds=0.1),
}
AFTER = KINDS | {"structured": Taste(quality=1.0, seconds=1.0)}
"""In the second half."""


def utilities(tastes: Mapping[str, Taste], utility: Utility) -> dict[str, dict[str, float]]:
    """The expected utility of each preset for each kind: an average over the latencies."""
    spread = torch.special.ndtri((torch.arange(201).double() + 0.5) / 201).tolist()

    def expected(taste: Taste, preset: str) -> float:
        good = sum(taste.likes(preset, z) for z in spread) / len(spread)
        speed = sum(utility.speed(PACE[preset] * math.exp(SPREAD * z), 1) for z in spread) / len(spread)
        return (1 - utility.weight) * good + utility.weight * speed

    return {kind: {preset: expected(taste, preset) for preset in PRESETS} for kind, taste in tastes.items()}


def simulate(seed: int, requests: int, rate: float, delay: int, utility: Utility) -> list[dict]:
    """One run: for each request its kind, the preset that was chosen, and the expected utility and regret of that."""
    controller, waiting, told = Controller(utility, seed), deque(), []
    worlds = [(tastes, utilities(tastes, utility)) for tastes in (KINDS, AFTER)]
    for number in range(requests):
        tastes, worth = worlds[number >= requests // 2]
        kind = list(KINDS)[number % len(KINDS)]
        preset = controller.choose(kind, PRESETS).preset
        z = float(rng.normal(seed, number, 1))
        judged, liked = rng.uniform(seed, number, torch.tensor([2, 3])).tolist()
        controller.responded(kind, preset, PACE[preset] * math.exp(SPREAD * z) * TOKENS, TOKENS)
        if judged < rate:
            waiting.append((number + delay, kind, preset, float(liked < tastes[kind].likes(preset, z))))
        while waiting and waiting[0][0] <= number:
            controller.judged(*waiting.popleft()[1:])
        found, best = worth[kind][preset], max(worth[kind].values())
        told.append({"kind": kind, "preset": preset, "utility": found, "regret": best - found})
    return told


def interval(values: list[float]) -> tuple[float, float]:
    """Mean, and half the width of its 95 % interval."""
    mean = sum(values) / len(values)
    sd = math.sqrt(sum((value - mean) ** 2 for value in values) / max(1, len(values) - 1))
    return mean, 1.96 * sd / math.sqrt(len(values))


def compare(seeds: int, requests: int, rate: float, delay: int, utility: Utility) -> dict:
    """Utility and regret of the controller, with intervals over the seeds, beside those of every fixed preset."""
    worlds = utilities(KINDS, utility), utilities(AFTER, utility)
    runs = [simulate(seed, requests, rate, delay, utility) for seed in range(seeds)]
    ends = {}
    for name, worth, end in zip(("before", "after"), worlds, (requests // 2, requests), strict=True):
        for kind in KINDS:
            best = max(worth[kind], key=worth[kind].__getitem__)
            last = [[r["preset"] == best for r in run[end - requests // 8 : end] if r["kind"] == kind] for run in runs]
            ends[f"{kind}, {name}"] = {"best": best, "chosen": interval([sum(part) / len(part) for part in last])}
    parts = [slice(part * requests // 8, (part + 1) * requests // 8) for part in range(8)]
    return {
        "controller": interval([sum(r["utility"] for r in run) / len(run) for run in runs]),
        "fixed": {name: _mean(worth[kind][name] for worth in worlds for kind in KINDS) for name in PRESETS},
        "best_possible": _mean(max(worth[kind].values()) for worth in worlds for kind in KINDS),
        "regret_by_eighth": [interval([_mean(r["regret"] for r in run[part]) for run in runs]) for part in parts],
        "best_preset_chosen": ends,
        "presets_used": sorted({r["preset"] for run in runs for r in run}),
    }


def _mean(values: Iterable[float]) -> float:
    found = list(values)
    return sum(found) / len(found)


def main() -> None:
    """Simulate and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_flags(parser)
    parser.add_argument("--seeds", type=int, default=20, help="runs (default: %(default)s)")
    parser.add_argument("--requests", type=int, default=4000, help="of each run (default: %(default)s)")
    parser.add_argument("--rate", type=float, default=0.3, help="share that is judged (default: %(default)s)")
    parser.add_argument("--delay", type=int, default=20, help="requests until then (default: %(default)s)")
    args = parser.parse_args()
    about = machine(*begin(args))
    found = compare(args.seeds, args.requests, args.rate, args.delay, Utility())
    rows = [("controller", *found["controller"])]
    rows += [(f"{name}, for all kinds", mean, None) for name, mean in found["fixed"].items()]
    rows += [("the best for each kind, known before", found["best_possible"], None)]
    print_table(
        ("settings", "utility", "+-"), [(name, f"{mean:.3f}", f"{w:.3f}" if w else "") for name, mean, w in rows]
    )
    print()
    regrets = [(f"{part + 1}", *regret) for part, regret in enumerate(found["regret_by_eighth"])]
    print_table(("eighth of the requests", "regret", "+-"), [(part, f"{m:.3f}", f"{w:.3f}") for part, m, w in regrets])
    print()
    ends = [(kind, end["best"], *end["chosen"]) for kind, end in found["best_preset_chosen"].items()]
    print_table(
        ("at the end of each half", "best", "chosen", "+-"),
        [(kind, best, f"{m:.0%}", f"{w:.0%}") for kind, best, m, w in ends],
    )
    finish(args.json, about, ["intervals are 95 % of the mean over seeds"], **found)


if __name__ == "__main__":
    main()

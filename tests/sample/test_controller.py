"""The controller finds what users want, follows them when they change, and stays among the presets it is given."""

import json
from collections import Counter

import pytest
import torch

from sfumato import rng
from sfumato.config import ConfigError
from sfumato.sample.controller import Arm, Controller, Kind, Utility

PRESETS = ("balanced", "careful", "fast")
LIKED = {"chat": (0.5, 0.2, 0.9), "completion": (0.5, 0.9, 0.2)}
"""Probability that a user likes each preset."""


def live(controller: Controller, requests: int, *, seed: int, rate: float = 0.5, delay: int = 10, liked=LIKED) -> list:
    """Users who judge some responses a while later; gives (kind, preset) of every request."""
    chosen, waiting = [], []
    for number in range(requests):
        kind = ("chat", "completion")[number % 2]
        preset = controller.choose(kind, PRESETS).preset
        chosen.append((kind, preset))
        judged, good = rng.uniform(seed, number, torch.tensor([1, 2])).tolist()
        if judged < rate:
            good = float(good < liked[kind][PRESETS.index(preset)])
            waiting.append((number + delay, kind, preset, good))
        while waiting and waiting[0][0] <= number:
            controller.judged(*waiting.pop(0)[1:])
    return chosen


def share(chosen: list, kind: str, preset: str) -> float:
    of_kind = [name for asked, name in chosen if asked == kind]
    return of_kind.count(preset) / len(of_kind)


def test_each_kind_of_request_gets_what_its_users_want() -> None:
    for seed in range(2):
        chosen = live(Controller(seed=seed), 600, seed=seed)
        assert share(chosen[-200:], "chat", "fast") > 0.8 and share(chosen[-200:], "completion", "careful") > 0.8
        assert {name for _, name in chosen} <= set(PRESETS)


def test_it_follows_users_who_change_their_minds() -> None:
    controller = Controller(seed=1)
    live(controller, 600, seed=1)
    other = {"chat": (0.5, 0.9, 0.2), "completion": (0.5, 0.9, 0.2)}
    chosen = live(controller, 800, seed=2, liked=other)
    assert share(chosen[-200:], "chat", "careful") > 0.7


def test_of_presets_that_users_like_alike_the_fast_one_is_chosen() -> None:
    controller, utility = Controller(Utility(weight=0.5), seed=2), Utility(weight=0.5)
    chosen = Counter()
    for number in range(400):
        preset = controller.choose("chat", PRESETS).preset
        chosen[preset] += number >= 300
        controller.responded("chat", preset, {"balanced": 0.05, "careful": 0.2, "fast": 0.005}[preset] * 10, 10)
        controller.judged("chat", preset, 0.7)
    assert chosen["fast"] > 80
    assert utility.speed(0.5, 10) == pytest.approx(0.5) and utility.speed(0, 10) == 1 > utility.speed(1, 10)


def test_where_nobody_judges_the_default_is_used() -> None:
    controller = Controller(Utility(trials=20))
    chosen = [controller.choose("chat", PRESETS) for _ in range(60)]
    assert {decision.preset for decision in chosen[:20]} == set(PRESETS)
    assert {decision.preset for decision in chosen[20:]} == {"balanced"}
    assert chosen[-1].why == "nobody has judged the latest 59 responses, so nothing new is tried"
    for decision in chosen:  # speed alone is no reason
        controller.responded("chat", decision.preset, 1e-9 if decision.preset == "fast" else 9, 1)
    assert controller.choose("chat", PRESETS).preset == "balanced"


def test_what_was_found_best_stays_in_use_when_judgements_end() -> None:
    controller = Controller(Utility(trials=20))
    for _ in range(30):
        controller.judged("chat", "fast", 1.0)
        controller.judged("chat", "balanced", 0.3)
    chosen = [controller.choose("chat", PRESETS).preset for _ in range(60)]
    assert set(chosen[20:]) == {"fast"}
    controller.judged("chat", "fast", 0.0)
    assert "nobody" not in controller.choose("chat", PRESETS).why


def test_a_decision_depends_on_its_seed_and_on_what_was_told_and_on_nothing_else() -> None:
    first = live(Controller(seed=5), 200, seed=1)
    torch.manual_seed(7)
    assert live(Controller(seed=5), 200, seed=1) == first != live(Controller(seed=6), 200, seed=1)


def test_it_goes_on_where_it_was_saved() -> None:
    whole, half = Controller(seed=3), Controller(seed=3)
    live(whole, 100, seed=1)
    live(half, 100, seed=1)
    half = Controller.restore(Utility(), json.loads(json.dumps(half.state())))
    assert half == whole
    assert live(half, 100, seed=2) == live(whole, 100, seed=2) and half.state() == whole.state()


def test_choices_follow_beliefs() -> None:
    """Thompson's property: a preset is used as often as a draw from what is believed of it is the largest."""
    controller = Controller(Utility(weight=0.0, prior=2.0, trials=10**6), seed=9)
    controller.kinds["chat"] = Kind({"a": Arm(judged=8, good=6), "b": Arm(judged=3, good=1)})
    n = 2000
    used = Counter(controller.choose("chat", ("a", "b")).preset for _ in range(n))
    mean = 7 / 10 - 2 / 5
    sd = (0.25 / 10 + 0.25 / 5) ** 0.5
    expected = float(torch.special.ndtr(torch.tensor(mean / sd, dtype=torch.float64)))
    assert abs(used["a"] / n - expected) < 4 * (expected * (1 - expected) / n) ** 0.5


def test_a_decision_is_explained() -> None:
    controller = Controller(seed=1)
    for _ in range(50):
        controller.judged("chat", "fast", 1.0)
    told = [controller.choose("chat", PRESETS).told() for _ in range(50)]
    best = next(one for one in told if one["preset"] == "fast")
    tried = next(one for one in told if one["preset"] != "fast")
    assert best["why"].startswith("has the best utility so far, 0.8") and "recent judgements" in best["why"]
    assert "is tried: by 0 recent judgements its utility is 0.5" in tried["why"] and "better than fast" in tried["why"]
    estimate = best["estimates"]["fast"]
    assert estimate.keys() == {"quality", "speed", "utility", "judged", "drawn"}
    assert estimate["utility"] == pytest.approx(0.8 * estimate["quality"] + 0.2 * estimate["speed"], abs=2e-3)
    assert json.dumps(best)
    assert controller.choose("chat", ("balanced",)).why == "there is no other preset"


def test_fading_keeps_a_memory_of_bounded_length() -> None:
    controller = Controller(Utility(fade=0.9))
    for _ in range(200):
        controller.judged("chat", "fast", 1.0)
        controller.responded("chat", "fast", 1.0, 20)
    arm = controller.kinds["chat"].arms["fast"]
    assert arm.judged == pytest.approx(10) and arm.timed == pytest.approx(10) and arm.fast == pytest.approx(5)
    for _ in range(200):
        controller.judged("chat", "careful", 0.0)
    assert arm.judged < 1e-6


def test_what_makes_no_sense_is_refused() -> None:
    with pytest.raises(ValueError, match="good: expected a number from 0 to 1"):
        Controller().judged("chat", "fast", 2)
    for state in ({}, {"seed": 0, "decisions": 1, "kinds": {"chat": 3}}, {"seed": "x", "decisions": 1, "kinds": {}}, 7):
        with pytest.raises(ConfigError, match="controller"):
            Controller.restore(Utility(), state)

"""A controller that learns from feedback and latency which preset suits which kind of request: a contextual bandit.

The utility of a preset for a kind of request is

    (1 - weight) * quality + weight * speed

with quality the mean of what users said (1 = good, 0 = bad) and speed the mean of 1 / (1 + s / target) over the
responses, s being the seconds that a token took. Thompson sampling chooses: the utility of each preset is drawn from
what is believed of it, and the preset with the largest draw is used. So each is used about as often as it is believed
to be the best, also while judgements of earlier responses are still on their way. Quality is learned only from
responses that somebody judged, speed from all.

What is believed of a mean is normal with variance 1 / (4 (n + prior)), the largest that the mean of so many numbers
between 0 and 1 can have. What was learned
fades with every judgement, so that a change of mind is followed. Where nobody judges, nothing is tried out: after
`trials` responses without a judgement of their kind it uses what is known to be best, which at first is the default.

Nothing here reads a clock, a file or a generator: a decision is a function of the seed and of what was told before.

Sources: Thompson 1933 (Biometrika 25); Agrawal and Goyal 2013 (1209.3353, section 2: normal beliefs); Chapelle and Li
2011 (An empirical evaluation of Thompson sampling, section 4: delayed feedback); Raj and Kalyani 2017 (1707.09727:
discounting).
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from sfumato import rng
from sfumato.config import from_mapping, option

_DRAW = 61  # draw purpose


@dataclass(frozen=True)
class Utility:
    """What the controller wants, and how fast it learns."""

    weight: float = option(0.2, "share of speed in the utility; the rest is what users say", at_least=0, at_most=1)
    target: float = option(0.05, "seconds a token at which the speed counts one half", at_least=1e-6)
    fade: float = option(0.99, "what a judgement leaves of the earlier ones of its kind", at_least=0.5, at_most=1)
    prior: float = option(2.0, "judgements that a preset begins with, half of them good", at_least=0.1)
    trials: int = option(100, "responses without a judgement after which nothing new is tried", at_least=1)

    def speed(self, seconds: float, tokens: int) -> float:
        """From 0 (never) to 1 (at once)."""
        return 1 / (1 + seconds / max(tokens, 1) / self.target)


@dataclass
class Arm:
    """What was seen of one preset for one kind of request. All but `used` fade."""

    judged: float = 0.0
    """Judgements."""
    good: float = 0.0
    """Their sum."""
    timed: float = 0.0
    """Responses."""
    fast: float = 0.0
    """The sum of their speeds."""
    used: int = 0


@dataclass
class Kind:
    """What was seen of one kind of request."""

    arms: dict[str, Arm] = field(default_factory=dict)
    unjudged: int = 0
    """Choices since the last judgement."""


@dataclass(frozen=True)
class Estimate:
    """What is believed of a preset when a decision is made."""

    quality: float
    speed: float
    utility: float
    judged: float
    """Judgements that the quality rests on, faded."""
    drawn: float
    """The utility that was drawn for this decision."""


@dataclass(frozen=True)
class Decision:
    """A preset for a request, and why."""

    kind: str
    preset: str
    why: str
    estimates: Mapping[str, Estimate]

    def told(self) -> dict[str, Any]:
        """As values that JSON can hold, rounded for people."""
        estimates = {
            name: {key: round(value, 3) for key, value in asdict(estimate).items()}
            for name, estimate in self.estimates.items()
        }
        return {"kind": self.kind, "preset": self.preset, "why": self.why, "estimates": estimates}


@dataclass
class Controller:
    """Learns for each kind of request by itself which preset is best. A kind may be called anything."""

    utility: Utility = field(default_factory=Utility)
    seed: int = 0
    decisions: int = 0
    kinds: dict[str, Kind] = field(default_factory=dict)

    def choose(self, kind: str, presets: Sequence[str]) -> Decision:
        """One of these presets, and no other, for a request of this kind; the first one is the default."""
        self.decisions += 1
        estimates, seen = self.estimates(kind, presets), self.kinds.setdefault(kind, Kind())
        if len(presets) == 1:
            preset, why = presets[0], "there is no other preset"
        elif seen.unjudged >= self.utility.trials:
            known = [name for name in presets[1:] if estimates[name].judged >= self.utility.prior]
            preset = max((presets[0], *known), key=lambda name: estimates[name].utility)
            why = f"nobody has judged the latest {seen.unjudged} responses, so nothing new is tried"
        else:
            preset = max(presets, key=lambda name: estimates[name].drawn)
            why = _reason(preset, estimates)
        seen.arms.setdefault(preset, Arm()).used += 1
        seen.unjudged += 1
        return Decision(kind, preset, why, estimates)

    def estimates(self, kind: str, presets: Sequence[str]) -> dict[str, Estimate]:
        """What is believed of presets now."""
        seen, weight, prior = self.kinds.get(kind, Kind()), self.utility.weight, self.utility.prior
        z = rng.normal(self.seed, self.decisions, _DRAW, torch.arange(len(presets))).tolist()
        found = {}
        for name, drawn in zip(presets, z, strict=True):
            arm = seen.arms.get(name, Arm())
            judged, timed = arm.judged + prior, arm.timed + prior
            quality, speed = (arm.good + 0.5 * prior) / judged, (arm.fast + 0.5 * prior) / timed
            utility = (1 - weight) * quality + weight * speed
            sd = 0.5 * ((1 - weight) ** 2 / judged + weight**2 / timed) ** 0.5
            found[name] = Estimate(quality, speed, utility, arm.judged, utility + sd * drawn)
        return found

    def responded(self, kind: str, preset: str, seconds: float, tokens: int) -> None:
        """A response was written in so many seconds."""
        arm = self._faded(kind, preset, "timed", "fast")
        arm.timed += 1
        arm.fast += self.utility.speed(seconds, tokens)

    def judged(self, kind: str, preset: str, good: float) -> None:
        """Somebody judged a response, perhaps an old one; `good` is from 0 (bad) to 1."""
        if not 0 <= good <= 1:
            raise ValueError(f"good: expected a number from 0 to 1, got {good}")
        arm = self._faded(kind, preset, "judged", "good")
        arm.judged += 1
        arm.good += good
        self.kinds[kind].unjudged = 0

    def state(self) -> dict[str, Any]:
        """All that it has learned, in values that JSON can hold."""
        kinds = {name: asdict(kind) for name, kind in self.kinds.items()}
        return {"seed": self.seed, "decisions": self.decisions, "kinds": kinds}

    @classmethod
    def restore(cls, utility: Utility, state: Any) -> "Controller":
        """Go on where `state` was taken.

        Raises:
            ConfigError: what is no such state.
        """
        saved = from_mapping(_Saved, state, "controller")
        kinds = {}
        for name, kind in saved.kinds.items():
            where = f"controller: kinds: {name}"
            seen = from_mapping(_SavedKind, kind, where)
            arms = {preset: from_mapping(Arm, arm, f"{where}: {preset}") for preset, arm in seen.arms.items()}
            kinds[name] = Kind(arms, seen.unjudged)
        return cls(utility, saved.seed, saved.decisions, kinds)

    def _faded(self, kind: str, preset: str, *names: str) -> Arm:
        """The arm that something new is known of, after what was known of its kind has faded."""
        arms = self.kinds.setdefault(kind, Kind()).arms
        for arm in arms.values():
            for name in names:
                setattr(arm, name, getattr(arm, name) * self.utility.fade)
        return arms.setdefault(preset, Arm())


@dataclass(frozen=True)
class _Saved:
    """What `Controller.state` gives."""

    seed: int
    decisions: int
    kinds: dict[str, Any]


@dataclass(frozen=True)
class _SavedKind:
    arms: dict[str, Any]
    unjudged: int


def _reason(preset: str, estimates: Mapping[str, Estimate]) -> str:
    best = max(estimates, key=lambda name: estimates[name].utility)
    one, other = estimates[preset], estimates[best]
    if preset == best:
        return f"has the best utility so far, {one.utility:.2f}, by {one.judged:.0f} recent judgements"
    return (
        f"is tried: by {one.judged:.0f} recent judgements its utility is {one.utility:.2f}, which leaves a chance that "
        f"it is better than {best} with {other.utility:.2f}"
    )

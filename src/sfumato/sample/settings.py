"""Settings of a generation, and the samplers by name."""

from dataclasses import dataclass, replace
from typing import Any

from sfumato.config import ConfigError, closest, from_mapping, option
from sfumato.process import Process
from sfumato.sample.acceptance import JUDGED
from sfumato.sample.ancestral import Ancestral
from sfumato.sample.custom import load_sampler, names_file
from sfumato.sample.ddim import Ddim
from sfumato.sample.ddpm import Ddpm
from sfumato.sample.edit import Edit
from sfumato.sample.entropy_bounded import EntropyBounded
from sfumato.sample.euler import Euler
from sfumato.sample.factor import Factor
from sfumato.sample.first_hitting import FirstHitting
from sfumato.sample.gibbs import CHOICES, Gibbs
from sfumato.sample.leading import Leading
from sfumato.sample.left_to_right import LeftToRight
from sfumato.sample.ode import Ode
from sfumato.sample.order import Order
from sfumato.sample.pace import PACES
from sfumato.sample.path_planning import PathPlanning
from sfumato.sample.patience import Patient
from sfumato.sample.predictor_corrector import PredictorCorrector
from sfumato.sample.remask import STRATEGIES, Remask
from sfumato.sample.reuse import REUSES
from sfumato.sample.sampler import Sampler
from sfumato.sample.tau_leaping import TauLeaping
from sfumato.sample.threshold import Threshold

SAMPLERS = (
    "ancestral",
    "first_hitting",
    "euler",
    "confidence",
    "margin",
    "entropy",
    "threshold",
    "factor",
    "entropy_bounded",
    "remdm",
    "p2",
    "predictor_corrector",
    "gibbs",
    "edit",
    "left_to_right",
    "ddpm",
    "ddim",
    "ode",
    "tau_leaping",
)


@dataclass(frozen=True)
class Settings:
    """How to generate. Every field is also a key of a bundle's default sampler."""

    sampler: str = option("margin", "which positions to write first", SAMPLERS)
    steps: int | None = option(None, "steps in all; None = what suits the sampler, half the tokens or all", at_least=1)
    tokens_per_step: float = option(0.0, "sets the steps where they are not given; 0 = what suits", at_least=0)
    temperature: float = option(1.0, "0 = always the most probable token", at_least=0)
    top_k: int = option(0, "draw from the k most probable tokens; 0 = all", at_least=0)
    top_p: float = option(1.0, "draw from the smallest set of this probability", at_least=0.000001, at_most=1)
    threshold: float = option(
        0.9, "threshold, edit: probability above which a token is written", at_least=1e-6, at_most=1
    )
    factor: float = option(1.0, "factor: n tokens at once where (n + 1) (1 - probability) stays below", at_least=0)
    entropy_bound: float = option(0.1, "entropy_bounded: nats that may be lost in a step", at_least=0)
    judged: str = option(
        "best",
        "orders, threshold, factor: probability of the network's best token, of the drawn one, or of that after "
        "temperature and filters",
        JUDGED,
    )
    pace: str = option("even", "orders, ancestral: tokens a step, evenly or as Dream does it", PACES)
    order_temperature: float = option(0.0, "orders: draw the positions too, by their scores; 0 = the best", at_least=0)
    lead: bool = option(False, "the first step of a block writes its first token alone")
    remask: str = option("cap", "remdm: how often words become masks again", STRATEGIES)
    eta: float | None = option(
        None, "remdm: its strength (None = 0.05); p2: weight of written tokens (None = 1)", at_least=0
    )
    kappa: float = option(0.9, "predictor_corrector: share of the reverse process", at_least=1e-6, at_most=1)
    corrections: int = option(1, "gibbs: correcting steps after each step", at_least=0)
    sites: int = option(1, "gibbs: positions drawn anew in a correcting step", at_least=1)
    choice: str = option("random", "gibbs: which ones", CHOICES)
    edit_threshold: float = option(
        0.9, "edit: probability above which another token replaces a written one", at_least=1e-6, at_most=1
    )
    edit_steps: int = option(16, "edit: steps at most for a text that is filled", at_least=0)
    patience: int = option(0, "stop after so many steps without a change, when sure; 0 = never", at_least=0)
    clamp: bool = option(False, "gaussian noise: move each step's prediction to the nearest token")
    block: int = option(0, "tokens a block, written from left to right; 0 = all in one", at_least=0)
    cache: str = option("auto", "what is kept between steps; auto = whatever is exact", ("auto", *REUSES))
    refresh: int = option(0, "prefix and dual cache: steps until all is computed anew; 0 = once a block", at_least=0)
    compile: bool = option(False, "compile the network for decoding: slow to begin with, then faster")
    seed: int = option(0, "all randomness follows from it", at_least=0, below=2**63)

    def with_defaults(self, defaults: dict[str, Any], chosen: dict[str, Any]) -> "Settings":
        """These settings, then the bundle's defaults, then what the caller chose (None = not chosen).

        Raises:
            ConfigError: an unknown name, a wrong type or a value out of range.
        """
        chosen = {name: value for name, value in chosen.items() if value is not None}
        custom = chosen.get("sampler")
        if not (isinstance(custom, str) and names_file(custom)):
            return from_mapping(Settings, {**vars(self), **defaults, **chosen}, where="")
        # Only the caller may name a file: a model's defaults must not run code.
        others = {name: value for name, value in chosen.items() if name != "sampler"}
        return replace(from_mapping(Settings, {**vars(self), **defaults, **others}, where=""), sampler=custom)

    def build_sampler(self, process: Process) -> Sampler:
        """The sampler, if it makes sense for the process.

        Raises:
            ConfigError: it does not, and which ones do; or a file that holds no sampler.
        """
        if names_file(self.sampler):
            sampler = load_sampler(self.sampler)
            if process.name not in sampler.processes:
                raise ConfigError(
                    f"sampler: {self.sampler!r} is for {' or '.join(sampler.processes)}, not for the {process.name} "
                    "process of this model"
                )
            return self._patient(sampler, process)
        built = self._built(process)
        if self.sampler not in built:
            hint = closest(self.sampler, built)
            raise ConfigError(f"sampler: got {self.sampler!r}; did you mean {hint or ', '.join(built)}?")
        sampler = built[self.sampler]
        if process.name not in sampler.processes:
            good = [name for name, other in built.items() if process.name in other.processes]
            raise ConfigError(
                f"sampler: {self.sampler!r} does not make sense for a model with the {process.name} process; "
                f"use {' or '.join(good)}"
            )
        return self._patient(sampler, process)

    def _built(self, process: Process) -> dict[str, Sampler]:
        """Every sampler by its name."""
        kappa, eta = self.kappa, self.eta
        masked = process.name == "masked"
        return {
            "ancestral": Ancestral(self.pace),
            "first_hitting": FirstHitting(),
            "euler": Euler(),
            **{
                name: Order(name, self.pace, self.order_temperature, judged=self.judged)
                for name in ("confidence", "margin", "entropy")
            },
            "threshold": Threshold(self.threshold, judged=self.judged),
            "factor": Factor(self.factor, judged=self.judged),
            "entropy_bounded": EntropyBounded(self.entropy_bound, judged=self.judged),
            "remdm": Remask(self.remask, 0.05 if eta is None else min(eta, 1.0)),
            "p2": PathPlanning(1.0 if eta is None else eta),
            "predictor_corrector": Remask("renoise", 1 - kappa, "predictor_corrector")
            if masked
            else PredictorCorrector(kappa),
            "gibbs": Gibbs(self.corrections, self.sites, self.choice),
            "edit": Edit(self.threshold, self.edit_threshold, self.edit_steps),
            "left_to_right": LeftToRight(),
            **{sampler.name: sampler for sampler in (Ddpm(), Ddim(), Ode())},
            "tau_leaping": TauLeaping(),
        }

    def _patient(self, sampler: Sampler, process: Process) -> Sampler:
        """The sampler, with a leading token and adaptive stopping if these are asked for."""
        if self.lead:
            if process.name != "masked" or sampler.revises:
                raise ConfigError("lead: is for masked noise and samplers that never revise; leave it out")
            sampler = Leading(sampler)
        if not self.patience:
            return sampler
        if process.name == "autoregressive":
            raise ConfigError("patience: an autoregressive model has no text to settle on; leave it at 0")
        if process.name == "insertion":
            raise ConfigError("patience: a text that may grow is never settled before its last step; leave it at 0")
        return Patient(sampler, self.patience)

"""The sections of a recipe that tuning methods read."""

from dataclasses import dataclass

from sfumato.config.check import ConfigError, option

LORA_TARGETS = ("query", "key", "value", "out", "gate", "up", "down")
METHODS = ("answers", "text", "preference", "reinforce", "distill", "adapt")


@dataclass(frozen=True)
class ChatConfig:
    """Conversations, for `tune`."""

    system: str = option("", "the system's turn of conversations that have none; empty = none")


@dataclass(frozen=True)
class LoraConfig:
    """Low-rank adapters: thin matrices beside those of `init`, and only they are trained."""

    rank: int = option(0, "rank of the adapters; 0 = none, all weights are trained", at_least=0)
    alpha: float = option(16.0, "adapters are scaled by alpha / rank", at_least=1e-6)
    targets: tuple[str, ...] = option(LORA_TARGETS, "which matrices of each layer get one", LORA_TARGETS)
    dropout: float = option(0.0, "share of the adapters' input that training drops", at_least=0, below=1)
    merge: bool = option(True, "write one merged bundle; false writes a small adapter beside its base")

    def __post_init__(self) -> None:
        """Refuse adapters of nothing."""
        if self.rank and not self.targets:
            raise ConfigError(f"lora.targets: expected some of {', '.join(LORA_TARGETS)}, got none")


@dataclass(frozen=True)
class PreferenceConfig:
    """Learning from pairs of answers."""

    beta: float = option(0.1, "how strongly the policy is held to the reference", at_least=1e-6)
    samples: int = option(4, "noisings of each answer in a step, one mask each", at_least=1)
    smoothing: float = option(0.0, "share of the pairs that are taken to be the wrong way round", at_least=0, below=0.5)
    nll: float = option(0.0, "weight of the chosen answer's own loss, nats a token", at_least=0)


@dataclass(frozen=True)
class ReinforceConfig:
    """Learning from verifiable rewards."""

    task: str = option("", "problems with a checkable answer, such as 'addition digits=3'; empty: data.sources")
    reward: tuple[str, ...] = option(("solved",), "what is rewarded, as NAME[@WEIGHT]; the sum counts")
    pattern: str = option("", "reward regex: what all of an answer must match")
    length: int = option(0, "reward length: tokens that an answer should have at most", at_least=0)
    group: int = option(8, "answers to each prompt", at_least=2)
    estimator: str = option(
        "coupled", "how tokens are scored: under a mask and its complement, or all in one pass", ("coupled", "one_pass")
    )
    iterations: int = option(1, "optimiser steps on the same answers", at_least=1)
    clip: float = option(0.2, "how far from 1 the probability ratio of a token counts", at_least=1e-6, below=1)
    beta: float = option(0.0, "weight of the divergence from the reference, nats a token", at_least=0)
    prompt_masking: float = option(
        0.0, "one_pass: share of the prompt that is masked; 0.15 in the paper, for long prompts", at_least=0, below=1
    )
    normalise: bool = option(True, "divide rewards by their standard deviation in the group")
    temperature: float = option(1.0, "of the answers", at_least=1e-6)
    max_tokens: int = option(0, "of an answer; 0 = room for the known response, else 64", at_least=0)
    problems: int = option(64, "held-out problems of an evaluation; 0 = none", at_least=0)


@dataclass(frozen=True)
class DistillConfig:
    """Learning to write in fewer steps."""

    kind: str = option(
        "sdtt",
        "what the student learns: where its teacher's next steps lead (sdtt), or what it predicts with less noise",
        ("sdtt", "consistency"),
    )
    steps: int = option(16, "the first teacher's steps for a block, or for a row where there are no blocks", at_least=2)
    rounds: int = option(3, "how often the steps are halved; each round's student teaches the next", at_least=1)
    temperature: float = option(1.0, "of the teacher; below 1 the student becomes surer than it", at_least=1e-3)

    def __post_init__(self) -> None:
        """Refuse to halve what is one step already."""
        if self.steps % 2**self.rounds:
            good = 2**self.rounds * max(1, round(self.steps / 2**self.rounds))
            raise ConfigError(
                f"distill.steps: got {self.steps}, which cannot be halved {self.rounds} times (distill.rounds); "
                f"try {good}"
            )


@dataclass(frozen=True)
class AdaptConfig:
    """Turning an autoregressive or masked language model into a diffusion model."""

    shift: str = option("keep", "whether position i - 1 goes on predicting position i", ("keep", "remove"))
    mask: str = option(
        "mean",
        "how the mask's embedding begins in an autoregressive model: as the mean of all, or kept as it is",
        ("mean", "keep"),
    )
    anneal: float = option(
        0.5, "autoregressive: share of the steps over which what comes later becomes visible", at_least=0, at_most=1
    )

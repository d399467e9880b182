"""Processes: how clean text becomes noise, and what the network is scored on. A new process is one new file here."""

from collections.abc import Sequence

from sfumato.config import ProcessConfig
from sfumato.process.autoregressive import Autoregressive
from sfumato.process.gaussian import Gaussian
from sfumato.process.hybrid import Hybrid
from sfumato.process.insertion import Insertion
from sfumato.process.masked import Masked
from sfumato.process.noised import Embed, Growing, Noised, Process, scorable
from sfumato.process.schedule import Cosine, Linear, LogLinear, Schedule, schedule_named
from sfumato.process.uniform import Uniform

__all__ = [
    "Autoregressive",
    "Cosine",
    "Embed",
    "Gaussian",
    "Growing",
    "Hybrid",
    "Insertion",
    "Linear",
    "LogLinear",
    "Masked",
    "Noised",
    "Process",
    "Schedule",
    "Uniform",
    "build_process",
    "scorable",
]


def build_process(
    config: ProcessConfig, *, vocab_size: int, mask_id: int, never_written: Sequence[int], shift: int = 0
) -> Process:
    """The process that a recipe or a bundle names.

    Args:
        config: kind, schedule and objective.
        vocab_size: of the network.
        mask_id: the tokenizer's mask token.
        never_written: ids that the network never writes, the mask among them; noise is drawn from the others.
        shift: of a masked network, as its bundle says; the others have but one.

    Returns:
        A process; it holds no weights and no state.
    """
    objective, (low, high) = config.objective, config.levels
    schedule, words = schedule_named(config.schedule), tuple(never_written)
    match config.kind:
        case "autoregressive":
            return Autoregressive()
        case "masked":
            return Masked(mask_id, schedule, objective, (low, high), shift)
        case "insertion":
            return Insertion(mask_id, schedule, objective, (low, high))
        case "uniform":
            return Uniform(
                mask_id=mask_id,
                vocab_size=vocab_size,
                never_written=words,
                objective=objective,
                levels=(low, high),
                schedule=schedule,
            )
        case "hybrid":
            return Hybrid(
                mask_id=mask_id,
                vocab_size=vocab_size,
                never_written=words,
                objective=objective,
                levels=(low, high),
                uniform_share=config.uniform_share,
            )
        case "gaussian":
            return Gaussian(
                vocab_size=vocab_size,
                noise_scale=config.noise_scale,
                objective=objective,
                levels=(low, high),
            )
    raise AssertionError(config.kind)  # the configuration knows no other

"""Processes: how clean text becomes noise, and what the network is scored on. A new process is one new file here."""

from sfumato.config import ProcessConfig
from sfumato.process.autoregressive import Autoregressive
from sfumato.process.masked import Masked
from sfumato.process.noised import Noised, Process
from sfumato.process.schedule import Cosine, Linear, LogLinear, Schedule, schedule_named

__all__ = [
    "Autoregressive",
    "Cosine",
    "Linear",
    "LogLinear",
    "Masked",
    "Noised",
    "Process",
    "Schedule",
    "build_process",
]


def build_process(config: ProcessConfig, mask_id: int) -> Process:
    """The process that a recipe or a bundle names.

    Args:
        config: kind, schedule and objective.
        mask_id: the tokenizer's mask token.

    Returns:
        A process; it holds no weights and no state.
    """
    if config.kind == "autoregressive":
        return Autoregressive()
    return Masked(mask_id=mask_id, schedule=schedule_named(config.schedule), objective=config.objective)

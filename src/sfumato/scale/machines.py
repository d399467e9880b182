"""Ladders for the machines that people have."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Machine:
    """What a ladder takes where the user says nothing."""

    budgets: tuple[float, ...]
    """FLOPs of the groups that are fitted."""
    check: tuple[float, ...]
    """FLOPs of the trainings that the law must predict."""
    rate: float
    """FLOPs a second that small networks reach, for the estimate of the time."""
    settings: dict[str, str] = field(default_factory=dict)
    """Of the recipe."""


MACHINES = {
    "cpu": Machine((1e11, 3e11, 1e12), (3e12,), 1.5e10),
    # Batches that fill the device; the text must be the user's own, since these budgets read billions of tokens.
    "h100": Machine(
        (3e15, 1e16, 3e16),
        (1e17,),
        4e13,
        {
            "model.context": "1024",
            "tokenizer.vocab_size": "16384",
            "train.batch": "64",
            "train.device": "cuda",
            "train.dtype": "bfloat16",
            "train.compile": "true",
            "train.threads": "0",
            "train.warmup": "200",
            "train.checkpoint_every": "500",
        },
    ),
}

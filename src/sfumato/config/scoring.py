"""The section of a recipe that says what its model is good for, and how that is measured."""

from dataclasses import dataclass

from sfumato.config.check import ConfigError, option

METRICS = ("bleu", "chrf", "rouge", "exact", "slots", "coverage", "variety", "sari", "python")


@dataclass(frozen=True)
class ScoreConfig:
    """Questions with known answers, for `score`."""

    path: str = option("", "records to score with: file, folder or hf:NAME")
    prompt: str = option("", "makes prompts out of records; empty takes that of the first source")
    references: str = option("", "the right answer, such as {title}, or a list of them, such as {fr}; not for chats")
    metrics: tuple[str, ...] = option((), "how answers are judged", METRICS)
    choices: tuple[str, ...] = option((), "all possible answers: the most probable is taken, none is written")
    hole: str = option("", "what marks, in a prompt, the place to fill; empty = the answer follows the prompt")
    max_tokens: int = option(64, "length of an answer", at_least=1)

    def __post_init__(self) -> None:
        """Refuse what cannot be judged."""
        if self.prompt and not self.references:
            raise ConfigError("score.references: expected what the right answer is, such as {title}")
        if self.path and not self.metrics and not self.choices:
            raise ConfigError(f"score.metrics: expected some of {', '.join(METRICS)}")
        if self.choices and self.metrics:
            raise ConfigError("score.choices are judged by how often the right one is chosen; leave score.metrics out")

"""`sfumato tune`: teach a trained model to answer, or continue a run that was stopped."""

from typing import TextIO

from sfumato.cli.train import Options, follow
from sfumato.config import parse


def run(words: list[str], out: TextIO) -> int:
    """Tune; the exit code is 0, or 128 + the number of the signal that stopped the run."""
    about = "Tune a model on conversations, from a recipe. The same command continues a run that was stopped."
    return follow(parse(Options, words, "sfumato tune", about), out, answers=True)

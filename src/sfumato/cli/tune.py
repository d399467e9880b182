"""`sfumato tune`: teach a trained model something, or continue a run that was stopped."""

from typing import TextIO

from sfumato.cli.ranks import told_once
from sfumato.cli.train import Options, follow
from sfumato.config import ConfigError, parse


def run(words: list[str], out: TextIO) -> int:
    """Tune; the exit code is 0, or 128 + the number of the signal that stopped the run."""
    about = "Tune a model by a recipe and its method. The same command continues a run that was stopped."
    with told_once(ConfigError):
        options = parse(Options, words, "sfumato tune", about)
    return follow(options, out, tuned=True)

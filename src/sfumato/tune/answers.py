"""Supervised fine-tuning: a model learns to answer, from conversations of which only the answers are noised and scored.

Source: Nie et al. 2025 (LLaDA, 2502.09992, section 2.3).
"""

from pathlib import Path
from typing import Any

from sfumato.config import ConfigError, Recipe
from sfumato.text.chat import ChatTemplate
from sfumato.text.tokenizer import check_text
from sfumato.train.loop import train


def tune(recipe: Recipe, out: Path, **watch: Any) -> tuple[Path | None, int]:
    """Tune the model that the recipe names as `init` on its conversations, or continue a run that was stopped.

    Args:
        recipe: `data.sources` hold conversations {messages: [{role, content}, ...]} or {prompt, response};
            `chat.system` is the system's turn of those that have none.
        out: the run's folder.
        watch: who is told of what; arguments of `train`.

    Returns:
        As `train`: the bundle's folder, and the number of the signal that stopped the run or 0.

    Raises:
        ValueError: no model to start from, no conversations, and whatever `train` refuses.
    """
    if not recipe.init:
        raise ConfigError("init: expected the model to tune, a bundle's folder or name; add --init tiny")
    check_text(recipe.chat.system, "chat.system")
    return train(recipe, out, chat=ChatTemplate(default_system=recipe.chat.system), **watch)

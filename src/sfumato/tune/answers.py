"""Supervised fine-tuning: a model learns to answer, from conversations of which only the answers are noised and scored.

Source: Nie et al. 2025 (LLaDA, 2502.09992, section 2.3).
"""

from sfumato.config import Recipe
from sfumato.data.cache import Progress
from sfumato.text.chat import ChatTemplate
from sfumato.text.tokenizer import Tokenizer, check_text
from sfumato.train.denoising import Prepared, denoising


def prepare(recipe: Recipe, tokenizer: Tokenizer, steps: int, reading: Progress | None) -> Prepared:
    """`data.sources` hold conversations {messages: [{role, content}, ...]}, or prompts with their responses.

    `chat.system` is the system's turn of those that have none. The bundle keeps the template.

    Raises:
        ValueError: no conversations, and whatever training refuses.
    """
    check_text(recipe.chat.system, "chat.system")
    template = ChatTemplate(default_system=recipe.chat.system)
    return denoising(recipe, tokenizer, steps, reading, chat=template)

"""Supervised fine-tuning: a model learns to answer, from conversations of which only the answers are noised and scored.

Source: Nie et al. 2025 (LLaDA, 2502.09992, section 2.3).
"""

from dataclasses import replace

from sfumato.config import ConfigError, Recipe
from sfumato.data.cache import Progress
from sfumato.model.bundle import find_bundle, read_description
from sfumato.text.chat import ChatTemplate
from sfumato.text.interface import AnyTokenizer
from sfumato.text.tokenizer import Tokenizer, check_text
from sfumato.train.denoising import Prepared, denoising


def prepare(recipe: Recipe, tokenizer: AnyTokenizer, steps: int, reading: Progress | None) -> Prepared:
    """`data.sources` hold conversations {messages: [{role, content}, ...]}, or prompts with their responses.

    `chat.system` is the system's turn of those that have none. The bundle keeps the template.

    Raises:
        ValueError: no conversations, and whatever training refuses.
    """
    check_text(recipe.chat.system, "chat.system")
    template = _template(recipe, tokenizer)
    return denoising(recipe, tokenizer, steps, reading, chat=template)


def _template(recipe: Recipe, tokenizer: AnyTokenizer) -> ChatTemplate:
    """Our own, or that of `init` where the tokenizer is not ours; in plain words where it has none."""
    if isinstance(tokenizer, Tokenizer):
        return ChatTemplate(default_system=recipe.chat.system)
    known = read_description(find_bundle(recipe.init))[0].chat
    if known is None:
        return ChatTemplate.in_words(tokenizer.name_of(tokenizer.end_id), recipe.chat.system)
    template = ChatTemplate.from_dict(known)
    if recipe.chat.system and template.system is None:
        raise ConfigError(f"chat.system: {recipe.init} knows no system messages; leave it out")
    return replace(template, default_system=recipe.chat.system or template.default_system)

"""A passage: a beginning that is given, and what follows it.

Held-out text gives the beginnings, and its own passages say what real text scores.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sfumato.data.sources import DataError, Document
from sfumato.sample.language_model import Generation
from sfumato.text.interface import AnyTokenizer


@dataclass(frozen=True)
class Passage:
    """A prompt with its continuation."""

    prompt: str
    completion: str
    ended: bool
    """Whether the text ends here, or was only cut."""


def held_out_passages(
    documents: Iterable[Document], tokenizer: AnyTokenizer, *, prompt_tokens: int, max_tokens: int, count: int
) -> list[Passage]:
    """The beginnings of the first `count` documents that are longer than a prompt.

    Args:
        documents: real text; chats are left out.
        tokenizer: in whose tokens lengths are counted; models with other tokenizers get the same text.
        prompt_tokens: length of each prompt.
        max_tokens: length of each continuation at most, the end of the text counted.
        count: passages at most.

    Returns:
        At least one passage; a character that a length would cut in two belongs to neither side.

    Raises:
        DataError: no document is long enough.
    """
    found: list[Passage] = []
    for document in documents:
        if len(found) == count:
            break
        if not isinstance(document, str):
            continue
        ids = tokenizer.encode(document)
        end = prompt_tokens + max_tokens
        if len(ids) > prompt_tokens:
            first, rest = map(tokenizer.first_bytes, ids[:1]), map(tokenizer.token_bytes, ids[1:end])
            pieces = [*first, *rest]
            prompt, completion = _text(pieces[:prompt_tokens]), _text(pieces[prompt_tokens:])
            found.append(Passage(prompt, completion, len(ids) < end))
    if not found:
        raise DataError(f"no plain text of more than {prompt_tokens} tokens to take a prompt from; give longer ones")
    return found


def written(prompts: Sequence[str], generations: Sequence[Generation]) -> list[Passage]:
    """What a model made of the prompts."""
    pairs = zip(prompts, generations, strict=True)
    return [Passage(prompt, one.completion, one.finish_reason == "stop") for prompt, one in pairs]


def _text(pieces: Iterable[bytes]) -> str:
    return b"".join(pieces).decode(errors="ignore")

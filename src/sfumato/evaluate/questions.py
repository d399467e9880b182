"""Questions whose right answers are known, and what a model answers."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sfumato.config import Source
from sfumato.config.scoring import ScoreConfig
from sfumato.data.sources import CONVERSATION, DataError, records
from sfumato.data.template import fields_of, filled
from sfumato.process import Masked
from sfumato.sample.language_model import Generation, LanguageModel
from sfumato.text.chat import Message


@dataclass(frozen=True)
class Question:
    """Something to answer."""

    prompt: str
    references: tuple[str, ...]
    """Each of them is a right answer."""
    record: Mapping[str, Any]
    """What it was made of."""
    conversation: tuple[Message, ...] = ()
    """What was said before, where the record is a conversation."""


@dataclass(frozen=True)
class Answers:
    """What a model said, and what that cost."""

    texts: tuple[str, ...]
    nfe: float
    """Forward passes an answer."""
    tpf: float
    """Tokens written per forward pass."""
    tokens_per_second: float
    seconds: float


def questions(config: ScoreConfig, prompt: str = "", *, at_most: int | None = None) -> list[Question]:
    """The questions of a recipe's `score` section, in their order.

    Args:
        config: where the records are, and what they mean.
        prompt: the template of the prompt where the section has none; without one a record is a conversation.
        at_most: so many of them, evenly spread; None = all.

    Raises:
        ValueError: no records, or one that lacks a field; names its place.
    """
    found = list(_questions(config, config.prompt or prompt))
    if not found:
        raise DataError(f"{config.path}: no records to score with")
    count = min(at_most or len(found), len(found))
    return [found[i * len(found) // count] for i in range(count)]  # records often come sorted


def _questions(config: ScoreConfig, prompt: str) -> Iterator[Question]:
    fields = fields_of(config.references, "score.references") if config.references else []
    for place, record in records(Source(config.path)):
        try:
            if prompt and fields:
                yield Question(filled(prompt, record, "score.prompt"), _references(config, fields, record), record)
            elif messages := record.get(CONVERSATION):
                *before, last = messages
                yield Question(before[-1]["content"], (last["content"],), record, tuple(before))
            else:
                raise ValueError("no conversation; give score.prompt and score.references, templates of its fields")
        except (ValueError, TypeError, KeyError, IndexError) as error:
            raise DataError(f"{place}: {error if isinstance(error, ValueError) else 'not a conversation'}") from None


def _references(config: ScoreConfig, fields: list[str], record: Mapping[str, Any]) -> tuple[str, ...]:
    """One right answer, or each of a list where the template is nothing but that field."""
    value = record.get(fields[0])
    if config.references == f"{{{fields[0]}}}" and isinstance(value, list):
        if not value or not all(isinstance(one, str) for one in value):
            raise ValueError(f"{fields[0]}: expected texts, got {value!r:.60}")
        return tuple(value)
    return (filled(config.references, record, "score.references"),)


def answer(
    model: LanguageModel,
    asked: Sequence[Question],
    *,
    hole: str = "",
    max_tokens: int = 64,
    batch: int = 16,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
    **settings: Any,
) -> Answers:
    """Let a model answer: as a turn of a conversation where it knows those, else by going on with the prompt.

    Args:
        model: what answers.
        asked: the questions.
        hole: what marks the place to fill. The answer gets as many tokens as the first reference has; a model that
            cannot look ahead, such as an AR twin, goes on with what stands before the hole.
        max_tokens: length of an answer elsewhere.
        batch: answers written together; changes speed and memory only.
        seed: answer n uses seed + n.
        progress: told the answers so far and their number.
        settings: fields of `Settings`.

    Raises:
        ValueError: a prompt that does not fit, or an impossible setting.
    """
    texts: list[str] = []
    nfe = committed = 0
    start = time.perf_counter()
    for begin in range(0, len(asked), batch):
        part = asked[begin : begin + batch]
        how = {"seed": (seed + begin) % 2**63, **settings}
        done = _filled(model, part, hole, how) if hole else _said(model, part, max_tokens, how)
        texts += [text for text, _ in done]
        nfe += sum(generation.stats.nfe for _, generation in done)
        committed += sum(generation.stats.committed for _, generation in done)
        if progress:
            progress(len(texts), len(asked))
    seconds = time.perf_counter() - start
    return Answers(
        tuple(texts), nfe / len(texts), committed / max(1, nfe), round(committed / seconds, 1), round(seconds, 2)
    )


def _said(
    model: LanguageModel, part: Sequence[Question], max_tokens: int, how: dict[str, Any]
) -> list[tuple[str, Generation]]:
    if model.chat_template is None:
        done = model.generate([question.prompt for question in part], max_tokens=max_tokens, **how)
    else:
        talks = [question.conversation or [{"role": "user", "content": question.prompt}] for question in part]
        done = model.replies(talks, max_tokens=max_tokens, **how)
    return [(generation.completion.strip(), generation) for generation in done]


def _filled(
    model: LanguageModel, part: Sequence[Question], hole: str, how: dict[str, Any]
) -> list[tuple[str, Generation]]:
    """One at a time where the holes differ in length, which changes nothing but speed."""
    sees_ahead = isinstance(model.process, Masked) or model.process.revises
    templates, sides = [], []
    for question in part:
        before, found, after = question.prompt.partition(hole)
        if not found:
            raise ValueError(f"score.hole: no {hole!r} in the prompt {question.prompt!r:.60}")
        space = " " if before.endswith(" ") else ""  # which belongs to the token of the word behind it
        before = before.removesuffix(space)
        size = max(1, len(model.tokenizer.encode(space + question.references[0])))
        after = after if sees_ahead else ""
        templates.append(f"{_escaped(before)}{{{size}}}{_escaped(after)}")
        sides.append((len(before), len(after)))
    done = model.infill(templates, **how)
    return [
        (generation.text[left : len(generation.text) - right].strip(), generation)
        for generation, (left, right) in zip(done, sides, strict=True)
    ]


def _escaped(text: str) -> str:
    return text.replace("{", "{{").replace("}", "}}")

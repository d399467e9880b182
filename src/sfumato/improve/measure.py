"""A candidate beside the current model: on held-out text, and on held-out feedback.

Shape letters: P pairs, R rows of text, S samples of a row.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sfumato.config import Recipe, Source
from sfumato.data.batches import Batch, held_out_rows, rows_of
from sfumato.data.cache import Encoder, Plain, open_corpora
from sfumato.data.sources import Chat, Document, Pair, Report, documents
from sfumato.evaluate.paired import Difference, difference, nats_of
from sfumato.improve.dataset import Dataset
from sfumato.improve.items import Item
from sfumato.sample.language_model import LanguageModel
from sfumato.train.denoising import turns

ROWS = 128  # of text at most, and as many answers and pairs
SEQUENCES = 256  # that are predicted, about: the fewer rows there are, the more noisings of each
SEED = 3
KEPT, NEW = "held-out text", "new documents"


@dataclass(frozen=True)
class Preferred:
    """How two models tell better answers from worse ones."""

    margin: Difference
    """Nats by which the better answer is the more probable one, on average."""
    win_rate_old: float
    """Share of the pairs of which the better answer is the more probable one."""
    win_rate_new: float


@dataclass(frozen=True)
class Measured:
    """Everything that the gate goes by."""

    texts: Mapping[str, Difference]
    """What must stay: nats per token of held-out text, by its name."""
    wished: Mapping[str, Difference]
    """What is to be learned: nats per token of held-out answers and new documents."""
    pairs: Preferred | None

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, which knows no infinity: null stands for what is not finite."""
        return {**_plain(asdict(self)), "seed": SEED}


def measure(
    old: LanguageModel,
    new: LanguageModel,
    dataset: Dataset,
    texts: Mapping[str, Batch],
    wished: Mapping[str, Batch],
    since: str = "",
) -> Measured:
    """Let both models predict the same held-out text and feedback, under the same noise.

    Args:
        old: the current model.
        new: the candidate; it has the same tokenizer.
        dataset: of feedback.
        texts: what must stay, by name.
        wished: what is to be learned beside feedback, by name.
        since: time of the last feedback that the current model has learned from, ISO 8601. What was held out of that is
            judged apart: feedback that contradicts what others said before does not go unnoticed.
    """
    answers, pairs = (dataset.chosen(kind, held_out=True) for kind in ("answer", "pair"))
    wished, groups = dict(wished), dict[str, Tensor]()
    for name, found in (
        ("held-out answers", [item for item in answers if not since or item.latest > since]),
        ("earlier held-out answers", [item for item in answers if since and item.latest <= since]),
    ):
        if found:  # in the order of their hashes: of many, a fair sample
            wished[name] = _answers(old, [(item.prompt, item.response) for item in found[:ROWS]])
            groups[name] = _groups(found[:ROWS])
    return Measured(
        {name: _compared(old, new, batch) for name, batch in texts.items()},
        {name: _compared(old, new, batch, groups.get(name)) for name, batch in wished.items()},
        _preferred(old, new, pairs[:ROWS]) if pairs else None,
    )


def held_out_texts(
    recipes: Sequence[Recipe], added: Sequence[str], own: Path, model: LanguageModel
) -> tuple[dict[str, Batch], dict[str, Batch]]:
    """What training holds out of the recipes' sources, and of documents that were added to them.

    Args:
        recipes: those that learn from documents.
        added: paths of the documents among their sources that are new.
        own: the folder of the sources that come from feedback; it is judged apart.
        model: the current one.
    """
    kept, new = {}, {}
    for recipe in recipes:
        if not recipe.data.sources or not recipe.data.held_out:
            continue
        encoder = _encoder(model) if recipe.method == "answers" else Plain()
        corpora = open_corpora(recipe.data, model.tokenizer, encoder=encoder)  # all at once, as training split them
        theirs = [corpus for corpus in corpora if not Path(corpus.path).is_relative_to(own)]
        for name, found, wanted in ((KEPT, kept, False), (NEW, new, True)):
            chosen = [corpus for corpus in theirs if (corpus.path in added) == wanted]
            context = model.front.context
            batch, size = held_out_rows(chosen, context, model.tokenizer, at_most=ROWS * (context - 1))
            if size:
                found[f"{name} ({recipe.name or recipe.method})"] = batch
    return kept, new


def trusted_texts(sources: Sequence[Source], model: LanguageModel) -> dict[str, Batch]:
    """Texts that no model learns from, as rows."""
    found = {}
    for source in sources:
        read = list(documents(source, Report()))
        encoder = Plain() if read and isinstance(read[0], str) else _encoder(model)
        batch, size = rows_of(read, model.tokenizer, model.front.context, encoder)
        if size:
            found[Path(source.path).name] = _first(batch, ROWS)
    return found


def _encoder(model: LanguageModel) -> Encoder:
    """How the model's own training made rows of text."""
    config = model.bundle.config
    return turns(config) if config.chat is not None else Plain()


def _compared(old: LanguageModel, new: LanguageModel, batch: Batch, group_R: Tensor | None = None) -> Difference:
    old_RS, new_RS = (nats_of(model, batch, samples=_samples(batch), seed=SEED) for model in (old, new))
    return difference(old_RS, new_RS, batch.editable_BL.sum(dim=1), group_R)


def _groups(items: Sequence[Item]) -> Tensor:
    """What was said about the same opening is one piece of evidence, however much was said about it."""
    number = {opening: i for i, opening in enumerate(dict.fromkeys(item.opening for item in items))}
    return torch.tensor([number[item.opening] for item in items])


def _samples(batch: Batch) -> int:
    return min(max(SEQUENCES // len(batch.tokens_BL), 8), 64)


def _preferred(old: LanguageModel, new: LanguageModel, pairs: list[Item]) -> Preferred:
    """The two answers of a pair meet the same noise, as far as they are equally long."""
    better = _answers(old, [(item.prompt, item.chosen) for item in pairs])
    worse = _answers(old, [(item.prompt, item.rejected) for item in pairs])
    samples = _samples(better)

    def margin(model: LanguageModel) -> Tensor:
        better_PS, worse_PS = (nats_of(model, batch, samples=samples, seed=SEED) for batch in (better, worse))
        return worse_PS - better_PS

    old_PS, new_PS = margin(old), margin(new)
    rates = (float((margin_PS.mean(dim=1) > 0).double().mean()) for margin_PS in (old_PS, new_PS))
    return Preferred(difference(old_PS, new_PS, torch.ones(len(pairs)), _groups(pairs)), *rates)


def _answers(model: LanguageModel, said: Sequence[tuple[Any, str]]) -> Batch:
    """Each answer behind its prompt in a row of its own; of one that is longer than the context, the beginning."""
    rows = []
    for prompt, answer in said:
        batch, _ = rows_of([_pair(prompt, answer)], model.tokenizer, model.front.context, _encoder(model))
        rows.append(_first(batch, 1))
    columns = [torch.cat(parts) for parts in zip(*(vars(row).values() for row in rows), strict=True)]
    length = int((columns[1] >= 0).sum(dim=1).max())
    return Batch(*(column[:, :length] for column in columns))


def _pair(prompt: Any, answer: str) -> Document:
    if isinstance(prompt, str):
        return Pair(prompt, answer)
    said: Chat = tuple((message["role"], message["content"]) for message in prompt)
    return Pair(said, answer)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _plain(one) for name, one in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _first(batch: Batch, rows: int) -> Batch:
    return Batch(*(part[:rows] for part in vars(batch).values()))

"""What a candidate learns, stage by stage: each is a recipe with its method, and gets the data that it can learn from.

| method | learns from |
|---|---|
| answers | answers that somebody wrote or liked, and documents that are conversations |
| text | documents that are texts; for a model that knows no conversations, the answers too |
| preference | pairs of answers |

The recipe's own sources are mixed in, so that what the model could do before is not forgotten. Other methods run as
their recipe says.
"""

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sfumato.config import ConfigError, ModelConfig, ProcessConfig, Recipe, Source
from sfumato.data.sources import Report, documents
from sfumato.improve.dataset import Dataset
from sfumato.improve.items import Item
from sfumato.model.bundle import BundleConfig
from sfumato.text.interface import AnyTokenizer
from sfumato.train.run import num_steps, write_text


@dataclass(frozen=True)
class Mixture:
    """How much of what is learned comes from feedback."""

    share: float = 0.3
    """Of the tokens; the rest are the recipe's own sources and new documents."""
    epochs: float = 20.0
    """However little feedback there is, it is not repeated more often than this."""


def stages(
    recipes: Sequence[Recipe],
    dataset: Dataset,
    new: Sequence[Source],
    model: BundleConfig,
    tokenizer: AnyTokenizer,
    folder: Path,
    mixture: Mixture | None = None,
) -> list[Recipe]:
    """The recipes that have something to learn, with their data; `init` is left open.

    Args:
        recipes: in the order in which they run.
        dataset: of feedback; what it gives is written into `folder`.
        new: documents to learn beside the recipes' sources.
        model: the current model.
        tokenizer: its own.
        folder: where the data goes.
        mixture: how much of what.

    Raises:
        ConfigError: documents that no recipe can learn from.
        ValueError: documents that cannot be read.
    """
    mixture, chat = mixture or Mixture(), model.chat is not None
    talks = [source for source in new if not isinstance(next(documents(source, Report()), ""), str)]
    texts = [source for source in new if source not in talks]
    found, used = [], set[str]()
    for recipe in recipes:
        said: list[Item] = []
        more: list[Source] = []
        if recipe.method == "answers" and chat:
            said, more = dataset.chosen("answer", held_out=False), talks
        elif recipe.method == "text":
            said, more = [] if chat else dataset.chosen("answer", held_out=False), texts
        elif recipe.method == "preference":
            said = dataset.chosen("pair", held_out=False)
        if not said and not more and recipe.method in ("answers", "text", "preference"):
            continue
        used.update(source.path for source in more)
        kept = (*recipe.data.sources, *more)
        data = folder / f"{len(found)}-{recipe.method}"
        if recipe.method == "preference":
            share = [_pairs(said, data)]
            sources = (*kept, *share)
        else:
            sources = _mixed(kept, _by_weight(said, data), _share(said, recipe, model, tokenizer, mixture))
        found.append(
            replace(
                recipe,
                model=ModelConfig(),  # those of the current model
                process=ProcessConfig(),
                chat=replace(recipe.chat, system=(model.chat or {}).get("default_system", "")),
                data=replace(recipe.data, sources=sources),
            )
        )
    if unused := [source.path for source in new if source.path not in used]:
        method = "answers, for conversations" if unused[0] in [source.path for source in talks] else "text"
        raise ConfigError(f"--documents {unused[0]}: no recipe learns it; add one with the method {method}")
    return found


def _share(said: list[Item], recipe: Recipe, model: BundleConfig, tokenizer: AnyTokenizer, mixture: Mixture) -> float:
    """Of the tokens, for feedback."""
    completed = replace(recipe, model=replace(model.model, gap_head=False))
    total = num_steps(completed) * recipe.train.batch * recipe.train.accumulate * model.model.context
    own = sum(len(tokens) + 4 for tokens in tokenizer.encode_batch([_text(item) for item in said]))
    return min(mixture.share, mixture.epochs * own / max(total, 1))


def _text(item: Item) -> str:
    prompt = item.prompt if isinstance(item.prompt, str) else "\n".join(message["content"] for message in item.prompt)
    return f"{prompt}\n{item.response}"


def _mixed(kept: Sequence[Source], feedback: Sequence[tuple[Source, float]], share: float) -> tuple[Source, ...]:
    """Sources with weights that give feedback its share of the tokens."""
    total = sum(source.weight for source in kept)
    if not feedback or not total:
        return (*kept, *(replace(source, weight=weight) for source, weight in feedback))
    whole = sum(weight for _, weight in feedback)
    scale = total * share / (1 - share) / whole if share < 1 else 0.0
    kept = kept if scale else [replace(source, weight=0.0) for source in kept]
    return (*kept, *(replace(source, weight=weight * (scale or 1.0)) for source, weight in feedback))


def _by_weight(said: list[Item], folder: Path) -> list[tuple[Source, float]]:
    """A file for each weight, since a record has none of its own; with the weight of all of it."""
    groups: dict[float, list[Item]] = defaultdict(list)
    for item in said:
        groups[item.weight].append(item)
    found = []
    for weight, items in sorted(groups.items()):
        path = folder / f"answers-{weight:g}.jsonl"
        _write(path, [{"prompt": item.prompt, "response": item.response} for item in items])
        found.append((Source(str(path)), weight * sum(len(_text(item)) for item in items)))
    return found


def _pairs(said: list[Item], folder: Path) -> Source:
    path = folder / "pairs.jsonl"
    records = []
    for item in said:
        prompt = {"prompt": item.prompt} if isinstance(item.prompt, str) else {"messages": item.prompt}
        records.append({**prompt, "chosen": item.chosen, "rejected": item.rejected, "weight": item.weight})
    _write(path, records)
    return Source(str(path))


def _write(path: Path, records: Sequence[Mapping[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records))

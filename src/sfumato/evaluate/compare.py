"""Models side by side: the same prompts and budget, what they write, and what it costs.

Speed is measured in rounds: in each, every model writes the same batch of texts, so that whatever else the machine does
falls on all of them alike; what warms them up before that is not counted. Every forward counts, and each figure of
speed stands beside one of quality.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from sfumato.config import ConfigError
from sfumato.evaluate.memory import peak_memory
from sfumato.evaluate.passage import Passage
from sfumato.evaluate.text import distinct, repetition, unigram_entropy
from sfumato.sample.language_model import Generation, LanguageModel
from sfumato.sample.settings import Settings
from sfumato.text.interface import AnyTokenizer
from sfumato.text.prompt import canvas_row

GRAM = 2  # n of distinct-n
REPEAT = 4  # n of the repetition


@dataclass(frozen=True)
class Cost:
    """What the texts of one model cost."""

    nfe: float
    """Forward passes of a text, on average."""
    tpf: float
    """Committed tokens per forward pass."""
    positions_per_token: float
    """Positions run through the network for each committed token: the computation behind a text."""
    tokens_per_second: float
    slowest: float
    """Tokens per second of the slowest round."""
    fastest: float
    tokens: int
    peak_bytes: int | None
    """Weights included, see `peak_memory`; None where the device does not tell."""


@dataclass(frozen=True)
class Written:
    """The texts of one model, and their cost."""

    generations: list[Generation]
    cost: Cost


def settings_for(models: Sequence[LanguageModel], **chosen: Any) -> list[dict[str, Any]]:
    """The chosen settings for each model; a sampler goes to those that can use it, the others keep their own.

    Raises:
        ConfigError: nobody can use the sampler, or another setting is impossible.
    """
    result, refusals = [], []
    for model in models:
        mine = dict(chosen)
        try:
            _build(model, mine)
        except ConfigError as refusal:
            refusals.append(refusal)
            mine["sampler"] = None
            _build(model, mine)
        result.append(mine)
    if len(refusals) == len(models):
        raise refusals[0]
    return result


def _build(model: LanguageModel, chosen: dict[str, Any]) -> None:
    Settings().with_defaults(model.bundle.config.sampler, chosen).build_sampler(model.process)


def check_prompts(models: Sequence[LanguageModel], prompts: Sequence[str], max_tokens: int) -> None:
    """Refuse, before any work is done, a prompt that a model has no room for (ValueError)."""
    for model in models:
        for prompt in prompts:
            canvas_row(model.tokenizer, prompt, context=model.bundle.config.model.context, max_tokens=max_tokens)


def write_all(
    models: Sequence[LanguageModel],
    settings: Sequence[dict[str, Any]],
    prompts: Sequence[str],
    *,
    max_tokens: int,
    seed: int = 0,
    batch: int = 4,
    progress: Callable[[int, int], None] | None = None,
) -> list[Written]:
    """Let every model continue every prompt.

    Args:
        models: who takes part.
        settings: of each, as `LanguageModel.generate` takes them.
        prompts: text i is written with seed + i, whatever the batch.
        max_tokens: length of each continuation at most.
        seed: of the first text.
        batch: texts written together in a round.
        progress: told the texts written and their number, all models together.

    Returns:
        What each model wrote.
    """
    rounds = [list(prompts[i : i + batch]) for i in range(0, len(prompts), batch)]
    peaks = []
    for model, mine in zip(models, settings, strict=True):
        first = partial(model.generate, rounds[0], max_tokens=max_tokens, seed=seed, **mine)
        first()  # a warm-up, before anything is watched: what is watched when it is first run is never compiled
        peaks.append(peak_memory(first, model.denoiser, model.device))
    texts: list[list[list[Generation]]] = [[] for _ in models]
    done = 0
    for i, part in enumerate(rounds):
        for model, mine, mine_so_far in zip(models, settings, texts, strict=True):
            mine_so_far.append(model.generate(part, max_tokens=max_tokens, seed=seed + i * batch, **mine))
            done += len(part)
            if progress:
                progress(done, len(prompts) * len(models))
    return [Written(sum(parts, []), _cost(parts, peak)) for parts, peak in zip(texts, peaks, strict=True)]


def text_figures(passages: Sequence[Passage], tokenizer: AnyTokenizer) -> dict[str, float | None]:
    """Entropy, distinct-2 and repetition of completions, in the tokens of one tokenizer for everybody.

    None stands for what so little text does not show.
    """
    texts = [tokenizer.encode(passage.completion) for passage in passages]
    longest = max(map(len, texts), default=0)
    return {
        "entropy": unigram_entropy(texts).each if longest else None,
        "entropy_together": unigram_entropy(texts).together if longest else None,
        f"distinct_{GRAM}": distinct(texts, GRAM) if longest >= GRAM else None,
        f"repetition_{REPEAT}": repetition(texts, REPEAT) if longest >= REPEAT else None,
    }


def _cost(rounds: Sequence[Sequence[Generation]], peak: int | None) -> Cost:
    """Time and positions are those of a whole batch, and stand in each of its texts."""
    everything = [one.stats for part in rounds for one in part]
    committed, nfe = sum(stats.committed for stats in everything), sum(stats.nfe for stats in everything)
    seconds = [max(1e-4, part[0].stats.seconds) for part in rounds]  # they come rounded to that
    rates = [sum(one.stats.committed for one in part) / s for part, s in zip(rounds, seconds, strict=True)]
    return Cost(
        nfe=nfe / len(everything),
        tpf=committed / nfe,
        positions_per_token=sum(part[0].stats.positions_evaluated for part in rounds) / max(1, committed),
        tokens_per_second=committed / sum(seconds),
        slowest=min(rates),
        fastest=max(rates),
        tokens=committed,
        peak_bytes=peak,
    )

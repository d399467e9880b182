"""Choosing among texts by their likelihood: which of these answers does a model think most probable?

An autoregressive model says it exactly. A diffusion model gives a bound on each log-likelihood: of candidates of a few
tokens by trying all masks, else estimated from random noisings. All candidates lose the same places in the same
samples, so that noise cancels in their difference, and what is left of it is measured: a choice is `sure` only where
its lead is more than that.

Sources: Brown et al. 2020 (2005.14165, section 2.4) for multiple choice by likelihood; Nie et al. 2025 (LLaDA,
2502.09992, appendix B) for the same by the bound.

Shape letters: B rows, L places in a row, C candidates, S samples of each.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from sfumato.data.cache import digest
from sfumato.evaluate.continuation import NOISES, Continuation, continuation_nats, sample_stderr
from sfumato.process import Autoregressive
from sfumato.sample.language_model import LanguageModel
from sfumato.text.prompt import goes_on

DOUBT = 3.0
"""A lead of fewer standard errors may be chance."""
ROWS = 32  # sequences in a forward pass
TOGETHER = 64  # questions in a batch


@dataclass(frozen=True)
class Choice:
    """What a model chose, and how sure that is."""

    index: int
    """Of the candidate with the highest log-likelihood; of equals the first."""
    log_likelihoods: tuple[float, ...]
    """Nats, of each candidate given the prompt: exact, or estimates of lower bounds."""
    stderr: tuple[float, ...]
    """Standard error of each as an estimate, the noise that they share included; 0 where nothing was random."""
    lead: float
    """Nats between the chosen one and the next; infinite if it is alone."""
    lead_stderr: float
    """Standard error of the lead: of the difference sample by sample, in which shared noise cancels."""
    sure: bool
    """Whether the chosen one leads each other by more than `DOUBT` standard errors of that difference."""
    tokens: tuple[int, ...]
    """Scored tokens of each candidate, to compare texts of different lengths by token."""
    kind: str
    """exact or bound."""

    @property
    def by_token(self) -> int:
        """The candidate with the highest log-likelihood a token: does not prefer short ones."""
        means = [total / count for total, count in zip(self.log_likelihoods, self.tokens, strict=True)]
        return means.index(max(means))


def choose(
    model: LanguageModel,
    prompts: Sequence[str],
    choices: Sequence[str] | Sequence[Sequence[str]],
    samples: int = 32,
    seed: int = 0,
    *,
    ends: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> list[Choice]:
    """For each prompt the continuation that a model thinks most probable.

    Where the model knows conversations, a prompt is what a user says and a choice the whole answer; else a choice
    stands right behind the prompt. The two are tokenised apart, as in training on prompts with responses; so in plain
    text a choice usually begins with a space.

    Args:
        model: diffusion or autoregressive.
        prompts: one question each.
        choices: candidates, the same for all prompts, or a list for each prompt.
        samples: random noisings of each candidate, where the value is not exact and there are more masks than that.
        seed: of the noise; a result depends on neither the other prompts nor how they are batched.
        ends: the text ends behind a choice, and so does its score; conversations always do.
        progress: told the prompts done and their number.

    Raises:
        ValueError: no candidates, an empty one, or a text longer than the context; or fewer than 4 samples for a bound,
            too few to tell how sure they are.
    """
    if samples < 4 and not isinstance(model.process, Autoregressive):
        raise ValueError(f"samples: expected at least 4, to know how sure a choice is, got {samples}")
    questions = _questions(model, prompts, choices, ends)
    found: list[Choice] = []
    for begin in range(0, len(questions), TOGETHER):
        group = questions[begin : begin + TOGETHER]
        parts = _nats(model, group, samples, seed)
        kind = "exact" if isinstance(model.process, Autoregressive) else "bound"
        found += [_choice(nats_CS, question, kind) for nats_CS, question in zip(parts, group, strict=True)]
        if progress:
            progress(len(found), len(questions))
    return found


def _nats(model: LanguageModel, group: "Sequence[_Question]", samples: int, seed: int) -> list[Tensor]:
    """float64 (C, S), estimates for the candidates of each question; a single one each where nothing is random."""
    flat = [
        Continuation(before, scored, question.noise, max(len(scored) for _, scored in question.rows))
        for question in group
        for before, scored in question.rows
    ]
    found = iter(continuation_nats(model, flat, samples=samples, seed=seed, rows=ROWS))
    return [torch.stack([next(found) for _ in question.rows]) for question in group]


class _Question(NamedTuple):
    """A prompt and its candidates in tokens."""

    rows: list[tuple[list[int], list[int]]]
    """Of each candidate what is given, what opens a text included, and what is scored."""
    noise: int


def _questions(
    model: LanguageModel, prompts: Sequence[str], choices: Sequence[str] | Sequence[Sequence[str]], ends: bool
) -> list[_Question]:
    shared = [choice for choice in choices if isinstance(choice, str)]
    if shared and len(shared) < len(choices) or not shared and len(choices) != len(prompts):
        raise ValueError(f"choices: expected a list of texts, or one for each of {len(prompts)} prompts")
    questions, context, end = [], model.front.context, [model.tokenizer.end_id] * ends
    for i, prompt in enumerate(prompts):
        candidates = shared or list(choices[i])
        if not candidates or not all(candidates):
            raise ValueError(f"choices: prompt {i} has {'an empty one' if candidates else 'none'}; give texts")
        before = [*model.tokenizer.begin, *model.tokenizer.encode(prompt)]
        if model.chat_template:
            said = [{"role": "user", "content": prompt}]
            before = [*model.tokenizer.begin, *model.chat_template.prompt(said, model.tokenizer)]
            scored = model.chat_template.answers(candidates, model.tokenizer)
        else:
            continued = goes_on(model.tokenizer, before, len(before))
            scored = [[*tokens, *end] for tokens in model.tokenizer.encode_batch(candidates, continued=continued)]
        if len(before) + (longest := max(map(len, scored))) > context:
            raise ValueError(
                f"prompts[{i}]: with its longest choice {len(before) + longest} tokens, the model reads {context}; "
                "shorten it"
            )
        if model.chat_template and not model.grows and not isinstance(model.process, Autoregressive):
            # It was taught that behind an answer there are ends up to the end of the canvas, the same for all of them.
            scored = [[*tokens, *[model.tokenizer.end_id] * (longest - len(tokens))] for tokens in scored]
        questions.append(_Question([(before, tokens) for tokens in scored], digest([prompt]) % NOISES))
    return questions


def _choice(nats_CS: Tensor, question: _Question, kind: str) -> Choice:
    mean_C = nats_CS.mean(dim=1)
    order = mean_C.argsort(stable=True).tolist()
    leads = [(float(mean_C[i] - mean_C[order[0]]), sample_stderr(nats_CS[i] - nats_CS[order[0]])) for i in order[1:]]
    lead, lead_stderr = leads[0] if leads else (math.inf, 0.0)
    return Choice(
        index=order[0],
        log_likelihoods=tuple((-mean_C).tolist()),
        stderr=tuple(sample_stderr(nats_S) for nats_S in nats_CS),
        lead=lead,
        lead_stderr=lead_stderr,
        sure=all(distance > DOUBT * error for distance, error in leads),
        tokens=tuple(len(scored) for _, scored in question.rows),
        kind=kind,
    )

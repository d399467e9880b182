"""Whether a model that always takes the most probable token writes exactly what is expected.

The canvas has the length of what is expected, as in LLaDA's evaluation (Nie et al. 2025, 2502.09992, its published
code), and the sampler is the one that was chosen; left to right for an autoregressive model, for which this is what
every harness calls greedy. A row is given up at the first token that is not the expected one.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from sfumato.evaluate.continuation import Continuation
from sfumato.sample.front import Plan
from sfumato.sample.language_model import LanguageModel
from sfumato.sample.reuse import Reuse


@dataclass(frozen=True)
class Match:
    """The answer for one continuation."""

    exact: bool
    nfe: int
    """Forward passes that it took."""


def greedy_matches(
    model: LanguageModel, plan: Plan, continuations: Sequence[Continuation], *, steps: int | None = None
) -> list[Match]:
    """Whether each continuation is what the model writes at temperature 0, on a canvas of its length.

    Args:
        model: writes.
        plan: how; its temperature counts for nothing.
        continuations: they stand at the end of their rows, all of which are written together.
        steps: forward passes at most; None = one a token, as LLaDA's evaluation takes.
    """
    settings = plan.settings
    decoder = model.decoder(Reuse.chosen(settings.cache, model.layout, settings.refresh))
    running, found = dict[int, int](), [Match(False, 0)] * len(continuations)
    for i, one in enumerate(continuations):
        row = model.front.behind(one.before, len(one.tokens))
        request = plan.request(
            row.tokens,
            row.editable,
            steps=steps or len(one.tokens),
            seed=settings.seed,
            trace=not row.gaps,
            gaps=row.gaps,
            limit=row.limit,
        )
        running[decoder.add(replace(request, temperature=0.0))] = i
    revises = plan.sampler.revises or model.process.revises
    while decoder.busy:
        for event in decoder.step():
            one = continuations[running[event.request]]
            first = len(one.before)
            wrong = any(c.position >= first and c.token != one.tokens[c.position - first] for c in event.commits)
            if event.tokens is not None:
                exact = list(event.tokens[first:]) == list(one.tokens)
                found[running[event.request]] = Match(exact, event.nfe)
            elif wrong and not revises:
                decoder.cancel(event.request)
                found[running[event.request]] = Match(False, event.nfe)
    return found

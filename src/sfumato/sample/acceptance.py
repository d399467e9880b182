"""What samplers have in common that look at every open position and accept the predictions they trust.

Where noise is masks, what is accepted is final and the rest stays masked. Where noise shows words, nothing is final
before the last step: the rest gets fresh noise, and what was accepted is judged again in the next step (as
DiffusionGemma decodes). Then the network sees clean text and pure noise side by side rather than text at one noise
level, which no training showed it; these samplers are heuristics there, not samples of the model's distribution.

Shape letters: B rows, L canvas length, N positions read, C positions accepted, V vocabulary.
"""

from dataclasses import dataclass

from torch import Tensor

from sfumato.canvas import Canvas, Window
from sfumato.process import Process
from sfumato.sample.categorical import Draw
from sfumato.sample.sampler import Sampler, noise_where, settle

JUDGED = ("best", "drawn", "filtered")


@dataclass(frozen=True)
class Judged:
    """What a rule looks at."""

    logits_NV: Tensor
    """Of p(clean token | everything seen), before temperature; or after it and after the filters."""
    tokens_N: Tensor | None
    """The tokens whose probability counts; None = the most probable ones."""
    index_N: Tensor
    """Every open position of the active blocks, flat in B*L, ascending."""
    seeds_B: Tensor
    """int64, of this step."""


@dataclass(frozen=True, kw_only=True)
class Acceptance(Sampler):
    """A sampler that is one rule: which predictions to accept."""

    judged: str = "best"
    """What is judged at each position: `best`, the network's most probable token, before a token is drawn; `drawn`, the
    network's probability of the token that is drawn (LLaDA, Fast-dLLM); `filtered`, that after temperature, top-k and
    top-p, as are margin and entropy then (Dream). At temperature 0, `drawn` is `best`."""
    processes = ("masked", "uniform", "hybrid")
    commits_draws = True

    def chosen(self, judged: Judged, canvas: Canvas, window: Window, process: Process) -> Tensor:
        """bool_N, what to accept; the quota of the step (`sampler.quota`) must be among it.

        Args:
            judged: the predictions.
            canvas: the rows, at level t_B.
            window: the level s_B to reach.
            process: for its schedule.
        """
        ...

    def reads(self, canvas: Canvas, window: Window, *, process: Process, seeds_B: Tensor) -> Tensor:
        """Every open position of the active block."""
        return canvas.open_BL & window.active_BL

    def step(
        self,
        logits_NV: Tensor,
        index_N: Tensor,
        canvas: Canvas,
        window: Window,
        *,
        process: Process,
        draw: Draw,
        seeds_B: Tensor,
    ) -> Canvas:
        """Draw tokens where they are accepted."""
        logits_NV = process.denoised(logits_NV, index_N, canvas)
        tokens_N = draw(logits_NV, index_N, canvas) if self.judged != "best" and draw.random else None
        shown_NV = draw.filtered_logits(logits_NV, index_N, canvas) if self.judged == "filtered" else logits_NV
        chosen_N = self.chosen(Judged(shown_NV, tokens_N, index_N, seeds_B), canvas, window, process)
        chosen_C = chosen_N.nonzero().flatten()
        index_C = index_N[chosen_C]
        tokens_C = draw(logits_NV[chosen_C], index_C, canvas) if tokens_N is None else tokens_N[chosen_C]
        if not process.revises:
            return canvas.write(index_C, tokens_C)
        rest_BL = canvas.open_BL & window.active_BL
        rest_BL = rest_BL.flatten().index_put((index_N,), ~chosen_N).view_as(rest_BL)
        return settle(noise_where(rest_BL, canvas, process, seeds_B), index_C, tokens_C, window)

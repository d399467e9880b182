"""A sampler of your own in one file: write what is sure, but never two neighbours in one step.

Words that stand side by side depend on each other most, and positions written in the same step do not know of each
other. So of the sure positions only those are written that are surer than their neighbours.

    sfumato generate "Once upon a time" --sampler examples/my_sampler.py:Peaks
    python examples/my_sampler.py
"""

import argparse
from dataclasses import dataclass

import torch
from torch import Tensor

import sfumato
from sfumato.canvas import Canvas, Window
from sfumato.process import Process
from sfumato.sample.acceptance import Acceptance, Judged
from sfumato.sample.order import certainty
from sfumato.sample.sampler import quota, rank


@dataclass(frozen=True)
class Peaks(Acceptance):
    """Writes every position that is sure enough and surer than its neighbours, and at least the step's quota."""

    threshold: float = 0.4
    name = "peaks"

    def default_steps(self, tokens: int) -> int:
        """One a token; it takes fewer."""
        return tokens

    def chosen(self, judged: Judged, canvas: Canvas, window: Window, process: Process) -> Tensor:
        """bool_N: which of the open positions (flat places of a canvas of B rows and L columns) to write."""
        score_N, index_N = certainty(judged.logits_NV, "confidence"), judged.index_N
        score_BL = torch.zeros(canvas.tokens_BL.shape, dtype=score_N.dtype, device=score_N.device)
        score_BL.view(-1)[index_N] = score_N
        left_BL = torch.nn.functional.pad(score_BL, (1, 0))[:, :-1]
        right_BL = torch.nn.functional.pad(score_BL, (0, 1))[:, 1:]
        peak_BL = (score_BL > left_BL) & (score_BL >= right_BL) & (score_BL >= self.threshold)
        due_N = rank(score_N, index_N, canvas) < quota(canvas, window, process)[index_N // canvas.tokens_BL.shape[1]]
        return due_N | peak_BL.flatten()[index_N]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--max-tokens", type=int, default=48)
    arguments = parser.parse_args()
    model = sfumato.load()
    for sampler in (f"{__file__}:Peaks", "threshold"):
        written = model.generate("Once upon a time", sampler=sampler, threshold=0.4, max_tokens=arguments.max_tokens)
        print(f"{written.stats.nfe} forwards, {sampler.rpartition(':')[2]}: {written.text}")

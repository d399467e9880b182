"""Left to right, one token a step: how an autoregressive model writes; masked diffusion may too."""

from dataclasses import dataclass

from torch import Tensor

from sfumato.canvas import Canvas, Window
from sfumato.process import Process
from sfumato.sample.categorical import Draw
from sfumato.sample.sampler import Sampler


@dataclass(frozen=True)
class LeftToRight(Sampler):
    """Writes the first open position of each row; the number of steps is the number of tokens."""

    name = "left_to_right"
    processes = ("autoregressive", "masked")
    commits_draws = True

    def default_steps(self, tokens: int) -> int:
        """One a token."""
        return tokens

    def reads(self, canvas: Canvas, window: Window, *, process: Process, seeds_B: Tensor) -> Tensor:
        """The first open position of the active block."""
        open_BL = canvas.open_BL & window.active_BL
        return open_BL & (open_BL.cumsum(dim=1) == 1)

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
        """Write it."""
        return canvas.write(index_N, draw(logits_NV, index_N, canvas))

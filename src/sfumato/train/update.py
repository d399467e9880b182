"""What follows a backward pass: judge the step, clip, update, average, count."""

import math
import time
from typing import Any

import torch
from torch import Tensor

from sfumato.config import Recipe
from sfumato.train.optimiser import schedule_factor
from sfumato.train.parallel import local
from sfumato.train.state import State

SPIKE_SDS = 6.0  # a loss this many standard deviations above its running mean is a spike
SPIKE_AFTER = 100  # steps before spikes are judged


class Update:
    """Takes the gradients that a loss has left on the network."""

    def __init__(self, recipe: Recipe, state: State, steps: int, *, spikes: bool = True):
        """Everything that stays the same from step to step.

        Args:
            recipe: how to update.
            state: what is updated.
            steps: their number.
            spikes: leave out steps whose loss is one; not for losses that do not say how well the model does.
        """
        self.recipe, self.state, self.steps, self.spikes = recipe, state, steps, spikes

    def __call__(self, loss: Tensor, tokens: int, start: float) -> dict[str, Any]:
        """Make the step, unless its loss is a spike or not finite, and clear the gradients.

        Args:
            loss: scalar, detached; what it is judged by.
            tokens: how many the step has read.
            start: `time.perf_counter()` when the step began.

        Returns:
            The record for metrics.jsonl.
        """
        state, config = self.state, self.recipe.train
        loss_value, norm_value = self._totals(loss).tolist()  # the step's only transfer to the host
        good = self._judge(loss_value, norm_value)
        factor = schedule_factor(state.step, self.steps, config)
        if good:
            self._update(norm_value, factor)
        for optimiser in state.optimisers:
            optimiser.zero_grad(set_to_none=True)
        state.step += 1
        state.skipped += not good
        state.spikes.bad = 0 if good else state.spikes.bad + 1
        state.tokens += tokens
        return {
            "step": state.step,
            "loss": loss_value,
            "grad_norm": norm_value,
            "lr": config.lr * factor,
            "tokens": state.tokens,
            "tokens_per_second": round(tokens / (time.perf_counter() - start), 1),
            "skipped": state.skipped,
        }

    def _totals(self, loss: Tensor) -> Tensor:
        """The loss and the norm of its gradient, of all processes together; (2,)."""
        processes = self.state.processes
        norm = torch.nn.utils.get_total_norm(self._gradients())
        if processes.count == 1:
            return torch.stack((loss, norm))
        # Where the weights are copies, so are their gradients: every copy counts one share.
        copies = processes.count // processes.shard
        loss, square = processes.total(torch.stack((loss, norm.square() / copies)))
        return torch.stack((loss, square.sqrt()))

    def _gradients(self) -> list[Tensor]:
        return [local(p.grad) for p in self.state.denoiser.parameters() if p.grad is not None]

    def _judge(self, loss: float, norm: float) -> bool:
        """Whether the step may be taken: finite, and no spike against the running mean of the loss."""
        state = self.state
        sd = math.sqrt(max(state.loss_square - state.loss_mean**2, 0.0))
        finite = math.isfinite(loss) and math.isfinite(norm)
        judged = self.spikes and state.step >= SPIKE_AFTER
        spike = judged and loss > state.loss_mean + SPIKE_SDS * max(sd, 0.01 * state.loss_mean)
        if not finite or spike:
            return False
        rate = max(0.02, 1 / (state.step + 1))
        state.loss_mean += rate * (loss - state.loss_mean)
        state.loss_square += rate * (loss**2 - state.loss_square)
        return True

    def _update(self, norm: float, factor: float) -> None:
        state, config = self.state, self.recipe.train
        if config.clip and norm > config.clip:
            torch._foreach_mul_(self._gradients(), config.clip / norm)
        for optimiser in state.optimisers:
            for group in optimiser.param_groups:
                group["lr"] = group["base_lr"] * factor
            optimiser.step()
        if state.average:
            # an average that starts short, so that early evaluations do not show the random beginning
            rate = 1 - min(config.ema, (1 + state.step) / (10 + state.step))
            with torch.no_grad():
                torch._foreach_lerp_([*map(local, state.average.values())], [*map(local, state.learned.values())], rate)

"""Everything that changes during training, and how it is kept in a checkpoint."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from sfumato.model.transformer import Transformer
from sfumato.train import checkpoint


class Rows(Protocol):
    """Where training examples come from, without end."""

    def state(self) -> dict[str, Any]:
        """Where it is, in values that JSON can hold."""
        ...

    def restore(self, state: dict[str, Any]) -> None:
        """Go on exactly where `state` was taken. ValueError: the data has changed since."""
        ...


@dataclass
class State:
    """Everything that changes during training."""

    denoiser: Transformer
    optimisers: list[torch.optim.Optimizer]
    average: dict[str, Tensor]
    stream: Rows
    step: int = 0
    tokens: int = 0
    skipped: int = 0
    loss_mean: float = 0.0
    loss_square: float = 0.0
    best: float = 0.0
    """The least held-out loss of an evaluation; 0 = there was none yet."""
    stale: int = 0
    """Evaluations since then."""

    COUNTERS = ("step", "tokens", "skipped", "loss_mean", "loss_square", "best", "stale")

    def save(self, folder: Path, keep: int) -> None:
        """Write a checkpoint."""
        tensors = {f"weight/{name}": p for name, p in self.denoiser.named_parameters()}
        tensors |= {f"average/{name}": value for name, value in self.average.items()}
        for i, optimiser in enumerate(self.optimisers):
            for j, parameter in enumerate(_parameters(optimiser)):
                tensors |= {f"optimiser/{i}/{j}/{k}": v for k, v in optimiser.state[parameter].items()}
        counters = {name: getattr(self, name) for name in self.COUNTERS}
        checkpoint.save(folder, self.step, tensors, counters | {"stream": self.stream.state()}, keep)

    def restore(self, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
        """Continue from a checkpoint."""
        self.stream.restore(state["stream"])
        for name in self.COUNTERS:
            setattr(self, name, state.get(name, 0))
        with torch.no_grad():
            for name, parameter in self.denoiser.named_parameters():
                parameter.copy_(tensors[f"weight/{name}"])
        for name in self.average:
            self.average[name].copy_(tensors[f"average/{name}"])
        for i, optimiser in enumerate(self.optimisers):
            for j, parameter in enumerate(_parameters(optimiser)):
                prefix = f"optimiser/{i}/{j}/"
                for key, value in tensors.items():
                    if key.startswith(prefix):
                        optimiser.state[parameter][key.removeprefix(prefix)] = value.to(parameter.device)


def _parameters(optimiser: torch.optim.Optimizer) -> list[Tensor]:
    return [parameter for group in optimiser.param_groups for parameter in group["params"]]


def averaged_network(state: State) -> Transformer:
    """A copy of the network with the averaged weights, in evaluation mode."""
    forbidden = state.denoiser.forbidden_V.isinf().nonzero().flatten().tolist()
    copy = Transformer(state.denoiser.config, never_written=forbidden).to(state.denoiser.forbidden_V.device)
    weights = state.average or dict(state.denoiser.named_parameters())
    copy.load_state_dict({name: value.detach() for name, value in weights.items()})
    return copy.eval().requires_grad_(False)

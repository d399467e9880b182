"""Everything that changes during training, and how it is kept in a checkpoint."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from sfumato.config import Recipe
from sfumato.model.adapter import Adapter, AdapterConfig, base_name
from sfumato.model.bundle import Network, find_bundle
from sfumato.model.lora import adapter_of, merged, scale_of
from sfumato.train import checkpoint
from sfumato.train.spikes import Spikes


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

    denoiser: Network
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
    spikes: Spikes = field(default_factory=Spikes)
    base: str = ""
    """SHA-256 of the weights that do not learn, since adapters do in their place."""
    others: dict[str, Tensor] = field(default_factory=dict)
    """What else a method changes as it goes, such as a teacher's weights; changed in place."""

    COUNTERS = ("step", "tokens", "skipped", "loss_mean", "loss_square", "best", "stale")

    def finite(self) -> bool:
        """Whether all that the next steps are made from is a number."""
        found = [*self.learned.values(), *self.average.values()]
        found += [
            value for optimiser in self.optimisers for kept in optimiser.state.values() for value in kept.values()
        ]
        return all(torch.stack([t.isfinite().all() for t in found if t.is_floating_point()]).tolist())

    @property
    def learned(self) -> dict[str, Tensor]:
        """The weights that training changes, by name."""
        return {name: p for name, p in self.denoiser.named_parameters() if p.requires_grad}

    def save(self, folder: Path, keep: int) -> None:
        """Write a checkpoint."""
        tensors = {f"weight/{name}": p for name, p in self.learned.items()}
        tensors |= {f"average/{name}": value for name, value in self.average.items()}
        tensors |= {f"other/{name}": value for name, value in self.others.items()}
        for i, optimiser in enumerate(self.optimisers):
            for j, parameter in enumerate(_parameters(optimiser)):
                tensors |= {f"optimiser/{i}/{j}/{k}": v for k, v in optimiser.state[parameter].items()}
        counters = {name: getattr(self, name) for name in self.COUNTERS}
        others = {"base": self.base, "spikes": asdict(self.spikes), "stream": self.stream.state()}
        with checkpoint.writing(folder, self.step) as scratch:
            checkpoint.write(scratch, tensors, counters | others)
        checkpoint.prune(folder, keep, self.spikes.good)

    def restore(self, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
        """Continue from a checkpoint. ValueError: the data, or what the adapters belong to, has changed since."""
        if state.get("base", "") != self.base:
            raise ValueError("init: its weights have changed since this run began; restore them, or start a new run")
        self.stream.restore(state["stream"])
        for name in self.COUNTERS:
            setattr(self, name, state.get(name, 0))
        self.spikes = Spikes(**state.get("spikes", {}))
        self.fill(tensors)

    def fill(self, tensors: dict[str, Tensor]) -> None:
        """Take over what a checkpoint holds of weights, averages and moments, and nothing else."""
        with torch.no_grad():
            for name, parameter in self.learned.items():
                parameter.copy_(tensors[f"weight/{name}"])
        for name in self.average:
            self.average[name].copy_(tensors[f"average/{name}"])
        for name in self.others:
            self.others[name].copy_(tensors[f"other/{name}"])
        for i, optimiser in enumerate(self.optimisers):
            for j, parameter in enumerate(_parameters(optimiser)):
                prefix = f"optimiser/{i}/{j}/"
                for key, value in tensors.items():
                    if key.startswith(prefix):
                        optimiser.state[parameter][key.removeprefix(prefix)] = value.to(parameter.device)


def _parameters(optimiser: torch.optim.Optimizer) -> list[Tensor]:
    return [parameter for group in optimiser.param_groups for parameter in group["params"]]


def averaged_network(state: State) -> Network:
    """A copy of the network with the averaged weights, adapters merged into them, in evaluation mode."""
    copy = state.denoiser.blank().to(state.denoiser.forbidden_V.device)
    weights = dict(state.denoiser.named_parameters()) | state.average
    copy.load_state_dict(merged(state.denoiser, weights))
    return copy.eval().requires_grad_(False)


def kept_adapter(recipe: Recipe, state: State) -> Adapter:
    """The averaged adapters, and whose they are."""
    config = AdapterConfig(base_name(find_bundle(recipe.init)), state.base, recipe.lora.rank, scale_of(state.denoiser))
    return Adapter(config, adapter_of(state.denoiser, state.learned | state.average))

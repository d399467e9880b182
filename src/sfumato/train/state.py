"""Everything that changes during training, and how it is kept in a checkpoint."""

import contextlib
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from sfumato.config import Recipe
from sfumato.model.adapter import Adapter, AdapterConfig, base_name
from sfumato.model.bundle import Network, find_bundle, without_weights
from sfumato.model.lora import adapter_of, merged, scale_of
from sfumato.train import checkpoint, sharded
from sfumato.train.parallel import ALONE, Processes, local
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
    processes: Processes = ALONE
    others: dict[str, Tensor] = field(default_factory=dict)
    """What else a method changes as it goes, such as a teacher's weights; changed in place."""

    COUNTERS = ("step", "tokens", "skipped", "loss_mean", "loss_square", "best", "stale")

    @property
    def learned(self) -> dict[str, Tensor]:
        """The weights that training changes, by name."""
        return {name: p for name, p in self.denoiser.named_parameters() if p.requires_grad}

    def finite(self) -> bool:
        """Whether weights, averages and moments are numbers, in all processes."""
        found = [*self.learned.values(), *self.average.values()]
        for optimiser in self.optimisers:
            found += [value for kept in optimiser.state.values() for value in kept.values()]
        good: dict[torch.device, list[Tensor]] = {}
        for values in found:
            if values.is_floating_point():
                good.setdefault(values.device, []).append(local(values).isfinite().all())
        return not self.processes.most(int(not all(bool(torch.stack(flags).all()) for flags in good.values())))

    @cached_property
    def _writer(self) -> sharded.Writer:
        return sharded.Writer(self.processes)

    def save(self, folder: Path, keep: int) -> None:
        """Write a checkpoint; shared weights are written while training goes on, see `settle`.

        Raises:
            OSError: it cannot be written, or the one before could not.
        """
        tensors, about = self._tensors(), self._about()
        if self.processes.mesh is not None:
            self._writer.begin(folder, self.step, tensors, about, keep)
            return
        self.processes.agreed(lambda: _write(folder, self.step, tensors, about, keep))

    def settle(self) -> None:
        """Wait until the last checkpoint is on the disk. OSError: it cannot be written."""
        if self.processes.mesh is not None:
            self._writer.finish()

    def close(self) -> None:
        """Do not leave while the last checkpoint is being written, whatever the reason for leaving."""
        if "_writer" in vars(self):
            self._writer.close()

    def _about(self) -> dict[str, Any]:
        """What is no tensor; complete in the first process only."""
        found = self.processes.gathered(self.stream.state()) or [{}]
        merged = getattr(self.stream, "merged", None)
        stream = merged(found) if merged and self.processes.first else found[0]
        counters = {name: getattr(self, name) for name in self.COUNTERS}
        return counters | {"base": self.base, "spikes": asdict(self.spikes), "stream": stream}

    def _tensors(self) -> dict[str, Tensor]:
        tensors = {f"weight/{name}": p for name, p in self.learned.items()}
        tensors |= {f"average/{name}": value for name, value in self.average.items()}
        tensors |= {f"other/{name}": value for name, value in self.others.items()}
        for i, optimiser in enumerate(self.optimisers):
            for j, parameter in enumerate(_parameters(optimiser)):
                tensors |= {f"optimiser/{i}/{j}/{k}": v for k, v in optimiser.state[parameter].items()}
        return tensors

    def restore(self, path: Path) -> None:
        """Continue from a checkpoint, of any number of processes.

        Raises:
            ValueError: the data, or what the adapters belong to, has changed since.
        """
        state = checkpoint.read_state(path)
        tensors = self._read(path)
        if state.get("base", "") != self.base:
            raise ValueError("init: its weights have changed since this run began; restore them, or start a new run")
        self.stream.restore(state["stream"])
        for name in self.COUNTERS:
            setattr(self, name, state.get(name, 0))
        self.spikes = Spikes(**state.get("spikes", {}))
        self._take_over(tensors)

    def go_back(self, path: Path) -> int:
        """Take over weights, averages and moments of an earlier checkpoint, and nothing else; the step it is of."""
        state = checkpoint.read_state(path)
        self._take_over(self._read(path))
        self.loss_mean, self.loss_square = state["loss_mean"], state["loss_square"]
        return state["step"]

    def _read(self, path: Path) -> dict[str, Tensor]:
        alone = self.processes.mesh is None and checkpoint.written_alone(path)
        return checkpoint.load_tensors(path) if alone else sharded.read(path, self._like)

    def _take_over(self, tensors: dict[str, Tensor]) -> None:
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

    def _like(self, name: str, size: torch.Size, dtype: torch.dtype) -> Tensor:
        """What a tensor of a checkpoint is read into."""
        kind, _, rest = name.partition("/")
        kept = {"weight": self.learned, "average": self.average, "other": self.others}.get(kind, {}).get(rest)
        if kept is not None:
            return kept.detach()
        if kind == "optimiser":
            i, j, key = rest.split("/")
            optimiser = self.optimisers[int(i)]
            parameter = _parameters(optimiser)[int(j)]
            held = optimiser.state.get(parameter, {}).get(key)
            if held is not None and held.shape == size and held.dtype == dtype:
                return held  # not beside it: moments are the most of what a device holds
            if parameter.shape == size:
                return torch.zeros_like(parameter, dtype=dtype).detach()
        return torch.zeros(size, dtype=dtype)


def _write(folder: Path, step: int, tensors: dict[str, Tensor], about: dict[str, Any], keep: int) -> None:
    with checkpoint.writing(folder, step) as scratch:
        checkpoint.write(scratch, tensors, about)
    checkpoint.prune(folder, keep, about["spikes"]["good"])


def _parameters(optimiser: torch.optim.Optimizer) -> list[Tensor]:
    return [parameter for group in optimiser.param_groups for parameter in group["params"]]


def averaged_network(state: State) -> Network:
    """A copy of the network with the averaged weights, adapters merged into them, in evaluation mode.

    Of processes that train together all must ask, and only the first gets it; the others the network as it is.
    """
    weights = dict(state.denoiser.named_parameters()) | state.average
    shared, device = state.processes.mesh is not None, state.denoiser.forbidden_V.device
    if shared:
        weights = dict(state.processes.collected(weights, device))
    if not state.processes.first:
        return state.denoiser
    with without_weights() if shared else contextlib.nullcontext():  # the collected ones become its own
        copy = state.denoiser.blank()
    copy = copy if shared else copy.to(device)
    copy.load_state_dict(merged(state.denoiser, weights), assign=shared)
    copy = copy.to(next(copy.parameters()).device)  # the collected ones may be in main memory, for want of room
    return copy.eval().requires_grad_(False)


def kept_adapter(recipe: Recipe, state: State) -> Adapter | None:
    """The averaged adapters, and whose they are; in all processes but the first, which must ask too, None."""
    weights = state.learned | state.average
    if state.processes.mesh is not None:
        weights = dict(state.processes.collected(weights, state.denoiser.forbidden_V.device))
    if not state.processes.first:
        return None
    config = AdapterConfig(base_name(find_bundle(recipe.init)), state.base, recipe.lora.rank, scale_of(state.denoiser))
    return Adapter(config, adapter_of(state.denoiser, weights))

"""Optimisers and the learning-rate schedule.

Muon for matrices and AdamW for the rest, or AdamW for all; which is better is settled by measurement.
"""

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from sfumato.config import ConfigError, ModelConfig, TrainConfig
from sfumato.model.bundle import Network
from sfumato.train.moments import AdamW8bit, Memory8bit, pieces
from sfumato.train.parallel import local, on_wholes, shards

TOGETHER = 2**26  # numbers whose update is worked out at a time


class Muon(torch.optim.Optimizer):
    """Momentum whose update of a matrix is orthogonalised by five Newton-Schulz steps.

    As `torch.optim.Muon`, but matrices of equal shape go through the iteration as one batch, in the precision that
    training uses: torch's runs in bfloat16, which a CPU without bfloat16 units emulates (measured: 12 s a step for 5M
    parameters against 0.4 s).

    Source: Jordan et al. 2024, "Muon: an optimizer for hidden layers in neural networks".
    """

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float = 2e-2,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
        steps: int = 5,
        dtype: torch.dtype = torch.float32,
        small: bool = False,
    ):
        """Args as in `torch.optim.Muon`; `steps` of the Newton-Schulz iteration, in `dtype`; small: 8-bit momenta."""
        self.dtype, self.memory = dtype, Memory8bit("momentum", signed=True) if small else None
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "steps": steps})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """One update of every parameter that has a gradient."""
        assert closure is None
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[Tensor]] = defaultdict(list)
            for parameter in group["params"]:
                if parameter.grad is not None:
                    by_shape[parameter.shape].append(parameter)
            for shape, parameters in by_shape.items():
                # Alike in all processes, though the last ones may hold less: they exchange these matrices together.
                count = max(1, TOGETHER * shards(parameters[0]) // max(1, shape.numel()))
                for begin in range(0, len(parameters), count):
                    self._update(parameters[begin : begin + count], shape, group)

    def _update(self, parameters: list[Tensor], shape: torch.Size, group: dict[str, Any]) -> None:
        momenta = [self._momentum(p) for p in parameters]
        gradients = [local(p.grad) for p in parameters if p.grad is not None]
        torch._foreach_lerp_(momenta, gradients, 1 - group["momentum"])
        nesterov = torch.stack(torch._foreach_lerp(gradients, momenta, group["momentum"])).to(self.dtype)
        for parameter, momentum in zip(parameters, momenta, strict=True):
            self._keep(parameter, momentum)
        scale = max(1.0, shape[0] / shape[1]) ** 0.5
        update = on_wholes(lambda matrix_GMN: orthogonalise(matrix_GMN, group["steps"]), nesterov, like=parameters[0])
        update *= -group["lr"] * scale
        parameters = [local(p) for p in parameters]
        if group["weight_decay"]:
            torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
        torch._foreach_add_(parameters, list(update.to(parameters[0].dtype).unbind()))

    def _momentum(self, parameter: Tensor) -> Tensor:
        """The momentum itself, or what is remembered of it."""
        state = self.state[parameter]
        if not state and self.memory:
            self.memory.begin(state, parameter)
        elif not state:
            state["momentum"] = torch.zeros_like(parameter)
        if self.memory is None:
            return local(state["momentum"])
        parts = [self.memory.read(state, *piece) for piece in pieces(parameter.numel())]
        return torch.cat(parts).view_as(parameter).to(parameter.dtype)

    def _keep(self, parameter: Tensor, momentum: Tensor) -> None:
        """Remember the new momentum."""
        if self.memory:
            for begin, end in pieces(momentum.numel()):
                self.memory.write(self.state[parameter], begin, momentum.view(-1)[begin:end].float())


def orthogonalise(matrix_GMN: Tensor, steps: int) -> Tensor:
    """Push all singular values of each matrix (G, M, N) to about 1 with a quintic Newton-Schulz iteration."""
    a, b, c = 3.4445, -4.7750, 2.0315
    wide = matrix_GMN.shape[1] <= matrix_GMN.shape[2]
    x = matrix_GMN if wide else matrix_GMN.mT
    x = x / (torch.linalg.matrix_norm(x, keepdim=True) + 1e-7)
    for _ in range(steps):
        gram = x @ x.mT  # x <- a x + (b gram + c gram gram) x
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x if wide else x.mT


def build_optimisers(denoiser: Network, config: TrainConfig) -> list[torch.optim.Optimizer]:
    """AdamW alone, or Muon for the hidden matrices and AdamW for embeddings, gains and biases.

    Weight decay touches matrices only; what needs no gradient is left out. `config.dtype` is the resolved one. With
    `config.optimizer_state` "8bit" moments and momenta are remembered in 8 bits, but for those of gains and biases.
    """
    rows = {f"{name}.weight" for name, module in denoiser.named_modules() if isinstance(module, nn.Embedding)}
    rows |= {*denoiser.tables, "gap.weight"}
    matrices, tables, vectors = [], [], []
    for name, parameter in denoiser.named_parameters():
        if not parameter.requires_grad:
            continue
        (vectors if parameter.ndim < 2 else tables if name in rows else matrices).append(parameter)
    muon, small = config.optimizer == "muon", config.optimizer_state == "8bit"
    hidden, table = _transferred(denoiser, config)
    groups: list[dict[str, Any]] = [
        *([] if muon else [{"params": matrices, "weight_decay": config.weight_decay, "lr": config.lr * hidden}]),
        {"params": tables, "weight_decay": config.weight_decay, "lr": config.lr * table},
        {"params": vectors, "weight_decay": 0.0},
    ]
    optimisers: list[torch.optim.Optimizer] = []
    if small:  # the few numbers of the vectors are worth their 32 bits
        optimisers.append(AdamW8bit(groups[:-1], lr=config.lr, betas=(0.9, 0.95)))
        groups = groups[-1:]
    if vectors or not small:
        optimisers.append(torch.optim.AdamW(groups, lr=config.lr, betas=(0.9, 0.95), fused=True))
    if muon:
        dtype = torch.bfloat16 if config.dtype == "bfloat16" else torch.float32
        muon_of = {"lr": config.matrix_lr, "weight_decay": config.weight_decay, "dtype": dtype, "small": small}
        optimisers.append(Muon(matrices, **muon_of))
    for optimiser in optimisers:
        for group in optimiser.param_groups:
            group["base_lr"] = group["lr"]
    return optimisers


def _transferred(denoiser: Network, config: TrainConfig) -> tuple[float, float]:
    """What AdamW's rate is multiplied with for hidden matrices and for tables, so that width changes no step's effect.

    AdamW moves every number of a matrix by about its rate, and a wider matrix adds up more of them: Theta(width). The
    numbers of a table are small, 1 / sqrt(width), and what is read there is multiplied by the root: Theta(sqrt(width)).
    Muon's update has the same norm at every width, and gains do the same everywhere.

    Source: Yang et al. 2022 (muP, 2203.03466, table 3) for the matrices; ours for tables of this scale.
    """
    if not config.transfer_width:
        return 1.0, 1.0
    if not isinstance(denoiser.config, ModelConfig):
        raise ConfigError("train.transfer_width is for networks of our own; leave it at 0")
    ratio = config.transfer_width / denoiser.config.width
    return ratio, ratio**0.5


def schedule_factor(step: int, steps: int, config: TrainConfig) -> float:
    """Warm-up, stable, linear decay to zero: what the learning rates are multiplied with at `step` (from 0)."""
    warmup = min(1.0, (step + 1) / max(1, config.warmup))
    decay_steps = max(1, round(steps * config.decay))
    return min(warmup, (steps - step) / decay_steps) if config.decay else warmup

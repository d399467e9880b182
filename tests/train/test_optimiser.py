import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from sfumato.config import ModelConfig, TrainConfig
from sfumato.model.transformer import Transformer
from sfumato.train.optimiser import Muon, build_optimisers, orthogonalise, schedule_factor

SHAPES = pytest.mark.parametrize("shape", [(48, 16), (16, 48), (32, 64), (64, 24)])


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@SHAPES
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e4])
def test_all_singular_values_become_about_1(shape: tuple[int, int], scale: float) -> None:
    values = torch.linalg.svdvals(orthogonalise(scale * random(3, *shape), 5))
    assert 0.65 < values.min() and values.max() < 1.25


def test_the_directions_are_kept() -> None:
    matrix = random(1, 20, 30)
    u, _, vh = torch.linalg.svd(matrix[0], full_matrices=False)
    rotated = u.mT @ orthogonalise(matrix, 5)[0] @ vh.mT
    torch.testing.assert_close(rotated, torch.diag(rotated.diagonal()), rtol=0, atol=1e-5)


def test_a_gradient_of_zero_moves_nothing() -> None:
    assert orthogonalise(torch.zeros(2, 4, 6), 5).eq(0).all()


@SHAPES
def test_a_batch_of_matrices_is_one_by_one(shape: tuple[int, int]) -> None:
    matrices = random(5, *shape)
    alone = torch.cat([orthogonalise(matrix[None], 5) for matrix in matrices])
    torch.testing.assert_close(orthogonalise(matrices, 5), alone, rtol=0, atol=1e-5)


def stepped(optimiser: torch.optim.Optimizer, parameters: list[nn.Parameter], steps: int = 3) -> list[Tensor]:
    """How far each parameter has moved after a few steps with given gradients."""
    start = [parameter.detach().clone() for parameter in parameters]
    for step in range(steps):
        for i, parameter in enumerate(parameters):
            parameter.grad = random(*parameter.shape, seed=100 * step + i)
        optimiser.step()
    return [parameter.detach() - before for parameter, before in zip(parameters, start, strict=True)]


def parameters() -> list[nn.Parameter]:
    return [nn.Parameter(random(*shape, seed=7)) for shape in ((16, 48), (48, 16), (16, 48), (24, 24))]


def test_a_step_goes_where_that_of_torch_goes() -> None:
    ours, theirs = parameters(), parameters()
    moved = stepped(Muon(ours, lr=0.02, weight_decay=0.1), ours)
    expected = stepped(torch.optim.Muon(theirs, lr=0.02, momentum=0.95, weight_decay=0.1), theirs)
    for mine, reference in zip(moved, expected, strict=True):
        assert torch.cosine_similarity(mine.flatten(), reference.flatten(), dim=0) > 0.998  # torch: bfloat16
        assert float(mine.norm() / reference.norm()) == pytest.approx(1, rel=0.01)


def test_parameters_without_a_gradient_stay() -> None:
    moving, still = parameters()[:2]
    optimiser = Muon([moving, still], lr=0.1, weight_decay=0.5)
    moving.grad = torch.ones_like(moving)
    optimiser.step()
    assert torch.equal(still, parameters()[1]) and not torch.equal(moving, parameters()[0])


def network() -> Transformer:
    config = ModelConfig(vocab_size=19, width=32, layers=2, heads=4, mlp_width=48, time_conditioning=True, tied=False)
    return Transformer(config)


@pytest.mark.parametrize("name", ["muon", "adamw"])
def test_every_weight_has_one_optimiser_and_only_matrices_decay(name: str) -> None:
    model = network()
    names = {parameter: name for name, parameter in model.named_parameters()}
    optimisers = build_optimisers(model, TrainConfig(optimizer=name, lr=1e-3, matrix_lr=3e-2, weight_decay=0.1))
    seen: dict[str, tuple[str, float, float]] = {}
    for optimiser in optimisers:
        for group in optimiser.param_groups:
            assert group["base_lr"] == group["lr"]
            for parameter in group["params"]:
                assert names[parameter] not in seen
                seen[names[parameter]] = (type(optimiser).__name__, group["lr"], group["weight_decay"])
    assert seen.keys() == set(names.values())
    for parameter, full_name in names.items():
        matrix = parameter.ndim == 2 and not full_name.startswith(("embedding", "head"))
        kind = ("Muon", 3e-2) if matrix and name == "muon" else ("AdamW", 1e-3)
        assert seen[full_name] == (*kind, 0.1 if parameter.ndim == 2 else 0.0)


def test_the_rate_warms_up_stays_and_falls_linearly_to_zero() -> None:
    config = TrainConfig(warmup=10, decay=0.4)
    factors = [schedule_factor(step, 100, config) for step in range(100)]
    assert factors[:10] == pytest.approx([0.1 * i for i in range(1, 11)])
    assert factors[10:61] == [1.0] * 51
    assert all(a - b == pytest.approx(1 / 40) for a, b in pairwise(factors[60:]))
    assert factors[-1] == pytest.approx(1 / 40)  # the step after the last one would be at zero
    assert schedule_factor(100, 100, config) == 0


def test_without_warmup_or_decay_the_rate_is_constant() -> None:
    assert [schedule_factor(step, 9, TrainConfig(warmup=0, decay=0)) for step in range(9)] == [1.0] * 9


@pytest.mark.parametrize("steps", [1, 2, 3, 7])
@pytest.mark.parametrize("decay", [0.01, 0.5, 1.0])
def test_a_short_run_has_a_sane_rate_too(steps: int, decay: float) -> None:
    factors = [schedule_factor(step, steps, TrainConfig(warmup=100, decay=decay)) for step in range(steps)]
    assert all(0 < factor <= 1 and math.isfinite(factor) for factor in factors)

"""What is useless goes without a trace, what goes is the least important, and what remains is an ordinary network."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from sfumato.compress.calibration import Calibration
from sfumato.compress.importance import Importance, importance
from sfumato.compress.prune import best_shape, pruned
from sfumato.compress.shape import Shape, candidates, num_parameters
from sfumato.config import ConfigError, ModelConfig, ProcessConfig
from sfumato.model.bundle import Bundle
from sfumato.model.layout import layout_named
from sfumato.model.quantised import Quantised
from sfumato.process import build_process

Make = Callable[..., Bundle]
Noise = Callable[..., Calibration]


def nats(bundle: Bundle, calibration: Calibration) -> Tensor:
    with torch.inference_mode():
        return torch.cat([calibration.nats(bundle.denoiser, *one) for one in calibration.noisings(bundle.denoiser)])


@pytest.mark.parametrize("kv_heads", [0, 2])
@pytest.mark.parametrize("biases", [False, True])
def test_what_is_useless_goes_without_a_trace(bundle: Make, noise: Noise, kv_heads: int, biases: bool):
    whole, calibration = bundle(kv_heads=kv_heads, qkv_bias=biases), noise()
    groups, size = kv_heads or 4, 16 // (kv_heads or 4)  # columns of `out` that a group of heads writes
    for i, block in enumerate(whole.denoiser.blocks):
        block.attention.out.weight.view(16, groups, size)[:, [(i + n) % groups for n in range(groups // 2)]] = 0
        block.down.weight[:, [i, 5, 11, 23]] = 0
    middle = whole.denoiser.blocks[1]
    middle.attention.out.weight.zero_()
    middle.down.weight.zero_()
    found = importance(whole.denoiser, calibration)
    less = pruned(whole, found, Shape(2, 2, 20))
    torch.testing.assert_close(nats(less, calibration), nats(whole, calibration), rtol=1e-12, atol=1e-12)
    model = less.config.model
    assert (model.layers, model.heads, model.head_size, model.mlp_width) == (2, 2, 4, 20)
    assert model.kv_heads == (1 if kv_heads else 0)
    assert less.denoiser.num_parameters() == num_parameters(model) < whole.denoiser.num_parameters()


def test_keeping_everything_keeps_every_bit(bundle: Make, noise: Noise):
    whole = bundle()
    same = pruned(whole, importance(whole.denoiser, noise()), Shape.of(whole.config.model))
    assert same.config.model == whole.config.model
    assert all(torch.equal(w, same.denoiser.state_dict()[name]) for name, w in whole.denoiser.state_dict().items())


@pytest.mark.parametrize(
    ("kind", "layout", "sizes"),
    [
        ("masked", "block", {"block": 4}),
        ("uniform", "full", {"time_conditioning": True}),
        ("autoregressive", "causal", {}),
        ("insertion", "full", {"gap_head": True}),
        ("gaussian", "full", {"latent": 6, "tied": False, "time_conditioning": True}),
    ],
)
def test_every_process_and_layout_has_importance(bundle: Make, noise: Noise, kind: str, layout: str, sizes: dict):
    whole, process = bundle(torch.float32, **sizes), ProcessConfig(kind, "cosine" if kind == "gaussian" else "linear")
    calibration = replace(
        noise(),
        process=build_process(
            process, vocab_size=23, mask_id=0, never_written=(0, 2, 3), shift=int(layout == "causal")
        ),
        layout=layout_named(layout, sizes.get("block", 0)),
    )
    found = importance(whole.denoiser, calibration)
    assert len(found.t_R) == 6 and all((part > 0).any() for part in (*found.heads, *found.units))
    less = pruned(whole, found, Shape(2, 3, 16))
    assert calibration.total(less.denoiser) > 0


def test_measuring_leaves_the_network_as_it_was(bundle: Make, noise: Noise):
    whole = bundle()
    before = nats(whole, noise())
    importance(whole.denoiser, noise())
    assert torch.equal(nats(whole, noise()), before)
    assert not any(parameter.requires_grad for parameter in whole.denoiser.parameters())


@pytest.mark.parametrize("share", [0.3, 0.5, 0.75, 0.9])
@pytest.mark.parametrize("kv_heads", [0, 4])
def test_shapes_for_a_share_of_the_parameters_keep_to_it_and_waste_little(share: float, kv_heads: int):
    model = ModelConfig(vocab_size=300, width=64, layers=8, heads=8, kv_heads=kv_heads, mlp_width=256)
    found = candidates(model, share)
    assert len(found) == len(set(found)) <= 49
    sizes = [num_parameters(shape.config(model)) / num_parameters(model) for shape in found]
    assert max(sizes) <= share and max(sizes) > share - 0.05


def test_groups_of_four_bit_codes_divide_every_width():
    model = ModelConfig(vocab_size=50, width=32, layers=4, heads=4, mlp_width=96)
    assert all(shape.mlp_width % 32 == 0 for shape in candidates(model, 0.7, 32))


def test_the_best_shape_is_the_one_that_loses_least(model, calibration: Calibration):
    whole = model.bundle
    found = importance(whole.denoiser, calibration)
    best = best_shape(whole, found, calibration, 0.8)
    lost = {s: calibration.total(pruned(whole, found, s).denoiser) for s in candidates(whole.config.model, 0.8)}
    assert len(lost) > 1 and lost[best] == min(lost.values())


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        (Shape(4, 4, 24), "layers: got 4, expected 1 to 3"),
        (Shape(3, 3, 24), "heads: got 3, expected a multiple of 2"),
        (Shape(3, 4, 0), "mlp_width: got 0, expected 1 to 24"),
    ],
)
def test_what_cannot_be_kept_is_refused(bundle: Make, shape: Shape, message: str):
    with pytest.raises(ConfigError, match=message):
        shape.config(bundle(kv_heads=2).config.model)


def test_fewer_parameters_than_the_embeddings_have_are_refused():
    with pytest.raises(ConfigError, match="embeddings are not pruned"):
        candidates(ModelConfig(vocab_size=5000, width=32, layers=2, heads=2, mlp_width=64), 0.3)


def test_a_quantised_model_is_not_pruned(bundle: Make, noise: Noise):
    whole = bundle()
    found = importance(whole.denoiser, noise())
    whole = replace(whole, config=replace(whole.config, quantised=Quantised({"embedding": "int8"})))
    with pytest.raises(ConfigError, match="quantised already"):
        pruned(whole, found, Shape(2, 4, 24))


def ranks(values: Tensor) -> Tensor:
    return values.argsort().argsort().double()


def agreement(a: Tensor, b: Tensor) -> float:
    """Spearman's rank correlation."""
    return float(torch.corrcoef(torch.stack((ranks(a), ranks(b))))[0, 1])


def without(bundle: Bundle, calibration: Calibration, matrix: str, columns: Tensor) -> float:
    """Nats when nobody reads these columns of a matrix."""
    weight = bundle.denoiser.get_parameter(matrix)
    kept = weight.clone()
    weight[:, columns] = 0
    total = calibration.total(bundle.denoiser)
    weight.copy_(kept)
    return total


def test_importance_ranks_as_removal_does(model, calibration: Calibration):
    """Three layers of four heads, and eight parts of each MLP: remove each of them and see what it costs."""
    whole = model.bundle
    found = importance(whole.denoiser, calibration)
    heads, units, lost_heads, lost_units = [], [], [], []
    for i in range(3):
        for head in range(4):
            heads.append(found.heads[i].mean(dim=0)[head])
            columns = torch.arange(head * 8, head * 8 + 8)
            lost_heads.append(without(whole, calibration, f"blocks.{i}.attention.out.weight", columns))
        score = found.units[i].mean(dim=0)
        for part in score.argsort().split(8):
            units.append(score[part].sum())
            lost_units.append(without(whole, calibration, f"blocks.{i}.down.weight", part))
    assert agreement(torch.stack(heads), torch.tensor(lost_heads)) > 0.7
    assert agreement(torch.stack(units), torch.tensor(lost_units)) > 0.8


def test_importance_at_one_noise_level_is_not_that_over_all(model, calibration: Calibration):
    found = importance(model.bundle.denoiser, calibration)
    little, much = found.at(0.0, 0.3), found.at(0.7, 1.01)
    assert len(little.t_R) >= 8 and len(much.t_R) >= 8  # the levels are spread over the rows

    def kept(one: Importance) -> Tensor:
        return torch.stack([units.mean(dim=0).argsort(descending=True)[:32].sort().values for units in one.units])

    assert (kept(little) != kept(much)).any() and (kept(little) != kept(found)).any()
    assert agreement(little.units[0].mean(dim=0), much.units[0].mean(dim=0)) < 0.95

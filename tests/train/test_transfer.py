"""The coordinate check: with the rule for learning rates, a few steps move activations equally at every width."""

import pytest
import torch
from torch.nn.functional import cross_entropy

from sfumato.canvas import Where
from sfumato.config import ConfigError, ModelConfig, TrainConfig
from sfumato.model.layout import layout_named
from sfumato.model.transformer import Transformer
from sfumato.train.optimiser import build_optimisers

VOCABULARY, ROWS, LENGTH, STEPS = 128, 8, 32, 6


def text() -> torch.Tensor:
    """Tokens (B, L), of which each mostly decides the next."""
    generator = torch.Generator().manual_seed(0)
    follows = torch.randperm(VOCABULARY, generator=generator)
    tokens = [torch.randint(VOCABULARY, (ROWS,), generator=generator)]
    for _ in range(LENGTH - 1):
        free = torch.rand(ROWS, generator=generator) < 0.3
        tokens.append(torch.where(free, torch.randint(VOCABULARY, (ROWS,), generator=generator), follows[tokens[-1]]))
    return torch.stack(tokens, dim=1)


def moved(width: int, learning: str, **train) -> tuple[float, float]:
    """Root mean square of what some steps change of the residual stream, and of the logits."""
    model = ModelConfig(
        vocab_size=VOCABULARY, width=width, layers=2, heads=width // 16, mlp_width=3 * width, context=LENGTH
    )
    network = Transformer(model).initialise(1)
    for name, parameter in network.named_parameters():
        hidden = parameter.ndim == 2 and name != "embedding.weight"
        parameter.requires_grad_(hidden if learning == "matrices" else name == "embedding.weight")
    optimisers = build_optimisers(network, TrainConfig(dtype="float32", **train))
    tokens_BL, layout = text(), layout_named("causal", 0, 0)
    where = Where(torch.arange(LENGTH).expand(ROWS, -1), torch.zeros(ROWS, LENGTH, dtype=torch.long))
    stream: list[torch.Tensor] = []
    network.blocks[-1].register_forward_hook(lambda module, given, out: stream.append(out.detach()))
    seen: list[torch.Tensor] = []
    for _ in range(STEPS + 1):
        logits_BLV = network.readout(network.encode(tokens_BL, where=where, layout=layout))
        seen.append(logits_BLV.detach())
        loss = cross_entropy(logits_BLV[:, :-1].flatten(0, 1), tokens_BL[:, 1:].flatten())
        for optimiser in optimisers:
            optimiser.zero_grad()
        loss.backward()
        for optimiser in optimisers:
            optimiser.step()
    return tuple(float((found[-1] - found[0]).square().mean().sqrt()) for found in (stream, seen))  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("learning", "train"),
    [
        ("matrices", {"optimizer": "muon"}),
        ("matrices", {"optimizer": "adamw", "lr": 4e-3, "transfer_width": 32}),
        ("tables", {"optimizer": "adamw", "lr": 2e-2, "transfer_width": 32}),
    ],
)
def test_steps_have_the_same_effect_at_every_width(learning: str, train: dict):
    for narrow, wide in zip(moved(32, learning, **train), moved(128, learning, **train), strict=True):
        assert 1 / 1.6 < wide / narrow < 1.6


def test_without_the_rule_adamw_moves_a_wide_network_further():
    narrow, wide = (moved(width, "matrices", optimizer="adamw", lr=4e-3)[0] for width in (32, 128))
    assert wide / narrow > 3


def test_at_its_own_width_the_rule_changes_nothing():
    train = {"optimizer": "adamw", "lr": 4e-3}
    assert moved(32, "matrices", **train) == moved(32, "matrices", transfer_width=32, **train)


@pytest.mark.parametrize("state", ["float32", "8bit"])
def test_the_rates_follow_the_width(state: str):
    network = Transformer(ModelConfig(vocab_size=32, width=64, layers=1, heads=2, mlp_width=96, context=8))
    config = TrainConfig(optimizer="adamw", lr=1e-2, transfer_width=16, optimizer_state=state)
    rates = [group["base_lr"] for optimiser in build_optimisers(network, config) for group in optimiser.param_groups]
    assert rates == [1e-2 / 4, 1e-2 / 2, 1e-2]  # hidden matrices, tables, gains


def test_networks_that_others_defined_are_refused():
    network = Transformer(ModelConfig(vocab_size=32, width=64, layers=1, heads=2, mlp_width=96, context=8))
    network.config = object()  # type: ignore[assignment]
    with pytest.raises(ConfigError, match="train.transfer_width is for networks of our own"):
        build_optimisers(network, TrainConfig(transfer_width=16))

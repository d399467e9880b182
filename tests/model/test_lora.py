"""Adapters in a network: until they learn they change nothing, and merged they compute the same.

Shape letters: B rows, L row length, V vocabulary.
"""

import pytest
import torch
from torch import Tensor

from sfumato.canvas import Where
from sfumato.config import LoraConfig, ModelConfig
from sfumato.config.tuning import LORA_TARGETS
from sfumato.model.layout import layout_named
from sfumato.model.lora import adapter_of, add_adapters, merged, scale_of
from sfumato.model.transformer import Transformer

pytest.importorskip("peft", reason="needs peft, which is not installed")

MODEL = ModelConfig(vocab_size=50, width=16, layers=2, heads=2, kv_heads=1, mlp_width=24, context=12)


def network(dtype: torch.dtype = torch.float32) -> Transformer:
    net = Transformer(MODEL, never_written=(0,)).initialise(3)
    for i, parameter in enumerate(net.parameters()):  # no matrix shall be zero
        torch.nn.init.normal_(parameter, std=0.2, generator=torch.Generator().manual_seed(i))
    return net.to(dtype)


def adapted(config: LoraConfig, dtype: torch.dtype = torch.float32, *, taught: bool = True) -> Transformer:
    net = network(dtype)
    add_adapters(net, config, seed=4)
    net.to(dtype)
    for i, (name, parameter) in enumerate(net.named_parameters()):
        if taught and "lora_B" in name:
            torch.nn.init.normal_(parameter, generator=torch.Generator().manual_seed(i))
    return net.eval()


def logits(net: Transformer) -> Tensor:
    tokens_BL = torch.arange(24).reshape(2, 12) % 50
    position_BL = torch.arange(12).expand(2, 12)
    where = Where(position_BL, torch.zeros_like(position_BL), None)
    with torch.no_grad():
        return net.readout(net.encode(tokens_BL, where=where, layout=layout_named("full")))[..., 1:]


@pytest.mark.parametrize("config", [LoraConfig(rank=3), LoraConfig(rank=1, alpha=2.0, targets=("value", "down"))])
@pytest.mark.parametrize(("dtype", "error"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_merged_it_computes_what_the_adapters_do(config: LoraConfig, dtype: torch.dtype, error: float) -> None:
    net, plain = adapted(config, dtype), network(dtype)
    assert (logits(net) - logits(plain)).abs().max() > 0.01  # the adapters do something
    weights = merged(net, dict(net.named_parameters()))
    plain.load_state_dict(weights)
    assert (logits(net) - logits(plain)).abs().max() <= error * logits(net).abs().max()


def test_until_they_learn_adapters_change_nothing() -> None:
    net = adapted(LoraConfig(rank=2, dropout=0.5), taught=False)
    assert torch.equal(logits(net), logits(network()))
    plain = network().state_dict()
    assert all(torch.equal(w, plain[name]) for name, w in merged(net, dict(net.named_parameters())).items())


def test_only_adapters_learn_and_only_where_they_were_asked_for() -> None:
    net = adapted(LoraConfig(rank=2, targets=("query", "up")))
    learned = {name for name, parameter in net.named_parameters() if parameter.requires_grad}
    assert learned == {name for name, _ in net.named_parameters() if "lora_" in name} and len(learned) == 8
    assert set(adapter_of(net, dict(net.named_parameters()))) == {
        f"blocks.{i}.{name}.lora_{half}" for i in range(2) for name in ("attention.query", "up") for half in "AB"
    }


def test_adapters_are_drawn_from_their_seed_and_from_nothing_else() -> None:
    def low(seed: int) -> dict[str, Tensor]:
        net = network()
        before = torch.get_rng_state()
        add_adapters(net, LoraConfig(rank=4), seed)
        torch.set_rng_state(before)
        return {name: p for name, p in net.named_parameters() if "lora_A" in name}

    torch.manual_seed(1)
    first = low(1)
    torch.manual_seed(2)
    same, other = low(1), low(2)
    assert len(first) == 2 * len(LORA_TARGETS)
    assert all(torch.equal(first[name], same[name]) and not torch.equal(first[name], other[name]) for name in first)
    rows = [low.flatten() for low in first.values()]
    assert not torch.equal(*rows[:2])  # of equal shape
    normed = torch.cat([low.flatten() * low.shape[1] ** 0.5 for low in first.values()])
    assert abs(normed.mean()) < 4 / len(normed) ** 0.5 and abs(normed.var() - 1) < 4 * (2 / len(normed)) ** 0.5


def test_a_network_without_adapters_stays_as_it_is() -> None:
    net = network()
    weights = merged(net, dict(net.named_parameters()))
    assert all(torch.equal(weights[name], weight) for name, weight in net.state_dict().items())
    assert scale_of(net) == 0 and adapter_of(net, weights) == {}

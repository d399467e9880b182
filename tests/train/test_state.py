"""What is made of a run's state, and what it takes over, in no more memory than that needs."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from sfumato.config import ModelConfig, TrainConfig
from sfumato.model.transformer import Transformer
from sfumato.train import checkpoint, sharded
from sfumato.train.optimiser import build_optimisers
from sfumato.train.parallel import Processes
from sfumato.train.state import State, averaged_network


def test_going_back_needs_no_second_moments(tmp_path: Path) -> None:
    network = Transformer(ModelConfig(32, 16, layers=1, heads=2, mlp_width=16, context=8)).initialise(0)
    optimisers = build_optimisers(network, TrainConfig())
    for parameter in network.parameters():
        parameter.grad = torch.ones_like(parameter)
    for optimiser in optimisers:
        optimiser.step()
    state = State(network, optimisers, {}, cast(Any, None))
    held = [value for one in optimisers for kept in one.state.values() for value in kept.values()]
    expected = [value.clone() for value in held]
    checkpoint.write(tmp_path, state._tensors(), {"step": 1, "loss_mean": 0.0, "loss_square": 0.0})
    (tmp_path / "tensors.safetensors").rename(tmp_path / "shard-1.safetensors")  # as several processes call theirs
    for value in held:
        value.zero_()
    assert state.go_back(tmp_path) == 1
    now = [value for one in optimisers for kept in one.state.values() for value in kept.values()]
    assert all(value is old and value.equal(was) for value, old, was in zip(now, held, expected, strict=True))


def test_a_checkpoint_without_some_of_its_files_is_damaged(tmp_path: Path) -> None:
    save_file({"weight/a": torch.ones(2, 3)}, tmp_path / "shard-1.safetensors")
    with pytest.raises(checkpoint.CheckpointError, match="damaged checkpoint .Size mismatch.*start again"):
        with checkpoint.damage_told(tmp_path):
            sharded.read(tmp_path, lambda name, size, dtype: torch.zeros(4, 3))


class Elsewhere(Processes):
    """Collects weights where the network itself is not, as if there were no room for them."""

    def collected(self, tensors: Mapping[str, Tensor], device: torch.device) -> Iterator[tuple[str, Tensor]]:
        return ((name, tensor.to("meta")) for name, tensor in tensors.items())


def test_an_averaged_network_is_where_its_weights_were_collected_and_takes_no_memory_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    network = Transformer(ModelConfig(32, 16, layers=1, heads=2, mlp_width=16, context=8), never_written=[3])
    state = State(network, [], {}, cast(Any, None), processes=Elsewhere(count=2, shard=2, mesh=cast(Any, object())))
    made: list[Transformer] = []
    monkeypatch.setattr(network, "blank", lambda: made.append(Transformer.blank(network)) or made[0])
    copy = averaged_network(state)
    assert copy is made[0] and {t.device.type for t in [*copy.parameters(), *copy.buffers()]} == {"meta"}

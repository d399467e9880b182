"""What is made of a run's state: here where its weights are collected from several processes."""

from collections.abc import Iterator, Mapping
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from sfumato.config import ModelConfig
from sfumato.model.transformer import Transformer
from sfumato.train.parallel import Processes
from sfumato.train.state import State, averaged_network


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

"""Small networks whose every weight is random: freshly initialised ones pass their input through."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from sfumato.config import ModelConfig
from sfumato.model.transformer import Transformer

NEVER = (0, 2, 3)


@pytest.fixture(scope="session")
def network() -> Callable[..., Transformer]:
    """`network(dtype, **changes of the configuration)`."""

    def build(dtype: torch.dtype = torch.float64, *, checkpointing: bool = False, **changes: Any) -> Transformer:
        config = ModelConfig(**{"vocab_size": 23, "width": 32, "layers": 2, "heads": 4, "mlp_width": 48} | changes)
        made = Transformer(config, never_written=NEVER, gradient_checkpointing=checkpointing)
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for parameter in made.parameters():
                random = torch.randn(parameter.shape, generator=generator)
                parameter.copy_(random * parameter.shape[1] ** -0.5 if parameter.ndim == 2 else 1 + random / 4)
        return made.to(dtype)

    return build

"""Configuration: frozen dataclasses, filled from TOML and from the command line by one checker.

A recipe describes everything that makes a model. A command's options are a frozen dataclass too, so that a value
is read, converted and refused in exactly one way wherever it was written. Nothing heavy is imported here.
"""

from sfumato.config.check import ConfigError, argument, closest, from_mapping, option, overrides
from sfumato.config.flags import parse
from sfumato.config.recipe import (
    DataConfig,
    ModelConfig,
    ProcessConfig,
    Recipe,
    Source,
    TokenizerConfig,
    TrainConfig,
    check_latent,
)
from sfumato.config.toml import load_recipe, override, to_toml
from sfumato.config.tuning import LoraConfig

__all__ = [
    "ConfigError",
    "DataConfig",
    "LoraConfig",
    "ModelConfig",
    "ProcessConfig",
    "Recipe",
    "Source",
    "TokenizerConfig",
    "TrainConfig",
    "argument",
    "check_latent",
    "closest",
    "from_mapping",
    "load_recipe",
    "option",
    "override",
    "overrides",
    "parse",
    "to_toml",
]

"""What a family of public models is to us: its config.json as our configuration, its names of tensors as ours.

A family is data and two short functions, one the inverse of the other; the network is always our `Transformer`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from sfumato.config import ConfigError, ModelConfig, ProcessConfig
from sfumato.model.weights import BundleError

# Keys of config.json that say nothing about what a network computes. Any other that a family does not read is refused.
_HARMLESS = frozenset(
    "architectures auto_map torch_dtype dtype transformers_version _name_or_path name_or_path model_type use_cache "
    "initializer_range init_std init_fn init_cutoff_factor init_device attention_dropout embedding_dropout "
    "residual_dropout hidden_dropout resid_pdrop precision flash_attention pretraining_tp max_window_layers "
    "bos_token_id eos_token_id pad_token_id mask_token_id unk_token_id _attn_implementation "
    "_attn_implementation_autoset _commit_hash unsloth_version unsloth_fixed is_llama_config "
    "train_max_sequence_length output_attentions output_hidden_states return_dict fuse_cross_entropy "
    "max_length min_length do_sample temperature top_k top_p repetition_penalty num_beams problem_type "
    "full_attn_mask_allowed debug keys_to_ignore_at_inference transformers.js_config id2label label2id".split()
)
_ENDLESS = 1e30  # beyond it nothing is a number that a network computes with


class Unlike(BundleError):
    """A model of a family that we know, but one that computes what our network does not."""


class Unknown(Unlike):
    """A key of config.json that the family's code, as we know it, does not have."""

    def __init__(self, message: str, key: str):
        """message: one line; key: its name."""
        super().__init__(message)
        self.key = key


@dataclass(frozen=True)
class Description:
    """What a config.json says, in our words."""

    model: ModelConfig
    process: ProcessConfig
    layout: str
    shift: int
    sampler: Mapping[str, Any] = field(default_factory=dict)
    """Settings of generation as in the family's own code."""
    mask: int | None = None
    """The id of the mask; None: the vocabulary says, or it has none and gets one."""


class Keys:
    """The content of a config.json, which remembers what of it was read."""

    def __init__(self, content: Mapping[str, Any], where: str):
        """content: as JSON holds it; where: the file, for errors."""
        self.content, self.where = content, where
        self._read: set[str] = set()

    def get(self, name: str, default: Any = None) -> Any:
        """A value of any kind; null counts as absent."""
        self._read.add(name)
        value = self.content.get(name)
        return default if value is None else value

    def integer(self, name: str, default: int | None = None, *, at_least: int = 1) -> int:
        """A whole number.

        Raises:
            BundleError: it is missing and has no default, is none, or smaller.
        """
        value = self.get(name, default)
        if value is None:
            raise BundleError(f"{self.where}: {name} is missing; restore the model's own config.json")
        if isinstance(value, bool) or not isinstance(value, int):
            raise BundleError(f"{self.where}: {name}: expected a whole number, got {value!r}")
        if value < at_least:
            raise BundleError(f"{self.where}: {name}: expected at least {at_least}, got {value}")
        return value

    def real(self, name: str, default: float) -> float:
        """A positive number; BundleError where it is none."""
        value = self.get(name, default)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise BundleError(f"{self.where}: {name}: expected a number, got {value!r}")
        if not 0 < value < _ENDLESS:
            raise BundleError(f"{self.where}: {name}: expected a positive number, got {value!r}")
        return float(value)

    def table(self, name: str) -> dict[str, Any]:
        """An object, empty where it is absent; BundleError where it is something else."""
        value = self.get(name, {})
        if not isinstance(value, dict):
            raise BundleError(f"{self.where}: {name}: expected an object, got {value!r}")
        return value

    def names(self, name: str) -> list[str]:
        """A list of words, empty where it is absent; BundleError where it is something else."""
        value = self.get(name, [])
        if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
            raise BundleError(f"{self.where}: {name}: expected a list of words, got {value!r}")
        return value

    def flag(self, name: str, default: bool = False) -> bool:
        """True or false; BundleError where it is neither."""
        value = self.get(name, default)
        if not isinstance(value, bool):
            raise BundleError(f"{self.where}: {name}: expected true or false, got {value!r}")
        return value

    def only(self, name: str, *good: Any) -> None:
        """Hold a key to the values for which our network computes the same; absent is the first.

        Raises:
            Unlike: another value.
        """
        if (value := self.get(name, good[0])) not in good:
            expected = " or ".join(repr(one) for one in good)
            raise Unlike(f"{self.where}: {name} is {value!r}; our network computes {name} = {expected} only")

    def finish(self) -> None:
        """Refuse what nobody read and is neither harmless nor off.

        Raises:
            Unlike: the first such key.
        """
        if self.get("quantization_config"):
            raise BundleError(f"{self.where}: quantised weights are not read; take the model's original ones")
        for name, value in self.content.items():
            off = value is None or value is False or value == [] or value == {}
            if name not in self._read and name not in _HARMLESS and not off:
                shown = repr(value) if len(repr(value)) < 60 else f"{repr(value)[:60]}..."
                raise Unknown(
                    f"{self.where}: unknown key {name} = {shown}; it may change what the network computes: if it "
                    "does not, remove it",
                    name,
                )


@dataclass(frozen=True)
class Family:
    """A kind of public model that our network computes."""

    name: str
    model_types: tuple[str, ...]
    """What its config.json calls itself; the first is written."""
    read: Callable[[Keys], Description]
    write: Callable[[Description], dict[str, Any]]
    """The keys of a config.json that `read` would read so."""
    tensors: Mapping[str, str]
    """Our names to theirs: of a module, or of a tensor that stands alone; {} is the number of a layer."""
    byte_level: bool = False
    """Whether its tokenizer may be spelt as vocab.json and merges.txt, cut into pieces the Qwen way."""

    def tensor(self, ours: str) -> str:
        """Their name of one of our tensors."""
        number, short = "", ours
        if ours.startswith("blocks."):
            _, number, rest = ours.split(".", 2)
            short = f"blocks.{{}}.{rest}"
        if short in self.tensors:
            return self.tensors[short].format(number)
        module, _, kind = short.rpartition(".")
        return f"{self.tensors[module].format(number)}.{kind}"

    def describe(self, content: Mapping[str, Any], where: str) -> Description:
        """What a config.json says.

        Raises:
            BundleError: a key that is missing or broken; `Unlike` where it asks for what our network does not compute.
        """
        keys = Keys(content, where)
        try:
            description = self.read(keys)
        except BundleError:
            raise
        except ConfigError as error:
            raise BundleError(f"{where}: {error}") from None
        keys.finish()
        return description

    def config_of(self, description: Description, where: str) -> dict[str, Any]:
        """The keys of a config.json that says the same.

        Raises:
            BundleError: a model that this family has no words for; names what differs.
        """
        keys = {"model_type": self.model_types[0], **self.write(description)}
        ours, theirs = _facts(description), _facts(self.describe(keys, where))
        for name, value in ours.items():
            if value != theirs[name]:
                raise BundleError(
                    f"{where}: a {self.name} model has {name} = {theirs[name]!r}, this one {value!r}; use --to hf"
                )
        return keys


def _facts(description: Description) -> dict[str, Any]:
    """What two descriptions must agree in to be of the same model."""
    return {
        "process.kind": description.process.kind,
        "layout": description.layout,
        "shift": description.shift,
        **{f"model.{name}": value for name, value in vars(description.model).items()},
    }

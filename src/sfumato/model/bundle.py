"""The bundle: a model folder that says everything needed to use it, and is refused when anything does not match.

    config.json          architecture, process, layout, shift, special tokens, default sampler, how it was made
    model*.safetensors   weights, in shards of at most 15 MiB
    tokenizer.json       the tokenizer, pinned by its SHA-256 in config.json
    README.md            the model card

A folder that holds only an adapter of another model (`model.adapter`) is loaded likewise.

No pickle and no code, ever.
"""

import contextlib
import dataclasses
import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from sfumato.config import ConfigError, ModelConfig, ProcessConfig, check_latent, from_mapping
from sfumato.model.adapter import FORMAT as ADAPTER_FORMAT
from sfumato.model.adapter import Adapter, read_weights
from sfumato.model.foreign import Foreign
from sfumato.model.layout import layout_named
from sfumato.model.quantised import Quantised, replace_matrices
from sfumato.model.transformer import Transformer
from sfumato.model.weights import (
    BUNDLED,
    SHARD_BYTES,
    BundleError,
    fill,
    is_public,
    whole_folder,
    write_tensors,
)

FORMAT = "sfumato-bundle-1"

Network = Transformer | Foreign
"""What a bundle's denoiser is: our transformer, or a network of the transformers library."""


@dataclass(frozen=True)
class SpecialTokens:
    """Token ids with a meaning to the process and the decoder."""

    mask: int
    end: int
    pad: int
    start: int | None
    """What a text begins with; None = nothing."""
    written: bool = False
    """Whether the logits of mask, pad and start stay as they are, because the model's authors decode so."""

    @property
    def never_written(self) -> tuple[int, ...]:
        """Ids that no text holds where the network writes: their logits are -inf, and noise never shows them."""
        special = () if self.written else (self.mask, self.pad, self.start)
        return tuple(dict.fromkeys(token for token in special if token is not None and token != self.end))


@dataclass(frozen=True)
class BundleConfig:
    """The contents of config.json."""

    model: ModelConfig
    process: ProcessConfig
    layout: str
    """full, causal or block."""
    shift: int
    """0, or 1 where the hidden state at i - 1 predicts position i."""
    tokens: SpecialTokens
    tokenizer_sha256: str
    sampler: dict[str, Any] = field(default_factory=dict)
    """Default settings for generation."""
    chat: dict[str, Any] | None = None
    """How a conversation becomes tokens (`text.chat.ChatTemplate`); None where the model knows no conversations."""
    made: dict[str, Any] = field(default_factory=dict)
    """How it was made: recipe, steps, tokens, data, versions."""
    quantised: Quantised | None = None
    """Which matrices are stored in fewer bits; None = none. Such a model can be used, but not trained."""
    foreign: dict[str, Any] | None = None
    """The configuration of a network of the transformers library that is the denoiser; None = our transformer."""


@dataclass(frozen=True)
class Bundle:
    """A model in memory: configuration, network, tokenizer file and model card."""

    config: BundleConfig
    denoiser: Network
    tokenizer_json: str
    card: str = ""
    adapter: Adapter | None = None
    """What was added to the weights of another model to make this network; it alone is saved then."""

    def save(self, folder: Path, dtype: torch.dtype | None = None) -> None:
        """Write the folder under a temporary name and rename it: no reader sees half a bundle.

        Args:
            folder: where; an existing bundle there is replaced.
            dtype: precision of the stored weights, None to keep the network's.

        Raises:
            OSError: the disk is full or not writable; an existing bundle there is intact.
        """
        if self.adapter is None:
            write_bundle(folder, self.config, self.denoiser.state_dict(), self.tokenizer_json, self.card, dtype=dtype)
            return
        with whole_folder(Path(folder)) as scratch:
            write_tensors(scratch, self.adapter.tensors, "adapter", dtype=dtype)
            content = {"format": ADAPTER_FORMAT, "adapter": dataclasses.asdict(self.adapter.config)}
            _write_others(scratch, content, self.config, self.tokenizer_json, self.card)

    @classmethod
    def load(cls, folder: Path, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> "Bundle":
        """Read and check a folder.

        Args:
            folder: the bundle.
            device: where the network goes.
            dtype: precision of the network in memory.

        Raises:
            BundleError: one line that says what was expected and what was found.
        """
        folder = Path(folder)
        config, tokenizer_json = read_description(folder)
        state, adapter = read_weights(folder, config.model if config.foreign is None else None)
        with without_weights():  # they are put in, not copied
            denoiser = build_network(config)
        fill(denoiser, state, folder, device, dtype)
        card = folder / "README.md"
        text = card.read_text(encoding="utf-8", errors="replace") if card.is_file() else ""
        return cls(config, denoiser.to(device, dtype).eval().requires_grad_(False), tokenizer_json, text, adapter)


_DRAWS = (nn.init.normal_, nn.init.uniform_, nn.init.kaiming_uniform_, Tensor.normal_, Tensor.uniform_)


class _Undrawn(TorchFunctionMode):
    """Draws no random numbers: on the meta device they are nothing, but would import sympy, which takes a second."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in _DRAWS:
            return args[0] if args else kwargs["tensor"]
        return func(*args, **(kwargs or {}))


@contextlib.contextmanager
def without_weights() -> Iterator[None]:
    """Networks that are built in here have shapes and no weights (torch's meta device)."""
    with torch.device("meta"), _Undrawn():
        yield


def build_network(config: BundleConfig, *, gradient_checkpointing: bool = False, dropout: float = 0.0) -> Network:
    """The network that a configuration describes, with weights that say nothing yet; arguments as in `Transformer`.

    Raises:
        ConfigError: it needs the transformers library, which is not installed or does not know it.
    """
    settings: dict[str, Any] = {
        "never_written": config.tokens.never_written,
        "gradient_checkpointing": gradient_checkpointing,
        "dropout": dropout,
    }
    if config.foreign is not None:
        return Foreign(config.foreign, **settings)
    network = Transformer(config.model, **settings)
    if config.quantised:
        replace_matrices(network, config.quantised)
    return network


def write_bundle(
    folder: Path,
    config: BundleConfig,
    state: Mapping[str, Tensor],
    tokenizer_json: str,
    card: str,
    *,
    dtype: torch.dtype | None = None,
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Write a whole model under a temporary name and rename it: no reader sees half a bundle.

    Args:
        folder: where; an existing bundle there is replaced.
        config: of the model.
        state: its weights.
        tokenizer_json: the content of tokenizer.json, which `config` pins.
        card: the README.
        dtype: precision of the stored weights, None to keep theirs.
        shard_bytes: size of a file of weights at most, if no tensor is larger.

    Raises:
        OSError: the disk is full or not writable; an existing bundle there is intact.
    """
    with whole_folder(Path(folder)) as scratch:
        write_tensors(scratch, state, dtype=dtype, shard_bytes=shard_bytes)
        _write_others(scratch, {"format": FORMAT}, config, tokenizer_json, card)


def _write_others(scratch: Path, content: dict[str, Any], config: BundleConfig, tokenizer_json: str, card: str) -> None:
    content = content | dataclasses.asdict(config)
    (scratch / "config.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    (scratch / "tokenizer.json").write_text(tokenizer_json, encoding="utf-8")
    (scratch / "README.md").write_text(card, encoding="utf-8")


def read_description(folder: Path) -> tuple[BundleConfig, str]:
    """All of a folder but its weights: config.json, checked, and the content of tokenizer.json.

    Raises:
        BundleError: one line that says what was expected and what was found.
    """
    if is_public(folder):
        from sfumato.model.hub.reading import describe

        return describe(folder)
    config = _read_config(folder)
    return config, read_tokenizer(folder, config.tokenizer_sha256)


def read_tokenizer(folder: Path, sha256: str) -> str:
    """The content of a folder's tokenizer.json; BundleError unless it has this SHA-256."""
    tokenizer_json = _read_text(folder / "tokenizer.json")
    found = hashlib.sha256(tokenizer_json.encode()).hexdigest()
    if found != sha256:
        raise BundleError(
            f"{folder / 'tokenizer.json'}: not the tokenizer this model was trained with: "
            f"SHA-256 {found[:12]}..., expected {sha256[:12]}...; restore the original file"
        )
    return tokenizer_json


def find_bundle(path: str | Path | None) -> Path:
    """The folder of a model: a path, the name of one that comes with the package, or hf:OWNER/NAME; None = "tiny".

    Raises:
        BundleError: there is no such folder; names those that come along.
    """
    if str(path).startswith("hf:"):
        from sfumato.model.hub.files import fetch

        return fetch(str(path).removeprefix("hf:"))
    folder = Path("tiny" if path is None else path)
    if not (path is not None and folder.exists()) and (BUNDLED / folder).is_dir():
        folder = BUNDLED / folder
    if not folder.is_dir():
        known = sorted(p.name for p in BUNDLED.iterdir()) if BUNDLED.is_dir() else []
        raise BundleError(f"{folder}: no such model; give a bundle's folder or one of {', '.join(known) or 'none'}")
    return folder


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise BundleError(
            f"{path.parent}: not a model bundle: {path.name} is missing; expected config.json, tokenizer.json and "
            "model*.safetensors, as `sfumato train` writes to RUN/model"
        ) from None
    except UnicodeDecodeError as error:
        raise BundleError(f"{path}: not UTF-8 text ({error.reason} at byte {error.start})") from None


def _read_config(folder: Path) -> BundleConfig:
    path = folder / "config.json"
    if not folder.is_dir():
        raise BundleError(f"{folder}: no such model folder; give the path of a bundle, such as RUN/model")
    try:
        content = json.loads(_read_text(path))
    except json.JSONDecodeError as error:
        raise BundleError(f"{path}:{error.lineno}: not valid JSON ({error.msg})") from None
    kind = content.pop("format", None) if isinstance(content, dict) else None
    if kind not in (FORMAT, ADAPTER_FORMAT):
        raise BundleError(f'{path}: not a Sfumato bundle: expected "format": "{FORMAT}"')
    if kind == ADAPTER_FORMAT:
        content.pop("adapter", None)  # read with the weights
    return checked_config(content, str(path))


def checked_config(content: dict[str, Any], path: str) -> BundleConfig:
    """A configuration out of plain values.

    Args:
        content: as config.json holds it.
        path: the file, for errors.

    Raises:
        BundleError: one line that says what was expected and what was found.
    """
    config = from_mapping(BundleConfig, content, where=path)
    for name, token in dataclasses.asdict(config.tokens).items():
        if name != "written" and token is not None and not 0 <= token < config.model.vocab_size:
            raise BundleError(
                f"{path}: tokens.{name} is {token}, expected an id below model.vocab_size = {config.model.vocab_size}"
            )
    try:
        layout_named(config.layout)
    except ValueError as error:
        raise BundleError(f"{path}: {error}") from None
    if config.layout == "block" and not config.model.block:
        raise BundleError(f"{path}: layout 'block' needs model.block, the size of a block; got 0")
    try:
        check_latent(config.model, config.process)
    except ConfigError as error:
        raise BundleError(f"{path}: {error}") from None
    if config.model.block and config.layout != "block":
        raise BundleError(f"{path}: model.block is {config.model.block}, but layout {config.layout!r} has no blocks")
    return config

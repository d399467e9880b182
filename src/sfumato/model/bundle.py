"""The bundle: a model folder that says everything needed to use it, and is refused when anything does not match.

    config.json          architecture, process, layout, shift, special tokens, default sampler, how it was made
    model*.safetensors   weights, in shards of at most 15 MiB
    tokenizer.json       the tokenizer, pinned by its SHA-256 in config.json
    README.md            the model card

No pickle and no code, ever.
"""

import dataclasses
import hashlib
import json
import os
import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from sfumato.config import ConfigError, ModelConfig, ProcessConfig, check_latent, from_mapping
from sfumato.model.layout import layout_named
from sfumato.model.transformer import Transformer

FORMAT = "sfumato-bundle-1"
BUNDLED = Path(__file__).parent.parent / "models"
SHARD_BYTES = 15 * 2**20


class BundleError(ValueError):
    """A model folder that is missing, broken or does not match itself."""


@dataclass(frozen=True)
class SpecialTokens:
    """Token ids with a meaning to the process and the decoder."""

    mask: int
    end: int
    pad: int
    start: int

    @property
    def never_written(self) -> tuple[int, ...]:
        """Ids that no text holds where the network writes: their logits are -inf, and noise never shows them."""
        return self.mask, self.pad, self.start


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


@dataclass(frozen=True)
class Bundle:
    """A model in memory: configuration, network, tokenizer file and model card."""

    config: BundleConfig
    denoiser: Transformer
    tokenizer_json: str
    card: str = ""

    def save(self, folder: Path, dtype: torch.dtype | None = None) -> None:
        """Write the folder under a temporary name and rename it: no reader sees half a bundle.

        Args:
            folder: where; an existing bundle there is replaced.
            dtype: precision of the stored weights, None to keep the network's.

        Raises:
            OSError: the disk is full or not writable; an existing bundle there is intact.
        """
        folder = Path(folder)
        folder.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
        try:
            scratch.chmod(0o755)
            state = {n: t.detach().to("cpu", dtype).contiguous() for n, t in self.denoiser.state_dict().items()}
            for name, shard in _shards(state):
                save_file(shard, scratch / name, metadata={"format": "pt"})
                (scratch / name).chmod(0o644)  # safetensors makes it private
            content = {"format": FORMAT, **dataclasses.asdict(self.config)}
            (scratch / "config.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
            (scratch / "tokenizer.json").write_text(self.tokenizer_json, encoding="utf-8")
            (scratch / "README.md").write_text(self.card, encoding="utf-8")
            if folder.exists():
                old = scratch.with_name(scratch.name + "-old")
                os.replace(folder, old)
                os.replace(scratch, folder)
                shutil.rmtree(old)
            else:
                os.replace(scratch, folder)
        except (SafetensorError, OSError) as error:  # neither says which file
            raise OSError(f"{folder}: cannot write the bundle ({error}); what was there before is intact") from None
        finally:
            shutil.rmtree(scratch, ignore_errors=True)

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
        state = _read_weights(folder, config.model)
        denoiser = Transformer(config.model, never_written=config.tokens.never_written)
        fill(denoiser, state, folder)
        card = folder / "README.md"
        text = card.read_text(encoding="utf-8", errors="replace") if card.is_file() else ""
        return cls(config, denoiser.to(device, dtype).eval().requires_grad_(False), tokenizer_json, text)


def read_description(folder: Path) -> tuple[BundleConfig, str]:
    """All of a folder but its weights: config.json, checked, and the content of tokenizer.json.

    Raises:
        BundleError: one line that says what was expected and what was found.
    """
    config = _read_config(folder)
    tokenizer_json = _read_text(folder / "tokenizer.json")
    found = hashlib.sha256(tokenizer_json.encode()).hexdigest()
    if found != config.tokenizer_sha256:
        raise BundleError(
            f"{folder / 'tokenizer.json'}: not the tokenizer this model was trained with: "
            f"SHA-256 {found[:12]}..., expected {config.tokenizer_sha256[:12]}...; restore the original file"
        )
    return config, tokenizer_json


def find_bundle(path: str | Path | None) -> Path:
    """The folder of a bundle: a path, or the name of a model that comes with the package; None = "tiny".

    Raises:
        BundleError: there is no such folder; names those that come along.
    """
    folder = Path("tiny" if path is None else path)
    if not (path is not None and folder.exists()) and (BUNDLED / folder).is_dir():
        folder = BUNDLED / folder
    if not folder.is_dir():
        known = sorted(p.name for p in BUNDLED.iterdir()) if BUNDLED.is_dir() else []
        raise BundleError(f"{folder}: no such model; give a bundle's folder or one of {', '.join(known) or 'none'}")
    return folder


def _shards(state: dict[str, Tensor]) -> list[tuple[str, dict[str, Tensor]]]:
    shards: list[dict[str, Tensor]] = [{}]
    size = 0
    for name, tensor in state.items():
        if size and size + tensor.nbytes > SHARD_BYTES:
            shards.append({})
            size = 0
        shards[-1][name] = tensor
        size += tensor.nbytes
    if len(shards) == 1:
        return [("model.safetensors", shards[0])]
    return [(f"model-{i:05d}-of-{len(shards):05d}.safetensors", shard) for i, shard in enumerate(shards, start=1)]


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
    if not isinstance(content, dict) or content.pop("format", None) != FORMAT:
        raise BundleError(f'{path}: not a Sfumato bundle: expected "format": "{FORMAT}"')
    config = from_mapping(BundleConfig, content, where=str(path))
    for name, token in dataclasses.asdict(config.tokens).items():
        if not 0 <= token < config.model.vocab_size:
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


def _read_weights(folder: Path, model: ModelConfig) -> dict[str, Tensor]:
    """All tensors of all shards."""
    files = sorted(folder.glob("model*.safetensors"))
    if not files:
        raise BundleError(f"{folder}: no weights: expected model.safetensors or model-*-of-*.safetensors")
    state: dict[str, Tensor] = {}
    for file in files:
        try:
            shard = load_file(file)
        except (SafetensorError, OSError) as error:
            raise BundleError(f"{file}: truncated or damaged weights ({error}); copy the file again") from None
        if twice := sorted(state.keys() & shard.keys()):
            raise BundleError(f"{file}: tensor {twice[0]!r} is in another file too; remove the one that is too many")
        state |= shard
    # Before a network of a nonsensical size is asked of the memory.
    for name, shape in (
        ("embedding.weight", (model.vocab_size, model.latent or model.width)),
        (f"blocks.{model.layers - 1}.gate.weight", (model.mlp_width, model.width)),
    ):
        if name in state and state[name].shape != shape:
            raise BundleError(
                f"{folder}: tensor {name!r} has shape {list(state[name].shape)}, config.json asks for {list(shape)}"
            )
        if name not in state:
            raise BundleError(f"{folder}: tensor {name!r} is missing from the weights; a shard may be missing")
    return state


def fill(network: nn.Module, state: dict[str, Tensor], folder: Path) -> None:
    """Put the weights of a folder into a network; every tensor exactly once, of the right shape and kind, finite.

    Raises:
        BundleError: which tensor is wrong.
    """
    expected = network.state_dict()
    for name in sorted(expected.keys() | state.keys()):
        if name not in state:
            raise BundleError(f"{folder}: tensor {name!r} is missing from the weights; a shard may be missing")
        if name not in expected:
            raise BundleError(f"{folder}: unexpected tensor {name!r}; config.json describes another architecture")
        if state[name].shape != expected[name].shape:
            raise BundleError(
                f"{folder}: tensor {name!r} has shape {list(state[name].shape)}, "
                f"config.json asks for {list(expected[name].shape)}"
            )
        if not state[name].is_floating_point():
            raise BundleError(f"{folder}: tensor {name!r} is {state[name].dtype}, expected floating point")
        if not torch.isfinite(state[name]).all():
            raise BundleError(
                f"{folder}: tensor {name!r} holds NaN or infinity; the file is damaged or the training run diverged"
            )
    network.load_state_dict(state)

"""Weights on disk: safetensors files of at most 15 MiB, read whole and put into a network that they must fit."""

import contextlib
import hashlib
import json
import math
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from sfumato.config import ModelConfig

BUNDLED = Path(__file__).parent.parent / "models"
SHARD_BYTES = 15 * 2**20


class BundleError(ValueError):
    """A model folder that is missing, broken or does not match itself."""


def is_public(folder: Path) -> bool:
    """Whether a folder is laid out as models of the transformers library are, and not as ours (`model.hub`)."""
    try:
        content = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False  # whoever reads it says what is wrong
    return isinstance(content, dict) and "model_type" in content and "format" not in content


@contextlib.contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """A folder to write into, which takes its place when the block ends: no reader sees half of it.

    Raises:
        OSError: the disk is full or not writable; what was there before is intact.
    """
    if folder.is_symlink():
        folder = folder.resolve()  # the link stays, and what it points to is replaced
    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        scratch.chmod(0o755)
        yield scratch
        if folder.exists():
            old = scratch.with_name(scratch.name + "-old")
            os.replace(folder, old)
            os.replace(scratch, folder)
            shutil.rmtree(old)
        else:
            os.replace(scratch, folder)
    except (SafetensorError, OSError) as error:  # neither says which file
        raise unwritten(
            f"{folder}: cannot write the bundle ({error}); what was there before is intact", error
        ) from None
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def unwritten(message: str, error: Exception) -> OSError:
    """An error that says `message`, with the `errno` of its cause; safetensors has that number in its text alone."""
    found = re.search(r"\(os error (\d+)\)", str(error))
    told = OSError(message)
    told.errno = error.errno if isinstance(error, OSError) else int(found[1]) if found else None
    return told


def write_tensors(
    folder: Path,
    state: Mapping[str, Tensor],
    stem: str = "model",
    *,
    dtype: torch.dtype | None = None,
    shard_bytes: int = SHARD_BYTES,
    named: Callable[[str], str] = str,
) -> dict[str, str]:
    """Write tensors as `stem.safetensors`, or in numbered shards where they are too many for one.

    Args:
        folder: where.
        state: tensors by name; a shard's are converted when it is their turn.
        stem: how the files begin.
        dtype: precision of the stored tensors, None to keep theirs.
        shard_bytes: size of a file at most, if no tensor is larger.
        named: what a tensor is called in the file.

    Returns:
        The file of each tensor, by the tensor's name in it.
    """
    shards, listed = list(_shards(state, dtype, shard_bytes)), {}
    for number, names in enumerate(shards, start=1):
        file = f"{stem}-{number:05d}-of-{len(shards):05d}.safetensors" if len(shards) > 1 else f"{stem}.safetensors"
        shard = {named(name): converted(state[name].detach(), "cpu", dtype).contiguous() for name in names}
        save_file(shard, folder / file, metadata={"format": "pt"})
        (folder / file).chmod(0o644)  # safetensors makes it private
        listed |= dict.fromkeys(shard, file)
    return listed


def converted(tensor: Tensor, device: torch.device | str, dtype: torch.dtype | None) -> Tensor:
    """The tensor elsewhere and in another precision, None for its own; codes of quantised numbers stay as they are."""
    return tensor.to(device, dtype if tensor.is_floating_point() else None)


def _shards(state: Mapping[str, Tensor], dtype: torch.dtype | None, shard_bytes: int) -> Iterator[list[str]]:
    names: list[str] = []
    size = 0
    for name, tensor in state.items():
        more = tensor.numel() * (dtype if dtype and tensor.is_floating_point() else tensor.dtype).itemsize
        if names and size + more > shard_bytes:
            yield names
            names, size = [], 0
        names.append(name)
        size += more
    yield names


def weight_files(folder: Path) -> list[Path]:
    """The files of a model's or an adapter's weights, by name."""
    files = [*folder.glob("model*.safetensors"), *folder.glob("adapter*.safetensors")]
    return sorted(files or folder.glob("*.safetensors"))  # a public model's may have any name


def weights_sha256(folder: Path) -> str:
    """SHA-256, in hex, over all bytes of a folder's weight files: who a model is.

    Raises:
        OSError: a file cannot be read.
    """
    digest = hashlib.sha256()
    for path in weight_files(folder):
        with open(path, "rb") as file:
            while piece := file.read(1 << 24):
                digest.update(piece)
    return digest.hexdigest()


def read_tensors(folder: Path, stem: str = "model") -> dict[str, Tensor]:
    """All tensors of all shards.

    Raises:
        BundleError: there is none, one is damaged, or a tensor is there twice.
    """
    files = sorted(folder.glob(f"{stem}*.safetensors"))
    if not files:
        raise BundleError(f"{folder}: no weights: expected {stem}.safetensors or {stem}-*-of-*.safetensors")
    state: dict[str, Tensor] = {}
    for file in files:
        try:
            # Not the file's own memory: who writes to the file must not change a model that is in use.
            shard = {name: tensor.clone() for name, tensor in load_file(file).items()}
        except (SafetensorError, OSError) as error:
            raise BundleError(f"{file}: truncated or damaged weights ({error}); copy the file again") from None
        if twice := sorted(state.keys() & shard.keys()):
            raise BundleError(f"{file}: tensor {twice[0]!r} is in another file too; remove the one that is too many")
        state |= shard
    return state


def check_sizes(state: dict[str, Tensor], model: ModelConfig, folder: Path) -> None:
    """BundleError unless the weights are as large as config.json says.

    Before a network of a nonsensical size is asked of the memory.
    """
    for name, shape in (
        ("embedding.weight", (model.vocab_size, model.latent or model.width)),
        (f"blocks.{model.layers - 1}.gate.weight", (model.mlp_width, model.width)),
    ):
        packed = name in state and state[name].dtype == torch.uint8  # two 4-bit codes a byte
        if name in state and state[name].shape != (shape[0], shape[1] // (2 if packed else 1)):
            raise BundleError(
                f"{folder}: tensor {name!r} has shape {list(state[name].shape)}, config.json asks for {list(shape)}"
            )
        if name not in state:
            raise BundleError(f"{folder}: tensor {name!r} is missing from the weights; a shard may be missing")


def fill(
    network: nn.Module,
    state: dict[str, Tensor],
    folder: Path,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
) -> None:
    """Make the weights of a folder those of a network; every tensor exactly once, of the right shape and kind, finite.

    Args:
        network: of any weights, which may be on the meta device.
        state: is emptied on the way: what had to be converted is let go before the next tensor.
        folder: for errors.
        device: where the weights go.
        dtype: precision in memory, None to keep theirs.

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
        if expected[name].is_floating_point():
            check_numbers(name, state[name], folder)
        elif state[name].dtype != expected[name].dtype:
            raise BundleError(f"{folder}: tensor {name!r} is {state[name].dtype}, expected {expected[name].dtype}")
    placed = {name: converted(state.pop(name), device, dtype) for name in list(state)}
    network.load_state_dict(placed, assign=True)
    network.to(device)


def check_numbers(name: str, tensor: Tensor, folder: Path) -> None:
    """BundleError unless a tensor holds finite floating-point numbers."""
    if not tensor.is_floating_point():
        raise BundleError(f"{folder}: tensor {name!r} is {tensor.dtype}, expected floating point")
    if not all(math.isfinite(end) for end in torch.aminmax(tensor)):  # it needs no memory, unlike isfinite
        raise BundleError(
            f"{folder}: tensor {name!r} holds NaN or infinity; the file is damaged or the training run diverged"
        )

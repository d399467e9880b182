"""Weights of public models: safetensors in one file or in shards, memory-mapped, so that reading copies nothing.

A tensor that was read is a view of its file, which must not be written to in place while it is in use. Pickle files are
never opened: they can run code.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor

from sfumato.model.hub.files import read_json
from sfumato.model.weights import BundleError

FLOATS = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
"""Bytes a number, of the types that we read."""
SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
_NUMBERED = re.compile(r"-(\d{5})-of-(\d{5})\.safetensors$")


@dataclass(frozen=True)
class Stored:
    """Where a tensor is, and what its file says of it."""

    file: Path
    dtype: str
    """As safetensors calls it, such as BF16."""
    shape: tuple[int, ...]


def stored_tensors(folder: Path) -> dict[str, Stored]:
    """The tensors of a folder by name, in the order of the files; only headers are read.

    Raises:
        BundleError: no weights, a missing or damaged shard, pickle files alone.
    """
    listed = _index(folder)
    if listed and SINGLE not in listed.values() and (folder / SINGLE).is_file():
        listed, files = {}, [folder / SINGLE]  # the library looks for this one first
    else:
        files = [folder / name for name in sorted(set(listed.values()))] if listed else _files(folder)
    found: dict[str, Stored] = {}
    for file in files:
        try:
            with safe_open(file, "pt") as shard:
                for name in shard.keys():  # noqa: SIM118 - it is no mapping
                    if name in found:
                        raise BundleError(f"{file}: tensor {name!r} is in {found[name].file.name} too; remove one file")
                    part = shard.get_slice(name)
                    found[name] = Stored(file, part.get_dtype(), tuple(part.get_shape()))
        except FileNotFoundError:
            raise BundleError(f"{file}: this shard is missing, {INDEX} names it; download it again") from None
        except (SafetensorError, OSError) as error:
            raise BundleError(f"{file}: truncated or damaged weights ({error}); download the file again") from None
    for name, file_name in listed.items():
        if name not in found or found[name].file.name != file_name:
            raise BundleError(f"{folder / INDEX}: says that {name!r} is in {file_name}, where it is not; download both")
    return found


def read(stored: Mapping[str, Stored]) -> dict[str, Tensor]:
    """The tensors, as views of their files, in the order of the files.

    Raises:
        BundleError: a tensor of another kind than floating point.
    """
    state: dict[str, Tensor] = {}
    for name, part in stored.items():
        if part.dtype not in FLOATS:
            raise BundleError(
                f"{part.file}: tensor {name!r} is {part.dtype}, expected {', '.join(FLOATS)}; quantised weights are "
                "not read: take the model's original ones"
            )
    for file in dict.fromkeys(part.file for part in stored.values()):
        with safe_open(file, "pt") as shard:
            state |= {name: shard.get_tensor(name) for name, part in stored.items() if part.file == file}
    return state


def _index(folder: Path) -> dict[str, str]:
    """Which file holds which tensor, by the index; empty where there is none."""
    path = folder / INDEX
    if not path.is_file():
        return {}
    listed = read_json(path).get("weight_map")
    if not isinstance(listed, dict) or not all(isinstance(name, str) for name in listed.values()):
        raise BundleError(f"{path}: not an index of shards (no weight_map); download it again")
    if outside := next((name for name in listed.values() if Path(name).name != name), None):
        raise BundleError(f"{path}: names {outside!r}, which is not a file of this folder")
    return listed


def _files(folder: Path) -> list[Path]:
    """The weight files of a folder without an index."""
    files = sorted(folder.glob("model*.safetensors")) or sorted(
        path for path in folder.glob("*.safetensors") if not path.name.startswith(("consolidated", "adapter"))
    )
    if not files:
        if pickles := sorted(path.name for pattern in _PICKLES for path in folder.glob(pattern)):
            raise BundleError(
                f"{folder}: only pickle files ({pickles[0]}), which can run code and are not read; look for a "
                "revision with *.safetensors, or save it as such with transformers where you trust it"
            )
        raise BundleError(f"{folder}: no weights: expected model.safetensors, or shards and {INDEX}")
    if match := _NUMBERED.search(files[0].name):
        there = {path.name for path in files}
        for number in range(1, int(match[2]) + 1):
            name = _NUMBERED.sub(f"-{number:05d}-of-{match[2]}.safetensors", files[0].name)
            if name not in there:
                raise BundleError(f"{folder / name}: this shard is missing; download it again")
    return files

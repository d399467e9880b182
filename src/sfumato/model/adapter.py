"""The adapter bundle: a small folder that says what is added to the weights of another model, its base.

    config.json            as a bundle's, with the base's folder and the SHA-256 of its weights under "adapter"
    adapter.safetensors    for each adapted matrix two thin ones, A (rank x inputs) and B (outputs x rank)
    tokenizer.json         README.md

A matrix W becomes W + scale B A when the folder is loaded, so that an adapted model costs what its base costs.

Source: Hu et al. 2021 (LoRA, 2106.09685, section 4.1).
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from sfumato.config import ModelConfig, from_mapping
from sfumato.model.weights import (
    BUNDLED,
    BundleError,
    check_numbers,
    check_sizes,
    is_public,
    read_tensors,
    weights_sha256,
)

FORMAT = "sfumato-adapter-1"
A, B = ".lora_A", ".lora_B"


@dataclass(frozen=True)
class AdapterConfig:
    """What config.json says of an adapter, under "adapter"."""

    base: str
    """The model it belongs to: a folder, absolute or as seen from the adapter's, or the name of a bundled model."""
    base_sha256: str
    """The identity of that model's weights."""
    rank: int
    scale: float
    """What B A is multiplied with."""

    def find_base(self, folder: Path) -> Path:
        """The base of the adapter in this folder.

        Raises:
            BundleError: it is not there, or its weights are others.
        """
        found = next((p for p in (folder / self.base, BUNDLED / self.base) if p.is_dir()), None)
        if found is None:
            raise BundleError(
                f"{folder}: its base {self.base} is missing: an adapter works only with the model it was made from; "
                "put that model there, or its folder into config.json as adapter.base"
            )
        if (sha256 := identity(found)) != self.base_sha256:
            raise BundleError(
                f"{folder}: its base {found} has other weights than the model it was made from: "
                f"SHA-256 {sha256[:12]}..., expected {self.base_sha256[:12]}...; restore the original weights"
            )
        return found


@dataclass(frozen=True)
class Adapter:
    """An adapter in memory."""

    config: AdapterConfig
    tensors: Mapping[str, Tensor]
    """Of each adapted matrix, as blocks.0.gate: blocks.0.gate.lora_A, (rank, inputs), and .lora_B, (outputs, rank)."""


def read_adapter(folder: Path) -> AdapterConfig | None:
    """What a folder's config.json says of its adapter; None where the folder is a whole model.

    Raises:
        BundleError: one line that says what is wrong.
    """
    path = folder / "config.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BundleError(f"{path}: cannot be read ({error}); restore the file") from None
    if content.get("format") != FORMAT:
        return None
    return from_mapping(AdapterConfig, content.get("adapter"), where=f"{path}: adapter")


def identity(folder: Path) -> str:
    """SHA-256, in hex, that says which weights a folder has, those of an adapter's base among them.

    Since an adapter names the identity of its base, none can be the base of itself.

    Raises:
        BundleError: a broken config.json.
        OSError: a file cannot be read.
    """
    config, sha256 = read_adapter(folder), weights_sha256(folder)
    if config is None:
        return sha256
    return hashlib.sha256(f"{sha256} {config.base_sha256} {config.scale!r}".encode()).hexdigest()


def base_name(folder: Path) -> str:
    """How an adapter calls its base: the name of a model that comes with the package, else the whole path."""
    return folder.name if folder.parent == BUNDLED else str(folder.resolve())


def read_weights(folder: Path, model: ModelConfig | None) -> tuple[dict[str, Tensor], Adapter | None]:
    """All tensors of a folder; of an adapter's, those of its base with the adapter added, and the adapter.

    `model` is the size that they must have, None for a network that is not our transformer.

    Raises:
        BundleError: one line that says what is missing, damaged or does not fit.
    """
    if is_public(folder):
        from sfumato.model.hub.reading import read

        return read(folder)[2], None
    config, adapter = read_adapter(folder), None
    if config is None:
        state = read_tensors(folder)
    else:
        base = config.find_base(folder)
        state, _ = read_weights(base, model)
        adapter = Adapter(replace(config, base=base_name(base)), read_tensors(folder, "adapter"))
        _check(adapter, state, folder)
        state = added(state, adapter.tensors, config.scale)
    if model is not None:
        check_sizes(state, model, folder)
    return state, adapter


def added(state: Mapping[str, Tensor], adapter: Mapping[str, Tensor], scale: float) -> dict[str, Tensor]:
    """W + scale B A for every matrix that has an adapter, in float32 or better; the other tensors as they are."""
    result = dict(state)
    for name in adapter:
        if name.endswith(A):
            matrix = name.removesuffix(A)
            weight, low, up = state[f"{matrix}.weight"], adapter[name], adapter[matrix + B]
            dtype = torch.promote_types(torch.promote_types(weight.dtype, low.dtype), torch.float32)
            result[f"{matrix}.weight"] = torch.addmm(weight.to(dtype), up.to(dtype), low.to(dtype), alpha=scale)
    return result


def _check(adapter: Adapter, state: Mapping[str, Tensor], folder: Path) -> None:
    """BundleError unless every tensor is half of a pair that fits a matrix of the base."""
    rank = adapter.config.rank
    for name in sorted(adapter.tensors):
        matrix, dot, half = name.rpartition(".")
        weight = state.get(f"{matrix}.weight")
        if weight is None or weight.ndim != 2 or dot + half not in (A, B):
            raise BundleError(f"{folder}: unexpected tensor {name!r}; the base has no matrix that it belongs to")
        other = matrix + (A if dot + half == B else B)
        if other not in adapter.tensors:
            raise BundleError(f"{folder}: tensor {other!r} is missing from the adapter; copy the file again")
        outputs, inputs = weight.shape
        expected = [rank, inputs] if dot + half == A else [outputs, rank]
        if (found := list(adapter.tensors[name].shape)) != expected:
            raise BundleError(f"{folder}: tensor {name!r} has shape {found}, its base and its rank ask for {expected}")
        check_numbers(name, adapter.tensors[name], folder)

"""A public model's folder as our bundle."""

import hashlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sfumato.model.bundle import BundleConfig, build_network
from sfumato.model.hub import foreign
from sfumato.model.hub.dream import DREAM
from sfumato.model.hub.family import Family
from sfumato.model.hub.llada import LLADA
from sfumato.model.hub.llama import LLAMA
from sfumato.model.hub.qwen2 import QWEN2
from sfumato.model.hub.qwen3 import QWEN3
from sfumato.model.hub.sdar import SDAR
from sfumato.model.hub.shards import Stored, stored_tensors
from sfumato.model.hub.shards import read as read_shards
from sfumato.model.hub.vocabulary import read_json, read_vocabulary, special_tokens
from sfumato.model.weights import BundleError

FAMILIES: tuple[Family, ...] = (LLADA, DREAM, SDAR, QWEN2, QWEN3, LLAMA)


def family_of(folder: Path) -> tuple[Family, dict[str, Any]]:
    """The family of a folder's model, and its config.json.

    Raises:
        BundleError: a broken config.json, or a family that we do not know.
    """
    content = read_json(folder / "config.json")
    kind = content.get("model_type")
    for family in FAMILIES:
        if kind in family.model_types:
            return family, content
    raise BundleError(
        f"{folder / 'config.json'}: unknown model_type {kind!r}; known are "
        f"{', '.join([*(name for family in FAMILIES for name in family.model_types), *sorted(foreign.FAMILIES)])}"
    )


def _wrapped(folder: Path) -> dict[str, Any] | None:
    """config.json of a model that a class of the transformers library computes; None for all others."""
    content = read_json(folder / "config.json")
    ours = {name for family in FAMILIES for name in family.model_types}
    return content if content.get("model_type") in foreign.FAMILIES.keys() - ours else None


def describe(folder: Path) -> tuple[BundleConfig, str]:
    """All of a folder but its weights: our configuration, and the content of a tokenizer.json.

    Raises:
        BundleError: one line that says what is missing, broken, or not computed by our network.
    """
    if (wrapped := _wrapped(folder)) is not None:
        return foreign.describe(folder, wrapped)
    family, content = family_of(folder)
    description = family.describe(content, str(folder / "config.json"))
    vocabulary = read_vocabulary(folder, byte_level=family.byte_level)
    tokens = special_tokens(vocabulary, content, description.mask, description.model.vocab_size)
    config = BundleConfig(
        model=description.model,
        process=description.process,
        layout=description.layout,
        shift=description.shift,
        tokens=tokens,
        tokenizer_sha256=hashlib.sha256(vocabulary.json.encode()).hexdigest(),
        sampler=dict(description.sampler),
        made={"family": family.name, "model_type": content["model_type"]},
    )
    return config, vocabulary.json


def read(folder: Path) -> tuple[BundleConfig, str, dict[str, Tensor]]:
    """A model: our configuration, the content of a tokenizer.json, and the weights under our names.

    The tensors are views of the files, in whatever precision these have.

    Raises:
        BundleError: one line that says what is missing, broken, or not computed by our network.
    """
    config, tokenizer_json = describe(folder)
    return config, tokenizer_json, read_state(folder, config)


def read_state(folder: Path, config: BundleConfig) -> dict[str, Tensor]:
    """The weights of a folder under our names, as views of its files.

    Raises:
        BundleError: a missing, unexpected or damaged tensor, or one of another shape or kind.
    """
    if config.foreign is not None:
        return foreign.read_state(folder, config)
    ours = {theirs: name for name, theirs in expected_tensors(folder, config).items()}
    stored = check_tensors(folder, config)
    state = read_shards(stored)
    head = family_of(folder)[0].tensor("head.weight")
    table = family_of(folder)[0].tensor("embedding.weight")
    if config.model.tied and head in state and not torch.equal(state[head], state[table]):
        raise BundleError(f"{folder}: config.json ties {head!r} to {table!r}, but their weights differ")
    return {ours[name]: tensor for name, tensor in state.items() if name in ours}


def expected_tensors(folder: Path, config: BundleConfig) -> dict[str, str]:
    """Of each tensor of our network, what the folder calls it."""
    family, _ = family_of(folder)
    with torch.device("meta"):
        return {name: family.tensor(name) for name in build_network(config).state_dict()}


def check_tensors(folder: Path, config: BundleConfig) -> dict[str, Stored]:
    """The tensors of a folder, held against config.json by name and shape; only headers are read.

    Raises:
        BundleError: the first that is missing, unexpected, or of another shape.
    """
    family, _ = family_of(folder)
    stored = stored_tensors(folder)
    with torch.device("meta"):
        shapes = {family.tensor(name): tuple(t.shape) for name, t in build_network(config).state_dict().items()}
    for name, shape in shapes.items():
        if name not in stored:
            raise BundleError(f"{folder}: tensor {name!r} is missing from the weights{_whose(family, stored)}")
        if stored[name].shape != shape:
            raise BundleError(
                f"{stored[name].file}: tensor {name!r} has shape {list(stored[name].shape)}, config.json asks for "
                f"{list(shape)}"
            )
    for name in stored.keys() - shapes.keys():
        if not _redundant(name, config, family):
            raise BundleError(f"{stored[name].file}: unexpected tensor {name!r}; config.json describes another network")
    return stored


def _redundant(name: str, config: BundleConfig, family: Family) -> bool:
    """Whether a tensor that our network lacks says nothing new: rotary tables, and the head where it is tied."""
    return name.endswith("rotary_emb.inv_freq") or (config.model.tied and name == family.tensor("head.weight"))


def _whose(family: Family, stored: dict[str, Stored]) -> str:
    """What to make of weights that lack a tensor."""
    if family.tensor("embedding.weight") not in stored:
        others = [other.name for other in FAMILIES if other.tensor("embedding.weight") in stored]
        if others:
            return f", whose names are those of {' or '.join(others)}; config.json says {family.name}"
    return "; a shard may be missing, or config.json describes another network"

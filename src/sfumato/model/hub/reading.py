"""A public model's folder as our bundle."""

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sfumato.model.bundle import BundleConfig, build_network, without_weights
from sfumato.model.hub import foreign, own
from sfumato.model.hub.dream import DREAM
from sfumato.model.hub.family import Family, Unknown, Unlike
from sfumato.model.hub.files import read_json
from sfumato.model.hub.llada import LLADA
from sfumato.model.hub.llama import LLAMA
from sfumato.model.hub.mask import TABLES, grown, smaller
from sfumato.model.hub.qwen2 import QWEN2
from sfumato.model.hub.qwen3 import QWEN3
from sfumato.model.hub.sdar import SDAR
from sfumato.model.hub.shards import Stored, stored_tensors
from sfumato.model.hub.shards import read as read_shards
from sfumato.model.hub.template import chat_of
from sfumato.model.hub.vocabulary import read_vocabulary, special_tokens
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
    if kind == "diffusion_gemma":
        raise BundleError(
            f"{folder / 'config.json'}: a diffusion_gemma model has a loop of its own: load it with "
            "sfumato.sample.diffusion_gemma.DiffusionGemma.load"
        )
    native = [name for family in FAMILIES for name in family.model_types]
    known = ", ".join(dict.fromkeys([*native, *sorted(foreign.FAMILIES)]))
    raise BundleError(f"{folder / 'config.json'}: unknown model_type {kind!r}; known are {known}")


def describe(folder: Path) -> tuple[BundleConfig, str]:
    """All of a folder but its weights: our configuration, and the content of a tokenizer.json.

    Raises:
        BundleError: one line that says what is missing, broken, or computed neither by our network nor by a class of
            the transformers library that we know.
    """
    content = read_json(folder / "config.json")
    if not isinstance(content.get("model_type"), str | None):
        raise BundleError(f"{folder / 'config.json'}: model_type: expected a word, got {content['model_type']!r}")
    if own.KEY in content:
        return _describe_own(folder, content)
    ours = {name for family in FAMILIES for name in family.model_types}
    if content.get("model_type") in foreign.FAMILIES.keys() - ours:
        return foreign.describe(folder, content)
    family, _ = family_of(folder)
    try:
        description = family.describe(content, str(folder / "config.json"))
    except Unlike as error:
        kind = content["model_type"]
        if kind not in foreign.FAMILIES or isinstance(error, Unknown) and not foreign.knows(kind, error.key):
            raise
        return foreign.describe(folder, content)  # the library's class computes what our network does not
    vocabulary = read_vocabulary(folder, byte_level=family.byte_level)
    tokens = special_tokens(vocabulary, content, description.mask, description.model.vocab_size)
    chat, no_chat = chat_of(vocabulary, tokens.start)
    config = BundleConfig(
        # A mask that is one token more than there are has no weights in the folder: `grown`.
        model=replace(description.model, vocab_size=max(description.model.vocab_size, tokens.mask + 1)),
        process=description.process,
        layout=description.layout,
        shift=description.shift,
        tokens=tokens,
        tokenizer_sha256=hashlib.sha256(vocabulary.json.encode()).hexdigest(),
        sampler=dict(description.sampler),
        chat=chat,
        made={"family": family.name, "model_type": content["model_type"], **no_chat},
    )
    return config, vocabulary.json


def _describe_own(folder: Path, content: dict[str, Any]) -> tuple[BundleConfig, str]:
    """Of a folder in our own layout; its tokenizer.json may have been written anew by transformers."""
    config = own.read(content, str(folder / "config.json"))
    tokenizer_json = read_vocabulary(folder, byte_level=False).json
    sha256 = hashlib.sha256(tokenizer_json.encode()).hexdigest()
    return replace(config, tokenizer_sha256=sha256), tokenizer_json


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
    stored, called = check_tensors(folder, config), names(folder)
    state = read_shards(stored)
    head, table = called("head.weight"), called("embedding.weight")
    if config.model.tied and head in state and not torch.equal(state[head], state[table]):
        raise BundleError(f"{folder}: config.json ties {head!r} to {table!r}, but their weights differ")
    with without_weights():
        ours = {called(name): name for name in build_network(config).state_dict()}
    rows = config.model.vocab_size
    tables = {called(name) for name in TABLES}
    return {ours[n]: grown(tensor, rows) if n in tables else tensor for n, tensor in state.items() if n in ours}


def names(folder: Path) -> Callable[[str], str]:
    """What a folder calls each of our tensors."""
    if own.KEY in read_json(folder / "config.json"):
        return own.tensor
    return family_of(folder)[0].tensor


def check_tensors(folder: Path, config: BundleConfig) -> dict[str, Stored]:
    """The tensors of a folder, held against config.json by name and shape; only headers are read.

    Raises:
        BundleError: the first that is missing, unexpected, or of another shape.
    """
    if config.foreign is not None:
        return foreign.check_tensors(folder, config)[0]
    called, stored = names(folder), stored_tensors(folder)
    _check_sizes(folder, config, called, stored)
    with without_weights():
        shapes = {called(name): tuple(t.shape) for name, t in build_network(config).state_dict().items()}
    for name, shape in shapes.items():
        if name not in stored:
            raise BundleError(f"{folder}: tensor {name!r} is missing from the weights{_whose(called, stored)}")
        if stored[name].shape not in (shape, smaller(shape, config)):
            raise BundleError(
                f"{stored[name].file}: tensor {name!r} has shape {list(stored[name].shape)}, config.json asks for "
                f"{list(shape)}"
            )
    # Rotary tables, and a head that is tied, say nothing new.
    known = shapes.keys() | ({called("head.weight")} if config.model.tied else set())
    for name, part in stored.items():
        if name not in known and not name.endswith("rotary_emb.inv_freq"):
            raise BundleError(f"{part.file}: unexpected tensor {name!r}; config.json describes another network")
    return stored


def _check_sizes(folder: Path, config: BundleConfig, called: Callable[[str], str], stored: dict[str, Stored]) -> None:
    """BundleError unless the weights are as large as config.json says, before a network of such a size is built."""
    model = config.model
    table, last = called("embedding.weight"), called(f"blocks.{model.layers - 1}.mlp_norm")
    for name in (table, last):
        if name not in stored:
            raise BundleError(f"{folder}: tensor {name!r} is missing from the weights{_whose(called, stored)}")
    shape = (model.vocab_size, model.latent or model.width)
    if stored[table].shape not in (shape, smaller(shape, config)):
        raise BundleError(
            f"{stored[table].file}: tensor {table!r} has shape {list(stored[table].shape)}, config.json asks for "
            f"{list(shape)}"
        )


def _whose(called: Callable[[str], str], stored: dict[str, Stored]) -> str:
    """What to make of weights that lack a tensor."""
    if called("embedding.weight") not in stored:
        others = [family.name for family in FAMILIES if family.tensor("embedding.weight") in stored]
        if others:
            return f": the names of the others are those of {' or '.join(others)}; take the config.json of this model"
    return "; a shard may be missing, or config.json describes another network"

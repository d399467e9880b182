"""Masked and causal language models of the transformers library that are not computed by our network (`model.foreign`).

A masked one is a masked diffusion model that has learned low noise alone: it is scored, writes, and is adapted at once.
A causal one is autoregressive.
"""

import dataclasses
import hashlib
import re
from collections.abc import Iterable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from torch import Tensor

from sfumato.config import ConfigError, ModelConfig, ProcessConfig
from sfumato.model.bundle import BundleConfig
from sfumato.model.families import FAMILIES, MASKED, layer_kinds
from sfumato.model.foreign import Foreign
from sfumato.model.hub.mask import grown, smaller
from sfumato.model.hub.shards import Stored, stored_tensors
from sfumato.model.hub.shards import read as read_shards
from sfumato.model.hub.template import chat_of
from sfumato.model.hub.vocabulary import Vocabulary, read_vocabulary, special_tokens
from sfumato.model.weights import BundleError

# Share of the places that are masked in pre-training.
_MASKED_SHARE = {"modernbert": 0.3, "eurobert": 0.5}
# Other tensors of such folders, which say nothing about the text: heads for other tasks, tables that are computed.
_OTHER = re.compile(
    r"(^|\.)(pooler|seq_relationship|discriminator_predictions|classifier|score)\."
    r"|\.(position_ids|masked_bias|inv_freq)$|\.attn\.bias$"
)


def describe(folder: Path, content: Mapping[str, Any]) -> tuple[BundleConfig, str]:
    """All of a folder but its weights: our configuration, and the content of its tokenizer.json.

    Args:
        folder: with a tokenizer.json.
        content: config.json, of one of `FAMILIES`.

    Raises:
        ValueError: one line that says what is missing, broken, or nothing that the class's network computes here.
    """
    where = folder / "config.json"
    kind = content["model_type"]
    foreign = {name: value for name, value in content.items() if name not in ("auto_map", "quantization_config")}
    if content.get("quantization_config"):
        raise BundleError(f"{where}: quantised weights are not read; take the model's original ones")
    network = _network(foreign, where)
    try:
        model = _sizes(network)
    except ConfigError as error:
        raise BundleError(f"{where}: {error}") from None
    vocabulary = read_vocabulary(folder, byte_level=False)
    masked = kind in MASKED
    if masked and vocabulary.id_of("mask_token") is None:
        raise BundleError(f"{folder}: a masked model, but its tokenizer_config.json names no mask_token; restore it")
    tokens = special_tokens(vocabulary, dict(content), None, model.vocab_size)
    if tokens.mask == model.vocab_size:
        model = dataclasses.replace(model, vocab_size=tokens.mask + 1)
        foreign["vocab_size"] = model.vocab_size
    if masked:
        tokens = dataclasses.replace(tokens, start=_opening(vocabulary))
    share = _MASKED_SHARE.get(kind, 0.15)
    levels = (round(share - 0.01, 2), round(share + 0.01, 2))
    chat, no_chat = chat_of(vocabulary, tokens.start)
    config = BundleConfig(
        model=model,
        process=ProcessConfig(kind="masked", levels=levels) if masked else ProcessConfig(kind="autoregressive"),
        layout="full" if masked else "causal",
        shift=0 if masked else 1,
        tokens=dataclasses.replace(tokens, written=False),
        tokenizer_sha256=hashlib.sha256(vocabulary.json.encode()).hexdigest(),
        sampler={"sampler": "confidence" if masked else "left_to_right"},
        chat=chat,
        made={"family": FAMILIES[kind], "model_type": kind, **no_chat},
        foreign=foreign,
    )
    return config, vocabulary.json


def knows(kind: str, key: str) -> bool:
    """Whether the library's configuration of a family has a key, so that its class may compute by it."""
    if find_spec("transformers") is None:
        return False
    import transformers

    return hasattr(transformers.CONFIG_MAPPING[kind](), key)


def _network(foreign: Mapping[str, Any], where: Path) -> Foreign:
    """The network that a config.json describes; its class refuses what it does not know."""
    try:
        network = Foreign(foreign)
    except ConfigError as error:
        raise BundleError(f"{where}: {error}") from None
    kind = network.config.model_type
    others = layer_kinds(network.config) - {"full_attention", "sliding_attention"}
    if others or getattr(network.config, "is_decoder", False) and kind in MASKED:
        what = f"layers of the kind {sorted(others)[0]!r}" if others else "is_decoder"
        raise BundleError(f"{where}: {what}: who sees whom is not ours to say there; use another model")
    sees_both = foreign.get("is_causal") is False or getattr(network.config, "use_bidirectional_attention", False)
    if network.causal and sees_both:
        raise BundleError(f"{where}: it looks both ways and is no causal model, as which {kind} is read; use another")
    if getattr(network.config, "alibi", False):
        raise BundleError(f"{where}: alibi positions are not supported; use a model with rotary or learned ones")
    return network


def _sizes(network: Foreign) -> ModelConfig:
    """What the library's configuration says about sizes, in our words; for reports, and for the length of rows."""
    config = network.config
    heads, width = config.num_attention_heads, config.hidden_size
    inner = [getattr(config, name, None) for name in ("intermediate_size", "ffn_dim", "hidden_dim", "n_inner")]
    head_width = getattr(config, "head_dim", None) or width // heads
    return ModelConfig(
        vocab_size=config.vocab_size,
        width=width,
        layers=config.num_hidden_layers,
        heads=heads,
        kv_heads=getattr(config, "num_key_value_heads", None) or 0,
        head_width=head_width + head_width % 2,
        mlp_width=next((size for size in inner if size), 4 * width),
        context=network.context,
        tied=len(network.tables) == 1,
    )


def _opening(vocabulary: Vocabulary) -> int | None:
    """What the tokenizer puts before a text, such as [CLS]; None = nothing."""
    return next((i for i in map(vocabulary.id_of, ("cls_token", "bos_token")) if i is not None), None)


def read_state(folder: Path, config: BundleConfig) -> dict[str, Tensor]:
    """The weights of a folder by the names of our network's, which are the library's, as views of its files.

    Raises:
        BundleError: a missing, unexpected or damaged tensor, or one of another shape or kind.
    """
    stored, names = check_tensors(folder, config)
    read = read_shards({name: part for name, part in stored.items() if name in names})
    return {ours: _whole(read[name], config) for name, ours in names.items()}


def _whole(tensor: Tensor, config: BundleConfig) -> Tensor:
    """A tensor, with the mask's row where it is a table of the tokens that lacks it."""
    rows, mask = config.model.vocab_size, config.tokens.mask
    return grown(tensor, rows) if mask == rows - 1 == len(tensor) else tensor


def check_tensors(folder: Path, config: BundleConfig) -> tuple[dict[str, Stored], dict[str, str]]:
    """The tensors of a folder, held against its config.json by name and shape, and our names of those we need.

    Raises:
        BundleError: the first that is missing, unexpected, or of another shape; only headers are read.
    """
    assert config.foreign is not None
    network, stored = Foreign(config.foreign), stored_tensors(folder)
    expected, names = network.state_dict(), _translated(stored, network)
    for name, part in stored.items():
        if name not in names:
            if not _OTHER.search(name) and network.canonical(name) not in expected:
                raise BundleError(f"{part.file}: unexpected tensor {name!r}; config.json describes another network")
        elif part.shape not in (shape := tuple(expected[names[name]].shape), smaller(shape, config)):
            raise BundleError(
                f"{part.file}: tensor {name!r} has shape {list(part.shape)}, config.json asks for {list(shape)}"
            )
    if missing := sorted(expected.keys() - set(names.values())):
        raise BundleError(
            f"{folder}: tensor {missing[0]!r} is missing from the weights; a shard may be missing, or the model has no "
            f"head that makes logits: expected those of {FAMILIES[config.foreign['model_type']]}"
        )
    return stored, names


def _translated(names: Iterable[str], network: Foreign) -> dict[str, str]:
    """Of the tensors in a folder that our network needs, once each, its names there."""
    left = dict.fromkeys(network.state_dict())
    found = {}
    for name in names:
        new = re.sub(r"LayerNorm\.gamma$", "LayerNorm.weight", re.sub(r"LayerNorm\.beta$", "LayerNorm.bias", name))
        # The oldest folders hold the trunk alone; a tied matrix may be there under each of its names.
        for spelling in (network.canonical(new), network.canonical(f"{network.trunk_name}.{new}")):
            if spelling in left:
                del left[spelling]
                found[name] = spelling
                break
    return found

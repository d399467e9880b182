"""A model of ours as a folder of the transformers library: in our own layout, or in that of a public family."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tokenizers
import torch
from torch import Tensor

from sfumato.model.bundle import BundleConfig
from sfumato.model.hub import own
from sfumato.model.hub.family import Description, Family
from sfumato.model.hub.shards import INDEX
from sfumato.model.weights import BundleError, whole_folder, write_tensors

SHARD_BYTES = 2 * 2**30
_DTYPES = {torch.float32: "float32", torch.bfloat16: "bfloat16", torch.float16: "float16", torch.float64: "float64"}


def write_public(
    folder: Path,
    config: BundleConfig,
    state: Mapping[str, Tensor],
    tokenizer_json: str,
    card: str,
    *,
    family: Family | None = None,
    dtype: torch.dtype | None = None,
) -> None:
    """Write a folder that the Auto classes load, all of it or nothing.

    Args:
        folder: where; what is there is replaced.
        config: of the model.
        state: its weights under our names.
        tokenizer_json: the content of a tokenizer.json.
        card: the README.
        family: whose layout; None = our own, for `import sfumato.model.hub`.
        dtype: precision of the stored weights, None to keep theirs.

    Raises:
        BundleError: the family has no words for such a model.
        OSError: the disk is full or not writable; an existing folder there is intact.
    """
    if config.quantised:
        raise BundleError(f"{folder}: quantised matrices are stored in bundles only; convert the model they came from")
    if family is None:
        keys, tensor = own.write(config), own.tensor if config.foreign is None else str
    elif config.foreign is not None:
        kind = config.foreign["model_type"]
        raise BundleError(f"{folder}: the network is the library's {kind}, not a {family.name} model; use --to hf")
    else:
        keys, tensor = family_config(config, family, str(folder)), family.tensor
    stored = dtype or next(iter(state.values())).dtype
    keys |= {"dtype": _DTYPES[stored], "torch_dtype": _DTYPES[stored]}  # newer and older name
    with whole_folder(folder) as scratch:
        listed = write_tensors(scratch, state, dtype=dtype, shard_bytes=SHARD_BYTES, named=tensor)
        if len(set(listed.values())) > 1:
            size = sum(value.numel() * (dtype or value.dtype).itemsize for value in state.values())
            _dump(scratch / INDEX, {"metadata": {"total_size": size}, "weight_map": listed})
        _dump(scratch / "config.json", keys)
        _dump(
            scratch / "generation_config.json", {"eos_token_id": config.tokens.end, "pad_token_id": config.tokens.pad}
        )
        (scratch / "tokenizer.json").write_text(tokenizer_json, encoding="utf-8")
        _dump(scratch / "tokenizer_config.json", _tokenizer_config(config, tokenizer_json))
        (scratch / "README.md").write_text(card, encoding="utf-8")


def family_config(config: BundleConfig, family: Family, where: str) -> dict[str, Any]:
    """The config.json of a model in a family's layout.

    Raises:
        BundleError: the family has no words for such a model; names what differs.
    """
    description = Description(
        config.model, config.process, config.layout, config.shift, config.sampler, config.tokens.mask
    )
    tokens = config.tokens
    ids = {"bos_token_id": tokens.start, "eos_token_id": tokens.end, "pad_token_id": tokens.pad}
    return family.config_of(description, where) | {name: token for name, token in ids.items() if token is not None}


def _tokenizer_config(config: BundleConfig, tokenizer_json: str) -> dict[str, Any]:
    """What AutoTokenizer wants to know; a token that has no text, such as a spare id for the mask, is left out."""
    backend = tokenizers.Tokenizer.from_str(tokenizer_json)
    ids = {
        "mask_token": config.tokens.mask,
        "eos_token": config.tokens.end,
        "pad_token": config.tokens.pad,
        "bos_token": config.tokens.start,
    }
    texts = {role: None if token is None else backend.id_to_token(token) for role, token in ids.items()}
    settings: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": config.model.context,
        "clean_up_tokenization_spaces": False,
        **{role: text for role, text in texts.items() if text is not None},
    }
    if config.chat is not None:
        settings["chat_template"] = jinja(config.chat, texts["bos_token"] or "")
    return settings


def jinja(chat: Mapping[str, Any], start: str) -> str:
    """A chat template as the transformers library has it.

    Args:
        chat: as a bundle's config.json holds it (`text.chat.ChatTemplate`).
        start: the text of the token that opens every text.
    """

    def literal(*parts: Sequence[str]) -> str:
        return json.dumps("".join("".join(part) for part in parts), ensure_ascii=False)

    default, system = chat.get("default_system", ""), chat["system"]
    opening = f"{{{{ {literal([start], chat.get('opening', ()))} }}}}"
    if system and (default or chat.get("always_system")):
        whole = literal(system["before"], [default], system["after"])
        opening += f"{{% if messages[0]['role'] != 'system' %}}{{{{ {whole} }}}}{{% endif %}}"
    content = "message['content'] | trim" if chat.get("strip") else "message['content']"
    turns = "".join(
        f"{{% if message['role'] == '{role}' %}}"
        f"{{{{ {literal(chat[role]['before'])} + ({content}) + {literal(chat[role]['after'])} }}}}{{% endif %}}"
        for role in ("system", "user", "assistant")
        if chat[role]
    )
    known = [role for role in ("system", "user", "assistant") if chat[role]]
    refusal = literal([f"this model knows the roles {', '.join(known)} only"])
    turns += f"{{% if message['role'] not in {known} %}}{{{{ raise_exception({refusal}) }}}}{{% endif %}}"
    cue = f"{{% if add_generation_prompt %}}{{{{ {literal(chat['cue'])} }}}}{{% endif %}}"
    return f"{opening}{{% for message in messages %}}{turns}{{% endfor %}}{cue}"


def _dump(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def family_named(name: str, families: tuple[Family, ...]) -> Family:
    """The family of this name or model_type, in any case; BundleError for an unknown one."""
    for family in families:
        if name.lower() in (family.name.lower(), *(kind.lower() for kind in family.model_types)):
            return family
    raise BundleError(f"unknown family {name!r}; known are {', '.join(family.name for family in families)}")

"""What is read off, and changed in, the content of a `tokenizer.json` before the library gets it."""

from collections.abc import Mapping
from typing import Any

from sfumato.text.interface import SpecialIds

SECRET = "\0"
"""Stands before the name of a special token: no text can spell it then, since none holds a NUL."""


def vocabulary_of(content: Mapping[str, Any]) -> dict[str, int]:
    """All tokens, added ones too."""
    vocab = content["model"]["vocab"]
    pieces = vocab.items() if isinstance(vocab, dict) else ((piece, i) for i, (piece, _) in enumerate(vocab))
    return dict(pieces) | {entry["content"]: entry["id"] for entry in content.get("added_tokens", [])}


def special_names(content: Mapping[str, Any], vocabulary: Mapping[str, int], tokens: SpecialIds) -> dict[str, int]:
    """Names and ids of what no text may spell."""
    ids = {tokens.mask, tokens.end, tokens.pad, tokens.start}
    ids |= {entry["id"] for entry in content.get("added_tokens", []) if entry.get("special")}
    return {token: token_id for token, token_id in vocabulary.items() if token_id in ids}


def hidden(content: Mapping[str, Any], names: Mapping[str, int]) -> dict[str, Any]:
    """The content with secret names for the special tokens, and nothing that cuts, pads or frames texts."""
    changed = renamed(content, {name: SECRET + name for name in names})
    added = {entry["content"]: entry for entry in changed.get("added_tokens", [])}
    for name, token_id in names.items():
        flags = {"single_word": False, "lstrip": False, "rstrip": False} | added.get(SECRET + name, {})
        entry = {"id": token_id, "content": SECRET + name, "normalized": False, "special": True}
        added[SECRET + name] = flags | entry
    entries = sorted(added.values(), key=lambda entry: entry["id"])
    return changed | {"added_tokens": entries, "truncation": None, "padding": None, "post_processor": None}


def renamed(content: Mapping[str, Any], new: Mapping[str, str]) -> dict[str, Any]:
    """The content with other names for some tokens."""
    model = dict(content["model"])
    vocab = model["vocab"]
    if isinstance(vocab, dict):
        model["vocab"] = {new.get(token, token): token_id for token, token_id in vocab.items()}
    else:
        model["vocab"] = [[new.get(piece, piece), score] for piece, score in vocab]
    if "merges" in model and any(name in vocab for name in new):
        pairs = [tuple(m.split(" ", 1)) if isinstance(m, str) else tuple(m) for m in model["merges"]]
        kept = [pair for pair in pairs if not {*pair, "".join(pair)} & new.keys()]
        model["merges"] = [list(pair) for pair in kept]
    if isinstance(unknown := model.get("unk_token"), str):
        model["unk_token"] = new.get(unknown, unknown)
    added = [
        entry | {"content": new.get(entry["content"], entry["content"])} for entry in content.get("added_tokens", [])
    ]
    return {**content, "model": model, "added_tokens": added}


def parts_of(content: Mapping[str, Any], section: str) -> list[dict[str, Any]]:
    """The steps of a normalizer, pre-tokenizer or decoder, on one level."""
    step = content.get(section)
    if not step:
        return []
    if step.get("type") != "Sequence":
        return [step]
    return [part for inner in step[section.replace("_", "") + "s"] for part in parts_of({section: inner}, section)]


def _adds_prefix(step: Mapping[str, Any]) -> bool:
    match step.get("type"):
        case "Prepend":
            return True
        case "Metaspace":
            return step.get("prepend_scheme", "always" if step.get("add_prefix_space", True) else "never") != "never"
        case "ByteLevel":
            return bool(step.get("add_prefix_space", True))
    return False


def prefixes(content: Mapping[str, Any]) -> bool:
    """Whether a space is put before every text."""
    return any(_adds_prefix(step) for name in ("normalizer", "pre_tokenizer") for step in parts_of(content, name))


def without_prefix(content: Mapping[str, Any]) -> dict[str, Any]:
    """The content with those steps changed."""

    def changed(step: Any) -> Any:
        if isinstance(step, list):
            return [changed(one) for one in step if not (isinstance(one, dict) and one.get("type") == "Prepend")]
        if not isinstance(step, dict):
            return step
        if not _adds_prefix(step):
            return {name: changed(value) for name, value in step.items()}
        if step["type"] == "Prepend":
            return None
        return step | {"add_prefix_space": False} | ({"prepend_scheme": "never"} if step["type"] == "Metaspace" else {})

    return {**content, **{name: changed(content.get(name)) for name in ("normalizer", "pre_tokenizer")}}


def unknown_id(content: Mapping[str, Any], vocabulary: Mapping[str, int]) -> int | None:
    """The token for what the vocabulary cannot say, if there is one."""
    model = content["model"]
    if isinstance(model.get("unk_token"), str):
        return vocabulary.get(model["unk_token"].removeprefix(SECRET))
    return model.get("unk_id")

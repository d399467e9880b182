"""The tokenizer files of public models: the content of a tokenizer.json, and which of its ids mean something."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers

from sfumato.model.bundle import SpecialTokens
from sfumato.model.hub.files import read_json
from sfumato.model.weights import BundleError

# Qwen's pieces, within which merges happen.
_PIECES = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_SPARE = ("reserved", "unused", "extra_id", "mask")  # in the names of special tokens that no text of the model has


@dataclass(frozen=True)
class Vocabulary:
    """A tokenizer and what its files say about it."""

    json: str
    """The content of a tokenizer.json."""
    backend: tokenizers.Tokenizer
    settings: dict[str, Any]
    """tokenizer_config.json, with special_tokens_map.json."""
    generation: dict[str, Any]
    """generation_config.json."""
    where: Path

    def id_of(self, role: str) -> int | None:
        """The id of the token that the settings name, as eos_token; None where they do not."""
        token = self.settings.get(role)
        text = token.get("content") if isinstance(token, dict) else token
        return self.backend.token_to_id(text) if isinstance(text, str) else None


def read_vocabulary(folder: Path, *, byte_level: bool) -> Vocabulary:
    """The tokenizer of a folder.

    Args:
        folder: with tokenizer.json, or with vocab.json and merges.txt.
        byte_level: whether the latter are a byte-level BPE of Qwen's pieces.

    Raises:
        BundleError: there is neither, or it is broken.
    """
    settings = read_json(folder / "special_tokens_map.json") | read_json(folder / "tokenizer_config.json")
    path = folder / "tokenizer.json"
    if path.is_file():
        try:
            text = path.read_text(encoding="utf-8")
            backend = tokenizers.Tokenizer.from_str(text)
        except Exception as error:  # `tokenizers` raises bare Exception
            reason = str(error).partition("\n")[0]
            raise BundleError(f"{path}: not a tokenizer: {reason}; download the file again") from None
    elif byte_level and (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file():
        backend, text = _from_merges(folder), ""
    else:
        raise BundleError(
            f"{folder}: no tokenizer.json; write one with transformers: AutoTokenizer.from_pretrained(IN)"
            ".save_pretrained(OUT)"
        )
    if _add_tokens(backend, settings, read_json(folder / "added_tokens.json")) or not text:
        text = backend.to_str()
    return Vocabulary(text, backend, settings, read_json(folder / "generation_config.json"), folder)


def _from_merges(folder: Path) -> tokenizers.Tokenizer:
    """Byte-level BPE of a vocabulary and its merges."""
    vocabulary = read_json(folder / "vocab.json")
    lines = (folder / "merges.txt").read_text(encoding="utf-8").splitlines()
    pairs = [tuple(line.split(" ")) for line in lines if line.strip() and not line.startswith("#version")]
    try:
        model = models.BPE(vocab=vocabulary, merges=pairs)  # pyrefly: ignore[bad-argument-type]
    except Exception as error:  # `tokenizers` raises bare Exception
        raise BundleError(f"{folder / 'merges.txt'}: does not fit vocab.json ({error}); download both again") from None
    backend = tokenizers.Tokenizer(model)
    backend.normalizer = normalizers.NFC()
    split = pre_tokenizers.Split(Regex(_PIECES), behavior="isolated")
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    backend.decoder = decoders.ByteLevel()
    return backend


def _add_tokens(backend: tokenizers.Tokenizer, settings: dict[str, Any], older: dict[str, Any]) -> bool:
    """Add the tokens that only the settings name, at their ids; whether there were some."""
    named = _named(settings.get("added_tokens_decoder") or {}, "tokenizer_config.json: added_tokens_decoder")
    others = {str(number): {"content": text, "special": True} for text, number in older.items()}
    named = _named(others, "added_tokens.json") | named
    changed = False
    for number, token in sorted(named.items()):
        if backend.token_to_id(token["content"]) is not None:
            continue
        kind = {name: token[name] for name in ("lstrip", "rstrip", "normalized", "single_word") if name in token}
        backend.add_tokens([AddedToken(token["content"], special=token.get("special", True), **kind)])
        if backend.token_to_id(token["content"]) != number:
            raise BundleError(
                f"tokenizer_config.json: token {token['content']!r} belongs at id {number}, but the vocabulary ends at "
                f"{backend.get_vocab_size() - 2}; download the tokenizer again"
            )
        changed = True
    return changed


def _named(tokens: Any, where: str) -> dict[int, dict[str, Any]]:
    """Tokens by their ids, as numbers."""
    named = tokens.items() if isinstance(tokens, dict) else [("", tokens)]
    for number, token in named:
        good = isinstance(token, dict) and isinstance(token.get("content"), str)
        if not (number.isascii() and number.isdigit() and good):
            raise BundleError(f"{where}: expected tokens with their content by id, got {number!r}: {token!r}")
        for flag in ("lstrip", "rstrip", "normalized", "single_word", "special"):
            if not isinstance(token.get(flag, False), bool):
                raise BundleError(f"{where}: token {number}: {flag}: expected true or false, got {token[flag]!r}")
    return {int(number): token for number, token in named}


def special_tokens(vocabulary: Vocabulary, config: dict[str, Any], mask: int | None, rows: int) -> SpecialTokens:
    """Which ids mean what.

    Args:
        vocabulary: of the folder.
        config: config.json.
        mask: its id where the family names it.
        rows: of the embedding.

    Raises:
        BundleError: an id that has no embedding, or no end of a text.
    """
    largest = max(vocabulary.backend.get_vocab().values())
    if largest >= rows:
        raise BundleError(
            f"{vocabulary.where}: the tokenizer has ids up to {largest}, the network embeds {rows}; they do not belong "
            "together"
        )
    end = _end(vocabulary, config)
    pad = _first(config.get("pad_token_id"), vocabulary.id_of("pad_token"), end)
    start = _start(vocabulary, config)
    mask = _first(mask, vocabulary.id_of("mask_token"))
    for name, token in (("mask", mask), ("end", end), ("pad", pad), ("start", start)):
        if token is not None and (not isinstance(token, int) or not 0 <= token < rows):
            raise BundleError(f"{vocabulary.where}: the id of {name} is {token!r}, the network embeds {rows} tokens")
    if mask is None:
        mask = _spare(vocabulary, rows, {end, pad, start})
    return SpecialTokens(mask, end, pad, start, written=True)  # the families' own code keeps all logits


def _first(*candidates: Any) -> Any:
    return next((one for one in candidates if one is not None), None)


def _end(vocabulary: Vocabulary, config: dict[str, Any]) -> int:
    """What ends a text: of several, the one that the tokenizer calls so."""
    listed = _first(vocabulary.generation.get("eos_token_id"), config.get("eos_token_id"))
    ids = listed if isinstance(listed, list) else [listed] if listed is not None else []
    named = vocabulary.id_of("eos_token")
    end = named if named in ids or not ids else ids[0]
    if not isinstance(end, int):
        raise BundleError(f"{vocabulary.where}: neither config.json nor the tokenizer says which token ends a text")
    return end


def _start(vocabulary: Vocabulary, config: dict[str, Any]) -> int | None:
    """What the tokenizer puts before a text; None = nothing."""
    adds = vocabulary.settings.get("add_bos_token")
    if adds is not None:
        return _first(vocabulary.id_of("bos_token"), config.get("bos_token_id")) if adds else None
    with_special, alone = (
        vocabulary.backend.encode("a").ids,
        vocabulary.backend.encode("a", add_special_tokens=False).ids,
    )
    return with_special[0] if with_special != alone and with_special[1 : 1 + len(alone)] == alone else None


def _spare(vocabulary: Vocabulary, rows: int, taken: set[int | None]) -> int:
    """An id that can become the mask of a model that has none: one that no text has, else one more than there are."""
    used = taken | set(vocabulary.backend.get_vocab().values())
    free = next((token for token in range(rows) if token not in used), None)
    if free is not None:
        return free
    added = {token: one.content for token, one in vocabulary.backend.get_added_tokens_decoder().items()}
    special = [token for token in sorted(added) if token not in taken]
    named = [token for token in special if any(word in added[token].lower() for word in _SPARE)]
    unknown = [token for token in [vocabulary.id_of("unk_token")] if token is not None and token not in taken]
    return next(iter([*named, *unknown, *special[::-1], rows]))

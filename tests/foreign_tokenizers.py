"""Tiny tokenizers in the style of other models, learned from a few sentences with the library's own trainers."""

import json
from dataclasses import dataclass
from functools import cache
from typing import Any

import tokenizers
from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers, processors, trainers

SENTENCES = [
    "Once upon a time there was a little cat, and it wasn't late.",
    'The cat said: "Hello!" and {"name": "Tom", "age": 12} was on the mat.',
    "yes no maybe, he's here; they'd 1,234 reasons to stay.",
    "Größere Füße trügen Äpfel über die Straße.",
    "system user assistant\nYou are a helpful assistant.\n",
] * 3
QWEN_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@dataclass(frozen=True)
class Ids:
    """What `model.bundle.SpecialTokens` says."""

    mask: int
    end: int
    pad: int
    start: int | None


@cache  # the library's trainers are not deterministic
def qwen() -> tuple[str, Ids]:
    """Byte-level BPE; special tokens behind the vocabulary, a text begins with nothing, end and padding are one."""
    backend = tokenizers.Tokenizer(models.BPE())
    backend.normalizer = normalizers.NFC()
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(QWEN_SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    _learn(backend, trainers.BpeTrainer, vocab_size=400, initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    return _with(
        backend, ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|mask|>"], ("<think>",), end="<|endoftext|>"
    )


@cache  # the library's trainers are not deterministic
def llama3() -> tuple[str, Ids]:
    """Byte-level BPE whose texts begin with a token."""
    backend = tokenizers.Tokenizer(models.BPE(ignore_merges=True))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    _learn(backend, trainers.BpeTrainer, vocab_size=400, initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    names = ["<|begin_of_text|>", "<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>"]
    names += ["<|reserved_special_token_0|>", "<|mask|>"]
    return _with(backend, names, end="<|eot_id|>", start="<|begin_of_text|>")


@cache  # the library's trainers are not deterministic
def bert() -> tuple[str, Ids]:
    """WordPiece of lower-case text."""
    backend = tokenizers.Tokenizer(models.WordPiece(unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer(lowercase=True)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    _learn(backend, trainers.WordPieceTrainer, vocab_size=220, special_tokens=special)
    backend.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    backend.enable_truncation(8)
    backend.enable_padding()
    return backend.to_str(), Ids(mask=4, end=3, pad=0, start=2)


@cache  # the library's trainers are not deterministic
def xlmr() -> tuple[str, Ids]:
    """Unigram, with the special tokens among its pieces and the mask behind them."""
    backend = tokenizers.Tokenizer(models.Unigram())
    backend.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")])
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    _learn(backend, trainers.UnigramTrainer, vocab_size=160, special_tokens=special, unk_token="<unk>")
    backend.add_special_tokens([tokenizers.AddedToken("<mask>", lstrip=True, special=True)])
    mask = backend.token_to_id("<mask>")
    return backend.to_str(), Ids(mask=mask, end=2, pad=1, start=0)


@cache  # the library's trainers are not deterministic
def llama2(*, first: bool = False) -> tuple[str, Ids]:
    """BPE over pieces with ▁, bytes for what it does not know; `first`: as newer files put the space before a text."""
    backend = tokenizers.Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    if first:
        backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    else:
        backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    strip = [decoders.Strip(" ", 1, 0)]
    backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), *strip])
    special = ["<unk>", "<s>", "</s>"]
    bytes_ = [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(vocab_size=420, special_tokens=[*special, *bytes_], show_progress=False)
    words = [word for text in SENTENCES[:4] for word in text.replace("ö", "").replace("ß", "").split()]
    backend.train_from_iterator(words, trainer)
    content = json.loads(backend.to_str())
    content["added_tokens"] = [entry for entry in content["added_tokens"] if entry["content"] in special]
    return _with(tokenizers.Tokenizer.from_str(json.dumps(content)), ["[MASK]"], end="</s>", start="<s>", pad="<unk>")


def _learn(backend: tokenizers.Tokenizer, trainer: Any, **options: Any) -> None:
    backend.train_from_iterator(SENTENCES, trainer(show_progress=False, **options))


def _with(
    backend: tokenizers.Tokenizer,
    names: list[str],
    ordinary: tuple[str, ...] = (),
    *,
    end: str,
    start: str | None = None,
    pad: str | None = None,
) -> tuple[str, Ids]:
    """The tokenizer with added tokens, the mask being the last special one."""
    backend.add_special_tokens([tokenizers.AddedToken(name, special=True, normalized=False) for name in names])
    backend.add_tokens([tokenizers.AddedToken(name, normalized=False) for name in ordinary])
    found = {name: backend.token_to_id(name) for name in (names[-1], end, pad or end)}
    begin = None if start is None else backend.token_to_id(start)
    return backend.to_str(), Ids(found[names[-1]], found[end], found[pad or end], begin)


ALL = {"qwen": qwen, "llama3": llama3, "bert": bert, "xlmr": xlmr, "llama2": llama2}

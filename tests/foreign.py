"""Tiny folders of the transformers library's models, as their makers lay them out, with tokenizers of their own."""

import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from sfumato.model.families import FAMILIES, MASKED
from sfumato.model.foreign import Foreign

TEXT = ["the red cat sat on a mat", "a blue dog ran to the green tree", "one two three four five six seven eight"] * 4
SIZES = {
    "vocab_size": 64,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 48,
    "pad_token_id": 1,
    "bos_token_id": 0,
    "eos_token_id": 2,
}
_OWN: dict[str, dict[str, Any]] = {  # what a family calls otherwise, or has besides
    "distilbert": {"dim": 32, "n_layers": 3, "n_heads": 4, "hidden_dim": 48},
    "electra": {"embedding_size": 16},
    "gpt2": {"n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 48},
    "modernbert": {"local_attention": 6, "global_attn_every_n_layers": 3, "cls_token_id": 0, "sep_token_id": 2},
    "opt": {"ffn_dim": 48, "word_embed_proj_dim": 32},
}
_GROUPED = {
    "llama",
    "mistral",
    "qwen2",
    "qwen3",
    "cohere",
    "cohere2",
    "exaone4",
    "gemma",
    "gemma2",
    "gemma3_text",
    "glm",
    "glm4",
    "granite",
    "helium",
}
_GROUPED |= {
    "helium",
    "nemotron",
    "olmo",
    "olmo2",
    "olmo3",
    "phi",
    "phi3",
    "smollm3",
    "stablelm",
    "starcoder2",
    "eurobert",
}
_HEADS = {"cohere2", "exaone4", "gemma", "gemma2", "gemma3_text", "glm", "glm4", "helium", "qwen3"}
_WINDOWS = {"cohere2", "exaone4", "gemma2", "gemma3_text", "olmo3", "smollm3"}


def tiny_config(kind: str, **others: Any) -> dict[str, Any]:
    """config.json of a family, of three layers of width 32, near and far ones where it has such."""
    config = {"model_type": kind, "architectures": [FAMILIES[kind]], **SIZES, **_OWN.get(kind, {})}
    if kind in _GROUPED:
        config["num_key_value_heads"] = 2
    if kind in _HEADS:
        config["head_dim"] = 8
    if kind in _WINDOWS:
        config |= {"sliding_window": 4, "layer_types": ["sliding_attention", "full_attention", "sliding_attention"]}
    if kind in ("phi3", "starcoder2"):
        config["sliding_window"] = 4
    return config | others


def tiny_network(kind: str, dtype: torch.dtype = torch.float64, **others: Any) -> Foreign:
    """A random network in which every position matters."""
    network = Foreign(tiny_config(kind, **others)).to(dtype).eval()
    generator = torch.Generator().manual_seed(1)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.3, generator=generator)
    return network.requires_grad_(False)


def word_pieces() -> Tokenizer:
    """As BERT's: [CLS] text [SEP]."""
    special = ["[CLS]", "[PAD]", "[SEP]", "[MASK]", "[UNK]"]
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(vocab_size=64, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(TEXT, trainer)
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 2), ("[CLS]", 0))
    return tokenizer


def byte_pairs(vocab_size: int = 300) -> Tokenizer:
    """As GPT-2's and Qwen's: nothing before a text, one token for its end."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXT, trainer)
    return tokenizer


def save_tiny(folder: Path, kind: str, *, seed: int = 0, **others: Any) -> Path:
    """A folder as `save_pretrained` of the library writes it."""
    import transformers

    masked = kind in MASKED
    tokenizer = word_pieces() if masked else byte_pairs()
    rows = {"vocab_size": 64 if masked else tokenizer.get_vocab_size()}
    ends = {} if masked else {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
    config = transformers.CONFIG_MAPPING[kind].from_dict(tiny_config(kind, **rows | ends | others))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = getattr(transformers, config.architectures[0])(config)
    network.save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    names = {"cls": "[CLS]", "pad": "[PAD]", "sep": "[SEP]", "mask": "[MASK]", "unk": "[UNK]"}
    names = {f"{name}_token": token for name, token in names.items()} if masked else {"eos_token": "<|endoftext|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(names))
    return folder

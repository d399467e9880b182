"""`sfumato info`: what a model is."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from sfumato.cli.chosen import ModelOptions
from sfumato.config import ConfigError, ModelConfig, option, parse

if TYPE_CHECKING:
    from sfumato.sample.language_model import LanguageModel


@dataclass(frozen=True)
class Options(ModelOptions):
    """The flags of this command."""

    memory: bool = option(False, "what it takes to write with it and to train it, by formulas, in GiB")
    rows: int = option(1, "with --memory: rows at once", at_least=1)
    length: int = option(0, "with --memory: tokens of a row; 0 = the context", at_least=0)


def run(words: list[str], out: TextIO) -> None:
    """Describe a model, after all the checks that loading makes."""
    about = "Describe a model: architecture, process, tokenizer, default sampler, how it was made."
    options = parse(Options, words, "sfumato info", about)
    facts = _facts(options)
    if options.memory:
        _add_memory(facts, options)
    if options.json:
        import json

        print(json.dumps(facts), file=out)
        return
    from rich.console import Console
    from rich.table import Table

    from sfumato.model.quantised import Quantised

    table = Table.grid(padding=(0, 2))
    facts["tokenizer"]["sha256"] = facts["tokenizer"]["sha256"][:12] + "..."
    facts["chat"] = _template(facts["chat"]) if facts["chat"] else "no"
    if quantised := facts.get("quantised"):
        facts["quantised"] = Quantised(**quantised).kinds
    for way, one in facts.pop("memory_needed", {}).items():
        facts[way] = f"{one['gib']:.2f} GiB" + (f", fits into {one['card']} GiB" if one["card"] else "")
    for name, value in facts.items():
        table.add_row(name.replace("_", " "), _shown(value))
    Console(file=out, markup=False, highlight=False).print(table)


def _facts(options: Options) -> dict[str, Any]:
    """Of a bundle, after all of it was loaded; of a public model, which may be larger than memory, by its headers."""
    from sfumato.model.bundle import find_bundle
    from sfumato.model.weights import is_public

    folder = find_bundle(options.name)
    return describe_public(folder) if is_public(folder) else describe(options.load())


def _add_memory(facts: dict[str, Any], options: Options) -> None:
    """What each way to use or to train the network needs; of one that is quantised, as it was before."""
    from sfumato.compress.fits import WAYS, Work, card_for, needed

    if facts.get("foreign"):
        raise ConfigError(
            f"--memory: {facts['model']} is a network of the transformers library, whose parts are unknown"
        )
    model = ModelConfig(**facts["architecture"])
    work = Work(options.rows, min(options.length or model.context, model.context), bool(model.block))
    ways = {name: needed(model, name, work) for name in WAYS}
    facts["memory_needed"] = {name: {"gib": size / 2**30, "card": card_for(size)} for name, size in ways.items()}


def describe_public(folder: Path) -> dict[str, Any]:
    """What the files of a public model say; the weights themselves are not read."""
    from math import prod

    from sfumato.model.hub.reading import check_tensors, describe
    from sfumato.sample.settings import Settings
    from sfumato.text.chat import ChatTemplate

    config, tokenizer_json = describe(folder)
    if config.chat is not None:
        ChatTemplate.from_dict(config.chat, f"{folder / 'config.json'}: chat")
    stored = check_tensors(folder, config).values()
    parameters = sum(prod(part.shape) for part in stored)
    return {
        "model": str(folder),
        "family": config.made.get("family", "Sfumato"),
        "parameters": parameters,
        "bytes": sum(file.stat().st_size for file in folder.iterdir() if file.is_file()),
        "dtype": " and ".join(sorted({part.dtype for part in stored})),
        "memory": {"float32": 4 * parameters, "bfloat16": 2 * parameters},
        "architecture": {**asdict(config.model), "kv_heads": config.model.kv_heads or config.model.heads},
        "process": asdict(config.process),
        "layout": config.layout,
        "shift": config.shift,
        "tokenizer": {"tokens": len(_vocabulary(tokenizer_json)), "sha256": config.tokenizer_sha256},
        "special_tokens": asdict(config.tokens),
        "chat": config.chat,
        **{name: why for name, why in config.made.items() if name == "no_chat"},
        "sampler": asdict(Settings().with_defaults(config.sampler, {})),
    }


def _vocabulary(tokenizer_json: str) -> dict[str, int]:
    from tokenizers import Tokenizer

    return Tokenizer.from_str(tokenizer_json).get_vocab()


def describe(model: "LanguageModel") -> dict[str, Any]:
    """What there is to know about a model, in values that JSON can hold."""
    from sfumato.sample.settings import Settings

    config, path = model.bundle.config, model.path
    assert path is not None
    return {
        "model": str(path),
        "parameters": model.denoiser.num_parameters(),
        "bytes": sum(file.stat().st_size for file in path.iterdir() if file.is_file()),
        "architecture": {**asdict(config.model), "kv_heads": config.model.kv_heads or config.model.heads},
        "process": asdict(config.process),
        "layout": config.layout,
        "shift": config.shift,
        "tokenizer": {"tokens": model.tokenizer.vocab_size, "sha256": config.tokenizer_sha256},
        "special_tokens": asdict(config.tokens),
        "chat": config.chat,
        "sampler": asdict(Settings().with_defaults(config.sampler, {})),
        **({"quantised": asdict(config.quantised)} if config.quantised else {}),
        **({"foreign": config.foreign.get("model_type", "unknown")} if config.foreign else {}),
        "made": config.made,
        **({"adapter": asdict(model.bundle.adapter.config)} if model.bundle.adapter else {}),
    }


def _template(chat: dict[str, Any]) -> str:
    """A conversation of one turn of each role, and what the system says if nobody tells it."""
    turns = (chat[role] for role in ("system", "user", "assistant") if chat[role])
    shown = "".join(f"{''.join(turn['before'])}...{''.join(turn['after'])}" for turn in turns)
    return f"{''.join(chat.get('opening', ()))}{shown}; system: {chat['default_system'] or '-'}".replace("\n", "\\n")


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name.replace('_', ' ')} {_shown(inner)}" for name, inner in value.items()) or "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,}" if isinstance(value, int) else str(value)

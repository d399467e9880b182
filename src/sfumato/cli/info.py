"""`sfumato info`: what a model is."""

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, TextIO

from sfumato.cli.chosen import ModelOptions
from sfumato.config import parse

if TYPE_CHECKING:
    from sfumato.sample.language_model import LanguageModel


@dataclass(frozen=True)
class Options(ModelOptions):
    """The flags of this command."""


def run(words: list[str], out: TextIO) -> None:
    """Describe a model, after all the checks that loading makes."""
    about = "Describe a model: architecture, process, tokenizer, default sampler, how it was made."
    options = parse(Options, words, "sfumato info", about)
    facts = describe(options.load())
    if options.json:
        import json

        print(json.dumps(facts), file=out)
        return
    from rich.console import Console
    from rich.table import Table

    table = Table.grid(padding=(0, 2))
    facts["tokenizer"]["sha256"] = facts["tokenizer"]["sha256"][:12] + "..."
    facts["chat"] = _template(facts["chat"]) if facts["chat"] else "no"
    for name, value in facts.items():
        table.add_row(name.replace("_", " "), _shown(value))
    Console(file=out, markup=False, highlight=False).print(table)


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
        "made": config.made,
        **({"adapter": asdict(model.bundle.adapter.config)} if model.bundle.adapter else {}),
    }


def _template(chat: dict[str, Any]) -> str:
    """A conversation of one turn of each role, and what the system says if nobody tells it."""
    turns = (chat[role] for role in ("system", "user", "assistant"))
    shown = "".join(f"{''.join(turn['before'])}...{''.join(turn['after'])}" for turn in turns)
    return f"{shown}; system: {chat['default_system'] or '-'}"


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name.replace('_', ' ')} {_shown(inner)}" for name, inner in value.items()) or "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,}" if isinstance(value, int) else str(value)

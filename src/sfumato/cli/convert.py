"""`sfumato convert`: a model's folder in another layout."""

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from sfumato.cli.progress import progress
from sfumato.config import ConfigError, argument, option, parse

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from sfumato.cli.progress import Bar
    from sfumato.model.bundle import BundleConfig

FAMILIES = ("llada", "dream", "sdar", "qwen2", "qwen3", "llama")
DTYPES = ("keep", "float32", "bfloat16", "float16")


@dataclass(frozen=True)
class Options:
    """The flags of this command."""

    source: str = argument("folder of a model, hf:OWNER/NAME, or the name of a model that comes along")
    target: str = argument("the new folder")
    to: str = option(
        "auto",
        "bundle = ours, hf = for transformers' Auto classes, or a family's own; auto = ours, or hf where it is ours",
        ("auto", "bundle", "hf", *FAMILIES),
    )
    dtype: str = option("keep", "precision of the stored weights", DTYPES)
    json: bool = option(False, "write JSON, and nothing else, to standard output")


def run(words: list[str], out: TextIO) -> None:
    """Read all of a model, without running anything of it, and write it."""
    about = "Write a model's folder in another layout; the weights stay what they are."
    options = parse(Options, words, "sfumato convert", about)
    target = Path(options.target)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ConfigError(f"{target}: is there already; name a new folder")
    from sfumato.model.bundle import find_bundle, read_description, write_bundle
    from sfumato.model.hub.reading import FAMILIES as KNOWN
    from sfumato.model.hub.writing import SHARD_BYTES, family_named, write_public

    source = find_bundle(options.source)
    start = time.perf_counter()
    config, tokenizer_json = read_description(source)
    to = _layout(options.to, source)
    if config.quantised:
        raise ConfigError(f"{source}: its matrices are quantised, a bundle is all it can be; convert what it came from")
    family = None if to in ("bundle", "hf") else family_named(to, KNOWN)
    dtype, card = _dtype(options.dtype), _card(source, target, to, config)
    with progress() as bar:
        state = _weights(source, config, bar, dtype)
        bar.begin(f"writing {target}")
        if to == "bundle":
            write_bundle(target, config, state, tokenizer_json, card, dtype=dtype, shard_bytes=SHARD_BYTES)
        else:
            write_public(target, config, state, tokenizer_json, card, family=family, dtype=dtype)
    facts = {
        "model": str(target),
        "from": str(source),
        "layout": to,
        "parameters": sum(tensor.numel() for tensor in state.values()),
        "bytes": sum(file.stat().st_size for file in target.iterdir()),
        "seconds": round(time.perf_counter() - start, 3),
    }
    if options.json:
        print(json.dumps(facts), file=out)
    else:
        print(f"{facts['parameters']:,} parameters, {facts['bytes']:,} bytes, {facts['seconds']} s", file=out)


def _layout(to: str, source: Path) -> str:
    from sfumato.model.weights import is_public

    return to if to != "auto" else "bundle" if is_public(source) else "hf"


def _weights(source: Path, config: "BundleConfig", bar: "Bar", dtype: "torch.dtype | None") -> "dict[str, Tensor]":
    """The weights, finite in that precision too, as views of their files where these are in a public layout."""
    import torch

    from sfumato.model.adapter import read_weights
    from sfumato.model.weights import check_numbers

    state, _ = read_weights(source, config.model if config.foreign is None else None)
    bar.begin(f"reading {source}", total=len(state))
    for done, (name, tensor) in enumerate(state.items(), start=1):
        check_numbers(name, tensor, source)
        if dtype is not None and not all(end.to(dtype).isfinite() for end in torch.aminmax(tensor)):
            raise ConfigError(
                f"{source}: tensor {name!r} holds numbers too large for {str(dtype).removeprefix('torch.')}; use "
                "--dtype bfloat16 or keep"
            )
        bar.show(done)
    return state


def _dtype(name: str) -> "torch.dtype | None":
    import torch

    return None if name == "keep" else getattr(torch, name)


def _card(source: Path, target: Path, to: str, config: "BundleConfig") -> str:
    """The card of the source, with how to use the new folder."""
    path = source / "README.md"
    card = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else f"# {source.name}\n"
    return card if to != "hf" else f"{card.rstrip()}\n\n{_USE.format(auto=_auto(config), name=target.name)}"


def _auto(config: "BundleConfig") -> str:
    return "AutoModelForCausalLM" if config.process.kind == "autoregressive" else "AutoModelForMaskedLM"


_USE = """## Use

Text is written by Sfumato (`pip install sfumato`):

    sfumato generate "Once upon a time" --model {name}

The network and the tokenizer load into transformers without remote code (`pip install 'sfumato[hub]'`):

    import sfumato.model.hub
    from transformers import {auto}, AutoTokenizer

    model = {auto}.from_pretrained("{name}")
    tokenizer = AutoTokenizer.from_pretrained("{name}")
"""

"""What `generate` can be told about whole files: many prompts in, many texts out, here or on a cluster."""

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from sfumato.cli.control import Control, ControlOptions
from sfumato.cli.progress import Bar, progress
from sfumato.cli.shards import ShardOptions
from sfumato.cli.structured import StructuredOptions
from sfumato.cli.writing import WritingOptions
from sfumato.config import ConfigError, option

if TYPE_CHECKING:
    from sfumato.sample.bulk import Summary, Writer
    from sfumato.sample.language_model import LanguageModel

ONE_TEXT = ("n", "html", "keywords", "particles", "best_of")  # flags that go with a prompt on the command line


@dataclass(frozen=True, kw_only=True)
class BulkOptions(WritingOptions, StructuredOptions, ShardOptions):
    """The flags."""

    batch: int = option(8, "--input: texts written at a time; changes speed and memory only", at_least=1)
    on_error: str = option("stop", "--input: what to do about a line that cannot be understood", ("stop", "skip"))


def write_lines(options: BulkOptions, out: TextIO) -> None:
    """Write a text for each line of a file, and say what that took."""
    for f in fields(options):
        if f.name in ONE_TEXT and getattr(options, f.name) != f.default:
            raise ConfigError(f"--{f.name.replace('_', '-')}: not with --input, which writes one text a line")
    if not options.output:
        raise ConfigError("missing --output FILE: where the texts of --input go, as JSON lines")
    from sfumato.bulk.run import sharded

    with progress() as bar:
        many = sharded(options.input, options.output, options.replicas)
        summary, found = (_write_shards if many else _write_file)(options, bar)
    if options.json:
        about = {"model": found.pop("model"), "input": options.input, "output": options.output, **asdict(summary)}
        print(json.dumps({**about, "batch": options.batch, **found}), file=out)
    else:
        _print(summary, options, out)


def _write_file(options: BulkOptions, bar: Bar) -> "tuple[Summary, dict[str, Any]]":
    """One file of lines to another, in this process."""
    from sfumato.sample.bulk import write_file
    from sfumato.sample.language_model import LanguageModel
    from sfumato.train.memory import keep_buffers

    keep_buffers()
    bar.begin("loading the model")
    model = LanguageModel.load(options.model or None, options.device, options.dtype)
    bar.begin("reading the prompts")
    summary = write_file(model, options.input, options.output, progress=_watch(bar), **_settings(options, model))
    where = {"device": model.device.type, "dtype": str(model.dtype).removeprefix("torch.")}
    return summary, {"model": str(model.path), **where}


def _write_shards(options: BulkOptions, bar: Bar) -> "tuple[Summary, dict[str, Any]]":
    """Any input, in shards, by one process or by many."""
    from sfumato.bulk.run import Kind
    from sfumato.sample.bulk import MARK, Writer, counts, summary
    from sfumato.sample.language_model import LanguageModel

    bar.begin("reading the prompts")
    options = replace(options, dtype=options.settled(options.device, options.dtype))
    model = LanguageModel.described(options.model or None)
    writer = Writer(model, **_settings(replace(options, classifier="", label=""), model))
    about = {"model": model.front.version(), "dtype": options.dtype, "settings": _asked(options)}
    kind = Kind(MARK, "prompt", partial(load_writer, options), counts, about, options.batch)
    start = time.perf_counter()
    done = options.run_shards(kind, bar, "writing", writer.check if options.on_error == "stop" else None)
    return summary(done, time.perf_counter() - start), {"model": str(model.path), "replicas": options.replicas}


def load_writer(options: BulkOptions) -> "Writer":
    """What writes the texts of a shard, made where they are written."""
    from sfumato.sample.bulk import Writer
    from sfumato.sample.language_model import LanguageModel
    from sfumato.train.memory import keep_buffers

    keep_buffers()
    model = LanguageModel.load(options.model or None, options.device, options.dtype)
    return Writer(model, **_settings(options, model))


def _settings(options: BulkOptions, model: "LanguageModel") -> dict[str, Any]:
    """What `Writer` is told."""
    return {
        "batch": options.batch,
        "on_error": options.on_error,
        "about": _about(options),
        "guidance": Control(options, model).settings()["guidance"],
        "max_tokens": options.max_tokens,
        "seed": options.seed,
        **options.constraint(model),
        **options.settings(),
    }


def _asked(options: BulkOptions) -> dict[str, Any]:
    """The flags that a text depends on."""
    found = {"about": _about(options), "max_tokens": options.max_tokens, "seed": options.seed, **options.settings()}
    return {name: value for name, value in found.items() if value is not None}


def _watch(bar: Bar) -> Callable[[int, int, int], None]:
    start, began = time.perf_counter(), False  # before the first token, or the first rate would be of nothing

    def watch(done: int, total: int, tokens: int) -> None:
        nonlocal began
        if not began:
            bar.begin("writing", total, done)
            began = True
        bar.show(done, f"{tokens / (time.perf_counter() - start):.0f} tokens/s")

    return watch


def _about(options: BulkOptions) -> str:
    """What the texts depend on beside their settings: guidance and constraint."""
    names = {f.name for kind in (ControlOptions, StructuredOptions) for f in fields(kind)}
    found = {f.name: getattr(options, f.name) for f in fields(options) if f.name in names}
    if options.json_schema:
        found["json_schema"] = Path(options.json_schema).read_text(encoding="utf-8-sig")
    return json.dumps(found)


def _print(summary: "Summary", options: BulkOptions, out: TextIO) -> None:
    before = f", {summary.resumed} of them by an earlier run" if summary.resumed else ""
    errors = f", {summary.errors} not understood" if summary.errors else ""
    print(f"{options.output}: {summary.lines} lines{before}{errors}", file=out)
    if summary.tokens:
        print(
            f"{summary.tokens} tokens in {summary.seconds:.1f} s, {summary.tokens_per_second:.0f} tokens/s, "
            f"NFE {summary.nfe:.1f} a text, batch {options.batch}, seed {options.seed}",
            file=out,
        )

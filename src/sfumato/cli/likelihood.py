"""`sfumato likelihood`: how probable each record of a dataset is."""

import json
import math
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, TextIO

from sfumato.cli.chosen import ModelOptions
from sfumato.cli.progress import progress
from sfumato.cli.shards import ShardOptions
from sfumato.config import ConfigError, Source, option, parse

if TYPE_CHECKING:
    from sfumato.evaluate.records import Scorer


@dataclass(frozen=True)
class Options(ModelOptions, ShardOptions):
    """The flags of this command."""

    field: str = option("text", "the key of a record that holds the text; else messages, or prompt and response")
    prompt: str = option("", "makes prompts out of records, which are only read, such as '{question}'")
    response: str = option("", "makes what is measured out of records, such as '{answer}'; takes --field's place")
    samples: int = option(8, "random noisings of each text, for a bound", at_least=1)
    rows: int = option(16, "sequences in a forward pass; changes memory and speed only", at_least=1)
    seed: int = option(0, "of the noise", at_least=0, below=2**63)
    on_error: str = option("stop", "what to do about a record without a text", ("stop", "skip"))


def run(words: list[str], out: TextIO) -> None:
    """Measure every record, and print the mean."""
    does = "Write each record of a dataset with its negative log-likelihood (or a bound on it) under a model."
    options = parse(Options, words, "sfumato likelihood", does)
    for name in ("input", "output"):
        if not getattr(options, name):
            raise ConfigError(f"missing --{name} FILE; see sfumato likelihood --help")
    from sfumato.bulk.run import Kind
    from sfumato.evaluate.records import MARK, counts
    from sfumato.sample.front import Front

    options = replace(options, dtype=options.settled(options.device, options.dtype))
    front = Front.load(options.name)
    depends = {name: getattr(options, name) for name in ("field", "prompt", "response", "samples", "seed", "dtype")}
    kind = Kind(
        MARK, "text", partial(load_scorer, options), counts, {"model": front.version(), **depends}, options.rows
    )
    start = time.perf_counter()
    with progress() as bar:
        bar.begin("reading the records")
        done = options.run_shards(kind, bar, "measuring")
    seconds = round(time.perf_counter() - start, 3)
    _print(options, str(front.path), done, seconds, out)


def load_scorer(options: Options) -> "Scorer":
    """What measures the records of a shard, made where they are measured."""
    from sfumato.evaluate.records import Scorer
    from sfumato.train.denoising import turns
    from sfumato.train.memory import keep_buffers

    keep_buffers()
    model = options.load()
    source = Source(options.input, field=options.field, prompt=options.prompt, response=options.response)
    return Scorer(
        model,
        source,
        chat=turns(model.bundle.config) if model.bundle.config.chat else None,
        samples=options.samples,
        seed=options.seed,
        rows=options.rows,
        on_error=options.on_error,
    )


def _print(options: Options, model: str, done: Mapping[str, float], seconds: float, out: TextIO) -> None:
    from sfumato.evaluate.records import mean

    rows, resumed, errors, tokens, size = (int(done[n]) for n in ("rows", "resumed", "errors", "tokens", "bytes"))
    if rows == errors:
        raise ValueError(
            f"{options.output}: none of {rows} records has a likelihood; each says why under likelihood.error"
        )
    nats, bits = mean(done, "tokens"), mean(done, "bytes", math.log(2))
    if options.json:
        about = {"model": model, "input": options.input, "output": options.output, "records": rows, "resumed": resumed}
        about |= {"errors": errors, "tokens": tokens, "bytes": size, "samples": options.samples, "seed": options.seed}
        about |= {
            "nats_per_token": asdict(nats),
            "bits_per_byte": asdict(bits),
            "perplexity": math.exp(min(nats.value, 700)),
        }
        print(json.dumps({**about, "seconds": seconds, "replicas": options.replicas}), file=out)
        return
    before = f", {resumed} of them by an earlier run" if resumed else ""
    print(f"{options.output}: {rows} records{before}{f', {errors} without a likelihood' if errors else ''}", file=out)
    for name, found in (("bits per byte ", bits), ("nats per token", nats)):
        sure = "" if found.stderr is None else f" +- {found.stderr:.4f} (standard error)"
        print(f"{name}  {found.value:.4f}{sure}", file=out)
    print(f"{tokens} tokens, {size} bytes, {rows / seconds:.1f} records/s", file=out)

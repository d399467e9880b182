"""`sfumato evaluate`: how well a model predicts a text."""

from dataclasses import asdict, dataclass
from itertools import islice
from typing import TextIO

from sfumato.cli.chosen import ModelOptions
from sfumato.cli.progress import progress
from sfumato.config import ConfigError, Source, option, parse


@dataclass(frozen=True)
class Options(ModelOptions):
    """The flags of this command."""

    data: tuple[str, ...] = option((), "text to predict: file, folder or hf:NAME; several with commas between them")
    field: str = option("text", "the key of a record that holds the text")
    documents: int = option(0, "measure on the first so many documents; 0 = all", at_least=0)
    samples: int = option(8, "random noisings of each row; more make a bound more precise", at_least=1)
    rows: int = option(16, "rows in a forward pass; changes memory and speed only", at_least=1)
    seed: int = option(0, "of the noise", at_least=0, below=2**63)


def run(words: list[str], out: TextIO) -> None:
    """Evaluate a model and print the result."""
    about = "Measure how well a model predicts a text, in nats per token and bits per byte."
    options = parse(Options, words, "sfumato evaluate", about)
    if not options.data:
        raise ConfigError("missing --data FILE: the text to predict; see sfumato evaluate --help")

    from sfumato.data.batches import rows_of
    from sfumato.data.sources import DataError, Report, documents
    from sfumato.evaluate import likelihood
    from sfumato.train.memory import keep_buffers

    keep_buffers()
    model = options.load()
    with progress() as bar:
        bar.begin("reading the text")
        found = (d for path in options.data for d in documents(Source(path, field=options.field), Report()))
        batch, size = rows_of(
            islice(found, options.documents or None), model.tokenizer, model.bundle.config.model.context
        )
        if not size:
            raise DataError(f"{', '.join(options.data)}: no text in it; give --data a file that holds some")
        bar.begin("evaluating")

        def done(part: int, total: int) -> None:
            if part <= options.rows:
                bar.begin("evaluating", total)
            bar.show(part)

        result = likelihood(
            model.denoiser,
            model.process,
            model.layout,
            batch,
            size,
            samples=options.samples,
            seed=options.seed,
            rows=options.rows,
            device=model.device,
            progress=done,
        )
    if options.json:
        import json

        where = {"device": model.device.type, "dtype": str(model.dtype).removeprefix("torch.")}
        print(json.dumps({"model": str(model.path), "data": list(options.data), **asdict(result), **where}), file=out)
        return
    sign = "<=" if result.kind == "bound" else "="
    random = f", {result.samples} samples a row, seed {result.seed}" if result.kind == "bound" else ""
    print(f"bits per byte   {sign} {result.bits_per_byte:.4f}", file=out)
    print(f"nats per token  {sign} {result.nats_per_token:.4f} +- {result.stderr:.4f} (standard error)", file=out)
    print(f"{result.kind}: {result.estimator}{random}; {result.tokens} tokens, {result.bytes} bytes", file=out)

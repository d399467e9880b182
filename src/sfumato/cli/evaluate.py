"""`sfumato evaluate`: how well a model predicts a text, or does on tasks."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from sfumato.cli.benchmark import SAMPLES, TaskOptions, check_without_tasks, run_benchmark
from sfumato.cli.held_out import rows_for
from sfumato.cli.progress import Bar, progress
from sfumato.config import ConfigError, Source, option, parse

if TYPE_CHECKING:
    from sfumato.evaluate import Band, Likelihood
    from sfumato.sample.language_model import LanguageModel


@dataclass(frozen=True)
class Options(TaskOptions):
    """The flags of this command."""

    data: tuple[str, ...] = option((), "text to predict: file, folder or hf:NAME; several with commas between them")
    field: str = option("text", "the key of a record that holds the text")
    documents: int = option(0, "measure on the first so many documents; 0 = all", at_least=0)
    samples: int | None = option(
        None, f"random noisings of each text, for a bound (default: 8, or {SAMPLES} with --tasks)", at_least=1
    )
    rows: int = option(16, "rows in a forward pass; changes memory and speed only", at_least=1)
    seed: int = option(0, "of the noise", at_least=0, below=2**63)
    calibration: str = option("", "measure the calibration too, and draw it into this file (svg, png or pdf)")


def run(words: list[str], out: TextIO) -> None:
    """Evaluate a model and print the result."""
    about = "Measure how well a model predicts a text, in nats per token and bits per byte; or run tasks of lm-eval."
    options = parse(Options, words, "sfumato evaluate", about)
    if options.tasks:
        if options.data or options.calibration:
            raise ConfigError("--tasks and --data: one thing at a time; tasks bring their own data")
        run_benchmark(options, options.samples or SAMPLES, options.seed, out)
        return
    check_without_tasks(options)
    if not options.data:
        raise ConfigError("missing --data FILE: the text to predict, or --tasks NAME; see sfumato evaluate --help")
    if options.calibration:
        from sfumato.show.plots import check_picture

        check_picture(Path(options.calibration))
    from sfumato.train.memory import keep_buffers

    keep_buffers()
    model = options.load()
    with progress() as bar:
        result, bands = _measure(options, model, bar)
    if bands:
        _draw(options.calibration, str(model.path), bands)
    if options.json:
        import json

        found: dict[str, Any] = {"model": str(model.path), "data": list(options.data), **asdict(result)}
        found |= {"device": model.device.type, "dtype": str(model.dtype).removeprefix("torch.")}
        if bands:
            found["calibration"] = [asdict(band) for band in bands]
        print(json.dumps(found), file=out)
    else:
        _print(result, bands, out)


def _measure(options: Options, model: "LanguageModel", bar: Bar) -> "tuple[Likelihood, list[Band]]":
    """The likelihood, and the calibration if that is wanted too."""
    from sfumato.data.sources import DataError, Report, documents
    from sfumato.evaluate import calibration, likelihood

    bar.begin("reading the text")
    found = (d for path in options.data for d in documents(Source(path, field=options.field), Report()))
    batch, size = rows_for(model, islice(found, options.documents or None))
    if not size:
        raise DataError(f"{', '.join(options.data)}: no text in it; give --data a file that holds some")

    def watch(title: str) -> Callable[[int, int], None]:
        bar.begin(title)

        def done(part: int, total: int) -> None:
            if part <= options.rows:
                bar.begin(title, total)
            bar.show(part)

        return done

    layout = model.layout_for(options.block) if options.block else model.layout
    network = model.denoiser, model.process, layout, batch
    how: dict[str, Any] = {"samples": options.samples or 8, "seed": options.seed, "rows": options.rows}
    how["device"] = model.device
    result = likelihood(*network, size, **how, progress=watch("evaluating"))
    return result, calibration(*network, **how, progress=watch("calibration")) if options.calibration else []


def _print(result: "Likelihood", bands: "list[Band]", out: TextIO) -> None:
    sign = "<=" if result.kind == "bound" else "="
    random = f", {result.samples} samples a row, seed {result.seed}" if result.kind == "bound" else ""
    print(f"bits per byte   {sign} {result.bits_per_byte:.4f}", file=out)
    print(f"nats per token  {sign} {result.nats_per_token:.4f} +- {result.stderr:.4f} (standard error)", file=out)
    print(f"{result.kind}: {result.estimator}{random}; {result.tokens} tokens, {result.bytes} bytes", file=out)
    for band in bands:
        print(
            f"calibration, {_name(band)}: error {band.error:.4f} (by chance {band.floor:.4f}), confidence - accuracy "
            f"{band.overconfidence:+.4f} +- {band.stderr:.4f}, {band.positions} positions",
            file=out,
        )


def _name(band: "Band") -> str:
    return "all positions" if (band.low, band.high) == (0, 1) else f"t {band.low:.2f} to {band.high:.2f}"


def _draw(path: str, model: str, bands: "list[Band]") -> None:
    from sfumato.show.plots import Curve, plot_reliability

    curves = []
    for band in bands:
        x, y = [part.confidence for part in band.bins], [part.accuracy for part in band.bins]
        curves.append(Curve(_name(band), x, y, [part.stderr for part in band.bins]))
    plot_reliability(Path(path), f"{Path(model).name}: calibration by noise level (t)", curves)

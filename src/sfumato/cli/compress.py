"""`sfumato compress`: a smaller model, and what it lost and gained."""

import math
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from sfumato.cli.beside import TITLES, card, notes_of, rows_of
from sfumato.cli.chosen import DEVICES, DTYPES
from sfumato.cli.progress import Bar, progress
from sfumato.config import ConfigError, DataConfig, Source, argument, option, parse

if TYPE_CHECKING:
    from sfumato.compress.calibration import Calibration
    from sfumato.compress.shape import Shape
    from sfumato.data.batches import Batch
    from sfumato.data.cache import Corpus
    from sfumato.model.bundle import Bundle
    from sfumato.sample.language_model import LanguageModel

HELD_OUT = 0.05  # of the documents
PROMPT = 16  # tokens of a held-out text, a quarter of the context at most, that are given when both models write


@dataclass(frozen=True)
class Options:
    """The flags of this command."""

    model: str = argument("folder of the model, or the name of one that comes along")
    out: str = argument("folder of the smaller one")
    data: tuple[str, ...] = option((), "text of its kind: file, folder or hf:NAME; a part is held out to measure with")
    field: str = option("text", "the key of a record that holds the text")
    parameters: float = option(1.0, "prune to this share of the parameters, in a balanced shape", at_least=0, at_most=1)
    layers: int = option(0, "prune to so many layers; 0 = all", at_least=0)
    heads: int = option(0, "prune to so many attention heads in a layer; 0 = all", at_least=0)
    mlp_width: int = option(0, "prune to so many units of each layer's MLP; 0 = all", at_least=0)
    heal_tokens: int = option(
        0, "train what was pruned on so many tokens of the text, to say what the original says", at_least=0
    )
    lr: float = option(5e-4, "peak learning rate of that training", at_least=0)
    quantise: str = option("", "bits of the matrices", ("", "int8", "int4", "dynamic", "float8"))
    group: int = option(32, "int4: numbers that share a scale", at_least=2)
    keep: tuple[str, ...] = option((), "not quantised: parts of matrices' names, such as blocks.0.,down")
    calibration: int = option(32, "rows of text that decide what goes; 0 rounds without looking", at_least=0)
    rows: int = option(32, "rows of held-out text that the result is measured on", at_least=1)
    n: int = option(8, "texts that both models write for the speed", at_least=1)
    max_tokens: int = option(64, "their length, in tokens; half of the context at most", at_least=1)
    seed: int = option(0, "all randomness follows from it", at_least=0, below=2**63)
    device: str = option("auto", "where to compute", DEVICES)
    dtype: str = option("auto", "arithmetic of what is not quantised", DTYPES)
    json: bool = option(False, "write JSON, and nothing else, to standard output")

    @property
    def prunes(self) -> bool:
        """Whether anything is cut out."""
        return self.parameters < 1 or bool(self.layers or self.heads or self.mlp_width)


def run(words: list[str], out: TextIO) -> int | None:
    """Compress a model, and print it beside the original; the exit code is as that of `sfumato train`."""
    about = "Make a model smaller, and measure the result against the original on held-out text."
    options = parse(Options, words, "sfumato compress", about)
    if not options.data:
        raise ConfigError("missing --data FILE: text to choose by and to measure with; see sfumato compress --help")
    if not options.prunes and not options.quantise:
        raise ConfigError("nothing to do: give --parameters, --layers, --heads, --mlp-width or --quantise; see --help")
    if options.heal_tokens and not options.prunes:
        raise ConfigError("--heal-tokens: nothing was pruned that could heal; give --parameters 0.5, for example")
    _check_out(Path(options.out), _workplace(options))
    from sfumato.train.memory import keep_buffers

    keep_buffers()
    with progress() as bar:
        bar.begin("loading the model")
        result = _compress(options, bar)
    if isinstance(result, int):
        return result
    if options.json:
        import json

        print(json.dumps(result, allow_nan=False), file=out)
    else:
        _print(result, out)


def _check_out(out: Path, place: Path) -> None:
    """Refuse to replace anything but what the same command, stopped while it measured, has left (ConfigError)."""
    if out.exists() and not place.is_dir() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"{out}: is there already; name a new folder")


def _compress(options: Options, bar: Bar) -> dict[str, Any] | int:
    """Make it, save it, and all that `--json` tells; or the exit code of a run that was stopped."""
    import shutil

    import torch

    from sfumato.compress.ours import ours
    from sfumato.data.batches import held_out_rows
    from sfumato.model.adapter import identity
    from sfumato.sample.language_model import LanguageModel
    from sfumato.train.run import write_text

    original = LanguageModel.load(options.model, options.device, options.dtype)
    assert original.path is not None
    ours(original.bundle)  # which refuses what cannot be compressed
    if options.quantise:
        from sfumato.compress.quantise import check_kind

        check_kind(options.quantise, original.device)
    corpora, context = _corpora(options, original, bar), original.bundle.config.model.context
    rows, size = held_out_rows(corpora, context, original.tokenizer, at_most=options.rows * (context - 1))
    calibration = _calibration(options, original, corpora)
    bundle, how = original.bundle, {"model": options.model, "sha256": identity(original.path), "seed": options.seed}
    how |= {"calibration_rows": options.calibration}
    if options.prunes:
        bundle, how, stopped = _smaller(options, original, calibration, how, bar)
        if stopped:
            return 128 + stopped
    if options.quantise:
        bundle, how = _rounded(options, bundle, calibration, how, bar)
    bundle = replace(bundle, config=replace(bundle.config, made={**original.bundle.config.made, "compressed": how}))
    bundle.save(Path(options.out), torch.bfloat16)  # as training writes bundles
    dtype = str(original.dtype).removeprefix("torch.")  # auto is measured, and could come out otherwise
    compressed = LanguageModel.load(options.out, options.device, dtype)
    found = _measured(options, original, compressed, rows, size, bar)
    result = {"model": options.model, "out": options.out, "how": how, **found}
    write_text(Path(options.out) / "README.md", card(result, original.bundle.card))
    if options.heal_tokens:
        shutil.rmtree(_workplace(options), ignore_errors=True)
    return result


def _workplace(options: Options) -> Path:
    """Where healing keeps its checkpoints until the result is measured."""
    out = Path(options.out)
    return out.with_name(out.name + ".healing")


def _smaller(
    options: Options, original: "LanguageModel", calibration: "Calibration | None", how: dict[str, Any], bar: Bar
) -> "tuple[Bundle, dict[str, Any], int]":
    """The pruned and healed bundle, how it was made, and the signal that stopped that, or 0."""
    import torch

    from sfumato.compress.heal import heal, recipe_for
    from sfumato.compress.importance import importance
    from sfumato.compress.ours import ours
    from sfumato.compress.prune import best_shape, pruned
    from sfumato.compress.quantise import check_groups
    from sfumato.compress.shape import Shape
    from sfumato.model.bundle import Bundle

    if calibration is None:
        raise ConfigError("--calibration 0: pruning chooses by what the model makes of text; give some rows")
    shape, place = _shape(options, original), _workplace(options)
    how = {**how, "pruned": asdict(shape) if shape else options.parameters}
    if options.heal_tokens and (place / "pruned").is_dir():  # of the same command, which was stopped
        bundle = Bundle.load(place / "pruned", original.device)
        if bundle.config.made.get("compressed") != how:
            raise ConfigError(f"{place}: belongs to another compression; delete it, or name another OUT")
    else:
        bar.begin("measuring importance", options.calibration)
        found = importance(ours(original.bundle), calibration, lambda done, _: bar.show(done))
        bar.begin("choosing a shape")
        shape = shape or best_shape(
            original.bundle,
            found,
            calibration,
            options.parameters,
            lambda n, _: bar.show(n),
            step=_step(options),
        )
        if options.quantise == "int4":  # before hours of healing
            check_groups(shape.config(original.bundle.config.model), options.group, options.keep)
        bundle = pruned(original.bundle, found, shape)
        bundle = replace(bundle, config=replace(bundle.config, made={**bundle.config.made, "compressed": how}))
    shown = {**how, "pruned": asdict(Shape.of(bundle.config.model))}
    if not options.heal_tokens:
        return bundle, shown, 0
    from sfumato.cli.train import Watch

    bundle.save(place / "pruned", torch.bfloat16)
    watch, data = Watch(place / "run", bar), _data(options)
    tokens, seed = options.heal_tokens, options.seed
    how_to = {"lr": options.lr, "seed": seed, "device": original.device.type}
    recipe = recipe_for(place / "pruned", bundle.config, data, tokens, **how_to)
    folder, stopped = heal(recipe, original.bundle, place / "run", watcher=watch, reading=watch.reading)
    if folder is None:
        bar.say(f"stopped; all is saved in {place}: run the same command again to continue")
        return bundle, how, stopped
    return Bundle.load(folder, original.device), {**shown, "healed_tokens": tokens}, 0


def _shape(options: Options, original: "LanguageModel") -> "Shape | None":
    """What is kept, as the flags say; None = what is best for so many parameters."""
    from sfumato.compress.shape import Shape, candidates

    model = original.bundle.config.model
    flags = {name: getattr(options, name) for name in ("layers", "heads", "mlp_width")}
    if options.parameters < 1:
        if any(flags.values()):
            raise ConfigError("--parameters chooses layers, heads and MLP width itself; give it or those")
        candidates(model, options.parameters, _step(options))  # which refuses what cannot be, before any work is done
        return None
    shape = Shape(*(flags[name] or getattr(model, name) for name in flags))
    shape.config(model)  # likewise
    return shape


def _step(options: Options) -> int:
    """What the width of an MLP is a multiple of."""
    from sfumato.compress.shape import STEP

    return math.lcm(STEP, options.group) if options.quantise == "int4" else STEP


def _rounded(
    options: Options, bundle: "Bundle", calibration: "Calibration | None", how: dict[str, Any], bar: Bar
) -> "tuple[Bundle, dict[str, Any]]":
    """The quantised bundle, and how it was made."""
    from sfumato.compress.quantise import quantised

    bar.begin("quantising", bundle.config.model.layers + 1)
    bundle = quantised(
        bundle,
        options.quantise,
        group=options.group,
        keep=options.keep,
        calibration=calibration,
        progress=lambda done, _: bar.show(done),
    )
    return bundle, {**how, "quantised": options.quantise}


def _data(options: Options) -> DataConfig:
    """The text that was named, a part of it held out."""
    return DataConfig(tuple(Source(path, field=options.field) for path in options.data), held_out=HELD_OUT)


def _corpora(options: Options, model: "LanguageModel", bar: Bar) -> "list[Corpus]":
    """The text, a part of it held out; conversations where the model knows them."""
    from sfumato.data.cache import open_corpora
    from sfumato.train.denoising import turns

    bar.begin("reading the text")
    encoder = turns(model.bundle.config) if model.bundle.config.chat else None
    return open_corpora(
        _data(options), model.tokenizer, lambda path, n, tokens: bar.show(n, f"{path}: {n} documents"), encoder
    )


def _calibration(options: Options, model: "LanguageModel", corpora: "list[Corpus]") -> "Calibration | None":
    """Rows that are not held out."""
    from sfumato.compress.calibration import Calibration
    from sfumato.data.batches import Stream

    if not options.calibration:
        return None
    context, weights = model.bundle.config.model.context, [1.0] * len(corpora)
    stream = Stream(corpora, weights, context=context, tokenizer=model.tokenizer, seed=options.seed)
    batch = stream.rows(options.calibration)
    return Calibration(model.process, model.layout, batch, model.device, options.seed)


def _measured(
    options: Options, original: "LanguageModel", compressed: "LanguageModel", rows: "Batch", size: int, bar: Bar
) -> dict[str, Any]:
    """Quality and cost of both, and the machine."""
    from sfumato.compress.report import costs, quality
    from sfumato.evaluate.machine import this_machine

    context = original.bundle.config.model.context
    texts = [rows.tokens_BL[i % len(rows.tokens_BL)] for i in range(options.n)]
    given = min(PROMPT, context // 4)
    prompts = [original.tokenizer.decode(text[1 : given + 1].tolist()) for text in texts]
    bar.begin("measuring the likelihood", 2 * len(rows.tokens_BL))
    found = quality(original, compressed, rows, size, seed=options.seed, progress=lambda done, _: bar.show(done))
    bar.begin("writing", 2 * options.n)
    before, after = costs(
        original,
        compressed,
        prompts,
        max_tokens=min(options.max_tokens, context // 2),
        seed=options.seed,
        progress=lambda done, _: bar.show(done),
    )
    machine = this_machine(original.device, original.dtype)
    return {
        "quality": asdict(found),
        "original": asdict(before),
        "compressed": asdict(after),
        "machine": asdict(machine),
    }


def _print(result: dict[str, Any], out: TextIO) -> None:
    """The table."""
    from rich.console import Console
    from rich.table import Table

    console = Console(file=out, markup=False, highlight=False)
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("")
    for title in TITLES:
        table.add_column(title, justify="right")
    for row in rows_of(result):
        table.add_row(*row)
    console.print(table)
    for line in ["", *notes_of(result), f"try it: sfumato info {result['out']}"]:
        console.print(line, soft_wrap=True)

"""`sfumato plan`: what a training run needs, on paper."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, TextIO

from sfumato.config import ConfigError, ModelConfig, Recipe, argument, load_recipe, option, override, overrides, parse

if TYPE_CHECKING:
    from sfumato.plan.inference import Writing
    from sfumato.plan.run import Assumed, RunPlan
    from sfumato.train.devices import Device


@dataclass(frozen=True)
class Options:
    """The flags of this command."""

    what: str = argument("1B, 8B or 100B, or a recipe, a TOML file")
    tokens: float = option(0.0, "tokens to train on (default: the recipe's, else as suits the size)", at_least=0)
    gpu: str = option("h100", "the kind of device, such as h100, h200, b200, a100, l40s, 4090 or mi300x")
    gpus: int = option(0, "how many; 0 = the fewest that have room, of 1, 2, 4, ...", at_least=0)
    per_machine: int = option(8, "devices in a machine", at_least=1)
    network: float = option(50.0, "GB/s that a device sends to other machines; 50 = 400 Gbit/s", at_least=0.01)
    storage: float = option(2.0, "GB/s that checkpoints are written with, by all together", at_least=0.001)
    mfu: float = option(0.4, "utilisation to assume: share of the peak rate", at_least=0.001, at_most=1)
    decided: float = option(4.0, "writing: tokens that a forward of a diffusion model decides", at_least=0.001)
    formulas: bool = option(False, "show the formulas too")
    json: bool = option(False, "print JSON")
    settings: Mapping[str, str] = overrides(of=Recipe)


@dataclass(frozen=True)
class Found:
    """All that is shown."""

    name: str
    recipe: Recipe
    model: ModelConfig
    device: "Device"
    assumed: "Assumed"
    plan: "RunPlan"
    rows: int
    """The most rows of a forward that there is room for."""
    writing: "list[Writing]"


def run(words: list[str], out: TextIO) -> None:
    """Plan a run."""
    about = "Plan a training run on paper: FLOPs, days, memory of each device, checkpoints, what is sent, writing."
    options = parse(Options, words, "sfumato plan", about)
    found = _found(options)
    if options.json:
        import json

        from sfumato.plan.inference import keys_per_token

        facts = {name: value for name, value in asdict(found).items() if name not in ("recipe", "plan", "rows")}
        facts |= asdict(found.plan) | {"device_hours": found.plan.device_hours, "most_rows": found.rows}
        print(json.dumps(facts | {"key_bytes_per_token": keys_per_token(found.model)}), file=out)
        return
    _print(out, found)
    if options.formulas:
        from sfumato.compress import fits
        from sfumato.plan import inference, memory, traffic
        from sfumato.train import flops

        for part in (flops, fits, memory, traffic, inference):
            print(f"\n{part.__doc__}", file=out)


def _found(options: Options) -> Found:
    recipe = _recipe(options)
    from sfumato.plan.cluster import Cluster
    from sfumato.plan.inference import ways
    from sfumato.plan.run import Assumed, plan_run, smallest, widest
    from sfumato.process import build_process

    device, model = _device(options.gpu), _model(recipe)
    dtype = "float32" if recipe.train.dtype == "float32" else "bfloat16"
    assumed = Assumed(options.mfu, options.storage * 1e9, dtype)
    process = build_process(recipe.process, vocab_size=model.vocab_size, mask_id=0, never_written=(0,), shift=0)
    cluster = Cluster(device, options.gpus or 1, options.per_machine, options.network * 1e9)
    if not options.gpus:
        cluster = replace(cluster, count=smallest(recipe, model, cluster, dtype))
    plan = plan_run(recipe, model, process, cluster, assumed)
    rows = widest(recipe, model, cluster, plan.share, dtype)
    return Found(options.what, recipe, model, device, assumed, plan, rows, ways(model, device, options.decided))


def _recipe(options: Options) -> Recipe:
    """That of a file, or the one of a size; with the settings of the command line."""
    from sfumato.plan.shapes import SHAPES

    settings = dict(options.settings)
    if options.tokens:
        settings |= {"train.tokens": str(options.tokens), "train.steps": "0"}
    shape = SHAPES.get(options.what.upper())
    if shape is None and "." not in options.what:
        raise ConfigError(f"{options.what}: expected {', '.join(SHAPES)} or a recipe, a .toml file")
    return override(shape, settings) if shape else load_recipe(options.what, settings)


def _model(recipe: Recipe) -> ModelConfig:
    """The recipe's network; where its tokenizer is only named, with the vocabulary that one would be trained to."""
    vocabulary = recipe.model.vocab_size or recipe.tokenizer.vocab_size
    return replace(recipe.model, vocab_size=vocabulary, gap_head=recipe.process.kind == "insertion")


def _device(name: str) -> "Device":
    from sfumato.train.devices import DEVICES, device_called

    found = device_called(name)
    if found is None:
        raise ConfigError(f"--gpu {name}: not known; one of {', '.join(one.name for one in DEVICES)}")
    return found


Lines = list[tuple[str, ...]]


def _print(out: TextIO, found: Found) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(file=out, markup=False, highlight=False, width=120)
    for title, lines in _sections(found):
        console.print(title)
        table = Table.grid(padding=(0, 2))
        for first, *others in lines:
            table.add_row(f"  {first}", *others)
        console.print(table)


def _sections(found: Found) -> Iterator[tuple[str, Lines]]:
    """Titles, and the lines below each."""
    plan, share, device = found.plan, found.plan.share, found.device
    room = "fits" if plan.fits else "DOES NOT FIT"
    yield f"{found.name}: {plan.parameters:,} parameters, {_count(plan.tokens)} tokens", _work(found)
    copies = "one copy of the weights each" if share.shard == 1 else f"a copy of the weights among {share.shard}"
    title = f"training on {share.processes} x {device.name}, {copies}, {found.assumed.mfu:.0%} of the peak assumed"
    yield title, _time(found)
    yield f"memory of a device: {_bytes(plan.needed)} of {_bytes(device.memory)}: {room}", _sizes(plan.memory)
    rate = f"{plan.checkpoint_seconds:,.0f} s at {found.assumed.storage / 1e9:g} GB/s, by all together"
    each = ("of each process", _bytes(plan.checkpoint / share.shard))
    yield f"checkpoint: {_bytes(plan.checkpoint)}", [("written in", rate), each]
    if share.processes > 1:
        yield f"sent by each device in a step: {_bytes(sum(plan.sent.values()))}", _traffic(found)
    yield f"writing on one {device.name} at best, texts of {found.model.context} tokens in bfloat16", _writing(found)


def _work(found: Found) -> Lines:
    plan, model = found.plan, found.model
    return [
        ("network", f"{model.layers} layers of width {model.width}, context {model.context}"),
        ("tokens a parameter", f"{plan.tokens / plan.parameters:.0f}"),
        ("FLOPs", f"{plan.flops:.3g}, {plan.flops_per_token:.3g} a token; 6 N D says {plan.classical:.3g}"),
        ("steps", f"{plan.steps:,} of {plan.tokens_per_step:,} tokens"),
    ]


def _time(found: Found) -> Lines:
    plan, share = found.plan, found.plan.share
    speed, hours = plan.tokens / plan.seconds, plan.seconds / 3600
    days = f"{hours / 24:,.1f} days" if hours >= 48 else f"{hours:.2f} hours"
    return [
        ("time", f"{days}, {_hours(plan.device_hours)} device hours"),
        ("speed", f"{_count(speed)} tokens/s, {_count(speed * 86400)} tokens a day"),
        ("each process", f"{share.accumulate} x {share.batch} rows of {found.model.context} tokens a step"),
    ]


def _traffic(found: Found) -> Lines:
    plan, train = found.plan, found.recipe.train
    lines = [
        *_sizes(plan.sent),
        ("time", f"{plan.sent_seconds:.2f} s, beside {plan.compute_seconds:.2f} s of computing"),
        (
            "efficiency",
            f"{plan.hidden:.0%} at most, if all of it hides behind computing; {plan.bare:.0%} if nothing does",
        ),
    ]
    times = found.rows // plan.share.batch
    if times > 1 and plan.bare < 0.95:
        rows = f"--train.batch {train.batch * times} --train.accumulate {train.accumulate // times}"
        lines.append(("to send less", f"{rows} makes the same steps, has room and sends 1/{times}"))
    return lines


def _writing(found: Found) -> Lines:
    if not found.writing:
        return [("no room for its weights",)]
    return [
        (
            f"{way.name}, {way.decided:g} a forward",
            "1 row" if way.rows == 1 else f"{way.rows} rows",
            _bytes(way.memory),
            f"{way.seconds * 1e3:,.2f} ms a forward",
            f"{way.tokens_per_second:,.0f} tokens/s",
        )
        for way in found.writing
    ]


def _hours(number: float) -> str:
    return f"{number:,.0f}" if number >= 100 else f"{number:.3g}"


def _sizes(parts: Mapping[str, float]) -> Lines:
    return [(name, _bytes(size)) for name, size in parts.items() if size]


def _bytes(size: float) -> str:
    """In MB or GB, as devices and disks are sold."""
    return f"{size / 1e6:,.1f} MB" if size < 1e9 else f"{size / 1e9:,.1f} GB"


def _count(number: float) -> str:
    for unit, name in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if number >= unit:
            return f"{number / unit:.3g}{name}"
    return f"{number:.3g}"

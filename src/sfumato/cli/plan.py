"""`sfumato plan`: what a training run needs, on paper."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, TextIO

from sfumato.config import ConfigError, ModelConfig, Recipe, argument, load_recipe, option, override, overrides, parse

if TYPE_CHECKING:
    from sfumato.plan.inference import Writing
    from sfumato.plan.run import RunPlan
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


def run(words: list[str], out: TextIO) -> None:
    """Plan a run."""
    about = "Plan a training run on paper: FLOPs, days, memory of each device, checkpoints, what is sent, writing."
    options = parse(Options, words, "sfumato plan", about)
    recipe = _recipe(options)
    from sfumato.plan.cluster import Cluster
    from sfumato.plan.inference import keys_per_token, ways
    from sfumato.plan.run import Assumed, plan_run, smallest
    from sfumato.process import build_process

    device, model = _device(options.gpu), _model(recipe)
    dtype = "float32" if recipe.train.dtype == "float32" else "bfloat16"
    assumed = Assumed(options.mfu, options.storage * 1e9, dtype)
    process = build_process(recipe.process, vocab_size=model.vocab_size, mask_id=0, never_written=(0,), shift=0)
    cluster = Cluster(device, options.gpus or 1, options.per_machine, options.network * 1e9)
    if not options.gpus:
        cluster = replace(cluster, count=smallest(recipe, model, cluster, dtype))
    found = plan_run(recipe, model, process, cluster, assumed)
    writing = ways(model, device, options.decided)
    if options.json:
        import json

        facts = {"model": asdict(model), "cluster": asdict(cluster), "assumed": asdict(assumed), **asdict(found)}
        facts |= {"device_hours": found.device_hours, "key_bytes_per_token": keys_per_token(model)}
        print(json.dumps(facts | {"writing": [asdict(way) for way in writing]}), file=out)
        return
    _print(out, options, found, writing, device, model)


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


def _print(
    out: TextIO, options: Options, plan: "RunPlan", writing: "list[Writing]", device: "Device", model: ModelConfig
) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(file=out, markup=False, highlight=False, soft_wrap=True)
    for title, rows in _sections(options, plan, device, model):
        console.print(title)
        table = Table.grid(padding=(0, 2))
        for name, value in rows:
            table.add_row(f"  {name}", value)
        console.print(table)
    console.print(f"writing on one {device.name}, texts of {model.context} tokens, at best")
    table = Table.grid(padding=(0, 2))
    for way in writing:
        rows = "1 row" if way.rows == 1 else f"{way.rows} rows"
        speed = f"{way.tokens_per_second:,.0f} tokens/s"
        table.add_row(f"  {way.name}", rows, _bytes(way.memory), f"{way.seconds * 1e3:.2f} ms a forward", speed)
    console.print(table if writing else "  no room for its weights")
    if options.formulas:
        from sfumato.compress import fits
        from sfumato.plan import inference, memory, traffic
        from sfumato.train import flops

        for part in (flops, fits, memory, traffic, inference):
            console.print(f"\n{part.__doc__}")


def _sections(
    options: Options, plan: "RunPlan", device: "Device", model: ModelConfig
) -> Iterable[tuple[str, list[tuple[str, str]]]]:
    """Titles, and the lines below each."""
    share, room = plan.share, "fits" if plan.fits else "DOES NOT FIT"
    copies = {1: "one copy of the weights each"}.get(share.shard, f"a copy of the weights among {share.shard}")
    per_day = plan.tokens / plan.seconds * 86400
    yield (
        f"{options.what}: {plan.parameters:,} parameters, {_count(plan.tokens)} tokens",
        [
            ("network", f"{model.layers} layers of width {model.width}, context {model.context}"),
            ("tokens a parameter", f"{plan.tokens / plan.parameters:.0f}"),
            (
                "FLOPs a token",
                f"{plan.flops_per_token:.3g}, of all tokens {plan.flops:.3g} (6 N D: {plan.classical:.3g})",
            ),
            ("a step", f"{plan.tokens_per_step:,} tokens; {plan.steps:,} steps"),
        ],
    )
    yield (
        f"training on {share.processes} x {device.name}, {copies}, utilisation {options.mfu:.0%}",
        [
            ("time", f"{plan.seconds / 86400:,.1f} days, {plan.device_hours:,.0f} device hours"),
            ("speed", f"{_count(per_day / 86400)} tokens/s, {_count(per_day)} tokens a day"),
            ("each process", f"{share.accumulate} x {share.batch} rows of {model.context} tokens a step"),
        ],
    )
    yield (
        f"memory of a device: {_bytes(plan.needed)} of {_bytes(device.memory)}: {room}",
        [(name, _bytes(size)) for name, size in plan.memory.items() if size],
    )
    yield (
        f"checkpoint: {_bytes(plan.checkpoint)}",
        [
            ("written in", f"{plan.checkpoint_seconds:,.0f} s at {options.storage:g} GB/s"),
            ("of each process", _bytes(plan.checkpoint / share.shard)),
        ],
    )
    yield (
        f"sent by each device in a step: {_bytes(sum(plan.sent.values()))}",
        [
            *((name, _bytes(size)) for name, size in plan.sent.items() if size),
            ("time", f"{plan.sent_seconds:.2f} s beside {plan.compute_seconds:.2f} s of computing"),
            (
                "efficiency",
                f"at most {plan.hidden:.0%} if all of it hides behind computing, {plan.bare:.0%} if nothing",
            ),
        ],
    )


def _bytes(size: float) -> str:
    """In GB, as devices and disks are sold."""
    return f"{size / 1e9:,.3f} GB" if size < 1e9 else f"{size / 1e9:,.1f} GB"


def _count(number: float) -> str:
    for unit, name in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if number >= unit:
            return f"{number / unit:.3g}{name}"
    return f"{number:.3g}"

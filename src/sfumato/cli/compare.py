"""`sfumato compare`: models side by side, in what they know, what they write and what it costs."""

from dataclasses import asdict, dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, TextIO

from sfumato.cli.held_out import HeldOutOptions, rows_for
from sfumato.cli.progress import Bar, progress
from sfumato.config import argument, option, parse

if TYPE_CHECKING:
    from sfumato.evaluate import Likelihood, Passage
    from sfumato.sample.language_model import LanguageModel
    from sfumato.text.interface import AnyTokenizer


@dataclass(frozen=True, kw_only=True)
class Options(HeldOutOptions):
    """The flags of this command."""

    models: tuple[str, ...] = argument("folders of model bundles, or names of those that come along")
    sampler: str | None = option(None, "for the models that can use it (default: each model's own)")
    steps: int | None = option(None, "forward passes at most (default: as in sfumato generate)", at_least=1)
    batch: int = option(4, "texts written together, which is a round of the speed measurement", at_least=1)
    documents: int = option(0, "measure the likelihood on the first so many documents; 0 = all", at_least=0)


def run(words: list[str], out: TextIO) -> None:
    """Compare models and print one table."""
    about = "Compare models: likelihood of held-out text, quality of what they write from it, and cost."
    options = parse(Options, words, "sfumato compare", about)
    options.check_data("sfumato compare")
    from sfumato.train.memory import keep_buffers

    keep_buffers()
    with progress() as bar:
        bar.begin("loading the models")
        result = _measure(options, bar)
    if options.json:
        import json

        print(json.dumps(result, allow_nan=False), file=out)
    else:
        _print(result, out)


def _measure(options: Options, bar: Bar) -> dict[str, Any]:
    """Everything that `--json` tells."""
    from sfumato.evaluate.compare import check_prompts, settings_for, write_all
    from sfumato.evaluate.machine import this_machine
    from sfumato.evaluate.passage import written

    models = [options.load(name) for name in options.models]
    settings = settings_for(models, sampler=options.sampler, steps=options.steps, temperature=options.temperature)
    referee = options.load_judge()
    ruler = (referee or models[0]).tokenizer
    real = options.passages(ruler)
    prompts = [passage.prompt for passage in real]
    check_prompts(models, prompts, options.max_tokens)

    bar.begin("writing", len(prompts) * len(models))
    texts = write_all(
        models,
        settings,
        prompts,
        max_tokens=options.max_tokens,
        seed=options.seed,
        batch=options.batch,
        progress=lambda done, _: bar.show(done),
    )
    return {
        "data": list(options.data),
        "prompts": len(prompts),
        **{name: getattr(options, name) for name in ("prompt_tokens", "max_tokens", "seed", "batch")},
        "judge": options.judge or None,
        "machine": asdict(this_machine(models[0].device, models[0].dtype)),
        "held_out": _rated(real, ruler, referee),
        "models": [
            {
                "model": name,
                **_described(model),
                "likelihood": asdict(_likelihood(name, model, options, bar)),
                "settings": asdict(found.generations[0].settings),
                **_rated(written(prompts, found.generations), ruler, referee, model),
                "cost": asdict(found.cost),
            }
            for name, model, found in zip(options.models, models, texts, strict=True)
        ],
    }


def _rated(
    passages: "list[Passage]",
    ruler: "AnyTokenizer",
    referee: "LanguageModel | None",
    writer: "LanguageModel | None" = None,
) -> dict[str, Any]:
    """The figures of texts; no judge can say anything of texts that are all empty."""
    from sfumato.evaluate.compare import text_figures
    from sfumato.evaluate.judge import judge

    judged = None
    if referee and any(passage.completion for passage in passages):
        judged = asdict(judge(referee, passages, writer=writer.bundle.config if writer else None))
    return {"text": text_figures(passages, ruler), "judge": judged}


def _described(model: "LanguageModel") -> dict[str, Any]:
    from sfumato.model.layout import Block

    config = model.bundle.config
    layout = f"block {model.layout.size}" if isinstance(model.layout, Block) else config.layout
    return {"kind": config.process.kind, "layout": layout, "parameters": model.denoiser.num_parameters()}


def _likelihood(name: str, model: "LanguageModel", options: Options, bar: Bar) -> "Likelihood":
    from sfumato.evaluate import likelihood

    bar.begin(f"likelihood of {name}")
    batch, size = rows_for(model, islice(options.read(), options.documents or None))
    return likelihood(
        model.denoiser,
        model.process,
        model.layout,
        batch,
        size,
        seed=options.seed,
        device=model.device,
        progress=lambda done, total: bar.show(done, f"of {total}"),
    )


def _print(result: dict[str, Any], out: TextIO) -> None:
    """The table: a column for each model, and one for real text."""
    from rich.console import Console
    from rich.table import Table

    from sfumato.evaluate.machine import Machine

    console = Console(file=out, markup=False, highlight=False)
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("")
    columns = [_column(one) for one in result["models"]]
    real = _quality(result["held_out"])
    for one in result["models"]:
        table.add_column(one["model"], justify="right", overflow="fold")
    table.add_column("real text", justify="right")
    for name in columns[0]:
        cells = [column[name] for column in columns] + [real.get(name, "")]
        if any(cells):
            table.add_row(name, *cells)
    console.print(table)
    for line in [*_notes(result), Machine(**result["machine"]).line]:
        console.print(line, soft_wrap=True)


def _column(one: dict[str, Any]) -> dict[str, str]:
    import math

    bound, cost, settings = one["likelihood"], one["cost"], one["settings"]
    sign = "<= " if bound["kind"] == "bound" else ""
    error = bound["stderr"] * bound["tokens"] / math.log(2) / bound["bytes"]
    peak = f"{cost['peak_bytes'] / 2**20:,.0f} MiB" if cost["peak_bytes"] is not None else ""
    return {
        "kind": one["kind"],
        "layout": one["layout"],
        "parameters": f"{one['parameters']:,}",
        "bits/byte of the data": f"{sign}{bound['bits_per_byte']:.3f} +- {error:.3f}",
        "sampler": settings["sampler"],
        "steps": str(settings["steps"] or "its own"),
        **_quality(one),
        "tokens written": f"{cost['tokens']:,}",
        "NFE": f"{cost['nfe']:.1f}",
        "TPF": f"{cost['tpf']:.2f}",
        "positions/token": f"{cost['positions_per_token']:.1f}",
        "tokens/s": f"{cost['tokens_per_second']:,.0f} ({cost['slowest']:,.0f}-{cost['fastest']:,.0f})",
        "peak memory": peak,
    }


def _quality(one: dict[str, Any]) -> dict[str, str]:
    text, judged = one["text"], one["judge"]
    shown = {name: "" if value is None else f"{value:.3f}" for name, value in text.items()}
    return {
        "judge, bits/byte": f"{judged['bits_per_byte']:.3f}" if judged else "",
        "judge, nats/token": f"{judged['nats_per_token']:.3f} +- {judged['stderr']:.3f}" if judged else "",
        "entropy, nats/token": shown["entropy"],
        "distinct-2": shown["distinct_2"],
        "repetition-4": shown["repetition_4"],
    }


def _notes(result: dict[str, Any]) -> list[str]:
    """What the figures mean."""
    models = result["models"]
    lines = [
        "",
        f"{result['prompts']} texts of at most {result['max_tokens']} tokens, from the first {result['prompt_tokens']} "
        f"tokens of a document; temperature {models[0]['settings']['temperature']:g}, seed {result['seed']}; +- is a "
        "standard error; <= an upper bound",
    ]
    if result["judge"]:
        known = [f"{one['judge']['overlap']} for {one['model']}" for one in models if one["judge"]]
        lines.append(
            f"judge {result['judge']}: its cross-entropy is low for texts that repeat themselves too, so read it with "
            f"the entropy; did it learn from the same text as the writer: {', '.join(known)}"
        )
    lines.append(f"speed: rounds of {result['batch']} texts, models in turn after a warm-up (slowest-fastest round)")
    return lines

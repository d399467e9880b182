"""What `evaluate` can be told about tasks of lm-eval."""

import json
import os
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from sfumato.cli.chosen import ModelOptions
from sfumato.cli.progress import Bar, progress
from sfumato.config import ConfigError, option

if TYPE_CHECKING:
    from sfumato.evaluate.answers import Progress

SAMPLES = 128  # as LLaDA's evaluation takes
DECODING = ("sampler", "steps", "temperature", "top_k", "top_p", "threshold", "factor", "block", "cache", "max_tokens")


@dataclass(frozen=True)
class TaskOptions(ModelOptions):
    """The flags."""

    tasks: tuple[str, ...] = option((), "run these tasks of lm-eval instead: names or .yaml files, commas between")
    include_path: str = option("", "--tasks: folder with task files of your own")
    limit: float | None = option(None, "--tasks: so many documents of each task; below 1 a share; 0 = all", at_least=0)
    num_fewshot: int | None = option(None, "--tasks: examples in a prompt (default: as each task says)", at_least=0)
    chat: bool = option(False, "--tasks: prompts are conversations, in the model's own template")
    system: str | None = option(None, "--tasks, --chat: what the system says")
    estimator: str = option(
        "auto", "--tasks: of likelihoods (docs/harness.md)", ("auto", "exact", "count", "elbo", "chain")
    )
    greedy: bool = option(True, "--tasks: find out which continuations greedy decoding writes, as some metrics ask")
    batch: int = option(8, "--tasks: sequences in a forward pass, texts written at a time", at_least=1)
    output: str = option("", "--tasks: the report as JSON; a run that was stopped goes on with what lies beside it")
    max_tokens: int | None = option(None, "--tasks: length of answers (default: as each task says)", at_least=1)
    sampler: str | None = option(None, "--tasks: how answers are written (default: the model's own)")
    steps: int | None = option(None, "--tasks: forward passes of an answer at most")
    temperature: float | None = option(None, "--tasks: of answers (default: as each task says, else 0)")
    top_k: int | None = option(None, "--tasks: draw from the k most probable tokens; 0 = all")
    top_p: float | None = option(None, "--tasks: draw from the smallest set of tokens of this probability")
    threshold: float | None = option(None, "--tasks, threshold sampler: probability from which a token is written")
    factor: float | None = option(None, "--tasks, factor sampler: how many tokens at once")
    block: int | None = option(None, "--data, --tasks: tokens a block, for a block model (default: as it writes)")
    cache: str | None = option(None, "--tasks: what is kept between steps: auto, none, exact, prefix or dual")


def check_without_tasks(options: TaskOptions) -> None:
    """Refuse flags of tasks where none is to be run (ConfigError)."""
    others = {f.name for f in fields(ModelOptions)} | {"tasks", "block"}
    for f in fields(TaskOptions):
        if f.name not in others and getattr(options, f.name) != f.default:
            raise ConfigError(f"--{f.name.replace('_', '-')}: goes with --tasks NAME; leave it out, or name a task")


def run_benchmark(options: TaskOptions, samples: int, seed: int, out: TextIO) -> None:
    """Run tasks, keep the report, and print it."""
    from sfumato.evaluate.harness import Harness
    from sfumato.evaluate.run_tasks import run_tasks
    from sfumato.train.memory import keep_buffers

    keep_buffers()
    with progress() as bar:
        bar.begin("loading the model")
        harness = Harness(
            options.load(),
            estimator=options.estimator,
            samples=samples,
            batch_size=options.batch,
            seed=seed,
            greedy=options.greedy,
            keep=f"{options.output}.answers.jsonl" if options.output else None,
            progress=_watch(bar),
            **{name: getattr(options, name) for name in DECODING},
        )
        bar.begin("loading the tasks")
        report = run_tasks(
            harness,
            options.tasks,
            include_path=options.include_path or None,
            limit=int(options.limit) if options.limit and options.limit >= 1 else options.limit or None,
            num_fewshot=options.num_fewshot,
            chat=options.chat,
            system=options.system,
        )
    if options.output:
        _save(Path(options.output), report)
    if options.json:
        print(json.dumps(report), file=out)
    else:
        _print(report, out)


def _watch(bar: Bar) -> "Progress":
    begun: list[Any] = []

    def watch(what: str, done: int, total: int) -> None:
        if begun != [what, total]:
            begun[:] = [what, total]
            bar.begin(what, total)
        bar.show(done)

    return watch


def _save(path: Path, report: dict[str, Any]) -> None:
    """All of it or nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        partial.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _print(report: dict[str, Any], out: TextIO) -> None:
    def say(line: str) -> None:
        print(line, file=out)

    rows = list(_figures(report["results"]))
    widths = [max(len(row[i]) for row in rows) for i in range(3)] if rows else []
    for row in rows:
        say("  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[3]]))
    if found := report["likelihood"]:
        ways = ", ".join(f"{way} for {number}" for way, number in found["estimates"].items())
        random = f"; {found['samples']} samples, mean standard error {found['mean_stderr']:.3f} nats"
        say(f"likelihood: {found['kind']} ({ways}{random if found['kind'] == 'bound' else ''})")
    if "generate_until" in report["cost"]:
        decoder = report["decoder"]
        say(f"answers: sampler {decoder['settings']['sampler']}, temperature {_temperature(decoder)}")
    for kind, cost in report["cost"].items():
        before = f" ({cost['resumed']} from an earlier run)" if cost["resumed"] else ""
        each = f"NFE {cost['nfe_per_request']:.1f} each, {cost['tokens']} tokens"
        say(f"{kind}: {cost['requests']} requests{before}, {each}")
    if report["shortened_prompts"]:
        say(f"{report['shortened_prompts']} prompts were longer than the context and lost their beginning")
    if report["ignored"]:
        say(f"the tasks' {', '.join(report['ignored'])} mean nothing to this model and were ignored")
    say(f"seed {report['seed']}, weights {report['weights_sha256'][:12]}, {report['seconds']:.1f} s")


def _temperature(decoder: dict[str, Any]) -> str:
    return str(decoder["chosen"].get("temperature", decoder["temperature"]))


def _figures(results: dict[str, Any]) -> "list[tuple[str, str, str, str]]":
    """Task, metric, value and documents of each figure."""
    rows = []
    for task, found in results.items():
        for key, value in found.items():
            metric, _, kind = key.partition(",")
            if not kind or metric.endswith("_stderr") or not isinstance(value, (int, float)):
                continue
            error = found.get(f"{metric}_stderr,{kind}")
            spread = f" +- {error:.4f}" if isinstance(error, float) else ""
            name = metric if kind == "none" else f"{metric} ({kind})"
            rows.append((task, name, f"{value:.4f}{spread}", f"{found.get('sample_len', '?')} documents"))
    return rows

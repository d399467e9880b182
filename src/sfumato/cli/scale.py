"""`sfumato scale`: train a ladder of small models, fit the law of their losses, and check what it predicts."""

import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from sfumato.cli.progress import Bar, clock, progress
from sfumato.config import ConfigError, Recipe, argument, load_recipe, option, overrides, parse

if TYPE_CHECKING:
    from sfumato.data.cache import Corpus
    from sfumato.scale.ladder import Rung
    from sfumato.scale.study import Result
    from sfumato.scale.trials import Outcome, Trial

KINDS = ("masked", "block", "ar")


@dataclass(frozen=True)
class Machine:
    """The ladder of a machine, where the user says nothing."""

    budgets: tuple[float, ...]
    check: tuple[float, ...]
    rate: float
    """FLOPs a second that small networks reach, for the first estimate of the time."""
    settings: dict[str, str] = field(default_factory=dict)


MACHINES = {
    "cpu": Machine((1e11, 3e11, 1e12), (3e12,), 1.5e10),
    "h100": Machine(  # batches that fill it; the text must be large too, since a training reads up to 1e9 tokens
        (3e15, 1e16, 3e16),
        (1e17,),
        4e13,
        {
            "model.context": "1024",
            "tokenizer.vocab_size": "16384",
            "train.batch": "64",
            "train.device": "cuda",
            "train.dtype": "bfloat16",
            "train.compile": "true",
            "train.threads": "0",
        },
    ),
}


@dataclass(frozen=True)
class Options:
    """The flags of this command."""

    recipe: str = argument("the recipe, a TOML file: the network's proportions, the text, how to train")
    out: str = option("", "folder of the study (default: runs/scale-NAME); one that was stopped continues")
    kinds: tuple[str, ...] = option(KINDS, "kinds of model, with commas between them", KINDS)
    machine: str = option("cpu", "whose ladder to take: cpu (an hour on one core) or h100", tuple(MACHINES))
    budgets: tuple[float, ...] = option((), "FLOPs of each group of trainings; the law is fitted to them", at_least=1)
    check: tuple[float, ...] = option((), "FLOPs of one more training each, which the law must predict", at_least=1)
    ratios: tuple[float, ...] = option((3.0, 150.0), "tokens a parameter: of a group's largest and smallest network")
    sizes: int = option(5, "networks in a group", at_least=1)
    seeds: int = option(1, "repetitions of each training, from the recipe's seed on", at_least=1)
    part: str = option("", "take only a share of the trainings, such as 2/8 (calls that share a folder need none)")
    dry_run: bool = option(False, "print the ladder and how long it takes, and stop")
    report: bool = option(False, "train nothing, report what there is")
    json: bool = option(False, "write JSON, and nothing else, to standard output")
    settings: Mapping[str, str] = overrides(of=Recipe)

    @property
    def folder(self) -> Path:
        """Of the study."""
        return Path(self.out)


def run(words: list[str], out: TextIO) -> int:
    """Train what is missing, and report; the exit code is 0, or 128 + the number of the signal that stopped it."""
    about = (
        "Train a ladder of small models: of each kind several sizes for each budget of FLOPs. Fit the law L = E + A / "
        "N^alpha + B / D^beta to their losses, predict a larger training, check the prediction, and compare the kinds. "
        "The same command continues a study that was stopped; several calls at once share its trainings."
    )
    given = parse(Options, words, "sfumato scale", about)
    machine = MACHINES[given.machine]
    recipe = load_recipe(given.recipe, {**machine.settings, **given.settings})
    options = replace(
        given,
        budgets=given.budgets or machine.budgets,
        check=given.check or (() if given.budgets else machine.check),
        out=given.out or str(Path("runs") / f"scale-{recipe.name or Path(given.recipe).stem}"),
    )
    number, parts = _part(options)
    if options.dry_run:
        _plan(options, recipe, machine.rate, out)
        return 0
    _check_place()
    if options.report and not (options.folder / "tokenizer.json").exists():
        raise ConfigError(f"{options.folder}: no study is there; run the command without --report first")
    from sfumato.scale.trials import common_tokenizer, part_of, run_trials
    from sfumato.train.memory import keep_buffers

    keep_buffers()
    with progress() as bar:
        bar.begin("making the tokenizer")
        tokenizer = common_tokenizer(recipe, options.folder)
        rungs = _rungs(options, recipe, tokenizer.vocab_size)
        if not options.report:
            trials = part_of(_trials(options, recipe, rungs), number, parts)
            if stopped := run_trials(trials, options.folder, Watch(bar, options.folder, trials)):
                bar.say(f"stopped by {signal.Signals(stopped).name}, all saved in {options.folder}")
                bar.say("run the same command again to continue")
                return 128 + stopped
        bar.begin("fitting the laws")
        _tell(options, recipe, rungs, tokenizer.vocab_size, out)
    return 0


def _part(options: Options) -> tuple[int, int]:
    if not options.part:
        return 1, 1
    try:
        number, parts = map(int, options.part.split("/"))
        if not 1 <= number <= parts:
            raise ValueError
    except ValueError:
        raise ConfigError(f"--part: expected NUMBER/PARTS such as 2/8, got {options.part!r}") from None
    return number, parts


def _check_place() -> None:
    """Refuse, before any work is done, what cannot be reported, and processes that would train one thing together."""
    import os
    from importlib.util import find_spec

    if os.environ.get("WORLD_SIZE", "1") != "1":
        raise ConfigError(
            "sfumato scale: each training of a ladder is one process; start it without torchrun, once for each device: "
            "calls that share --out share the trainings"
        )
    missing = [name for name in ("matplotlib", "scipy") if find_spec(name) is None]
    if missing:
        raise ConfigError(f"a scaling study needs {' and '.join(missing)}: pip install 'sfumato[scale]'")


def _rungs(options: Options, recipe: Recipe, vocab_size: int) -> "list[Rung]":
    from sfumato.scale.ladder import ladder

    if len(options.ratios) != 2:
        raise ConfigError(f"--ratios: expected two numbers such as 3,150, got {len(options.ratios)}")
    return ladder(
        recipe,
        vocab_size,
        kinds=tuple(dict.fromkeys(options.kinds)),
        budgets=tuple(dict.fromkeys(options.budgets)),
        check=tuple(dict.fromkeys(options.check)),
        ratios=(options.ratios[0], options.ratios[1]),
        sizes=options.sizes,
        seeds=range(recipe.seed, recipe.seed + options.seeds),
    )


def _trials(options: Options, recipe: Recipe, rungs: "Sequence[Rung]") -> "list[Trial]":
    from sfumato.scale.trials import Trial

    tokenizer = str(options.folder / "tokenizer.json")
    return [Trial(rung.name, rung.recipe(recipe, tokenizer), rung.flops) for rung in rungs]


def _done(options: Options, recipe: Recipe, rungs: "Sequence[Rung]") -> "list[Result]":
    from sfumato.scale.study import Result
    from sfumato.scale.trials import outcome_of

    trials = _trials(options, recipe, rungs)
    outcomes = [(rung, outcome_of(trial, options.folder)) for rung, trial in zip(rungs, trials, strict=True)]
    return [Result(rung, outcome) for rung, outcome in outcomes if outcome]


def _plan(options: Options, recipe: Recipe, rate: float, out: TextIO) -> None:
    """The ladder, without training anything; its tokenizer's size is what the recipe wishes until it exists."""
    from sfumato.text.tokenizer import Tokenizer

    kept = options.folder / "tokenizer.json"
    path = str(kept) if kept.exists() else recipe.tokenizer.path
    rungs = _rungs(options, recipe, Tokenizer.load(path).vocab_size if path else recipe.tokenizer.vocab_size)
    done = _done(options, recipe, rungs)
    if done:
        rate = sum(r.rung.flops for r in done) / sum(r.outcome.seconds for r in done)
    missing = {rung.name for rung in rungs} - {result.rung.name for result in done}
    left = sum(rung.flops for rung in rungs if rung.name in missing) / rate
    if options.json:
        import json
        from dataclasses import asdict

        content = [
            {**asdict(r), "name": r.name, "seconds": r.flops / rate, "done": r.name not in missing} for r in rungs
        ]
        print(json.dumps({"rungs": content, "flops_per_second": rate, "seconds_left": left}), file=out)
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for name in ("training", "parameters", "tokens", "tokens/parameter", "steps", "FLOPs", "time"):
        table.add_column(name, justify="left" if name == "training" else "right")
    for r in rungs:
        time = clock(r.flops / rate) if r.name in missing else "done"
        name = r.name if r.fitted else f"{r.name} (check)"
        figures = (f"{r.parameters:,}", f"{r.tokens:,}", f"{r.tokens / r.parameters:.3g}", f"{r.steps:,}")
        table.add_row(name, *figures, f"{r.flops:.3g}", time)
    Console(file=out, markup=False, highlight=False).print(table)
    total = sum(rung.flops for rung in rungs)
    print(f"{len(rungs)} trainings, {total:.3g} FLOPs; {clock(left)} left at {rate:.2g} FLOPs/s", file=out)


def _tell(options: Options, recipe: Recipe, rungs: "Sequence[Rung]", vocab_size: int, out: TextIO) -> None:
    """Fit, draw and write what the finished trainings allow."""
    import json
    from datetime import date

    from sfumato.scale.pictures import pictures
    from sfumato.scale.record import page, record
    from sfumato.scale.study import LARGEST, Frontier, comparisons, study
    from sfumato.store.files import write_file

    results = _done(options, recipe, rungs)
    if not results:
        raise ConfigError(f"{options.folder}: no training is done yet; run the command without --report first")
    kinds = study(results, seed=recipe.seed)
    largest = LARGEST * max(result.rung.parameters for result in results)
    frontiers = {name: Frontier(recipe, name, vocab_size, largest) for name in kinds}
    compared = comparisons(kinds, frontiers)
    outcome = results[0].outcome
    about = {
        "name": recipe.name,
        "trainings": len(rungs),
        "machine": outcome.machine,
        "date": date.today().isoformat(),
        "bits_per_byte_per_nat": outcome.bits_per_byte / outcome.nats_per_token,
        "settings": {
            name: getattr(options, name) for name in ("kinds", "budgets", "check", "ratios", "sizes", "seeds")
        },
        "flops": sum(result.rung.flops for result in results),
        "seconds": sum(result.outcome.seconds for result in results),
    }
    made = pictures(options.folder, recipe.name, kinds, frontiers)
    content = record(about, kinds, compared)
    write_file(options.folder / "scale.json", json.dumps(content, indent=1, allow_nan=False) + "\n")
    text = page(about, kinds, compared)
    write_file(options.folder / "report.md", text)
    if options.json:
        print(json.dumps(content, allow_nan=False), file=out)
        return
    from rich.console import Console
    from rich.markdown import Markdown

    Console(file=out).print(Markdown(text.partition("## Trainings")[0]))
    if len(results) < len(rungs):
        print(f"{len(rungs) - len(results)} of {len(rungs)} trainings are not done, or under way elsewhere", file=out)
    print(f"{options.folder}: report.md, scale.json, {', '.join(path.name for path in made)}", file=out)


class Watch:
    """Tells how far the ladder is, in FLOPs."""

    def __init__(self, bar: Bar, folder: Path, trials: "Sequence[Trial]"):
        """Count what is done already."""
        from sfumato.scale.trials import outcome_of

        self._bar, self._steps = bar, 1
        self._trial: Trial | None = None
        self._done = sum(trial.flops for trial in trials if outcome_of(trial, folder))
        bar.begin("training, GFLOPs", _giga(sum(trial.flops for trial in trials)), _giga(self._done))

    def begun(self, trial: "Trial") -> "Watch":
        """A trial begins."""
        self._trial = trial
        return self

    def started(self, step: int, steps: int, parameters: int, recipe: Recipe, corpora: "list[Corpus]") -> None:
        """Its training starts or continues."""
        self._steps = steps

    def stepped(self, record: dict[str, Any]) -> None:
        """A step is done."""
        assert self._trial
        done = self._done + self._trial.flops * record["step"] / self._steps
        self._bar.show(_giga(done), f"{self._trial.name} {record['step']}/{self._steps} loss {record['loss']:.3f}")

    def ended(self, trial: "Trial", outcome: "Outcome") -> None:
        """A trial is done."""
        self._done += trial.flops
        bound = "at most " if outcome.likelihood == "bound" else ""
        self._bar.say(f"{trial.name}: {bound}{outcome.nats_per_token:.4f} nats/token, {outcome.seconds:.0f} s")
        self._bar.show(_giga(self._done))


def _giga(flops: float) -> int:
    return round(flops / 1e9)

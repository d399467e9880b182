"""`sfumato improve`: tune a model on what users said, and promote the result if it is better."""

import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from sfumato.cli.feedback import open_feedback
from sfumato.cli.models import open_registry
from sfumato.cli.progress import Bar, progress
from sfumato.config import ConfigError, Recipe, Source, load_recipe, option, overrides, parse

if TYPE_CHECKING:
    from sfumato.improve.cycle import Outcome, Wish
    from sfumato.improve.dataset import Dataset
    from sfumato.store.registry import Registry


@dataclass(frozen=True, kw_only=True)
class Options:
    """The flags of this command."""

    registry: str = option("", "the registry's folder (default: $SFUMATO_REGISTRY)")
    feedback: str = option(
        "", "the feedback's database, a file or a URL (default: $SFUMATO_FEEDBACK, or a file of yours)"
    )
    recipe: tuple[str, ...] = option((), "how to tune: TOML files, run one after the other (answers, text, preference)")
    documents: tuple[str, ...] = option((), "new documents to learn beside the recipe's own, as PATH[@WEIGHT]")
    held_out: tuple[str, ...] = option((), "text that no model learns from, to show that nothing was forgotten")
    models: tuple[str, ...] = option((), "only feedback about models of these names (default: about all)")
    redact: bool = option(True, "replace e-mail addresses, telephone, card and account numbers, IP addresses")
    dataset: str = option("", "learn from this dataset, which --collect-only made, instead of making one")
    collect_only: bool = option(False, "make the dataset, for a person to look at, and stop there")
    dry_run: bool = option(False, "tune and judge, but promote nothing")
    share: float = option(0.3, "share of what is learned that comes from feedback", at_least=0, at_most=1)
    epochs: float = option(20.0, "how often a feedback is repeated at most", at_least=0.1)
    tolerance: float = option(0.03, "how much more held-out text may cost, in nats per token", at_least=0)
    confidence: float = option(0.95, "with which that must hold", at_least=0.5, below=1)
    least: int = option(5, "held-out prompts without which answers or pairs show nothing", at_least=2)
    feedback_held_out: float = option(0.2, "share of the prompts to judge by", at_least=0, below=1)
    new: int = option(1, "how much new feedback is worth a cycle", at_least=0)
    watch: bool = option(False, "go on: look for new feedback again and again")
    every: float = option(600.0, "seconds between two looks", at_least=1)
    work: str = option("", "folder of datasets and runs (default: work, in the registry)")
    device: str = option("auto", "where to compute", ("auto", "cpu", "cuda", "mps"))
    json: bool = option(False, "write the result as JSON, and nothing else, to standard output")
    settings: Mapping[str, str] = overrides(of=Recipe)


def run(words: list[str], out: TextIO) -> int:
    """Improve; the exit code is 0, or 128 + the number of the signal that stopped it."""
    about = "Make a dataset of users' feedback, tune a candidate on it, and promote it if it is better than the model."
    options = parse(Options, words, "sfumato improve", about)
    registry = open_registry(options.registry)
    if not options.recipe and not options.collect_only:
        raise ConfigError("missing --recipe FILE: how to tune; the keys are those of sfumato tune --help")
    if options.dataset and (options.watch or options.collect_only):
        raise ConfigError("--dataset: learn from one that is there, or --collect-only or --watch; not both")
    from sfumato.store.files import Locked, locked

    work = Path(options.work or registry.folder / "work")
    work.mkdir(mode=0o700, parents=True, exist_ok=True)  # it holds what users wrote
    try:
        with locked(work / ".lock", wait=0), progress() as bar:
            return _work(options, registry, work, bar, out)
    except Locked:
        raise ConfigError(f"{work}: another sfumato improve is at work there; wait, or give another --work") from None


def _work(options: Options, registry: "Registry", work: Path, bar: Bar, out: TextIO) -> int:
    """One cycle, or with `--watch` one after the other."""
    while True:
        try:
            outcome = _once(options, registry, work, bar)
        except (ValueError, OSError) as error:
            if not options.watch:
                raise
            bar.say(f"this time it failed, it will be tried again: {error}")
        else:
            if not options.watch or outcome.status != "nothing":
                _tell(options, outcome, out)
            if outcome.signal:
                return 128 + outcome.signal
        if not options.watch:
            return 0
        bar.begin("waiting for feedback")
        time.sleep(options.every)


def _once(options: Options, registry: "Registry", work: Path, bar: Bar) -> "Outcome":
    from sfumato.improve import cycle

    folder = None if options.collect_only else cycle.unfinished(work)
    if folder:
        bar.say(f"going on with {folder}, which was interrupted")
    else:
        dataset = _dataset(options, registry, work, bar)
        if dataset is None:
            return cycle.Outcome("nothing", reasons=("no new feedback",))
        if options.collect_only:
            return cycle.Outcome("collected", dataset=str(dataset.folder))
        folder = cycle.begin(registry, dataset, _wish(options), work)
        if folder is None:
            return cycle.Outcome("nothing", dataset=str(dataset.folder), reasons=("nothing in it to learn from",))
    from sfumato.cli.train import Watch

    def follow(recipe: Recipe, run: Path) -> Mapping[str, Any]:
        watch = Watch(run, bar)
        return {
            "watcher": watch,
            "evaluate": watch.evaluate,
            "sample": watch.sample,
            "card": watch.card,
            "reading": watch.reading,
        }

    return cycle.run(registry, folder, follow, promote=not options.dry_run)


def _wish(options: Options) -> "Wish":
    from sfumato.improve.cycle import Wish
    from sfumato.improve.gate import Rule
    from sfumato.improve.stages import Mixture

    device = {"train.device": options.device} if options.device != "auto" else {}
    return Wish(
        tuple(load_recipe(path, {**device, **options.settings}) for path in options.recipe),
        tuple(_found(Source.from_text(word)) for word in options.documents),
        tuple(_found(Source(path)) for path in options.held_out),
        Mixture(options.share, options.epochs),
        Rule(options.tolerance, options.confidence, options.least),
    )


def _found(source: Source) -> Source:
    from dataclasses import replace

    from sfumato.data.remote import is_url

    named = source.path.startswith("hf:") or is_url(source.path)
    return source if named else replace(source, path=str(Path(source.path).absolute()))


def _dataset(options: Options, registry: "Registry", work: Path, bar: Bar) -> "Dataset | None":
    """The dataset to learn from; None where there is too little that is new."""
    from sfumato.data.care.redact import Redact
    from sfumato.data.sources import content_key
    from sfumato.improve.cycle import used
    from sfumato.improve.dataset import Dataset, save
    from sfumato.improve.items import gather
    from sfumato.sample.front import Front

    if options.dataset:
        return Dataset.load(Path(options.dataset))
    bar.begin("reading feedback")
    kind = "completion" if Front.load(registry.model(registry.current())).chat_template is None else "chat"
    known, contents = used(work)
    fresh = options.documents
    if options.watch:  # else they would be learned again and again
        fresh = tuple(word for word in fresh if content_key(_found(Source.from_text(word))) not in contents)
    with open_feedback(options.feedback) as store:
        new = sum(store.counts().values()) - known
        if new < options.new and not fresh and not options.collect_only:
            return None
        changed = {"redact": Redact()} if options.redact else {}
        gathered = gather(store.read(), kind=kind, models=options.models, **changed)
    dataset = save(gathered, work / "datasets", kind=kind, held_out=options.feedback_held_out)
    counts = ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in dataset.counts().items() if count)
    bar.say(f"{dataset.folder}: {counts or 'nothing to learn from'}")
    for reason, count in gathered.left_out.items():
        bar.say(f"not used: {count} of {gathered.read}: {reason}")
    return dataset


def _tell(options: Options, outcome: "Outcome", out: TextIO) -> None:
    if options.json:
        print(json.dumps(asdict(outcome)), file=out, flush=True)
        return
    words = {
        "promoted": f"promoted {outcome.version}; it was better than {outcome.parent}",
        "passed": f"{outcome.version} passed; promote it: sfumato models promote {outcome.version}",
        "refused": f"refused {outcome.version}; {outcome.parent} stays",
        "abandoned": f"abandoned: {outcome.parent} is not current any more",
        "interrupted": "interrupted, all is saved; run the same command again to go on",
        "collected": f"look at {outcome.dataset}/review.jsonl, then: sfumato improve --dataset {outcome.dataset}",
        "nothing": "nothing to do",
    }
    print(words[outcome.status], file=out)
    for reason in outcome.reasons:
        print(f"  {reason}", file=out, flush=True)

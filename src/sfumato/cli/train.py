"""`sfumato train`: train a model from a recipe, or continue a run that was stopped."""

import math
import os
import shlex
import signal
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from sfumato.cli.chosen import DEVICES, DTYPES
from sfumato.cli.progress import Bar, progress
from sfumato.cli.ranks import leave, told_once
from sfumato.config import ConfigError, Recipe, argument, load_recipe, option, overrides, parse

if TYPE_CHECKING:
    from sfumato.data.cache import Corpus
    from sfumato.evaluate import Likelihood
    from sfumato.model.bundle import Bundle

AIMS = ("margin", "accuracy", "reward")  # figures of tuning methods that are shown while they run
ROWS, SAMPLES = 64, 4  # of held-out text, and noisings of each: an estimate good to about 1 %


@dataclass(frozen=True)
class Options:
    """The flags of this command."""

    recipe: str = argument("the recipe, a TOML file")
    out: str = option("", "folder of the run (default: runs/NAME); one that was stopped continues")
    device: str = option("auto", "the same as --train.device", DEVICES)
    dtype: str = option("auto", "the same as --train.dtype", DTYPES)
    json: bool = option(False, "write the result as JSON, and nothing else, to standard output")
    settings: Mapping[str, str] = overrides(of=Recipe)


def run(words: list[str], out: TextIO) -> int:
    """Train; the exit code is 0, or 128 + the number of the signal that stopped the run."""
    about = "Train a model from a recipe. The same command continues a run that was stopped."
    with told_once(ConfigError):
        options = parse(Options, words, "sfumato train", about)
    return follow(options, out)


def follow(options: Options, out: TextIO, *, tuned: bool = False) -> int:
    """Follow a recipe, and tell how it goes; with `tuned` by its method."""
    with told_once(ValueError, OSError):
        recipe = load_recipe(options.recipe, {**_aliases(options), **options.settings})
    folder = Path(options.out or Path("runs") / (recipe.name or Path(options.recipe).stem))
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"--out {folder}: expected a folder, there is a file; name another one")

    from sfumato.text.tokenizer import check_text

    if tuned:
        from sfumato.tune.methods import tune as begin
    else:
        from sfumato.train.loop import train as begin

    from sfumato.train.parallel import ElsewhereError

    check_text(recipe.train.sample_prompt, "train.sample_prompt")
    speaks = os.environ.get("RANK", "0") == "0"  # of the processes that torchrun starts, one
    with progress(silent=not speaks) as bar:
        watch = Watch(folder, bar)
        bar.begin("reading the data")
        try:
            with told_once(ConfigError):
                model, number = begin(
                    recipe,
                    folder,
                    watcher=watch,
                    evaluate=watch.evaluate,
                    sample=watch.sample,
                    card=watch.card,
                    reading=watch.reading,
                    say=bar.say,
                )
        except ElsewhereError:
            leave()
    if not speaks:
        return 128 + number if number else 0
    last = watch.last_record()
    result = {"run": str(folder), "model": str(model) if model else None, "steps": watch.steps, **last}
    if options.json:
        import json

        print(json.dumps(result), file=out)
    elif model:
        held_out = f"; held-out {watch.figure()}" if watch.held_out else ""
        if last.get("step", watch.steps) < watch.steps:
            held_out += (
                f"; stopped early, {recipe.train.patience} evaluations were no better than the best, which is kept"
            )
        print(f"{model}: {result.get('step', watch.steps)} steps{held_out}", file=out)
        prompt = shlex.quote(recipe.train.sample_prompt or "Once upon a time")
        again = "chat" if watch.chats else f"generate {prompt}"
        print(f"try it: sfumato {again} --model {shlex.quote(str(model))}", file=out)
    if number:
        done = result.get("step", 0)
        bar.say(f"stopped by {signal.Signals(number).name} after step {done} of {watch.steps}, all saved in {folder}")
        bar.say("run the same command again to continue")
    return 128 + number if number else 0


def _aliases(options: Options) -> dict[str, str]:
    chosen = {"train.device": options.device, "train.dtype": options.dtype}
    return {name: value for name, value in chosen.items() if value != "auto"}


@dataclass
class Watch:
    """What the training loop tells, and what it asks for while it runs."""

    folder: Path
    bar: Bar
    steps: int = 0
    held_out: "Likelihood | None" = None
    held_out_step: int = -1
    recipe: Recipe = field(default_factory=Recipe)
    loss: float = 0.0
    speed: float = 0.0
    seen: int = 0
    chats: bool = False
    """Whether the finished model knows conversations."""

    def reading(self, path: str, documents: int, tokens: int) -> None:
        """So much of a source has been tokenised."""
        self.bar.show(documents, f"{path}: {documents} documents, {tokens} tokens")

    def started(self, step: int, steps: int, parameters: int, recipe: Recipe, corpora: "list[Corpus]") -> None:
        """Training starts or continues."""
        from sfumato.data.remote import shown

        self.steps, self.recipe = steps, recipe
        for corpus in corpora:
            if corpus.report.skipped:
                lines = "1 broken line" if corpus.report.skipped == 1 else f"{corpus.report.skipped} broken lines"
                self.bar.say(f"{shown(corpus.path)}: left out {lines}, as {corpus.report.examples[0]}")
        text = f"{sum(len(corpus.tokens) for corpus in corpora):,} tokens of text"
        if not all(corpus.whole for corpus in corpora):
            text = "text as it is streamed"
        verb = f"continuing at step {step}:" if step else "training"
        self.bar.say(
            f"{verb} {parameters:,} parameters, {steps} steps, {text}, "
            f"{recipe.train.device} {recipe.train.dtype}, into {self.folder}"
        )
        self.bar.begin("training", steps, step)

    def stepped(self, record: dict[str, Any]) -> None:
        """A step is done."""
        self.seen += 1
        rate = max(0.05, 1 / self.seen)
        if math.isfinite(record["loss"]):
            self.loss += rate * (record["loss"] - self.loss)
        self.speed += rate * (record["tokens_per_second"] - self.speed)
        done = record["step"]
        skipped = f"  skipped {record['skipped']}" if record["skipped"] else ""
        aims = "".join(f"  {name} {record[name]:.3f}" for name in AIMS if name in record)
        used = f", {record['mfu']:.0%} of the peak" if record.get("mfu") else ""
        self.bar.show(done, f"loss {self.loss:.3f}{aims}  {self.speed:.0f} tokens/s{used}{skipped}")
        if "held_out_bits_per_byte" in record:
            self.bar.say(f"step {done}: loss {self.loss:.3f}, held-out {self.figure()}")
        if kept := [f"{name} {record[f'held_out_{name}']:.3f}" for name in AIMS if f"held_out_{name}" in record]:
            self.bar.say(f"step {done}: held-out {', '.join(kept)}")

    def evaluate(self, bundle: "Bundle", corpora: "list[Corpus]") -> dict[str, float]:
        """The likelihood of a fixed part of the held-out text; nothing where none is held out."""
        from sfumato.data.batches import held_out_rows
        from sfumato.evaluate import likelihood
        from sfumato.sample.language_model import LanguageModel

        model, context = LanguageModel(bundle), bundle.config.model.context
        batch, size = held_out_rows(corpora, context, model.tokenizer, at_most=ROWS * (context - 1))
        if not size:
            return {}
        self.held_out_step = bundle.config.made["steps"]
        self.held_out = likelihood(
            model.denoiser, model.process, model.layout, batch, size, samples=SAMPLES, device=model.device
        )
        names = {"nats_per_token": self.held_out.nats_per_token, "bits_per_byte": self.held_out.bits_per_byte}
        return {f"held_out_{name}": value for name, value in names.items()}

    def sample(self, bundle: "Bundle") -> str:
        """A continuation of `train.sample_prompt`, or an answer to it."""
        return self.samples(bundle, 1)[0]

    def samples(self, bundle: "Bundle", count: int) -> list[str]:
        """Several of them, in one batch."""
        from sfumato.sample.language_model import LanguageModel

        model, prompt = LanguageModel(bundle), self.recipe.train.sample_prompt
        if model.chat_template is not None:
            asked = prompt or "Hello!"
            answers = model.replies([[{"role": "user", "content": asked}]] * count, seed=0)
            return [f"user: {asked}\nassistant: {answer.completion}" for answer in answers]
        if not (prompt or model.tokenizer.begin) and model.process.name == "autoregressive":
            return ["(no sample: left to right nothing predicts a first token; give train.sample_prompt)"] * count
        room = bundle.config.model.context - len(model.tokenizer.begin) - len(model.tokenizer.encode(prompt))
        if room < 1:
            return ["(no sample: train.sample_prompt fills the context)"] * count
        return [one.text for one in model.generate([prompt] * count, max_tokens=min(96, room), seed=0)]

    def card(self, bundle: "Bundle", corpora: "list[Corpus]") -> str:
        """The model card."""
        from sfumato.cli.card import model_card

        self.chats = bundle.config.chat is not None
        if self.held_out_step != bundle.config.made["steps"]:  # this run was complete when it was started again
            self.evaluate(bundle, corpora)
        return model_card(bundle, corpora, self.recipe, self.held_out, self.samples(bundle, 3))

    def figure(self) -> str:
        """The held-out likelihood in words."""
        assert self.held_out
        sign = "at most " if self.held_out.kind == "bound" else ""
        return f"{sign}{self.held_out.bits_per_byte:.3f} bits/byte"

    def last_record(self) -> dict[str, Any]:
        """The last line of metrics.jsonl; numbers that JSON lacks become null."""
        import json

        lines = (self.folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        record = json.loads(lines[-1], parse_constant=lambda name: None) if lines else {}
        if self.held_out:
            record["held_out"] = asdict(self.held_out)
        return record

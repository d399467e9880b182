"""What `generate` and `infill` share: their flags, and the run that writes texts, shows them and prints them."""

import json
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from sfumato.cli.chosen import DEVICES, DTYPES
from sfumato.cli.control import Control, ControlOptions
from sfumato.cli.page import Page
from sfumato.config import ConfigError, option

if TYPE_CHECKING:
    from rich.console import Console

    from sfumato.sample.language_model import Generation, LanguageModel, Start
    from sfumato.sample.trace import Event
    from sfumato.show.html import Recording
    from sfumato.show.terminal import TerminalView

SETTINGS = (
    *("sampler", "steps", "temperature", "top_k", "top_p", "block", "patience", "cache", "refresh", "compile"),
    *("threshold", "factor", "entropy_bound", "remask", "eta", "kappa"),
    *("corrections", "sites", "choice", "edit_threshold", "edit_steps", "clamp"),
    *("tokens_per_step", "judged", "pace", "order_temperature", "lead"),
)


@dataclass(frozen=True, kw_only=True)
class SamplingOptions:
    """The flags that say who writes, and how. A setting that is None is the model's own default."""

    model: str = option("", "folder of a model bundle, or the name of one that comes along (default: tiny)")
    max_tokens: int = option(64, "length of the open end, in tokens", at_least=1)
    sampler: str | None = option(None, "margin, confidence, ancestral, ... (docs/samplers.md), or file.py:Class")
    steps: int | None = option(None, "forward passes at most (default: half the tokens, or all, as suits the sampler)")
    tokens_per_step: float | None = option(None, "sets the steps by the length, where --steps is not given")
    temperature: float | None = option(None, "0 = always the most probable token; 1 = as the model says")
    top_k: int | None = option(None, "draw from the k most probable tokens; 0 = all")
    top_p: float | None = option(None, "draw from the smallest set of tokens of this probability")
    patience: int | None = option(None, "stop after so many steps without a change, when sure; 0 = never")
    threshold: float | None = option(None, "threshold, edit: write every token that is at least so probable")
    factor: float | None = option(None, "factor: n tokens at once where (n + 1) (1 - probability) stays below")
    entropy_bound: float | None = option(None, "entropy_bounded: nats that may be lost in a step")
    judged: str | None = option(None, "orders, threshold, factor: what counts: best, drawn or filtered")
    pace: str | None = option(None, "orders, ancestral: tokens a step: even, or as in Dream's loop: dream")
    order_temperature: float | None = option(None, "orders: draw the positions too, by their scores; 0 = the best")
    lead: bool | None = option(None, "the first step of a block writes its first token alone")
    remask: str | None = option(None, "remdm: how often words become masks again: cap, rescale or loop")
    eta: float | None = option(None, "remdm: how much is masked again; p2: weight of written tokens")
    kappa: float | None = option(None, "predictor_corrector: share of the reverse process; 1 = no corrections")
    corrections: int | None = option(None, "gibbs: correcting steps after each step")
    sites: int | None = option(None, "gibbs: positions drawn anew in a correcting step")
    choice: str | None = option(None, "gibbs: which ones: random or margin")
    edit_threshold: float | None = option(None, "edit: replace a token where another one is at least so probable")
    edit_steps: int | None = option(None, "edit: steps at most for a text that is filled")
    clamp: bool | None = option(None, "gaussian noise: move each step's prediction to the nearest token")
    block: int | None = option(None, "tokens a block; blocks are written from left to right; 0 = all in one")
    cache: str | None = option(None, "what is kept between steps: auto, none, exact, prefix or dual")
    refresh: int | None = option(None, "prefix and dual cache: steps until all is computed anew; 0 = once a block")
    compile: bool | None = option(None, "compile the network: slow to begin with, then faster")
    seed: int = option(0, "all randomness follows from it", at_least=0)
    device: str = option("auto", "where to compute", DEVICES)
    dtype: str = option("auto", "arithmetic; auto takes bfloat16 only where it is faster", DTYPES)

    def settings(self) -> dict[str, Any]:
        """The settings by name."""
        return {name: getattr(self, name) for name in SETTINGS}


@dataclass(frozen=True, kw_only=True)
class WritingOptions(SamplingOptions, ControlOptions):
    """The flags of a command that writes texts."""

    n: int = option(1, "how many texts to write, with the seeds SEED, SEED + 1, ...", at_least=1)
    json: bool = option(False, "write JSON, one line a text, and nothing else, to standard output")
    show: bool = option(True, "in a terminal, show how the text appears")
    delay: float = option(0.05, "seconds to wait after each step that is shown", at_least=0, at_most=60)
    html: str = option("", "also write a page to this file on which every step can be looked at (.html)")


def write(
    options: WritingOptions,
    text: str,
    method: "Callable[[LanguageModel], Callable]",
    out: TextIO,
    *,
    template: bool = False,
    length: int | None = None,
    form: "Callable[[LanguageModel], dict[str, Any]] | None" = None,
) -> None:
    """Write `options.n` texts, one after the other, so that a seed gives the same text alone and among others.

    Args:
        options: the flags.
        text: the prompt or template; "-" stands for standard input.
        method: what writes: picks `generate` or `infill` of a model.
        out: where the texts go: in a terminal as a view that moves, else as plain text or JSON.
        template: whether the text has holes.
        length: tokens to write exactly; None = up to `max_tokens`.
        form: from a model to the option `constraint` of its method, or none.

    Raises:
        ValueError: a flag, a text or a model that cannot be used.
    """
    text = _standard_input() if text == "-" else text
    page = Page(Path(options.html)) if options.html else None
    console = terminal(out) if options.show and not options.json else None
    with console.status("loading the model") if console else nullcontext():
        from sfumato.sample.language_model import LanguageModel

        model = LanguageModel.load(options.model or None, options.device, options.dtype)
    control = Control(options, model)
    if page and control.texts > 1:
        raise ConfigError("--html: shows how one text is written, not a choice among several; leave one of them out")
    settings = {"max_tokens": options.max_tokens, **options.settings()}
    settings |= control.settings() | ({} if length is None else {"length": length})
    settings |= form(model) if form else {}
    for i in range(options.n):
        seed, details = options.seed + i * control.texts, None
        run = partial(method(model), text, seed=seed, **settings)
        if control.texts > 1:
            chosen, details = control.search(method(model), text, template, seed=seed, **settings)
            run = partial(_given, chosen)
        watchers = [page.recording(model, f"seed {seed}")] if page else []
        if options.json:
            record = _record(_watched(run, watchers), model, options, details)
            print(json.dumps(record, allow_nan=False), file=out, flush=True)
            continue
        if i:
            print(file=out)
        if console and details is None:
            title = f"seed {seed}" if options.n > 1 else ""
            _show(run, console, model, title, options.delay, watchers)
        else:
            print(printable(_watched(run, watchers).text, out), file=out, flush=True)
    if page:
        page.save(text)


def _given(generation: "Generation") -> "Generation":
    return generation


def _watched(run: Callable, watchers: "Sequence[Recording | TerminalView]", drafts: bool = True) -> "Generation":
    """Write one text while several watch, or nobody."""
    if not watchers:
        return run()

    def begin(start: "Start") -> None:
        for watcher in watchers:
            watcher.start(start.tokens, start.editable)

    def tell(event: "Event") -> None:
        for watcher in watchers:
            watcher(event)

    return run(on_start=begin, on_event=tell, drafts=drafts)


def _show(
    run: Callable,
    console: "Console",
    model: "LanguageModel",
    title: str,
    delay: float,
    others: "Sequence[Recording]",
) -> None:
    """Write one text before the reader's eyes."""
    from sfumato.show.terminal import TerminalView

    end_id = model.bundle.config.tokens.end
    with TerminalView(console, model.tokenizer.token_bytes, end_id, title=title, delay=delay) as view:
        _watched(run, [view, *others], drafts=bool(others))


def terminal(out: TextIO) -> "Console | None":
    """The terminal to show the writing on, if `out` is one that can."""
    if not out.isatty():
        return None
    from rich.console import Console

    console = Console(file=out, highlight=False)
    return console if console.is_interactive and not console.options.ascii_only else None


def _standard_input() -> str:
    """Standard input as UTF-8, without the line end that every shell adds."""
    try:
        text = sys.stdin.buffer.read().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(f"standard input: not UTF-8 text ({error.reason} at byte {error.start})") from None
    return text.replace("\r\n", "\n").removesuffix("\n")


def printable(text: str, out: TextIO) -> str:
    """The text; for a terminal without what would steer it."""
    if not out.isatty():
        return text
    from sfumato.show.pieces import harmless

    return harmless(text)


def _record(
    generation: "Generation", model: "LanguageModel", options: WritingOptions, search: dict[str, Any] | None
) -> dict[str, Any]:
    """What `--json` tells about one text."""
    control = {f.name: getattr(options, f.name) for f in fields(ControlOptions)}
    control = {f.name: control[f.name] for f in fields(ControlOptions) if control[f.name] != f.default}
    where = {"device": model.device.type, "dtype": str(model.dtype).removeprefix("torch.")}
    return {
        "model": str(model.path),
        "text": generation.text,
        "completion": generation.completion,
        "finish_reason": generation.finish_reason,
        "seed": generation.seed,
        "stats": asdict(generation.stats),
        "settings": {"max_tokens": options.max_tokens, **asdict(generation.settings)},
        **({"control": control} if control else {}),
        **({"search": search} if search else {}),
        **where,
    }

"""A model ready to use: network, process, layout and tokenizer together. What `sfumato.load()` returns."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, overload

from torch import Tensor

from sfumato.model.bundle import Bundle, find_bundle
from sfumato.model.device import resolve_device, resolve_dtype
from sfumato.model.layout import Full, Layout
from sfumato.sample.compiled import CompiledTrunk
from sfumato.sample.constraint import Constraint
from sfumato.sample.decoder import Decoder, Request
from sfumato.sample.embedding import embed
from sfumato.sample.front import Front, Plan
from sfumato.sample.guidance import Guidance, as_guidance
from sfumato.sample.guided import steerable
from sfumato.sample.keywords import Placer
from sfumato.sample.prefix import PrefixStore
from sfumato.sample.reuse import Reuse
from sfumato.sample.settings import Settings
from sfumato.sample.sliding import Sliding
from sfumato.sample.trace import Event
from sfumato.text.chat import ChatTemplate, Message
from sfumato.text.prompt import Row, text_of


@dataclass(frozen=True)
class Stats:
    """What a generation cost. When several texts are written together, time and positions are those of all of them."""

    nfe: int
    """Forward passes that this text took part in."""
    committed: int
    """Tokens written, up to and with the end of the text."""
    tpf: float
    """Committed tokens per forward."""
    seconds: float
    tokens_per_second: float
    positions_evaluated: int
    """Query positions run through the network."""


@dataclass(frozen=True)
class Generation:
    """One written text."""

    text: str
    """All of it, prompt included, cut at the end of the text."""
    completion: str
    """What follows the prompt (infilling: everything from the first hole on)."""
    tokens: tuple[int, ...]
    """The canvas row."""
    finish_reason: str
    """stop = the model ended the text, or it is all that its constraint asks for; length = the canvas is full."""
    seed: int
    settings: Settings
    stats: Stats


@dataclass(frozen=True)
class Start:
    """The beginning of a row, for those who watch."""

    request: int
    tokens: tuple[int, ...]
    editable: tuple[bool, ...]


class LanguageModel:
    """A diffusion language model, or an autoregressive twin, with its tokenizer."""

    def __init__(self, bundle: Bundle, *, path: Path | None = None):
        """Wrap a bundle that is in memory; `load` reads one from disk."""
        self.bundle, self.path = bundle, path
        self.front = Front(bundle.config, bundle.tokenizer_json, path=path)
        self.tokenizer, self.process, self.layout = self.front.tokenizer, self.front.process, self.front.layout
        self.grows = self.front.grows
        self.denoiser = bundle.denoiser
        self._compiled: CompiledTrunk | None = None
        weight = next(self.denoiser.parameters())
        self.device, self.dtype = weight.device, weight.dtype

    @classmethod
    def load(cls, path: str | Path | None = None, device: str = "auto", dtype: str = "auto") -> "LanguageModel":
        """Load a model.

        Args:
            path: a bundle's folder, or the name of a model that comes with the package; None = "tiny".
            device: auto, cpu, cuda or mps.
            dtype: auto (bfloat16 only where it is measured faster), float32 or bfloat16.

        Raises:
            BundleError: the folder is missing, broken, or does not match itself; one line.
        """
        if path is not None and not isinstance(path, (str, Path)):
            raise ValueError(f"load: expected a path or a name, got {type(path).__name__}")
        if path == "":
            raise ValueError("load: the name of the model is empty; leave it out for the bundled one")
        folder = find_bundle(path)
        where = resolve_device(device)
        return cls(Bundle.load(folder, where, resolve_dtype(dtype, where)), path=folder)

    @overload
    def generate(self, prompt: str, *, max_tokens: int = ..., **options: Any) -> Generation: ...
    @overload
    def generate(self, prompt: Sequence[str], *, max_tokens: int = ..., **options: Any) -> list[Generation]: ...

    def generate(
        self, prompt: str | Sequence[str], *, max_tokens: int = 64, length: int | None = None, **options: Any
    ) -> Generation | list[Generation]:
        """Continue a prompt, or several in one batch.

        Args:
            prompt: one text or many; each gets its own randomness from (seed, its place in the list).
            max_tokens: length of the canvas after the prompt; beyond the context it is written in windows, each of
                which begins with the end of the one before. Where rows grow, the greatest length, within the context.
            length: write exactly so many tokens and end there; takes the place of `max_tokens`.
            options: fields of `Settings`; `guidance`, a `Guidance`, several, or the scale of classifier-free guidance;
                `keywords`, words that must appear; `constraint`, what the continuation obeys (`sample.constraint`); and
                `on_start`, `on_event` to watch, `drafts` to see guesses too.

        Returns:
            A `Generation`, or a list of them.

        Raises:
            ValueError: an unknown or impossible option, or a prompt longer than the context.
        """
        return self._write(prompt, max_tokens, template=False, length=length, **options)

    @overload
    def infill(self, template: str, *, max_tokens: int = ..., **options: Any) -> Generation: ...
    @overload
    def infill(self, template: Sequence[str], *, max_tokens: int = ..., **options: Any) -> list[Generation]: ...

    def infill(
        self, template: str | Sequence[str], *, max_tokens: int = 64, **options: Any
    ) -> Generation | list[Generation]:
        """Fill the holes of a template such as `"Once {8} there was {*}"`, or of several in one batch.

        Args:
            template: `{n}` is a hole of n tokens, `{*}` the open end, `{{` and `}}` are braces; one text or many.
                Where rows grow, `{?}` is a hole of any length.
            max_tokens: length of the open end, if there is one; where rows grow, of all holes of any length together.
            options: as in `generate`.

        Returns:
            A `Generation`, or a list of them.

        Raises:
            ValueError: as `generate`, and a malformed template or one without a hole.
        """
        return self._write(template, max_tokens, template=True, **options)

    @property
    def chat_template(self) -> ChatTemplate | None:
        """How a conversation becomes tokens; None where the model knows none."""
        return self.front.chat_template

    def reply(self, messages: Sequence[Message], *, max_tokens: int | None = None, **options: Any) -> Generation:
        """Answer a conversation.

        Args:
            messages: `{"role": "user", "content": "Hello"}` and the like, the one to answer last.
            max_tokens: of the answer; None = 128, or half the context where that is less. The oldest messages go
                where the context is too small.
            options: as in `generate`.

        Raises:
            ValueError: a model that knows no conversations, what is no conversation, and as in `generate`.
        """
        return self.replies([messages], max_tokens=max_tokens, **options)[0]

    def replies(
        self, conversations: Sequence[Sequence[Message]], *, max_tokens: int | None = None, **options: Any
    ) -> list[Generation]:
        """Answer several conversations in one batch; as `reply`, each with randomness of its own."""
        room = max_tokens or min(128, self.front.context // 2)
        return self._run([self.front.conversation(messages, room)[0] for messages in conversations], **options)

    def embed(self, text: str | Sequence[str], **options: Any) -> Tensor:
        """What texts mean to the model: vectors of length 1, whose inner products say how alike they are.

        Args:
            text: one text, or many, which are read together.
            options: layer, pooling and dimensions, as in `sample.embedding.embedding_steps`.

        Returns:
            float32 on the CPU, one vector (E,) or a row for each text (N, E).

        Raises:
            ValueError: an empty text, or a number out of range.
        """
        texts = [text] if isinstance(text, str) else list(text)
        tokens = self.tokenizer.encode_batch(texts)
        found_NE = embed(self, tokens, **options)
        return found_NE[0] if isinstance(text, str) else found_NE

    def _write(
        self, text: str | Sequence[str], max_tokens: int, *, template: bool, length: int | None = None, **options: Any
    ) -> Generation | list[Generation]:
        if not isinstance(text, (str, list, tuple)):
            what = "template" if template else "prompt"
            raise ValueError(f"{what}: expected a text or a list of texts, got {type(text).__name__}")
        texts = [text] if isinstance(text, str) else list(text)
        rows = [self.front.row(one, max_tokens, template=template, length=length) for one in texts]
        done = self._run(rows, in_sight=template, **options)
        return done[0] if isinstance(text, str) else done

    def _run(self, rows: Sequence[Row], **options: Any) -> list[Generation]:
        writing, texts = self._begin(rows, **options)
        left = list(texts)
        while left:
            left = writing.windows(left)
        return [self._generation(text, writing) for text in texts]

    def _begin(
        self,
        rows: Sequence[Row],
        *,
        on_start: Callable[[Start], None] | None = None,
        on_event: Callable[[Event], None] | None = None,
        drafts: bool = False,
        guidance: Guidance | Sequence[Guidance] | float = (),
        keywords: Sequence[str] = (),
        constraint: Constraint | None = None,
        in_sight: bool = False,
        **options: Any,
    ) -> "tuple[_Writing, list[_Text]]":
        """The run of the decoder that options ask for, and the texts that it is to write."""
        if constraint is not None and keywords:
            raise ValueError("keywords: cannot stand in a text with a constraint; name them in the constraint")
        plan = self.front.plan(options, in_sight=in_sight or bool(keywords))
        # Where texts begin with nothing, there is no token that a hidden prompt could keep.
        settings, chosen = plan.settings, as_guidance(guidance, whole=self.bundle.config.tokens.start is None)
        writing = _Writing(self, plan, on_event, drafts, constraint)
        if isinstance(keywords, str):
            raise ValueError(f"keywords: expected a list of words, got the text {keywords!r}")
        context, texts = self.bundle.config.model.context, []
        for i, row in enumerate(rows):
            prompt, several, passes = row.first_written, chosen, 0
            if keywords and not steerable(self.process):
                raise ValueError(f"keywords: not for the {self.process.name} process; use a masked model")
            if several or keywords or constraint:
                self._check_window(row, "keywords" if keywords else "guidance" if several else "constraint")
            if keywords:
                in_sight = self.layout.name == "block" and plan.block >= len(row.tokens)
                layout = Full() if in_sight else self.layout
                put = Placer(self.denoiser, self.process, layout, self.tokenizer, self.device)
                row, whole = put(row, keywords, _seed(settings, i))
                several, passes = (*chosen, whole), len(whole.behind)
            if on_start:
                on_start(Start(i, tuple(row.tokens), tuple(row.editable)))
            sliding = Sliding.over(row, context, plan.block or 1, len(self.tokenizer.begin))
            texts.append(_Text(i, row, sliding, prompt, several, nfe=passes))
        return writing, texts

    def _check_window(self, row: Row, what: str) -> None:
        if len(row.tokens) > (context := self.bundle.config.model.context):
            raise ValueError(f"{what}: works on one window of {context} tokens, got {len(row.tokens)}; write fewer")

    def compiled_trunk(self) -> CompiledTrunk:
        """The denoiser's trunk compiled for decoding; the same object each time, since compiling takes long."""
        if self._compiled is None:
            self._compiled = CompiledTrunk(self.denoiser, self.device)
        return self._compiled

    def decoder(
        self, reuse: Reuse | None = None, *, compiled: bool = False, prefixes: PrefixStore | None = None
    ) -> Decoder:
        """A decoder for this model; the arguments are those of `Decoder`."""
        return Decoder(
            self.denoiser,
            self.process,
            self.layout,
            end_id=self.bundle.config.tokens.end,
            device=self.device,
            reuse=reuse,
            compiled=self.compiled_trunk() if compiled else None,
            prefixes=prefixes,
        )

    def layout_for(self, block: int) -> Layout:
        """The layout with blocks of this size, for evaluation.

        Raises:
            ConfigError: the model has no blocks, or none of this size.
        """
        return self.front.layout_for(block)

    def _generation(self, text: "_Text", writing: "_Writing") -> Generation:
        tokens, seconds, settings = tuple(text.sliding.tokens), writing.seconds, writing.settings
        end_id = self.bundle.config.tokens.end
        written = tokens[text.prompt :]  # earlier turns of a conversation have ends too
        ended = end_id in written
        whole = ended if writing.constraint is None else writing.constraint.complete(written)
        last = text.prompt + written.index(end_id) + 1 if ended else len(tokens)
        committed = last - text.row.editable.count(False) if text.row.gaps else sum(text.row.editable[:last])
        return Generation(
            text=text_of(self.tokenizer, tokens),
            completion=text_of(self.tokenizer, tokens, text.prompt),
            tokens=tokens,
            finish_reason="stop" if whole else "length",
            seed=_seed(settings, text.number),
            settings=settings,
            stats=Stats(
                nfe=text.nfe,
                committed=committed,
                tpf=round(committed / max(1, text.nfe), 3),
                seconds=round(seconds, 4),
                tokens_per_second=round(committed / seconds, 1),
                positions_evaluated=writing.decoder.counters.positions,
            ),
        )


@dataclass
class _Text:
    """A text that is being written."""

    number: int
    """Its place in the list of prompts."""
    row: Row
    sliding: Sliding
    prompt: int
    """How many tokens stand before the first hole that was asked for."""
    guidance: tuple[Guidance, ...]
    steps: int = 0
    nfe: int = 0
    """Both of the windows that are finished; and the passes that placed keywords."""


class _Writing:
    """A run of the decoder over the windows of some texts."""

    def __init__(
        self,
        model: LanguageModel,
        plan: Plan,
        on_event: Callable[[Event], None] | None,
        drafts: bool,
        constraint: Constraint | None,
    ):
        self.plan, self.settings, self.on_event = plan, plan.settings, on_event
        self.drafts, self.constraint, settings = drafts, constraint, plan.settings
        self.end_id, self.seconds = model.bundle.config.tokens.end, 0.0  # of decoding alone, not of whoever watches
        self.decoder = model.decoder(
            Reuse.chosen(settings.cache, model.layout, settings.refresh), compiled=settings.compile
        )

    def windows(self, texts: Sequence[_Text]) -> list[_Text]:
        """Write the next window of each text; gives the texts that need another one."""
        running = {self.decoder.add(self.request(text)): text for text in texts}
        while self.decoder.busy:
            start = time.perf_counter()
            events = self.decoder.step()
            self.seconds += time.perf_counter() - start
            for event in events:
                self._take(running[event.request], event)
        return [text for text in texts if text.sliding.filled < len(text.row.tokens)]

    def request(self, text: _Text) -> Request:
        """The next window of a text."""
        tokens, editable = text.sliding.window()
        return self.plan.request(
            tokens,
            editable,
            steps=text.sliding.share(self.plan.steps(text.row.room)),
            seed=text.sliding.seed(_seed(self.settings, text.number)),
            trace=self.on_event is not None,
            drafts=self.drafts,
            gaps=text.row.gaps,
            limit=text.row.limit,
            guidance=text.guidance,
            constraint=self.constraint,
        )

    def _take(self, text: _Text, event: Event) -> None:
        """Note what happened, and tell it in places and counts of the whole text."""
        shown = text.sliding.placed(event)
        steps, nfe, tokens = text.steps + event.step, text.nfe + event.nfe, None
        if event.tokens is not None:
            text.steps, text.nfe = steps, nfe
            if text.sliding.take(event.tokens, self.end_id):
                text.sliding.filled = len(text.row.tokens)
                tokens = tuple(text.sliding.tokens)
        if self.on_event:
            self.on_event(replace(shown, request=text.number, step=steps, nfe=nfe, tokens=tokens))


def _seed(settings: Settings, place: int) -> int:
    """The seed of the text with this place in the list; after the largest comes 0."""
    return (settings.seed + place) % 2**63

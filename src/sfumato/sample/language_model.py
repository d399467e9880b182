"""A model ready to use: network, process, layout and tokenizer together. What `sfumato.load()` returns."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, overload

from torch import Tensor

from sfumato.model.bundle import Bundle, build_network, find_bundle, read_description, without_weights
from sfumato.model.device import resolve_device, resolve_dtype
from sfumato.model.layout import Full, Layout
from sfumato.sample.compiled import CompiledTrunk
from sfumato.sample.constraint import Constraint
from sfumato.sample.decoder import Decoder
from sfumato.sample.embedding import embed
from sfumato.sample.front import Front
from sfumato.sample.guidance import Guidance, as_guidance
from sfumato.sample.guided import steerable
from sfumato.sample.keywords import Placer
from sfumato.sample.many import generate_many
from sfumato.sample.prefix import PrefixStore
from sfumato.sample.reuse import Reuse
from sfumato.sample.trace import Event
from sfumato.sample.writing import Generation, Start, Text, Writing, check_stops, seed_of
from sfumato.text.chat import ChatTemplate, Message
from sfumato.text.prompt import Row


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

    @classmethod
    def described(cls, path: str | Path | None = None) -> "LanguageModel":
        """A model without its weights: it cannot write, but tell cheaply what it would refuse to write.

        Args:
            path: as in `load`.

        Raises:
            BundleError: as `load`.
        """
        folder = find_bundle(path)
        config, tokenizer_json = read_description(folder)
        with without_weights():
            network = build_network(config)
        return cls(Bundle(config, network.eval(), tokenizer_json), path=folder)

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
                `keywords`, words that must appear; `constraint`, what the continuation obeys (`sample.constraint`);
                `stop`, strings of which the first ends the text; and `on_start`, `on_event` to watch, `drafts` to see
                guesses too.

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

    def generate_many(
        self, requests: Iterable[str | Mapping[str, Any]], *, batch: int = 8, **options: Any
    ) -> Iterator[Generation]:
        """Write a text for each of many requests, which may differ in kind and settings, in one run of the decoder.

        The next request is read when a text is done, so that the batch stays full and `requests` may be endless.

        Args:
            requests: prompts; or mappings with one of `prompt`, `template` and `messages`, and any of `max_tokens`,
                `length`, `stop` and the fields of `Settings` but those of the decoder (cache, refresh, compile).
            batch: texts written at a time; changes speed and memory only.
            options: what holds where a request says nothing; `guidance` and `constraint` as in `generate`, for all.

        Yields:
            The texts in the order of the requests; without a seed of its own the i-th uses `seed + i`.

        Raises:
            ValueError: as `generate`, `infill` and `reply`; it names the request by its place, counted from 0.
        """
        return generate_many(self, requests, batch=batch, **options)

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
        for _ in writing.finished(texts, len(texts)):
            pass
        return [writing.generation(text) for text in texts]

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
        stop: str | Sequence[str] = (),
        in_sight: bool = False,
        **options: Any,
    ) -> tuple[Writing, list[Text]]:
        """The run of the decoder that options ask for, and the texts that it is to write."""
        if constraint is not None and keywords:
            raise ValueError("keywords: cannot stand in a text with a constraint; name them in the constraint")
        plan = self.front.plan(options, in_sight=in_sight or bool(keywords))
        # Where texts begin with nothing, there is no token that a hidden prompt could keep.
        settings, chosen = plan.settings, as_guidance(guidance, whole=self.bundle.config.tokens.start is None)
        reuse = Reuse.chosen(settings.cache, self.layout, settings.refresh)
        decoder = self.decoder(reuse, compiled=settings.compile)
        writing = Writing(self.front, decoder, on_event=on_event, drafts=drafts, constraint=constraint)
        if isinstance(keywords, str):
            raise ValueError(f"keywords: expected a list of words, got the text {keywords!r}")
        texts, stops = [], check_stops(stop)
        for i, row in enumerate(rows):
            seed, prompt, several, passes = seed_of(settings.seed, i), row.first_written, chosen, 0
            if keywords and not steerable(self.process):
                raise ValueError(f"keywords: not for the {self.process.name} process; use a masked model")
            if several or keywords or constraint:
                self.check_window(row, "keywords" if keywords else "guidance" if several else "constraint")
            if keywords:
                in_sight = self.layout.name == "block" and plan.block >= len(row.tokens)
                layout = Full() if in_sight else self.layout
                put = Placer(self.denoiser, self.process, layout, self.tokenizer, self.device)
                row, whole = put(row, keywords, seed)
                several, passes = (*chosen, whole), len(whole.behind)
            if on_start:
                on_start(Start(i, tuple(row.tokens), tuple(row.editable)))
            text = writing.text(i, row, plan, seed)
            text.prompt, text.guidance, text.stops, text.nfe = prompt, several, stops, passes
            texts.append(text)
        return writing, texts

    def check_window(self, row: Row, what: str) -> None:
        """Refuse a row that is longer than the context, for what works on one window only (ValueError)."""
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

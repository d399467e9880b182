"""Everything about a model but its network: its parts checked against each other, texts turned into rows to decode.

It is cheap to load, so that a server can prepare requests in one process and decode them in another.
"""

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sfumato.config import ConfigError, from_mapping
from sfumato.model.bundle import BundleConfig, BundleError, find_bundle, read_description
from sfumato.model.layout import Layout, layout_named
from sfumato.model.weights import weight_files
from sfumato.process import Growing, build_process
from sfumato.sample.rows import Request
from sfumato.sample.sampler import Sampler
from sfumato.sample.settings import Settings
from sfumato.text.chat import ChatTemplate, Message
from sfumato.text.prompt import Row, canvas_row
from sfumato.text.tokenizer import read_tokenizer

_VERSION_BYTES = 1 << 26  # of each weight file that its version depends on, beside its size


@dataclass(frozen=True)
class Plan:
    """Settings made concrete for a model."""

    settings: Settings
    sampler: Sampler
    block: int
    """Tokens a block, 0 = all in one."""

    def steps(self, room: int) -> int:
        """Forward passes at most for so many tokens to write."""
        settings = self.settings
        if settings.steps:
            return settings.steps
        if settings.tokens_per_step:
            return max(1, math.ceil(room / settings.tokens_per_step))
        return room if settings.block == 1 else self.sampler.default_steps(room)

    def request(
        self, tokens: Sequence[int], editable: Sequence[bool], *, steps: int, seed: int, **others: Any
    ) -> Request:
        """A row for the decoder; `others` are fields of `Request` that settings do not decide."""
        settings = self.settings
        return Request(
            tokens,
            editable,
            self.sampler,
            steps=steps,
            temperature=settings.temperature,
            top_k=settings.top_k,
            top_p=settings.top_p,
            clamp=settings.clamp,
            block=self.block,
            seed=seed,
            **others,
        )


class Front:
    """A model's description, tokenizer, process and layout."""

    def __init__(self, config: BundleConfig, tokenizer_json: str, *, path: Path | None = None):
        """Take the parts of a bundle.

        Raises:
            BundleError: they do not fit together.
        """
        self.config, self.path, where = config, path, path or "bundle"
        self.tokenizer = read_tokenizer(
            tokenizer_json, config.tokens, vocab_size=config.model.vocab_size, where=f"{where}: tokenizer.json"
        )
        self.process = build_process(
            config.process,
            vocab_size=config.model.vocab_size,
            mask_id=config.tokens.mask,
            never_written=config.tokens.never_written,
            shift=config.shift,
        )
        # The likelihood is that of the blocks it writes with.
        self.layout = layout_named(config.layout, config.sampler.get("block") or config.model.block)
        self.grows = isinstance(self.process, Growing)
        where_chat = f"{where}: config.json: chat"
        self.chat_template = (
            None if config.chat is None else ChatTemplate.from_dict(config.chat, where_chat, self.tokenizer)
        )
        if config.shift not in (0, 1) or config.shift != self.process.shift:
            expected = "0 or 1" if self.process.name == "masked" else self.process.shift
            raise BundleError(
                f"{where}: config.json says shift {config.shift}, expected {expected} of {self.process.name} noise; "
                "restore the original file"
            )
        if config.model.gap_head != self.grows:
            raise BundleError(
                f"{where}: config.json says gap_head {config.model.gap_head}, but {self.process.name} needs "
                f"{self.grows}; restore the original file"
            )
        special, begin = (config.tokens.mask, config.tokens.end, config.tokens.pad), config.tokens.start
        if special != (self.tokenizer.mask_id, self.tokenizer.end_id, self.tokenizer.pad_id) or (
            (() if begin is None else (begin,)) != tuple(self.tokenizer.begin)
        ):
            raise BundleError(
                f"{where}: config.json and tokenizer.json disagree on the ids of mask, end, pad and start; "
                "restore the original files"
            )
        self.block(from_mapping(Settings, config.sampler, where=f"{where}: config.json: sampler"))

    @classmethod
    def load(cls, path: str | Path | None = None) -> "Front":
        """Read all of a bundle but its weights.

        Args:
            path: a bundle's folder, or the name of a model that comes with the package; None = "tiny".

        Raises:
            BundleError: the folder is missing, broken, or does not match itself; one line.
        """
        folder = find_bundle(path)
        return cls(*read_description(folder), path=folder)

    @property
    def context(self) -> int:
        """The longest row, in tokens."""
        return self.config.model.context

    def version(self) -> str:
        """12 hex digits that change when the model does.

        A digest of config.json, which names the tokenizer's, and of each weight file: all of it, or of a large one the
        name, the first 64 MiB and the size.

        Raises:
            OSError: the files went away.
        """
        assert self.path is not None, "a model that is only in memory has no version"
        digest = hashlib.sha256((self.path / "config.json").read_bytes())
        for file in weight_files(self.path):
            with open(file, "rb") as handle:
                digest.update(handle.read(_VERSION_BYTES))
            digest.update(f"{file.name} {file.stat().st_size}".encode())
        return digest.hexdigest()[:12]

    def plan(self, options: Mapping[str, Any], *, in_sight: bool = False) -> Plan:
        """What settings mean for this model.

        Args:
            options: fields of `Settings`; None = the model's own default.
            in_sight: text right of what is written matters: unless the caller chose a block, it is as large as can be,
                since a block sees to its right nothing but itself.

        Raises:
            ConfigError: an unknown or impossible setting.
        """
        if in_sight and self.layout.name == "block" and options.get("block") is None:
            options = {**options, "block": self.config.model.block}
        settings = Settings().with_defaults(self.config.sampler, dict(options))
        return Plan(settings, settings.build_sampler(self.process), self.block(settings))

    def block(self, settings: Settings) -> int:
        """Tokens a block: the caller's choice, and in the block layout one that the network was trained for.

        Raises:
            ConfigError: it was not.
        """
        if self.layout.name != "block":
            return settings.block
        model = self.config.model
        size, smallest = settings.block or model.block, model.smallest_block or model.block
        if not smallest <= size <= model.block:
            trained = model.block if smallest == model.block else f"{smallest} to {model.block}"
            raise ConfigError(f"block: got {size}, this model was trained with blocks of {trained} tokens")
        return size

    def layout_for(self, block: int) -> Layout:
        """The layout with blocks of this size, for evaluation.

        Raises:
            ConfigError: the model has no blocks, or none of this size.
        """
        if self.layout.name != "block":
            raise ConfigError(f"block: a model with the {self.layout.name} layout has no blocks to evaluate in")
        return layout_named("block", self.block(Settings(block=block)))

    def row(
        self, text: str, max_tokens: int, *, template: bool = False, length: int | None = None, windows: bool = True
    ) -> Row:
        """A prompt or template as a row.

        Args:
            text: what is given.
            max_tokens: length of the open end; where rows grow, of all that is written at most.
            template: braces in the text are holes.
            length: write exactly so many tokens behind a prompt; takes the place of `max_tokens`.
            windows: the open end may reach beyond the context, to be written in windows.

        Raises:
            ValueError: a malformed template, an impossible length, or a text longer than the context.
        """
        if not isinstance(text, str):
            raise ValueError(f"{'template' if template else 'prompt'}: expected text, got {type(text).__name__}")
        if not isinstance(max_tokens, int) or isinstance(max_tokens, bool):
            raise ValueError(f"max_tokens: expected a whole number, got {max_tokens!r}")
        context = self.context
        if length is not None:
            if template or not isinstance(length, int) or isinstance(length, bool) or length < 1:
                raise ValueError(f"length: expected a number of tokens behind a prompt, got {length!r}")
            text, template = text.replace("{", "{{").replace("}", "}}") + f"{{{length}}}", True
        if windows and not template and not self.grows:  # what is written may be longer than the context, the rest not
            canvas_row(self.tokenizer, text, context=context, max_tokens=1)
            context += max_tokens
        return canvas_row(
            self.tokenizer, text, context=context, max_tokens=max_tokens, template=template, grows=self.grows
        )

    def conversation(self, messages: Sequence[Message], max_tokens: int) -> tuple[Row, int]:
        """A conversation as a row that ends with room for the answer.

        Args:
            messages: roles and contents, the one to answer last.
            max_tokens: of the answer.

        Returns:
            The row, and how many of the oldest messages had to be left out.

        Raises:
            ValueError: a model that knows no conversations, or what is no conversation or does not fit.
        """
        if self.chat_template is None:
            name = self.path.name if self.path else "this model"
            why = self.config.made.get("no_chat", "it knows no conversations; use one that was tuned on some")
            raise ValueError(f"{name} has no chat template: {why}")
        room = self.context - len(self.tokenizer.begin)
        if not isinstance(max_tokens, int) or not 1 <= max_tokens < room:
            raise ValueError(f"max_tokens: expected 1 to {room - 1}, got {max_tokens!r}")
        ids, dropped = self.chat_template.fit(messages, self.tokenizer, room - max_tokens)
        return self.behind([*self.tokenizer.begin, *ids], max_tokens), dropped

    def behind(self, given: Sequence[int], max_tokens: int) -> Row:
        """A row that begins with these tokens, what opens a text among them, and leaves its end open."""
        if self.grows:
            return Row(list(given), [False] * len(given), [False] * (len(given) - 1) + [True], len(given) + max_tokens)
        masks = [self.tokenizer.mask_id] * max_tokens
        return Row([*given, *masks], [False] * len(given) + [True] * max_tokens)

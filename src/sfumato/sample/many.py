"""Many texts through one decoder: what is asked for differs from text to text, and a place never stays empty."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

from sfumato.config import ConfigError, closest, from_mapping
from sfumato.sample.constraint import Constraint
from sfumato.sample.custom import names_file
from sfumato.sample.front import Front, Plan
from sfumato.sample.guidance import Guidance, as_guidance
from sfumato.sample.reuse import Reuse
from sfumato.sample.settings import Settings
from sfumato.sample.writing import Generation, Text, Writing, check_stops, seed_of
from sfumato.text.prompt import Row

if TYPE_CHECKING:
    from sfumato.sample.language_model import LanguageModel

KINDS = ("prompt", "template", "messages")
SHARED = ("cache", "refresh", "compile")  # settings of the decoder, not of a text
KEYS = (*KINDS, "max_tokens", "length", "stop", *(f.name for f in fields(Settings) if f.name not in SHARED))


@dataclass(frozen=True)
class Asked:
    """A text that is asked for, ready to be written."""

    row: Row
    plan: Plan
    seed: int
    stops: tuple[str, ...] = ()


class Requests:
    """What requests mean to a model, and what holds where they say nothing."""

    def __init__(self, front: Front, **defaults: Any):
        """Requests to one model.

        Args:
            front: of the model.
            defaults: `max_tokens`, `stop` and fields of `Settings`; None = the model's own.

        Raises:
            ConfigError: an unknown or impossible setting.
        """
        self.front, self.defaults = front, {name: value for name, value in defaults.items() if value is not None}
        self.stops = check_stops(self.defaults.get("stop", ()))
        self._plans: dict[Any, Plan] = {}  # one for the same settings: rows that share a sampler step together
        self.plan = self._plan({k: v for k, v in self.defaults.items() if k not in ("max_tokens", "stop")})

    def read(self, request: str | Mapping[str, Any], number: int = 0) -> Asked:
        """Understand a request.

        Args:
            request: a prompt; or a mapping with one of `prompt`, `template` (with holes) and `messages`, and any of
                `max_tokens`, `length`, `stop` and the fields of `Settings` but those of the decoder (`SHARED`).
            number: its place among all; without a seed of its own, its seed is that of the defaults plus this.

        Raises:
            ValueError: an unknown key, or what `LanguageModel.generate`, `infill` and `reply` refuse.
        """
        asked: dict[str, Any] = {"prompt": request} if isinstance(request, str) else dict(request)
        _check_keys(asked)
        asked = {key: value for key, value in asked.items() if value is not None}
        kinds = [kind for kind in KINDS if kind in asked]
        if len(kinds) != 1:
            raise ConfigError(f"expected one of {', '.join(KINDS)}, got {' and '.join(kinds) or 'none'}")
        defaults = {k: v for k, v in self.defaults.items() if k not in ("max_tokens", "stop", "seed")}
        mine = {k: v for k, v in asked.items() if k not in (*KINDS, "max_tokens", "length", "stop", "seed")}
        plan = self._plan(defaults | mine, in_sight="template" in asked)
        seed = seed_of(self.plan.settings.seed, number)
        if "seed" in asked:
            seed = from_mapping(Settings, {"seed": asked["seed"]}, where="").seed
        stops = check_stops(asked["stop"]) if "stop" in asked else self.stops
        max_tokens = asked.get("max_tokens", self.defaults.get("max_tokens"))
        try:
            row = _row(self.front, kinds[0], asked[kinds[0]], max_tokens, asked.get("length"))
        except (OverflowError, MemoryError):
            raise ConfigError(f"max_tokens: no room for {max_tokens}; write fewer") from None
        return Asked(row, replace(plan, settings=replace(plan.settings, seed=seed)), seed, stops)

    def _plan(self, settings: Mapping[str, Any], in_sight: bool = False) -> Plan:
        key = in_sight, tuple(sorted((name, repr(value)) for name, value in settings.items()))
        if key not in self._plans:
            self._plans[key] = self.front.plan(settings, in_sight=in_sight)
        return self._plans[key]


def _check_keys(asked: Mapping[str, Any]) -> None:
    for key in asked:
        if key in SHARED:
            raise ConfigError(f"{key}: one for all texts, since they share a decoder; leave it out here")
        if key not in KEYS:
            valid = closest(str(key), KEYS)
            raise ConfigError(f"unknown key {key!r}; {f'did you mean {valid}?' if valid else ', '.join(KEYS)}")
    if names_file(str(asked.get("sampler", ""))):  # a list of prompts must not run code
        raise ConfigError(f"sampler: got {asked['sampler']!r}, but only the caller may name a file")


def _row(front: Front, kind: str, given: Any, max_tokens: int | None, length: int | None) -> Row:
    if length is not None and kind != "prompt":
        raise ConfigError(f"length: goes with a prompt, not with {kind}")
    if kind == "messages":
        if not isinstance(given, Sequence) or not all(isinstance(message, Mapping) for message in given):
            raise ConfigError(f"messages: expected a list of messages with role and content, got {given!r:.60}")
        return front.conversation(given, min(128, front.context // 2) if max_tokens is None else max_tokens)[0]
    return front.row(given, 64 if max_tokens is None else max_tokens, template=kind == "template", length=length)


class Many:
    """A run of the decoder over texts that are asked for, each joining as soon as another one is done.

    A text is a function of its request and its seed: it depends neither on the others nor on how many are written at a
    time, beyond the rounding of the network's arithmetic. Time and positions of a text are those of the run while it
    was written.
    """

    def __init__(
        self,
        model: "LanguageModel",
        settings: Settings | None = None,
        *,
        constraint: Constraint | None = None,
        guidance: Guidance | Sequence[Guidance] | float = (),
    ):
        """A run that has not begun.

        Args:
            model: writes.
            settings: those of the decoder (`SHARED`) hold for all texts.
            constraint: what every text obeys.
            guidance: as in `LanguageModel.generate`, for every text.
        """
        shared, self.model = settings or Settings(), model
        self.guidance = as_guidance(guidance, whole=model.bundle.config.tokens.start is None)
        decoder = model.decoder(Reuse.chosen(shared.cache, model.layout, shared.refresh), compiled=shared.compile)
        self.writing = Writing(model.front, decoder, constraint=constraint)

    def check(self, asked: Asked) -> None:
        """Refuse, before anything is written, what the decoder cannot write (ValueError)."""
        self.writing.decoder.check(self.writing.request(self._text(0, asked)))

    def write(self, asked: Iterable[Asked], batch: int) -> Iterator[Generation]:
        """Write them.

        Args:
            asked: read as there is room.
            batch: texts written at a time.

        Yields:
            The texts, in the order in which they were asked for.

        Raises:
            ValueError: no room for even one text at a time, or what `check` refuses.
        """
        if batch < 1:
            raise ValueError(f"batch: expected at least 1, got {batch}")
        texts = (self._text(number, one) for number, one in enumerate(asked))
        early, turn = dict[int, Generation](), 0
        for text in self.writing.finished(texts, batch):
            early[text.number] = self.writing.generation(text)
            while turn in early:
                yield early.pop(turn)
                turn += 1

    def _text(self, number: int, asked: Asked) -> Text:
        if self.guidance or self.writing.constraint:
            self.model.check_window(asked.row, "guidance" if self.guidance else "constraint")
        text = self.writing.text(number, asked.row, asked.plan, asked.seed)
        text.guidance, text.stops = self.guidance, asked.stops
        return text


def generate_many(
    model: "LanguageModel",
    requests: Iterable[str | Mapping[str, Any]],
    *,
    batch: int = 8,
    constraint: Constraint | None = None,
    guidance: Guidance | Sequence[Guidance] | float = (),
    **defaults: Any,
) -> Iterator[Generation]:
    """What `LanguageModel.generate_many` does: `Requests` and `Many` in one."""
    known = Requests(model.front, **defaults)
    run = Many(model, known.plan.settings, constraint=constraint, guidance=guidance)

    def asked() -> Iterator[Asked]:
        for number, request in enumerate(requests):
            try:
                one = known.read(request, number)
                run.check(one)
            except ValueError as error:
                raise ValueError(f"requests[{number}]: {error}") from None
            yield one

    return run.write(asked(), batch)

"""What is kept: a response of a model, and what somebody thought of it."""

import json
import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

RESPONSE_KINDS = ("chat", "completion", "fim", "edit", "denoise")
FEEDBACK_KINDS = ("thumb", "rating", "correction", "preference")
BELONGS = {"thumb": "value", "rating": "value", "correction": "correction", "preference": "over"}
MOST_SEED = 2**63 - 1  # of a column
UNSTORABLE = re.compile("[\0\ud800-\udfff]")  # what PostgreSQL or UTF-8 has no place for


@dataclass(frozen=True, kw_only=True)
class Response:
    """A text that a model wrote, with all that is needed to write it again.

    Raises:
        ValueError: a field that makes no sense; the message begins with the field's name.
    """

    id: str
    created: datetime = field(default_factory=lambda: datetime.now(UTC))
    """With a time zone; read back in UTC."""
    kind: str
    """One of `RESPONSE_KINDS`."""
    model: str
    model_version: str
    """Hash of the model's files."""
    seed: int
    settings: Mapping[str, Any] = field(default_factory=dict)
    """JSON values."""
    prompt: Any
    """What was asked, as a JSON value: the messages of a conversation, a text, or a template."""
    completion: str
    tokens: tuple[int, ...] = ()
    """Ids of the completion's tokens."""
    usage: Mapping[str, Any] = field(default_factory=dict)
    """JSON values."""

    def __post_init__(self) -> None:
        """Refuse what could not be stored, or not be understood later."""
        _check_id("id", self.id)
        _check_created(self.created)
        _check_choice("kind", self.kind, RESPONSE_KINDS)
        _check_text("model", self.model)
        _check_text("model_version", self.model_version)
        if not _is_int(self.seed) or not 0 <= self.seed <= MOST_SEED:
            raise ValueError(f"seed: expected an integer from 0 to 2^63 - 1, got {self.seed!r:.80}")
        if not isinstance(self.completion, str):
            raise ValueError(f"completion: expected a text, got {type(self.completion).__name__}")
        if not isinstance(self.tokens, tuple) or not all(map(_is_int, self.tokens)):
            raise ValueError("tokens: expected a tuple of integers")
        for name in ("settings", "usage"):
            if not isinstance(getattr(self, name), Mapping):
                raise ValueError(f"{name}: expected names and values, got {type(getattr(self, name)).__name__}")
        for name in ("settings", "prompt", "usage"):
            _check_json(name, getattr(self, name))


@dataclass(frozen=True, kw_only=True)
class Feedback:
    """What somebody thought of a response.

    Raises:
        ValueError: a field that makes no sense; the message begins with the field's name.
    """

    id: str = field(default_factory=lambda: f"feedback-{uuid.uuid4().hex}")
    """The same id again is the same feedback."""
    created: datetime = field(default_factory=lambda: datetime.now(UTC))
    """With a time zone; read back in UTC."""
    response_id: str
    kind: str
    """One of `FEEDBACK_KINDS`; it says which of the next three is set."""
    value: int | None = None
    """thumb: 1 is up, -1 is down. rating: 1 (bad) to 5 (good)."""
    correction: str | None = None
    """correction: what the completion should have been."""
    over: str | None = None
    """preference: id of the response to which `response_id` is preferred."""
    comment: str = ""
    owner: str | None = None
    """Who says so: the name of a key, not the key."""

    def __post_init__(self) -> None:
        """Refuse what is no feedback of its kind."""
        _check_id("id", self.id)
        _check_created(self.created)
        _check_id("response_id", self.response_id)
        _check_choice("kind", self.kind, FEEDBACK_KINDS)
        _check_text("comment", self.comment)
        if self.owner is not None:
            _check_text("owner", self.owner)
        for name in ("value", "correction", "over"):
            if name != BELONGS[self.kind] and getattr(self, name) is not None:
                raise ValueError(f"{name}: does not belong to a {self.kind}; leave it out")
        if self.kind == "thumb" and not (_is_int(self.value) and self.value in (-1, 1)):
            raise ValueError(f"value: a thumb is 1 (up) or -1 (down), got {self.value!r:.80}")
        if self.kind == "rating" and not (_is_int(self.value) and self.value in range(1, 6)):
            raise ValueError(f"value: a rating is an integer from 1 to 5, got {self.value!r:.80}")
        if self.kind == "correction":
            _check_text("correction", self.correction)
        if self.kind == "preference":
            _check_id("over", self.over)
            if self.over == self.response_id:
                raise ValueError("over: a response cannot be preferred to itself; name another one")

    @property
    def about(self) -> tuple[str, ...]:
        """Ids of the responses that it is about."""
        return (self.response_id,) if self.over is None else (self.response_id, self.over)


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _check_id(name: str, value: object) -> None:
    _check_text(name, value)
    if not value or len(str(value)) > 200:
        raise ValueError(f"{name}: expected 1 to 200 characters, got {len(str(value))}")


def _check_text(name: str, value: object) -> None:
    if not isinstance(value, str):
        raise ValueError(f"{name}: expected a text, got {type(value).__name__}")
    if found := UNSTORABLE.search(value):
        raise ValueError(
            f"{name}: the character U+{ord(found[0]):04X} at {found.start()} cannot be stored; leave it out"
        )


def _check_created(value: object) -> None:
    if not isinstance(value, datetime) or value.tzinfo is None:
        raise ValueError(f"created: expected a time with a time zone, got {value!r:.80}")


def _check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name}: expected {', '.join(choices[:-1])} or {choices[-1]}, got {value!r:.80}")


def _check_json(name: str, value: object) -> None:
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"{name}: expected a value that JSON can hold ({error})") from None

"""Chat templates of the transformers library, which are programs, as ours, which are data.

A template is run on a few conversations, in a sandbox; what it puts around the content of each role is read off. Then
other conversations must come out equal, or the template is refused: one that says something about tools or thoughts
between the turns has no form that is data. A date in it stays the day of the reading.

What is read off is what `text.chat.ChatTemplate.to_dict` gives, and what is told to the program is what the library
tells it (`apply_chat_template`, https://huggingface.co/docs/transformers/chat_templating).
"""

import json
import re
import sys
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any, NoReturn

from sfumato.model.hub.vocabulary import Vocabulary, read_json

Message = dict[str, str]
_SYSTEM, _FIRST, _ANSWER, _SECOND = "qzsystem", "qzfirst", "qzanswer", "qzsecond"  # content that no template has
_SECONDS = 2.0  # for one conversation
_LARGEST = 1000  # number, or length of a text, that is multiplied


class TemplateError(ValueError):
    """A template that is refused; the message is one line."""


def read_template(source: str, names: Mapping[str, str], special: Collection[str], start: str | None) -> dict[str, Any]:
    """A template as data.

    Args:
        source: in Jinja.
        names: bos_token and the like, which it may use.
        special: names of all special tokens.
        start: the one that opens every text of the model; None = nothing does.

    Returns:
        The fields of `ChatTemplate`.

    Raises:
        TemplateError: it cannot be run, or is not what stands around the turns of each role.
    """
    program: _Program | _Uncued = _Program(source, names)
    try:
        found = _turns(program)
    except TemplateError:
        if not _always_cues(program):
            raise
        program = _Uncued(program, special)
        found = _turns(program)
    user, after_answer, before_answer, opening, cue = found
    system, default, always = None, "", False
    try:
        shown = program([_message("system", _SYSTEM), _message("user", _FIRST)])
        before, after = _around(shown, _SYSTEM)
        after, _ = _around(after, _FIRST)
        after = _without_end(after, user[0], "what stands before a user's turn")
    except TemplateError:
        pass  # it has no system's turn, or none of its own
    else:
        first = start if start and opening.startswith(start) and before.startswith(start) else ""
        before, rest = before.removeprefix(first), opening.removeprefix(first)
        if not rest or rest.startswith(before) and rest.endswith(after) and len(rest) >= len(before) + len(after):
            default = rest[len(before) : len(rest) - len(after)] if rest else ""
            system, opening, always = (before, after), first, bool(rest) and not default
        elif before.startswith(rest):  # both begin alike
            system = (before.removeprefix(rest), after)
    chat = {
        "system": system,
        "user": user,
        "assistant": (before_answer, after_answer),
        "cue": cue,
        "default_system": default,
        "always_system": always,
        "opening": opening,
        "strip": False,
    }
    _verify(program, chat)
    if start is not None and not opening.startswith(start):
        raise TemplateError(f"its conversations do not begin with {start!r}, as the model's texts do")
    return _split(chat | {"opening": opening.removeprefix(start or "")}, special)


def chat_of(vocabulary: Vocabulary, start: int | None) -> tuple[dict[str, Any] | None, dict[str, str]]:
    """The chat template of a folder.

    Args:
        vocabulary: of the folder, which may hold chat_template.jinja or chat_template.json.
        start: what opens every text.

    Returns:
        As `BundleConfig.chat` has it, or None; and for `BundleConfig.made`, why there is none where one was refused.
    """
    folder, settings = vocabulary.where, vocabulary.settings
    source: Any = settings.get("chat_template") or read_json(folder / "chat_template.json").get("chat_template")
    if (file := folder / "chat_template.jinja").is_file():
        source = file.read_text(encoding="utf-8", errors="replace")
    if isinstance(source, list):  # several by name
        source = {str(one.get("name")): one.get("template") for one in source if isinstance(one, dict)}.get("default")
    if not isinstance(source, str):
        return None, {}
    added = vocabulary.backend.get_added_tokens_decoder().values()
    special = {token.content for token in added if token.special}
    begin = vocabulary.backend.id_to_token(start) if start is not None else None
    names = {name: _text(settings[name]) for name in settings if name.endswith("_token")}
    try:
        return read_template(source, {name: text for name, text in names.items() if text}, special, begin), {}
    except TemplateError as error:
        return None, {"no_chat": f"its chat template has no form that is data: {error}"}


def _text(token: Any) -> str:
    text = token.get("content") if isinstance(token, Mapping) else token
    return text if isinstance(text, str) else ""


class _Program:
    """A template in the sandbox, told what the library tells it."""

    def __init__(self, source: str, names: Mapping[str, str]):
        try:
            import jinja2
            from jinja2.ext import Extension, loopcontrols
            from jinja2.nodes import CallBlock
            from jinja2.sandbox import ImmutableSandboxedEnvironment
        except ImportError:
            raise TemplateError("needs jinja2, not installed here: pip install 'sfumato[hub]'") from None

        class Generation(Extension):
            """`{% generation %}` marks what training scores, and changes nothing that is written."""

            tags = {"generation"}  # noqa: RUF012

            def parse(self, parser: Any) -> Any:
                line = next(parser.stream).lineno
                body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
                return CallBlock(self.call_method("_kept"), [], [], body).set_lineno(line)

            def _kept(self, caller: Any) -> str:
                return caller()

        def refused(message: str) -> NoReturn:
            raise TemplateError(f"it says: {message}")

        class Sandbox(ImmutableSandboxedEnvironment):
            """Without the arithmetic that takes all memory or never ends."""

            intercepted_binops = frozenset({"*", "**", "%"})

            def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
                if any((len(v) if hasattr(v, "__len__") else abs(v)) > _LARGEST for v in (left, right)):
                    raise TemplateError(f"its numbers or texts are too large for {operator}")
                return super().call_binop(context, operator, left, right)

        environment = Sandbox(trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols])
        known = {"raise_exception": refused, "strftime_now": lambda form: datetime.now().strftime(form)}
        environment.filters["tojson"] = _json
        self._names, self._errors = names, jinja2.TemplateError
        try:
            self._template = environment.from_string(source, known)
        except (jinja2.TemplateError, RecursionError) as error:
            raise TemplateError(f"not a template: {_line(error)}") from None

    def __call__(self, messages: Sequence[Message], *, cue: bool = False) -> str:
        """What it makes of a conversation."""
        told = {"messages": list(messages), "add_generation_prompt": cue, "tools": None, "documents": None}
        try:
            with _limited(_SECONDS):
                return self._template.render(**self._names, **told)
        except TemplateError:
            raise
        except Exception as error:  # whatever a program may do wrong
            raise TemplateError(f"it fails: {_line(error)}") from None


@contextmanager
def _limited(seconds: float) -> Iterator[None]:
    """TemplateError where the Python inside takes more of the processor's time than that."""
    end = time.thread_time() + seconds

    def watch(*_: Any) -> Any:
        if time.thread_time() > end:
            raise TemplateError(f"it takes more than {seconds:g} seconds")
        return watch

    before = sys.gettrace()
    sys.settrace(watch)  # of this thread alone
    try:
        yield
    finally:
        sys.settrace(before)


class _Uncued:
    """A template that asks for an answer even when it is not told to, as LLaDA's does, made to do so only then."""

    def __init__(self, program: "_Renders", special: Collection[str]):
        self._program = program
        asked = [_message("user", _FIRST), _message("assistant", _ANSWER), _message("user", _SECOND)]
        head, rest = _around(program(asked), _FIRST)
        behind, _ = _around(_around(rest, _ANSWER)[1], _SECOND)
        _, tail = _around(program(asked[:2]), _ANSWER)
        # Before the first question and before the second there stand different things, and then what opens a question.
        first, second = _cut(head, special), _cut(behind, special)
        while first and second and first[-1] == second[-1]:
            first, second = first[:-1], second[:-1]
        if not tail.startswith(after := "".join(second)):
            raise TemplateError("what stands after an answer is not the same everywhere")
        self._cue = tail.removeprefix(after)

    def __call__(self, messages: Sequence[Message], *, cue: bool = False) -> str:
        """What it makes of a conversation."""
        text = self._program(messages)
        if not text.endswith(self._cue):
            raise TemplateError("what asks for an answer is not the same everywhere")
        return text if cue else text.removesuffix(self._cue)


_Renders = _Program | _Uncued


def _always_cues(program: "_Renders") -> bool:
    asked = [_message("user", _FIRST)]
    return program(asked) == program(asked, cue=True)


def _json(value: Any, indent: int | None = None, **_: Any) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


def _message(role: str, content: str) -> Message:
    return {"role": role, "content": content}


def _turns(program: _Renders) -> tuple[tuple[str, str], str, str, str, str]:
    """Around a user's turn; after and before an answer; what stands before the first turn; and the cue."""
    asked = [_message("user", _FIRST), _message("assistant", _ANSWER), _message("user", _SECOND)]
    head, rest = _around(program(asked), _FIRST)
    between, rest = _around(rest, _ANSWER)
    behind, after_user = _around(rest, _SECOND)
    _, after_answer = _around(program(asked[:2]), _ANSWER)
    if not between.startswith(after_user):
        raise TemplateError("what stands after a user's turn is not the same everywhere")
    if not behind.startswith(after_answer):
        raise TemplateError("what stands after an answer is not the same everywhere")
    before_user = behind.removeprefix(after_answer)
    opening = _without_end(head, before_user, "what stands before a user's turn")
    written = program(asked)
    if not (cued := program(asked, cue=True)).startswith(written):
        raise TemplateError("asking for an answer changes what stands before it")
    return (before_user, after_user), after_answer, between.removeprefix(after_user), opening, cued[len(written) :]


def _around(text: str, content: str) -> tuple[str, str]:
    """What stands before and behind a content that appears once."""
    parts = text.split(content)
    if len(parts) != 2:
        raise TemplateError(f"a message appears {len(parts) - 1} times in what it makes")
    return parts[0], parts[1]


def _without_end(text: str, end: str, what: str) -> str:
    if not text.endswith(end):
        raise TemplateError(f"{what} is not the same everywhere")
    return text.removesuffix(end)


def _verify(program: _Renders, chat: dict[str, Any]) -> None:
    """Other conversations must come out equal; sets `strip` where space around a content is left out."""
    talk = [_message("user", "What is 2 + 2?"), _message("assistant", "It's **4**."), _message("user", "<b>Why?</b>")]
    longer = [*talk, _message("assistant", "1 + 1\n\nis 2"), _message("user", "{{ ok }} [INST] ünï")]
    spaced = [_message("user", " \n spaced \n"), _message("assistant", "Yes"), _message("user", "\ttoo  ")]
    chat["strip"] = program(spaced, cue=True) != told(chat, spaced)
    probes = [talk[:1], talk, longer, spaced]
    if chat["system"] is not None:
        probes += [
            [_message("system", text), *rest] for text in ("Be kind.", " \nBe brief. ") for rest in (talk, longer)
        ]
    for probe in probes:
        if program(probe, cue=True) != told(chat, probe):
            raise TemplateError(
                f"it is more than what stands around the turns: {len(probe)} messages that begin with "
                f"{probe[0]['content']!r} come out otherwise"
            )


def told(chat: Mapping[str, Any], messages: Sequence[Message]) -> str:
    """A conversation up to and with the cue, as `ChatTemplate.text` has it."""
    if messages[0]["role"] != "system" and (chat["default_system"] or chat["always_system"]):
        messages = [_message("system", chat["default_system"]), *messages]
    text = chat["opening"]
    for message in messages:
        before, after = chat[message["role"]]
        text += before + (message["content"].strip() if chat["strip"] else message["content"]) + after
    return text + chat["cue"]


def _split(chat: dict[str, Any], special: Collection[str]) -> dict[str, Any]:
    """The fields with their strings cut at the names of special tokens."""
    turns = {role: chat[role] for role in ("system", "user", "assistant")}
    found = {
        role: pair and {"before": _cut(pair[0], special), "after": _cut(pair[1], special)}
        for role, pair in turns.items()
    }
    return chat | found | {name: _cut(chat[name], special) for name in ("cue", "opening")}


def _cut(text: str, special: Collection[str]) -> list[str]:
    """A text at the names of special tokens."""
    names = sorted(filter(None, special), key=len, reverse=True)
    pattern = re.compile(f"({'|'.join(map(re.escape, names))})") if names else re.compile(r"(?!)")
    return [part for part in pattern.split(text) if part]

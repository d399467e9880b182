import io
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
from screen import Screen, in_terminal

from sfumato.cli import chat, main
from sfumato.cli.chat import _behind, _lines
from sfumato.cli.conversation import Conversation, command_of
from sfumato.sample.language_model import LanguageModel
from sfumato.sample.trace import Commit, Event

FLAGS = ["--device", "cpu", "--dtype", "float32", "--max-tokens", "8"]


class Ended(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture
def said(
    chat_bundle: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Ended]:
    """What `sfumato chat` answers to lines of standard input, which is no terminal."""

    def run(text: str | bytes, *words: str, model: Path = chat_bundle) -> Ended:
        raw = text if isinstance(text, bytes) else text.encode()
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(raw)))
        code = main(["chat", "--model", str(model), *FLAGS, *words])
        return Ended(code, *capsys.readouterr())

    return run


@pytest.fixture
def conversation(chat_bundle: Path) -> Conversation:
    return Conversation(LanguageModel.load(chat_bundle, "cpu", "float32"), {"steps": 4}, 8, seed=5)


# --- standard input ---------------------------------------------------------------------------------------------------


def test_each_line_is_answered_as_python_answers(said: Callable[..., Ended], conversation: Conversation):
    ended = said("A ball\n\n  \nAnd a\\\nmouse\n", "--steps", "4", "--seed", "5")
    assert (ended.code, ended.err) == (0, "")
    messages = []
    for seed, text in ((5, "A ball"), (6, "And a\nmouse")):
        messages.append({"role": "user", "content": text})
        answer = conversation.model.reply(messages, max_tokens=8, seed=seed, steps=4).completion
        messages.append({"role": "assistant", "content": answer})
    assert ended.out == "".join(message["content"] + "\n" for message in messages[1::2])


def test_json_is_all_that_standard_output_holds(said: Callable[..., Ended]):
    ended = said("A ball\n/set steps=2\nAgain\n", "--json", "--temperature", "0")
    first, second = (json.loads(line) for line in ended.out.splitlines())
    assert (first["seed"], second["seed"], second["settings"]["steps"]) == (0, 1, 2)
    assert first["settings"]["temperature"] == 0 and first["finish_reason"] == "length" and first["dropped"] == 0
    assert ended.err == "steps 2\n"


def test_the_system_turn_comes_first(said: Callable[..., Ended], tmp_path: Path):
    assert said(f"A ball\n/save {tmp_path / 'talk'}\n", "--system", "Be brief.").code == 0
    messages = json.loads((tmp_path / "talk").read_text())["messages"]
    assert messages[0] == {"role": "system", "content": "Be brief."} and len(messages) == 3


def test_commands_change_the_conversation(said: Callable[..., Ended], tmp_path: Path):
    file = tmp_path / "talk.jsonl"
    ended = said(
        f"One\nTwo\n/undo\n/retry\n/save {file}\n/system Be brief.\n/save {file}\n/reset\nThree\n/save {file}\n"
    )
    assert ended.code == 0 and ended.out.count("\n") >= 4
    first, second, third = (json.loads(line)["messages"] for line in file.read_text().splitlines())
    assert [message["role"] for message in first] == ["user", "assistant"] and first[0]["content"] == "One"
    assert second == [{"role": "system", "content": "Be brief."}, *first]
    assert [message["content"] for message in third[:2]] == ["Be brief.", "Three"] and len(third) == 3
    assert ended.err.splitlines()[0] == "taken back: Two"


def test_the_oldest_messages_that_do_not_fit_are_told_of(said: Callable[..., Ended]):
    ended = said("a little mouse with a red ball. " * 3 + "\n" + "The end. " * 12 + "\n")
    assert ended.code == 0 and "the oldest messages no longer fit: 2 left out" in ended.err


def test_quit_ends_and_slashes_can_be_said(said: Callable[..., Ended]):
    assert said("//etc/hosts\n/quit\nnever\n", "--json").out.count("\n") == 1
    assert command_of("//etc") == ("", "/etc") and command_of("/set  a = b ") == ("/set", "a = b")


@pytest.mark.parametrize(
    ("text", "words", "message"),
    [
        ("/unod\n", [], "unknown command /unod; did you mean /undo?"),
        ("/undo\n", [], "nothing was said yet"),
        ("/retry\n", [], "nothing was said yet"),
        ("/save\n", [], "/save: expected the name of a file"),
        ("/set temp=1\n", [], "/set: expected NAME=VALUE, such as temperature=..., got 'temp=1'"),
        ("/set temperature=warm\n", [], "--temperature: expected a number, got 'warm'"),
        ("/set sampler=margn\n", [], "did you mean margin?"),
        ("/set max_tokens=999\n", [], "max_tokens: expected 1 to 94, got 999"),
        ("a ball " * 200, [], "messages too long"),
        ("", ["--sampler", "ode"], "sampler: "),
        ("", ["--max-tokens", "999"], "max_tokens: expected 1 to 94"),
        ("", ["--temprature", "1"], "unknown flag --temprature"),
        (b"abc\xff\n", [], "standard input, line 1: not UTF-8 text"),
    ],
)
def test_a_mistake_is_one_line(text: str, words: list[str], message: str, said: Callable[..., Ended]):
    ended = said(text, *words)
    assert (ended.code, ended.out, ended.err.count("\n")) == (2, "", 1)
    assert ended.err.startswith("sfumato: ") and message in ended.err


def test_a_model_without_a_template_is_refused_at_once(said: Callable[..., Ended], masked_bundle: Path):
    ended = said("Hi\n", model=masked_bundle)
    assert ended.code == 2 and "masked has no chat template" in ended.err


# --- a terminal -------------------------------------------------------------------------------------------------------


def talked(chat_bundle: Path, monkeypatch: pytest.MonkeyPatch, lines: list[str], tmp_path: Path) -> str:
    """What a terminal shows of a conversation; each line is typed when the one before was answered."""
    pty = pytest.importorskip("pty", reason="needs pseudo-terminals, which this system does not have")
    keyboard, typed = pty.openpty()
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setattr("builtins.input", _typing(lines))
    words = ["--model", str(chat_bundle), *FLAGS, "--delay", "0"]
    with open(typed, encoding="utf-8") as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        shown = in_terminal(monkeypatch, lambda out: chat.run(words, out))
    os.close(keyboard)
    return shown


def _typing(lines: list[str]) -> Callable[[str], str]:
    left = iter(lines)

    def read(prompt: str) -> str:
        assert prompt == "> "
        line = next(left, None)
        if line is None:
            raise EOFError
        if line == "^C":
            raise KeyboardInterrupt
        return line

    return read


def test_answers_appear_out_of_haze_without_the_question(
    chat_bundle: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    shown = talked(chat_bundle, monkeypatch, ["little", "^C", "/undo", "/nonsense", "mouse"], tmp_path)
    assert "% open" in shown and shown.count("NFE") >= 4
    screen = Screen(60, 20).feed(shown.replace("\x1b[2K", ""))
    assert sum("TPF" in line for line in screen.lines) == 2 and "░" not in "".join(screen.lines)
    told = capsys.readouterr().err.splitlines()
    assert told[0].startswith("talker: /help lists commands")
    assert told[1:] == ["", "taken back: little", "unknown command /nonsense; did you mean /help?"]
    assert (tmp_path / "state" / "sfumato" / "chat_history").exists()


def test_an_interrupted_answer_is_not_kept(conversation: Conversation, capsys: pytest.CaptureFixture[str]):
    conversation.answer("One")
    talk = chat.Talk(conversation, chat.Options(), None, io.StringIO())
    before = [*conversation.turns]

    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    reply, conversation.model.reply = conversation.model.reply, stop  # type: ignore[method-assign]
    talk.converse(iter(["Two", "/retry"]))
    conversation.model.reply = reply  # type: ignore[method-assign]
    assert conversation.turns == before
    assert capsys.readouterr().err == "stopped; nothing of it is kept\n" * 2


def test_an_event_is_moved_to_the_answer():
    commit = Commit(7, 3, 0.5, 1.0, ())
    event = _behind(Event(0, 1, 1, (commit,), (1, 2, 3), inserted=(5,), drafts=(commit,)), 2)
    assert event.commits[0].position == event.drafts[0].position == 5
    assert (event.inserted, event.tokens) == ((3,), (3,))
    assert _behind(Event(0, 1, 1, ()), 2).tokens is None


def test_a_backslash_joins_lines():
    assert list(_lines(iter(["a\\", "b", "", " c ", "d\\"]))) == ["a\nb", "c", "d"]

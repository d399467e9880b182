import errno
import os
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version

import pytest

from sfumato.cli import COMMANDS, choose, main, result_stream, safely
from sfumato.config import ConfigError


def raising(error: BaseException) -> Callable[[], int]:
    def action() -> int:
        raise error

    return action


def run(*words: str, **options) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "sfumato", *words], capture_output=True, text=True, **options)


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]):
    assert main(["--help"]) == 0
    out = capsys.readouterr().out
    assert all(f"  {name} " in out for name in COMMANDS)


def test_no_command_prints_help_and_fails(capsys: pytest.CaptureFixture[str]):
    assert main([]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and "usage: sfumato COMMAND" in captured.err


def test_version(capsys: pytest.CaptureFixture[str]):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"sfumato {version('sfumato')}\n"


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("genrate", "unknown command genrate; did you mean sfumato generate?"),
        ("Train", "unknown command Train; did you mean sfumato train?"),
        ("--hlep", "unknown flag --hlep; did you mean sfumato --help?"),
        ("xyzzy", f"unknown command xyzzy; one of {', '.join(COMMANDS)}; see sfumato --help"),
    ],
)
def test_an_unknown_command_is_one_line_with_the_closest(word: str, expected: str, capsys: pytest.CaptureFixture[str]):
    assert main([word]) == 2
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", f"sfumato: {expected}\n")


def test_a_command_may_have_commands_of_its_own(capsys: pytest.CaptureFixture[str]):
    inner = {"train": "train one", "check": "check one"}
    assert choose(["train", "a", "--b"], inner, "sfumato tokenizer", "Tokenizers.") == ("train", ["a", "--b"])
    with pytest.raises(ConfigError, match="did you mean sfumato tokenizer train?"):
        choose(["trian"], inner, "sfumato tokenizer", "Tokenizers.")
    with pytest.raises(SystemExit) as stop:
        choose(["--help"], inner, "sfumato tokenizer", "Tokenizers.")
    assert stop.value.code == 0 and "train one" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (ValueError("bad\n  value"), 2, "sfumato: bad value\n"),
        (ConfigError("x: y"), 2, "sfumato: x: y\n"),
        (ValueError(), 2, "sfumato: ValueError\n"),
        (FileNotFoundError(errno.ENOENT, "No such file", "a.txt"), 2, "sfumato: a.txt: No such file\n"),
        (OSError(errno.ENOSPC, "No space left on device"), 2, "sfumato: No space left on device\n"),
        (OSError("odd"), 2, "sfumato: odd\n"),
        (KeyboardInterrupt(), 130, "sfumato: interrupted\n"),
        (SystemExit(3), 3, ""),
        (SystemExit(), 0, ""),
    ],
)
def test_what_goes_wrong_is_one_line_and_a_code(
    error: BaseException, code: int, line: str, capsys: pytest.CaptureFixture[str]
):
    assert safely(raising(error)) == code
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", line)


def test_a_mistake_of_ours_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError):
        safely(raising(ZeroDivisionError()))


def test_the_traceback_can_be_had(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SFUMATO_TRACEBACK", "1")
    with pytest.raises(ValueError, match="bad"):
        safely(raising(ValueError("bad")))


def test_an_action_gives_its_own_code():
    assert safely(lambda: None) == 0
    assert safely(lambda: 5) == 5


def test_with_json_nothing_else_reaches_standard_output(capsys: pytest.CaptureFixture[str]):
    with result_stream(["x", "--json"]) as out:
        print("progress")
        print("{}", file=out)
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("{}\n", "progress\n")


@pytest.mark.parametrize("words", [["x"], ["--", "--json"]])
def test_without_json_output_is_left_alone(words: list[str], capsys: pytest.CaptureFixture[str]):
    with result_stream(words) as out:
        print("a")
        print("b", file=out)
    assert capsys.readouterr().out == "a\nb\n"


def test_a_reader_that_left_is_no_error():
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run([sys.executable, "-m", "sfumato", "--help"], stdout=write, stderr=subprocess.PIPE)
    os.close(write)
    assert (done.returncode, done.stderr) == (141, b"")


def test_text_that_a_terminal_cannot_show_ends_nothing():
    done = run("Größe", env=os.environ | {"PYTHONIOENCODING": "ascii"})
    assert done.returncode == 2 and done.stderr.startswith("sfumato: unknown command Gr\\xf6\\xdfe;")
    assert done.stderr.count("\n") == 1

import io
import os
import threading

import pytest

from sfumato.cli import progress


def test_without_a_terminal_there_is_a_line_now_and_then(monkeypatch: pytest.MonkeyPatch, capsys):
    monkeypatch.setenv("FORCE_COLOR", "1")  # which must not turn a log file into a terminal
    monkeypatch.setattr(progress, "EVERY", 0.0)
    with progress.progress() as bar:
        bar.begin("reading")
        bar.show(7, "7 documents")
        bar.begin("training", 4)
        bar.show(2, "loss 1.5 [x]")
        bar.say("step 2: fine")
    assert capsys.readouterr().err.splitlines() == [
        "reading  7 documents",
        "training 2/4  loss 1.5 [x]  0:00 left",
        "step 2: fine",
    ]


def test_without_a_terminal_it_is_quiet_between(capsys):
    with progress.progress() as bar:
        bar.begin("training", 1000)
        for step in range(1000):
            bar.show(step)
    assert capsys.readouterr().err == ""


def test_a_terminal_shows_a_bar_that_leaves_only_what_was_said(monkeypatch: pytest.MonkeyPatch):
    pty = pytest.importorskip("pty", reason="needs pseudo-terminals, which this system does not have")
    monkeypatch.setenv("TERM", "xterm-256color")
    reader, writer = pty.openpty()
    shown = io.BytesIO()

    def read() -> None:
        while True:
            try:
                shown.write(os.read(reader, 4096))
            except OSError:  # how Linux says that the other side is closed
                return

    listener = threading.Thread(target=read)
    listener.start()
    with open(writer, "w", encoding="utf-8") as stream, monkeypatch.context() as patched:
        patched.setattr("sys.stderr", stream)
        with progress.progress() as bar:
            bar.begin("training", 4)
            bar.show(2, "loss 1.5")
            bar.say("step 2: fine")
    listener.join()
    os.close(reader)
    text = shown.getvalue().decode()
    assert "2/4" in text and "loss 1.5" in text and "step 2: fine" in text
    assert text.endswith("\x1b[2K")  # the bar's own line is wiped


@pytest.mark.parametrize(("seconds", "shown"), [(0.4, "0:00"), (59.7, "1:00"), (3599, "59:59"), (7325, "2:02:05")])
def test_time_is_written_as_a_clock_shows_it(seconds: float, shown: str):
    assert progress.clock(seconds) == shown

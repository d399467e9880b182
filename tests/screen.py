"""A small terminal: what a reader would see after what was written to it."""

import os
import re
import threading
from collections.abc import Callable
from typing import Any, TextIO

import pytest
from rich.cells import cell_len

_TOKEN = re.compile(r"\x1b\[(\?)?([0-9;]*)([A-Za-z])|\r\n|[\r\n]|[^\x1b\r\n]")


class Screen:
    """Understands text, line ends, cursor up, erasing the rest of a line, colours (ignored) and hiding the cursor."""

    def __init__(self, width: int, height: int):
        self.width, self.height = width, height
        self.cells: list[list[str]] = [[]]  # all lines ever, scrolled ones included
        self.row = self.column = 0
        self.cursor_visible = True

    def feed(self, text: str) -> "Screen":
        for token in _TOKEN.finditer(text):
            private, number, command = token.groups()
            if command:
                self._control(private, number, command)
            elif token[0] in ("\n", "\r\n"):
                self.row, self.column = self.row + 1, 0
                self.cells += [[] for _ in range(self.row + 1 - len(self.cells))]
            elif token[0] == "\r":
                self.column = 0
            else:
                self._put(token[0])
        return self

    def _control(self, private: str | None, number: str, command: str) -> None:
        if private:
            assert number == "25", number
            self.cursor_visible = command == "h"
        elif command == "A":
            self.row -= int(number or 1)
            assert self.row >= max(0, len(self.cells) - self.height), "above the top of the screen"
        elif command == "K":
            assert number in ("", "0")
            del self.cells[self.row][self.column :]
        else:
            assert command == "m", command

    def _put(self, character: str) -> None:
        width = cell_len(character)
        line = self.cells[self.row]
        assert self.column + width <= self.width, "beyond the last column"
        if not width:  # an accent or a joiner belongs to the character before it
            line[self.column - 1] += character
            return
        line += [" "] * (self.column + width - len(line))
        line[self.column : self.column + width] = [character, *[""] * (width - 1)]
        self.column += width

    @property
    def lines(self) -> list[str]:
        """Every line, scrolled ones first, without spaces at its end."""
        return ["".join(line).rstrip() for line in self.cells]


def in_terminal(monkeypatch: pytest.MonkeyPatch, action: Callable[[TextIO], Any], **environment: str) -> str:
    """What an action writes to a terminal of 60 by 20."""
    pty = pytest.importorskip("pty", reason="needs pseudo-terminals, which this system does not have")
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"TERM": "xterm-256color", "COLUMNS": "60", "LINES": "20", **environment}.items():
        monkeypatch.setenv(name, value)
    reader, writer = pty.openpty()
    chunks: list[bytes] = []

    def read() -> None:
        while True:
            try:
                chunk = os.read(reader, 4096)
            except OSError:  # how Linux says that the other side is closed
                chunk = b""
            if not chunk:
                return
            chunks.append(chunk)

    listener = threading.Thread(target=read)
    listener.start()
    with open(writer, "w", encoding="utf-8") as out:
        action(out)
    listener.join()
    os.close(reader)
    return b"".join(chunks).decode()

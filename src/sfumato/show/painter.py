"""Repainting a few lines of a terminal without flicker: only what changed is written, in one piece."""

from collections.abc import Sequence

from rich.console import Console
from rich.control import Control
from rich.segment import ControlType
from rich.text import Text


class Painter:
    """A block of lines at the end of a terminal that changes in place.

    No line may be wider than `width`: one column is left free, since a cursor behind the last column stands on it.
    """

    def __init__(self, console: Console):
        """console: an interactive terminal."""
        self.console = console
        self._shown: list[Text] = []
        self._size = console.size

    @property
    def width(self) -> int:
        """The widest line that fits, in cells."""
        return max(2, self.console.width - 1)

    def paint(self, lines: Sequence[Text]) -> None:
        """Show these lines in place of those before."""
        resized, self._size = self.console.size != self._size, self.console.size
        with self.console:  # everything reaches the terminal in one write
            if not self._shown:
                self.console.show_cursor(False)
            self._home()
            for i in range(max(len(lines), len(self._shown))):
                if i:
                    self.console.line()
                old = self._shown[i] if i < len(self._shown) and not resized else None
                new = lines[i] if i < len(lines) else Text()
                if old is None or (old, old.style) != (new, new.style):
                    self.console.print(new, end="", no_wrap=True, overflow="crop", highlight=False)
                    self.console.control(Control((ControlType.ERASE_IN_LINE, 0)))
            if surplus := len(self._shown) - len(lines):
                if surplus > 0:
                    self.console.control(Control((ControlType.CURSOR_UP, surplus)))
        self._shown = list(lines)

    def close(self) -> None:
        """Leave what is shown, and give the cursor back below it."""
        if self._shown:
            with self.console:
                self.console.line()
                self.console.show_cursor(True)
        self._shown = []

    def _home(self) -> None:
        """To the first column of the first line; after a resize the terminal may have broken lines anew."""
        rows = sum(max(1, -(-line.cell_len // self.console.width)) for line in self._shown)
        self.console.control(Control(ControlType.CARRIAGE_RETURN))
        if rows > 1:
            self.console.control(Control((ControlType.CURSOR_UP, rows - 1)))

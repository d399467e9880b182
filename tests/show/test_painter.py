import io
import random

import pytest
from rich.console import Console
from rich.text import Text
from screen import Screen

from sfumato.show.painter import Painter


@pytest.fixture
def console() -> Console:
    environment = {"TERM": "xterm-256color"}  # and nothing that the tests' own environment says about colours
    options = {"force_terminal": True, "no_color": False, "legacy_windows": False, "_environ": environment}
    return Console(file=io.StringIO(), width=20, height=8, color_system="truecolor", **options)


def written(console: Console) -> str:
    """What has reached the terminal since the last call."""
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    console.file.seek(0)
    console.file.truncate()
    return text


def test_the_screen_shows_the_last_block_whatever_came_before(console: Console):
    painter, screen, draw = Painter(console), Screen(20, 8), random.Random(0)
    for _ in range(200):
        lines = ["x" * draw.randrange(20) if draw.random() < 0.7 else "同じ" for _ in range(draw.randrange(1, 8))]
        painter.paint([Text(line) for line in lines])
        screen.feed(written(console))
        assert screen.lines[: len(lines)] == lines and not any(screen.lines[len(lines) :])


def test_a_block_begins_where_the_cursor_was(console: Console):
    screen = Screen(20, 8).feed("$ sfumato\n")
    painter = Painter(console)
    for lines in (["a", "b"], ["c"]):
        painter.paint([Text(line) for line in lines])
    painter.close()
    assert screen.feed(written(console)).lines == ["$ sfumato", "c", "", ""][: len(screen.lines)]


def test_a_line_that_stays_is_not_written_again(console: Console):
    painter = Painter(console)
    painter.paint([Text("stays"), Text("old")])
    written(console)
    painter.paint([Text("stays"), Text("new")])
    assert "stays" not in (again := written(console)) and "new" in again


def test_a_line_whose_colour_changes_is_written_again(console: Console):
    painter = Painter(console)
    painter.paint([Text("word", "red")])
    written(console)
    painter.paint([Text("word", "green")])
    assert "word" in written(console)


def test_everything_reaches_the_terminal_in_one_write(console: Console):
    class Counting(io.StringIO):
        writes = 0

        def write(self, text: str) -> int:
            self.writes += bool(text)
            return super().write(text)

    console.file = stream = Counting()
    Painter(console).paint([Text("a"), Text("b"), Text("c")])
    assert stream.writes == 1


def test_the_cursor_is_hidden_while_painting_and_comes_back(console: Console):
    painter, screen = Painter(console), Screen(20, 8)
    painter.paint([Text("a")])
    assert not screen.feed(written(console)).cursor_visible
    painter.close()
    assert screen.feed(written(console)).cursor_visible
    painter.close()
    assert written(console) == ""


def test_a_block_taller_than_the_screen_scrolls_and_is_kept_whole(console: Console):
    painter = Painter(console)
    painter.paint([Text("short")])
    painter.paint([Text(f"line {i}") for i in range(30)])
    painter.close()
    assert Screen(20, 8).feed(written(console)).lines == [*(f"line {i}" for i in range(30)), ""]

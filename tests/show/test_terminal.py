import io
import random
import time
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from rich.cells import cell_len
from rich.console import Console
from rich.text import Text
from screen import Screen

from sfumato.sample.trace import Commit, Event
from sfumato.show.colour import confidence_colour
from sfumato.show.pieces import HAZE
from sfumato.show.terminal import TerminalView, crop
from sfumato.text.tokenizer import Tokenizer

PROMPT = "Once upon a time"
STORY = " there was a small mouse. It lived in a blue house, and every day it ran to the hill to see the sun." * 3
SCRIPTS = (
    " 从前有一个小女孩，她喜欢在花园里玩 🌻🌷。 Der Fuß größer – naïve café. 한국어 テスト。नमस्ते 👍🏽 The end.\n" * 2
)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train([PROMPT + STORY] * 2, 400)


@pytest.fixture
def console() -> Console:
    return terminal(80, 24)


def terminal(width: int, height: int, **options: Any) -> Console:
    environment = {"TERM": "xterm-256color"}  # and nothing that the tests' own environment says about colours
    options = {"color_system": "truecolor", "no_color": False, "legacy_windows": False, **options}
    return Console(file=io.StringIO(), width=width, height=height, force_terminal=True, _environ=environment, **options)


def row(tokenizer: Tokenizer, text: str, padding: int = 0) -> tuple[list[int], list[int]]:
    return [tokenizer.start_id, *tokenizer.encode(PROMPT)], tokenizer.encode(text) + [tokenizer.end_id] * padding


def begin(view: TerminalView, prompt: Sequence[int], answer: Sequence[int]) -> None:
    view.start([*prompt, *[0] * len(answer)], [False] * len(prompt) + [True] * len(answer))


def written(prompt: Sequence[int], answer: Sequence[int], *, at_once: int = 2, seed: int = 0) -> Iterator[Event]:
    """The answer appears in a random order."""
    draw = random.Random(seed)
    order = list(enumerate(answer, start=len(prompt)))
    draw.shuffle(order)
    for step, i in enumerate(range(0, len(order), at_once), start=1):
        commits = tuple(Commit(place, token, draw.random(), 1.0, ()) for place, token in order[i : i + at_once])
        done = i + at_once >= len(order)
        yield Event(0, step, step, commits, (*prompt, *answer) if done else None)


def style_of(lines: Sequence[Text], word: str) -> str:
    """The style of a word in a frame."""
    for line in lines:
        if (at := line.plain.find(word)) >= 0:
            return " ".join(str(span.style) for span in line.spans if span.start <= at < span.end)
    raise AssertionError(f"{word!r} is not shown")


@pytest.mark.parametrize("text", [STORY, SCRIPTS])
@pytest.mark.parametrize(("width", "height"), [(80, 24), (120, 40), (40, 10), (21, 6), (10, 3)])
def test_a_frame_fits_the_screen_and_half_a_character_is_never_in_it(
    text: str, width: int, height: int, tokenizer: Tokenizer
):
    view = TerminalView(terminal(width, height), tokenizer.token_bytes, tokenizer.end_id)
    prompt, answer = row(tokenizer, text)
    begin(view, prompt, answer)
    for event in written(prompt, answer, at_once=5):
        if event.done:
            break
        view(event)
        lines = view.frame(width - 1, height - 1)
        assert len(lines) <= height - 1
        assert all(cell_len(line.plain) <= width - 1 and "\ufffd" not in line.plain for line in lines)


@pytest.mark.parametrize("text", [STORY, SCRIPTS])
@pytest.mark.parametrize(("width", "height"), [(80, 24), (40, 10), (24, 6)])
def test_what_stays_on_the_screen_is_the_text_once_and_its_figures(
    text: str, width: int, height: int, tokenizer: Tokenizer
):
    console = terminal(width, height)
    prompt, answer = row(tokenizer, text)
    with TerminalView(console, tokenizer.token_bytes, tokenizer.end_id) as view:
        begin(view, prompt, answer)
        for event in written(prompt, answer):
            view(event)
    screen = Screen(width, height).feed("$ sfumato\n" + console.file.getvalue())
    *lines, gap, figures, rest = screen.lines[: screen.row + 1]
    assert lines[0] == "$ sfumato" and "".join("".join(lines[1:]).split()) == "".join((PROMPT + text).split())
    assert gap == "" and figures.startswith(f"{len(answer)} tokens")
    assert screen.cursor_visible and rest == "" and not any(screen.lines[screen.row :])


def test_the_prompt_is_plain_open_positions_are_haze_and_words_have_the_colour_of_their_confidence(
    console: Console, tokenizer: Tokenizer
):
    view = TerminalView(console, tokenizer.token_bytes, tokenizer.end_id)
    prompt, answer = row(tokenizer, " mouse house hill")
    begin(view, prompt, answer)
    assert style_of(view.frame(79, 23), HAZE) == "dim" and style_of(view.frame(79, 23), "Once") == ""
    view(Event(0, 1, 1, (Commit(len(prompt), answer[0], 0.9, 1.0, ()),)))
    view._draw()
    first = tokenizer.decode(answer[:1]).strip()
    assert style_of(view.frame(79, 23), first) == confidence_colour(0.9)
    assert HAZE in view.frame(79, 23)[0].plain


def test_what_was_just_written_is_bright_for_one_frame(console: Console, tokenizer: Tokenizer):
    view = TerminalView(console, tokenizer.token_bytes, tokenizer.end_id, delay=1e-9)
    prompt, answer = row(tokenizer, " mouse house hill")
    begin(view, prompt, answer)
    console.file.truncate(0)
    view(Event(0, 1, 1, (Commit(len(prompt), answer[0], 0.9, 1.0, ()),)))
    assert "\x1b[1;7;" in console.file.getvalue()
    assert "reverse" not in style_of(view.frame(79, 23), tokenizer.decode(answer[:1]).strip())


def test_nothing_is_shown_behind_the_end_of_the_text(console: Console, tokenizer: Tokenizer):
    view = TerminalView(console, tokenizer.token_bytes, tokenizer.end_id)
    prompt, answer = row(tokenizer, " mouse house hill")
    begin(view, prompt, answer)
    last = len(prompt) + len(answer) - 1
    view(Event(0, 1, 1, (Commit(last, answer[-1], 0.9, 1.0, ()),)))
    assert tokenizer.decode(answer[-1:]).strip() in view.frame(79, 23)[0].plain
    view(Event(0, 2, 2, (Commit(len(prompt), tokenizer.end_id, 0.9, 1.0, ()),)))
    frame = view.frame(79, 23)
    assert frame[0].plain == PROMPT and "0% open" in frame[-1].plain


def test_the_figures_count_the_tokens_up_to_and_with_the_end(console: Console, tokenizer: Tokenizer):
    prompt, answer = row(tokenizer, " mouse house hill", padding=9)
    with TerminalView(console, tokenizer.token_bytes, tokenizer.end_id, title="seed 7") as view:
        begin(view, prompt, answer)
        for event in written(prompt, answer, at_once=1):
            view(event)
    kept, steps = len(answer) - 8, len(answer)
    figures = view.frame(79, 23)[-1].plain
    assert figures.startswith(f"seed 7  {kept} tokens  {steps} steps  NFE {steps}  TPF {kept / steps:.1f}  ")


def test_waiting_and_drawing_do_not_count_as_time_of_the_model(console: Console, tokenizer: Tokenizer):
    view = TerminalView(console, tokenizer.token_bytes, tokenizer.end_id, delay=0.1)
    prompt, answer = row(tokenizer, " mouse hill")
    begin(view, prompt, answer)
    began = time.perf_counter()
    for event in written(prompt, answer, at_once=1):
        view(event)
    assert time.perf_counter() - began >= 0.1 * (len(answer) - 1) > 0
    assert view._figures().seconds < 0.1


def test_fast_steps_share_a_frame(console: Console, tokenizer: Tokenizer):
    view = TerminalView(console, tokenizer.token_bytes, tokenizer.end_id)
    prompt, answer = row(tokenizer, STORY)
    begin(view, prompt, answer)
    at = console.file.tell()
    view._drawn = time.perf_counter() + 60  # the last frame is younger than any step
    for event in written(prompt, answer, at_once=9):
        assert console.file.tell() == at
        view(event)
    assert console.file.tell() > at  # the finished text is drawn at once


def test_haze_makes_room_so_that_words_stay_in_place(console: Console, tokenizer: Tokenizer):
    view = TerminalView(console, tokenizer.token_bytes, tokenizer.end_id)
    prompt, answer = row(tokenizer, STORY)
    begin(view, prompt, answer)
    width = sum(map(cell_len, view._visible()))
    for event in list(written(prompt, answer, at_once=1))[: len(answer) // 5]:
        view(event)
        assert abs(sum(map(cell_len, view._visible())) - width) <= 2


def test_a_text_taller_than_the_screen_is_cropped_around_the_first_open_line():
    lines = [Text("done")] * 10 + [Text(HAZE)] * 10
    assert crop(lines, 30) == lines
    assert [line.plain for line in crop(lines, 6)] == ["done"] * 2 + [HAZE] * 4
    assert crop(lines[:10], 4) == lines[:4]
    assert [line.plain for line in crop(lines[9:12], 2)] == ["done", HAZE] or crop(lines[9:12], 2)[0].plain == HAZE


def test_an_interrupted_view_gives_the_cursor_back(console: Console, tokenizer: Tokenizer):
    prompt, answer = row(tokenizer, STORY)
    with pytest.raises(KeyboardInterrupt), TerminalView(console, tokenizer.token_bytes, tokenizer.end_id) as view:
        begin(view, prompt, answer)
        raise KeyboardInterrupt
    screen = Screen(80, 24).feed(console.file.getvalue())
    assert screen.cursor_visible and screen.lines[-1] == ""


def test_several_texts_one_after_the_other_all_stay(console: Console, tokenizer: Tokenizer):
    for text in (" mouse", " house"):
        with TerminalView(console, tokenizer.token_bytes, tokenizer.end_id) as view:
            prompt, answer = row(tokenizer, text)
            begin(view, prompt, answer)
            for event in written(prompt, answer):
                view(event)
    lines = Screen(80, 24).feed(console.file.getvalue()).lines
    assert lines.count(PROMPT + " mouse") == lines.count(PROMPT + " house") == 1


def test_a_terminal_with_few_colours_gets_those_it_has(tokenizer: Tokenizer):
    console = terminal(80, 24, color_system="standard")
    with TerminalView(console, tokenizer.token_bytes, tokenizer.end_id) as view:
        prompt, answer = row(tokenizer, STORY)
        begin(view, prompt, answer)
        for event in written(prompt, answer, at_once=20):
            view(event)
    assert "\x1b[31m" in console.file.getvalue() and "\x1b[36m" in console.file.getvalue()
    assert "38;" not in console.file.getvalue()


def test_without_colour_the_view_is_still_readable(tokenizer: Tokenizer):
    console = terminal(80, 24, no_color=True)
    with TerminalView(console, tokenizer.token_bytes, tokenizer.end_id) as view:
        prompt, answer = row(tokenizer, STORY)
        begin(view, prompt, answer)
        for event in written(prompt, answer, at_once=20):
            view(event)
    assert "38;2" not in console.file.getvalue()
    assert "small mouse" in " ".join(Screen(80, 24).feed(console.file.getvalue()).lines)


def test_a_row_that_grows_makes_room(console: Console, tokenizer: Tokenizer):
    view = TerminalView(console, tokenizer.token_bytes, tokenizer.end_id)
    prompt, (first, second, *_) = row(tokenizer, " mouse house hill")
    view.start(prompt, [False] * len(prompt))
    end = len(prompt)
    view(Event(0, 1, 1, (), None, (end, end + 1)))
    assert HAZE in view.frame(79, 23)[0].plain
    view(Event(0, 2, 2, (Commit(end + 1, second, 0.9, 1.0, ()),), None, (end,)))
    view(Event(0, 3, 3, (Commit(end, first, 0.5, 1.0, ()), Commit(end + 1, first, 0.5, 1.0, ())), None))
    text = tokenizer.decode([*prompt[1:], first, first, second])
    assert "".join(line.plain for line in view.frame(79, 23)[:1]) == text
    view(Event(0, 4, 3, (), (*prompt, first, first, second)))
    assert "3 tokens" in view.frame(79, 23)[-1].plain


def test_guesses_stand_dim_in_place_of_haze_until_they_are_written(console: Console, tokenizer: Tokenizer):
    prompt, answer = row(tokenizer, " there was", padding=2)

    def shown(event: Event, **options: Any) -> Text:
        view = TerminalView(console, tokenizer.token_bytes, tokenizer.end_id, **options)
        begin(view, prompt, answer)
        view(event)
        return view.frame(70, 20)[0]

    drafts = tuple(Commit(len(prompt) + i, token, 0.5, 1.0, ()) for i, token in enumerate(answer))
    event = Event(0, 1, 1, (drafts[0],), drafts=drafts[1:])
    line = shown(event, guesses=True)
    assert line.plain == PROMPT + " there was" and HAZE in shown(event).plain  # no haze behind a guessed end
    dim = "".join(line.plain[span.start : span.end] for span in line.spans if span.style == "dim")
    assert dim and (PROMPT + " there was").endswith(dim)
    assert HAZE in shown(Event(0, 1, 1, (drafts[0],)), guesses=True).plain

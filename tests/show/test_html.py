import json
import re
from pathlib import Path
from typing import Any

import pytest

from sfumato.sample.trace import Commit, Event
from sfumato.show.html import Recording, trace_html
from sfumato.text.tokenizer import Tokenizer

PROMPT = "Once upon a time"
STORY = " there was a naïve 🌻 mouse"


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train([PROMPT + " there was a small mouse."] * 2, 300)


def recorded(tokenizer: Tokenizer, story: str = STORY, prompt: str = PROMPT, title: str = "") -> Recording:
    """The story is written from its end to its beginning, one token a step; its first token is a draft until then."""
    given, answer = [tokenizer.start_id, *tokenizer.encode(prompt)], [*tokenizer.encode(story), tokenizer.end_id]
    recording = Recording(tokenizer.token_bytes, tokenizer.end_id, title)
    places = range(len(given), len(given) + len(answer))
    recording.start([*given, *[tokenizer.mask_id] * len(answer)], [False] * len(given) + [True] * len(answer))
    others = ((answer[0], 0.25), (answer[1], 0.125))
    for step, (place, token) in enumerate(zip(reversed(places), reversed(answer), strict=True), start=1):
        drafts = (Commit(places[0], answer[0], 0.5, 1.0, others),) * (place > places[0])
        done = (*given, *answer) if place == places[0] else None
        recording(Event(0, step, step, (Commit(place, token, 0.75, 0.5, others),), done, drafts=drafts))
    return recording


def data(page: str) -> dict[str, Any]:
    return json.loads(re.findall(r'<script type="application/json" id="trace">(.*?)</script>', page, re.S)[0])


def texts(record: dict[str, Any]) -> list[list[list[Any]]]:
    """All places at every step, put together as the viewer's script does."""
    frames = [record["start"]]
    for step in record["steps"]:
        places = list(frames[-1])
        for column in step["inserted"]:
            places.insert(column, [1, ""])
        for column, *place in step["changes"]:
            places[column] = place
        frames.append(places)
    return frames


def test_the_last_step_is_the_text_and_the_first_one_the_prompt(tokenizer: Tokenizer):
    frames = texts(recorded(tokenizer).record)
    assert "".join(place[1] for place in frames[0]) == PROMPT
    assert "".join(place[1] for place in frames[-1]) == PROMPT + STORY
    assert {place[0] for place in frames[-1]} == {0, 3}


def test_a_word_is_known_with_its_step_and_the_runners_up(tokenizer: Tokenizer):
    record = recorded(tokenizer).record
    first = len(tokenizer.encode(PROMPT)) + 1
    answer = tokenizer.encode(STORY)
    alone = [tokenizer.token_bytes(token).decode("utf-8", "replace") for token in answer[:2]]
    others = [[alone[0], 0.25], [alone[1], 0.125]]
    frames = texts(record)
    assert frames[1][first] == [2, alone[0], 0.5, 1.0, None, others]
    assert frames[-1][first] == [3, alone[0], 0.75, 0.5, len(answer) + 1, others]


def test_what_does_not_change_is_told_once(tokenizer: Tokenizer):
    changes = [len(step["changes"]) for step in recorded(tokenizer, " there was a mouse").record["steps"]]
    assert max(changes[1:]) == 1  # the first step writes the end, and sees the draft


def test_places_that_come_in_move_the_others(tokenizer: Tokenizer):
    a, b = tokenizer.encode("ab") if len(tokenizer.encode("ab")) == 2 else tokenizer.encode("bq")
    recording = Recording(tokenizer.token_bytes, tokenizer.end_id)
    recording.start([tokenizer.start_id, a], [False, False])
    recording(Event(0, 1, 1, (), inserted=(1, 3)))
    recording(Event(0, 2, 2, (Commit(1, b, 0.5, 0.1, ()), Commit(3, b, 0.5, 0.1, ())), (tokenizer.start_id, b, a, b)))
    states = [[place[0] for place in frame] for frame in texts(recording.record)]
    assert states == [[0, 0], [0, 1, 0, 1], [0, 3, 0, 3]]


def test_a_word_that_is_taken_back_is_haze_again(tokenizer: Tokenizer):
    (token,) = tokenizer.encode("a")
    recording = Recording(tokenizer.token_bytes, tokenizer.end_id)
    recording.start([tokenizer.start_id, tokenizer.mask_id], [False, True])
    recording(Event(0, 1, 1, (Commit(1, token, 0.5, 0.1, ()),)))
    recording(Event(0, 2, 2, (), reopened=(1,)))
    recording(Event(0, 3, 3, (), (tokenizer.start_id, token)))
    assert [frame[1][0] for frame in texts(recording.record)] == [1, 3, 1, 3]


def test_nothing_in_a_text_ends_the_script_or_becomes_markup(tokenizer: Tokenizer):
    evil = "</script><script>alert(1)</script><!-- \u2028 {{script}} &lt;"
    page = trace_html([recorded(tokenizer, prompt=evil, title=evil)], title=evil)
    assert page.count("</script>") == 2 and "<script>alert" not in page
    assert page.split('id="trace">')[1].split("</script>")[0].isascii()
    assert data(page)["traces"][0]["title"] == evil


def test_the_page_loads_nothing(tokenizer: Tokenizer):
    page = trace_html([recorded(tokenizer)], title="x")
    assert not re.search(r"https?://|\bsrc=|\bhref=|@import|url\(", page.replace("http-equiv", ""))
    assert "default-src 'none'" in page and "\nimport " not in page


@pytest.mark.browser
def test_in_a_browser_the_steps_can_be_scrubbed(page: Any, tokenizer: Tokenizer, tmp_path: Path):
    path = tmp_path / "trace.html"
    path.write_text(trace_html([recorded(tokenizer), recorded(tokenizer)], title="A <b>trace</b>"), encoding="utf-8")
    page.goto(path.as_uri())
    first = page.locator("section").first
    text, slider = first.get_by_role("listbox"), first.get_by_role("slider")
    assert page.locator("section").count() == 2 and page.locator("h1").inner_text() == "A <b>trace</b>"
    assert text.inner_text() == PROMPT + STORY
    slider.press("Home")
    assert text.inner_text().strip() == PROMPT and first.locator(".masked .ink").count() > len(STORY.split())
    slider.press("ArrowRight")
    assert first.locator(".tokens .draft").count() == 1
    slider.press("End")
    text.locator(".committed").first.hover()
    assert "written in step" in first.locator(".facts").inner_text() and "75 %" in first.locator(".facts").inner_text()
    assert first.locator(".bars li").count() == 3
    text.focus()
    page.keyboard.press("End")
    assert text.get_attribute("aria-activedescendant") == text.get_by_role("option").last.get_attribute("id")

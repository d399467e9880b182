"""The page: its files by themselves, and in a browser against a real server process."""

import re
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import sfumato.serve
import sfumato.show

WEB = Path(sfumato.serve.__path__[0]) / "web"
VIEWER = Path(sfumato.show.__path__[0]) / "viewer"
SCRIPTS = sorted([*WEB.glob("*.js"), *VIEWER.glob("*.js")])
KEY = "sk-page"


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_no_script_makes_markup_of_text_or_asks_anybody_else(path: Path):
    source = path.read_text("utf-8")
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function", source)
    assert re.findall(r"https?://[^\"']+", source) in ([], ["http://www.w3.org/2000/svg"])


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_every_import_leads_to_a_file(path: Path):
    for name in re.findall(r'from "\./([^"]+)"', path.read_text("utf-8")):
        assert (VIEWER / name.removeprefix("viewer/") if name.startswith("viewer/") else path.parent / name).is_file()


def test_the_page_keeps_its_own_policy():
    page = (WEB / "index.html").read_text("utf-8")
    assert not re.search(r"<style|\bstyle=|\bon[a-z]+=|https?://|<script(?![^>]* src=)", page)
    for name in re.findall(r'(?:src|href)="([^"#]+)"', page):
        assert name == "docs" or (VIEWER / name[7:] if name.startswith("viewer/") else WEB / name).is_file()
    for tab, panel in re.findall(r'id="(tab-\w+)" aria-controls="(\w+)"', page):
        assert f'id="{panel}" aria-labelledby="{tab}"' in page


def test_the_page_offers_every_sampler():
    from sfumato.sample.settings import SAMPLERS

    (names,) = re.findall(r"const SAMPLERS = \[(.*?)\]", (WEB / "controls.js").read_text("utf-8"), re.S)
    assert sorted(re.findall(r'"(\w+)"', names)) == sorted(SAMPLERS)


class Served(NamedTuple):
    address: str
    database: Path


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, talk: Path) -> Iterator[Served]:
    """`sfumato serve` with a key and a database."""
    folder = tmp_path_factory.mktemp("served")
    keys, database = folder / "keys", folder / "feedback.db"
    keys.write_text(f"page:{KEY}\n", encoding="utf-8")
    flags = ["--model", f"tiny,tiny-ar,{talk}", "--port", "0", "--threads", "1", "--dtype", "float32", "--grace", "0"]
    flags += ["--api-key-file", str(keys), "--feedback-url", f"sqlite:///{database}"]
    flags += ["--adapt", "--adapt-file", str(folder / "controller.json")]
    command = [sys.executable, "-m", "sfumato", "serve", *flags]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        address = re.search(r"http://\S+", process.stdout.readline())
        assert address, "the server did not start"
        yield Served(address[0], database)
        process.terminate()
        process.communicate(timeout=20)


@pytest.fixture
def opened(page: Any, served: Served) -> Any:
    """The page, whose reader has given the key before."""
    page.add_init_script(f'sessionStorage.setItem("sfumato-key", "{KEY}")')
    page.goto(served.address)
    page.locator("#write textarea").first.wait_for()
    return page


@pytest.mark.browser
def test_a_text_is_written_scrubbed_denoised_anew_and_judged(opened: Any, served: Served, tmp_path: Path):
    panel = opened.locator("#write")
    prompt = "Tom <b>saw</b> a {4} dog."
    panel.get_by_label("Prompt, or a text with holes").fill(prompt + "{*}")
    panel.get_by_text("Settings").click()
    panel.get_by_label("Tokens of an open end").fill("24")
    panel.get_by_label("Steps", exact=True).fill("12")
    panel.get_by_label("Sampler").select_option("margin")
    panel.get_by_role("button", name="Write").click()
    panel.get_by_text("· seed").wait_for()
    text, slider = panel.get_by_role("listbox"), panel.get_by_role("slider")
    written = text.inner_text()
    assert written.startswith("Tom <b>saw</b> a") and text.locator("b").count() == 0
    assert text.locator(".committed").count() >= 20 and text.locator(".masked, .draft").count() == 0

    drafts = 0
    slider.press("Home")
    assert text.locator(".masked").count() == 28 and text.locator(".committed").count() == 0
    while slider.input_value() != slider.get_attribute("max"):
        slider.press("ArrowRight")
        drafts += text.locator(".draft").count()
    assert drafts > 0 and text.inner_text() == written

    text.locator(".committed").nth(10).click()
    text.press("ArrowRight")
    text.press("Space")
    options = text.get_by_role("option")
    kept = [i for i, one in enumerate(options.all()) if one.get_attribute("aria-selected") == "false"]
    assert len(kept) == options.count() - 2
    before = options.all_inner_texts()
    panel.get_by_role("button", name="Re-noise selected").click()
    panel.get_by_role("button", name="Undo").wait_for()
    after = options.all_inner_texts()
    assert text.locator(".committed").count() == 2  # all else is given now
    assert [after[i] for i in kept] == [before[i] for i in kept]

    panel.get_by_role("button", name="Good").click()
    panel.get_by_text("Thank you.").wait_for()
    panel.get_by_role("button", name="Rating 4 of 5").click()
    panel.get_by_text("Rated 4 of 5.").wait_for()
    with sqlite3.connect(served.database) as database:
        stored = database.execute("select kind, value from sfumato_feedback order by created").fetchall()
    assert stored == [("thumb", 1), ("rating", 4)]

    with opened.expect_download() as download:
        panel.get_by_role("button", name="Download as HTML").click()
    download.value.save_as(tmp_path / "trace.html")
    shown = text.inner_text()
    opened.goto((tmp_path / "trace.html").as_uri())
    assert opened.get_by_role("listbox").inner_text() == shown


@pytest.mark.browser
def test_a_conversation_goes_on_from_the_answer_that_is_left(opened: Any):
    opened.get_by_role("tab", name="Chat").click()
    panel = opened.locator("#chat")
    assert panel.get_by_label("Model").locator("option").all_inner_texts() == ["talk"]
    message, send = panel.get_by_label("Message"), panel.get_by_role("button", name="Send", exact=True)
    panel.get_by_text("Settings").click()
    panel.get_by_label("Tokens of an open end").fill("8")
    asked = []
    opened.on("request", lambda request: asked.append(request.post_data_json) if "chat" in request.url else None)
    for question in ("Who are you?", "Why?"):
        message.fill(question)
        message.press("Enter")
        send.wait_for()
    panel.get_by_role("button", name="Regenerate").click()
    panel.get_by_role("button", name="Regenerate").wait_for()
    roles = [[one["role"] for one in body["messages"]] for body in asked[-3:]]
    assert roles == [["user"], ["user", "assistant", "user"], ["user", "assistant", "user"]]
    assert panel.locator(".turn").count() == 4
    panel.get_by_role("button", name="Bad").last.click()
    panel.get_by_text("Thank you.").wait_for()


@pytest.mark.browser
def test_influence_shades_what_made_a_token_likely(opened: Any):
    panel = opened.locator("#write")
    panel.get_by_label("Prompt, or a text with holes").fill("Once upon a time there was a {3}.")
    panel.get_by_text("Settings").click()
    panel.get_by_label("Seed").fill("1")
    panel.get_by_role("button", name="Write").click()
    panel.get_by_text("· seed").wait_for()
    assert panel.get_by_role("button", name="Influence").is_disabled()
    panel.locator(".committed").first.click()
    panel.get_by_role("button", name="Influence").click()
    panel.get_by_text("Each word is hidden in turn").wait_for()
    listed, shaded = panel.locator(".influence li").count(), panel.locator(".tokens .helps, .tokens .hinders").count()
    assert 0 < listed <= shaded and panel.locator(".tokens .helps").count() > 0


@pytest.mark.browser
def test_two_models_race_and_the_dashboard_counts_them(opened: Any):
    opened.get_by_role("tab", name="Write").press("ArrowLeft")
    opened.keyboard.press("ArrowLeft")
    race = opened.locator("#race")
    assert race.is_visible() and opened.locator("#write").is_hidden()
    race.get_by_text("Settings").click()
    race.get_by_label("Tokens of an open end").fill("16")
    race.get_by_role("button", name="Start").click()
    race.get_by_role("button", name="Start").wait_for()
    for lane in race.locator(".lane").all():
        figures = dict(zip(lane.locator("dt").all_inner_texts(), lane.locator("dd").all_inner_texts(), strict=True))
        assert 0 < int(figures["tokens"]) <= 16 and int(figures["NFE"]) > 0 and figures["finished"].endswith("s")
    race.get_by_role("button", name="B", exact=True).click()
    race.get_by_text("You prefer B.").wait_for()
    opened.get_by_role("tab", name="Dashboard").click()
    dashboard = opened.locator("#dashboard")
    dashboard.get_by_role("region", name="Models").get_by_text("tiny-ar").wait_for()
    # The arrow keys passed over this tab: until the next answer it shows what it heard then.
    dashboard.locator("dl div", has_text="preferences").get_by_text("1", exact=True).wait_for()
    assert int(dashboard.locator(".tile", has_text="Requests").locator("strong").inner_text()) >= 2
    adapted = dashboard.get_by_role("region", name="Adapting settings")
    row = adapted.locator("tr", has_text="tiny-ar").filter(has_text="balanced")
    assert len(row.locator("td").all_inner_texts()) == 7 and adapted.locator("tr.best").count() >= 1


@pytest.mark.browser
def test_a_mistake_is_one_line_and_the_text_before_stays(opened: Any):
    opened.get_by_role("tab", name="Infill").click()
    panel = opened.locator("#infill")
    area = panel.get_by_label("Text with holes")
    area.fill("The cat sat on the mat.")
    area.evaluate("area => area.setSelectionRange(8, 11)")
    panel.get_by_label("Tokens of a hole").fill("2")
    panel.get_by_role("button", name="Make hole").click()
    assert area.input_value() == "The cat{2} on the mat."
    panel.get_by_role("button", name="Fill").click()
    panel.get_by_text("· seed").wait_for()
    area.fill("The cat{0} on the mat,{2}.")
    panel.get_by_role("button", name="Fill").click()
    opened.locator("#alert", has_text="{0}").wait_for()
    assert "\n" not in opened.locator("#alert").inner_text() and panel.get_by_role("listbox").is_visible()


@pytest.mark.browser
def test_a_phone_needs_no_sideways_scrolling_and_the_key_is_asked_for(page: Any, served: Served):
    page.set_viewport_size({"width": 360, "height": 640})
    page.goto(served.address)
    page.get_by_role("dialog").get_by_label("API key").fill("wrong")
    page.get_by_role("button", name="Use it").click()
    page.get_by_text("The key was refused.").wait_for()
    page.get_by_role("dialog").get_by_label("API key").fill(KEY)
    page.get_by_role("button", name="Use it").click()
    page.locator("#write textarea").first.wait_for()
    page.get_by_role("button", name="Switch to dark").click()
    page.reload()
    page.get_by_role("button", name="Switch to light").wait_for()
    for name in ("Write", "Chat", "Infill", "Race", "Dashboard"):
        page.get_by_role("tab", name=name).click()
        assert page.locator(f"#{name.lower()}").is_visible()
        assert page.evaluate("document.documentElement.scrollWidth") <= 360

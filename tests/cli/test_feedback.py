"""Looking at feedback."""

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from sfumato.cli import main
from sfumato.store.feedback import FeedbackStore
from sfumato.store.records import Feedback, Response


@pytest.fixture
def url(tmp_path: Path) -> str:
    about = {"kind": "chat", "model": "tiny", "model_version": "0f", "seed": 7, "prompt": "Hi"}
    good, bad = (
        Response(id="a", completion="So\n\x1b[31mgood " * 20, **about),
        Response(id="b", completion="Ü", **about),
    )
    given = [
        Feedback(response_id="a", kind="thumb", value=1, comment="nice", created=datetime(2031, 1, 1, tzinfo=UTC)),
        Feedback(response_id="b", kind="rating", value=2, created=datetime(2031, 1, 2, 12, tzinfo=UTC)),
        Feedback(response_id="a", kind="preference", over="b", created=datetime(2031, 1, 3, tzinfo=UTC)),
    ]
    with FeedbackStore(str(tmp_path / "feedback.db")) as store:
        for feedback in given:
            store.add(feedback, [one for one in (good, bad) if one.id in feedback.about])
    return str(tmp_path / "feedback.db")


def lines(capsys: pytest.CaptureFixture[str], *words: str) -> list[str]:
    assert main(["feedback", *words]) == 0
    return capsys.readouterr().out.splitlines()


def test_list_shows_the_latest_ones_and_steers_no_terminal(url, capsys):
    found = lines(capsys, "list", "--url", url, "--last", "2")
    assert [line.split("  ")[1].strip() for line in found] == ["rating 2", "preference"]
    first = lines(capsys, "list", "--url", url)[0]
    assert first.startswith("2031-01-01 00:00  thumb up") and first.endswith("<- nice") and "\x1b" not in first
    assert len(json.loads(lines(capsys, "list", "--url", url, "--last", "1", "--json")[0])["response"]) == 11


def test_export_writes_all_as_json_lines(url, capsys):
    records = [json.loads(line) for line in lines(capsys, "export", "--url", url)]
    assert [record["feedback"]["kind"] for record in records] == ["thumb", "rating", "preference"]
    assert records[2]["response"]["id"] == "a" and records[2]["over"]["completion"] == "Ü"
    assert records[0]["over"] is None and records[0]["feedback"]["created"] == "2031-01-01T00:00:00+00:00"


def test_export_of_a_part(url, capsys):
    assert len(lines(capsys, "export", "--url", url, "--kinds", "thumb,rating")) == 2
    assert len(lines(capsys, "export", "--url", url, "--since", "2031-01-02")) == 2
    assert len(lines(capsys, "export", "--url", url, "--since", "2031-01-02T12:30+02:00")) == 2
    assert len(lines(capsys, "export", "--url", url, "--since", "2031-01-02T12:30")) == 1


def test_counts_where_the_environment_says(url, capsys, monkeypatch):
    monkeypatch.setenv("SFUMATO_FEEDBACK", f"sqlite:///{url}")
    assert lines(capsys, "counts")[0].split() == ["thumb", "up", "1"]
    counts = json.loads(lines(capsys, "counts", "--json")[0])
    assert counts == {"thumb_up": 1, "thumb_down": 0, "rating": 1, "correction": 0, "preference": 1}


def test_mistakes_are_one_line(url, tmp_path, refused):
    assert "no such file" in refused("feedback", "counts", "--url", tmp_path / "none.db")
    assert "--since" in refused("feedback", "export", "--url", url, "--since", "yesterday")
    assert "'praise'" in refused("feedback", "export", "--url", url, "--kinds", "praise")
    assert "not supported" in refused("feedback", "list", "--url", "mysql://host/db")
    assert "list" in refused("feedback", "lst")

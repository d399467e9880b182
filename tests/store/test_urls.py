"""Where a database is, and who is told."""

from collections.abc import Callable
from pathlib import Path

import pytest

from sfumato.store import urls
from sfumato.store.urls import default_url, parse_url, shown, without_secrets


@pytest.mark.parametrize(
    ("text", "path"),
    [
        *[("feedback.db", "feedback.db"), ("/var/lib/f.db", "/var/lib/f.db"), ("a folder/ü%20.db", "a folder/ü%20.db")],
        *[("sqlite:///f.db", "f.db"), ("sqlite:////var/f.db", "/var/f.db"), ("sqlite+pysqlite:///f.db", "f.db")],
    ],
)
def test_files(text: str, path: str):
    assert parse_url(text).drivername == "sqlite"
    assert parse_url(text).database == shown(parse_url(text)) == path


def test_a_file_at_home(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HOME", "/home/ada")
    monkeypatch.delenv("SFUMATO_FEEDBACK", raising=False)
    assert parse_url("~/f.db") == parse_url("sqlite:///~/f.db") == parse_url("/home/ada/f.db")
    assert default_url() == str(Path("/home/ada/.local/share/sfumato/feedback.db"))
    monkeypatch.setenv("SFUMATO_FEEDBACK", "postgresql://host/db")
    assert default_url() == "postgresql://host/db"


@pytest.mark.parametrize("scheme", ["postgresql", "postgres", "postgresql+psycopg"])
def test_postgresql_whatever_it_is_called(scheme: str):
    url = parse_url(f"{scheme}://ada:s3%40cret@db.example:5433/feed?sslmode=require&sslpassword=hidden")
    assert url.drivername == "postgresql+psycopg" and url.password == "s3@cret" and url.query["sslmode"] == "require"
    assert shown(url) == "postgresql://db.example:5433/feed"
    assert without_secrets("no s3@cret and hidden", url) == "no *** and ***"


@pytest.mark.parametrize(
    "text",
    [
        *["", "mysql://ada:s3cret@host/db", "postgresql+psycopg2://ada:s3cret@host/db", "https://s3cret", "://s3cret"],
        *["sqlite://", "sqlite:///:memory:", ":memory:", "sqlite://file.db", "sqlite:///f.db?mode=ro"],
        *["postgresql://ada:s3cret@host:port/db", "postgresql://ada:s3cret@[::1/db"],
        *["postgresql://ada:a@s3cret@host/db", "postgresql:ada:s3cret@host/db", "postgres:/ada:s3cret@host/db"],
    ],
)
def test_what_is_no_database(text: str, refused: Callable):
    assert refused(ValueError, parse_url, text).startswith("feedback url: ")


def test_a_missing_driver_names_the_extra(monkeypatch: pytest.MonkeyPatch, refused: Callable):
    monkeypatch.setattr(urls, "find_spec", lambda name: None)
    assert "pip install 'sfumato[postgresql]'" in refused(ValueError, parse_url, "postgresql://ada:s3cret@host/db")

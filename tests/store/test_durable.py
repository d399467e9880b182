"""What was acknowledged is kept, whatever happens; what could not be written is refused, and may be tried again."""

import signal
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import text

from sfumato.store.feedback import FeedbackStore
from sfumato.store.records import Feedback, Response

ABOUT = {"kind": "chat", "model": "tiny", "model_version": "0f", "seed": 7, "prompt": "Hi", "completion": "Ho"}
HEAD = f"""
import sys
from sfumato.store.feedback import FeedbackStore
from sfumato.store.records import Feedback, Response

def add(store, n, completion="Ho"):
    response = Response(**{{**{ABOUT!r}, "id": f"r{{n}}", "completion": completion}})
    return store.add(Feedback(id=f"f{{n}}", response_id=f"r{{n}}", kind="thumb", value=1), [response])

"""
ACKNOWLEDGE = """
from itertools import count
store = FeedbackStore(sys.argv[1])
for n in count():
    add(store, n)
    print(f"f{n}", flush=True)
"""
FILL = """
import os, resource, signal
store = FeedbackStore(sys.argv[1])
assert add(store, 0)
room = os.path.getsize(sys.argv[2] + "-wal") + 100_000
resource.setrlimit(resource.RLIMIT_FSIZE, (room, resource.RLIM_INFINITY))
try:
    add(store, 1, "long" * 100_000)
except OSError as error:
    print(error, flush=True)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
assert [feedback.id for feedback, _, _ in store.read()] == ["f0"]
assert add(store, 1, "long" * 100_000)
"""


def thumb(about: str) -> tuple[Feedback, list[Response]]:
    return Feedback(response_id=about, kind="thumb", value=1), [Response(id=about, **ABOUT)]


@pytest.mark.parametrize("lines", [1, 40])
def test_a_kill_loses_nothing_that_was_acknowledged(url: str, lines: int):
    with subprocess.Popen([sys.executable, "-c", HEAD + ACKNOWLEDGE, url], stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        acknowledged = [writer.stdout.readline().strip() for _ in range(lines)]
        writer.send_signal(signal.SIGKILL)
        acknowledged += writer.stdout.read().split("\n")[:-1]
    with FeedbackStore(url) as store:
        found = {feedback.id: response.id for feedback, response, _ in store.read()}
        assert len(acknowledged) >= lines and set(acknowledged) <= set(found)
        assert all(response == feedback.replace("f", "r") for feedback, response in found.items())
        assert store.add(*thumb("later"))


def test_sqlite_waits_for_the_disk_and_keeps_the_file_private(tmp_path: Path):
    path = tmp_path / "deep" / "feedback.db"
    with FeedbackStore(str(path)) as store:
        store.add(*thumb("a"))
        assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE(Path(f"{path}-wal").stat().st_mode) == 0o600
        with store._engine.connect() as connection:
            assert connection.scalar(text("PRAGMA synchronous")) == 2
            assert connection.scalar(text("PRAGMA foreign_keys")) == 1


@pytest.mark.skipif(sys.platform == "win32", reason="limits the size of files as POSIX does")
def test_a_full_disk_is_one_line_and_no_end(tmp_path: Path):
    path = tmp_path / "feedback.db"
    done = subprocess.run([sys.executable, "-c", HEAD + FILL, str(path), str(path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"feedback database {path}: ") and done.stdout.count("\n") == 1


def test_a_crash_of_postgresql_is_one_line_and_no_end(postgres, refused: Callable):
    url = postgres.new_url()
    with FeedbackStore(url) as store:
        store.add(*thumb("a"))
        postgres.stop()
        assert url.partition("@")[2] in refused(OSError, store.add, *thumb("b"))
        refused(OSError, store.counts)
        postgres.start()
        store.add(*thumb("b"))
        assert [response.id for _, response, _ in store.read()] == ["a", "b"]


def test_a_connection_that_was_cut_is_made_anew(postgres):
    with FeedbackStore(postgres.new_url()) as store, FeedbackStore(postgres.new_url()) as other:
        with other._engine.connect() as connection:
            others = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname LIKE 'd%' AND pid <> "
            connection.execute(text(others + "pg_backend_pid()"))
        assert store.add(*thumb("a"))


def test_no_server_and_a_wrong_password_are_one_line(postgres, refused: Callable):
    assert "refused" in refused(OSError, FeedbackStore, "postgresql://keeper:s3cret-word@127.0.0.1:1/postgres")
    assert "password" in refused(OSError, FeedbackStore, postgres.url().replace("s3cret-word", "s3cret-other"))
    assert "none" in refused(OSError, FeedbackStore, postgres.url("none"))


def test_the_password_may_come_from_the_environment(postgres, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PGPASSWORD", "s3cret-word")
    with FeedbackStore(postgres.new_url().replace(":s3cret-word", "")) as store:
        assert store.add(*thumb("a"))


def test_a_file_that_cannot_be_a_database_is_one_line(tmp_path: Path, refused: Callable):
    (tmp_path / "text").write_text("This is no database. " * 100)
    assert "not a database" in refused(OSError, FeedbackStore, str(tmp_path / "text"))
    refused(OSError, FeedbackStore, str(tmp_path))
    refused(OSError, FeedbackStore, str(tmp_path / "text" / "feedback.db"))
    refused(FileNotFoundError, FeedbackStore, str(tmp_path / "other.db"), create=False)
    assert not (tmp_path / "other.db").exists()


def test_a_database_of_a_newer_version_is_refused_and_left_alone(url: str, refused: Callable):
    with FeedbackStore(url) as store, store._engine.begin() as connection:
        connection.execute(text("UPDATE sfumato_schema SET version = 2"))
    assert "schema version 2, but this sfumato knows 1" in refused(ValueError, FeedbackStore, url)
    assert "schema version 2" in refused(ValueError, FeedbackStore, url, create=False)


def test_what_users_wrote_is_in_no_error(store: FeedbackStore, refused: Callable):
    with store._engine.begin() as connection:
        connection.execute(text("DROP TABLE sfumato_feedback"))
    feedback, responses = thumb("a")
    line = refused(OSError, store.add, feedback, [Response(**{**vars(responses[0]), "prompt": "my s3cret wish"})])
    assert "sfumato_feedback" in line

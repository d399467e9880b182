"""The two kinds of databases that feedback is kept in; PostgreSQL is a real server that runs for the session."""

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import psycopg
import pytest

from sfumato.store.feedback import FeedbackStore


@dataclass(frozen=True)
class Postgres:
    """A private PostgreSQL server."""

    programs: Path
    folder: Path
    port: int
    user: str | None  # who runs it; None = this user

    def run(self, program: str, *words: object) -> None:
        command = [str(self.programs / program), *map(str, words)]
        done = subprocess.run(command, user=self.user, cwd="/", capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, (command, done.stderr)

    def start(self) -> None:  # without fsync: here processes die, not machines
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories= -c fsync=off"
        self.run("pg_ctl", "start", "-w", "-D", self.folder, "-l", self.folder / "log", "-o", options)

    def stop(self) -> None:
        self.run("pg_ctl", "stop", "-w", "-m", "immediate", "-D", self.folder)

    def url(self, database: str = "postgres") -> str:
        return f"postgresql://keeper:s3cret-word@127.0.0.1:{self.port}/{database}"

    def new_url(self) -> str:
        """A database of its own."""
        name = f"d{uuid4().hex}"
        with psycopg.connect(self.url(), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")
        return self.url(name)


def _programs() -> Path | None:
    """A folder with complete programs of PostgreSQL."""
    folders = [*sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)]
    folders += [Path(found).parent for found in [shutil.which("initdb")] if found]
    needed = ("initdb", "pg_ctl", "postgres")
    return next((folder for folder in folders if all((folder / name).exists() for name in needed)), None)


def _someone() -> str | None:
    """Who may run a server where this user is root, whom it refuses."""
    names = {entry.pw_name for entry in pwd.getpwall()}
    return next((name for name in ("postgres", "nobody") if name in names), None)


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    programs, user = _programs(), _someone() if os.geteuid() == 0 else None
    if programs is None:
        pytest.skip("PostgreSQL is not installed: no initdb, pg_ctl and postgres")
    if os.geteuid() == 0 and user is None:
        pytest.skip("PostgreSQL refuses to run as root, and there is no user postgres or nobody")
    # not below pytest's folder, which each new session on the machine closes to all users but its own
    with tempfile.TemporaryDirectory(prefix="sfumato-postgres-") as folder:
        if user is not None:
            shutil.chown(folder, user)
        server = Postgres(programs, Path(folder) / "data", _free_port(), user)
        password = Path(folder) / "password"
        password.write_text("s3cret-word")
        quick = ("--no-sync", "--no-locale", "--encoding=UTF8", "--auth=scram-sha-256")
        server.run("initdb", "-D", server.folder, "-U", "keeper", f"--pwfile={password}", *quick)
        server.start()
        yield server
        server.stop()


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty database."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/some/folder/feedback.db"
    return request.getfixturevalue("postgres").new_url()


@pytest.fixture
def store(url: str) -> Iterator[FeedbackStore]:
    with FeedbackStore(url) as store:
        yield store


@pytest.fixture
def refused() -> Callable[..., str]:
    """Call what must refuse; returns the one line."""

    def call(kind: type[Exception], function: Callable, /, *args, **others) -> str:
        with pytest.raises(kind) as caught:
            function(*args, **others)
        line = str(caught.value)
        assert line and "\n" not in line and "s3cret" not in line
        return line

    return call

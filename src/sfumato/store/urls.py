"""Where a database is: from what the user gives to what the driver takes, without telling anybody the password."""

import os
import re
from importlib.util import find_spec
from pathlib import Path

from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

NO_FILE = re.compile("(sqlite|postgres(ql)?)([+][a-z0-9]+)?:")  # a URL without its two slashes
EXPECTED = "expected a file, sqlite:///FILE or postgresql://USER@HOST/DATABASE"
_DRIVERS = {
    "sqlite": "sqlite",
    "sqlite+pysqlite": "sqlite",
    "postgresql": "postgresql+psycopg",
    "postgres": "postgresql+psycopg",
    "postgresql+psycopg": "postgresql+psycopg",
}


def default_url() -> str:
    """Where feedback is kept unless something else is said: `$SFUMATO_FEEDBACK`, or a file of this user's."""
    return os.environ.get("SFUMATO_FEEDBACK") or str(default_file("feedback.db"))


def default_file(name: str) -> Path:
    """A file of this user's, among those that a server keeps."""
    return Path("~/.local/share/sfumato").expanduser() / name


def parse_url(text: str) -> URL:
    """The address of a database.

    Args:
        text: a file, or the URL of an SQLite or PostgreSQL database.

    Raises:
        ValueError: neither, or the driver is not installed. The message does not repeat a URL.
    """
    if not text:
        raise ValueError(f"feedback url: {EXPECTED}, got nothing")
    if "://" not in text:
        if NO_FILE.match(text):  # as a file its name would show the password
            raise ValueError(f"feedback url: two slashes are missing after the colon; {EXPECTED}")
        return _sqlite(URL.create("sqlite", database=text))
    try:
        url = make_url(text)
    except (ArgumentError, ValueError):  # the port is no number
        raise ValueError(f"feedback url: cannot be read; {EXPECTED}") from None
    if url.drivername not in _DRIVERS:
        raise ValueError(f"feedback url: {url.drivername}:// is not supported; {EXPECTED}")
    url = url.set(drivername=_DRIVERS[url.drivername])
    if url.drivername == "sqlite":
        return _sqlite(url)
    if "@" in (url.host or ""):  # the rest of a password, which messages would show
        raise ValueError("feedback url: an @ in a user or password is written %40")
    if find_spec("psycopg") is None:
        raise ValueError("feedback url: PostgreSQL needs a driver; pip install 'sfumato[postgresql]'")
    return url


def _sqlite(url: URL) -> URL:
    if url.host or url.query:
        raise ValueError("feedback url: expected sqlite:///FILE (three slashes, four before a path from the root)")
    if url.database in (None, "", ":memory:"):
        raise ValueError("feedback url: a database in memory forgets; give a file: sqlite:///FILE")
    return url.set(database=str(Path(url.database).expanduser()))


def shown(url: URL) -> str:
    """The address as messages may show it: without user, password and parameters."""
    if url.drivername == "sqlite":
        return str(url.database)
    port = f":{url.port}" if url.port else ""
    return f"postgresql://{url.host or ''}{port}/{url.database or ''}"


def without_secrets(text: str, url: URL) -> str:
    """The text, should a driver have put a password into it."""
    hidden = [url.password, *(value for name, value in url.query.items() if "password" in name)]
    for secret in filter(None, map(str, filter(None, hidden))):
        text = text.replace(secret, "***")
    return text

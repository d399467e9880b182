"""The tables of the feedback database, and the version of their schema."""

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Column,
    Connection,
    DateTime,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    inspect,
    select,
    text,
)
from sqlalchemy.engine import Dialect
from sqlalchemy.types import TypeDecorator

VERSION = 1
LOCK = 0x5F0A70  # any number, the same in every process


class Moment(TypeDecorator):
    """A time with a time zone; what comes back is in UTC."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """SQLite keeps no time zone."""
        return value and value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """PostgreSQL answers in the zone of the session."""
        return value and (value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC))


_metadata = MetaData()
SCHEMA = Table("sfumato_schema", _metadata, Column("version", Integer, primary_key=True))
RESPONSES = Table(
    "sfumato_response",
    _metadata,
    Column("id", String(200), primary_key=True),
    Column("created", Moment, nullable=False),
    Column("kind", String(20), nullable=False),
    Column("model", Text, nullable=False),
    Column("model_version", Text, nullable=False),
    Column("seed", BigInteger, nullable=False),
    Column("settings", JSON, nullable=False),
    Column("prompt", JSON, nullable=False),
    Column("completion", JSON, nullable=False),  # a model may write characters that a text column refuses
    Column("tokens", JSON, nullable=False),
    Column("usage", JSON, nullable=False),
)
FEEDBACK = Table(
    "sfumato_feedback",
    _metadata,
    Column("id", String(200), primary_key=True),
    Column("created", Moment, nullable=False),
    Column("response_id", ForeignKey(RESPONSES.c.id), nullable=False),
    Column("kind", String(20), nullable=False),
    Column("value", Integer),
    Column("correction", Text),
    Column("over", ForeignKey(RESPONSES.c.id)),
    Column("comment", Text, nullable=False),
    Column("owner", Text),
    Index("sfumato_feedback_by_time", "created", "id"),
)


def prepare(connection: Connection) -> None:
    """Make the tables where there are none. Runs in a transaction that the caller ends.

    Raises:
        ValueError: the tables are those of a newer version of this package.
    """
    if not inspect(connection).has_table(SCHEMA.name):
        _create(connection)
    version: Any = connection.scalar(select(SCHEMA.c.version))
    if version != VERSION:
        raise ValueError(f"schema version {version}, but this sfumato knows {VERSION}; upgrade sfumato")


def _create(connection: Connection) -> None:
    """One process makes them; others that try at the same time wait for it."""
    if connection.dialect.name == "postgresql":
        connection.execute(text(f"SELECT pg_advisory_xact_lock({LOCK})"))
    else:
        connection.execute(text("BEGIN IMMEDIATE"))
    _metadata.create_all(connection)
    if connection.scalar(select(SCHEMA.c.version)) is None:
        connection.execute(SCHEMA.insert().values(version=VERSION))

"""The feedback database: SQLite in a file, or PostgreSQL.

What was acknowledged is on disk: `add` returns after a transaction that holds the feedback and the responses it is
about was committed and synced (SQLite: `synchronous = FULL`; PostgreSQL: unless its operator switched
`synchronous_commit` off).
"""

import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from sqlalchemy import Connection, Row, Select, and_, case, create_engine, event, func, or_, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError, IntegrityError, SQLAlchemyError

from sfumato.store.records import FEEDBACK_KINDS, Feedback, Response
from sfumato.store.tables import FEEDBACK, RESPONSES, prepare
from sfumato.store.urls import parse_url, shown, without_secrets

WAIT = 10  # seconds, for a connection or for a lock
PAGE = 256  # records that are read at once

Record = tuple[Feedback, Response, Response | None]


class FeedbackStore:
    """The feedback of users, and the responses it is about. May be used from several threads and processes.

    After an OSError (no connection, no space) it can be used again as soon as the cause is gone.
    """

    def __init__(self, url: str, *, create: bool = True):
        """Open the database.

        Args:
            url: a file, `sqlite:///FILE` or `postgresql://USER:PASSWORD@HOST/DATABASE`.
            create: make the file, and the folder that it is in, where there is none.

        Raises:
            ValueError: no such kind of database, no driver for it, or a database of a newer version of this package.
            OSError: it cannot be opened; FileNotFoundError: there is none, and `create` is off.
        """
        self._url = parse_url(url)
        if self._url.drivername == "sqlite":
            _make_file(Path(str(self._url.database)), create)
        self._engine = create_engine(
            self._url,
            connect_args=_connect_args(self._url),
            pool_pre_ping=True,
            pool_timeout=WAIT,
            hide_parameters=True,  # errors must not tell what users wrote
        )
        if self._url.drivername == "sqlite":
            event.listen(self._engine, "connect", _durable)
        self._insert: Any = {"sqlite": sqlite.insert, "postgresql": postgresql.insert}[self._engine.dialect.name]
        try:
            with self._transaction() as connection:
                try:
                    prepare(connection)
                except ValueError as error:
                    raise ValueError(f"feedback database {shown(self._url)}: {error}") from None
        except BaseException:
            self.close()
            raise

    def add(self, feedback: Feedback, responses: Sequence[Response] = ()) -> bool:
        """Write feedback and the responses it is about, durably, all or nothing.

        Args:
            feedback: what to keep.
            responses: those that it is about; one that is stored already stays as it is and may be left out.

        Returns:
            Whether it is new; False for an id that is stored already, which then stays as it is.

        Raises:
            ValueError: a response that it is about is missing, or one is given that it is not about.
            OSError: it could not be written; nothing was acknowledged, and it may be tried again.
        """
        for response in responses:
            if response.id not in feedback.about:
                raise ValueError(f"responses: {response.id} is not one that the feedback is about")
        try:
            with self._transaction() as connection:
                for response in sorted(responses, key=lambda one: one.id):  # one order, so that writers do not deadlock
                    connection.execute(self._new(RESPONSES, response))
                done = connection.execute(self._new(FEEDBACK, feedback), execution_options={"preserve_rowcount": True})
                return done.rowcount == 1
        except IntegrityError:
            raise ValueError(f"responses: {' or '.join(feedback.about)} is not stored yet; give it") from None

    def read(self, since: datetime | None = None, kinds: Collection[str] | None = None) -> Iterator[Record]:
        """All feedback, oldest first, read page by page, so that no lock is held while the caller works.

        Args:
            since: nothing older than this; with a time zone.
            kinds: only these of `FEEDBACK_KINDS`; None = all.

        Yields:
            The feedback, the response it is about, and, for a preference, the response that was liked less.

        Raises:
            ValueError: a kind that does not exist, or a time without a zone.
            OSError: the database cannot be read.
        """
        if since is not None and since.tzinfo is None:
            raise ValueError(f"since: expected a time with a time zone, got {since.isoformat()}")
        for kind in kinds or ():
            if kind not in FEEDBACK_KINDS:
                raise ValueError(f"kinds: expected some of {', '.join(FEEDBACK_KINDS)}, got {kind!r:.80}")
        return self._read(since, kinds)

    def _read(self, since: datetime | None, kinds: Collection[str] | None) -> Iterator[Record]:
        created, key = FEEDBACK.c.created, FEEDBACK.c.id
        query = _RECORDS.order_by(created, key).limit(PAGE)
        if kinds is not None:
            query = query.where(FEEDBACK.c.kind.in_(kinds))
        page = query if since is None else query.where(created >= since)
        while True:
            with self._transaction() as connection:
                records = [_record(row) for row in connection.execute(page)]
            yield from records
            if len(records) < PAGE:
                return
            last = records[-1][0]
            page = query.where(or_(created > last.created, and_(created == last.created, key > last.id)))

    def counts(self) -> dict[str, int]:
        """How much feedback there is: thumb_up, thumb_down, rating, correction, preference.

        Raises:
            OSError: the database cannot be read.
        """
        thumb = case((FEEDBACK.c.value > 0, "thumb_up"), else_="thumb_down")
        name = case((FEEDBACK.c.kind == "thumb", thumb), else_=FEEDBACK.c.kind)
        with self._transaction() as connection:
            found = {row[0]: row[1] for row in connection.execute(select(name, func.count()).group_by(name))}
        return {name: found.get(name, 0) for name in ("thumb_up", "thumb_down", *FEEDBACK_KINDS[1:])}

    def close(self) -> None:
        """Let the connections go."""
        self._engine.dispose()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _new(self, table: Any, record: Response | Feedback) -> Any:
        values = {column.name: getattr(record, column.name) for column in table.c}
        values = {name: dict(value) if isinstance(value, Mapping) else value for name, value in values.items()}
        return self._insert(table).values(values).on_conflict_do_nothing(index_elements=["id"])

    @contextmanager
    def _transaction(self) -> Iterator[Connection]:
        """A transaction, whose database errors become one line."""
        try:
            with self._engine.begin() as connection:
                yield connection
        except IntegrityError:
            raise
        except SQLAlchemyError as error:  # its text holds the statement; that of the driver is what a reader needs
            cause = error.orig if isinstance(error, DBAPIError) else error
            reason = (str(cause).strip().splitlines() or [type(cause).__name__])[0]
            raise OSError(f"feedback database {shown(self._url)}: {without_secrets(reason, self._url)}") from None


_PREFERRED, _OTHER = RESPONSES.alias("preferred"), RESPONSES.alias("other")
_RECORDS: Select[Any] = select(FEEDBACK, _PREFERRED, _OTHER).select_from(
    FEEDBACK.join(_PREFERRED, FEEDBACK.c.response_id == _PREFERRED.c.id).outerjoin(
        _OTHER, FEEDBACK.c.over == _OTHER.c.id
    )
)


def _record(row: Row[Any]) -> Record:
    """A row of `_RECORDS` as records."""
    split, width = len(fields(Feedback)), len(fields(Response))
    first, second = row[split : split + width], row[split + width :]
    names = [column.name for column in FEEDBACK.c]
    feedback = Feedback(**dict(zip(names, row[:split], strict=True)))
    return feedback, _response(first), None if second[0] is None else _response(second)


def _response(values: Sequence[Any]) -> Response:
    found: dict[str, Any] = dict(zip((column.name for column in RESPONSES.c), values, strict=True))
    return Response(**found | {"tokens": tuple(found["tokens"])})


def _make_file(path: Path, create: bool) -> None:
    """The file, if need be, readable by its owner only: it holds what users wrote."""
    if not create:
        if not path.is_file():
            raise FileNotFoundError(f"feedback database {path}: no such file; has a server stored feedback there?")
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))


def _connect_args(url: URL) -> dict[str, Any]:
    """No waiting without an end. What the URL says goes first."""
    if url.drivername == "sqlite":
        return {"timeout": WAIT}
    limits = {"connect_timeout": WAIT, "tcp_user_timeout": WAIT * 1000}
    return {name: value for name, value in limits.items() if name not in url.query}


def _durable(connection: Any, _: object) -> None:
    """What SQLite does not do by itself."""
    for pragma in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON"):
        connection.execute(f"PRAGMA {pragma}").close()

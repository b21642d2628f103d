"""What do errors of database drivers mean? Exceptions of this package, and repetitions after a deadlock."""

import asyncio
import contextlib
import random
import re
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import NoReturn, TypeVar, cast

from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from ..core.exceptions import ImproperlyConfigured, IntegrityError, StarletteAuthError, Unavailable
from ..core.text import one_line
from .error_codes import (
    DEADLOCK_CODES,
    DEADLOCK_STATES,
    LOST_MESSAGES,
    LOST_WORDS,
    MYSQL_BUSY,
    MYSQL_LOST,
    MYSQL_READ_ONLY,
    POSTGRESQL_BUSY,
    POSTGRESQL_LOST,
    SQLITE_BUSY,
    SQLITE_LOST,
)

R = TypeVar("R")
E = TypeVar("E", bound=BaseException)
MAX_REPETITIONS = 20
MAX_SECONDS = 10.0  # after which no transaction is repeated

ABORTED = (
    "An earlier statement of this transaction has failed or was cancelled, and the error was caught inside atomic(). Its "
    "later statements are not run, and nothing of it is committed. Put the statement that may fail into its own `async with "
    "auth.gateway.atomic():`, which is a savepoint, and catch the error outside of that block."
)
OTHER_LOOP = (
    "A connection in the pool of the database belongs to another event loop. In tests, and where several event loops run, "
    "use create_async_engine(url, poolclass=NullPool), or `await engine.dispose()` before an event loop ends."
)
NO_CACHE = (
    "PgBouncer with pool_mode=transaction gives each transaction another connection of the server. Pass "
    'statement_cache_size=0 to Database, connect_args={"statement_cache_size": 0} to an engine with asyncpg, or '
    '{"prepare_threshold": None} with psycopg.'
)
WRONG_NAME = "Create the database first, or correct its name in the URL."
WRONG_USER = "Check the user and the password in the URL, and what the server allows this user."
#: What to do about an error of a server, by SQLSTATE of PostgreSQL and by error number of MySQL.
FIXES: dict[object, str] = {
    **dict.fromkeys(("3D000", 1049), WRONG_NAME),
    **dict.fromkeys(("28000", "28P01", "42501", 1044, 1045, 1698), WRONG_USER),
}
#: Parts of messages of PostgreSQL at the opening of a connection, for which psycopg has no SQLSTATE.
MESSAGE_FIXES = {
    re.compile(r'database "[^"]*" does not exist'): WRONG_NAME,
    re.compile(r'authentication failed for user|role "[^"]*" does not exist|no pg_hba.conf entry'): WRONG_USER,
}


class Deadlock(Unavailable):
    """The database aborted the transaction because of a conflict. It may succeed if it is repeated."""


class Failure:
    """Whether a statement of one transaction has failed, so that its later statements and its commit must fail."""

    def __init__(self) -> None:
        self._is_lost = False  # the database has rolled the transaction back, or its connection is closed
        self._is_over: Callable[[], bool] | None = None  # None: no statement has failed

    def note(self, is_over: Callable[[], bool]) -> None:
        """Notes a failed statement. `is_over` tells whether the application has ended its own transaction around it."""
        self._is_over = is_over

    def note_lost(self) -> None:
        self._is_lost = True

    def forgive(self) -> None:
        """Forgets a failed statement, because what is left of its transaction or savepoint is rolled back."""
        self._is_over = None

    def require_none(self) -> None:
        """Raises ImproperlyConfigured if an earlier statement of the transaction or savepoint has failed.

        Raises Unavailable if the database has rolled the transaction back.
        """
        if self._is_lost:
            raise Unavailable(
                "The database has rolled back this transaction after an error in it. Let that error leave atomic(), or "
                "roll the session back."
            )
        if self._is_over is None:
            return
        if not self._is_over():
            raise ImproperlyConfigured(ABORTED)
        self._is_over = None


@contextlib.contextmanager
def translate_errors() -> Iterator[None]:
    try:
        yield
    except Exception as error:
        translate(error)


def translate(error: Exception) -> NoReturn:
    """Raises the exception of this package that stands for a driver error, or the error itself."""
    error = driver_error(error)
    if isinstance(error, StarletteAuthError):
        raise error
    if is_integrity_error(error):
        # Only the first line: PostgreSQL's next lines contain the whole row, including password hashes.
        raise IntegrityError((str(error).splitlines() or [""])[0]) from None
    if _sqlstate(error) == "25P02":
        raise ImproperlyConfigured(ABORTED) from error
    if type(error) is RuntimeError and "attached to a different loop" in str(error):
        raise ImproperlyConfigured(OTHER_LOOP) from error
    if is_missing_schema(error):
        raise ImproperlyConfigured(
            f"A schema is missing ({one_line(error)}). Create it: on PostgreSQL and MySQL with CREATE SCHEMA, on SQLite with "
            "ATTACH DATABASE on each connection."
        ) from error
    if is_missing_table(error):
        raise ImproperlyConfigured(
            f"A table is missing ({error}). Run `starlette-auth --app module:auth migrate`, "
            "or pass lifespan=lifespan(auth, create_tables=True) to your app."
        ) from error
    if is_lost_statement(error):
        raise ImproperlyConfigured(f"{str(error).splitlines()[0]}. {NO_CACHE}") from error
    if is_deadlock(error):
        raise Deadlock(
            f"The database rolled a transaction back: {one_line(error)}. Run it again, or change the same rows less often."
        ) from error
    if is_unavailable(error):
        raise Unavailable(
            f"The database cannot serve at the moment: {one_line(error)}. Check that it is running, and that it is not "
            "locked, full, read-only or out of connections."
        ) from error
    raise error


def driver_error(error: E) -> E:
    """Returns the error of the driver that an exception of SQLAlchemy wraps, or the error itself."""
    if not isinstance(error, DBAPIError) or error.orig is None:
        return error
    # For asyncpg, `orig` is an exception of SQLAlchemy's adapter, which was raised from that of asyncpg.
    return cast(E, error.orig.__cause__ or error.orig)


def connection_error(error: Exception) -> StarletteAuthError:
    """Returns the exception for an error at the opening of a connection."""
    if isinstance(error, PoolTimeout):
        return Unavailable(
            f"All connections of the engine are in use: {one_line(error)}. Give it a larger pool, or hold connections for "
            "a shorter time."
        )
    error = driver_error(error)
    codes = (getattr(error, "sqlstate", None), *error.args[:1])
    fix = next((FIXES[code] for code in codes if isinstance(code, str | int) and code in FIXES), None)
    if fix is None and type(error).__module__.startswith("psycopg"):
        fix = next((fix for pattern, fix in MESSAGE_FIXES.items() if pattern.search(str(error))), None)
    if fix is not None:
        return ImproperlyConfigured(f"The database cannot be opened: {one_line(error)}. {fix}")
    return Unavailable(
        f"The database cannot be reached: {one_line(error)}. Check that it is running, and the host and the port in the URL."
    )


def is_missing_table(error: Exception) -> bool:
    """Returns whether a table is missing: SQLSTATE 42P01, MySQL error 1146, or the message of SQLite."""
    codes = (getattr(error, "sqlstate", None), *error.args[:1])
    return "42P01" in codes or 1146 in codes or str(error).startswith("no such table")


def is_missing_schema(error: Exception) -> bool:
    """Returns whether a schema is missing: SQLSTATE 3F000, MySQL error 1049, or the message of SQLite."""
    is_said = str(error).startswith("unknown database") or str(error).endswith(".sqlite_master")
    return is_said or _sqlstate(error) == "3F000" or _mysql_code(error) == 1049


def is_lost_statement(error: Exception) -> bool:
    """Returns whether PostgreSQL knows another statement, or none, under the name of a prepared statement."""
    return _sqlstate(error) in ("26000", "42P05") or (
        _sqlstate(error) == "08P01" and "prepared statement" in str(error)
    )


def is_deadlock(error: BaseException) -> bool:
    """Returns whether the database aborted the transaction because of a conflict with another one."""
    if isinstance(error, Deadlock):
        return True
    return _mysql_code(error) in DEADLOCK_CODES or _sqlstate(error) in DEADLOCK_STATES


def is_integrity_error(error: Exception) -> bool:
    """Returns whether a constraint was violated: SQLSTATE class 23, or the exception name of PEP 249."""
    return _sqlstate(error).startswith("23") or type(error).__name__ == "IntegrityError"


def is_unavailable(error: BaseException) -> bool:
    """Returns whether the database cannot serve at the moment. A later retry may succeed.

    It is unreachable, starting, shutting down, failing over, read-only, locked, full, out of connections or too slow.
    """
    if isinstance(error, StarletteAuthError):
        return isinstance(error, Unavailable)
    error = driver_error(error)
    sqlite, mysql = _sqlite_code(error), _mysql_code(error)
    if breaks_connection(error) or isinstance(error, PoolTimeout):
        return True
    if sqlite is not None:
        return sqlite in SQLITE_BUSY
    if mysql is not None:
        return mysql in MYSQL_BUSY
    # A cached plan of asyncpg is out of date after a migration. asyncpg makes a new one with the next statement.
    return _sqlstate(error).startswith(POSTGRESQL_BUSY) or type(error).__name__ == "InvalidCachedStatementError"


def breaks_connection(error: BaseException) -> bool:
    """Returns whether an error shows that its connection cannot be used again.

    It is closed, out of step with its server, or belongs to a server that was replaced and now only reads.
    """
    if isinstance(error, StarletteAuthError):
        return False
    error = driver_error(error)
    sqlite, mysql, message = _sqlite_code(error), _mysql_code(error), str(error).lower()
    if sqlite is not None:
        return sqlite in SQLITE_LOST
    if mysql is not None:
        return mysql in MYSQL_LOST
    if _sqlstate(error):
        return _sqlstate(error).startswith(POSTGRESQL_LOST)
    if type(error).__name__ == "InterfaceError" and not _is_named(error, "MySQLError"):
        return any(word in message for word in LOST_WORDS)
    if type(error).__name__ == "OperationalError" and type(error).__module__.startswith("psycopg"):
        return True  # an error of libpq, or a closed connection: those of the server have a SQLSTATE
    if type(error).__name__ in ("RuntimeError", "ValueError", "ProgrammingError"):
        return any(words in message for words in LOST_MESSAGES)
    # Of asyncpg, and of the drivers for MySQL: an error in the protocol, or a closed connection, without a code.
    is_internal = _is_named(error, "InternalClientError") or (
        _is_named(error, "MySQLError") and type(error).__name__ in ("Error", "InterfaceError", "InternalError")
    )
    return is_internal or isinstance(error, OSError | EOFError)


def is_read_only(error: BaseException) -> bool:
    """Returns whether the server only reads. After a failover, another server writes."""
    return _sqlstate(error) == "25006" or _mysql_code(error) in MYSQL_READ_ONLY


async def repeat(work: Callable[[], Awaitable[R]]) -> R:
    """Repeats `work`, which has failed with a deadlock, until it succeeds. Returns its result.

    Raises Deadlock after 20 repetitions, or after 10 seconds: the request is answered with 503 and does not hang.
    """
    end, number = time.monotonic() + MAX_SECONDS, 0
    while True:
        await asyncio.sleep(random.uniform(0.001, min(0.02 * 1.5**number, 0.5)))  # noqa: S311  not a secret
        try:
            return await work()
        except Exception as error:
            number += 1
            if not is_deadlock(error):
                raise
            if number == MAX_REPETITIONS or time.monotonic() > end:
                translate(error)


def _sqlite_code(error: BaseException) -> int | None:
    """Returns the primary result code of an error of SQLite."""
    code = getattr(error, "sqlite_errorcode", None)
    return None if code is None else int(code) & 0xFF


def _mysql_code(error: BaseException) -> int | None:
    """Returns the error number of MySQL. Errors of the operating system have smaller numbers."""
    code = error.args[0] if error.args else None
    if not isinstance(code, int) or isinstance(error, OSError):
        return None
    return code if code >= 1000 or (code > 0 and _is_named(error, "MySQLError")) else None


def _sqlstate(error: BaseException) -> str:
    """Returns the SQLSTATE of an error of PostgreSQL; "" for others."""
    return str(getattr(error, "sqlstate", None) or "")


def _is_named(error: BaseException, name: str) -> bool:
    """Returns whether a class of the error has this name. The drivers are not imported here."""
    return any(kind.__name__ == name for kind in type(error).__mro__)

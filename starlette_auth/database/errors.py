"""Translation of database driver errors to exceptions of this package."""

import contextlib
from collections.abc import Iterator
from typing import NoReturn

from ..core.exceptions import ImproperlyConfigured, IntegrityError, StarletteAuthError, Unavailable
from ..core.text import one_line

# Parts of driver messages about a lost connection. asyncpg returns one to its pool ("released back") even during a
# transaction.
LOST = ("clos", "Not connected", "released back")
MYSQL_LOST = [(code,) for code in (1040, 1053, 2002, 2003, 2006, 2013)]


@contextlib.contextmanager
def translate_errors() -> Iterator[None]:
    try:
        yield
    except Exception as error:
        translate(error)


def translate(error: Exception) -> NoReturn:
    """Raises the exception of this package that stands for a driver error, or the error itself."""
    if is_integrity_error(error):
        # Only the first line: PostgreSQL's next lines contain the whole row, including password hashes.
        raise IntegrityError((str(error).splitlines() or [""])[0]) from None
    if is_missing_table(error):
        raise ImproperlyConfigured(
            f"A table is missing ({error}). Run `starlette-auth --app module:auth migrate`, "
            "or pass lifespan=lifespan(auth, create_tables=True) to your app."
        ) from error
    if is_unavailable(error):
        raise Unavailable(f"The database cannot be reached: {one_line(error)}. Check that it is running.") from error
    raise error


def is_missing_table(error: Exception) -> bool:
    """Returns whether a table is missing: SQLSTATE 42P01, MySQL error 1146, or the message of SQLite."""
    codes = (getattr(error, "sqlstate", None), *error.args[:1])
    return "42P01" in codes or 1146 in codes or str(error).startswith("no such table")


def is_deadlock(error: BaseException) -> bool:
    """Returns whether the database aborted the transaction because of a conflict with another one.

    SQLSTATE 40P01 (deadlock) and 40001 (serialization failure); MySQL errors 1213 (deadlock) and 1020 (record changed).
    """
    return getattr(error, "sqlstate", None) in ("40P01", "40001") or error.args[:1] in ((1213,), (1020,))


def is_integrity_error(error: Exception) -> bool:
    """Returns whether a constraint was violated: SQLSTATE class 23, or the exception name of PEP 249."""
    return str(getattr(error, "sqlstate", "")).startswith("23") or type(error).__name__ == "IntegrityError"


def is_unavailable(error: BaseException) -> bool:
    """Returns whether the server is unreachable, shutting down, or has lost the connection. A later retry may succeed.

    SQLSTATE classes 08 and 57P, and 53300 (too many connections); MySQL errors 1040, 1053, 2002, 2003, 2006 and 2013;
    the messages of asyncpg and asyncmy about a closed connection; errors of the operating system.
    """
    state = str(getattr(error, "sqlstate", None) or "")
    if state.startswith(("08", "57P")) or state == "53300" or error.args[:1] in MYSQL_LOST:
        return True
    if type(error).__name__ == "InterfaceError" and any(word in str(error) for word in LOST):
        return True
    # WriteLockTimeout is an OSError too, but it reports a mistake in the application.
    return isinstance(error, OSError) and not isinstance(error, StarletteAuthError)

"""What do the errors of database drivers mean?"""

import contextlib
from collections.abc import Iterator
from typing import NoReturn

from ..core.exceptions import ImproperlyConfigured, IntegrityError, StarletteAuthError, Unavailable
from ..core.text import one_line

# asyncpg takes a connection that was lost back into its pool, also from under a transaction.
LOST = ("clos", "Not connected", "released back")
MYSQL_LOST = [(code,) for code in (1040, 1053, 2002, 2003, 2006, 2013)]


@contextlib.contextmanager
def translate_errors() -> Iterator[None]:
    try:
        yield
    except Exception as error:
        translate(error)


def translate(error: Exception) -> NoReturn:
    """Raises what a driver's error means, or the error itself."""
    if is_integrity_error(error):
        # The first line alone: PostgreSQL goes on with the whole row, the hash of a password included.
        raise IntegrityError((str(error).splitlines() or [""])[0]) from None
    if is_missing_table(error):
        raise ImproperlyConfigured(
            f"A table is missing ({error}). Run `starlette-auth --app module:auth migrate`, "
            "or pass lifespan=lifespan(auth, create_tables=True) to your app."
        ) from error
    if is_unavailable(error):
        raise Unavailable(f"The database cannot be reached: {one_line(error)}. Look whether it runs.") from error
    raise error


def is_missing_table(error: Exception) -> bool:
    """Whether a driver reports that a table is not there: 42P01 of SQLSTATE, 1146 of MySQL, or SQLite's words."""
    codes = (getattr(error, "sqlstate", None), *error.args[:1])
    return "42P01" in codes or 1146 in codes or str(error).startswith("no such table")


def is_deadlock(error: BaseException) -> bool:
    """Whether the database gave one transaction up for another: 40P01 and 40001 of SQLSTATE, 1213 and 1020 of MySQL."""
    return getattr(error, "sqlstate", None) in ("40P01", "40001") or error.args[:1] in ((1213,), (1020,))


def is_integrity_error(error: Exception) -> bool:
    """Whether a driver reports a broken constraint: class 23 of SQLSTATE, or the name that PEP 249 gives it."""
    return str(getattr(error, "sqlstate", "")).startswith("23") or type(error).__name__ == "IntegrityError"


def is_unavailable(error: BaseException) -> bool:
    """Whether the server is away, shutting down, or the connection to it was lost: another try may find it back.

    Classes 08 and 57P of SQLSTATE and 53300 (too many connections); 1040, 1053, 2002, 2003, 2006 and 2013 of MySQL; what
    asyncpg and asyncmy say of a connection that they find closed; and what the operating system says.
    """
    state = str(getattr(error, "sqlstate", None) or "")
    if state.startswith(("08", "57P")) or state == "53300" or error.args[:1] in MYSQL_LOST:
        return True
    if type(error).__name__ == "InterfaceError" and any(word in str(error) for word in LOST):
        return True
    # Not our own exceptions, one of which is a TimeoutError: a task of the application waits for itself.
    return isinstance(error, OSError) and not isinstance(error, StarletteAuthError)

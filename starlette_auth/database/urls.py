"""What the URL of a database says: its driver, its place, and what is wrong with it."""

import os

import sqlalchemy as sa
from databases import Database

from ..core.exceptions import ImproperlyConfigured, StarletteAuthError
from .adapters.drivers import AsyncpgDriver, Driver, MySQLDriver, SQLiteDriver
from .errors import connection_error

DRIVERS: dict[str, type[Driver]] = {
    "sqlite": SQLiteDriver,
    "sqlite+aiosqlite": SQLiteDriver,
    "postgres": AsyncpgDriver,
    "postgresql": AsyncpgDriver,
    "postgresql+asyncpg": AsyncpgDriver,
    "mysql": MySQLDriver,
    "mysql+aiomysql": MySQLDriver,
    "mysql+asyncmy": MySQLDriver,
}


#: The extra of this package that brings a driver, and how its URLs begin.
EXTRAS = {"asyncpg": ("postgres", "postgresql://"), "asyncmy": ("mysql", "mysql+asyncmy://")}
#: Schemes of other packages for a database that `databases` opens with another driver.
SAME_DATABASE = {
    **dict.fromkeys(("mysql", "mariadb", "mariadb+asyncmy"), "mysql+asyncmy"),
    "mariadb+aiomysql": "mysql+aiomysql",
    **dict.fromkeys(("postgresql+psycopg", "postgresql+psycopg_async"), "postgresql"),
}


def open_database(url: str) -> Database:
    """Returns the Database for a URL, which may also be that of an engine of SQLAlchemy.

    `mysql://` stands for asyncmy here, the driver of the extra `mysql`, and `postgresql+psycopg://` for asyncpg.

    Raises ImproperlyConfigured for a URL that is not supported, and for a driver that is not installed. The message
    does not contain the URL, because it may contain a password.

    `?statement_cache_size=0` is the option of asyncpg behind PgBouncer, which `databases` ignores in a URL.
    """
    scheme, separator, rest = url.partition("://")
    scheme = SAME_DATABASE.get(scheme, scheme)
    try:
        database = Database(f"{scheme}{separator}{rest}")
        cached = database.url.options.get("statement_cache_size")
        if cached is not None and database.url.dialect in ("postgres", "postgresql"):
            database = Database(database.url, statement_cache_size=int(cached))
    except ImportError as error:
        extra, beginning = EXTRAS.get(error.name or "", ("mysql", "mysql+asyncmy://"))
        raise ImproperlyConfigured(
            f"The driver {error.name} of this database is not installed. For {beginning}, run "
            f"`pip install starlette-contrib-auth[{extra}]`."
        ) from None
    except Exception:
        raise ImproperlyConfigured(
            "This is not a supported database URL. Use sqlite+aiosqlite:///file, postgresql://user@host/name or "
            "mysql+asyncmy://user@host/name. Write %40 for an @ in the password, and %2F for a /."
        ) from None
    find_driver(database)
    return database


async def connect(database: Database) -> None:
    """Connects a database.

    Raises Unavailable if it cannot be reached, and ImproperlyConfigured if it does not exist or refuses the user.
    """
    try:
        await database.connect()
    except StarletteAuthError:
        raise
    except Exception as error:
        raise connection_error(error) from error


def find_driver(database: Database) -> Driver:
    """Returns the driver for the URL of a database.

    Raises ImproperlyConfigured if the URL is not supported. The message never contains the URL, which has a password.
    """
    url = database.url
    if url.scheme not in DRIVERS:
        raise ImproperlyConfigured(
            f"{url.scheme}:// is not supported. Use one of {', '.join(f'{name}://' for name in DRIVERS)}."
        )
    try:
        _ = url.port
    except ValueError:
        # A / in the password ends the host, so that the password is taken for the port. The error would quote it.
        raise ImproperlyConfigured(
            "The port in the URL of the database is not a number from 0 to 65535. If it is right, percent-encode the "
            "password: write %2F for /, %23 for #, %3F for ? and %40 for @."
        ) from None
    return DRIVERS[url.scheme]()


def database_location(database_url: str) -> str:
    """Returns which database a URL names. Credentials, options and the driver may change without a new database."""
    url = sa.make_url(database_url)
    dialect, name = url.get_backend_name().replace("postgresql", "postgres"), url.database or ""
    dialect = "mysql" if dialect == "mariadb" else dialect
    if dialect == "sqlite":
        return os.path.normpath(name if os.path.isabs(name) else f"{os.getcwd()}/{name}")
    port = url.port or {"postgres": 5432, "mysql": 3306}.get(dialect)
    return f"{dialect}://{(url.host or str(url.query.get('host', ''))).lower()}:{port}/{name}"

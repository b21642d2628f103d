"""What the tests run against: SQLite, and the servers and the browser that environment variables name.

`TEST_DATABASE_URLS` holds URLs of servers without a database name, separated by commas, `TEST_REDIS_URL` is a Redis
server, and `TEST_BROWSER` a Chromium, by its name or its path. With `CI=true` each of them has a default, unless the
variable is set, even to nothing. What is named and missing fails the tests. The tests in `tests/engines` run on the same
databases, with each driver that an engine of SQLAlchemy may have.

`TEST_CASES=few` runs at most two cases of each test, and fewer random ones. It leaves out what is marked as `long`.
`TEST_CASES=all` runs all cases on PostgreSQL and MariaDB too, where otherwise two of each test are run.
"""

import os
import shutil

import pytest

IN_CI = os.environ.get("CI") == "true"


def _setting(name: str, default_in_ci: str) -> str:
    return os.environ.get(name, default_in_ci if IN_CI else "").strip()


SERVERS = _setting("TEST_DATABASE_URLS", "postgresql://postgres@127.0.0.1:5432,mysql+asyncmy://root@127.0.0.1:3306")
BACKENDS = ["sqlite", *filter(None, (url.strip() for url in SERVERS.split(",")))]
#: The same databases through engines of SQLAlchemy: "engine+" and the URL of a server for create_async_engine().
DRIVERS = {"sqlite": ("aiosqlite",), "postgresql": ("asyncpg", "psycopg"), "mysql": ("asyncmy", "aiomysql")}
ENGINES = [
    f"engine+{url.split(':')[0].split('+')[0]}+{driver}{url[url.index(':') :] if ':' in url else ''}"
    for url in BACKENDS
    for driver in DRIVERS.get(url.split(":")[0].split("+")[0], ())
]
REDIS_URL = _setting("TEST_REDIS_URL", "redis://127.0.0.1:6379")
BROWSER = _setting("TEST_BROWSER", "chromium")
CHROMIUM = shutil.which(BROWSER) or BROWSER

FEW = os.environ.get("TEST_CASES") == "few"
ALL = os.environ.get("TEST_CASES") == "all"

needs_redis = pytest.mark.skipif(not REDIS_URL, reason="needs Redis; name one in TEST_REDIS_URL")
needs_postgresql = pytest.mark.skipif(
    not any(url.startswith("postgresql") for url in BACKENDS), reason="needs PostgreSQL; name one in TEST_DATABASE_URLS"
)
needs_chromium = pytest.mark.skipif(not BROWSER, reason="needs Chromium; name it in TEST_BROWSER")


def summary() -> str:
    """Returns one line for the end of a run: what was tested, and how to test the rest."""
    tested = [url.split(":")[0].split("+")[0] for url in BACKENDS]
    tested += [name for name, value in (("redis", REDIS_URL), ("chromium", BROWSER)) if value]
    unnamed = [
        name
        for name, value in (
            ("TEST_DATABASE_URLS", len(BACKENDS) > 1),
            ("TEST_REDIS_URL", REDIS_URL),
            ("TEST_BROWSER", BROWSER),
        )
        if not value
    ]
    hint = f"; to test more, set {', '.join(unnamed)} (see README)" if unnamed else ""
    return f"tested with: {', '.join(tested)}{hint}"

"""Who takes part: each is a small application of the same kind, in a module of this folder."""

import importlib.util
import inspect
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

from starlette_auth import Auth

Work = Literal["requests", "anonymous", "login", "writes"]
Tables = Literal["", "ours", "django", "fastapi_users"]
WORKS: tuple[Work, ...] = ("requests", "anonymous", "login", "writes")
ALL = frozenset(WORKS)


@dataclass(frozen=True, kw_only=True, eq=False)
class Contestant:
    """`group`: those that are measured in turn. `says` is a sentence for the report."""

    name: str
    group: str
    module: str
    says: str
    tables: Tables = "ours"
    on: Literal["postgresql", "sqlite"] = "postgresql"
    server: Literal["uvicorn", "gunicorn"] = "uvicorn"
    options: dict[str, Any] = field(default_factory=dict)
    needs: Sequence[str] = ()
    works: frozenset[Work] = ALL
    logs_in_by_email: bool = False

    @property
    def needs_redis(self) -> bool:
        return self.options.get("store") in ("redis", "cached")

    def missing(self) -> list[str]:
        """The packages that are not installed."""
        return [name for name in self.needs if importlib.util.find_spec(name) is None]


POOL = "a pool of asyncpg's as it comes"
KEPT = {"connections": 2}
ENGINE = {"engine": True}
DJANGO: dict[str, Any] = {"module": "django_site", "tables": "django", "needs": ("django", "argon2")}
FASTAPI_USERS: dict[str, Any] = {
    "module": "fastapi_users_site",
    "tables": "fastapi_users",
    "needs": ("fastapi_users", "fastapi_users_db_sqlalchemy"),
    "logs_in_by_email": True,
}
on_postgresql = partial(Contestant, group="PostgreSQL")
on_sqlite = partial(Contestant, group="SQLite", on="sqlite", works=ALL - {"anonymous"})
beside = partial(Contestant, group="Redis and cookies", works=frozenset(("requests",)))

CONTESTANTS = (
    on_postgresql(
        name="bare Starlette",
        module="bare",
        tables="",
        says="routes and nothing else",
        works=frozenset(("anonymous",)),
    ),
    on_postgresql(name="ours", module="ours", says="`Database(url)` and `middleware(auth)`"),
    on_postgresql(
        name="ours, kept", module="ours", says=f"the same with `connections={KEPT['connections']}`", options=KEPT
    ),
    on_postgresql(
        name="ours, engine",
        module="ours",
        says="`Auth(create_async_engine(url))` with asyncpg, which keeps two connections",
        options=ENGINE,
        needs=("greenlet",),
    ),
    on_postgresql(name="floor", module="floors", says=f"one query on {POOL}"),
    on_postgresql(
        name="ours, Django's tables",
        module="ours",
        tables="django",
        says="`Auth(django=DjangoProject())` on the database that Django uses beside it",
        options={"is_django": True},
    ),
    on_postgresql(
        name="Django, async",
        says="async views under uvicorn, psycopg's pool, and no middleware but those of sessions and users",
        **{**DJANGO, "needs": (*DJANGO["needs"], "psycopg_pool")},
    ),
    on_postgresql(
        name="Django, gunicorn",
        server="gunicorn",
        says="sync views under one gthread worker with four threads, persistent connections, the same middleware",
        **{**DJANGO, "needs": (*DJANGO["needs"], "gunicorn")},
    ),
    on_postgresql(
        name="fastapi-users",
        says="the database strategy on an async engine of SQLAlchemy's with a pool, and one more query for the permission",
        works=ALL - {"writes"},
        **FASTAPI_USERS,
    ),
    on_sqlite(name="ours", module="ours", says="`Database(url)` and `middleware(auth)`"),
    on_sqlite(
        name="ours, engine",
        module="ours",
        says="`Auth(create_async_engine(url))` with aiosqlite",
        options=ENGINE,
        needs=("greenlet",),
    ),
    on_sqlite(name="floor", module="floors", says="one query on one kept connection of aiosqlite"),
    on_sqlite(name="Django, async", says="as on PostgreSQL, in WAL mode", **DJANGO),
    on_sqlite(
        name="fastapi-users",
        says="as on PostgreSQL, in WAL mode",
        **{**FASTAPI_USERS, "works": frozenset(("requests", "login"))},
    ),
    beside(
        name="ours, Redis",
        module="ours",
        says="`RedisStore(url)`, and the user from PostgreSQL",
        options={"store": "redis"},
    ),
    beside(
        name="ours, Redis, kept",
        module="ours",
        says="the same with kept connections to PostgreSQL",
        options={"store": "redis", **KEPT},
    ),
    beside(
        name="ours, cached",
        module="ours",
        says="`CachedStore(DatabaseStore(…), url)`: the database has the last word at each request",
        options={"store": "cached"},
    ),
    beside(
        name="ours, cookie",
        module="ours",
        says="`CookieStore(secret_key)`, and the user from PostgreSQL",
        options={"store": "cookie"},
    ),
    beside(
        name="floor, Redis",
        module="floors",
        says=f"one GET with redis-py and hiredis, one query on {POOL}",
        options={"store": "redis"},
    ),
    beside(
        name="floor, cookie",
        module="floors",
        says=f"a cookie signed by itsdangerous, one query on {POOL}",
        options={"store": "cookie"},
    ),
    beside(
        name="starsessions",
        module="starsessions_site",
        says=f"its RedisStore with hiredis, loaded by its middleware; user and permission by one query on {POOL}",
        options={"store": "redis"},
        needs=("starsessions",),
    ),
    beside(
        name="Litestar",
        module="litestar_site",
        says=f"its server-side sessions in its RedisStore; user and permission by one query on {POOL}",
        options={"store": "redis"},
        needs=("litestar",),
    ),
)


def available() -> tuple[Contestant, ...]:
    """All, but kept connections where this version of the package keeps none on PostgreSQL."""
    keeps = "connections" in inspect.signature(Auth).parameters
    return tuple(one for one in CONTESTANTS if keeps or not one.options.get("connections"))


def groups_of(contestants: Iterable[Contestant]) -> dict[str, list[Contestant]]:
    groups: dict[str, list[Contestant]] = {}
    for one in contestants:
        groups.setdefault(one.group, []).append(one)
    return groups

"""Databases of this run's own, and the users and sessions in them. All of it is gone at the end."""

import asyncio
import contextlib
import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import redis
from databases import Database

from starlette_auth import Argon2PasswordHasher, Auth, DjangoProject, migrate
from starlette_auth.backends.session import AUTH_HASH, AUTH_HASH_SALT, BACKEND
from starlette_auth.core.signing import SecretKeys, hash_key
from starlette_auth.sessions.base import AUTH_TIME
from starlette_auth.sessions.records import USER_ID, encode

from .contestants import Tables
from .errors import CannotMeasure
from .processes import ROOT
from .settings import CHEAP, PASSWORD, PERMISSION, SECRET_KEY, Settings

APP, CODENAME = PERMISSION.split(".")
SERIES = "WITH RECURSIVE series(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM series WHERE n < {number}) "
#: The same text for both databases. Nine of ten users are in the group, as `settings.may_vote` says.
USERS = (
    SERIES + "INSERT INTO auth_user (id, password, is_superuser, username, first_name, last_name, email, is_staff, "
    "is_active, date_joined) SELECT n, '{password}', FALSE, 'user' || n, '', '', 'user' || n || '@example.org', FALSE, "
    "TRUE, CURRENT_TIMESTAMP FROM series",
    "INSERT INTO {content_type} (id, app_label, model) VALUES (1000, '{app}', 'vote')",
    "INSERT INTO auth_permission (id, content_type_id, codename, name) VALUES (1000, 1000, '{codename}', 'May vote')",
    "INSERT INTO auth_group (id, name) VALUES (1, 'voters')",
    "INSERT INTO auth_group_permissions (group_id, permission_id) VALUES (1, 1000)",
    SERIES + "INSERT INTO auth_user_groups (user_id, group_id) SELECT n, 1 FROM series WHERE n % 10 <> 0",
)
SESSIONS = (
    SERIES + "INSERT INTO auth_session (key_hash, public_id, user_id, data, created, last_seen, expires, address, "
    "user_agent, version) SELECT key_hash(n), substr(key_hash(n), 1, 32), n, {data}, {now}, {now}, {now} + 7200, "
    "'192.0.2.1', 'Mozilla/5.0 (X11; Linux x86_64) Firefox/150.0', 0 FROM series"
)
KEY_HASH = """CREATE FUNCTION key_hash(n integer) RETURNS text LANGUAGE sql IMMUTABLE
    AS $$ SELECT encode(sha256(convert_to(lpad(n::text, 43, '0'), 'UTF8')), 'hex') $$"""


def key_of(number: int) -> str:
    """The cookie of a session that was made in the database."""
    return f"{number:0>43}"


class Databases:
    """Those of one run, by what is in them; each is made when it is first asked for."""

    def __init__(self, postgresql: str, redis_url: str, folder: Path) -> None:
        self.postgresql, self.redis, self.folder = postgresql.rstrip("/"), redis_url, folder
        self._urls: dict[tuple[str, str, int, bool], str] = {}

    def settings(self, tables: Tables, on: str, *, users: int = 1000, costly: bool = False, **options: Any) -> Settings:
        key = (tables, on, users, costly)
        if tables and key not in self._urls:
            name = f"starlette_auth_bench_{os.getpid()}_{tables}_{users}{'_costly' * costly}"
            server = f"sqlite+aiosqlite:///{self.folder}" if on == "sqlite" else self.postgresql
            self._urls[key] = f"{server}/{name}"  # from here on it is dropped at the end
            if on == "postgresql":
                self._on_server(f"CREATE DATABASE {name}")
            fill(Settings(database=self._urls[key], users=users, costly=costly), tables)
        return Settings(database=self._urls.get(key, ""), redis=self.redis, users=users, costly=costly, **options)

    def require_postgresql(self) -> None:
        try:
            self._on_server("SELECT 1")
        except psycopg.OperationalError as error:
            raise CannotMeasure(
                f"PostgreSQL does not answer at {self.postgresql}: start it, or name another with --postgresql."
            ) from error

    def require_redis(self) -> None:
        try:
            with redis.Redis.from_url(self.redis) as client:
                if client.dbsize():
                    raise CannotMeasure(f"The database {self.redis} is not empty: name another number with --redis.")
        except redis.RedisError as error:
            raise CannotMeasure(
                f"Redis does not answer at {self.redis}: start it, or name another with --redis."
            ) from error

    def forget(self) -> None:
        """Drops all of them. Redis was empty, and is again."""
        for (_, on, _, _), url in self._urls.items():
            if on == "postgresql":
                self._on_server(f"DROP DATABASE IF EXISTS {url.rpartition('/')[2]} WITH (FORCE)")
        self._urls.clear()

    def forget_redis(self) -> None:
        with redis.Redis.from_url(self.redis) as client:
            client.flushdb()

    def _on_server(self, statement: str) -> None:
        with psycopg.connect(f"{self.postgresql}/postgres", autocommit=True, connect_timeout=5) as connection:
            connection.execute(statement.encode())


@contextlib.contextmanager
def databases(postgresql: str, redis_url: str, folder: Path, *, with_redis: bool) -> Iterator[Databases]:
    made = Databases(postgresql, redis_url, folder)
    if with_redis:
        made.require_redis()
    try:
        yield made
    finally:
        made.forget()
        if with_redis:
            made.forget_redis()


def fill(settings: Settings, tables: Tables) -> None:
    if settings.is_sqlite:
        # The file remembers it, so that nobody has to say it to each connection.
        with contextlib.closing(sqlite3.connect(settings.file)) as connection:
            connection.execute("PRAGMA journal_mode = WAL")
    if tables != "ours":
        prepare({"django": "django_site", "fastapi_users": "fastapi_users_site"}[tables], settings)
    if tables == "fastapi_users":
        return
    asyncio.run(_migrate(settings, DjangoProject() if tables == "django" else None))
    password = Argon2PasswordHasher(**({} if settings.costly else CHEAP)).encode(PASSWORD)
    content_type = "django_content_type" if tables == "django" else "auth_content_type"
    values = {"password": password, "content_type": content_type, "app": APP, "codename": CODENAME}
    statements = list(USERS)
    if tables == "ours":
        statements.append(SESSIONS)
        values |= {"data": data_of_sessions(password), "now": str(int(time.time()))}
    with executing(settings) as execute:
        for statement in statements:
            execute(statement.format(number=settings.users, **values))
        execute("ANALYZE" if settings.is_sqlite else "VACUUM ANALYZE")


def data_of_sessions(password: str) -> str:
    """SQL for what stands in the session of user n: all have the same password, and so the same hash of it."""
    session = {
        USER_ID: "@",
        BACKEND: "starlette_auth.ModelBackend",
        AUTH_HASH: SecretKeys(SECRET_KEY).sign(AUTH_HASH_SALT, password),
        AUTH_TIME: int(time.time()),
    }
    return "'{}'".format(encode(session).replace("@", "' || n || '"))


def prepare(module: str, settings: Settings) -> None:
    """A peer makes its tables itself, in a process of its own."""
    command = [sys.executable, "-m", "tests.benchmarks.serve", module, "0"]
    done = subprocess.run(command, cwd=ROOT, env=settings.environment(), capture_output=True, text=True, check=False)
    if done.returncode:
        raise CannotMeasure(f"{module} cannot make its tables. {done.stderr.strip().splitlines()[-1]}")


async def _migrate(settings: Settings, django: DjangoProject | None) -> None:
    async with Database(settings.sized) as database:
        auth = Auth(database, secret_key=SECRET_KEY, django=django)
        await migrate(auth.gateway, auth.tables)
        await auth.close()


@contextlib.contextmanager
def executing(settings: Settings) -> Iterator[Callable[[str], object]]:
    """Statement by statement, with a function for the hash of a session's key."""
    if settings.is_sqlite:
        with contextlib.closing(sqlite3.connect(settings.file, isolation_level=None)) as connection:
            connection.create_function("key_hash", 1, lambda n: hash_key(key_of(n)), deterministic=True)
            yield connection.execute
        return
    with psycopg.connect(settings.database, autocommit=True) as connected:
        connected.execute(KEY_HASH)
        yield lambda statement: connected.execute(statement.encode())

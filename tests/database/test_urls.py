"""Tests of the URLs of databases and of Redis: an error, with all its causes, contains no password."""

import traceback
from collections.abc import Callable

import pytest
from databases import Database

from example_app import settings
from starlette_auth import Auth, ImproperlyConfigured, RedisStore
from starlette_auth.database.urls import database_location, open_database
from starlette_auth.django.cache import DjangoCache

from ..conftest import SECRET_KEY

DATABASE_URLS = [
    "postgresql+psycopg2://user:s3cret@127.0.0.1/name",
    "postgresql://user:s3cret/more@host/name",
    "postgresql://user:s3cret#more@host/name",
    "postgresql://user:s3cret?more@host/name",
    "postgresql://user:pw@host:s3cret/name",
    "postgresql://user:s3cret@host:99999/name",
    "mysql+asyncmy://user:s3cret/more@host/name",
]
REDIS_URLS = [
    "oracle://user:s3cret@host/0",
    "redis://user:s3cret/more@host/0",
    "redis://user:s3cret[more@host/0",
    "redis://user:pw@host:s3cret/0",
    "redis://user:pw@host/0?db=s3cret",
    "s3cret",
]


def assert_secret(build: Callable[[], object], expected: str) -> None:
    with pytest.raises(ImproperlyConfigured, match=expected) as refused:
        build()
    shown = "".join(traceback.format_exception(refused.value))
    assert "s3cret" not in "\n".join(line for line in shown.splitlines() if not line.startswith("    "))


@pytest.mark.parametrize("url", DATABASE_URLS)
def test_an_error_of_auth_contains_no_password(url: str) -> None:
    assert_secret(lambda: Auth(Database(url), secret_key=SECRET_KEY), "Use one of|write %2F for /")


@pytest.mark.parametrize("url", REDIS_URLS)
def test_an_error_of_redis_contains_no_password(url: str) -> None:
    for build in (RedisStore, DjangoCache):
        assert_secret(lambda build=build: build(url), "Use redis://")  # type: ignore[misc]


@pytest.mark.parametrize(
    "url", [*DATABASE_URLS, "oracle://user:s3cret@host/name", "postgresql://user:s3cret[x@h/name", "s3cret"]
)
def test_an_error_of_the_example_application_contains_no_password(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", url)
    assert_secret(lambda: Auth(settings.database(), secret_key=SECRET_KEY), "Use one of|%2F for a? ?/|Set it to")


@pytest.mark.parametrize(
    ("url", "scheme"),
    [
        ("postgresql+psycopg://u@host/name", "postgresql"),
        ("postgresql+asyncpg://u@host/name", "postgresql+asyncpg"),
        ("mariadb+asyncmy://u@host/name", "mysql+asyncmy"),
        ("mysql://u@host/name", "mysql+asyncmy"),
        ("sqlite+aiosqlite:///name", "sqlite+aiosqlite"),
    ],
)
def test_the_url_of_an_engine_names_the_same_database(url: str, scheme: str) -> None:
    database = open_database(url)
    assert database.url.scheme == scheme
    assert database_location(str(database.url)) == database_location(url)


def test_the_option_for_pgbouncer_may_be_in_the_url() -> None:
    """`databases` itself ignores it there."""
    database = open_database("postgresql://u:p%40ss@host/name?statement_cache_size=0&max_size=4")
    assert database.options == {"statement_cache_size": 0}
    assert (database.url.password, database.url.options["max_size"]) == ("p@ss", "4")
    with pytest.raises(ImproperlyConfigured, match="not a supported database URL"):
        open_database("postgresql://u:secret@host/name?statement_cache_size=none")

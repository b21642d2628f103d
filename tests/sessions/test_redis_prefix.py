"""The prefix of RedisStore, which separates the sites that share a Redis."""

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from starlette_auth import Auth, ImproperlyConfigured, RedisStore, Tables, user_columns

from ..conftest import REDIS_URL, SECRET_KEY, connected, installed, needs_redis


@contextlib.asynccontextmanager
async def site(folder: Path, name: str) -> AsyncIterator[Auth]:
    """Yields an Auth on a database of its own, with a user who has a session in the shared Redis."""
    async with (
        connected(f"sqlite+aiosqlite:///{folder}/{name}.sqlite3") as database,
        installed(database, sessions=RedisStore(REDIS_URL)) as auth,
    ):
        await auth.users.create_user("ann")
        await logged_in(auth)
        yield auth
        await auth.sessions.revoke_all("1")


async def logged_in(auth: Auth) -> str:
    session = auth.sessions.new_session()
    ann = await auth.users.get_by_username("ann")
    assert ann is not None
    auth.session_backend.bind(session, ann, "")
    return await auth.sessions.save(session, 60)


@needs_redis
async def test_two_sites_on_one_redis_do_not_see_each_others_sessions(tmp_path: Path) -> None:
    async with site(tmp_path, "shop") as shop, site(tmp_path, "office") as office:
        ann = await shop.users.get_by_username("ann")
        assert ann is not None
        assert len(await shop.sessions.list_sessions("1")) == 1
        cookie = await logged_in(office)
        assert not (await office.sessions.load(cookie)).is_empty()
        assert (await shop.sessions.load(cookie)).is_empty()
        assert await shop.user_sessions.revoke_all(ann) == 1
        assert len(await office.sessions.list_sessions("1")) == 2


@needs_redis
async def test_two_user_tables_on_one_redis_do_not_see_each_others_sessions(tmp_path: Path) -> None:
    staff = Tables(
        user=sa.Table("staff", sa.MetaData(), sa.Column("id", sa.Integer, primary_key=True), *user_columns()[1:])
    )
    async with site(tmp_path, "shop") as shop:
        store = RedisStore(REDIS_URL)
        Auth(shop.database, secret_key=SECRET_KEY, sessions=store, tables=staff)
        assert await store.list_sessions("1") == []
        await store.close()


@needs_redis
@pytest.mark.parametrize("change", [{"secret_key": "another key that is for tests only, and long enough"}, {}])
async def test_a_new_secret_key_keeps_the_sessions(tmp_path: Path, change: dict[str, Any]) -> None:
    async with site(tmp_path, "shop") as shop:
        store = RedisStore(REDIS_URL)
        Auth(shop.database, sessions=store, **{"secret_key": SECRET_KEY, **change})
        assert len(await store.list_sessions("1")) == 1
        await store.close()


@pytest.mark.parametrize(
    ("first", "second", "is_same"),
    [
        ("postgresql://a:b@db/site", "postgres+asyncpg://c:d@DB:5432/site?min_size=2", True),
        ("mysql+asyncmy://a:b@db/site", "mysql+aiomysql://c@db:3306/site", True),
        ("sqlite:///a.sqlite3", "sqlite+aiosqlite:///./x/../a.sqlite3", True),
        ("postgresql://db/site", "postgresql://db/site2", False),
        ("postgresql://db/site", "postgresql://db2/site", False),
        ("postgresql://db/site", "postgresql://db:5433/site", False),
        ("postgresql://db/site", "mysql://db/site", False),
        ("sqlite:///a.sqlite3", "sqlite:///b/a.sqlite3", False),
    ],
)
def test_the_default_prefix_depends_on_the_database_and_not_on_its_credentials(
    first: str, second: str, is_same: bool
) -> None:
    prefixes = set()
    for url in (first, second):
        store = RedisStore("redis://127.0.0.1")
        store.attach(url, Tables())
        prefixes.add(store._session)
    assert (len(prefixes) == 1) == is_same


def test_a_given_prefix_stays_and_a_store_belongs_to_one_user_table() -> None:
    store = RedisStore("redis://127.0.0.1", prefix="shop:")
    store.attach("postgresql://db/site", Tables())
    assert store._session == "shop:session:"
    store.attach("postgresql://db/site", Tables())
    with pytest.raises(ImproperlyConfigured, match="Make a RedisStore for each Auth"):
        store.attach("postgresql://db/other", Tables())

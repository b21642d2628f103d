"""What only sessions in Redis do, and those with Redis in front of a database."""

import asyncio
import importlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from starlette_auth import Auth, CachedStore, ImproperlyConfigured, RedisStore, SessionBase, Unavailable, User
from starlette_auth.core.signing import hash_key
from starlette_auth.database.redis import RedisClients
from starlette_auth.testing import FrozenClock, log_in

from ..conftest import (
    PASSWORD,
    REDIS_URL,
    client_of,
    count_statements,
    needs_redis,
    redis_prefix,
    with_store,
)
from ..support.apps import make_app
from ..support.servers import needs_redis_server, redis_server
from .test_stores import id_of, kept, login_of

pytestmark = needs_redis


@pytest.fixture
async def prefix() -> AsyncIterator[str]:
    async with redis_prefix() as prefix:
        yield prefix


@pytest.fixture
def clock() -> FrozenClock:
    return FrozenClock()


@pytest.fixture
async def store(prefix: str, clock: FrozenClock) -> AsyncIterator[RedisStore]:
    store = RedisStore(REDIS_URL, prefix=prefix, clock=clock)
    yield store
    await store.close()


async def names_in(store: RedisStore, pattern: str = "*") -> list[str]:
    prefix = store._session.removesuffix("session:")
    return [name async for name in store.redis.client.scan_iter(f"{prefix}{pattern}")]


async def test_redis_holds_no_key_and_nothing_for_ever(store: RedisStore) -> None:
    cookie = await kept(store, a=1)
    login = await login_of(store, "1")
    names = await names_in(store)
    assert len(names) == 3
    for name in names:
        assert 0 < await store.redis.client.ttl(name) <= 1000
        assert cookie not in name
        assert str(login.session_key) not in name
    assert hash_key(cookie) in " ".join(names)
    login.flush()
    await store.delete(str(login.key_to_delete))
    assert len(await names_in(store)) == 1, "with the last session of a user goes the list of them"


async def test_the_list_of_a_users_sessions_does_not_grow_with_those_that_ended(
    store: RedisStore, clock: FrozenClock
) -> None:
    for _ in range(10):
        await login_of(store, "1")
        clock.tick(500)
    (index,) = await names_in(store, "user:*")
    assert await store.redis.client.zcard(index) == 2
    # One that Redis dropped, short of memory, is no longer listed.
    name = next(iter(await names_in(store, "session:*")))
    await store.redis.client.delete(*await names_in(store, "session:*"))
    assert name
    assert await store.list_sessions("1") == []
    assert await store.revoke_all("1") == 0


async def test_one_request_costs_one_command(store: RedisStore) -> None:
    cookie = await kept(store, a=1)
    client: Any = store.redis.client
    before = (await client.info("stats"))["total_commands_processed"]
    await store.load(cookie)
    await store.load("not a key")
    await store.load("")
    after = (await client.info("stats"))["total_commands_processed"]
    assert after - before == 2  # that question included


async def test_scripts_are_sent_again_when_redis_forgot_them(store: RedisStore) -> None:
    cookie = await kept(store, a=1)
    await store.redis.client.script_flush()
    session = await store.load(cookie)
    session["b"] = 2
    await store.save(session, 60)
    assert await store.load(cookie) == {"a": 1, "b": 2}


async def test_a_change_that_lost_its_answer_can_be_sent_again(store: RedisStore) -> None:
    """As the client does by itself when the connection breaks before Redis has answered."""
    session = await store.load(await kept(store, a=1))
    session.cycle_key()
    session["b"] = 2
    key = session.next_key
    twin = SessionBase(dict(session), record=session.record, clock=store._clock)
    twin._cycled_key, twin._next_key = session.stored_key, key
    assert await store.save(session, 60) == key
    assert await store.save(twin, 60) == key
    assert await store.load(key) == {"a": 1, "b": 2}


@pytest.mark.parametrize("missing", ["public_id", "expires"])
async def test_a_hash_that_is_damaged_is_no_session(
    store: RedisStore, missing: str, caplog: pytest.LogCaptureFixture
) -> None:
    cookie = await kept(store, a=1)
    (name,) = await names_in(store)
    await store.redis.client.hdel(name, missing)
    assert await store.load(cookie) == {}
    assert "holds no session" in caplog.text
    assert cookie not in caplog.text


async def test_one_store_serves_several_event_loops(prefix: str) -> None:
    store = RedisStore(REDIS_URL, prefix=prefix)
    cookie = await kept(store, a=1)

    async def elsewhere() -> dict[str, Any]:
        found = dict(await store.load(cookie))
        await store.close()
        return found

    for _ in range(3):
        assert await asyncio.to_thread(lambda: asyncio.run(elsewhere())) == {"a": 1}
    assert len(store.redis._clients._values) <= 2
    await store.close()
    await store.close()


@needs_redis_server
async def test_redis_can_be_reached_through_a_socket_and_with_a_password(tmp_path: Path) -> None:
    with redis_server(tmp_path) as server:
        async with Redis.from_url(server.url) as client:
            await client.config_set("requirepass", "a secret that is long")
        good = RedisStore(server.url.replace("//", "//:a secret that is long@"))
        await kept(good, a=1)
        bad = RedisStore(server.url.replace("//", "//:wrong@"))
        for store in (bad, RedisStore(server.url)):
            with pytest.raises(Unavailable) as refused:
                await kept(store, a=1)
            assert "wrong" not in str(refused.value).replace("wrong number", "")
            await store.close()
        await good.close()


@needs_redis_server
async def test_a_redis_that_takes_nothing_more_is_unavailable_and_of_a_cache_no_matter(tmp_path: Path) -> None:
    with redis_server(tmp_path, durable=False) as server:
        async with Redis.from_url(server.url) as client:
            await client.config_set("maxmemory", "1")
        store = RedisStore(server.url)
        with pytest.raises(Unavailable, match="memory"):
            await kept(store, a=1)
        await store.close()


async def test_who_waits_for_a_connection_of_others_waits_no_longer_than_for_an_answer(prefix: str) -> None:
    redis = RedisClients(REDIS_URL, timeout=0.3, max_connections=1)
    try:
        slow = asyncio.create_task(redis.execute(redis.client.blpop(f"{prefix}nothing", 5)))
        await asyncio.sleep(0)
        with pytest.raises(Unavailable, match="All connections to Redis are busy"):
            await redis.execute(redis.client.get(f"{prefix}a"))
        slow.cancel()
        await asyncio.wait([slow])
        assert await redis.execute(redis.client.get(f"{prefix}a")) is None
        answers = await asyncio.gather(*(redis.execute(redis.client.get(f"{prefix}a")) for _ in range(20)))
        assert answers == [None] * 20  # one after the other
    finally:
        await redis.close()


@pytest.mark.parametrize("url", ["", "127.0.0.1", "http://127.0.0.1", "redis://127.0.0.1:port", "redis//:secret@x"])
def test_what_is_no_url_is_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(ImproperlyConfigured, match="redis://user:password@host") as refused:
        RedisStore(url)
    assert "secret" not in str(refused.value)


def test_without_the_library_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Any:
        raise ModuleNotFoundError(name)

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(ImproperlyConfigured, match=r"starlette-contrib-auth\[redis\]"):
        RedisClients(REDIS_URL)


# In front of a database


@pytest.fixture
async def site(tmp_path: Path, clock: FrozenClock) -> AsyncIterator[Auth]:
    async with with_store("cached", tmp_path, clock) as auth:
        await auth.users.create_user("ann", password=PASSWORD)
        yield auth


def cache_of(auth: Auth) -> CachedStore:
    assert isinstance(auth.sessions, CachedStore)
    return auth.sessions


async def ann_of(auth: Auth) -> User:
    ann: User | None = await auth.users.get_by_username("ann")
    assert ann is not None
    return ann


async def test_a_login_costs_one_command_and_one_statement_and_a_stranger_no_statement(
    site: Auth, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with client_of(make_app(site)) as client, client_of(make_app(site)) as stranger:
        await log_in(client, await ann_of(site), site)
        await stranger.get("/remember?a=1")
        said = count_statements(site, monkeypatch)
        redis: Any = cache_of(site).redis.client
        before = (await redis.info("stats"))["total_commands_processed"]
        assert (await client.get("/members")).text == "members"
        assert [statement.split()[0] for statement in said] == ["SELECT"]
        assert "data" not in said[0].split("FROM")[0], "that comes from the cache"
        said.clear()
        assert (await stranger.get("/whoami")).json()["session"] == {"a": "1"}
        assert said == []
        assert (await redis.info("stats"))["total_commands_processed"] - before == 3  # this question included


async def test_a_stranger_is_looked_up_again_after_a_minute(site: Auth, clock: FrozenClock) -> None:
    async with client_of(make_app(site)) as stranger:
        await stranger.get("/remember?a=1")
        (name,) = [name async for name in cache_of(site).redis.client.scan_iter(f"{cache_of(site)._prefix}*")]
        assert 0 < await cache_of(site).redis.client.ttl(name) <= 60


async def test_a_reader_that_was_held_up_puts_nothing_old_into_the_cache(site: Auth, clock: FrozenClock) -> None:
    """It read the database, then another request changed or ended the session, then it fills the cache."""
    store = cache_of(site)
    cookie = await kept(store, a=1)
    old = (await store.store.load(cookie)).record
    assert old is not None
    session = await store.load(cookie)
    session["a"] = 2
    await store.save(session, 60)
    await store._put(cookie, old, clock())
    assert await store.load(cookie) == {"a": 2}
    await store.delete(cookie)
    await store._put(cookie, old, clock())
    assert (await store.load(cookie)).is_empty()
    # And one that was held up for longer than anything stands there puts nothing there at all.
    other = await kept(store, b=1)
    newest = (await store.store.load(other)).record
    assert newest is not None
    await store.redis.client.delete(store._prefix + hash_key(other))
    await store._put(other, newest, clock() - 61)
    assert await store.redis.client.exists(store._prefix + hash_key(other)) == 0


@pytest.mark.parametrize("text", ["", "{", "[]", '{"data": "{}"}', '{"unheard": 1}', "7"])
async def test_what_another_version_left_in_the_cache_is_passed_over(site: Auth, text: str) -> None:
    store = cache_of(site)
    cookie = await kept(store, a=1)
    await store.redis.client.hset(store._prefix + hash_key(cookie), "record", text)
    assert await store.load(cookie) == {"a": 1}


async def test_what_the_database_knows_better_is_taken_from_there(site: Auth, clock: FrozenClock) -> None:
    store = cache_of(site)
    login = await login_of(store, "1", data="old")
    key = str(login.session_key)
    # As another process does that cannot reach the cache.
    elsewhere = await store.store.load(key)
    elsewhere["data"] = "new"
    await store.store.save(elsewhere, 1000)
    assert (await store.load(key))["data"] == "new"
    assert (await store.load(key))["data"] == "new"
    clock.tick(100)
    await store.store.touch(elsewhere, 1000)
    loaded = await store.load(key)
    assert loaded.last_seen == clock.now
    await store.store.revoke("1", id_of(login))
    assert (await store.load(key)).is_empty()


async def test_what_is_over_is_not_served_however_long_it_stands_in_the_cache(site: Auth, clock: FrozenClock) -> None:
    cookie = await kept(cache_of(site), a=1)
    clock.tick(60)
    assert (await cache_of(site).load(cookie)).is_empty()


async def test_a_cache_is_tried_again_after_a_minute(
    tmp_path: Path, clock: FrozenClock, caplog: pytest.LogCaptureFixture
) -> None:
    with redis_server(tmp_path, durable=False) as server:
        async with with_store("sqlite", tmp_path, clock) as auth:
            database_store: Any = auth.sessions
            store = CachedStore(database_store, server.url, clock=clock)
            cookie = await kept(store, a=1)
            server.kill()
            for _ in range(3):
                assert await store.load(cookie) == {"a": 1}
            assert caplog.text.count("from the database alone for 60 seconds") == 1
            server.start()
            clock.tick(59)
            session = await store.load(cookie)
            session["b"] = 2
            await store.save(session, 1000)
            assert await store.redis.client.dbsize() == 0, "it is left alone"
            clock.tick(1)
            await store.load(cookie)
            await store.load(cookie)
            assert await store.redis.client.dbsize() == 1
            server.kill()
            assert await store.load(cookie) == {"a": 1, "b": 2}
            clock.tick(61)
            assert await store.load(cookie) == {"a": 1, "b": 2}
            assert caplog.text.count("from the database alone for 60 seconds") == 3
            await store.close()

"""RedisStore, and CachedStore with Redis in front of a database: what applies to these stores only."""

import asyncio
import contextlib
import importlib
from collections.abc import AsyncIterator, Iterator
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
from ..support.servers import redis_server
from .test_stores import public_id_of, save_login, save_new

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


async def redis_names(store: RedisStore, pattern: str = "*") -> list[str]:
    prefix = store._session.removesuffix("session:")
    return [name async for name in store.redis.client.scan_iter(f"{prefix}{pattern}")]


async def test_redis_holds_no_session_key_and_every_entry_expires(store: RedisStore) -> None:
    cookie = await save_new(store, a=1)
    login = await save_login(store, "1")
    names = await redis_names(store)
    assert len(names) == 3
    for name in names:
        assert 0 < await store.redis.client.ttl(name) <= 1000
        assert cookie not in name
        assert str(login.session_key) not in name
    assert hash_key(cookie) in " ".join(names)
    login.flush()
    await store.delete(str(login.key_to_delete))
    assert len(await redis_names(store)) == 1, "the index of a user is deleted with their last session"


async def test_expired_sessions_are_removed_from_the_index_of_a_user(store: RedisStore, clock: FrozenClock) -> None:
    for _ in range(10):
        await save_login(store, "1")
        clock.tick(500)
    (index,) = await redis_names(store, "user:*")
    assert await store.redis.client.zcard(index) == 2
    # A session that Redis evicted because memory was short is not listed.
    name = next(iter(await redis_names(store, "session:*")))
    await store.redis.client.delete(*await redis_names(store, "session:*"))
    assert name
    assert await store.list_sessions("1") == []
    assert await store.revoke_all("1") == 0


async def test_loading_and_saving_a_session_cost_one_command_each(store: RedisStore) -> None:
    session = await save_login(store, "1")
    await store.load(str(session.session_key))  # Redis knows both scripts now
    session["a"] = 1
    with counted_commands(store) as commands:
        await store.load(str(session.session_key))
        await store.load("not a key")
        await store.load("")
        await store.save(session, 60)
    assert commands == ["EVALSHA", "EVALSHA"]


@contextlib.contextmanager
def counted_commands(store: RedisStore | CachedStore) -> Iterator[list[str]]:
    """Yields a list to which the names of the commands are added that the connections send."""
    commands: list[str] = []
    connection_class = store.redis.client.connection_pool.connection_class
    send = connection_class.send_command

    async def counting(self: Any, *arguments: Any, **options: Any) -> None:
        commands.append(str(arguments[0]))
        await send(self, *arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(connection_class, "send_command", counting)
        yield commands


async def test_scripts_are_sent_again_after_a_script_flush(store: RedisStore) -> None:
    cookie = await save_new(store, a=1)
    await store.redis.client.script_flush()
    session = await store.load(cookie)
    session["b"] = 2
    await store.save(session, 60)
    assert await store.load(cookie) == {"a": 1, "b": 2}


async def test_a_save_whose_reply_was_lost_can_be_repeated(store: RedisStore) -> None:
    """The Redis client repeats a command if the connection breaks before the reply."""
    session = await store.load(await save_new(store, a=1))
    session.cycle_key()
    session["b"] = 2
    key = session.next_key
    retry = SessionBase(dict(session), record=session.record, clock=store._clock)
    retry._cycled_key, retry._next_key = session.stored_key, key
    assert await store.save(session, 60) == key
    assert await store.save(retry, 60) == key
    assert await store.load(key) == {"a": 1, "b": 2}


@pytest.mark.parametrize("missing", ["public_id", "expires"])
async def test_a_damaged_hash_is_loaded_as_an_empty_session(
    store: RedisStore, missing: str, caplog: pytest.LogCaptureFixture
) -> None:
    cookie = await save_new(store, a=1)
    (name,) = await redis_names(store)
    await store.redis.client.hdel(name, missing)
    assert await store.load(cookie) == {}
    assert "is not a valid session record" in caplog.text
    assert cookie not in caplog.text


async def test_one_store_serves_several_event_loops(prefix: str) -> None:
    store = RedisStore(REDIS_URL, prefix=prefix)
    cookie = await save_new(store, a=1)

    async def load_in_another_loop() -> dict[str, Any]:
        data = dict(await store.load(cookie))
        await store.close()
        return data

    for _ in range(3):
        assert await asyncio.to_thread(lambda: asyncio.run(load_in_another_loop())) == {"a": 1}
    assert len(store.redis._clients._values) <= 2
    await store.close()
    await store.close()


async def test_redis_can_use_a_unix_socket_and_a_password(tmp_path: Path) -> None:
    with redis_server(tmp_path) as server:
        async with Redis.from_url(server.url) as client:
            await client.config_set("requirepass", "a secret that is long")
        store_with_password = RedisStore(server.url.replace("//", "//:a secret that is long@"))
        await save_new(store_with_password, a=1)
        store_with_wrong_password = RedisStore(server.url.replace("//", "//:wrong@"))
        for store in (store_with_wrong_password, RedisStore(server.url)):
            with pytest.raises(Unavailable) as error:
                await save_new(store, a=1)
            assert "wrong" not in str(error.value).replace("wrong number", "")
            await store.close()
        await store_with_password.close()


async def test_a_redis_without_free_memory_is_unavailable(tmp_path: Path) -> None:
    with redis_server(tmp_path, durable=False) as server:
        async with Redis.from_url(server.url) as client:
            await client.config_set("maxmemory", "1")
        store = RedisStore(server.url)
        with pytest.raises(Unavailable, match="memory"):
            await save_new(store, a=1)
        await store.close()


async def test_waiting_for_a_free_connection_ends_with_the_timeout(prefix: str) -> None:
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
        assert answers == [None] * 20  # they take turns on one connection
    finally:
        await redis.close()


async def test_each_command_gets_its_own_reply_however_many_run_at_once(prefix: str) -> None:
    redis = RedisClients(REDIS_URL, max_connections=3)
    try:
        replies = await asyncio.gather(*(redis.run("ECHO", f"{prefix}{n}") for n in range(100)))
        assert replies == [f"{prefix}{n}" for n in range(100)]
        waiting = asyncio.create_task(redis.run("BLPOP", f"{prefix}nothing", 5))
        await asyncio.sleep(0.05)
        waiting.cancel()
        await asyncio.wait([waiting])
        assert await asyncio.gather(*(redis.run("ECHO", n) for n in "abcdef")) == [*"abcdef"]
        pool = redis.client.connection_pool
        assert len(pool._in_use_connections) + len(pool._available_connections) <= 3
    finally:
        await redis.close()


async def test_a_connection_that_redis_has_closed_is_replaced(tmp_path: Path) -> None:
    with redis_server(tmp_path, durable=False) as server:
        redis = RedisClients(server.url)
        await redis.run("SET", "a", "1")
        for _ in range(3):
            await redis.execute(redis.client.client_kill_filter(_type="normal", skipme=True))
            assert await redis.run("GET", "a") == "1"
        await redis.close()


@pytest.mark.parametrize("url", ["", "127.0.0.1", "http://127.0.0.1", "redis://127.0.0.1:port", "redis//:secret@x"])
def test_an_invalid_url_is_refused_and_not_shown_in_the_message(url: str) -> None:
    with pytest.raises(ImproperlyConfigured, match="redis://user:password@host") as error:
        RedisStore(url)
    assert "secret" not in str(error.value)


def test_a_missing_library_is_reported_with_the_install_command(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Any:
        raise ModuleNotFoundError(name)

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(ImproperlyConfigured, match=r"starlette-contrib-auth\[redis\]"):
        RedisClients(REDIS_URL)


# CachedStore


@pytest.fixture
async def site(tmp_path: Path, clock: FrozenClock) -> AsyncIterator[Auth]:
    async with with_store("cached", tmp_path, clock) as auth:
        await auth.users.create_user("ann", password=PASSWORD)
        yield auth


def cached_store(auth: Auth) -> CachedStore:
    assert isinstance(auth.sessions, CachedStore)
    return auth.sessions


async def get_ann(auth: Auth) -> User:
    ann: User | None = await auth.users.get_by_username("ann")
    assert ann is not None
    return ann


async def test_a_logged_in_request_costs_one_command_and_one_statement_and_an_anonymous_one_no_statement(
    site: Auth, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with client_of(make_app(site)) as client, client_of(make_app(site)) as visitor:
        await log_in(client, await get_ann(site), site)
        await visitor.get("/remember?a=1")
        statements = count_statements(site, monkeypatch)
        redis: Any = cached_store(site).redis.client
        before = (await redis.info("stats"))["total_commands_processed"]
        assert (await client.get("/members")).text == "members"
        assert [statement.split()[0] for statement in statements] == ["SELECT"]
        assert "data" not in statements[0].split("FROM")[0], "the data comes from the cache"
        statements.clear()
        assert (await visitor.get("/whoami")).json()["session"] == {"a": "1"}
        assert statements == []
        assert (await redis.info("stats"))["total_commands_processed"] - before == 3  # includes the INFO command


async def test_an_anonymous_session_is_cached_for_a_minute_at_most(site: Auth, clock: FrozenClock) -> None:
    async with client_of(make_app(site)) as visitor:
        await visitor.get("/remember?a=1")
        (name,) = [name async for name in cached_store(site).redis.client.scan_iter(f"{cached_store(site)._prefix}*")]
        assert 0 < await cached_store(site).redis.client.ttl(name) <= 60


async def test_a_slow_request_does_not_cache_an_old_record(site: Auth, clock: FrozenClock) -> None:
    """It reads the database, another request changes or ends the session, and then it writes to the cache."""
    store = cached_store(site)
    cookie = await save_new(store, a=1)
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
    # A request that takes longer than a record may be cached does not cache its record at all.
    second_cookie = await save_new(store, b=1)
    newest = (await store.store.load(second_cookie)).record
    assert newest is not None
    await store.redis.client.delete(store._prefix + hash_key(second_cookie))
    await store._put(second_cookie, newest, clock() - 61)
    assert await store.redis.client.exists(store._prefix + hash_key(second_cookie)) == 0


@pytest.mark.parametrize("text", ["", "{", "[]", '{"data": "{}"}', '{"unheard": 1}', "7"])
async def test_a_cached_record_of_another_version_is_ignored(site: Auth, text: str) -> None:
    store = cached_store(site)
    cookie = await save_new(store, a=1)
    await store.redis.client.hset(store._prefix + hash_key(cookie), "record", text)
    assert await store.load(cookie) == {"a": 1}


async def test_a_newer_record_in_the_database_replaces_the_cached_one(site: Auth, clock: FrozenClock) -> None:
    store = cached_store(site)
    login = await save_login(store, "1", data="old")
    key = str(login.session_key)
    # Another process that cannot reach Redis does this.
    other_session = await store.store.load(key)
    other_session["data"] = "new"
    await store.store.save(other_session, 1000)
    assert (await store.load(key))["data"] == "new"
    assert (await store.load(key))["data"] == "new"
    clock.tick(100)
    await store.store.touch(other_session, 1000)
    loaded = await store.load(key)
    assert loaded.last_seen == clock.now
    await store.store.revoke("1", public_id_of(login))
    assert (await store.load(key)).is_empty()


async def test_an_expired_session_is_not_served_from_the_cache(site: Auth, clock: FrozenClock) -> None:
    cookie = await save_new(cached_store(site), a=1)
    clock.tick(60)
    assert (await cached_store(site).load(cookie)).is_empty()


async def test_redis_is_tried_again_a_minute_after_an_outage(
    tmp_path: Path, clock: FrozenClock, caplog: pytest.LogCaptureFixture
) -> None:
    with redis_server(tmp_path, durable=False) as server:
        async with with_store("sqlite", tmp_path, clock) as auth:
            database_store: Any = auth.sessions
            store = CachedStore(database_store, server.url, clock=clock)
            cookie = await save_new(store, a=1)
            server.kill()
            for _ in range(3):
                assert await store.load(cookie) == {"a": 1}
            assert caplog.text.count("from the database only, for 60 seconds") == 1
            server.start()
            clock.tick(59)
            session = await store.load(cookie)
            session["b"] = 2
            await store.save(session, 1000)
            assert await store.redis.client.dbsize() == 0, "Redis is not used yet"
            clock.tick(1)
            await store.load(cookie)
            await store.load(cookie)
            assert await store.redis.client.dbsize() == 1
            server.kill()
            assert await store.load(cookie) == {"a": 1, "b": 2}
            clock.tick(61)
            assert await store.load(cookie) == {"a": 1, "b": 2}
            assert caplog.text.count("from the database only, for 60 seconds") == 3
            await store.close()

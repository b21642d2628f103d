"""RedisStore whose Redis has lost a user's list of sessions, and kept the sessions."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from starlette_auth import RedisStore, SessionInterrupted, User
from starlette_auth.core.signing import hash_key
from starlette_auth.testing import FrozenClock, log_in

from ..conftest import PASSWORD, REDIS_URL, client_of, needs_redis, redis_prefix, with_store
from ..support.apps import make_app
from ..support.redis_servers import Node
from .test_stores import public_id_of, save_login, save_new

pytestmark = needs_redis
KINDS = ["redis", "redis cluster"]


@pytest.fixture
def clock() -> FrozenClock:
    return FrozenClock()


@pytest.fixture(params=KINDS)
async def store(request: pytest.FixtureRequest, clock: FrozenClock, tmp_path: Path) -> AsyncIterator[RedisStore]:
    async with with_store(request.param, tmp_path, clock) as auth:
        assert isinstance(auth.sessions, RedisStore)
        yield auth.sessions


async def evict_lists(store: RedisStore) -> int:
    """Deletes all keys that are no session, as Redis may when its memory is full. Returns their number."""
    prefix = store._session.removesuffix("session:")
    names = [name async for name in store.redis.client.scan_iter(f"{prefix}*")]
    lists = [name for name in names if await store.redis.client.type(name) != "hash"]
    for name in lists:
        await store.redis.client.delete(name)
    return len(lists)


async def listed(store: RedisStore, user: str = "1") -> set[str]:
    return {public_id_of(session) for session in await store.list_sessions(user)}


async def test_a_session_is_listed_again_when_it_is_used(store: RedisStore, clock: FrozenClock) -> None:
    first, second, third = [await save_login(store, "1") for _ in range(3)]
    assert await evict_lists(store) == 1
    assert (await store.load(str(first.session_key))).user_id == "1"
    assert await listed(store) == {public_id_of(first)}
    second["a"] = 1
    await store.save(second, 1000)
    clock.tick(100)
    await store.touch(third, 1000)
    assert await listed(store) == {public_id_of(first), public_id_of(second), public_id_of(third)}
    assert await store.revoke("1", public_id_of(first)) is True
    assert await store.revoke_all("1") == 2


@pytest.mark.parametrize("next_login", [False, True])
async def test_revoke_all_ends_the_sessions_that_are_not_listed(store: RedisStore, next_login: bool) -> None:
    kept, used, unused = [await save_login(store, "1") for _ in range(3)]
    in_progress = await store.load(str(unused.session_key))
    other_user = await save_login(store, "2")
    await evict_lists(store)
    if next_login:  # it begins a new list
        await save_login(store, "1")
    await store.load(str(used.session_key))
    assert await store.revoke_all("1", keep=public_id_of(kept)) == 1 + next_login
    for session in (used, unused):
        assert (await store.load(str(session.session_key))).is_empty()
    for change in (dict.clear, type(in_progress).cycle_key):
        change(in_progress)
        with pytest.raises(SessionInterrupted):
            await store.save(in_progress, 1000)
    await store.touch(unused, 1000)
    assert (await store.load(str(unused.session_key))).is_empty()
    assert (await store.load(str(kept.session_key))).user_id == "1"
    assert (await store.load(str(other_user.session_key))).user_id == "2"
    assert await listed(store) == {public_id_of(kept)}
    assert await store.revoke_all("1") == 1
    assert (await store.load(str(kept.session_key))).is_empty()
    later = await save_login(store, "1")
    assert (await store.load(str(later.session_key))).user_id == "1"


async def test_revoke_all_keeps_no_session_that_ended_before(store: RedisStore) -> None:
    kept, other = [await save_login(store, "1") for _ in range(2)]
    await evict_lists(store)
    await store.revoke_all("1", keep=public_id_of(kept))
    await store.revoke_all("1", keep=public_id_of(other))
    for session in (kept, other):
        assert (await store.load(str(session.session_key))).is_empty()


async def test_a_single_session_that_is_not_listed_can_be_ended(store: RedisStore) -> None:
    mine, stolen = [await save_login(store, "1") for _ in range(2)]
    await evict_lists(store)
    await store.load(str(mine.session_key))
    assert await store.revoke("1", public_id_of(stolen)) is False, "the store does not know whether it existed"
    assert (await store.load(str(stolen.session_key))).is_empty()
    assert (await store.load(str(mine.session_key))).user_id == "1"


async def test_a_list_that_was_evicted_does_not_log_out_a_user_and_log_out_everywhere_works(tmp_path: Path) -> None:
    async with with_store("redis", tmp_path) as auth:
        ann: User = await auth.users.create_user("ann", password=PASSWORD)
        store: Any = auth.sessions
        app = make_app(auth)
        async with client_of(app) as owner, client_of(app) as attacker:
            await log_in(owner, ann, auth)
            await log_in(attacker, await auth.users.get(ann.id) or ann, auth)
            await evict_lists(store)
            assert (await owner.get("/whoami")).json()["username"] == "ann"
            assert await auth.user_sessions.revoke_all(ann) == 1
            for client in (owner, attacker):
                assert (await client.get("/whoami")).json()["username"] == ""


async def test_without_free_memory_sessions_can_be_used_listed_and_ended(tmp_path: Path, clock: FrozenClock) -> None:
    node = Node(tmp_path)
    try:
        store = RedisStore(f"redis://127.0.0.1:{node.port}", clock=clock)
        login, cookie = await save_login(store, "1"), await save_new(store, a=1)
        await evict_lists(store)
        node.run("CONFIG", "SET", "maxmemory", "1")
        assert (await store.load(str(login.session_key))).user_id == "1"
        assert await store.load(cookie) == {"a": 1}
        assert len(await store.list_sessions("1")) == 1
        assert await store.revoke_all("3") == 0
        await store.delete(cookie)
        assert await store.revoke_all("1") == 1
        await store.close()
    finally:
        node.kill()


async def test_sessions_of_the_previous_version_continue(clock: FrozenClock) -> None:
    """The previous version had equal hashes and lists, but no mark for revoked sessions."""
    async with redis_prefix() as prefix:
        store = RedisStore(REDIS_URL, prefix=prefix, clock=clock)
        key = "k" * 43
        name = f"{prefix}session:{hash_key(key)}"
        fields = {"public_id": "p", "user_id": "1", "created": 1, "last_seen": 1, "expires": int(clock.now) + 100}
        await store.redis.client.hset(
            name, mapping={**fields, "address": "", "user_agent": "", '."_auth_user_id"': '"1"'}
        )
        await store.redis.client.zadd(f"{prefix}user:1", {name: clock.now + 100})
        assert (await store.load(key)).user_id == "1"
        assert await listed(store) == {"p"}
        assert await store.revoke_all("1") == 1
        assert (await store.load(key)).is_empty()
        await store.close()

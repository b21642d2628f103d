"""Session stores: behaviour that all stores share, and behaviour of single stores."""

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any

import pytest
import sqlalchemy as sa
from databases import Database

from starlette_auth import (
    Auth,
    CookieStore,
    DatabaseStore,
    DjangoCookieStore,
    ImproperlyConfigured,
    MemoryStore,
    RedisStore,
    SessionBase,
    SessionInterrupted,
    SessionStore,
    SessionTooLarge,
    User,
)
from starlette_auth.database.statements import Row
from starlette_auth.sessions.records import SessionRecord
from starlette_auth.testing import FrozenClock

from ..conftest import (
    DJANGO,
    ON_MANY_REDIS,
    ON_SERVER,
    PASSWORD,
    SECRET_KEY,
    client_of,
    installed,
    name_of,
    post_login,
    with_store,
)
from ..support.apps import make_app


@pytest.fixture
def clock() -> FrozenClock:
    return FrozenClock()


@pytest.fixture(params=["cookie", "django cookie", *ON_SERVER, *ON_MANY_REDIS, *DJANGO], ids=name_of)
async def store(request: pytest.FixtureRequest, clock: FrozenClock, tmp_path: Path) -> AsyncIterator[SessionStore]:
    async with with_store(request.param, tmp_path, clock) as auth:
        yield auth.sessions


@pytest.fixture(params=[*ON_SERVER, *ON_MANY_REDIS, *DJANGO], ids=name_of)
async def server_side(
    request: pytest.FixtureRequest, clock: FrozenClock, tmp_path: Path
) -> AsyncIterator[SessionStore]:
    """A store that can revoke sessions; a store of signed cookies cannot."""
    async with with_store(request.param, tmp_path, clock) as auth:
        yield auth.sessions


async def save_new(store: SessionStore, **data: Any) -> str:
    """Saves a new session with `data`; returns its cookie."""
    session = await store.load("")
    session.update(data)
    return await store.save(session, max_age=60)


async def test_a_saved_session_can_be_loaded(store: SessionStore) -> None:
    data = {"text": "é☃\x00\ud800", "number": 1.5, "nested": {"list": [1, None, True]}}
    loaded = await store.load(await save_new(store, **data))
    assert loaded == data
    assert not loaded.modified
    assert not loaded.is_empty()


async def test_an_unknown_key_is_never_adopted(store: SessionStore) -> None:
    foreign_key = "A" * 43
    session = await store.load(foreign_key)
    assert session.is_empty()
    session["cart"] = [1]
    cookie = await store.save(session, max_age=60)
    assert cookie != foreign_key
    assert (await store.load(foreign_key)).is_empty()


@pytest.mark.parametrize("cookie", ["", "x", "A" * 42 + "é", "A" * 42 + ";", "é" * 43, "." * 300, "a.b.c", "\x00" * 43])
async def test_a_malformed_cookie_is_an_empty_session(store: SessionStore, cookie: str) -> None:
    assert (await store.load(cookie)).is_empty()


async def test_a_session_expires_after_max_age(store: SessionStore, clock: FrozenClock) -> None:
    if isinstance(store, DjangoCookieStore):
        pytest.skip("this store uses SESSION_COOKIE_AGE")
    cookie = await save_new(store, a=1)
    clock.tick(59)
    assert await store.load(cookie) == {"a": 1}
    clock.tick(1)
    assert (await store.load(cookie)).is_empty()


async def test_saving_again_keeps_the_key_and_extends_the_session(store: SessionStore, clock: FrozenClock) -> None:
    if isinstance(store, DjangoCookieStore):
        pytest.skip("this store uses SESSION_COOKIE_AGE")
    session = await store.load(await save_new(store, a=1))
    key = session.session_key
    session["b"] = 2
    clock.tick(50)
    cookie = await store.save(session, max_age=60)
    clock.tick(50)
    again = await store.load(cookie)
    assert again == {"a": 1, "b": 2}
    assert again.session_key == key


async def test_a_deleted_session_is_gone_and_cannot_be_saved(server_side: SessionStore) -> None:
    cookie = await save_new(server_side, a=1)
    slow = await server_side.load(cookie)
    await server_side.delete(cookie)
    await server_side.delete(cookie)
    assert (await server_side.load(cookie)).is_empty()
    slow["late"] = True
    with pytest.raises(SessionInterrupted):
        await server_side.save(slow, max_age=60)
    assert (await server_side.load(cookie)).is_empty()


async def test_only_expired_sessions_are_cleared(store: SessionStore, clock: FrozenClock) -> None:
    if isinstance(store, DjangoCookieStore):
        pytest.skip("this store uses SESSION_COOKIE_AGE")
    await save_new(store, a=1)
    clock.tick(30)
    fresh = await save_new(store, b=2)
    clock.tick(31)
    # Redis deletes expired sessions itself, and a cookie store has none on the server.
    assert await store.clear_expired() == (0 if isinstance(store, CookieStore | RedisStore) else 1)
    assert await store.load(fresh) == {"b": 2}
    assert await store.clear_expired() == 0


async def test_a_value_that_json_cannot_represent_is_refused_with_its_name(store: SessionStore) -> None:
    session = await store.load("")
    session["fine"] = 1
    session["when"] = datetime.now(UTC)
    with pytest.raises(TypeError, match=r"session\['when'\].*isoformat"):
        await store.save(session, max_age=60)


@pytest.mark.parametrize("value", [{1: "a"}, [{"deep": ({None: 1},)}]])
async def test_keys_that_json_would_turn_into_text_are_refused(store: SessionStore, value: Any) -> None:
    session = await store.load("")
    session["value"] = value
    with pytest.raises(TypeError, match="not text"):
        await store.save(session, max_age=60)


async def test_concurrent_changes_of_different_entries_are_all_kept(server_side: SessionStore) -> None:
    cookie = await save_new(server_side, a=1, b=2, c=3)
    sessions = [await server_side.load(cookie) for _ in range(4)]
    sessions[0]["a"] = 10
    del sessions[1]["b"]
    sessions[2]["d"] = [4]
    sessions[3]["a"] = 11
    for session in sessions:
        assert await server_side.save(session, max_age=60) == cookie
    assert await server_side.load(cookie) == {"a": 11, "c": 3, "d": [4]}
    # A second save with the same objects: each saves only what it has changed since its first save.
    sessions[0]["e"] = 5
    sessions[1]["c"] = {"deep": []}
    for session in sessions[:2]:
        await server_side.save(session, max_age=60)
    assert await server_side.load(cookie) == {"a": 11, "c": {"deep": []}, "d": [4], "e": 5}


async def test_a_deleted_entry_stays_deleted_when_another_request_saves(server_side: SessionStore) -> None:
    cookie = await save_new(server_side, secret="x", another=1)
    slow, fast = await server_side.load(cookie), await server_side.load(cookie)
    del fast["secret"]
    await server_side.save(fast, max_age=60)
    slow["more"] = 2
    assert slow["secret"] == "x"
    await server_side.save(slow, max_age=60)
    assert await server_side.load(cookie) == {"another": 1, "more": 2}


async def test_cycling_the_key_keeps_concurrent_changes(server_side: SessionStore) -> None:
    cookie = await save_new(server_side, a=1)
    slow, cycled = await server_side.load(cookie), await server_side.load(cookie)
    slow["b"] = 2
    await server_side.save(slow, max_age=60)
    cycled.cycle_key()
    cycled["c"] = 3
    new = await server_side.save(cycled, max_age=60)
    assert await server_side.load(new) == {"a": 1, "b": 2, "c": 3}
    late = await server_side.load(cookie)
    assert late.is_empty()
    slow["d"] = 4
    with pytest.raises(SessionInterrupted):
        await server_side.save(slow, max_age=60)
    assert await server_side.load(new) == {"a": 1, "b": 2, "c": 3}


async def test_an_emptied_session_can_be_filled_by_a_request_in_progress(
    server_side: SessionStore, clock: FrozenClock
) -> None:
    cookie = await save_new(server_side, message="shown once")
    reader, writer = await server_side.load(cookie), await server_side.load(cookie)
    reader.clear()
    assert await server_side.save(reader, max_age=1000) == ""
    assert await server_side.load(cookie) == {}
    writer["cart"] = [1]
    assert await server_side.save(writer, max_age=1000) == cookie
    clock.tick(61)
    assert await server_side.load(cookie) == {"cart": [1]}
    del writer["cart"]
    assert await server_side.save(writer, max_age=1000) == ""
    clock.tick(60)
    assert (await server_side.load(cookie)).is_empty()


async def test_an_expired_session_cannot_be_saved(server_side: SessionStore, clock: FrozenClock) -> None:
    cookie = await save_new(server_side, a=1)
    session = await server_side.load(cookie)
    clock.tick(60)
    session["b"] = 2
    with pytest.raises(SessionInterrupted):
        await server_side.save(session, max_age=60)
    session.cycle_key()
    with pytest.raises(SessionInterrupted):
        await server_side.save(session, max_age=60)


@pytest.mark.parametrize("name", ["", ".", "user_id", "expires", "é☃", "\x00\ud800", '"', "a:b"])
async def test_an_entry_may_have_any_name(server_side: SessionStore, name: str) -> None:
    cookie = await save_new(server_side, **{name: 1, "other": 2})
    session = await server_side.load(cookie)
    assert session == {name: 1, "other": 2}
    session[name] = "changed"
    await server_side.save(session, max_age=60)
    session = await server_side.load(cookie)
    assert session == {name: "changed", "other": 2}
    del session[name]
    await server_side.save(session, max_age=60)
    assert await server_side.load(cookie) == {"other": 2}


# The sessions of a user


async def save_login(store: SessionStore, user: str, agent: str = "", **data: Any) -> SessionBase:
    session = await store.load("")
    session.update({"_auth_user_id": user, **data})
    session.address, session.user_agent = "192.0.2.7", agent
    await store.save(session, max_age=1000)
    return session


def user_agents_of(sessions: list[SessionBase]) -> list[str]:
    return [session.record.user_agent for session in sessions if session.record is not None]


def public_id_of(session: SessionBase) -> str:
    assert session.record is not None
    return session.record.public_id


async def test_the_sessions_of_a_user_are_listed_without_their_session_keys(
    server_side: SessionStore, clock: FrozenClock
) -> None:
    if not server_side.supports_user_lookup:
        pytest.skip("Django's sessions have no such data")
    await save_new(server_side, anonymous=True)
    await save_login(server_side, "2", "of another user")
    for agent in ("first", "second", "third"):
        await save_login(server_side, "1", agent, data="text")
        clock.tick(100)
    sessions = await server_side.list_sessions("1")
    assert user_agents_of(sessions) == ["third", "second", "first"]
    assert [session.session_key for session in sessions] == [None] * 3
    assert sessions[0]["data"] == "text"
    record = sessions[0].record
    assert record is not None
    assert (record.created, record.last_seen, record.address) == (clock.now - 100, clock.now - 100, "192.0.2.7")
    assert record.expires == clock.now + 900
    assert len({public_id_of(session) for session in sessions}) == 3
    clock.tick(750)
    assert user_agents_of(await server_side.list_sessions("1")) == ["third", "second"]
    assert await server_side.list_sessions("3") == []
    assert await server_side.list_sessions("unknown") == []


async def test_last_seen_is_updated_at_most_once_a_minute(server_side: SessionStore, clock: FrozenClock) -> None:
    if not server_side.supports_user_lookup:
        pytest.skip("Django's sessions have no such data")
    session = await save_login(server_side, "1")
    key, started_at = str(session.session_key), clock.now
    for passed, seen in ((0, 0), (59, 0), (61, 61), (100, 61), (130, 130)):
        clock.now = started_at + passed
        loaded = await server_side.load(key)
        assert loaded.needs_touch is (passed in (61, 130))
        loaded.address = f"192.0.2.{passed}"
        await server_side.touch(loaded, max_age=1000)
        await server_side.touch(loaded, max_age=2000)
        record = (await server_side.list_sessions("1"))[0].record
        assert record is not None
        assert (record.last_seen, record.expires) == (started_at + seen, started_at + seen + 1000)
        assert record.address == ("192.0.2.7" if not seen else f"192.0.2.{seen}")
        assert (await server_side.load(key)).last_seen == started_at + seen


async def test_touching_a_deleted_session_does_not_restore_it(server_side: SessionStore, clock: FrozenClock) -> None:
    session = await save_login(server_side, "1")
    key = str(session.session_key)
    clock.tick(100)
    await server_side.delete(key)
    await server_side.touch(session, max_age=1000)
    assert (await server_side.load(key)).is_empty()
    await server_side.touch(await server_side.load(""), max_age=1000)
    assert await server_side.list_sessions("1") == []


async def test_sessions_are_revoked_by_their_public_ids(server_side: SessionStore) -> None:
    if not server_side.supports_user_lookup:
        pytest.skip("Django's sessions have no such data")
    session_of_another_user = await save_login(server_side, "2")
    first, second, third = [await save_login(server_side, "1", agent) for agent in ("first", "second", "third")]
    assert await server_side.revoke("1", public_id_of(second)) is True
    assert await server_side.revoke("1", public_id_of(second)) is False
    assert await server_side.revoke("1", public_id_of(session_of_another_user)) is False
    assert await server_side.revoke("unknown", public_id_of(session_of_another_user)) is False
    assert (await server_side.load(str(second.session_key))).is_empty()
    second["late"] = True
    with pytest.raises(SessionInterrupted):
        await server_side.save(second, max_age=60)
    assert await server_side.revoke_all("1", keep=public_id_of(first)) == 1
    assert user_agents_of(await server_side.list_sessions("1")) == ["first"]
    assert (await server_side.load(str(third.session_key))).is_empty()
    assert await server_side.revoke_all("1") == 1
    assert await server_side.revoke_all("1") == 0
    assert await server_side.list_sessions("1") == []
    assert not (await server_side.load(str(session_of_another_user.session_key))).is_empty()


async def test_cycling_the_key_does_not_protect_a_session_from_being_revoked(server_side: SessionStore) -> None:
    for _ in range(20):
        session = await save_login(server_side, "1")
        session.cycle_key()
        saved, _ = await asyncio.gather(
            server_side.save(session, max_age=60), server_side.revoke_all("1"), return_exceptions=True
        )
        assert isinstance(saved, (str, SessionInterrupted))
        assert await server_side.list_sessions("1") == []
        assert isinstance(saved, SessionInterrupted) or (await server_side.load(saved)).is_empty()


async def test_a_session_keeps_its_public_id_when_its_key_or_user_changes(
    server_side: SessionStore, clock: FrozenClock
) -> None:
    if not server_side.supports_user_lookup:
        pytest.skip("Django's sessions have no such data")
    session = await save_login(server_side, "1", "phone")
    before = public_id_of(session)
    clock.tick(10)
    session.cycle_key()
    await server_side.save(session, max_age=1000)
    sessions = await server_side.list_sessions("1")
    assert [public_id_of(listed) for listed in sessions] == [before]
    assert sessions[0].created == clock.now - 10
    del session["_auth_user_id"]
    session["cart"] = [1]
    await server_side.save(session, max_age=1000)
    assert await server_side.list_sessions("1") == []
    assert await server_side.revoke_all("1") == 0
    session["_auth_user_id"] = "2"
    await server_side.save(session, max_age=1000)
    assert [public_id_of(listed) for listed in await server_side.list_sessions("2")] == [before]


async def test_sessions_in_cookies_cannot_be_listed_or_revoked(clock: FrozenClock) -> None:
    store = CookieStore(SECRET_KEY, clock=clock)
    for operation in (lambda: store.list_sessions("1"), lambda: store.revoke("1", "x"), lambda: store.revoke_all("1")):
        with pytest.raises(ImproperlyConfigured, match="Use DatabaseStore, RedisStore or CachedStore"):
            await operation()
    await store.touch(await store.load(""), 60)
    await store.close()


# The session object


def loaded(**data: Any) -> SessionBase:
    record = SessionRecord(
        data=json.dumps(data, separators=(",", ":")), public_id="p", user_id=None, created=1, last_seen=1, expires=2
    )
    return SessionBase(data, session_key="k", record=record)


def test_a_nested_change_counts_as_a_change_and_reading_does_not() -> None:
    session = loaded(cart=[1], flag=1)
    assert session["cart"] == [1]
    assert not session.modified
    session["cart"].append(2)
    assert session.modified


def test_replacing_1_by_true_is_a_change() -> None:
    session = loaded(flag=1)
    session["flag"] = True
    assert session.modified


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({"a": 1}, {"a": True}),
        ({"a": 1}, {"a": 1.0}),
        ({"a": 1}, {"a": "1"}),
        ({"a": 1}, {"b": 1}),
        ({"a": 1}, {}),
        ({"a": None}, {"a": 0}),
        ({"a": 1, "b": 2}, {"a": 2, "b": 1}),
        ({"a": [1]}, {"a": [2]}),
        ({"a": {"b": []}}, {"a": {"b": [0]}}),
    ],
)
def test_every_difference_in_json_is_a_change(before: dict[str, Any], after: dict[str, Any]) -> None:
    record = SessionRecord(json.dumps(before, separators=(",", ":")), "id", None, 0, 0, 0)
    session = SessionBase(json.loads(record.data), record=record)
    assert not session.modified
    session.clear()
    session.update(after)
    assert session.modified
    session.clear()
    session.update(before)
    assert not session.modified
    if isinstance(session.get("a"), list):
        session["a"].append(3)
        assert session.modified


def test_modified_can_be_set_as_in_django() -> None:
    session = loaded(a=1)
    session.modified = True
    assert session.modified


def test_emptying_a_session_is_a_change() -> None:
    session = loaded(a=1)
    session.clear()
    assert session.modified
    assert not SessionBase().modified


def test_flush_and_cycle_key_only_record_what_to_do() -> None:
    session = loaded(a=1)
    session.cycle_key()
    assert (session.session_key, session.key_to_delete, session["a"], session.modified) == (None, "k", 1, True)
    session.flush()
    assert (session.key_to_delete, dict(session), session.modified) == ("k", {}, False)
    session["b"] = 1
    assert session.modified
    SessionBase().flush()


def test_cycling_the_key_after_a_login_does_not_attach_the_old_key_again() -> None:
    """A login detaches the session from its old key, also if the application cycles the key afterwards."""
    for detach in (SessionBase.start_new, SessionBase.flush):
        session = loaded(a=1)
        detach(session)
        session["b"] = 2
        session.cycle_key()
        assert session.stored_key is None
        assert session.key_to_delete == "k"
    session = loaded(a=1)
    session.cycle_key()
    session.cycle_key()
    assert session.stored_key == "k"


def test_repr_shows_no_data() -> None:
    assert "secret" not in repr(loaded(token="secret"))


def test_set_expiry_behaves_as_in_django() -> None:
    clock = FrozenClock()
    session = SessionBase(clock=clock)
    now = datetime.fromtimestamp(clock.now, UTC)
    session.max_age = 100
    assert session.get_expiry_age() == 100
    assert session.get_expiry_date() == now + timedelta(seconds=100)
    session.set_expiry(30)
    assert session.get_expiry_age() == 30
    session.set_expiry(timedelta(minutes=2))
    assert session.get_expiry_age() == 120
    clock.tick(60)
    assert session.get_expiry_age() == 60
    session.set_expiry(now - timedelta(seconds=1))
    assert session.get_expiry_age() == 0
    session.set_expiry(0)
    assert session.get_expire_at_browser_close()
    assert session.get_expiry_age() == 100
    session.set_expiry(None)
    assert not session
    with pytest.raises(ValueError, match=r"datetime.now\(UTC\)"):
        session.set_expiry(datetime(2030, 1, 1))


# Single stores


async def test_memory_store_deletes_expired_sessions(clock: FrozenClock) -> None:
    """No `clearsessions` runs in this process."""
    store = MemoryStore(clock=clock)
    for _ in range(5000):
        await save_new(store, a=1)
        clock.tick(1)
        assert len(store._records) <= 1001
    for _ in range(3000):
        await save_new(store, a=1)
    assert len(store._records) >= 3000


async def test_a_session_too_large_for_a_cookie_is_refused_with_the_limit() -> None:
    store = CookieStore(SECRET_KEY)
    session = await store.load("")
    session["much"] = Random(1).randbytes(4000).hex()
    with pytest.raises(SessionTooLarge, match=r"4096.*DatabaseStore"):
        await store.save(session, max_age=60)


async def test_a_session_that_is_only_small_when_compressed_is_refused() -> None:
    store = CookieStore(SECRET_KEY)
    session = await store.load("")
    session["nothing"] = [[]] * 20_000
    with pytest.raises(SessionTooLarge, match="16384"):
        await store.save(session, max_age=60)


async def test_cycling_the_key_keeps_the_data_and_deletes_the_old_key(server_side: SessionStore) -> None:
    old = await save_new(server_side, a=1)
    session = await server_side.load(old)
    session.cycle_key()
    new = await server_side.save(session, max_age=60)
    assert new != old
    assert await server_side.load(new) == {"a": 1}
    assert (await server_side.load(old)).is_empty()
    late = await server_side.load(new)
    late.cycle_key()
    await server_side.delete(new)
    with pytest.raises(SessionInterrupted):
        await server_side.save(late, max_age=60)


async def test_a_signed_cookie_stays_valid_while_its_secret_key_is_listed() -> None:
    cookie = await save_new(CookieStore("an old key, which has been in use"), a=1)
    assert await CookieStore(["a new key, in use from now on", "an old key, which has been in use"]).load(cookie) == {
        "a": 1
    }
    assert (await CookieStore("a new key, in use from now on").load(cookie)).is_empty()


async def test_a_cookie_signed_with_an_old_secret_key_is_signed_again_at_once(database: Database) -> None:
    new, old = "a new key, in use from now on, and long", "an old key, which has been in use, and long"
    async with installed(database, secret_key=old, sessions=CookieStore(old)) as before:
        await before.users.create_user("ann", password=PASSWORD)
        async with client_of(make_app(before)) as client:
            await post_login(client)
            first = client.cookies["session"]
    both = [new, old]
    async with (
        installed(database, secret_key=both, sessions=CookieStore(both)) as auth,
        client_of(make_app(auth), cookies={"session": first}) as client,
    ):
        answer = await client.get("/whoami")
        assert answer.json()["username"] == "ann"
        renewed = answer.headers["set-cookie"].split("=")[1].split(";")[0]
        assert renewed != first
        client.cookies.clear()
        client.cookies.set("session", renewed)
        assert "set-cookie" not in (await client.get("/whoami")).headers, "it is signed again only once"
    async with installed(database, secret_key=new, sessions=CookieStore(new)) as later:
        async with client_of(make_app(later), cookies={"session": renewed}) as client:
            assert (await client.get("/whoami")).json()["username"] == "ann"
        async with client_of(make_app(later), cookies={"session": first}) as client:
            assert (await client.get("/whoami")).json()["username"] == ""


async def test_a_stolen_cookie_ends_with_the_absolute_timeout_or_a_new_password(database: Database) -> None:
    clock = FrozenClock()
    async with installed(database, clock=clock, sessions=CookieStore(SECRET_KEY, clock=clock)) as auth:
        ann = await auth.users.create_user("ann", password=PASSWORD)
        app = make_app(auth)
        async with client_of(app) as owner, client_of(app) as attacker:
            await post_login(owner, remember="on")
            attacker.cookies.update(owner.cookies)
            for _ in range(10):
                clock.tick(3 * 24 * 60 * 60 - 1)
                assert (await attacker.get("/remember?a=1")).status_code == 200
                assert (await attacker.get("/whoami")).json()["username"] == "ann"
            clock.tick(10)
            assert (await attacker.get("/whoami")).json()["username"] == ""
            await post_login(owner)
            attacker.cookies.update(owner.cookies)
            assert (await attacker.get("/whoami")).json()["username"] == "ann"
            await auth.users.set_password(ann, "another good long password")
            assert (await attacker.get("/whoami")).json()["username"] == ""


async def test_a_signed_cookie_with_other_content_is_an_empty_session() -> None:
    store = CookieStore(SECRET_KEY)
    for content in (["1", 2, []], 1, ["k", [1, 2, "3"], {}], ["k", [1, 2, 3], []], [1, [1, 2, 3], {}]):
        assert (await store.load(str(store._newest_signer.dumps(content)))).is_empty()


async def test_the_database_contains_no_session_key(auth: Auth) -> None:
    store = auth.sessions
    cookie = await save_new(store, a=1)
    rows = await auth.database.fetch_all(sa.select(auth.tables.session))
    assert len(rows) == 1
    assert cookie not in str([dict(row) for row in rows])


async def test_a_database_store_works_without_users(database: Database, auth: Auth) -> None:
    store = DatabaseStore(database)
    cookie = await save_new(store, a=1)
    session = await store.load(cookie)
    assert session == {"a": 1}
    assert session.user_row is None


async def test_loading_a_session_also_loads_its_user(auth: Auth, ann: User) -> None:
    session = await auth.sessions.load("")
    auth.session_backend.bind(session, ann, "path")
    cookie = await auth.sessions.save(session, 60)
    row: Row | None = (await auth.sessions.load(cookie)).user_row
    assert row is not None
    assert auth.users.from_row(row) == ann


async def test_address_and_user_agent_are_cut_to_the_column_length(auth: Auth) -> None:
    session = await auth.sessions.load("")
    session["a"] = 1
    session.address, session.user_agent = "1" * 100, "Mozilla\x1b[31m\r\n" + "x" * 400
    await auth.sessions.save(session, 60)
    row = await auth.database.fetch_one(sa.select(auth.tables.session))
    assert row is not None
    assert row["address"] == "1" * 45
    assert row["user_agent"].startswith("Mozilla[31mxxx")
    assert len(row["user_agent"]) == 255


async def test_a_damaged_row_is_an_empty_session(auth: Auth) -> None:
    cookie = await save_new(auth.sessions, a=1)
    await auth.database.execute(sa.update(auth.tables.session).values(data="[1"))
    assert (await auth.sessions.load(cookie)).is_empty()
    await auth.database.execute(sa.update(auth.tables.session).values(data="[1]"))
    assert (await auth.sessions.load(cookie)).is_empty()

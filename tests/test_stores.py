"""What every store of sessions obeys, and what only some do."""

import contextlib
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
    MemoryStore,
    SessionBase,
    SessionInterrupted,
    SessionStore,
    SessionTooLarge,
    User,
)
from starlette_auth.statements import Row

from .conftest import BACKENDS, SECRET_KEY, connected, empty_database, installed, name_of


class Clock:
    """Time that tests set."""

    now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@contextlib.asynccontextmanager
async def opened(kind: str, clock: Clock, folder: Path) -> AsyncIterator[SessionStore]:
    if kind == "memory":
        yield MemoryStore(clock=clock)
    elif kind == "cookie":
        yield CookieStore(SECRET_KEY, clock=clock)
    else:
        async with empty_database(kind, folder) as url, connected(url) as database, installed(database) as auth:
            yield DatabaseStore(database, users=auth.users, clock=clock)


@pytest.fixture(params=["memory", "cookie", *BACKENDS], ids=name_of)
async def store(request: pytest.FixtureRequest, clock: Clock, tmp_path: Path) -> AsyncIterator[SessionStore]:
    async with opened(request.param, clock, tmp_path) as store:
        yield store


@pytest.fixture(params=["memory", *BACKENDS], ids=name_of)
async def server_side(request: pytest.FixtureRequest, clock: Clock, tmp_path: Path) -> AsyncIterator[SessionStore]:
    """A store that can call a session back; a signed cookie cannot be."""
    async with opened(request.param, clock, tmp_path) as store:
        yield store


async def kept(store: SessionStore, **data: Any) -> str:
    """The cookie of a new session that holds `data`."""
    session = await store.load("")
    session.update(data)
    return await store.save(session, max_age=60)


async def test_what_was_saved_is_loaded(store: SessionStore) -> None:
    data = {"text": "é☃\x00\ud800", "number": 1.5, "nested": {"list": [1, None, True]}}
    loaded = await store.load(await kept(store, **data))
    assert loaded == data
    assert not loaded.modified
    assert not loaded.is_empty()


async def test_a_key_from_outside_is_never_adopted(store: SessionStore) -> None:
    foreign = "A" * 43
    session = await store.load(foreign)
    assert session.is_empty()
    session["cart"] = [1]
    cookie = await store.save(session, max_age=60)
    assert cookie != foreign
    assert (await store.load(foreign)).is_empty()


@pytest.mark.parametrize("cookie", ["", "x", "A" * 42 + "é", "A" * 42 + ";", "é" * 43, "." * 300, "a.b.c", "\x00" * 43])
async def test_a_malformed_cookie_is_an_empty_session(store: SessionStore, cookie: str) -> None:
    assert (await store.load(cookie)).is_empty()


async def test_a_session_ends_when_its_time_is_over(store: SessionStore, clock: Clock) -> None:
    cookie = await kept(store, a=1)
    clock.now += 59
    assert await store.load(cookie) == {"a": 1}
    clock.now += 1
    assert (await store.load(cookie)).is_empty()


async def test_saving_again_keeps_the_key_and_prolongs(store: SessionStore, clock: Clock) -> None:
    session = await store.load(await kept(store, a=1))
    key = session.session_key
    session["b"] = 2
    clock.now += 50
    cookie = await store.save(session, max_age=60)
    clock.now += 50
    again = await store.load(cookie)
    assert again == {"a": 1, "b": 2}
    assert again.session_key == key


async def test_a_deleted_session_is_gone_and_cannot_be_saved(server_side: SessionStore) -> None:
    cookie = await kept(server_side, a=1)
    slow = await server_side.load(cookie)
    await server_side.delete(cookie)
    await server_side.delete(cookie)
    assert (await server_side.load(cookie)).is_empty()
    slow["late"] = True
    with pytest.raises(SessionInterrupted):
        await server_side.save(slow, max_age=60)
    assert (await server_side.load(cookie)).is_empty()


async def test_only_expired_sessions_are_cleared(store: SessionStore, clock: Clock) -> None:
    await kept(store, a=1)
    clock.now += 30
    fresh = await kept(store, b=2)
    clock.now += 31
    assert await store.clear_expired() == (0 if isinstance(store, CookieStore) else 1)
    assert await store.load(fresh) == {"b": 2}
    assert await store.clear_expired() == 0


async def test_what_json_cannot_hold_is_refused_with_its_name(store: SessionStore) -> None:
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


# Sessions in memory


def loaded(**data: Any) -> SessionBase:
    return SessionBase(data, session_key="k", saved=json.dumps(data, separators=(",", ":")))


def test_changes_deep_inside_count_and_reading_does_not() -> None:
    session = loaded(cart=[1], flag=1)
    assert session["cart"] == [1]
    assert not session.modified
    session["cart"].append(2)
    assert session.modified


def test_one_and_true_are_not_the_same() -> None:
    session = loaded(flag=1)
    session["flag"] = True
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


def test_flush_and_cycle_record_a_wish() -> None:
    session = loaded(a=1)
    session.cycle_key()
    assert (session.session_key, session.discarded_key, session["a"], session.modified) == (None, "k", 1, True)
    session.flush()
    assert (session.discarded_key, dict(session), session.modified) == ("k", {}, False)
    session["b"] = 1
    assert session.modified
    SessionBase().flush()


def test_a_key_that_was_given_up_already_is_not_claimed_again() -> None:
    """A login owes nothing to the key before it, even when the application cycles the key once more."""
    for give_up in (SessionBase.begin_anew, SessionBase.flush):
        session = loaded(a=1)
        give_up(session)
        session["b"] = 2
        session.cycle_key()
        assert session.predecessor is None
        assert session.discarded_key == "k"
    session = loaded(a=1)
    session.cycle_key()
    session.cycle_key()
    assert session.predecessor == "k"


def test_repr_shows_no_content() -> None:
    assert "secret" not in repr(loaded(token="secret"))


def test_expiry_speaks_djangos_language() -> None:
    clock = Clock()
    session = SessionBase(clock=clock)
    now = datetime.fromtimestamp(clock.now, UTC)
    session.max_age = 100
    assert session.get_expiry_age() == 100
    assert session.get_expiry_date() == now + timedelta(seconds=100)
    session.set_expiry(30)
    assert session.get_expiry_age() == 30
    session.set_expiry(timedelta(minutes=2))
    assert session.get_expiry_age() == 120
    clock.now += 60
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


# Each store by itself


async def test_a_cookie_that_is_too_large_names_the_limit() -> None:
    store = CookieStore(SECRET_KEY)
    session = await store.load("")
    session["much"] = Random(1).randbytes(4000).hex()
    with pytest.raises(SessionTooLarge, match=r"4096.*DatabaseStore"):
        await store.save(session, max_age=60)


async def test_a_small_cookie_cannot_stand_for_a_large_session() -> None:
    store = CookieStore(SECRET_KEY)
    session = await store.load("")
    session["nothing"] = [[]] * 20_000
    with pytest.raises(SessionTooLarge, match="16384"):
        await store.save(session, max_age=60)


async def test_a_cycled_session_keeps_its_data_and_leaves_nothing_behind(server_side: SessionStore) -> None:
    old = await kept(server_side, a=1)
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


async def test_a_signed_cookie_outlives_a_change_of_keys() -> None:
    cookie = await kept(CookieStore("an old key, which has been in use"), a=1)
    assert await CookieStore(["a new key, in use from now on", "an old key, which has been in use"]).load(cookie) == {
        "a": 1
    }
    assert (await CookieStore("a new key, in use from now on").load(cookie)).is_empty()


async def test_a_signed_cookie_of_another_shape_is_an_empty_session() -> None:
    store = CookieStore(SECRET_KEY)
    assert (await store.load(str(store._signer.dumps(["1", 2, []])))).is_empty()
    assert (await store.load(str(store._signer.dumps(1)))).is_empty()


async def test_the_database_holds_no_key(auth: Auth) -> None:
    store = auth.sessions
    cookie = await kept(store, a=1)
    rows = await auth.database.fetch_all(sa.select(auth.tables.session))
    assert len(rows) == 1
    assert cookie not in str([dict(row) for row in rows])


async def test_a_store_without_users_works_alone(database: Database, auth: Auth) -> None:
    store = DatabaseStore(database)
    cookie = await kept(store, a=1)
    session = await store.load(cookie)
    assert session == {"a": 1}
    assert session.user_row is None


async def test_a_session_brings_its_user_along(auth: Auth, ann: User) -> None:
    session = await auth.sessions.load("")
    auth.session_backend.remember(session, ann, "path")
    cookie = await auth.sessions.save(session, 60)
    row: Row | None = (await auth.sessions.load(cookie)).user_row
    assert row is not None
    assert auth.users.from_row(row) == ann


async def test_what_a_client_says_of_itself_fits_its_column(auth: Auth) -> None:
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
    cookie = await kept(auth.sessions, a=1)
    await auth.database.execute(sa.update(auth.tables.session).values(data="[1"))
    assert (await auth.sessions.load(cookie)).is_empty()
    await auth.database.execute(sa.update(auth.tables.session).values(data="[1]"))
    assert (await auth.sessions.load(cookie)).is_empty()

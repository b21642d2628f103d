"""Behaviours of Django's own tests of sessions, in every store: `sessions_tests` of version 5.2.

Behaviours that other tests of this package prove are left out; `behaviours/test_sessions.txt` names these tests.
"""

import contextlib
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from operator import methodcaller
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from starlette_auth import Auth, Cookie, SessionBase, SessionStore
from starlette_auth.testing import FrozenClock

from ..conftest import DJANGO, ON_SERVER, client_of, name_of, with_store
from ..support.apps import make_app

Use = Callable[[Any], Any]
KINDS = [*ON_SERVER, *DJANGO, "cookie", "django cookie"]
every_store = pytest.mark.parametrize("kind", KINDS, ids=name_of)
TWO_WEEKS = 14 * 24 * 60 * 60


class Site:
    """A running application that calls a function with the session of a request."""

    def __init__(self, auth: Auth) -> None:
        self.auth = auth
        self.use: Use = dict
        self.response = httpx.Response(200)
        self.client = client_of(make_app(auth, Route("/use", self.endpoint)))

    async def endpoint(self, request: Request) -> Response:
        result = self.use(request.session)
        result = await result if hasattr(result, "__await__") else result
        return JSONResponse(result, int(request.query_params.get("status", "200")))

    async def ask(self, use: Use, **options: Any) -> Any:
        """Sends a request whose endpoint calls `use`; returns the result."""
        self.use = use
        self.response = await self.client.get("/use", **options)
        return self.response.json()


@contextlib.asynccontextmanager
async def site(kind: str, folder: Path, **options: Any) -> AsyncIterator[Site]:
    async with with_store(kind, folder, **options) as auth:
        opened = Site(auth)
        async with opened.client:
            yield opened


# The session is a dict


@every_store
async def test_a_new_session_is_neither_modified_nor_accessed_until_it_is_used(kind: str, tmp_path: Path) -> None:
    seen: list[tuple[bool, bool]] = []

    async def look(request: Request) -> Response:
        session: SessionBase = request.scope["session"]
        seen.append((session.modified, session.accessed))
        seen.append((request.session.modified, request.session.accessed))  # type: ignore[attr-defined]
        return JSONResponse(session.is_empty())

    async with with_store(kind, tmp_path) as auth, client_of(make_app(auth, Route("/look", look))) as client:
        assert (await client.get("/look")).json() is True
    assert seen == [(False, False), (False, True)]


@every_store
async def test_entries_are_read_without_a_change_and_stored_with_one(kind: str, tmp_path: Path) -> None:
    def read(session: Any) -> Any:
        with pytest.raises(KeyError):
            session.pop("some key")
        found = [
            session.get("cat"),
            session.pop("some key", "does not exist"),
            session.pop("some key", default="does not exist"),
            "x" in session,
            [*session.keys()],
            [*session.values()],
            [*session.items()],
        ]
        return [*found, session.modified]

    def write(session: Any) -> Any:
        session["cat"] = "dog"
        session.update({"x": 1})
        return [session.setdefault("foo", "bar"), session.setdefault("foo", "baz"), session.modified]

    def remove(session: Any) -> Any:
        return [session.pop("cat"), session.get("cat"), session.modified]

    async with site(kind, tmp_path) as visited:
        missing = "does not exist"
        assert await visited.ask(read) == [None, missing, missing, False, [], [], [], False]
        assert "set-cookie" not in visited.response.headers
        assert await visited.ask(write) == ["bar", "bar", True]
        names, values = ["cat", "foo", "x"], ["dog", "bar", 1]
        found = await visited.ask(read)
        assert (found[0], found[3], sorted(found[4]), found[7]) == ("dog", True, names, False)
        assert sorted(map(str, found[5])) == sorted(map(str, values))
        assert dict(found[6]) == dict(zip(names, values, strict=True))
        assert await visited.ask(remove) == ["dog", None, True]
        assert await visited.ask(dict) == {"foo": "bar", "x": 1}


@every_store
async def test_clearing_a_session_is_a_change(kind: str, tmp_path: Path) -> None:
    def clear(session: Any) -> Any:
        session.clear()
        return [[*session.items()], session.modified, session.accessed]

    async with site(kind, tmp_path) as visited:
        await visited.ask(lambda session: session.update(x=1))
        assert await visited.ask(clear) == [[], True, True]
        assert await visited.ask(dict) == {}


@every_store
async def test_saving_keeps_the_data_in_the_session(kind: str, tmp_path: Path) -> None:
    async def save(session: Any) -> Any:
        session["a"] = "b"
        await session.save()
        return [session["a"], session.modified, session.session_key is not None]

    async with site(kind, tmp_path) as visited:
        assert await visited.ask(save) == ["b", False, True]
        assert await visited.ask(dict) == {"a": "b"}


# Keys


@every_store
async def test_flush_empties_the_session_and_ends_its_key(kind: str, tmp_path: Path) -> None:
    def flush(session: Any) -> Any:
        session.flush()
        return [session.session_key, dict(session), session.accessed]

    async with site(kind, tmp_path) as visited:
        await visited.ask(lambda session: session.update(foo="bar"))
        name = visited.auth.cookie.name
        old = visited.client.cookies[name]
        assert await visited.ask(flush) == [None, {}, True]
        assert name not in visited.client.cookies
        assert await visited.ask(dict, headers={"cookie": f"{name}={old}"}) == (
            {} if visited.auth.sessions.is_server_side else {"foo": "bar"}
        )
        assert await visited.ask(lambda session: session.update(new=1)) is None
        assert visited.client.cookies[name] != old


@every_store
@pytest.mark.parametrize("key", ["1", "1234567", "12345678", "someunknownkey", "aB3" * 400])
async def test_a_key_that_is_not_stored_gets_no_record_and_is_not_adopted(kind: str, key: str, tmp_path: Path) -> None:
    async with site(kind, tmp_path) as visited:
        header = {"cookie": f"{visited.auth.cookie.name}={key}"}
        assert await visited.ask(lambda session: [session.session_key, dict(session)], headers=header) == [None, {}]
        assert "set-cookie" not in visited.response.headers
        await visited.ask(lambda session: session.update(cat="dog"), headers=header)
        assert visited.client.cookies[visited.auth.cookie.name] != key
        assert await visited.ask(dict) == {"cat": "dog"}
        visited.client.cookies.clear()
        assert await visited.ask(dict, headers=header) == {}


# Expiry


@every_store
@pytest.mark.parametrize("seconds", [TWO_WEEKS, 24 * 60 * 60])
async def test_the_default_expiry_is_that_of_the_cookie_and_can_be_restored(
    kind: str, seconds: int, tmp_path: Path
) -> None:
    def ages(session: Any) -> Any:
        found = [session.get_expiry_age()]
        for value in (0, None, 10, None):
            session.set_expiry(value)
            found.append(session.get_expiry_age())
        return found

    async with site(kind, tmp_path, cookie=Cookie(max_age=seconds)) as visited:
        assert await visited.ask(ages) == [seconds, seconds, seconds, 10, seconds]


@every_store
@pytest.mark.parametrize("default", [False, True])
async def test_the_browser_keeps_the_cookie_unless_the_session_or_the_setting_says_otherwise(
    kind: str, default: bool, tmp_path: Path
) -> None:
    async with site(kind, tmp_path, cookie=Cookie(expire_at_browser_close=default)) as visited:
        for value, at_close in ((10, False), (0, True), (None, default)):

            def change(session: Any, value: int | None = value) -> Any:
                session["a"] = repr(value)
                session.set_expiry(value)
                return session.get_expire_at_browser_close()

            assert await visited.ask(change) is at_close
            assert ("Max-Age" in visited.response.headers["set-cookie"]) is not at_close


PAST: list[Any] = [timedelta(seconds=-10), -10, datetime(2001, 1, 1, tzinfo=UTC)]


@every_store
@pytest.mark.parametrize("past", PAST, ids=repr)
async def test_a_session_with_an_expiry_in_the_past_ends_at_once(kind: str, past: Any, tmp_path: Path) -> None:
    def expire(session: Any) -> Any:
        session["foo"] = "bar"
        session.set_expiry(past)
        return session.get_expiry_age() <= 0

    async with site(kind, tmp_path) as visited:
        name = visited.auth.cookie.name
        assert await visited.ask(expire) is True
        cookies = [text for text in visited.response.headers.get_list("set-cookie") if text.startswith(f"{name}=")]
        assert name not in visited.client.cookies
        sent = {"cookie": cookies[0].partition(";")[0]} if cookies else {}
        assert await visited.ask(dict, headers=sent) == {}
        await visited.ask(lambda session: session.update(a=1))
        await visited.ask(expire)  # in a session that is stored
        assert await visited.ask(dict) == {}


async def test_clearing_deletes_the_sessions_whose_own_expiry_has_passed(tmp_path: Path) -> None:
    async with site("sqlite", tmp_path) as visited:
        for value in (3600, -3600, timedelta(hours=1), timedelta(hours=-1)):
            visited.client.cookies.clear()
            await visited.ask(methodcaller("set_expiry", value))
        assert await visited.auth.clear_expired() == 2
        assert await visited.auth.clear_expired() == 0


# SessionMiddleware


@every_store
async def test_the_cookie_has_the_attributes_of_the_settings(kind: str, tmp_path: Path) -> None:
    for number, (cookie, present, absent) in enumerate(
        (
            (Cookie(name="sid", secure=True, prefix=False), "; Secure", "Partitioned"),
            (Cookie(name="sid"), "; HttpOnly", "Secure"),
            (Cookie(name="sid", samesite="strict"), "; SameSite=Strict", "Lax"),
            (Cookie(name="sid", httponly=False), "; SameSite=Lax", "HttpOnly"),
        )
    ):
        folder = tmp_path / str(number)
        folder.mkdir()
        async with site(kind, folder, cookie=cookie) as visited:
            await visited.ask(lambda session: session.update(hello="world"))
            header = visited.response.headers["set-cookie"]
            assert header.startswith("sid=")
            assert present in header
            assert absent not in header
            assert "Cookie" in visited.response.headers["vary"]


@every_store
@pytest.mark.parametrize("status", ["500", "503"])
async def test_a_response_with_a_server_error_saves_nothing(kind: str, status: str, tmp_path: Path) -> None:
    async with site(kind, tmp_path) as visited:
        await visited.ask(lambda session: session.update(hello="world"), params={"status": status})
        assert visited.response.status_code == int(status)
        assert "set-cookie" not in visited.response.headers
        assert await visited.ask(dict) == {}


@every_store
async def test_a_flushed_session_deletes_its_cookie_and_only_a_cookie_that_was_sent(kind: str, tmp_path: Path) -> None:
    options = Cookie(name="sid", domain="example.local", path="/example/")
    for number, cookie in enumerate((Cookie(name="sid"), options)):
        folder = tmp_path / str(number)
        folder.mkdir()
        async with site(kind, folder, cookie=cookie) as visited:
            await visited.ask(SessionBase.flush, headers={"cookie": "sid=abc"})
            where = "Domain=example.local; " if cookie.domain else ""
            assert visited.response.headers["set-cookie"].startswith(
                f"sid=; Path={cookie.path}; {where}Max-Age=0; Expires=Thu, 01 Jan 1970 00:00:00 GMT"
            )
            assert "Cookie" in visited.response.headers["vary"]
            visited.client.cookies.clear()
            await visited.ask(SessionBase.flush)
            assert "set-cookie" not in visited.response.headers
            assert "Cookie" in visited.response.headers["vary"]


@every_store
async def test_a_session_without_data_deletes_its_cookie_and_can_be_filled_again(kind: str, tmp_path: Path) -> None:
    def empty(session: Any) -> None:
        del session["foo"]

    async with site(kind, tmp_path) as visited:
        await visited.ask(lambda session: session.update(foo="bar"))
        await visited.ask(empty)
        assert "Max-Age=0" in visited.response.headers["set-cookie"]
        assert await visited.ask(dict) == {}
        await visited.ask(lambda session: session.update(foo="baz"))
        assert await visited.ask(dict) == {"foo": "baz"}


# Stores


def test_a_store_that_lacks_a_method_cannot_be_made() -> None:
    class Incomplete(SessionStore):
        async def load(self, cookie: str) -> SessionBase:
            return SessionBase()

    with pytest.raises(TypeError, match=r"abstract.*'?delete'?.*'?save'?"):
        Incomplete()  # type: ignore[abstract]
    with pytest.raises(TypeError, match=r"abstract.*load"):
        SessionStore()  # type: ignore[abstract]


def test_a_session_has_the_test_cookie_only_after_it_was_set() -> None:
    session = SessionBase(clock=FrozenClock())
    assert "testcookie" not in session
    session.set_test_cookie()
    assert session.test_cookie_worked()
    session.delete_test_cookie()
    assert "testcookie" not in session
    assert session.is_empty()

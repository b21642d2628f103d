"""Django's methods of a session: the cases of its suite `sessions_tests` that other tests do not have."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from starlette_auth import Cookie, SessionBase, SessionLimit
from starlette_auth.testing import FrozenClock

from ..conftest import any_database, client_of, name_of, with_store, with_tables
from ..support.apps import make_app

pytestmark = [with_tables, any_database]
NOW = datetime(2027, 1, 15, 8, 0, tzinfo=UTC)
STORES = ["memory", "sqlite", "cookie", "django sqlite", "django cookie"]


def new_session(**options: Any) -> SessionBase:
    return SessionBase(clock=FrozenClock(NOW.timestamp()), **options)


def test_pop_takes_the_default_by_name_too() -> None:
    session = new_session(data={"a": 1})
    assert session.pop("a", default=2) == 1
    assert session.pop("a", default=2) == 2
    assert session.pop("a", None) is session.pop("a", default=None) is None
    with pytest.raises(KeyError):
        session.pop("a")
    assert session == {}


def test_the_expiry_is_computed_from_the_modification_and_the_expiry_that_are_given() -> None:
    session, hour_ago = new_session(), NOW - timedelta(hours=1)
    assert (
        session.get_expiry_age() == session.get_expiry_age(expiry=None) == session.get_expiry_age(expiry=0) == 1209600
    )
    session.set_expiry(10)
    assert (session.get_expiry_age(), session.get_expiry_age(modification=hour_ago)) == (10, 10)
    assert session.get_expiry_date(modification=hour_ago) == hour_ago + timedelta(seconds=10)
    assert session.get_expiry_age(expiry=None) == 1209600
    assert session.get_expiry_date(expiry=None) == NOW + timedelta(days=14)
    for expiry in (NOW + timedelta(seconds=10.5), (NOW + timedelta(seconds=10.5)).isoformat()):
        assert session.get_expiry_age(modification=hour_ago, expiry=expiry) == 3610
        assert session.get_expiry_date(modification=hour_ago, expiry=expiry) == NOW + timedelta(seconds=10.5)
    session.set_expiry(NOW + timedelta(seconds=10))
    assert session.get_expiry_age(modification=NOW) == 10
    assert session.get_expiry_date(modification=hour_ago) == NOW + timedelta(seconds=10)
    session.set_expiry(None)
    assert session.get_expiry_age() == 1209600
    for call in (session.get_expiry_age, session.get_expiry_date):
        for name in ("modification", "expiry"):
            with pytest.raises(ValueError, match=r"Use datetime\.now\(UTC\)"):
                call(**{name: datetime(2027, 1, 1)})


def test_the_timeouts_of_a_login_limit_the_expiry_that_is_given() -> None:
    session = new_session()
    session.limit = SessionLimit(absolute=1000, idle=300)
    assert session.get_expiry_age(expiry=500) == session.get_expiry_age() == 300
    assert session.get_expiry_age(expiry=NOW + timedelta(seconds=200)) == 200
    assert session.get_expiry_date(expiry=NOW + timedelta(days=1)) == NOW + timedelta(seconds=300)
    assert session.get_expiry_date(expiry=NOW + timedelta(seconds=200.5)) == NOW + timedelta(seconds=200.5)
    assert session.get_expiry_age(modification=NOW + timedelta(seconds=900)) == 100


@pytest.mark.parametrize("kind", STORES, ids=name_of)
async def test_the_test_cookie_tells_whether_the_browser_accepts_cookies(kind: str, tmp_path: Path) -> None:
    async def ask(request: Request) -> Response:
        session: Any = request.session
        worked = session.test_cookie_worked()
        if worked:
            session.delete_test_cookie()
            with pytest.raises(KeyError):
                session.delete_test_cookie()
        else:
            session.set_test_cookie()
        return JSONResponse([worked, session.get("testcookie")])

    async with with_store(kind, tmp_path) as auth, client_of(make_app(auth, Route("/ask", ask))) as client:
        assert (await client.get("/ask")).json() == [False, "worked"]
        assert (await client.get("/ask")).json() == [True, None]
        client.cookies.clear()
        assert (await client.get("/ask")).json() == [False, "worked"]


@pytest.mark.parametrize("kind", STORES, ids=name_of)
async def test_modified_false_keeps_a_change_from_being_saved_until_the_next_one(
    kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def change(request: Request) -> Response:
        session: Any = request.session
        session["n"] = [int(request.query_params["n"])]
        session.modified = False
        seen = [session.modified]
        if "more" in request.query_params:
            session["n"].append(0)
            seen.append(session.modified)
        return JSONResponse(seen)

    async with with_store(kind, tmp_path) as auth, client_of(make_app(auth, Route("/change", change))) as client:
        response = await client.get("/change?n=1")
        assert response.json() == [False]
        assert "set-cookie" not in response.headers
        await client.get("/remember?a=1")
        assert (await client.get("/change?n=2")).json() == [False]
        assert (await client.get("/whoami")).json()["session"] == {"a": "1"}
        assert (await client.get("/change?n=3&more=1")).json() == [False, True]
        assert (await client.get("/whoami")).json()["session"] == {"a": "1", "n": [3, 0]}
        assert caplog.records == []


def test_modified_true_undoes_modified_false() -> None:
    session = new_session(data={"a": 1})
    session.modified = False
    assert not session.modified
    session.modified = True
    assert session.modified


async def test_a_session_may_outlive_the_default_with_its_own_expiry(tmp_path: Path) -> None:
    async def extend(request: Request) -> Response:
        request.session.set_expiry(1000)  # type: ignore[attr-defined]
        return PlainTextResponse("")

    clock = FrozenClock()
    async with (
        with_store("memory", tmp_path, clock, cookie=Cookie(max_age=100)) as auth,
        client_of(make_app(auth, Route("/extend", extend))) as client,
    ):
        await client.get("/remember?a=1")
        await client.get("/extend")
        clock.tick(999)
        assert (await client.get("/whoami")).json()["session"] == {"a": "1"}
        clock.tick(1)
        assert (await client.get("/whoami")).json()["session"] == {}

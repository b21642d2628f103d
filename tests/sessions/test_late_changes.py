"""Changes after the response began: they are stored by `request.session.save()`, and else a warning names them."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import pytest
from fastapi import Depends, FastAPI
from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket

from starlette_auth import Auth, SessionBase, logout, middleware

from ..conftest import (
    DJANGO,
    ON_SERVER,
    PASSWORD,
    any_database,
    client_of,
    name_of,
    post_login,
    with_store,
    with_tables,
)
from ..support.apps import make_app
from .test_sessions import Socket

pytestmark = with_tables
ON_DISK = [*ON_SERVER, *DJANGO]
IN_COOKIE = ["cookie", "django cookie"]
SECRET = "a value that must not be logged"


@pytest.fixture
async def kind(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Auth]:
    async with with_store(request.param, tmp_path) as auth:
        await auth.users.create_user("ann", password=PASSWORD)
        yield auth


def stores(*kinds: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("kind", kinds, indirect=True, ids=name_of)


async def change(session: Any, *, saved: bool) -> None:
    session["late"] = SECRET
    session.pop("early", None)
    if saved:
        await session.save()


def late_app(auth: Auth, *, saved: bool) -> Any:
    """Returns an application that changes the session in three places after the response began."""

    async def stream(request: Request) -> Response:
        async def parts() -> AsyncIterator[str]:
            yield "one"
            await change(request.session, saved=saved)
            yield "two"

        return StreamingResponse(parts())

    async def background(request: Request) -> Response:
        return PlainTextResponse("", background=BackgroundTask(change, request.session, saved=saved))

    async def by_scope(request: Request) -> Response:
        """Uses the scope and not `request.session`, as an ASGI middleware does."""
        return PlainTextResponse("", background=BackgroundTask(change, request.scope["session"], saved=saved))

    app = FastAPI(middleware=middleware(auth), routes=make_app(auth).routes)

    async def dependency(request: Request) -> AsyncIterator[None]:
        yield
        await change(request.session, saved=saved)

    @app.get("/yield")
    async def after_yield(_: Annotated[None, Depends(dependency)]) -> str:
        return ""

    app.routes.extend([Route("/stream", stream), Route("/background", background), Route("/scope", by_scope)])
    return app


PLACES = ["/stream", "/background", "/yield", "/scope"]


@any_database
@stores("memory", "sqlite", "django sqlite", *IN_COOKIE)
async def test_a_warning_names_what_changed_after_the_response_began(
    kind: Auth, caplog: pytest.LogCaptureFixture
) -> None:
    async with client_of(late_app(kind, saved=False)) as client:
        await client.get("/remember?early=1")
        for path in PLACES:
            caplog.clear()
            assert (await client.get(path)).status_code == 200
            [record] = caplog.records
            assert record.levelname == "WARNING"
            assert "'late', 'early'" in record.message
            assert "await request.session.save()" in record.message
            assert SECRET not in record.message
        assert (await client.get("/whoami")).json()["session"] == {"early": "1"}
        caplog.clear()
        await client.get("/remember?more=1")
        await client.get("/remember?more=2&status=503")
        assert caplog.records == []


@stores(*ON_DISK)
async def test_save_stores_at_once_in_every_store(kind: Auth, caplog: pytest.LogCaptureFixture) -> None:
    async with client_of(late_app(kind, saved=True)) as client:
        for path in PLACES:
            await post_login(client)
            await client.get("/remember?early=1")
            caplog.clear()
            assert (await client.get(path)).status_code == 200
            assert (await client.get("/whoami")).json() | {"scopes": []} == {
                "username": "ann",
                "session": {"late": SECRET},
                "scopes": [],
            }
            assert caplog.records == []


@any_database
@stores("memory", *IN_COOKIE)
async def test_save_after_the_response_began_says_that_it_needs_a_cookie(kind: Auth) -> None:
    app = late_app(kind, saved=True)
    async with client_of(app) as client:
        if kind.sessions.is_server_side:
            with pytest.raises(RuntimeError, match=r"before the response\.$"):
                await client.get("/background")  # a new session
            await client.get("/remember?early=1")
            assert (await client.get("/background")).status_code == 200
        else:
            await client.get("/remember?early=1")
            with pytest.raises(RuntimeError, match=r"before the response\.$"):
                await client.get("/background")
            assert (await client.get("/whoami")).json()["session"] == {"early": "1"}


@any_database
@stores("memory", "sqlite", "django sqlite", *IN_COOKIE)
async def test_save_before_the_response_stores_and_sets_the_cookie(kind: Auth) -> None:
    """Also where the response is an error, and after a new key."""

    async def save(request: Request) -> Response:
        session: Any = request.session
        if "cycle" in request.query_params:
            session.cycle_key()
        session["saved"] = 1
        await session.save()
        key = session.session_key
        await session.save()
        assert session.session_key == key or not kind.sessions.is_server_side
        if kind.sessions.is_server_side:
            assert (await kind.sessions.load(key))["saved"] == 1
        if "more" in request.query_params:
            session["more"] = 1
        if "flush" in request.query_params:
            session.flush()
        return PlainTextResponse("", int(request.query_params.get("status", "200")))

    async with client_of(make_app(kind, Route("/save", save))) as client:
        for path, stored in (
            ("/save?status=500", {"saved": 1}),
            ("/save?cycle=1&status=500", {"saved": 1}),
            ("/save?more=1&cycle=1", {"saved": 1, "more": 1}),
            ("/save?flush=1", {}),
        ):
            await client.get(path)
            assert (await client.get("/whoami")).json()["session"] == stored
        client.cookies.clear()
        response = await client.get("/save?flush=1")
        assert "session=" not in response.headers.get("set-cookie", "")


@stores(*ON_DISK)
async def test_save_does_not_restore_a_session_that_has_ended(kind: Auth) -> None:
    arrived, finish = asyncio.Event(), asyncio.Event()

    async def slow(request: Request) -> Response:
        session: Any = request.session
        session["late"] = 1
        arrived.set()
        await finish.wait()
        await session.save()
        return PlainTextResponse("")

    app = make_app(kind, Route("/slow", slow))
    async with client_of(app) as client, client_of(app) as second:
        await post_login(client)
        second.cookies.update(client.cookies)
        late = asyncio.create_task(second.get("/slow"))
        await arrived.wait()
        await client.get("/flush")
        finish.set()
        assert (await late).status_code == 400
        assert (await second.get("/members")).status_code == 303


@any_database
@stores("memory", *IN_COOKIE)
async def test_save_after_the_response_began_does_nothing_if_nothing_changed(
    kind: Auth, caplog: pytest.LogCaptureFixture
) -> None:
    """A helper may call `save()` without a check, with every store."""

    async def save(session: Any) -> None:
        await session.save()

    async def read(request: Request) -> Response:
        request.session.get("early")
        return PlainTextResponse("", background=BackgroundTask(save, request.session))

    async def write(request: Request) -> Response:
        request.session["early"] = "2"
        return PlainTextResponse("", background=BackgroundTask(save, request.session))

    async with client_of(make_app(kind, Route("/read", read), Route("/write", write))) as client:
        for path, stored in (("/read", {}), ("/write", {"early": "2"}), ("/read", {"early": "2"})):
            assert (await client.get(path)).status_code == 200
            assert (await client.get("/whoami")).json()["session"] == stored
        assert caplog.records == []


@any_database
@stores("memory", "cookie")
async def test_a_logout_or_a_value_that_is_no_json_after_the_response_began(
    kind: Auth, caplog: pytest.LogCaptureFixture
) -> None:
    async def spoil(session: Any) -> None:
        session["when"] = datetime.now(UTC)
        session[5] = "a key that is no text"

    async def end(request: Request) -> Response:
        return PlainTextResponse("", background=BackgroundTask(logout, request))

    async def damage(request: Request) -> Response:
        return PlainTextResponse("", background=BackgroundTask(spoil, request.session))

    async def fail(request: Request) -> Response:
        await spoil(request.session)
        return PlainTextResponse("")

    app = make_app(kind, Route("/end", end), Route("/damage", damage), Route("/fail-early", fail))
    async with client_of(app) as client:
        await post_login(client)
        with pytest.raises(TypeError, match=r"isoformat\(\)"):
            await client.get("/fail-early")
        assert caplog.records == [], "it is no late change"
        assert (await client.get("/damage")).status_code == 200
        assert "'when'" in caplog.text
        caplog.clear()
        await client.get("/end")
        if kind.sessions.is_server_side:
            assert (await client.get("/whoami")).json()["username"] == ""
            assert caplog.records == []
        else:
            assert "the change is lost" in caplog.text


@any_database
@stores("memory", *IN_COOKIE)
async def test_a_websocket_saves_at_once_after_accept(kind: Auth, caplog: pytest.LogCaptureFixture) -> None:
    errors: list[str] = []

    async def socket(websocket: WebSocket) -> None:
        await websocket.accept()
        session: Any = websocket.session
        async for text in websocket.iter_text():
            session[text] = SECRET
            try:
                await session.save()
            except RuntimeError as error:
                errors.append(str(error))
            await websocket.send_text("saved")

    app = make_app(kind, WebSocketRoute("/socket", socket))
    async with client_of(app) as client:
        await client.get("/remember?a=1")
        async with Socket(app, "/socket", client) as connection:
            await connection.say("b")
            stored = (await client.get("/whoami")).json()["session"]
        if kind.sessions.is_server_side:
            assert stored == {"a": "1", "b": SECRET}
            assert not errors
            assert caplog.records == []
        else:
            assert "before the response" in errors[0]
            assert "'b'" in caplog.text
            assert SECRET not in caplog.text


async def test_save_outside_a_request_says_what_to_do() -> None:
    with pytest.raises(RuntimeError, match=r"auth\.sessions\.save\(session, max_age\)\.$"):
        await SessionBase().save()

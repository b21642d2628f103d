"""Responses while Redis is unavailable: in endpoints, mounted applications, excluded paths and WebSockets."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from databases import Database
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import BaseRoute, Mount, Route, WebSocketRoute
from starlette.testclient import TestClient
from starlette.websockets import WebSocket, WebSocketDisconnect

from starlette_auth import Auth, RedisStore, Unavailable, middleware

from ..conftest import SECRET_KEY, client_of, connected, installed
from ..support.server import free_port


@pytest.fixture
async def auth(tmp_path: Path) -> AsyncIterator[Auth]:
    """An Auth whose Redis cannot be reached."""
    store = RedisStore(f"redis://127.0.0.1:{free_port()}")
    async with (
        connected(f"sqlite+aiosqlite:///{tmp_path}/users.sqlite3") as database,
        installed(database, sessions=store) as auth,
    ):
        yield auth


def make_app(auth: Auth, **options: Any) -> Starlette:
    async def ask(request: Request) -> Response:
        return PlainTextResponse(f"{len(await auth.sessions.list_sessions('1'))} sessions")

    async def ask_in_stream(request: Request) -> Response:
        async def parts() -> AsyncIterator[str]:
            yield "begun"
            yield str(await auth.sessions.list_sessions("1"))

        return StreamingResponse(parts())

    async def neither(request: Request) -> Response:
        return PlainTextResponse("no session needed")

    async def socket(websocket: WebSocket) -> None:
        await auth.sessions.list_sessions("1")

    api = FastAPI()
    api.add_api_route("/ask", lambda: None)
    api.router.routes = [Route("/ask", ask)]
    routes: list[BaseRoute] = [Route("/ask", ask), Route("/stream", ask_in_stream), Route("/neither", neither)]
    routes += [Mount("/sub", app=Starlette(routes=[*routes], **options)), Mount("/api", app=api)]
    every: list[BaseRoute] = [*routes, Mount("/open", routes=[*routes, WebSocketRoute("/socket", socket)])]
    every += [WebSocketRoute("/socket", socket)]
    return Starlette(routes=every, middleware=middleware(auth, exclude=["/open"]), **options)


COOKIE = {"session": "a" * 43}
PATHS = ["/ask", "/sub/ask", "/api/ask", "/open/ask", "/open/sub/ask", "/open/api/ask"]


@pytest.mark.parametrize("debug", [False, True])
@pytest.mark.parametrize("path", PATHS)
async def test_a_visitor_is_asked_to_try_again(auth: Auth, path: str, debug: bool) -> None:
    async with client_of(make_app(auth, debug=debug)) as client:
        response = await client.get(path)
        assert (response.status_code, response.headers.get("retry-after")) == (503, "3")
        assert "try again in a few seconds" in response.text
        response = await client.get(path, headers={"accept": "application/json"})
        assert "try again in a few seconds" in response.json()["detail"]


@pytest.mark.parametrize("path", ["/neither", "/open/neither", "/open/sub/neither"])
async def test_an_endpoint_that_needs_no_session_responds_as_usual(auth: Auth, path: str) -> None:
    async with client_of(make_app(auth), cookies=COOKIE if path.startswith("/open") else {}) as client:
        assert (await client.get(path)).text == "no session needed"


@pytest.mark.parametrize("path", ["/stream", "/open/stream"])
async def test_a_response_that_has_begun_is_cut_off(auth: Auth, path: str) -> None:
    async with client_of(make_app(auth)) as client:
        with pytest.raises((Unavailable, httpx.TransportError)):
            await client.get(path)


@pytest.mark.parametrize("path", ["/socket", "/open/socket"])
def test_a_websocket_is_closed_with_try_again_later(path: str, tmp_path: Path) -> None:
    database = Database(f"sqlite+aiosqlite:///{tmp_path}/users.sqlite3")
    auth = Auth(database, secret_key=SECRET_KEY, sessions=RedisStore(f"redis://127.0.0.1:{free_port()}"))
    with (
        TestClient(make_app(auth)) as client,
        pytest.raises(WebSocketDisconnect) as closed,
        client.websocket_connect(path),
    ):
        pass
    assert closed.value.code == 1013

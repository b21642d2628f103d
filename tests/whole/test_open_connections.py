"""WebSockets and server-sent events through a real server: what the client sees when a login ends."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.websockets import WebSocket
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from starlette_auth import Auth, User, middleware, permission_required, routes
from starlette_auth.middlewares.session.http import SessionResponder
from starlette_auth.testing import log_in

from ..conftest import client_of, with_store, with_tables

pytestmark = with_tables

JSON = {"accept": "application/json"}


@permission_required("polls.add_vote")
async def ask(websocket: WebSocket) -> None:
    await websocket.accept()
    async for _ in websocket.iter_text():
        await websocket.send_json({"secret": websocket.user.username})


@permission_required("polls.add_vote")
async def events(request: Request) -> Response:
    async def parts() -> AsyncIterator[str]:
        yield "data: secret\n\n"
        while True:
            await asyncio.sleep(0.05 if "often" in request.query_params else 60)
            yield "data: secret\n\n"

    media_type = request.query_params.get("type", "text/event-stream")
    headers = {"content-length": "1000000"} if "length" in request.query_params else None
    return StreamingResponse(parts(), media_type=media_type, headers=headers)


class Site:
    """An application under uvicorn, and the browser of ann, who may vote."""

    def __init__(self, auth: Auth, ann: User, port: int, cookies: str) -> None:
        self.auth = auth
        self.ann = ann
        self.url = f"http://127.0.0.1:{port}"
        self.headers = {"cookie": cookies, **JSON}
        self.client = httpx.AsyncClient(base_url=self.url, headers=self.headers, timeout=30)

    def open_socket(self) -> connect:
        return connect(self.url.replace("http", "ws") + "/ask", additional_headers=self.headers)

    async def end_login(self, action: str) -> None:
        if action == "logout":
            answer = await self.client.post("/accounts/logout", headers={"origin": self.url})
            assert answer.status_code < 400
        elif action == "all":
            await self.auth.user_sessions.revoke_all(self.ann)
        elif action == "off":
            await self.auth.users.update(self.ann, is_active=False)
        elif action == "permission":
            await self.auth.users.remove_from_group(self.ann, "voters")
        elif action == "off elsewhere":
            await self.auth.database.execute(self.auth.tables.user.update().values(is_active=False))


@pytest.fixture(params=["sqlite", "cookie"])
async def site(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Site]:
    async with with_store(request.param, tmp_path) as auth:
        ann, voters = await auth.users.create_user("ann"), await auth.users.create_group("voters")
        await auth.users.create_permission("polls.add_vote")
        await auth.users.grant(voters, "polls.add_vote")
        await auth.users.add_to_group(ann, voters)
        pages = [WebSocketRoute("/ask", ask), Route("/events", events), Mount("/accounts", routes=routes(auth))]
        app = Starlette(routes=pages, middleware=middleware(auth))
        async with client_of(app) as client:
            await log_in(client, ann, auth)
            cookies = "; ".join(f"{cookie.name}={cookie.value}" for cookie in client.cookies.jar)
        server = uvicorn.Server(uvicorn.Config(app, port=0, log_config=None, lifespan="off"))
        task = asyncio.create_task(server.serve())
        while not server.started:
            await asyncio.sleep(0.01)
        site = Site(auth, ann, server.servers[0].sockets[0].getsockname()[1], cookies)
        async with site.client:
            yield site
        server.should_exit = True
        await asyncio.wait_for(task, 20)  # nothing of an ended stream goes on


async def is_told(socket: ClientConnection) -> bool:
    await socket.send("?")
    return bool(json.loads(await socket.recv()) == {"secret": "ann"})


async def read_all(parts: AsyncIterator[bytes]) -> None:
    async for _ in parts:
        pass


ACTIONS = ["logout", "all", "off", "permission", "off elsewhere"]


@pytest.mark.parametrize("action", ACTIONS)
async def test_the_server_ends_websockets_and_event_streams(
    site: Site, action: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if action == "all" and not site.auth.sessions.is_server_side:
        pytest.skip("CookieStore cannot end the sessions of a user")
    if action in ("permission", "off elsewhere"):  # no event tells it; it is seen at the next check
        monkeypatch.setattr(SessionResponder, "check_interval", 0.2)
    async with site.open_socket() as socket, contextlib.AsyncExitStack() as stack:
        streams = []
        for query in ("", "?often"):
            response = await stack.enter_async_context(site.client.stream("GET", f"/events{query}"))
            streams.append((response, response.aiter_lines()))
        for _, lines in streams:
            assert await anext(lines) == "data: secret"
        assert await is_told(socket)
        await site.end_login(action)
        async with asyncio.timeout(1):
            for _, lines in streams:
                async for line in lines:  # without an error: the body has its end
                    assert line in ("", "data: secret")
            with contextlib.suppress(ConnectionClosed):
                while await is_told(socket):
                    await asyncio.sleep(0.02)
            await socket.wait_closed()
        assert socket.close_code == 1008
    # What EventSource does next. A copy of a signed cookie stays valid after a logout.
    if action != "logout" or site.auth.sessions.is_server_side:
        answer = await site.client.get("/events")
        assert answer.status_code == (403 if action == "permission" else 401)


@pytest.mark.parametrize("query", ["?type=text/csv", "?type=text/csv&often", "?length", "?length&often"])
@pytest.mark.parametrize("site", ["sqlite"], indirect=True)
async def test_the_client_notices_that_a_download_was_cut_off(site: Site, query: str) -> None:
    async with site.client.stream("GET", f"/events{query}") as response:
        parts: Any = response.aiter_bytes()
        assert b"secret" in await anext(parts)
        await site.end_login("all")
        with pytest.raises(httpx.RemoteProtocolError, match="without sending complete"):
            await asyncio.wait_for(read_all(parts), 20)


@pytest.mark.parametrize("site", ["sqlite"], indirect=True)
async def test_a_client_that_disconnects_leaves_nothing(site: Site) -> None:
    async with site.open_socket() as socket, site.client.stream("GET", "/events") as response:
        assert await anext(response.aiter_lines()) == "data: secret"
        assert await is_told(socket)
        assert len(site.auth.sessions.open_websockets._open) == 2
    async with asyncio.timeout(2):
        while site.auth.sessions.open_websockets._open:
            await asyncio.sleep(0.01)

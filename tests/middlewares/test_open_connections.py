"""What happens to open WebSockets and streamed responses when logins end and rights are withdrawn."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Annotated, Any

import httpx
import pytest
from fastapi import APIRouter, Depends, FastAPI, WebSocket
from starlette.applications import Starlette
from starlette.authentication import requires
from starlette.background import BackgroundTask
from starlette.endpoints import HTTPEndpoint, WebSocketEndpoint
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.requests import HTTPConnection, Request
from starlette.responses import FileResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Mount, Route, WebSocketRoute

from starlette_auth import (
    Auth,
    AuthenticationBackend,
    LoginRequiredMiddleware,
    PermissionDenied,
    User,
    fresh_login_required,
    get_auth,
    login,
    login_not_required,
    login_required,
    logout,
    middleware,
    permission_required,
    routes,
    user_passes_test,
)
from starlette_auth.middlewares.open_connection import OpenConnection
from starlette_auth.testing import FrozenClock, log_in

from ..conftest import BACKENDS, DJANGO, ON_SERVER, PASSWORD, client_of, name_of, with_store, with_tables
from ..features.test_active_sessions import closed as closed_within
from ..features.test_active_sessions import end_by, still_open
from ..sessions.test_sessions import Socket
from ..support.streams import Stream

pytestmark = with_tables

OTHER_STORES = ["cookie", "django cookie", *DJANGO]
ended_streams: list[str] = []


async def is_staff(user: Any) -> bool:
    return bool(user.is_staff)


async def mirror(websocket: WebSocket) -> None:
    await websocket.accept()
    async for text in websocket.iter_text():
        await websocket.send_text(text)


async def say_who(websocket: WebSocket) -> None:
    """Tells at each message who the user is, and what the user may do."""
    await websocket.accept()
    async for _ in websocket.iter_text():
        user = websocket.user
        scopes = [scope for scope in ("authenticated", "staff", "polls.add_vote") if scope in websocket.auth.scopes]
        await websocket.send_json([user.username, user.is_staff, user.has_perm("polls.add_vote"), scopes])


def events(request: Request) -> AsyncIterator[str]:
    async def parts() -> AsyncIterator[str]:
        try:
            while True:
                yield f"data: {request.user.username} {request.user.is_staff}\n\n"
                await asyncio.sleep(0.01)
        finally:
            ended_streams.append(request.url.path)

    return parts()


def event_stream(request: Request, **options: Any) -> Response:
    return StreamingResponse(events(request), media_type="text/event-stream", **options)


async def ticks(request: Request) -> Response:
    return event_stream(request)


def ticks_sync(request: Request) -> Response:
    return event_stream(request)


class Ticks(HTTPEndpoint):
    async def get(self, request: Request) -> Response:
        return event_stream(request)


class GuardedMethod(HTTPEndpoint):
    @permission_required("polls.add_vote")
    async def get(self, request: Request) -> Response:
        return event_stream(request)


class ScopedMethod(HTTPEndpoint):
    @requires("polls.add_vote")
    async def get(self, request: Request) -> Response:
        return event_stream(request)


class Mirror(WebSocketEndpoint):
    encoding = "text"

    async def on_receive(self, websocket: Any, data: str) -> None:
        await websocket.send_text(data)


voters, staff = permission_required("polls.add_vote"), user_passes_test(lambda user: user.is_staff)
SOCKETS: dict[str, Any] = {
    "permission_required": voters(mirror),
    "permission_required(list)": permission_required(["polls.add_vote"])(mirror),
    "user_passes_test": staff(mirror),
    "user_passes_test(async)": user_passes_test(is_staff)(mirror),
    "stacked": login_required(voters(login_required(mirror))),
    "class": voters(Mirror),
    "stacked classes": voters(login_required(Mirror)),
    "requires": requires(["authenticated", "staff"])(mirror),
    "requires below a guard": login_required(requires("polls.add_vote")(mirror)),
}
STREAMS: dict[str, Any] = {
    "permission_required": voters(ticks),
    "user_passes_test": staff(ticks),
    "user_passes_test(async)": user_passes_test(is_staff)(ticks),
    "sync": voters(ticks_sync),
    "sync user_passes_test": staff(ticks_sync),
    "sync user_passes_test(async)": user_passes_test(is_staff)(ticks_sync),
    "stacked": login_required(voters(ticks)),
    "class": voters(Ticks),
    "method": GuardedMethod,
    "requires": requires("staff")(ticks),
    "requires, method": ScopedMethod,
}
UNGUARDED = [WebSocketRoute("/mirror", mirror), WebSocketRoute("/who", say_who), Route("/ticks", ticks)]


def make_app(auth: Auth, *more: Any, middlewares: Any = ()) -> Starlette:
    pages = Mount("/accounts", routes=routes(auth))
    return Starlette(routes=[*more, *UNGUARDED, pages], middleware=[*middleware(auth), *middlewares])


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Checks open connections many times a second, as no browser waits for 45 seconds in a test."""
    assert OpenConnection.check_interval <= 55
    monkeypatch.setattr(OpenConnection, "check_interval", 0.02)


@contextlib.asynccontextmanager
async def site(kind: str, folder: Path, *more: Any, clock: Any = None, **options: Any) -> AsyncIterator[Any]:
    """Yields an Auth, an application, and a client in which ann is logged in: staff, and in the group of voters."""
    extra = {name: options.pop(name) for name in ("middlewares",) if name in options}
    times = {} if clock is None else {"clock": clock}
    async with with_store(kind, folder, **times, **options) as auth:
        auth.check_routes = False  # the same functions are guarded and not
        ann = await auth.users.create_user("ann", "ann@example.org", PASSWORD, is_staff=True)
        group = await auth.users.create_group("voters")
        await auth.users.create_permission("polls.add_vote")
        await auth.users.grant(group, "polls.add_vote")
        await auth.users.add_to_group(ann, group)
        app = make_app(auth, *more, **extra)
        async with client_of(app) as client:
            await log_in(client, ann, auth)
            yield auth, app, client


async def closed(socket: Socket) -> int:
    return await closed_within(socket)


async def get_ann(auth: Auth) -> User:
    ann: User | None = await auth.users.get_by_username("ann")
    assert ann is not None
    return ann


async def withdraw_rights(auth: Auth) -> None:
    ann = await get_ann(auth)
    await auth.users.remove_from_group(ann, "voters")
    await auth.users.update(ann, is_staff=False)


async def switch_off(auth: Auth) -> None:
    """Switches ann off as another process would, which cannot notify this one."""
    await auth.database.execute(auth.tables.user.update().values(is_active=False))


# Withdrawn rights


@pytest.mark.parametrize("guard", SOCKETS)
async def test_a_websocket_is_closed_when_its_guard_would_refuse_it(often: None, tmp_path: Path, guard: str) -> None:
    async with (
        site("memory", tmp_path, WebSocketRoute("/guarded", SOCKETS[guard])) as (auth, app, client),
        Socket(app, "/guarded", client) as socket,
        Socket(app, "/mirror", client) as unguarded,
    ):
        await asyncio.sleep(0.1)
        assert await still_open(socket)
        await withdraw_rights(auth)
        assert await closed(socket) == 1008
        assert await still_open(unguarded), "ann is still logged in"


@pytest.mark.parametrize("guard", STREAMS)
async def test_a_stream_ends_when_its_guard_would_refuse_it(often: None, tmp_path: Path, guard: str) -> None:
    async with (
        site("memory", tmp_path, Route("/guarded", STREAMS[guard])) as (auth, app, client),
        Stream(app, "/guarded", client) as stream,
        Stream(app, "/ticks", client) as unguarded,
    ):
        await asyncio.sleep(0.1)
        assert await stream.goes_on()
        await withdraw_rights(auth)
        assert await stream.ended()
        assert await unguarded.goes_on(), "ann is still logged in"


def fastapi_app(auth: Auth) -> FastAPI:
    """An application in which each endpoint is guarded in another way."""
    app = FastAPI(middleware=middleware(auth))
    inner = APIRouter(dependencies=[Depends(voters)])

    def ask(user: Annotated[Any, Depends(staff)]) -> Any:
        return user

    @app.websocket("/dependency", dependencies=[Depends(login_required), Depends(voters)])
    async def dependency(websocket: WebSocket) -> None:
        await mirror(websocket)

    @app.websocket("/decorator")
    @voters
    async def decorator(websocket: WebSocket) -> None:
        await mirror(websocket)

    inner.add_api_websocket_route("/router", mirror)
    inner.add_api_route("/router", ticks)
    app.add_api_route("/dependency", ticks, dependencies=[Depends(login_required), Depends(voters)])
    app.add_api_route("/nested", ticks, dependencies=[Depends(ask)])
    app.add_api_route("/decorator", voters(ticks))
    app.include_router(inner)
    return app


@pytest.mark.parametrize("path", ["/dependency", "/decorator", "/router", "/nested"])
async def test_the_guards_of_fastapi_are_asked_again(often: None, tmp_path: Path, path: str) -> None:
    async with site("memory", tmp_path) as (auth, _, client):
        app = fastapi_app(auth)
        async with contextlib.AsyncExitStack() as stack:
            socket = None
            if path != "/nested":
                socket = await stack.enter_async_context(Socket(app, path, client))
            stream = await stack.enter_async_context(Stream(app, path, client))
            await asyncio.sleep(0.1)
            assert await stream.goes_on()
            assert socket is None or await still_open(socket)
            await withdraw_rights(auth)
            assert await stream.ended()
            assert socket is None or await closed(socket) == 1008


async def test_websocket_user_is_the_user_as_of_now(often: None, tmp_path: Path) -> None:
    async with (
        site("memory", tmp_path) as (auth, app, client),
        Socket(app, "/who", client) as socket,
        Stream(app, "/ticks", client) as stream,
    ):

        async def ask() -> Any:
            socket.sent.put_nowait({"type": "websocket.receive", "text": "who?"})
            return (await socket.received.get())["text"]

        every = '["authenticated","staff","polls.add_vote"]'
        assert await ask() == f'["ann",true,true,{every}]'
        assert b"ann True" in await stream.next_part()
        await withdraw_rights(auth)
        async with asyncio.timeout(5):
            while await ask() != '["ann",false,false,["authenticated"]]':
                await asyncio.sleep(0.01)
            while b"ann False" not in await stream.next_part():
                pass


async def test_rights_that_are_granted_count_too(often: None, tmp_path: Path) -> None:
    async with site("memory", tmp_path) as (auth, app, client):
        await withdraw_rights(auth)
        async with Socket(app, "/who", client) as socket:
            await auth.users.update(await get_ann(auth), is_staff=True)
            async with asyncio.timeout(5):
                while True:
                    socket.sent.put_nowait({"type": "websocket.receive", "text": "who?"})
                    if (await socket.received.get())["text"].startswith('["ann",true,false'):
                        break
                    await asyncio.sleep(0.01)


@pytest.mark.parametrize("action", ["rights", "account"])
@pytest.mark.parametrize("kind", [*ON_SERVER, *OTHER_STORES], ids=name_of)
async def test_every_store_shows_the_user_as_of_now(often: None, tmp_path: Path, kind: str, action: str) -> None:
    guarded = [WebSocketRoute("/guarded", voters(mirror)), Route("/guarded", voters(ticks))]
    async with (
        site(kind, tmp_path, *guarded) as (auth, app, client),
        Socket(app, "/guarded", client) as socket,
        Stream(app, "/guarded", client) as stream,
    ):
        await asyncio.sleep(0.1)
        assert await still_open(socket)
        assert await stream.goes_on()
        await (switch_off(auth) if action == "account" else withdraw_rights(auth))
        assert await closed(socket) == 1008
        assert await stream.ended()


async def test_a_socket_for_a_fresh_login_closes_and_a_download_goes_on(often: None, tmp_path: Path) -> None:
    """Each message of a WebSocket is an action. A stream is the answer to one request, which was fresh enough."""
    fresh = fresh_login_required(max_age=60)
    guarded = [WebSocketRoute("/guarded", fresh(mirror)), Route("/guarded", fresh(ticks))]
    clock = FrozenClock()
    async with (
        site("memory", tmp_path, *guarded, clock=clock) as (auth, app, client),
        Socket(app, "/guarded", client) as socket,
        Stream(app, "/guarded", client) as stream,
    ):
        await asyncio.sleep(0.1)
        assert await still_open(socket)
        clock.tick(61)
        assert await closed(socket) == 1008
        await asyncio.sleep(0.1)
        assert await stream.goes_on()
        await switch_off(auth)
        assert await stream.ended()


async def test_login_required_middleware_is_asked_again(often: None, tmp_path: Path) -> None:
    async def leave(websocket: WebSocket) -> None:
        await websocket.accept()
        await logout(websocket)
        async for text in websocket.iter_text():
            await websocket.send_text(text)

    public = login_not_required(lambda websocket: leave(websocket))
    sockets = [WebSocketRoute("/leave", leave), WebSocketRoute("/public", public)]
    guard = Middleware(LoginRequiredMiddleware)
    async with site("memory", tmp_path, *sockets, middlewares=[guard]) as (auth, app, client):
        await log_in(client, await get_ann(auth), auth)
        async with Socket(app, "/leave", client) as socket:
            assert await closed(socket) == 1008
        await log_in(client, await get_ann(auth), auth)
        async with Socket(app, "/public", client) as socket:
            await asyncio.sleep(0.1)
            assert await still_open(socket), "its endpoint needs no login"


@pytest.mark.parametrize("word", ["logout", "clear", "flush"])
async def test_a_guarded_socket_that_ends_its_own_login_is_closed(often: None, tmp_path: Path, word: str) -> None:
    async def end_login(websocket: WebSocket) -> None:
        await websocket.accept()
        if word == "logout":
            await logout(websocket)
        else:
            getattr(websocket.session, word)()
        async for _ in websocket.iter_text():
            await websocket.send_text(websocket.user.username or "nobody")

    sockets = [WebSocketRoute("/guarded", login_required(end_login)), WebSocketRoute("/open", end_login)]
    async with site("memory", tmp_path, *sockets) as (auth, app, client):
        async with Socket(app, "/guarded", client) as socket:
            assert await closed(socket) == 1008
        await log_in(client, await get_ann(auth), auth)
        async with Socket(app, "/open", client) as socket:
            await asyncio.sleep(0.1)
            socket.sent.put_nowait({"type": "websocket.receive", "text": "who?"})
            assert (await socket.received.get())["text"] == "nobody"


@pytest.mark.parametrize(
    "refusal", [HTTPException(403), PermissionDenied("no"), HTTPException(503), OSError("away"), "unavailable"], ids=str
)
async def test_a_guard_that_raises(often: None, tmp_path: Path, caplog: pytest.LogCaptureFixture, refusal: Any) -> None:
    """A refusal closes. An outage does not: all sockets would be closed at once."""
    state: dict[str, Any] = {"error": None}

    def ask(user: Any) -> bool:
        if state["error"] is not None:
            raise state["error"]
        return bool(user.is_staff)

    guard = user_passes_test(ask)
    guarded = [WebSocketRoute("/guarded", guard(mirror)), Route("/guarded", guard(ticks))]
    async with (
        site("memory", tmp_path, *guarded) as (auth, app, client),
        Socket(app, "/guarded", client) as socket,
        Stream(app, "/guarded", client) as stream,
    ):
        if refusal == "unavailable":
            await auth.database.execute("ALTER TABLE auth_user RENAME TO away")
        else:
            state["error"] = refusal
        if isinstance(refusal, PermissionDenied) or getattr(refusal, "status_code", 500) < 500:
            assert await closed(socket) == 1008
            assert await stream.ended()
            return
        async with asyncio.timeout(5):
            while caplog.text.count("cannot be looked up") < 4:
                await asyncio.sleep(0.01)
        assert await still_open(socket)
        assert await stream.goes_on()
        state["error"] = None
        if refusal == "unavailable":
            await auth.database.execute("ALTER TABLE away RENAME TO auth_user")
        await withdraw_rights(auth)
        assert await closed(socket) == 1008
        assert await stream.ended()


# Backends that identify each request


class TokenBackend(AuthenticationBackend):
    def __init__(self) -> None:
        self.tokens: dict[str, Callable[[Auth], Any]] = {}

    async def identify(self, conn: HTTPConnection) -> User | None:
        find = self.tokens.get(conn.headers.get("authorization", ""))
        return await find(get_auth(conn)) if find is not None else None


class TicketBackend(TokenBackend):
    """Accepts each token once."""

    async def identify(self, conn: HTTPConnection) -> User | None:
        user = await super().identify(conn)
        self.tokens.clear()
        return user

    async def identify_again(self, conn: HTTPConnection, user: User) -> User | None:
        found: User | None = await get_auth(conn).users.get(user.id)
        return found


class TokenSocket(Socket):
    def __init__(self, app: Any, path: str, client: httpx.AsyncClient) -> None:
        super().__init__(app, path, client)
        self.scope["headers"] += [(b"authorization", b"token")]  # type: ignore[operator]


@pytest.mark.parametrize("action", ["token", "other user", "rights", "account", "deactivated"])
async def test_a_token_is_asked_again(often: None, tmp_path: Path, action: str) -> None:
    backend = TokenBackend()
    backend.tokens["token"] = get_ann
    guarded = [WebSocketRoute("/guarded", voters(mirror)), Route("/guarded", voters(ticks))]
    async with site("memory", tmp_path, *guarded, backends=[backend]) as (auth, app, client):
        client.cookies.clear()
        headers = {"authorization": "token"}
        async with TokenSocket(app, "/guarded", client) as socket, Stream(app, "/guarded", headers=headers) as stream:
            await asyncio.sleep(0.1)
            assert await still_open(socket)
            assert await stream.goes_on()
            if action == "token":
                backend.tokens.clear()
            elif action == "other user":
                ben = await auth.users.create_user("ben", is_superuser=True)
                backend.tokens["token"] = lambda auth: auth.users.get(ben.id)
            elif action == "rights":
                await withdraw_rights(auth)
            elif action == "account":
                await switch_off(auth)
            else:
                await auth.users.update(await get_ann(auth), is_active=False)
            assert await closed(socket) == 1008
            assert await stream.ended()


async def test_the_account_of_a_token_ends_its_connections_at_once(tmp_path: Path) -> None:
    backend = TokenBackend()
    backend.tokens["token"] = get_ann
    async with site("memory", tmp_path, backends=[backend]) as (auth, app, client):
        client.cookies.clear()
        headers = {"authorization": "token"}
        async with TokenSocket(app, "/mirror", client) as socket, Stream(app, "/ticks", headers=headers) as stream:
            assert await still_open(socket)
            await auth.users.update(await get_ann(auth), is_active=False)
            assert await closed(socket) == 1008
            assert await stream.ended()


async def test_a_backend_with_single_use_tickets_says_how_it_is_asked_again(often: None, tmp_path: Path) -> None:
    backend = TicketBackend()
    backend.tokens["token"] = get_ann
    async with (
        site("memory", tmp_path, Route("/guarded", voters(ticks)), backends=[backend]) as (auth, app, _client),
        Stream(app, "/guarded", headers={"authorization": "token"}) as stream,
    ):
        assert stream.status == 200
        await asyncio.sleep(0.1)
        assert await stream.goes_on()
        await withdraw_rights(auth)
        assert await stream.ended()


async def test_a_user_set_by_the_application_stays(often: None, tmp_path: Path) -> None:
    """Such as a customer whom staff impersonates, in an application of its own making."""

    async def impersonate(websocket: WebSocket) -> None:
        websocket.scope["user"] = await auth.users.create_user("customer")
        await say_who(websocket)

    async with (
        site("memory", tmp_path, WebSocketRoute("/as", impersonate)) as (auth, app, client),
        Socket(app, "/as", client) as socket,
    ):
        await asyncio.sleep(0.1)
        socket.sent.put_nowait({"type": "websocket.receive", "text": "who?"})
        assert (await socket.received.get())["text"].startswith('["customer"')
        await switch_off(auth)
        assert await closed(socket) == 1008


# How streams end


@pytest.mark.flaky(reruns=3)  # a busy machine distorts the time
@pytest.mark.parametrize("action", ["logout", "page", "all", "password", "delete", "login", "deactivated"])
@pytest.mark.parametrize("kind", ON_SERVER, ids=name_of)
async def test_the_streams_of_an_ended_session_end_within_a_second(kind: str, tmp_path: Path, action: str) -> None:
    async with site(kind, tmp_path, Route("/members", login_required(ticks))) as (auth, app, client):
        async with client_of(app) as of_ben:
            await log_in(of_ben, await auth.users.create_user("ben"), auth)
            async with (
                Stream(app, "/members", client) as stream,
                Stream(app, "/members", of_ben) as of_another,
                Stream(app, "/ticks") as anonymous,
            ):
                assert b"ann" in await stream.next_part()
                if action == "deactivated":
                    await auth.users.update(await get_ann(auth), is_active=False)
                else:
                    await end_by(action, auth, client)
                assert await stream.ended(within=1), "the event source gets the end of the body, and connects again"
                assert await of_another.goes_on()
                assert await anonymous.goes_on()
        if action != "login":
            async with Stream(app, "/members", client, headers={"accept": "application/json"}) as again:
                assert again.status == 401


async def test_a_logout_with_cookie_store_ends_connections_of_the_same_process(tmp_path: Path) -> None:
    async with (
        site("cookie", tmp_path) as (_auth, app, client),
        Socket(app, "/mirror", client) as socket,
        Stream(app, "/ticks", client) as stream,
    ):
        assert await still_open(socket)
        assert await stream.goes_on()
        await client.post("/accounts/logout", headers={"origin": "http://testserver"})
        assert await closed(socket) == 1008
        assert await stream.ended()


@pytest.mark.parametrize("action", ["session", "time"])
@pytest.mark.parametrize("kind", ["memory", *BACKENDS], ids=name_of)
async def test_changes_by_another_process_end_a_stream(often: None, tmp_path: Path, kind: str, action: str) -> None:
    clock = FrozenClock()
    async with site(kind, tmp_path, clock=clock) as (auth, app, client):
        async with Stream(app, "/ticks", client) as stream:
            await asyncio.sleep(0.1)
            assert await stream.goes_on()
            if action == "session":
                await auth.sessions.revoke_all((await get_ann(auth)).identity)
            else:
                clock.tick(2 * 60 * 60)
            assert await stream.ended()
        async with Stream(app, "/ticks", client) as stream:
            assert b"ann" not in await stream.next_part(), "the end of a stream is no use of the session"


async def test_a_stream_is_one_use_of_the_session(often: None, tmp_path: Path) -> None:
    """The stream does not keep the session alive: nobody may sit in front of it."""
    clock = FrozenClock()
    async with site("memory", tmp_path, clock=clock) as (auth, app, client):
        clock.tick(50 * 60)
        async with Stream(app, "/ticks", client) as stream:
            async with asyncio.timeout(5):
                while (await auth.user_sessions.list(await get_ann(auth)))[0].last_seen < clock.now:
                    await asyncio.sleep(0.01)
            started_at = clock.now
            clock.tick(50 * 60)
            await asyncio.sleep(0.1)
            assert await stream.goes_on()
        assert (await auth.user_sessions.list(await get_ann(auth)))[0].last_seen == started_at


async def test_a_session_that_ends_before_the_stream_begins_ends_it(tmp_path: Path) -> None:
    async def late(request: Request) -> Response:
        await auth.user_sessions.revoke_all(request.user)  # stands for a concurrent request
        return event_stream(request)

    async with (
        site("memory", tmp_path, Route("/late", late)) as (auth, app, client),
        Stream(app, "/late", client) as stream,
    ):
        assert stream.status == 200
        assert await stream.ended()


async def test_a_stream_that_follows_its_own_login_is_watched(tmp_path: Path) -> None:
    async def log_in_and_stream(request: Request) -> Response:
        await login(request, await get_ann(auth))
        return event_stream(request)

    async with site("memory", tmp_path, Route("/in", log_in_and_stream)) as (auth, app, client):
        for cookies in (client, client_of(app)):
            async with Stream(app, "/in", cookies) as stream:
                await asyncio.sleep(0.05)
                assert await stream.goes_on()
                await auth.user_sessions.revoke_all(await get_ann(auth))
                assert await stream.ended()


class Parts:
    """A body whose parts are sent at a word. Notes how it ends."""

    def __init__(self, *parts: bytes) -> None:
        self.parts = list(parts)
        self.more = asyncio.Event()
        self.log: list[str] = []

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            for part in self.parts:
                yield part
            await self.more.wait()
        finally:
            self.log.append("closed")

    async def run_in_background(self) -> None:
        self.log.append("background")


@pytest.mark.parametrize("spec_version", ["2.3", "2.4"])
@pytest.mark.parametrize("parts", [(), (b"data: 1\n\n",)], ids=["before the first part", "between parts"])
async def test_a_stream_that_waits_for_an_event_ends(tmp_path: Path, spec_version: str, parts: Any) -> None:
    """With 2.3, Starlette waits for the client to disconnect and runs the background task; with 2.4, neither."""
    body = Parts(*parts)

    async def wait(request: Request) -> Response:
        task = BackgroundTask(body.run_in_background)
        return StreamingResponse(body, media_type="text/event-stream; charset=utf-8", background=task)

    async with site("memory", tmp_path, Route("/wait", wait)) as (auth, app, client):
        async with Stream(app, "/wait", client, spec_version=spec_version) as stream:
            await asyncio.sleep(0.05)
            await end_by("all", auth, client)
            assert await stream.ended()
        assert body.log == (["closed", "background"] if spec_version == "2.3" else ["closed"])
        assert stream.task.exception() is None


@pytest.mark.parametrize("spec_version", ["2.3", "2.4"])
@pytest.mark.parametrize(
    "headers", [{"content-type": "text/csv"}, {"content-length": "100"}, {"content-type": "application/jsonl"}], ids=str
)
async def test_a_part_of_a_file_is_not_taken_for_the_whole(tmp_path: Path, spec_version: str, headers: Any) -> None:
    body = Parts(b"1;2;3\n", b"4;5;6\n")

    async def export(request: Request) -> Response:
        return StreamingResponse(body, headers=headers, background=BackgroundTask(body.run_in_background))

    async with site("memory", tmp_path, Route("/export", export)) as (auth, app, client):
        async with Stream(app, "/export", client, spec_version=spec_version) as stream:
            await asyncio.sleep(0.05)
            await end_by("all", auth, client)
            assert not await stream.ended()
            # A server closes the connection, so that the client notices.
            assert isinstance(stream.task.exception(), ConnectionAbortedError)
        assert body.log == (["closed", "background"] if spec_version == "2.3" else ["closed"])


class PacedStream(Stream):
    """A client with a slow connection."""

    async def send(self, message: Any) -> None:
        await asyncio.sleep(0.01)
        await super().send(message)


@pytest.mark.parametrize("spec_version", ["2.3", "2.4"])
async def test_a_download_is_cut_off(tmp_path: Path, spec_version: str) -> None:
    path = tmp_path / "large.bin"
    await asyncio.to_thread(path.write_bytes, bytes(64 * 1024 * 1000))

    def download(request: Request) -> Response:
        return FileResponse(path)

    async with (
        site("memory", tmp_path, Route("/download", download)) as (auth, app, client),
        PacedStream(app, "/download", client, spec_version=spec_version) as stream,
    ):
        await stream.next_part()
        await stream.next_part()
        await auth.user_sessions.revoke_all(await get_ann(auth))
        assert not await stream.ended()
        assert isinstance(stream.task.exception(), ConnectionAbortedError)


async def test_a_client_that_does_not_read_is_cut_off(tmp_path: Path) -> None:
    """The server waits in send(), so that the end of the body cannot be sent."""
    async with site("memory", tmp_path) as (auth, app, client), SlowStream(app, "/ticks", client) as slow:
        await asyncio.sleep(0.05)
        await auth.user_sessions.revoke_all(await get_ann(auth))
        assert not await slow.ended()
        assert isinstance(slow.task.exception(), ConnectionAbortedError)


class SlowStream(Stream):
    async def send(self, message: Any) -> None:
        await super().send(message)
        if message["type"] == "http.response.body":
            await asyncio.Event().wait()


async def test_a_stream_through_another_middleware_ends(tmp_path: Path) -> None:
    async def pass_on(request: Request, call_next: Any) -> Any:
        return await call_next(request)

    inside = Middleware(BaseHTTPMiddleware, dispatch=pass_on)
    async with site("memory", tmp_path, middlewares=[inside]) as (auth, app, client):
        outside = BaseHTTPMiddleware(app, dispatch=pass_on)
        for application in (app, outside):
            await log_in(client, await get_ann(auth), auth)
            async with Stream(application, "/ticks", client) as stream:
                assert await stream.goes_on()
                await auth.user_sessions.revoke_all(await get_ann(auth))
                assert await stream.ended()


async def test_an_application_that_ignores_the_end_cannot_send(tmp_path: Path) -> None:
    tried: list[str] = []

    async def stubborn(scope: Any, receive: Any, send: Any) -> None:
        headers = [(b"content-type", b"text/event-stream")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        assert (await receive())["type"] == "http.disconnect"
        with contextlib.suppress(ConnectionError):
            await send({"type": "http.response.body", "body": b"secret", "more_body": True})
        await asyncio.sleep(0.01)
        tried.append("secret")

    async with site("memory", tmp_path, Mount("/stubborn", app=stubborn)) as (auth, app, client):
        async with Stream(app, "/stubborn/", client) as stream:
            await asyncio.sleep(0.05)
            await auth.user_sessions.revoke_all(await get_ann(auth))
            assert await stream.ended()
        assert tried == ["secret"]
        assert stream.task.exception() is None


async def test_an_error_of_the_application_at_the_end_is_raised(tmp_path: Path) -> None:
    async def fragile(request: Request) -> Response:
        async def parts() -> AsyncIterator[bytes]:
            try:
                while True:
                    yield b"data: 1\n\n"
                    await asyncio.sleep(0.01)
            finally:
                raise LookupError("the application has a bug")

        return StreamingResponse(parts(), media_type="text/event-stream")

    async with (
        site("memory", tmp_path, Route("/fragile", fragile)) as (auth, app, client),
        Stream(app, "/fragile", client, spec_version="2.4") as stream,
    ):
        await asyncio.sleep(0.05)
        await auth.user_sessions.revoke_all(await get_ann(auth))
        with pytest.raises(LookupError):
            await asyncio.wait_for(asyncio.shield(stream.task), 20)
        stream.task = asyncio.create_task(asyncio.sleep(0))


async def test_a_cancelled_stream_stays_cancelled(tmp_path: Path) -> None:
    """A server cancels the request at its shutdown, at the moment at which the session ends."""
    async with site("memory", tmp_path) as (auth, app, client):
        for _ in range(3):
            await log_in(client, await get_ann(auth), auth)
            async with Stream(app, "/ticks", client) as stream:
                await asyncio.sleep(0.02)
                await auth.user_sessions.revoke_all(await get_ann(auth))
                stream.task.cancel()
                await asyncio.wait([stream.task])
                assert stream.task.cancelled() or stream.is_complete


# What costs nothing


class CountedTasks:
    """Counts the tasks that are started by this package."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def __call__(self, loop: Any, coroutine: Any, **options: Any) -> Any:
        self.names.append(coroutine.__qualname__)
        return asyncio.Task(coroutine, loop=loop, **options)

    @property
    def watchers(self) -> int:
        return sum(name == "OpenConnection.watch" for name in self.names)


@pytest.fixture
async def tasks() -> AsyncIterator[CountedTasks]:
    counted, loop = CountedTasks(), asyncio.get_running_loop()
    loop.set_task_factory(counted)
    yield counted
    loop.set_task_factory(None)


async def test_only_a_body_that_goes_on_is_watched(tmp_path: Path, tasks: CountedTasks) -> None:
    small, large = tmp_path / "small.txt", tmp_path / "large.txt"
    await asyncio.to_thread(small.write_text, "small")
    await asyncio.to_thread(large.write_bytes, bytes(64 * 1024 * 3))

    async def pass_on(request: Request, call_next: Any) -> Any:
        return await call_next(request)

    async def short(request: Request) -> Response:
        return StreamingResponse(iter([b"1", b"2"]))

    more = [
        Route("/text", lambda request: PlainTextResponse("text")),
        Route("/nothing", lambda request: Response(status_code=204)),
        Route("/small", lambda request: FileResponse(small)),
        Route("/large", lambda request: FileResponse(large)),
        Route("/short", short),
    ]
    inside = Middleware(BaseHTTPMiddleware, dispatch=pass_on)
    async with site("memory", tmp_path, *more, middlewares=[inside]) as (auth, app, client):
        for path in ("/text", "/nothing", "/small", "/accounts/login"):
            assert (await client.get(path)).status_code in (200, 204, 303)
        assert tasks.watchers == 0
        assert len((await client.get("/large")).content) == 64 * 1024 * 3
        assert (await client.get("/short")).text == "12"
        assert tasks.watchers == 2
        async with Stream(app, "/ticks") as anonymous:
            await client_of(app).get("/short")
            assert await anonymous.goes_on()
            assert tasks.watchers == 2
        await asyncio.sleep(0)
        assert not auth.sessions.open_websockets._open


async def test_nothing_is_left_of_a_stream_that_ends_by_itself_or_whose_client_disconnects(tmp_path: Path) -> None:
    async with site("memory", tmp_path) as (auth, app, client):
        before = asyncio.all_tasks()
        async with Stream(app, "/ticks", client) as stream:
            assert await stream.goes_on()
            assert len(auth.sessions.open_websockets._open) == 1
        async with Stream(app, "/ticks", client) as stream:
            await asyncio.sleep(0.02)
            stream.task.cancel()
        await asyncio.sleep(0.01)
        assert not auth.sessions.open_websockets._open
        assert asyncio.all_tasks() == before

"""Counts the objects that a request leaves in reference cycles, which only the garbage collector can free.

The collector stops every request of the process while it runs.
"""

import asyncio
import contextlib
import gc
import inspect
import logging
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette import _exception_handler
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.sessions import SessionMiddleware as StarletteSessions
from starlette.requests import HTTPConnection, Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route, WebSocketRoute
from starlette.types import ASGIApp, Message, Scope
from starlette.websockets import WebSocket, WebSocketDisconnect

from starlette_auth import (
    ActiveSessions,
    AnonymousUser,
    Auth,
    AuthenticationBackend,
    AuthenticationMiddleware,
    PermissionDenied,
    RedisStore,
    Unavailable,
    User,
    get_auth,
    login,
    logout,
)
from starlette_auth.core.signing import new_key
from starlette_auth.testing import CollectingMailer

from ..conftest import DJANGO, ON_SERVER, PASSWORD, SECRET_KEY, name_of, with_store
from ..support.apps import make_app, public
from ..support.server import free_port

pytestmark = pytest.mark.long

Headers = list[tuple[bytes, bytes]]
Endpoint = Callable[[Request], Coroutine[Any, Any, Response]]
ROUNDS = 3
SAME_ORIGIN, CROSS_SITE = [(b"sec-fetch-site", b"same-origin")], [(b"sec-fetch-site", b"cross-site")]
FORM = (b"content-type", b"application/x-www-form-urlencoded")
OPENING: list[Message] = [{"type": "websocket.connect"}, {"type": "websocket.receive", "text": "a=1"}]


async def log_in_ann(request: Request) -> Response:
    await login(request, await get_auth(request).users.get_by_username("ann"))  # type: ignore[arg-type]
    return PlainTextResponse("in")


async def log_out(request: Request) -> Response:
    await logout(request)
    return PlainTextResponse("out")


async def break_down(request: Request) -> Response:
    raise Unavailable("the database cannot be reached")


async def stream(request: Request) -> Response:
    async def parts() -> AsyncIterator[bytes]:
        yield b"first"
        yield b"second"

    return StreamingResponse(parts())


def outlived_stream(media_type: str) -> Endpoint:
    async def stream_on(request: Request) -> Response:
        """Ends its own session while it streams."""

        async def parts() -> AsyncIterator[bytes]:
            yield b"first"
            await get_auth(request).user_sessions.revoke_all(request.user)
            await asyncio.sleep(1)
            yield b"never"

        return StreamingResponse(parts(), media_type=media_type)

    return stream_on


async def fill_and_end(request: Request) -> Response:
    """Changes the session, which another request ends before it is saved."""
    request.session["late"] = True
    await get_auth(request).sessions.delete(request.session.session_key)  # type: ignore[attr-defined]
    return PlainTextResponse("late")


async def outlive(websocket: WebSocket) -> None:
    """Ends its own session while it is open."""
    await websocket.accept()
    await get_auth(websocket).user_sessions.revoke_all(websocket.user)
    await asyncio.sleep(0.02)
    await websocket.receive_text()


async def wait_forever(request: Request) -> Response:
    request.session["waiting"] = True
    await asyncio.Event().wait()
    return PlainTextResponse("never")


ROUTES = [
    Route("/forever", wait_forever),
    WebSocketRoute("/outlive", outlive),
    Route("/log-in", log_in_ann),
    Route("/log-out", log_out),
    Route("/break-down", break_down),
    Route("/stream", stream),
    Route("/outlived-events", outlived_stream("text/event-stream")),
    Route("/outlived-file", outlived_stream("text/csv")),
    Route("/late-write", fill_and_end),
]


class Site:
    """An application, and the cookies of a user who may vote."""

    def __init__(self, auth: Auth, app: ASGIApp) -> None:
        self.auth = auth
        self.app = app
        self.messages: list[Message] = []
        self.cookies = ""

    async def call(
        self, path: str, *, headers: Headers | None = None, cookies: str = "", method: str = "GET", body: str = ""
    ) -> Any:
        """Sends a request without an HTTP client, which has cycles of its own; returns the status of the response."""
        request: list[Message] = [{"type": "http.request", "body": body.encode(), "more_body": False}]
        scope = {"type": "http", "scheme": "http", "method": method}
        return await self._run(scope, path, request, headers or [], cookies)

    async def connect(self, path: str, *, headers: Headers | None = None, cookies: str = "") -> Any:
        """Opens a WebSocket and sends a text; returns the close code, or None if it was accepted."""
        scope = {"type": "websocket", "scheme": "ws", "subprotocols": []}
        return await self._run(scope, path, list(OPENING), headers or [], cookies)

    async def _run(self, scope: Scope, path: str, inbox: list[Message], headers: Headers, cookies: str) -> Any:
        self.messages = messages = []
        path, _, query = path.partition("?")
        # With an older version, Starlette cancels a task for each streamed response, which leaves cycles of its own.
        scope["asgi"] = {"version": "3.0", "spec_version": "2.4"}
        scope.update(path=path, query_string=query.encode(), root_path="", client=("192.0.2.1", 5000))
        cookie = (b"cookie", (cookies or self.cookies).encode())
        scope["headers"] = [(b"host", b"testserver"), (b"accept", b"text/html"), cookie, *headers]
        gone = {"type": f"{scope['type']}.disconnect", "code": 1001}

        async def receive() -> Message:
            await asyncio.sleep(0)
            return inbox.pop(0) if inbox else gone

        async def send(message: Message) -> None:
            await asyncio.sleep(0)
            messages.append(message)

        with contextlib.suppress(RuntimeError, WebSocketDisconnect, ConnectionAbortedError):  # which a server handles
            await self.app(scope, receive, send)
        first = messages[0]
        return first.get("status", first.get("code"))

    async def log_in(self) -> None:
        """Logs ann in and keeps her cookies."""
        self.cookies = ""
        assert await self.call("/log-in") == 200
        pairs = [value.decode() for name, value in self.messages[0]["headers"] if name == b"set-cookie"]
        self.cookies = "; ".join(pair.partition(";")[0] for pair in pairs)


Visit = Callable[[Site], Coroutine[Any, Any, Any]]


def fresh(visit: Visit) -> Visit:
    """Returns the visit after another login."""

    async def visit_after_login(site: Site) -> Any:
        await site.log_in()
        return await visit(site)

    return visit_after_login


def post(path: str, body: str = "", headers: Headers = SAME_ORIGIN) -> Visit:
    return lambda site: site.call(path, method="POST", body=body, headers=[FORM, *headers])


def get(path: str) -> Visit:
    return lambda site: site.call(path)


def connect(path: str, origin: bytes = b"http://testserver") -> Visit:
    return lambda site: site.connect(path, headers=[(b"origin", origin)])


PASSWORD_FIELD = f"password={PASSWORD.replace(' ', '+')}"
#: The visits of an anonymous visitor, with the status of the response (of a WebSocket: the close code).
ANONYMOUS: dict[str, tuple[Visit, Any]] = {
    "anonymous": (get("/"), 200),
    "not found": (get("/nowhere"), 404),
    "login needed": (get("/members"), 303),
    "permission needed": (get("/vote"), 303),
    "write of a new session": (get("/remember?a=1"), 200),
    "login": (get("/log-in"), 200),
    "login page": (get("/accounts/login"), 200),
    "login form": (post("/accounts/login", f"username=ann&{PASSWORD_FIELD}"), 303),
    "wrong password": (post("/accounts/login", "username=ann&password=wrong"), 422),
    "password reset": (post("/accounts/password_reset", "email=ann@example.org"), 303),
    "password reset page": (get("/accounts/password_reset"), 200),
    "503": (get("/break-down"), 503),
    "WebSocket": (connect("/echo"), None),
    "WebSocket that needs a login": (connect("/members-socket"), 1008),
}
#: The visits of ann.
AUTHENTICATED: dict[str, tuple[Visit, Any]] = {
    "authenticated": (get("/whoami"), 200),
    "permission": (get("/vote"), 200),
    "permission, sync": (get("/members-sync"), 200),
    "permission that is lacking": (get("/recount"), 403),
    "endpoint class": (get("/club"), 200),
    "scope": (get("/vote-by-scope"), 200),
    "streaming": (get("/stream"), 200),
    "streaming whose session ends": (fresh(get("/outlived-events")), 200),
    "streaming of a file whose session ends": (fresh(get("/outlived-file")), 200),
    "write": (get("/remember?a=1"), 200),
    "failed write": (get("/remember?a=2&status=500"), 500),
    "no token": (post("/remember", "a=1", []), 403),
    "cross-site": (post("/remember", "a=1", CROSS_SITE), 403),
    "session page": (get("/accounts/sessions"), 200),
    "password page": (get("/accounts/password_change"), 200),
    "503": (get("/break-down"), 503),
    "logout": (fresh(get("/log-out")), 200),
    "logout page": (fresh(post("/accounts/logout")), 303),
    "logout and crash": (fresh(get("/crash")), 500),
    "clear": (fresh(get("/forget")), 200),
    "flush": (fresh(get("/flush")), 200),
    "session ended meanwhile": (fresh(get("/late-write")), 400),
    "WebSocket": (connect("/echo"), None),
    "WebSocket of a user": (connect("/members-socket"), None),
    "WebSocket of a class": (connect("/club-socket"), None),
    "WebSocket that crashes": (connect("/rude"), None),
    "WebSocket of another site": (connect("/echo", b"https://evil.example"), 1008),
    "WebSocket whose session ends before it opens": (fresh(connect("/late")), 1008),
    "WebSocket whose session ends while it is open": (fresh(connect("/outlive")), None),
}

if "__traceback__" not in inspect.getsource(_exception_handler):
    # Before Starlette dropped the traceback, each exception of an endpoint in a thread left a cycle of its frames.
    del AUTHENTICATED["permission that is lacking"]


@contextlib.contextmanager
def saving_garbage() -> Iterator[None]:
    """Keeps what the collector would free in `gc.garbage`."""
    gc.collect()
    gc.disable()
    logging.disable()  # pytest keeps the records, with their exceptions
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        yield
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        logging.disable(logging.NOTSET)
        gc.enable()


async def garbage_after(visit: Visit, site: Site, expected: Any) -> list[str]:
    """Returns the types of the objects that visits leave in cycles."""

    async def visit_once() -> None:
        assert await visit(site) == expected
        await site.auth.mail_queue.drain()
        await asyncio.sleep(0)  # until cancelled tasks have ended

    for _ in range(2):  # compiles statements and templates, and opens connections
        await visit_once()
    with saving_garbage():
        for _ in range(ROUNDS):
            await visit_once()
        gc.collect()
        return sorted(type(leftover).__qualname__ for leftover in gc.garbage if not is_header_class(leftover))


def is_header_class(leftover: object) -> bool:
    """Returns whether this belongs to a class that the standard library makes for each header of a mail."""
    classes = leftover if isinstance(leftover, tuple) else (leftover,)
    return any(isinstance(part, type) and part.__module__ == "email.headerregistry" for part in classes)


@contextlib.asynccontextmanager
async def site_of(kind: str, folder: Path, **options: Any) -> AsyncIterator[Site]:
    async with with_store(
        kind, folder, throttling=False, mailer=CollectingMailer(), base_url="http://testserver", **options
    ) as auth:
        ann = await auth.users.create_user("ann", "ann@example.org", PASSWORD)
        await auth.users.create_permission("polls.add_vote")
        await auth.users.grant(ann, "polls.add_vote")
        yield Site(auth, make_app(auth, *ROUTES))


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    async with site_of("sqlite", tmp_path, features=[ActiveSessions()]) as site:
        yield site


@pytest.mark.parametrize("name", ANONYMOUS)
async def test_an_anonymous_request_leaves_no_garbage(site: Site, name: str) -> None:
    visit, expected = ANONYMOUS[name]
    assert await garbage_after(visit, site, expected) == []


@pytest.mark.parametrize("name", AUTHENTICATED)
async def test_a_request_of_a_user_leaves_no_garbage(site: Site, name: str) -> None:
    visit, expected = AUTHENTICATED[name]
    await site.log_in()
    assert await garbage_after(visit, site, expected) == []


@pytest.mark.parametrize("kind", [*ON_SERVER[2:], "memory", "cookie", "django cookie", *DJANGO], ids=name_of)
@pytest.mark.parametrize("name", ["authenticated", "permission", "write", "no token", "logout", "WebSocket of a user"])
async def test_no_store_leaves_garbage(tmp_path: Path, kind: str, name: str) -> None:
    visit, expected = AUTHENTICATED[name]
    async with site_of(kind, tmp_path) as site:
        await site.log_in()
        assert await garbage_after(visit, site, expected) == []


class AsksAll(AuthenticationBackend):
    """Says something about permissions by each of its methods."""

    def permissions(self, user: User | AnonymousUser) -> list[str]:
        return ["polls.view_vote"] if user.has_perm("polls.add_vote") else []

    def denies(self, user: User | AnonymousUser) -> list[str]:
        return ["polls.delete_vote"]

    async def load_permissions(self, conn: HTTPConnection | None, user: User | AnonymousUser) -> list[str]:
        await asyncio.sleep(0.001)
        return ["polls.change_vote"]

    async def has_perm(self, user: User | AnonymousUser, perm: str, obj: object = None) -> bool:
        if perm == "polls.never":
            raise PermissionDenied("never")
        return False


async def test_permissions_of_backends_leave_no_garbage(site: Site) -> None:
    async def ask(request: Request) -> Response:
        user = request.user
        assert [user.has_perm(f"polls.{name}") for name in ("change_vote", "delete_vote", "never")] == [
            True,
            False,
            False,
        ]
        assert user.get_all_permissions() >= {"polls.change_vote"}
        return Response()

    site.auth.backends.insert(0, AsksAll())
    site.app = make_app(site.auth, *ROUTES, Route("/ask", ask))
    for path, status in (("/ask", 200), ("/vote", 303)):
        assert await garbage_after(get(path), site, status) == []
    await site.log_in()
    names = ["authenticated", "permission", "permission that is lacking", "scope", "WebSocket of a user", "logout"]
    for name in filter(AUTHENTICATED.get, names):
        visit, expected = AUTHENTICATED[name]
        assert await garbage_after(visit, site, expected) == [], name
    await site.log_in()
    assert await garbage_after(get("/ask"), site, 200) == []


async def test_a_store_that_cannot_be_reached_leaves_no_garbage(site: Site) -> None:
    unreachable = RedisStore(f"redis://127.0.0.1:{free_port()}")
    site.app = make_app(Auth(site.auth.database, secret_key=SECRET_KEY, sessions=unreachable))
    site.cookies = f"session={new_key()}"
    assert await garbage_after(get("/"), site, 503) == []
    assert await garbage_after(connect("/echo"), site, 1013) == []


async def test_a_cancelled_request_leaves_no_garbage(site: Site) -> None:
    async def give_up(site: Site) -> None:
        task = asyncio.create_task(site.call("/forever"))
        await asyncio.sleep(0.05)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    await site.log_in()
    assert await garbage_after(give_up, site, None) == []


async def test_sessions_of_another_package_leave_no_garbage(site: Site) -> None:
    foreign = Middleware(StarletteSessions, secret_key=SECRET_KEY)
    site.app = Starlette(
        routes=[Route("/", public)], middleware=[foreign, Middleware(AuthenticationMiddleware, auth=site.auth)]
    )
    assert await garbage_after(get("/"), site, 200) == []

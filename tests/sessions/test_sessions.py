"""Sessions over HTTP and over WebSockets, as a browser sees them."""

import asyncio
import contextlib
from pathlib import Path
from typing import Any

import httpx
import pytest
import sqlalchemy as sa
from databases import Database
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocketDisconnect

from starlette_auth import (
    Auth,
    Cookie,
    CookieStore,
    ImproperlyConfigured,
    MemoryStore,
    SessionBase,
    SessionMiddleware,
    SessionTooLarge,
    Unavailable,
    User,
    csrf_token,
    get_auth,
    logout,
    middleware,
)
from starlette_auth.testing import FrozenClock

from ..conftest import (
    DJANGO,
    ON_SERVER,
    PASSWORD,
    SECRET_KEY,
    client_of,
    installed,
    name_of,
    post_login,
    token_in,
    with_store,
)
from ..support.apps import echo, make_app, remember


async def count_sessions(auth: Auth) -> int:
    return int(await auth.database.fetch_val(sa.select(sa.func.count()).select_from(auth.tables.session)))


def sessions_only_app(store: Any = None, **options: Any) -> Starlette:
    """Returns an application with SessionMiddleware and without users."""

    async def show(request: Request) -> Response:
        if request.query_params:
            request.session.update(request.query_params)
        return PlainTextResponse(repr(dict(request.session)))

    sessions = Middleware(SessionMiddleware, store=store or MemoryStore(), **options)
    return Starlette(routes=[Route("/{path:path}", show, methods=["GET", "POST"])], middleware=[sessions])


async def test_sessions_work_without_users() -> None:
    async with client_of(sessions_only_app()) as client:
        await client.get("/?a=1")
        assert (await client.get("/")).text == "{'a': '1'}"


async def test_the_cookie_has_secure_attributes() -> None:
    async with client_of(sessions_only_app()) as client:
        response = await client.get("/?a=1")
    name, *flags = response.headers["set-cookie"].split("; ")
    assert name.startswith("session=")
    assert flags == ["Path=/", "Max-Age=1209600", "HttpOnly", "SameSite=Lax"]
    assert response.headers["cache-control"] == "no-store"
    assert "cookie" in response.headers["vary"].lower()


async def test_over_https_the_cookie_is_secure_and_has_the_host_prefix() -> None:
    async with client_of(sessions_only_app(), base_url="https://testserver") as client:
        response = await client.get("/?a=1")
        assert response.headers["set-cookie"].startswith("__Host-session=")
        assert response.headers["set-cookie"].endswith("; Secure")
        assert (await client.get("/")).text == "{'a': '1'}"
        value = client.cookies["__Host-session"]
        unprefixed_cookie = {"cookie": f"session={value}"}
        client.cookies.clear()
        assert (await client.get("/", headers=unprefixed_cookie)).text == "{}"


@pytest.mark.parametrize(
    ("cookie", "expected"),
    [
        (Cookie(secure=True), "__Host-session="),
        (Cookie(secure=True, domain="example.org"), "__Secure-session="),
        (Cookie(secure=True, path="/shop"), "__Secure-session="),
        (Cookie(secure=True, prefix=False), "session="),
        (Cookie(name="sid", domain="example.org"), "sid="),
    ],
)
async def test_the_cookie_has_the_prefix_that_fits_its_attributes(cookie: Cookie, expected: str) -> None:
    async with client_of(sessions_only_app(cookie=cookie)) as client:
        header = (await client.get("/?a=1")).headers["set-cookie"]
    assert header.startswith(expected)
    assert ("Domain=example.org" in header) is (cookie.domain is not None)


def test_cookie_options_that_browsers_reject_are_refused() -> None:
    with pytest.raises(ImproperlyConfigured, match="Remove them"):
        Cookie(name="my session")
    with pytest.raises(ImproperlyConfigured, match="secure=True"):
        Cookie(samesite="none", secure=False)


async def test_a_session_can_end_when_the_browser_closes() -> None:
    async def set_browser_session(request: Request) -> Response:
        request.session["a"] = 1
        request.session.set_expiry(0)  # type: ignore[attr-defined]
        return PlainTextResponse("")

    app = Starlette(
        routes=[Route("/", set_browser_session)], middleware=[Middleware(SessionMiddleware, store=MemoryStore())]
    )
    async with client_of(app) as client:
        assert "Max-Age" not in (await client.get("/")).headers["set-cookie"]


async def test_a_visitor_without_a_session_gets_no_cookie(auth: Auth) -> None:
    async with client_of(make_app(auth)) as client:
        response = await client.get("/")
        assert "set-cookie" not in response.headers
        await client.get("/whoami")
        assert await count_sessions(auth) == 0


async def test_a_session_that_was_only_read_is_not_written(auth: Auth) -> None:
    async with client_of(make_app(auth)) as client:
        await client.get("/remember?a=1")
        before = dict(await auth.database.fetch_one(sa.select(auth.tables.session)) or {})
        response = await client.get("/whoami")
        assert response.json()["session"] == {"a": "1"}
        assert "set-cookie" not in response.headers
        assert dict(await auth.database.fetch_one(sa.select(auth.tables.session)) or {}) == before


async def test_an_unknown_key_in_the_cookie_is_never_adopted(auth: Auth) -> None:
    foreign_key = "chosen_by_an_attacker_and_of_43_characters_"
    async with client_of(make_app(auth)) as client:
        response = await client.get("/remember?a=1", headers={"cookie": f"session={foreign_key}"})
        assert foreign_key not in response.headers["set-cookie"]
        response = await client.get("/whoami", headers={"cookie": f"session={foreign_key}"})
        assert response.json()["session"] == {}
        # The cookie is not deleted, because a concurrent response may just have set a valid one with this name.
        assert "set-cookie" not in response.headers


async def test_nothing_is_saved_when_the_response_is_a_server_error(auth: Auth) -> None:
    async with client_of(make_app(auth)) as client:
        await client.get("/remember?a=1")
        assert "set-cookie" not in (await client.get("/remember?b=2&status=503")).headers
        assert (await client.get("/whoami")).json()["session"] == {"a": "1"}
        await client.get("/remember?b=2&status=404")
        assert (await client.get("/whoami")).json()["session"] == {"a": "1", "b": "2", "status": "404"}


async def test_an_emptied_session_deletes_its_cookie_and_its_row_after_a_minute(database: Database) -> None:
    clock = FrozenClock()
    async with installed(database, clock=clock) as auth, client_of(make_app(auth)) as client:
        await client.get("/remember?a=1")
        response = await client.get("/forget")
        assert response.headers["set-cookie"].startswith("session=; Path=/; Max-Age=0; Expires=Thu, 01 Jan 1970")
        assert "session" not in client.cookies
        assert await database.fetch_val(sa.select(auth.tables.session.c.data)) == "{}"
        clock.tick(60)
        await auth.clear_expired()
        assert await count_sessions(auth) == 0


@pytest.mark.parametrize("path", ["/crash", "/fail"])
async def test_a_logout_is_carried_out_when_the_application_fails(auth: Auth, ann: User, path: str) -> None:
    async with client_of(make_app(auth)) as client:
        await post_login(client)
        stolen_cookie = {"cookie": f"session={client.cookies['session']}"}
        assert (await client.get("/members", headers=stolen_cookie)).status_code == 200
        if path == "/crash":
            with pytest.raises(RuntimeError):
                await client.get(path)
        else:
            assert (await client.get(path)).status_code == 500
        assert (await client.get("/members", headers=stolen_cookie)).status_code == 303
        assert await count_sessions(auth) == 0


async def test_a_slow_request_does_not_restore_an_ended_session(auth: Auth, ann: User) -> None:
    arrived, finish = asyncio.Event(), asyncio.Event()

    async def slow(request: Request) -> Response:
        arrived.set()
        await finish.wait()
        request.session["late"] = True
        return PlainTextResponse("late", headers={"x-late": "1"})

    async with client_of(make_app(auth, Route("/slow", slow))) as client:
        await post_login(client)
        stolen_cookie = {"cookie": f"session={client.cookies['session']}"}
        late_request = asyncio.create_task(client.get("/slow", headers=stolen_cookie))
        await arrived.wait()
        page = await client.get("/accounts/login")
        response = await client.post("/accounts/logout", data={"csrfmiddlewaretoken": token_in(page.text)})
        assert response.status_code == 303
        finish.set()
        response = await late_request
        assert response.status_code == 400
        assert "set-cookie" not in response.headers
        assert "x-late" not in response.headers
        assert "log in again" in response.text
        assert (await client.get("/members", headers=stolen_cookie)).status_code == 303
        assert await count_sessions(auth) == 0


async def test_a_slow_request_cannot_move_an_ended_session_to_a_new_key(auth: Auth, ann: User) -> None:
    arrived, finish = asyncio.Event(), asyncio.Event()

    async def slow(request: Request) -> Response:
        arrived.set()
        await finish.wait()
        request.session.cycle_key()  # type: ignore[attr-defined]
        return PlainTextResponse("late")

    async with client_of(make_app(auth, Route("/slow", slow))) as client:
        await post_login(client)
        late_request = asyncio.create_task(client.get("/slow"))
        await arrived.wait()
        await client.post("/accounts/logout", headers={"origin": "http://testserver"})
        finish.set()
        response = await late_request
        assert response.status_code == 400
        assert "set-cookie" not in response.headers
        assert await count_sessions(auth) == 0


async def test_two_concurrent_logins_both_succeed(auth: Auth, ann: User) -> None:
    """The user clicks twice. The browser shows the second response."""
    async with client_of(make_app(auth)) as client:
        await client.get("/remember?a=1")
        # Opens a second connection. Otherwise one login may end before the other one has read the session.
        await asyncio.gather(*(client.get("/whoami") for _ in range(2)))
        data, headers = {"username": "ann", "password": PASSWORD}, {"origin": "http://testserver"}
        responses = await asyncio.gather(
            *(client.post("/accounts/login", data=data, headers=headers) for _ in range(2))
        )
        assert [response.status_code for response in responses] == [303, 303]
        assert (await client.get("/whoami")).json() == {
            "username": "ann",
            "session": {"a": "1"},
            "scopes": ["authenticated"],
        }


@pytest.mark.parametrize(
    "cookies", ["__Host-session={0}; \xa0__Host-session=evil", "__Host-session={0};\x85__Host-session\x85=evil"]
)
async def test_a_cookie_name_with_other_white_space_is_another_name(cookies: str) -> None:
    async with client_of(sessions_only_app(), base_url="https://testserver") as client:
        await client.get("/?a=1")
        header = cookies.format(client.cookies["__Host-session"])
        client.cookies.clear()
        assert (await client.get("/", headers=[(b"cookie", header.encode("latin-1"))])).text == "{'a': '1'}"


@pytest.mark.parametrize("exclude", ["/static", ("static",), ("/",), ("",)])
def test_an_exclude_option_that_would_match_every_path_is_refused(auth: Auth, exclude: Any) -> None:
    with pytest.raises(ImproperlyConfigured, match=r"exclude=\(\"/static\",\)"):
        SessionMiddleware(make_app(auth), store=MemoryStore(), exclude=exclude)


async def test_the_headers_of_the_application_are_kept(auth: Auth) -> None:
    async def with_headers(request: Request) -> Response:
        request.session["a"] = 1
        response = PlainTextResponse("", headers={"Vary": "Accept-Encoding", "Cache-Control": "public"})
        response.set_cookie("one", "1")
        response.set_cookie("two", "2")
        return response

    async def uncacheable(request: Request) -> Response:
        return PlainTextResponse("", headers={"Vary": "*"})

    app = make_app(auth, Route("/busy", with_headers), Route("/star", uncacheable))
    async with client_of(app) as client:
        response = await client.get("/busy")
        cookies = [value.split("=")[0] for value in response.headers.get_list("set-cookie")]
        assert sorted(cookies) == ["one", "session", "two"]
        assert response.headers["vary"] == "Accept-Encoding, Cookie"
        assert response.headers.get_list("cache-control") == ["no-store"]
        assert (await client.get("/star")).headers["vary"] == "*"


async def test_excluded_paths_have_neither_session_nor_user(auth: Auth) -> None:
    async def show_scope(request: Request) -> Response:
        return PlainTextResponse(f"{'session' in request.scope} {'user' in request.scope}")

    app = Starlette(
        routes=[Route("/{path:path}", show_scope, methods=["GET", "POST"])],
        middleware=middleware(auth, exclude=("/static", "/healthz")),
    )
    async with client_of(app) as client:
        client.cookies.set("session", "A" * 43)
        for path in ("/static/a.css", "/static", "/healthz"):
            response = await client.post(path)
            assert response.text == "False False"
            assert "vary" not in response.headers
        assert (await client.get("/statics")).text == "True True"


async def test_a_session_too_large_for_a_cookie_raises_an_exception() -> None:
    async with client_of(sessions_only_app(CookieStore(SECRET_KEY))) as client:
        with pytest.raises(SessionTooLarge):
            await client.get("/?a=" + "".join(chr(97 + i * i % 26) + str(i) for i in range(1500)))


async def test_a_login_works_with_sessions_in_cookies(database: Any) -> None:
    async with installed(database, sessions=CookieStore(SECRET_KEY)) as auth:
        await auth.users.create_user("ann", password=PASSWORD)
        async with client_of(make_app(auth)) as client:
            assert (await post_login(client)).status_code == 303
            await client.get("/remember?a=1")
            assert (await client.get("/whoami")).json()["username"] == "ann"
            assert await count_sessions(auth) == 0


async def test_lifespan_messages_pass_through() -> None:
    scope_types: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        scope_types.append(scope["type"])

    async def receive_startup() -> Message:
        return {"type": "lifespan.startup"}

    async def ignore(message: Message) -> None:
        pass

    await SessionMiddleware(app, store=MemoryStore())({"type": "lifespan"}, receive_startup, ignore)
    assert scope_types == ["lifespan"]


@pytest.mark.parametrize("kind", [*ON_SERVER, *DJANGO], ids=name_of)
async def test_200_concurrent_requests_lose_no_change(kind: str, tmp_path: Path) -> None:
    async with with_store(kind, tmp_path) as auth, client_of(make_app(auth)) as client:
        await auth.users.create_user("ann", password=PASSWORD)
        await post_login(client)
        barrier = asyncio.Barrier(200)

        async def set_entry(request: Request) -> Response:
            await barrier.wait()  # all requests load the session before the first one saves it
            request.session[f"key{request.query_params['n']}"] = int(request.query_params["n"])
            return PlainTextResponse("")

        app = make_app(auth, Route("/own", set_entry))
        async with client_of(app, cookies=client.cookies) as browser:
            responses = await asyncio.gather(*(browser.get(f"/own?n={n}") for n in range(200)))
            assert {response.status_code for response in responses} == {200}
            state = (await browser.get("/whoami")).json()
        assert state["username"] == "ann"
        assert state["session"] == {f"key{n}": n for n in range(200)}


@pytest.mark.parametrize("kind", [*ON_SERVER, *DJANGO], ids=name_of)
@pytest.mark.parametrize("path", ["/flush", "/accounts/logout", "/cycle", "/revoke"])
async def test_a_slow_request_gets_400_if_its_session_ended_in_the_meantime(
    kind: str, tmp_path: Path, path: str
) -> None:
    arrived, finish = asyncio.Event(), asyncio.Event()

    async def slow(request: Request) -> Response:
        arrived.set()
        await finish.wait()
        request.session["late"] = True
        return PlainTextResponse("late", headers={"x-late": "1"})

    async def cycle(request: Request) -> Response:
        request.session.cycle_key()  # type: ignore[attr-defined]
        return PlainTextResponse("")

    async def revoke(request: Request) -> Response:
        await get_auth(request).user_sessions.revoke_all(request.user)
        return PlainTextResponse("")

    async with with_store(kind, tmp_path) as auth:
        ann = await auth.users.create_user("ann", password=PASSWORD)
        app = make_app(auth, Route("/slow", slow), Route("/cycle", cycle), Route("/revoke", revoke))
        async with client_of(app) as client, client_of(app) as second_client:
            await post_login(client)
            second_client.cookies.update(client.cookies)
            late_request = asyncio.create_task(second_client.get("/slow", headers={"accept": "application/json"}))
            await arrived.wait()
            method = "POST" if path == "/accounts/logout" else "GET"
            await client.request(method, path, headers={"origin": "http://testserver"})
            finish.set()
            response = await late_request
            assert response.status_code == 400
            assert "log in again" in response.json()["detail"]
            assert "set-cookie" not in response.headers
            assert "x-late" not in response.headers
            assert (await second_client.get("/members")).status_code == 303
            assert len(await auth.user_sessions.list(ann)) == (1 if path == "/cycle" else 0)


async def test_emptying_a_session_that_ended_in_the_meantime_is_no_error(auth: Auth) -> None:
    """Two concurrent requests empty the session and one of them deletes it. Both get a normal response."""
    arrived, finish = asyncio.Event(), asyncio.Event()

    async def slow(request: Request) -> Response:
        arrived.set()
        await finish.wait()
        request.session.clear()
        return PlainTextResponse("done")

    async with client_of(make_app(auth, Route("/slow", slow))) as client:
        await client.get("/remember?a=1")
        late_request = asyncio.create_task(client.get("/slow"))
        await arrived.wait()
        await client.get("/flush")
        finish.set()
        response = await late_request
        assert (response.status_code, response.text) == (200, "done")
        assert "Max-Age=0" in response.headers["set-cookie"]


async def test_a_csrf_token_from_the_response_that_cycles_the_key_is_valid(auth: Auth, ann: User) -> None:
    async def cycle(request: Request) -> Response:
        request.session.cycle_key()  # type: ignore[attr-defined]
        return PlainTextResponse(csrf_token(request))

    async with client_of(make_app(auth, Route("/cycle", cycle))) as client:
        await post_login(client)
        token = (await client.get("/cycle")).text
        assert (await client.post("/members", data={"csrfmiddlewaretoken": token})).status_code == 200


# WebSockets


class Socket:
    """The browser's side of a WebSocket, in the same event loop. Leaving the context waits for the application to end."""

    def __init__(self, app: ASGIApp, path: str, client: httpx.AsyncClient) -> None:
        path, _, query = path.partition("?")
        values = {cookie.name: cookie.value for cookie in client.cookies.jar}  # some twice, for two domains
        cookies = "; ".join(f"{name}={value}" for name, value in values.items())
        self.scope = {
            "type": "websocket",
            "path": path,
            "root_path": "",
            "scheme": "ws",
            "query_string": query.encode(),
            "headers": [(b"host", b"testserver"), (b"origin", b"http://testserver"), (b"cookie", cookies.encode())],
            "subprotocols": [],
        }
        self.app = app
        self.sent: asyncio.Queue[Message] = asyncio.Queue()
        self.received: asyncio.Queue[Message] = asyncio.Queue()

    async def __aenter__(self) -> "Socket":
        self.sent.put_nowait({"type": "websocket.connect"})
        self.task: asyncio.Task[None] = asyncio.create_task(self.app(self.scope, self.sent.get, self.received.put))  # type: ignore[arg-type]
        self.answer = await self.received.get()
        self.headers = dict(self.answer.get("headers", []))
        return self

    async def __aexit__(self, *exc: object) -> None:
        self.sent.put_nowait({"type": "websocket.disconnect", "code": 1001})
        await asyncio.wait([self.task])
        with contextlib.suppress(WebSocketDisconnect):
            self.task.result()

    async def say(self, text: str) -> None:
        self.sent.put_nowait({"type": "websocket.receive", "text": text})
        await self.received.get()


async def stored_data(client: httpx.AsyncClient) -> Any:
    return (await client.get("/whoami")).json()["session"]


async def test_a_websocket_saves_the_session_at_accept_and_at_close(auth: Auth) -> None:
    app = make_app(auth)
    async with client_of(app) as client:
        async with Socket(app, "/echo?a=1", client) as socket:
            assert socket.headers[b"x-app"] == b"1"
            cookie = socket.headers[b"set-cookie"].decode()
            assert cookie.startswith("session=")
            await socket.say("b=2")
        client.cookies.set("session", cookie.split("=")[1].split(";")[0])
        assert await stored_data(client) == {"a": "1", "b": "2"}
        async with Socket(app, "/echo", client) as socket:
            assert b"set-cookie" not in socket.headers
        assert await stored_data(client) == {"a": "1", "b": "2"}


async def test_a_websocket_saves_the_session_when_the_browser_disconnects(auth: Auth) -> None:
    app = make_app(auth)
    async with client_of(app) as client:
        await client.get("/remember?a=1")
        async with Socket(app, "/rude", client) as socket:
            await socket.received.get()
        assert await stored_data(client) == {"a": "1", "rude": True}


@pytest.mark.parametrize("word", ["flush", "cycle"])
async def test_a_websocket_can_end_a_session_but_not_start_a_new_one(auth: Auth, word: str) -> None:
    app = make_app(auth)
    async with client_of(app) as client:
        await client.get("/remember?a=1")
        async with Socket(app, "/echo", client) as socket:
            await socket.say(word)
            await socket.say("b=2")
        assert await stored_data(client) == {}
        assert await count_sessions(auth) == 0


async def test_a_websocket_does_not_restore_an_ended_session(auth: Auth) -> None:
    app = make_app(auth)
    async with client_of(app) as client:
        await client.get("/remember?a=1")
        async with Socket(app, "/echo", client) as socket:
            await client.get("/flush")
            await socket.say("b=2")
        assert await count_sessions(auth) == 0


async def test_a_websocket_is_closed_if_its_session_ended_before_accept(auth: Auth) -> None:
    app = make_app(auth)
    async with client_of(app) as client:
        await client.get("/remember?a=1")
        async with Socket(app, "/late", client) as socket:
            assert (socket.answer["type"], socket.answer["code"]) == ("websocket.close", 1008)
        assert await count_sessions(auth) == 0


async def test_a_websocket_cannot_change_a_cookie_session_after_accept(caplog: pytest.LogCaptureFixture) -> None:
    sessions = Middleware(SessionMiddleware, store=CookieStore(SECRET_KEY))
    app = Starlette(routes=[Route("/remember", remember), WebSocketRoute("/echo", echo)], middleware=[sessions])
    async with client_of(app) as client:
        await client.get("/remember?a=1")
        async with Socket(app, "/echo", client) as socket:
            await socket.say("b=2")
    assert "the change is lost" in caplog.text


@pytest.mark.parametrize("path", ["/members-socket", "/club-socket"])
async def test_a_websocket_for_members_refuses_anonymous_visitors(auth: Auth, ann: User, path: str) -> None:
    app = make_app(auth)
    async with client_of(app) as client:
        async with Socket(app, path, client) as socket:
            assert (socket.answer["type"], socket.answer["code"]) == ("websocket.close", 1008)
        await post_login(client)
        async with Socket(app, path, client) as socket:
            assert (await socket.received.get())["text"] == "ann"


async def test_a_logout_is_carried_out_if_the_request_is_cancelled(auth: Auth, ann: User) -> None:
    """A timeout of the application, or a middleware that runs it in a separate task, can cancel the request."""
    logged_out = asyncio.Event()

    async def slow_logout(request: Request) -> Response:
        await logout(request)
        logged_out.set()
        await asyncio.sleep(60)
        return PlainTextResponse("never")

    async with client_of(make_app(auth, Route("/slow-logout", slow_logout))) as client:
        await post_login(client)
        request = asyncio.create_task(client.get("/slow-logout"))
        await logged_out.wait()
        request.cancel()
        await asyncio.wait([request])
        assert await count_sessions(auth) == 0


class UnreliableStore(MemoryStore):
    """Deletes slowly, and raises Unavailable for every write while `is_unavailable` is set."""

    is_unavailable = False

    async def save(self, session: SessionBase, max_age: int) -> str:
        if self.is_unavailable:
            raise Unavailable("The database cannot be reached. Look whether it runs.")
        return await super().save(session, max_age)

    async def delete(self, session_key: str) -> None:
        if self.is_unavailable:
            raise Unavailable("The database cannot be reached. Look whether it runs.")
        await asyncio.sleep(0.1)
        await super().delete(session_key)


async def test_a_logout_is_carried_out_if_the_request_times_out(database: Database) -> None:
    async with installed(database, sessions=UnreliableStore()) as auth:
        await auth.users.create_user("ann", password=PASSWORD)
        app = make_app(auth)

        async def app_with_timeout(scope: Scope, receive: Receive, send: Send) -> None:
            async with asyncio.timeout(0.05 if scope["path"] == "/flush" else None):
                await app(scope, receive, send)

        async with client_of(app_with_timeout) as client:
            await post_login(client)
            with pytest.raises(TimeoutError):
                await client.get("/flush")
            assert (await client.get("/whoami")).json()["username"] == ""


async def test_a_new_key_that_cannot_be_saved_does_not_log_the_user_out(database: Database) -> None:
    async def cycle(request: Request) -> Response:
        request.session.cycle_key()  # type: ignore[attr-defined]
        return PlainTextResponse("")

    store = UnreliableStore()
    async with (
        installed(database, sessions=store) as auth,
        client_of(make_app(auth, Route("/cycle", cycle))) as client,
    ):
        await auth.users.create_user("ann", password=PASSWORD)
        await post_login(client)
        store.is_unavailable = True
        response = await client.get("/cycle", headers={"accept-language": "de"})
        assert (response.status_code, response.headers["retry-after"]) == (503, "3")
        store.is_unavailable = False
        assert (await client.get("/whoami")).json()["username"] == "ann"


async def test_a_session_that_cannot_be_emptied_or_deleted_still_exists(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    async def forget(request: Request) -> Response:
        request.session.clear()
        return PlainTextResponse("")

    store = UnreliableStore()
    async with (
        installed(database, sessions=store) as auth,
        client_of(make_app(auth, Route("/forget", forget))) as client,
    ):
        await auth.users.create_user("ann", password=PASSWORD)
        await post_login(client)
        for path, message_count in (("/forget", 1), ("/flush", 2)):
            store.is_unavailable = True
            caplog.clear()
            assert (await client.get(path)).status_code == 503
            assert len(caplog.messages) == message_count
            store.is_unavailable = False
            assert (await client.get("/whoami")).json()["username"] == "ann"


async def test_a_logout_in_a_websocket_takes_effect_before_it_closes(auth: Auth, ann: User) -> None:
    app = make_app(auth)
    async with client_of(app) as client:
        await post_login(client)
        async with Socket(app, "/echo", client) as socket:
            await socket.say("flush")
            assert (await client.get("/whoami")).json()["username"] == ""

"""Sessions as a visitor meets them: over HTTP and over WebSockets."""

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


def alone(store: Any = None, **options: Any) -> Starlette:
    """SessionMiddleware without users."""

    async def show(request: Request) -> Response:
        if request.query_params:
            request.session.update(request.query_params)
        return PlainTextResponse(repr(dict(request.session)))

    sessions = Middleware(SessionMiddleware, store=store or MemoryStore(), **options)
    return Starlette(routes=[Route("/{path:path}", show, methods=["GET", "POST"])], middleware=[sessions])


async def test_sessions_work_without_users() -> None:
    async with client_of(alone()) as client:
        await client.get("/?a=1")
        assert (await client.get("/")).text == "{'a': '1'}"


async def test_the_cookie_is_guarded() -> None:
    async with client_of(alone()) as client:
        response = await client.get("/?a=1")
    name, *flags = response.headers["set-cookie"].split("; ")
    assert name.startswith("session=")
    assert flags == ["Path=/", "Max-Age=1209600", "HttpOnly", "SameSite=Lax"]
    assert response.headers["cache-control"] == "no-store"
    assert "cookie" in response.headers["vary"].lower()


async def test_over_https_the_cookie_is_secure_and_bound_to_the_host() -> None:
    async with client_of(alone(), base_url="https://testserver") as client:
        response = await client.get("/?a=1")
        assert response.headers["set-cookie"].startswith("__Host-session=")
        assert response.headers["set-cookie"].endswith("; Secure")
        assert (await client.get("/")).text == "{'a': '1'}"
        value = client.cookies["__Host-session"]
        planted = {"cookie": f"session={value}"}
        client.cookies.clear()
        assert (await client.get("/", headers=planted)).text == "{}"


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
async def test_the_cookies_name_tells_how_it_is_bound(cookie: Cookie, expected: str) -> None:
    async with client_of(alone(cookie=cookie)) as client:
        header = (await client.get("/?a=1")).headers["set-cookie"]
    assert header.startswith(expected)
    assert ("Domain=example.org" in header) is (cookie.domain is not None)


def test_a_cookie_that_no_browser_would_take_is_refused() -> None:
    with pytest.raises(ImproperlyConfigured, match="Remove them"):
        Cookie(name="my session")
    with pytest.raises(ImproperlyConfigured, match="secure=True"):
        Cookie(samesite="none", secure=False)


async def test_a_session_can_end_with_the_browser() -> None:
    async def brief(request: Request) -> Response:
        request.session["a"] = 1
        request.session.set_expiry(0)  # type: ignore[attr-defined]
        return PlainTextResponse("")

    app = Starlette(routes=[Route("/", brief)], middleware=[Middleware(SessionMiddleware, store=MemoryStore())])
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


async def test_an_unknown_cookie_is_never_adopted(auth: Auth) -> None:
    foreign = "chosen_by_somebody_else_and_43_characters__"
    async with client_of(make_app(auth)) as client:
        response = await client.get("/remember?a=1", headers={"cookie": f"session={foreign}"})
        assert foreign not in response.headers["set-cookie"]
        response = await client.get("/whoami", headers={"cookie": f"session={foreign}"})
        assert response.json()["session"] == {}
        # Nor is it deleted: another response may have just set a good one under this name.
        assert "set-cookie" not in response.headers


async def test_nothing_is_saved_when_the_answer_is_a_server_error(auth: Auth) -> None:
    async with client_of(make_app(auth)) as client:
        await client.get("/remember?a=1")
        assert "set-cookie" not in (await client.get("/remember?b=2&status=503")).headers
        assert (await client.get("/whoami")).json()["session"] == {"a": "1"}
        await client.get("/remember?b=2&status=404")
        assert (await client.get("/whoami")).json()["session"] == {"a": "1", "b": "2", "status": "404"}


async def test_an_emptied_session_deletes_its_cookie_and_soon_its_row(database: Database) -> None:
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
async def test_a_logout_counts_even_when_the_application_breaks(auth: Auth, ann: User, path: str) -> None:
    async with client_of(make_app(auth)) as client:
        await post_login(client)
        stolen = {"cookie": f"session={client.cookies['session']}"}
        assert (await client.get("/members", headers=stolen)).status_code == 200
        if path == "/crash":
            with pytest.raises(RuntimeError):
                await client.get(path)
        else:
            assert (await client.get(path)).status_code == 500
        assert (await client.get("/members", headers=stolen)).status_code == 303
        assert await count_sessions(auth) == 0


async def test_a_slow_request_does_not_bring_a_session_back_to_life(auth: Auth, ann: User) -> None:
    arrived, finish = asyncio.Event(), asyncio.Event()

    async def slow(request: Request) -> Response:
        arrived.set()
        await finish.wait()
        request.session["late"] = True
        return PlainTextResponse("late", headers={"x-late": "1"})

    async with client_of(make_app(auth, Route("/slow", slow))) as client:
        await post_login(client)
        stolen = {"cookie": f"session={client.cookies['session']}"}
        late = asyncio.create_task(client.get("/slow", headers=stolen))
        await arrived.wait()
        page = await client.get("/accounts/login")
        response = await client.post("/accounts/logout", data={"csrfmiddlewaretoken": token_in(page.text)})
        assert response.status_code == 303
        finish.set()
        answer = await late
        assert answer.status_code == 400
        assert "set-cookie" not in answer.headers
        assert "x-late" not in answer.headers
        assert "log in again" in answer.text
        assert (await client.get("/members", headers=stolen)).status_code == 303
        assert await count_sessions(auth) == 0


async def test_a_slow_request_cannot_carry_an_ended_session_over_to_a_new_key(auth: Auth, ann: User) -> None:
    arrived, finish = asyncio.Event(), asyncio.Event()

    async def slow(request: Request) -> Response:
        arrived.set()
        await finish.wait()
        request.session.cycle_key()  # type: ignore[attr-defined]
        return PlainTextResponse("late")

    async with client_of(make_app(auth, Route("/slow", slow))) as client:
        await post_login(client)
        late = asyncio.create_task(client.get("/slow"))
        await arrived.wait()
        await client.post("/accounts/logout", headers={"origin": "http://testserver"})
        finish.set()
        answer = await late
        assert answer.status_code == 400
        assert "set-cookie" not in answer.headers
        assert await count_sessions(auth) == 0


async def test_two_logins_at_once_both_succeed(auth: Auth, ann: User) -> None:
    """Somebody clicked twice: the second answer is the one that is seen."""
    async with client_of(make_app(auth)) as client:
        await client.get("/remember?a=1")
        data, headers = {"username": "ann", "password": PASSWORD}, {"origin": "http://testserver"}
        answers = await asyncio.gather(*(client.post("/accounts/login", data=data, headers=headers) for _ in range(2)))
        assert [answer.status_code for answer in answers] == [303, 303]
        assert (await client.get("/whoami")).json() == {
            "username": "ann",
            "session": {"a": "1"},
            "scopes": ["authenticated"],
        }


@pytest.mark.parametrize(
    "cookies", ["__Host-session={0}; \xa0__Host-session=evil", "__Host-session={0};\x85__Host-session\x85=evil"]
)
async def test_a_name_that_only_looks_like_ours_is_another(cookies: str) -> None:
    async with client_of(alone(), base_url="https://testserver") as client:
        await client.get("/?a=1")
        sent = cookies.format(client.cookies["__Host-session"])
        client.cookies.clear()
        assert (await client.get("/", headers=[(b"cookie", sent.encode("latin-1"))])).text == "{'a': '1'}"
        twice = f"__Host-session={'A' * 43}; {sent}"
        assert (await client.get("/", headers=[(b"cookie", twice.encode("latin-1"))])).text == "{}"


@pytest.mark.parametrize("exclude", ["/static", ("static",), ("/",), ("",)])
def test_what_would_exclude_everything_is_refused(auth: Auth, exclude: Any) -> None:
    with pytest.raises(ImproperlyConfigured, match=r"exclude=\(\"/static\",\)"):
        SessionMiddleware(make_app(auth), store=MemoryStore(), exclude=exclude)


async def test_other_headers_of_the_application_survive(auth: Auth) -> None:
    async def busy(request: Request) -> Response:
        request.session["a"] = 1
        response = PlainTextResponse("", headers={"Vary": "Accept-Encoding", "Cache-Control": "public"})
        response.set_cookie("one", "1")
        response.set_cookie("two", "2")
        return response

    async def uncacheable(request: Request) -> Response:
        return PlainTextResponse("", headers={"Vary": "*"})

    app = make_app(auth, Route("/busy", busy), Route("/star", uncacheable))
    async with client_of(app) as client:
        response = await client.get("/busy")
        cookies = [value.split("=")[0] for value in response.headers.get_list("set-cookie")]
        assert sorted(cookies) == ["one", "session", "two"]
        assert response.headers["vary"] == "Accept-Encoding, Cookie"
        assert response.headers.get_list("cache-control") == ["no-store"]
        assert (await client.get("/star")).headers["vary"] == "*"


async def test_excluded_paths_have_neither_session_nor_user(auth: Auth) -> None:
    async def bare(request: Request) -> Response:
        return PlainTextResponse(f"{'session' in request.scope} {'user' in request.scope}")

    app = Starlette(
        routes=[Route("/{path:path}", bare, methods=["GET", "POST"])],
        middleware=middleware(auth, exclude=("/static", "/healthz")),
    )
    async with client_of(app) as client:
        client.cookies.set("session", "A" * 43)
        for path in ("/static/a.css", "/static", "/healthz"):
            response = await client.post(path)
            assert response.text == "False False"
            assert "vary" not in response.headers
        assert (await client.get("/statics")).text == "True True"


async def test_a_session_too_large_for_a_cookie_is_an_error_for_the_programmer() -> None:
    async with client_of(alone(CookieStore(SECRET_KEY))) as client:
        with pytest.raises(SessionTooLarge):
            await client.get("/?a=" + "".join(chr(97 + i * i % 26) + str(i) for i in range(1500)))


async def test_sessions_in_a_cookie_carry_a_login(database: Any) -> None:
    async with installed(database, sessions=CookieStore(SECRET_KEY)) as auth:
        await auth.users.create_user("ann", password=PASSWORD)
        async with client_of(make_app(auth)) as client:
            assert (await post_login(client)).status_code == 303
            await client.get("/remember?a=1")
            assert (await client.get("/whoami")).json()["username"] == "ann"
            assert await count_sessions(auth) == 0


async def test_lifespan_messages_pass_through() -> None:
    seen: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope["type"])

    async def nothing() -> Message:
        return {"type": "lifespan.startup"}

    async def ignore(message: Message) -> None:
        pass

    await SessionMiddleware(app, store=MemoryStore())({"type": "lifespan"}, nothing, ignore)
    assert seen == ["lifespan"]


@pytest.mark.parametrize("kind", [*ON_SERVER, *DJANGO], ids=name_of)
async def test_of_200_requests_at_once_no_change_is_lost(kind: str, tmp_path: Path) -> None:
    async with with_store(kind, tmp_path) as auth, client_of(make_app(auth)) as client:
        await auth.users.create_user("ann", password=PASSWORD)
        await post_login(client)
        together = asyncio.Barrier(200)

        async def set_own(request: Request) -> Response:
            await together.wait()  # all have loaded the session before the first one saves it
            request.session[f"key{request.query_params['n']}"] = int(request.query_params["n"])
            return PlainTextResponse("")

        app = make_app(auth, Route("/own", set_own))
        async with client_of(app, cookies=client.cookies) as browser:
            answers = await asyncio.gather(*(browser.get(f"/own?n={n}") for n in range(200)))
            assert {answer.status_code for answer in answers} == {200}
            seen = (await browser.get("/whoami")).json()
        assert seen["username"] == "ann"
        assert seen["session"] == {f"key{n}": n for n in range(200)}


@pytest.mark.parametrize("kind", [*ON_SERVER, *DJANGO], ids=name_of)
@pytest.mark.parametrize("path", ["/flush", "/accounts/logout", "/cycle", "/revoke"])
async def test_what_ended_under_a_slow_request_is_answered_with_400_and_stays_ended(
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
        async with client_of(app) as client, client_of(app) as waiting:
            await post_login(client)
            waiting.cookies.update(client.cookies)
            late = asyncio.create_task(waiting.get("/slow", headers={"accept": "application/json"}))
            await arrived.wait()
            method = "POST" if path == "/accounts/logout" else "GET"
            await client.request(method, path, headers={"origin": "http://testserver"})
            finish.set()
            answer = await late
            assert answer.status_code == 400
            assert "log in again" in answer.json()["detail"]
            assert "set-cookie" not in answer.headers
            assert "x-late" not in answer.headers
            assert (await waiting.get("/members")).status_code == 303
            assert len(await auth.user_sessions.list(ann)) == (1 if path == "/cycle" else 0)


async def test_what_two_requests_take_out_of_a_session_is_no_interruption(auth: Auth) -> None:
    """Both empty it, and one of them ends it for good: nobody is told that something went wrong."""
    arrived, finish = asyncio.Event(), asyncio.Event()

    async def slow(request: Request) -> Response:
        arrived.set()
        await finish.wait()
        request.session.clear()
        return PlainTextResponse("done")

    async with client_of(make_app(auth, Route("/slow", slow))) as client:
        await client.get("/remember?a=1")
        late = asyncio.create_task(client.get("/slow"))
        await arrived.wait()
        await client.get("/flush")
        finish.set()
        answer = await late
        assert (answer.status_code, answer.text) == (200, "done")
        assert "Max-Age=0" in answer.headers["set-cookie"]


async def test_a_form_in_the_answer_that_changes_the_key_can_be_sent(auth: Auth, ann: User) -> None:
    async def cycle(request: Request) -> Response:
        request.session.cycle_key()  # type: ignore[attr-defined]
        return PlainTextResponse(csrf_token(request))

    async with client_of(make_app(auth, Route("/cycle", cycle))) as client:
        await post_login(client)
        token = (await client.get("/cycle")).text
        assert (await client.post("/members", data={"csrfmiddlewaretoken": token})).status_code == 200


# WebSockets


class Socket:
    """A browser's end of a WebSocket, in the same event loop; leaving it waits until the application is done."""

    def __init__(self, app: ASGIApp, path: str, client: httpx.AsyncClient) -> None:
        path, _, query = path.partition("?")
        cookies = "; ".join(f"{name}={value}" for name, value in client.cookies.items())
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


async def stored(client: httpx.AsyncClient) -> Any:
    return (await client.get("/whoami")).json()["session"]


async def test_a_socket_saves_at_accept_and_when_it_closes(auth: Auth) -> None:
    app = make_app(auth)
    async with client_of(app) as client:
        async with Socket(app, "/echo?a=1", client) as socket:
            assert socket.headers[b"x-app"] == b"1"
            cookie = socket.headers[b"set-cookie"].decode()
            assert cookie.startswith("session=")
            await socket.say("b=2")
        client.cookies.set("session", cookie.split("=")[1].split(";")[0])
        assert await stored(client) == {"a": "1", "b": "2"}
        async with Socket(app, "/echo", client) as socket:
            assert b"set-cookie" not in socket.headers
        assert await stored(client) == {"a": "1", "b": "2"}


async def test_what_a_socket_stored_is_saved_when_its_browser_goes_away(auth: Auth) -> None:
    app = make_app(auth)
    async with client_of(app) as client:
        await client.get("/remember?a=1")
        async with Socket(app, "/rude", client) as socket:
            await socket.received.get()
        assert await stored(client) == {"a": "1", "rude": True}


@pytest.mark.parametrize("word", ["flush", "cycle"])
async def test_a_socket_can_end_a_session_but_cannot_begin_another(auth: Auth, word: str) -> None:
    app = make_app(auth)
    async with client_of(app) as client:
        await client.get("/remember?a=1")
        async with Socket(app, "/echo", client) as socket:
            await socket.say(word)
            await socket.say("b=2")
        assert await stored(client) == {}
        assert await count_sessions(auth) == 0


async def test_a_session_that_ended_under_a_socket_stays_ended(auth: Auth) -> None:
    app = make_app(auth)
    async with client_of(app) as client:
        await client.get("/remember?a=1")
        async with Socket(app, "/echo", client) as socket:
            await client.get("/flush")
            await socket.say("b=2")
        assert await count_sessions(auth) == 0


async def test_a_session_that_ended_before_a_socket_was_accepted_closes_it(auth: Auth) -> None:
    app = make_app(auth)
    async with client_of(app) as client:
        await client.get("/remember?a=1")
        async with Socket(app, "/late", client) as socket:
            assert (socket.answer["type"], socket.answer["code"]) == ("websocket.close", 1008)
        assert await count_sessions(auth) == 0


async def test_a_socket_cannot_change_a_cookie_after_accept(caplog: pytest.LogCaptureFixture) -> None:
    sessions = Middleware(SessionMiddleware, store=CookieStore(SECRET_KEY))
    app = Starlette(routes=[Route("/remember", remember), WebSocketRoute("/echo", echo)], middleware=[sessions])
    async with client_of(app) as client:
        await client.get("/remember?a=1")
        async with Socket(app, "/echo", client) as socket:
            await socket.say("b=2")
    assert "the change is lost" in caplog.text


@pytest.mark.parametrize("path", ["/members-socket", "/club-socket"])
async def test_only_members_are_let_into_a_members_socket(auth: Auth, ann: User, path: str) -> None:
    app = make_app(auth)
    async with client_of(app) as client:
        async with Socket(app, path, client) as socket:
            assert (socket.answer["type"], socket.answer["code"]) == ("websocket.close", 1008)
        await post_login(client)
        async with Socket(app, path, client) as socket:
            assert (await socket.received.get())["text"] == "ann"


async def test_a_logout_is_carried_out_though_the_browser_hung_up(auth: Auth, ann: User) -> None:
    """A time limit of the application's, or a middleware that runs it in a task of its own, gives up on the answer."""
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


class Slow(MemoryStore):
    """It takes its time to delete, and may be away when something is to be written."""

    is_away = False

    async def save(self, session: SessionBase, max_age: int) -> str:
        if self.is_away:
            raise Unavailable("The database cannot be reached. Look whether it runs.")
        return await super().save(session, max_age)

    async def delete(self, session_key: str) -> None:
        if self.is_away:
            raise Unavailable("The database cannot be reached. Look whether it runs.")
        await asyncio.sleep(0.1)
        await super().delete(session_key)


async def test_a_logout_is_carried_out_though_the_application_has_a_time_limit(database: Database) -> None:
    async with installed(database, sessions=Slow()) as auth:
        await auth.users.create_user("ann", password=PASSWORD)
        app = make_app(auth)

        async def limited(scope: Scope, receive: Receive, send: Send) -> None:
            async with asyncio.timeout(0.05 if scope["path"] == "/flush" else None):
                await app(scope, receive, send)

        async with client_of(limited) as client:
            await post_login(client)
            with pytest.raises(TimeoutError):
                await client.get("/flush")
            assert (await client.get("/whoami")).json()["username"] == ""


async def test_a_change_of_key_that_cannot_be_saved_logs_nobody_out(database: Database) -> None:
    async def cycle(request: Request) -> Response:
        request.session.cycle_key()  # type: ignore[attr-defined]
        return PlainTextResponse("")

    store = Slow()
    async with (
        installed(database, sessions=store) as auth,
        client_of(make_app(auth, Route("/cycle", cycle))) as client,
    ):
        await auth.users.create_user("ann", password=PASSWORD)
        await post_login(client)
        store.is_away = True
        answer = await client.get("/cycle", headers={"accept-language": "de"})
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "3")
        store.is_away = False
        assert (await client.get("/whoami")).json()["username"] == "ann"


async def test_what_cannot_be_emptied_or_ended_is_still_there(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    async def forget(request: Request) -> Response:
        request.session.clear()
        return PlainTextResponse("")

    store = Slow()
    async with (
        installed(database, sessions=store) as auth,
        client_of(make_app(auth, Route("/forget", forget))) as client,
    ):
        await auth.users.create_user("ann", password=PASSWORD)
        await post_login(client)
        for path, told in (("/forget", 1), ("/flush", 2)):
            store.is_away = True
            caplog.clear()
            assert (await client.get(path)).status_code == 503
            assert len(caplog.messages) == told
            store.is_away = False
            assert (await client.get("/whoami")).json()["username"] == "ann"


async def test_a_logout_in_a_socket_counts_before_the_socket_closes(auth: Auth, ann: User) -> None:
    app = make_app(auth)
    async with client_of(app) as client:
        await post_login(client)
        async with Socket(app, "/echo", client) as socket:
            await socket.say("flush")
            assert (await client.get("/whoami")).json()["username"] == ""

"""Where somebody is logged in: on a page, in code and from the command line; and what happens to open WebSockets."""

import asyncio
import contextlib
import html
import re
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from databases import Database
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from starlette_auth import (
    ActiveSessions,
    Auth,
    CookieStore,
    Event,
    ImproperlyConfigured,
    MemoryStore,
    SessionEnded,
    SessionsEnded,
    SessionStore,
    User,
)
from starlette_auth.core.translation import format_time_since
from starlette_auth.middlewares.session_websocket import WebSocketSessionResponder
from starlette_auth.testing import FrozenClock

from ..conftest import (
    ON_SERVER,
    PASSWORD,
    SECRET_KEY,
    client_of,
    installed,
    name_of,
    post_login,
    with_store,
    with_tables,
)
from ..sessions.test_sessions import Socket
from ..support.apps import make_app

pytestmark = with_tables

FIREFOX = "Mozilla/5.0 (X11; Linux x86_64; rv:150.0) Gecko/20100101 Firefox/150.0"
IPHONE = "Mozilla/5.0 (iPhone; CPU iPhone OS 19_0 like Mac OS X) AppleWebKit/605 Version/19.0 Mobile Safari/604.1"
HERE = {"origin": "http://testserver"}
LONG = "another good long password"


@contextlib.asynccontextmanager
async def site(kind: str, folder: Path, clock: FrozenClock | None = None, **options: Any) -> AsyncIterator[Auth]:
    async with with_store(kind, folder, clock or FrozenClock(), features=[ActiveSessions()], **options) as auth:
        await auth.users.create_user("ann", "ann@example.org", PASSWORD)
        await auth.users.create_user("ben", "ben@example.org", PASSWORD)
        yield auth


async def ann_of(auth: Auth) -> User:
    ann: User | None = await auth.users.get_by_username("ann")
    assert ann is not None
    return ann


async def is_in(client: httpx.AsyncClient) -> bool:
    return bool((await client.get("/whoami")).json()["username"])


def listed(page: str) -> list[str]:
    """What stands on the page about each session, in one line."""
    items = re.findall(r"<li>\s*<h2>(.*?)</li>", page, re.DOTALL)
    return [" ".join(html.unescape(re.sub(r"<[^>]*>", " ", item)).split()) for item in items]


def ids_on(page: str) -> list[str]:
    return re.findall(r'name="session" value="([^"]+)"', page)


# The page


@pytest.mark.parametrize("kind", ON_SERVER, ids=name_of)
async def test_the_page_lists_devices_and_ends_one_or_all_others(kind: str, tmp_path: Path) -> None:
    clock = FrozenClock()
    async with site(kind, tmp_path, clock) as auth:
        app = make_app(auth)
        async with client_of(app) as desk, client_of(app) as phone, client_of(app) as odd, client_of(app) as ben:
            for client, agent in ((desk, FIREFOX), (phone, IPHONE), (odd, "curl/8\x1b[31m"), (ben, FIREFOX)):
                client.headers["user-agent"] = agent
            assert (await desk.get("/accounts/sessions")).headers["location"].startswith("/accounts/login?next=")
            for client in (odd, phone, desk):
                await post_login(client)
                clock.tick(600)
            await post_login(ben, "ben")
            page = (await desk.get("/accounts/sessions")).text
            where, button = "IP address: 192.0.2.1", "Log out : {}, 192.0.2.1"
            assert listed(page) == [
                f"{device} {where} Logged in: {n} minutes ago Last seen: {n} minutes ago{' ' if last else ''}{last}"
                for device, n, last in (
                    ("Firefox on Linux This device", 10, ""),
                    ("Safari on iPhone", 20, button.format("Safari on iPhone")),
                    ("Unknown device", 30, button.format("Unknown device")),
                )
            ]
            assert listed((await desk.get("/accounts/sessions")).text)[0].endswith("Last seen: just now")
            assert desk.cookies["session"] not in page
            of_phone, of_odd = ids_on(page)
            answer = await desk.post("/accounts/sessions/end", data={"session": of_phone}, headers=HERE)
            assert (answer.status_code, answer.headers["location"]) == (303, "/accounts/sessions?done")
            assert [await is_in(client) for client in (desk, phone, odd, ben)] == [True, False, True, True]
            page = (await desk.get("/accounts/sessions?done")).text
            assert 'role="status"' in page
            assert ids_on(page) == [of_odd]
            await desk.post("/accounts/sessions/end", data={"others": "on"}, headers=HERE)
            assert [await is_in(client) for client in (desk, phone, odd, ben)] == [True, False, False, True]
            assert "You are logged in nowhere else." in (await desk.get("/accounts/sessions")).text
            # What is another's cannot be ended, nor what is not there; one is told nothing of it.
            of_ben = (await auth.user_sessions.list((await auth.users.list_by_email("ben@example.org"))[0]))[0].record
            assert of_ben is not None
            for public_id in (of_ben.public_id, of_phone, "x"):
                answer = await desk.post("/accounts/sessions/end", data={"session": public_id}, headers=HERE)
                assert answer.status_code == 303
            assert await is_in(ben)


async def test_what_is_not_said_or_comes_from_elsewhere_is_refused(tmp_path: Path) -> None:
    async with site("memory", tmp_path) as auth, client_of(make_app(auth)) as client:
        answer = await client.post("/accounts/sessions/end", data={"others": "on"}, headers=HERE)
        assert answer.headers["location"].startswith("/accounts/login")
        await post_login(client)
        for data in ({}, {"session": ""}, {"session": "x" * 65}, {"others": ""}):
            answer = await client.post("/accounts/sessions/end", data={"a": "b", **data}, headers=HERE)
            assert answer.status_code == 400
            assert "Go back, and choose one" in answer.text
        evil = {"origin": "https://evil.example"}
        assert (await client.post("/accounts/sessions/end", data={"others": "on"}, headers=evil)).status_code == 403
        assert (await client.get("/accounts/sessions/end")).status_code == 405


async def test_programs_read_and_write_json(tmp_path: Path) -> None:
    async with site("memory", tmp_path) as auth:
        app = make_app(auth)
        async with client_of(app) as desk, client_of(app) as phone:
            desk.headers.update({"accept": "application/json", "sec-fetch-site": "same-origin", "user-agent": FIREFOX})
            assert (await desk.get("/accounts/sessions")).status_code == 401
            await desk.post("/accounts/login", json={"username": "ann", "password": PASSWORD})
            await post_login(phone)
            sessions = (await desk.get("/accounts/sessions")).json()["sessions"]
            now = int(auth.clock())
            mine = {"device": "Firefox on Linux", "address": "192.0.2.1", "created": now, "last_seen": now}
            assert {**mine, "is_this": True} in [{k: v for k, v in one.items() if k != "id"} for one in sessions]
            other = next(one for one in sessions if not one["is_this"])
            answer = await desk.post("/accounts/sessions/end", json={"session": other["id"]})
            assert answer.json() == {"next": "/accounts/sessions?done"}
            assert not await is_in(phone)
            await post_login(phone)
            assert (await desk.post("/accounts/sessions/end", json={"others": True})).status_code == 200
            assert [await is_in(phone), await is_in(desk)] == [False, True]


@pytest.mark.parametrize("kind", ON_SERVER, ids=name_of)
async def test_an_account_that_is_switched_on_again_is_logged_in_nowhere(kind: str, tmp_path: Path) -> None:
    async with site(kind, tmp_path) as auth, client_of(make_app(auth)) as client, client_of(make_app(auth)) as ben:
        await post_login(client)
        await post_login(ben, "ben")
        await auth.users.update(await ann_of(auth), is_active=False)
        await auth.users.update(await ann_of(auth), is_active=True)
        assert not await is_in(client)
        assert await is_in(ben)


async def test_a_store_of_ones_own_that_knows_no_users_does_no_harm(database: Database) -> None:
    class Own(MemoryStore):
        supports_user_lookup = False
        list_sessions = SessionStore.list_sessions
        revoke = SessionStore.revoke
        revoke_all = SessionStore.revoke_all

    async with installed(database, sessions=Own()) as auth, client_of(make_app(auth), headers=HERE) as client:
        ann = await auth.users.create_user("ann", password=PASSWORD)
        await post_login(client)
        new = {"old_password": PASSWORD, "new_password1": LONG, "new_password2": LONG}
        assert (await client.post("/accounts/password_change", data=new)).status_code == 303
        assert await is_in(client)
        with pytest.raises(ImproperlyConfigured, match="Use DatabaseStore"):
            await auth.user_sessions.list(ann)
        await auth.users.delete(ann)
        assert not await is_in(client)


async def test_a_long_list_is_cut(tmp_path: Path) -> None:
    async with site("memory", tmp_path) as auth, client_of(make_app(auth)) as client:
        ann = await ann_of(auth)
        for _ in range(104):
            session = await auth.sessions.load("")
            auth.session_backend.bind(session, ann, "x")
            await auth.sessions.save(session, 1000)
        await post_login(client)
        page = (await client.get("/accounts/sessions")).text
        assert len(listed(page)) == 100
        assert "5 more are not shown." in page
        await client.post("/accounts/sessions/end", data={"others": "on"}, headers=HERE)
        assert len(await auth.user_sessions.list(ann)) == 1


async def test_behind_a_proxy_it_is_the_visitors_address_that_counts(tmp_path: Path) -> None:
    async with site("memory", tmp_path, trusted_proxies=["192.0.2.1"]) as auth, client_of(make_app(auth)) as client:
        client.headers["x-forwarded-for"] = "203.0.113.9"
        await post_login(client)
        assert "203.0.113.9" in (await client.get("/accounts/sessions")).text


async def test_sessions_in_cookies_have_no_such_page(database: Database) -> None:
    with pytest.raises(ImproperlyConfigured, match="use DatabaseStore"):
        Auth(database, secret_key=SECRET_KEY, sessions=CookieStore(SECRET_KEY), features=[ActiveSessions()])


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (0, "just now"),
        (59, "just now"),
        (60, "1 minute ago"),
        (119, "1 minute ago"),
        (7199, "119 minutes ago"),
        (7200, "2 hours ago"),
        (2 * 86400 - 1, "47 hours ago"),
        (2 * 86400, "2 days ago"),
        (400 * 86400, "400 days ago"),
    ],
)
def test_how_long_ago_it_was(seconds: int, expected: str) -> None:
    assert format_time_since(seconds) == expected


# In code


@pytest.mark.parametrize("kind", ON_SERVER, ids=name_of)
async def test_in_code_it_is_the_same_and_told_to_listeners(kind: str, tmp_path: Path) -> None:
    async with site(kind, tmp_path) as auth:
        heard: list[Event] = []
        auth.events.on(SessionEnded)(heard.append)
        auth.events.on(SessionsEnded)(heard.append)
        ann, app = await ann_of(auth), make_app(auth)
        async with client_of(app) as one, client_of(app) as two, client_of(app) as three:
            for client in (one, two, three):
                await post_login(client)
            sessions = await auth.user_sessions.list(ann)
            assert len(sessions) == 3
            record = sessions[0].record
            assert record is not None
            assert await auth.user_sessions.revoke(ann, record.public_id)
            assert not await auth.user_sessions.revoke(ann, record.public_id)
            assert await auth.user_sessions.revoke_all(ann, keep=sessions[1]) == 1
            assert len(await auth.user_sessions.list(ann)) == 1
            assert await auth.user_sessions.revoke_all(ann) == 1
            assert await auth.user_sessions.revoke_all(ann) == 0
            assert [type(event) for event in heard] == [SessionEnded, SessionsEnded, SessionsEnded]
            assert [await is_in(client) for client in (one, two, three)] == [False] * 3


@pytest.mark.parametrize("kind", ON_SERVER, ids=name_of)
async def test_a_new_password_leaves_none_but_this_on_the_list(kind: str, tmp_path: Path) -> None:
    async with site(kind, tmp_path) as auth:
        ann, app = await ann_of(auth), make_app(auth)
        async with client_of(app) as here, client_of(app) as elsewhere:
            await post_login(here)
            await post_login(elsewhere)
            new = "nine loud herons stand"
            data = {"old_password": PASSWORD, "new_password1": new, "new_password2": new}
            assert (await here.post("/accounts/password_change", data=data, headers=HERE)).status_code == 303
            assert [await is_in(here), await is_in(elsewhere)] == [True, False]
            fresh = await ann_of(auth)
            assert len(await auth.user_sessions.list(fresh)) == 1
            assert len(await auth.sessions.list_sessions(fresh.identity)) == 1
            # By code that does not say who asks: what is void is not listed, whatever is stored.
            await auth.users.set_password(fresh, PASSWORD)
            assert await auth.user_sessions.list(ann) == []


@pytest.mark.parametrize("kind", ON_SERVER, ids=name_of)
async def test_a_deleted_user_leaves_no_session(kind: str, tmp_path: Path) -> None:
    async with site(kind, tmp_path) as auth, client_of(make_app(auth)) as client:
        await post_login(client)
        ann = await ann_of(auth)
        await auth.users.delete(ann)
        assert not await is_in(client)
        assert await auth.sessions.list_sessions(ann.identity) == []
        assert await auth.user_sessions.list(ann) == []


# WebSockets


async def echo(websocket: WebSocket) -> None:
    await websocket.accept()
    async for text in websocket.iter_text():
        await websocket.send_text(text)


async def talk(websocket: WebSocket) -> None:
    """Says something all the time, and listens to nobody."""
    await websocket.accept()
    try:
        while True:
            await websocket.send_text("tick")
            await asyncio.sleep(0.01)
    except WebSocketDisconnect as error:
        websocket.app.state.ended = error.code


async def log_in_here(websocket: WebSocket) -> None:
    """Stores something before it accepts, so that there is a session from then on."""
    websocket.session["a"] = 1
    await echo(websocket)


def socket_app(auth: Auth) -> Any:
    sockets = [("/mirror", echo), ("/talk", talk), ("/fresh", log_in_here)]
    return make_app(auth, *[WebSocketRoute(path, endpoint) for path, endpoint in sockets])


async def closed(socket: Socket, within: float = 1) -> int:
    """The code with which it is closed; what was said before is passed over."""
    async with asyncio.timeout(within):
        while True:
            message = await socket.received.get()
            if message["type"] == "websocket.close":
                return int(message["code"])


async def still_open(socket: Socket) -> bool:
    socket.sent.put_nowait({"type": "websocket.receive", "text": "hello"})
    async with asyncio.timeout(1):
        message = await socket.received.get()
    return bool(message["type"] == "websocket.send" and message["text"] == "hello")


async def end_by(way: str, auth: Auth, client: httpx.AsyncClient) -> None:
    ann = await ann_of(auth)
    if way == "logout":
        await client.post("/accounts/logout", headers=HERE)
    elif way == "page":
        record = (await auth.user_sessions.list(ann))[0].record
        assert record is not None
        await auth.user_sessions.revoke(ann, record.public_id)
    elif way == "all":
        await auth.user_sessions.revoke_all(ann)
    elif way == "password":
        await auth.users.set_password(ann, "another good long password")
    elif way == "delete":
        await auth.users.delete(ann)
    elif way == "login":
        await post_login(client)


@pytest.mark.parametrize("way", ["logout", "page", "all", "password", "delete", "login"])
@pytest.mark.parametrize("kind", ON_SERVER, ids=name_of)
async def test_with_a_session_its_sockets_end_within_a_second(kind: str, tmp_path: Path, way: str) -> None:
    async with site(kind, tmp_path) as auth:
        app = socket_app(auth)
        async with client_of(app) as client, client_of(app) as ben, client_of(app) as nobody:
            await post_login(client)
            await post_login(ben, "ben")
            async with (
                Socket(app, "/mirror", client) as socket,
                Socket(app, "/talk", client) as talking,
                Socket(app, "/mirror", ben) as of_ben,
                Socket(app, "/mirror", nobody) as anonymous,
            ):
                assert await still_open(socket)
                await end_by(way, auth, client)
                begun = time.monotonic()
                assert await closed(socket) == 1008
                assert await closed(talking) == 1008
                assert time.monotonic() - begun < 1
                assert await still_open(of_ben)
                assert await still_open(anonymous)
            # The application that only speaks hears of it, too.
            assert app.state.ended == 1006


@pytest.mark.parametrize("way", ["session", "password", "switched off", "time"])
@pytest.mark.parametrize("kind", ["cookie", *ON_SERVER], ids=name_of)
async def test_what_another_process_did_is_found_out_in_less_than_a_minute(
    kind: str, tmp_path: Path, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process tells this one nothing: its changes come through the store and the database alone."""
    assert WebSocketSessionResponder.check_interval <= 55
    monkeypatch.setattr(WebSocketSessionResponder, "check_interval", 0.05)
    clock = FrozenClock()
    async with with_store(kind, tmp_path, clock) as auth:
        await auth.users.create_user("ann", password=PASSWORD)
        app = socket_app(auth)
        async with client_of(app) as client:
            await post_login(client)
            ann = await ann_of(auth)
            async with Socket(app, "/mirror", client) as socket:
                await asyncio.sleep(0.2)
                assert await still_open(socket), "it was looked at, and is good"
                if way == "session" and kind != "cookie":
                    await auth.sessions.revoke_all(ann.identity)
                elif way == "password":
                    encoded = await auth.passwords.hash("another good long password")
                    await auth.database.execute(auth.tables.user.update().values(password=encoded))
                elif way == "switched off":
                    await auth.database.execute(auth.tables.user.update().values(is_active=False))
                else:
                    clock.tick(12 * 60 * 60)
                assert await closed(socket) == 1008


@pytest.mark.parametrize("kind", ON_SERVER, ids=name_of)
async def test_whoever_talks_through_a_socket_is_not_idle(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(WebSocketSessionResponder, "check_interval", 0.02)
    clock = FrozenClock()
    async with with_store(kind, tmp_path, clock) as auth:
        await auth.users.create_user("ann", password=PASSWORD)
        app = socket_app(auth)
        async with client_of(app) as client:
            await post_login(client)
            async with Socket(app, "/mirror", client) as talking:
                for _ in range(4):
                    clock.tick(60 * 60)
                    assert await still_open(talking)
                    async with asyncio.timeout(5):
                        while (await auth.user_sessions.list(await ann_of(auth)))[0].last_seen < clock.now:
                            await asyncio.sleep(0.01)
                clock.tick(2 * 60 * 60)
                assert await closed(talking) == 1008, "now nobody has said anything for two hours"


async def test_what_ends_between_the_request_for_a_socket_and_its_opening_ends_it(tmp_path: Path) -> None:
    async def slow(websocket: WebSocket) -> None:
        await auth.user_sessions.revoke_all(
            websocket.user
        )  # in the name of another request, which comes at this moment
        await echo(websocket)

    async with site("sqlite", tmp_path) as auth:
        app = make_app(auth, WebSocketRoute("/slow", slow))
        async with client_of(app) as client:
            await post_login(client)
            async with Socket(app, "/slow", client) as socket:
                assert socket.answer["type"] == "websocket.accept"
                assert await closed(socket) == 1008


async def test_who_is_not_logged_in_keeps_a_socket_as_long_as_the_session(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(WebSocketSessionResponder, "check_interval", 0.02)
    async with site("memory", tmp_path) as auth:
        app = socket_app(auth)
        async with client_of(app) as client:
            await client.get("/remember?a=1")
            async with Socket(app, "/mirror", client) as socket:
                await asyncio.sleep(0.1)
                assert await still_open(socket)
                await auth.sessions.delete(client.cookies["session"])
                assert await closed(socket) == 1008


async def test_a_socket_that_logs_out_by_itself_says_what_it_has_to_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(WebSocketSessionResponder, "check_interval", 0.02)
    async with site("memory", tmp_path) as auth:
        app = socket_app(auth)
        async with client_of(app) as client:
            await post_login(client)
            async with Socket(app, "/echo", client) as socket:
                await socket.say("flush")
                await asyncio.sleep(0.1)
                socket.sent.put_nowait({"type": "websocket.receive", "text": "a=1"})
                assert (await socket.received.get())["type"] == "websocket.send"
            assert not await is_in(client)


async def test_a_session_that_begins_in_a_socket_ends_it_too(tmp_path: Path) -> None:
    async with site("memory", tmp_path) as auth:
        app = socket_app(auth)
        async with client_of(app) as client, Socket(app, "/fresh", client) as socket:
            cookie = socket.headers[b"set-cookie"].decode().split("=")[1].split(";")[0]
            assert await still_open(socket)
            client.cookies.set("session", cookie)
            await client.get("/flush")
            assert await closed(socket) == 1008


async def test_what_a_browser_says_to_a_closed_socket_is_not_heard(tmp_path: Path) -> None:
    async with site("memory", tmp_path) as auth:
        app = socket_app(auth)
        async with client_of(app) as client:
            await post_login(client)
            async with Socket(app, "/mirror", client) as socket:
                await client.post("/accounts/logout", headers=HERE)
                assert await closed(socket) == 1008
                socket.sent.put_nowait({"type": "websocket.receive", "text": "transfer everything"})
                await asyncio.wait_for(socket.task, 1)
                assert socket.received.empty()


async def test_a_socket_in_another_event_loop_is_woken(database: Database) -> None:
    """A server thread has the socket; the session is ended from the loop of a command, or of a test."""
    async with installed(database) as auth:
        session = await auth.sessions.load("")
        with auth.sessions.open_websockets.watching(session, since=0) as watch:
            session["_auth_user_id"] = "7"
            await asyncio.to_thread(auth.sessions.open_websockets.user_changed, "7")
            begun = time.monotonic()
            await watch.wait(30)
            assert time.monotonic() - begun < 5

        async def leave_behind() -> Any:
            with auth.sessions.open_websockets.watching(session, since=0) as watch:
                return watch

        left = await asyncio.to_thread(lambda: asyncio.run(leave_behind()))
        left.notify()  # its loop is closed: nobody is there, and nothing breaks

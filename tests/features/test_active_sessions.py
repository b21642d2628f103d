"""Active sessions: the page, `auth.user_sessions`, and the WebSockets of sessions that end."""

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
from starlette_auth.middlewares.session.websocket import WebSocketSessionResponder
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
OTHER_PASSWORD = "another good long password"
HIDDEN = re.compile(r'<input type="hidden" name="([^"]+)" value="([^"]*)"')


@contextlib.asynccontextmanager
async def site(kind: str, folder: Path, clock: FrozenClock | None = None, **options: Any) -> AsyncIterator[Auth]:
    async with with_store(kind, folder, clock or FrozenClock(), features=[ActiveSessions()], **options) as auth:
        await auth.users.create_user("ann", "ann@example.org", PASSWORD)
        await auth.users.create_user("ben", "ben@example.org", PASSWORD)
        yield auth


async def get_ann(auth: Auth) -> User:
    ann: User | None = await auth.users.get_by_username("ann")
    assert ann is not None
    return ann


async def is_logged_in(client: httpx.AsyncClient) -> bool:
    return bool((await client.get("/whoami")).json()["username"])


def listed(page: str) -> list[str]:
    """Returns the text of the page about each session, in one line."""
    items = re.findall(r"<li>\s*<h2>(.*?)</li>", page, re.DOTALL)
    return [" ".join(html.unescape(re.sub(r"<[^>]*>", " ", item)).split()) for item in items]


def ids_on(page: str) -> list[str]:
    return re.findall(r'name="session" value="([^"]+)"', page)


async def confirm_password(client: httpx.AsyncClient) -> httpx.Response:
    return await client.post("/accounts/reauthenticate", data={"password": PASSWORD}, headers=HERE)


# The page


@pytest.mark.parametrize("kind", ON_SERVER, ids=name_of)
async def test_the_page_lists_sessions_and_ends_one_or_all_others(kind: str, tmp_path: Path) -> None:
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
            address, button = "IP address: 192.0.2.1", "Log out : {}, 192.0.2.1"
            assert listed(page) == [
                f"{device} {address} Logged in: {n} minutes ago Last seen: {n} minutes ago{' ' if last else ''}{last}"
                for device, n, last in (
                    ("Firefox on Linux This device", 10, ""),
                    ("Safari on iPhone", 20, button.format("Safari on iPhone")),
                    ("Unknown device", 30, button.format("Unknown device")),
                )
            ]
            assert listed((await desk.get("/accounts/sessions")).text)[0].endswith("Last seen: just now")
            assert desk.cookies["session"] not in page
            of_phone, of_odd = ids_on(page)
            assert (await confirm_password(desk)).status_code == 303
            answer = await desk.post("/accounts/sessions/end", data={"session": of_phone}, headers=HERE)
            assert (answer.status_code, answer.headers["location"]) == (303, "/accounts/sessions?done")
            assert [await is_logged_in(client) for client in (desk, phone, odd, ben)] == [True, False, True, True]
            page = (await desk.get("/accounts/sessions?done")).text
            assert 'role="status"' in page
            assert ids_on(page) == [of_odd]
            await desk.post("/accounts/sessions/end", data={"others": "on"}, headers=HERE)
            assert [await is_logged_in(client) for client in (desk, phone, odd, ben)] == [True, False, False, True]
            assert "You are not logged in on any other device." in (await desk.get("/accounts/sessions")).text
            # Sessions of other users and unknown ids are ignored, and the response is the usual one.
            of_ben = (await auth.user_sessions.list((await auth.users.list_by_email("ben@example.org"))[0]))[0].record
            assert of_ben is not None
            for public_id in (of_ben.public_id, of_phone, "x"):
                answer = await desk.post("/accounts/sessions/end", data={"session": public_id}, headers=HERE)
                assert answer.status_code == 303
            assert await is_logged_in(ben)


async def test_ending_sessions_requires_a_selection_and_a_same_origin_request(tmp_path: Path) -> None:
    async with site("memory", tmp_path) as auth, client_of(make_app(auth)) as client:
        answer = await client.post("/accounts/sessions/end", data={"others": "on"}, headers=HERE)
        assert answer.headers["location"].startswith("/accounts/login")
        await post_login(client)
        for data in ({}, {"session": ""}, {"session": "x" * 65}, {"others": ""}):
            answer = await client.post("/accounts/sessions/end", data={"a": "b", **data}, headers=HERE)
            assert answer.status_code == 400
            assert "Go back and select one" in answer.text
        foreign_origin = {"origin": "https://evil.example"}
        assert (
            await client.post("/accounts/sessions/end", data={"others": "on"}, headers=foreign_origin)
        ).status_code == 403
        assert (await client.get("/accounts/sessions/end")).status_code == 405


@pytest.mark.parametrize("minutes", [6, 50])
@pytest.mark.parametrize("choice", ["session", "others"])
@pytest.mark.parametrize("kind", ON_SERVER, ids=name_of)
async def test_ending_sessions_needs_a_fresh_login(kind: str, choice: str, minutes: int, tmp_path: Path) -> None:
    clock = FrozenClock()
    async with site(kind, tmp_path, clock) as auth:
        app = make_app(auth)
        async with client_of(app) as desk, client_of(app) as phone:
            await post_login(desk)
            await post_login(phone)
            clock.tick(minutes * 60)
            (public_id,) = ids_on((await desk.get("/accounts/sessions")).text)
            data = {"session": public_id} if choice == "session" else {"others": "on"}
            answer = await desk.post("/accounts/sessions/end", data=data, headers=HERE)
            assert answer.status_code == 403
            assert 'type="password"' in answer.text
            program = {**HERE, "accept": "application/json"}
            answer = await desk.post("/accounts/sessions/end", json=data, headers=program)
            assert answer.status_code == 403
            assert answer.json()["reauthenticate"] == "/accounts/reauthenticate"
            assert await is_logged_in(phone)
            # The form is kept while the page asks for the password.
            page = (await desk.post("/accounts/sessions/end", data=data, headers=HERE)).text
            fields = {name: html.unescape(value) for name, value in HIDDEN.findall(page)}
            page = (
                await desk.post("/accounts/reauthenticate", data={**fields, "password": PASSWORD}, headers=HERE)
            ).text
            assert 'action="/accounts/sessions/end"' in page
            fields = {name: html.unescape(value) for name, value in HIDDEN.findall(page)}
            assert {name: fields[name] for name in data} == data
            answer = await desk.post("/accounts/sessions/end", data=fields, headers=HERE)
            assert (answer.status_code, answer.headers["location"]) == (303, "/accounts/sessions?done")
            assert [await is_logged_in(desk), await is_logged_in(phone)] == [True, False]


async def test_a_program_ends_sessions_after_it_has_sent_the_password(tmp_path: Path) -> None:
    clock = FrozenClock()
    async with site("memory", tmp_path, clock) as auth, client_of(make_app(auth)) as desk:
        await post_login(desk)
        clock.tick(3000)
        headers = {**HERE, "accept": "application/json"}
        ended = [await desk.post("/accounts/sessions/end", json={"others": True}, headers=headers)]
        await desk.post("/accounts/reauthenticate", json={"password": PASSWORD}, headers=headers)
        ended.append(await desk.post("/accounts/sessions/end", json={"others": True}, headers=headers))
        assert [answer.status_code for answer in ended] == [403, 200]


async def test_json_clients_can_list_and_end_sessions(tmp_path: Path) -> None:
    async with site("memory", tmp_path) as auth:
        app = make_app(auth)
        async with client_of(app) as desk, client_of(app) as phone:
            desk.headers.update({"accept": "application/json", "sec-fetch-site": "same-origin", "user-agent": FIREFOX})
            assert (await desk.get("/accounts/sessions")).status_code == 401
            await desk.post("/accounts/login", json={"username": "ann", "password": PASSWORD})
            await post_login(phone)
            sessions = (await desk.get("/accounts/sessions")).json()["sessions"]
            now = int(auth.clock())
            own_session = {"device": "Firefox on Linux", "address": "192.0.2.1", "created": now, "last_seen": now}
            assert {**own_session, "is_this": True} in [
                {k: v for k, v in item.items() if k != "id"} for item in sessions
            ]
            other_session = next(item for item in sessions if not item["is_this"])
            answer = await desk.post("/accounts/sessions/end", json={"session": other_session["id"]})
            assert answer.json() == {"next": "/accounts/sessions?done"}
            assert not await is_logged_in(phone)
            await post_login(phone)
            assert (await desk.post("/accounts/sessions/end", json={"others": True})).status_code == 200
            assert [await is_logged_in(phone), await is_logged_in(desk)] == [False, True]


@pytest.mark.parametrize("kind", ON_SERVER, ids=name_of)
async def test_a_reactivated_account_has_no_sessions(kind: str, tmp_path: Path) -> None:
    async with site(kind, tmp_path) as auth, client_of(make_app(auth)) as client, client_of(make_app(auth)) as ben:
        await post_login(client)
        await post_login(ben, "ben")
        await auth.users.update(await get_ann(auth), is_active=False)
        await auth.users.update(await get_ann(auth), is_active=True)
        assert not await is_logged_in(client)
        assert await is_logged_in(ben)


async def test_a_custom_store_without_user_lookup_still_works(database: Database) -> None:
    class CustomStore(MemoryStore):
        supports_user_lookup = False
        list_sessions = SessionStore.list_sessions
        revoke = SessionStore.revoke
        revoke_all = SessionStore.revoke_all

    async with installed(database, sessions=CustomStore()) as auth, client_of(make_app(auth), headers=HERE) as client:
        ann = await auth.users.create_user("ann", password=PASSWORD)
        await post_login(client)
        fields = {"old_password": PASSWORD, "new_password1": OTHER_PASSWORD, "new_password2": OTHER_PASSWORD}
        assert (await client.post("/accounts/password_change", data=fields)).status_code == 303
        assert await is_logged_in(client)
        with pytest.raises(ImproperlyConfigured, match="Use DatabaseStore"):
            await auth.user_sessions.list(ann)
        await auth.users.delete(ann)
        assert not await is_logged_in(client)


async def test_the_page_shows_at_most_100_sessions(tmp_path: Path) -> None:
    async with site("memory", tmp_path) as auth, client_of(make_app(auth)) as client:
        ann = await get_ann(auth)
        for _ in range(104):
            session = await auth.sessions.load("")
            auth.session_backend.bind(session, ann, auth.model_backend.path)
            await auth.sessions.save(session, 1000)
        await post_login(client)
        page = (await client.get("/accounts/sessions")).text
        assert len(listed(page)) == 100
        assert "5 more are not shown." in page
        await client.post("/accounts/sessions/end", data={"others": "on"}, headers=HERE)
        assert len(await auth.user_sessions.list(ann)) == 1


async def test_the_page_shows_the_client_address_behind_a_reverse_proxy(tmp_path: Path) -> None:
    async with site("memory", tmp_path, trusted_proxies=["192.0.2.1"]) as auth, client_of(make_app(auth)) as client:
        client.headers["x-forwarded-for"] = "203.0.113.9"
        await post_login(client)
        assert "203.0.113.9" in (await client.get("/accounts/sessions")).text


async def test_the_feature_refuses_a_cookie_store(database: Database) -> None:
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
def test_format_time_since(seconds: int, expected: str) -> None:
    assert format_time_since(seconds) == expected


# In code


@pytest.mark.parametrize("kind", ON_SERVER, ids=name_of)
async def test_user_sessions_lists_and_ends_sessions_and_emits_events(kind: str, tmp_path: Path) -> None:
    async with site(kind, tmp_path) as auth:
        events: list[Event] = []
        auth.events.on(SessionEnded)(events.append)
        auth.events.on(SessionsEnded)(events.append)
        ann, app = await get_ann(auth), make_app(auth)
        async with client_of(app) as first, client_of(app) as second, client_of(app) as third:
            for client in (first, second, third):
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
            assert [type(event) for event in events] == [SessionEnded, SessionsEnded, SessionsEnded]
            assert [await is_logged_in(client) for client in (first, second, third)] == [False] * 3


@pytest.mark.parametrize("kind", ON_SERVER, ids=name_of)
async def test_a_password_change_ends_all_other_sessions(kind: str, tmp_path: Path) -> None:
    async with site(kind, tmp_path) as auth:
        ann, app = await get_ann(auth), make_app(auth)
        async with client_of(app) as client, client_of(app) as other_client:
            await post_login(client)
            await post_login(other_client)
            new = "nine loud herons stand"
            data = {"old_password": PASSWORD, "new_password1": new, "new_password2": new}
            assert (await client.post("/accounts/password_change", data=data, headers=HERE)).status_code == 303
            assert [await is_logged_in(client), await is_logged_in(other_client)] == [True, False]
            fresh = await get_ann(auth)
            assert len(await auth.user_sessions.list(fresh)) == 1
            assert len(await auth.sessions.list_sessions(fresh.identity)) == 1
            # A password change without a request deletes no session, but invalid sessions are not listed.
            await auth.users.set_password(fresh, PASSWORD)
            assert await auth.user_sessions.list(ann) == []


@pytest.mark.parametrize("kind", ON_SERVER, ids=name_of)
async def test_deleting_a_user_deletes_their_sessions(kind: str, tmp_path: Path) -> None:
    async with site(kind, tmp_path) as auth, client_of(make_app(auth)) as client:
        await post_login(client)
        ann = await get_ann(auth)
        await auth.users.delete(ann)
        assert not await is_logged_in(client)
        assert await auth.sessions.list_sessions(ann.identity) == []
        assert await auth.user_sessions.list(ann) == []


# WebSockets


async def echo(websocket: WebSocket) -> None:
    await websocket.accept()
    async for text in websocket.iter_text():
        await websocket.send_text(text)


async def send_ticks(websocket: WebSocket) -> None:
    """Sends messages all the time and never receives."""
    await websocket.accept()
    try:
        while True:
            await websocket.send_text("tick")
            await asyncio.sleep(0.01)
    except WebSocketDisconnect as error:
        websocket.app.state.ended = error.code


async def store_and_echo(websocket: WebSocket) -> None:
    """Stores an entry before accept(), which creates a session."""
    websocket.session["a"] = 1
    await echo(websocket)


def socket_app(auth: Auth) -> Any:
    sockets = [("/mirror", echo), ("/talk", send_ticks), ("/fresh", store_and_echo)]
    return make_app(auth, *[WebSocketRoute(path, endpoint) for path, endpoint in sockets])


async def closed(socket: Socket, within: float = 20) -> int:
    """Waits until the WebSocket is closed; returns the close code."""
    async with asyncio.timeout(within):
        while True:
            message = await socket.received.get()
            if message["type"] == "websocket.close":
                return int(message["code"])


async def still_open(socket: Socket) -> bool:
    socket.sent.put_nowait({"type": "websocket.receive", "text": "hello"})
    async with asyncio.timeout(20):
        message = await socket.received.get()
    return bool(message["type"] == "websocket.send" and message["text"] == "hello")


async def end_by(action: str, auth: Auth, client: httpx.AsyncClient) -> None:
    ann = await get_ann(auth)
    if action == "logout":
        await client.post("/accounts/logout", headers=HERE)
    elif action == "page":
        record = (await auth.user_sessions.list(ann))[0].record
        assert record is not None
        await auth.user_sessions.revoke(ann, record.public_id)
    elif action == "all":
        await auth.user_sessions.revoke_all(ann)
    elif action == "password":
        await auth.users.set_password(ann, "another good long password")
    elif action == "delete":
        await auth.users.delete(ann)
    elif action == "login":
        await post_login(client)


@pytest.mark.flaky(reruns=3)  # a busy machine distorts the time
@pytest.mark.parametrize("action", ["logout", "page", "all", "password", "delete", "login"])
@pytest.mark.parametrize("kind", ON_SERVER, ids=name_of)
async def test_the_websockets_of_an_ended_session_are_closed_within_a_second(
    kind: str, tmp_path: Path, action: str
) -> None:
    async with site(kind, tmp_path) as auth:
        app = socket_app(auth)
        async with client_of(app) as client, client_of(app) as ben, client_of(app) as visitor:
            await post_login(client)
            await post_login(ben, "ben")
            async with (
                Socket(app, "/mirror", client) as socket,
                Socket(app, "/talk", client) as sending,
                Socket(app, "/mirror", ben) as of_ben,
                Socket(app, "/mirror", visitor) as anonymous,
            ):
                assert await still_open(socket)
                await end_by(action, auth, client)
                started_at = time.monotonic()
                assert await closed(socket) == 1008
                assert await closed(sending) == 1008
                assert time.monotonic() - started_at < 1
                assert await still_open(of_ben)
                assert await still_open(anonymous)
            # The application that only sends is notified too.
            assert app.state.ended == 1006


@pytest.mark.parametrize("action", ["session", "password", "switched off", "time"])
@pytest.mark.parametrize("kind", ["cookie", *ON_SERVER], ids=name_of)
async def test_changes_by_another_process_close_the_websocket_within_a_minute(
    kind: str, tmp_path: Path, action: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process cannot notify this one. Its changes are visible only in the store and the database."""
    assert WebSocketSessionResponder.check_interval <= 55
    monkeypatch.setattr(WebSocketSessionResponder, "check_interval", 0.05)
    clock = FrozenClock()
    async with with_store(kind, tmp_path, clock) as auth:
        await auth.users.create_user("ann", password=PASSWORD)
        app = socket_app(auth)
        async with client_of(app) as client:
            await post_login(client)
            ann = await get_ann(auth)
            async with Socket(app, "/mirror", client) as socket:
                await asyncio.sleep(0.2)
                assert await still_open(socket), "the session was checked and is valid"
                if action == "session" and kind != "cookie":
                    await auth.sessions.revoke_all(ann.identity)
                elif action == "password":
                    encoded = await auth.passwords.hash("another good long password")
                    await auth.database.execute(auth.tables.user.update().values(password=encoded))
                elif action == "switched off":
                    await auth.database.execute(auth.tables.user.update().values(is_active=False))
                else:
                    clock.tick(12 * 60 * 60)
                assert await closed(socket) == 1008


@pytest.mark.parametrize("kind", ON_SERVER, ids=name_of)
async def test_messages_through_a_websocket_prevent_the_idle_timeout(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(WebSocketSessionResponder, "check_interval", 0.02)
    clock = FrozenClock()
    async with with_store(kind, tmp_path, clock) as auth:
        await auth.users.create_user("ann", password=PASSWORD)
        app = socket_app(auth)
        async with client_of(app) as client:
            await post_login(client)
            async with Socket(app, "/mirror", client) as socket:
                for _ in range(4):
                    clock.tick(60 * 60)
                    assert await still_open(socket)
                    async with asyncio.timeout(5):
                        while (await auth.user_sessions.list(await get_ann(auth)))[0].last_seen < clock.now:
                            await asyncio.sleep(0.01)
                clock.tick(2 * 60 * 60)
                assert await closed(socket) == 1008, "no message for two hours"


async def test_a_session_that_ends_before_accept_closes_the_websocket(tmp_path: Path) -> None:
    async def slow(websocket: WebSocket) -> None:
        await auth.user_sessions.revoke_all(websocket.user)  # stands for a concurrent request
        await echo(websocket)

    async with site("sqlite", tmp_path) as auth:
        app = make_app(auth, WebSocketRoute("/slow", slow))
        async with client_of(app) as client:
            await post_login(client)
            async with Socket(app, "/slow", client) as socket:
                assert socket.answer["type"] == "websocket.accept"
                assert await closed(socket) == 1008


async def test_the_websocket_of_an_anonymous_visitor_stays_open_as_long_as_the_session(
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


async def test_a_websocket_that_logs_out_itself_can_still_send(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
            assert not await is_logged_in(client)


async def test_a_session_that_a_websocket_created_closes_it_when_it_ends(tmp_path: Path) -> None:
    async with site("memory", tmp_path) as auth:
        app = socket_app(auth)
        async with client_of(app) as client, Socket(app, "/fresh", client) as socket:
            cookie = socket.headers[b"set-cookie"].decode().split("=")[1].split(";")[0]
            assert await still_open(socket)
            client.cookies.set("session", cookie)
            await client.get("/flush")
            assert await closed(socket) == 1008


async def test_messages_to_a_closed_websocket_do_not_reach_the_application(tmp_path: Path) -> None:
    async with site("memory", tmp_path) as auth:
        app = socket_app(auth)
        async with client_of(app) as client:
            await post_login(client)
            async with Socket(app, "/mirror", client) as socket:
                await client.post("/accounts/logout", headers=HERE)
                assert await closed(socket) == 1008
                socket.sent.put_nowait({"type": "websocket.receive", "text": "transfer everything"})
                await asyncio.wait_for(socket.task, 20)
                assert socket.received.empty()


async def test_a_websocket_in_another_event_loop_is_notified(database: Database) -> None:
    """The WebSocket is in the event loop of a server thread; the session is ended in another event loop."""
    async with installed(database) as auth:
        session = await auth.sessions.load("")
        with auth.sessions.open_websockets.watching(session, since=0) as watch:
            session["_auth_user_id"] = "7"
            await asyncio.to_thread(auth.sessions.open_websockets.user_changed, "7")
            started_at = time.monotonic()
            await watch.wait(30)
            assert time.monotonic() - started_at < 5

        async def watch_and_exit() -> Any:
            with auth.sessions.open_websockets.watching(session, since=0) as watch:
                return watch

        closed_watch = await asyncio.to_thread(lambda: asyncio.run(watch_and_exit()))
        closed_watch.notify()  # its event loop is closed; this must not raise

"""Tests of sessions whose login lacks a second factor: begun elsewhere, or before their user needed it."""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.websockets import WebSocket

from starlette_auth import (
    Auth,
    RemoteUserBackend,
    TwoFactor,
    User,
    login,
    login_required,
    middleware,
    routes,
)
from starlette_auth.backends.login_methods import ENTRY
from starlette_auth.middlewares.open_connection import OpenConnection
from starlette_auth.testing import FrozenClock, log_in

from ..conftest import (
    BACKENDS,
    DJANGO,
    ON_SERVER,
    PASSWORD,
    any_database,
    client_of,
    count_statements,
    installed,
    name_of,
    post_login,
    with_store,
)
from ..sessions.test_sessions import Socket
from .test_active_sessions import closed, still_open
from .test_factor_store import add, clock_of, code_of, feature_of

pytestmark = any_database

PAGE, LOGIN = "/accounts/second_factor", "/accounts/login"
PROXY = {"remote-user": "ann"}
JSON = {"accept": "application/json"}


async def whoami(request: Request) -> Response:
    methods = [method.name for method in request.auth.methods]
    return JSONResponse({"username": request.user.username, "methods": methods, "level": request.auth.level})


@login_required
async def members(request: Request) -> Response:
    return PlainTextResponse("members")


async def log_in_barely(request: Request) -> Response:
    user = await request.app.state.auth.users.get_by_username("ann")
    assert user is not None
    await login(request, user)
    return PlainTextResponse(request.user.username)


@login_required
async def mirror(websocket: WebSocket) -> None:
    await websocket.accept()
    async for text in websocket.iter_text():
        await websocket.send_text(text)


async def open_mirror(websocket: WebSocket) -> None:
    await websocket.accept()
    async for _ in websocket.iter_text():
        await websocket.send_text(websocket.user.username)


def make_app(auth: Auth) -> Starlette:
    own = [
        Route("/", whoami),
        Route("/members", members, methods=["GET", "POST"]),
        Route("/bare", log_in_barely, methods=["POST"]),
        WebSocketRoute("/mirror", mirror),
        WebSocketRoute("/open", open_mirror),
    ]
    app = Starlette(routes=[*own, Mount("/accounts", routes=routes(auth))], middleware=middleware(auth))
    app.state.auth = auth
    return app


def browser_of(auth: Auth) -> httpx.AsyncClient:
    return client_of(make_app(auth), headers={"origin": "http://testserver"})


def is_staff(user: User) -> bool:
    return user.is_staff


@pytest.fixture
async def auth(database: Any) -> AsyncIterator[Auth]:
    async with installed(database, features=[TwoFactor(required_for=is_staff)], clock=FrozenClock()) as auth:
        auth.backends.insert(0, RemoteUserBackend(auth.users, trusted_proxies=["192.0.2.0/24"], persistent=True))
        yield auth


@pytest.fixture
async def client(auth: Auth) -> AsyncIterator[httpx.AsyncClient]:
    async with browser_of(auth) as client:
        yield client


async def begin_as_django(auth: Auth, client: httpx.AsyncClient, user: User) -> None:
    """Stores a session with the entries that `django.contrib.auth.login` writes."""
    session = auth.sessions.new_session(auth.clock)
    auth.session_backend.bind(session, user, auth.model_backend.path)
    for name in [name for name in session if name not in ("_auth_user_id", "_auth_user_backend", "_auth_user_hash")]:
        del session[name]
    await _send(auth, client, await auth.sessions.save(session, 3600))


async def begin_as_an_older_version(auth: Auth, client: httpx.AsyncClient, user: User) -> None:
    assurance, auth.session_backend.assurance = auth.session_backend.assurance, None
    await log_in(client, user, auth)
    auth.session_backend.assurance = assurance
    del client.headers["Sec-Fetch-Site"]


async def begin_by_a_proxy(auth: Auth, client: httpx.AsyncClient, user: User) -> None:
    await client.get("/", headers=PROXY)


async def begin_barely(auth: Auth, client: httpx.AsyncClient, user: User) -> None:
    assert (await client.post("/bare")).text == "ann"


async def _send(auth: Auth, client: httpx.AsyncClient, value: str) -> None:
    client.cookies.set(auth.cookie.names[False], value)


Begin = Callable[[Auth, httpx.AsyncClient, User], Awaitable[None]]
BEGINNINGS = [begin_as_django, begin_as_an_older_version, begin_by_a_proxy, begin_barely]
by_any_beginning = pytest.mark.parametrize("begin", BEGINNINGS, ids=lambda begin: begin.__name__)


async def who(client: httpx.AsyncClient, **headers: str) -> str:
    name: str = (await client.get("/", headers=headers)).json()["username"]
    return name


async def follow_to_step(client: httpx.AsyncClient, path: str = "/members") -> str:
    """Opens a page that needs a login; returns the id of the pending login to which the browser is led."""
    refused = await client.get(path)
    assert refused.headers["location"] == f"{LOGIN}?next={path}".replace("=/", "=%2F")
    led = await client.get(refused.headers["location"])
    assert (led.status_code, led.headers["location"]) == (303, PAGE)
    return await step_of(client)


async def step_of(client: httpx.AsyncClient) -> str:
    described = (await client.get(PAGE, headers=JSON)).json()["step"]
    assert described["name"] == "second_factor"
    return str(described["login"])


@by_any_beginning
async def test_attack_9_a_session_that_began_elsewhere_stops_at_the_second_factor(
    auth: Auth, client: httpx.AsyncClient, ann: User, begin: Begin
) -> None:
    await add(feature_of(auth).store, ann)
    await begin(auth, client, ann)
    assert await who(client) == ""
    assert (await client.get("/members", headers=JSON)).status_code == 401
    for path in ("totp", "totp/remove", "password_change", "reauthenticate"):
        assert (await client.get(f"/accounts/{path}")).headers["location"].startswith(LOGIN)
    login_id = await follow_to_step(client)
    assert await who(client) == ""
    done = await client.post(PAGE, data={"login": login_id, "code": code_of(auth)})
    assert (done.status_code, done.headers["location"]) == (303, "/members")
    first = "proxy" if begin is begin_by_a_proxy else "password"
    assert (await client.get("/")).json() == {"username": "ann", "methods": [first, "totp"], "level": 2}


@by_any_beginning
async def test_a_session_that_began_elsewhere_goes_on_without_a_factor(
    auth: Auth, client: httpx.AsyncClient, ann: User, begin: Begin, monkeypatch: pytest.MonkeyPatch
) -> None:
    await begin(auth, client, ann)
    assert await who(client) == "ann"
    statements = count_statements(auth, monkeypatch)
    assert await who(client) == "ann"
    assert len(statements) == 1
    assert "totp" not in statements[0]


@by_any_beginning
async def test_a_session_that_began_elsewhere_becomes_stronger(
    auth: Auth, client: httpx.AsyncClient, ann: User, begin: Begin
) -> None:
    await begin(auth, client, ann)
    assert await who(client) == "ann"
    await add(feature_of(auth).store, ann)
    assert (await client.post(PAGE, data={"next": "/members", "code": code_of(auth)})).headers["location"] == "/members"
    assert (await client.get("/")).json()["level"] == 2


async def test_attack_9_a_proxy_that_names_the_user_at_each_request(
    auth: Auth, client: httpx.AsyncClient, ann: User
) -> None:
    await add(feature_of(auth).store, ann)
    client.headers.update(PROXY)
    for _ in range(3):
        assert await who(client) == ""
    login_id = await follow_to_step(client)
    await client.post(PAGE, data={"login": login_id, "code": code_of(auth)})
    assert await who(client) == "ann"
    async with browser_of(auth) as other:  # each new session asks again
        assert await who(other, **PROXY) == ""


@pytest.mark.parametrize("kind", DJANGO)
async def test_attack_9_a_session_in_djangos_own_table(kind: str, tmp_path: Any) -> None:
    async with with_store(kind, tmp_path, clock=FrozenClock(), features=[TwoFactor()]) as auth:
        ann = await auth.users.create_user("ann", "", PASSWORD)
        await add(feature_of(auth).store, ann)
        async with browser_of(auth) as client:
            await begin_as_django(auth, client, ann)
            assert await who(client) == ""
            login_id = await follow_to_step(client)
            await client.post(PAGE, data={"login": login_id, "code": code_of(auth)})
            assert await who(client) == "ann"


async def test_attack_10_a_user_who_is_made_staff_is_asked_at_the_next_request(
    auth: Auth, client: httpx.AsyncClient, ann: User
) -> None:
    await add(feature_of(auth).store, ann)
    await log_in(client, ann, auth)  # by our pages, with the password alone
    assert await who(client) == "ann"
    await auth.users.update(ann, is_staff=True)
    assert await who(client) == ""
    login_id = await follow_to_step(client)
    await client.post(PAGE, data={"login": login_id, "code": code_of(auth)})
    assert await who(client) == "ann"


@by_any_beginning
@pytest.mark.parametrize("kind", [*ON_SERVER, "cookie", *DJANGO, "django cookie"], ids=name_of)
async def test_attack_9_a_session_in_each_store_stops_at_the_second_factor(
    kind: str, begin: Begin, tmp_path: Any
) -> None:
    """Pages and WebSockets alike."""
    async with with_store(kind, tmp_path, clock=FrozenClock(), features=[TwoFactor()]) as auth:
        auth.backends.insert(0, RemoteUserBackend(auth.users, trusted_proxies=["192.0.2.0/24"], persistent=True))
        ann = await auth.users.create_user("ann", "", PASSWORD)
        await add(feature_of(auth).store, ann)
        app = make_app(auth)
        async with client_of(app, headers={"origin": "http://testserver"}) as client:
            await begin(auth, client, ann)
            cookies = dict(client.cookies)
            client.cookies.clear()
            for name, value in cookies.items():  # with the domain, so that a response can replace them
                client.cookies.set(name, value, domain="testserver.local")
            assert await who(client) == ""
            async with Socket(app, "/mirror", client) as refused:
                assert refused.answer["type"] == "websocket.close"
            async with Socket(app, "/open", client) as visitor:
                assert await user_in(visitor) == ""
            login_id = await follow_to_step(client)
            assert await who(client) == ""
            await client.post(PAGE, data={"login": login_id, "code": code_of(auth)})
            assert await who(client) == "ann"
            async with Socket(app, "/open", client) as member:
                assert await user_in(member) == "ann"


@pytest.mark.parametrize("has_app", [True, False], ids=["app", "no factor"])
@pytest.mark.parametrize("kind", [*ON_SERVER, "cookie", *DJANGO, "django cookie"], ids=name_of)
async def test_attack_10_in_each_store_a_user_who_is_made_staff_is_a_visitor_at_once(
    kind: str, has_app: bool, tmp_path: Any
) -> None:
    features = [TwoFactor(required_for=is_staff)]
    async with with_store(kind, tmp_path, clock=FrozenClock(), features=features) as auth:
        ann = await auth.users.create_user("ann", "", PASSWORD)
        app = make_app(auth)
        async with client_of(app, headers={"origin": "http://testserver"}) as client:
            await post_login(client)
            if has_app:
                await add(feature_of(auth).store, ann)
            assert await who(client) == "ann"
            await auth.users.update(ann, is_staff=True)
            assert await who(client) == ""
            async with Socket(app, "/mirror", client) as refused:
                assert refused.answer["type"] == "websocket.close"
            led = await client.get(f"{LOGIN}?next=%2Fmembers")
            assert led.headers["location"] == (PAGE if has_app else "/accounts/enrol")


async def user_in(socket: Socket) -> str:
    """Asks an open WebSocket who its user is."""
    socket.sent.put_nowait({"type": "websocket.receive", "text": "who?"})
    return str((await socket.received.get())["text"])


@by_any_beginning
async def test_the_second_factor_of_an_old_session_does_not_make_its_login_fresh(
    auth: Auth, client: httpx.AsyncClient, ann: User, begin: Begin
) -> None:
    """An attacker has a stolen session, and a code that the user typed into the attacker's page."""
    await begin(auth, client, ann)
    assert await who(client) == "ann"
    clock_of(auth).tick(3000)
    await add(feature_of(auth).store, ann)
    await auth.users.update(ann, is_staff=True)
    login_id = await follow_to_step(client)
    await client.post(PAGE, data={"login": login_id, "code": code_of(auth)})
    assert await who(client) == "ann"
    for page in ("totp/remove", "recovery_codes"):
        assert (await client.get(f"/accounts/{page}")).headers["location"].startswith("/accounts/reauthenticate")
    await client.post("/accounts/reauthenticate", data={"password": PASSWORD})
    assert (await client.get("/accounts/recovery_codes")).status_code == 200


async def test_open_connections_end_when_their_user_is_made_staff(
    auth: Auth, client: httpx.AsyncClient, ann: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(OpenConnection, "check_interval", 0.02)
    app = make_app(auth)
    await log_in(client, ann, auth)
    async with Socket(app, "/mirror", client) as socket:
        assert await still_open(socket)
        await auth.users.update(ann, is_staff=True)
        assert await closed(socket) == 1008
    async with Socket(app, "/mirror", client) as refused:
        assert refused.answer["type"] == "websocket.close"
    async with Socket(app, "/open", client) as visitor:  # the session stays open, as that of a visitor
        assert await user_in(visitor) == ""


async def test_a_program_is_told_that_one_step_is_missing(auth: Auth, client: httpx.AsyncClient, ann: User) -> None:
    await add(feature_of(auth).store, ann)
    await begin_barely(auth, client, ann)
    refused = (await client.get("/members", headers=JSON)).json()
    assert (refused["code"], refused["login"]) == ("login_step", LOGIN)
    led = await client.get(refused["login"], headers=JSON)
    step = led.json()["step"]
    assert (led.status_code, step["name"], step["url"]) == (401, "second_factor", PAGE)
    done = await client.post(PAGE, json={"login": step["login"], "code": code_of(auth)})
    assert done.status_code == 200
    assert (await client.get("/members", headers=JSON)).text == "members"


async def test_the_login_page_lets_the_visitor_begin_again(auth: Auth, client: httpx.AsyncClient, ann: User) -> None:
    await add(feature_of(auth).store, ann)
    await begin_barely(auth, client, ann)
    login_id = await follow_to_step(client)
    form = await client.get(LOGIN)
    assert 'name="password"' in form.text
    assert await step_of(client) == login_id
    assert await follow_to_step(client) == login_id  # the page of another tab is the same login
    await auth.users.create_user("ben", "", PASSWORD)
    assert (await post_login(client, "ben", next="/")).headers["location"] == "/"
    assert await who(client) == "ben"


async def test_a_logout_ends_an_unfinished_session(auth: Auth, client: httpx.AsyncClient, ann: User) -> None:
    await add(feature_of(auth).store, ann)
    await begin_barely(auth, client, ann)
    assert (await client.post("/accounts/logout")).status_code == 303
    assert (await client.get(LOGIN)).status_code == 200


@pytest.mark.parametrize("with_factor", [False, True], ids=["password", "factor"])
@pytest.mark.parametrize("kind", [*BACKENDS, *DJANGO])
async def test_a_request_runs_no_statement_more_than_without_the_feature(
    kind: str, with_factor: bool, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    features = [TwoFactor(required_for=is_staff)]
    async with with_store(kind, tmp_path, clock=FrozenClock(), features=features) as auth:
        ann = await auth.users.create_user("ann", "", PASSWORD, is_staff=with_factor)
        if with_factor:
            await add(feature_of(auth).store, ann)
        async with browser_of(auth) as client:
            await post_login(client)
            if with_factor:
                await client.post(PAGE, data={"login": await step_of(client), "code": code_of(auth)})
            statements = count_statements(auth, monkeypatch)
            assert await who(client) == "ann"
            assert len(statements) == (2 if auth.tables.django_tables else 1)
            assert "totp" not in str(statements)


@pytest.mark.parametrize("kind", [*BACKENDS, *DJANGO])
async def test_without_a_feature_a_request_runs_as_few_statements(
    kind: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with with_store(kind, tmp_path, clock=FrozenClock()) as auth:
        await auth.users.create_user("ann", "", PASSWORD)
        async with browser_of(auth) as client:
            await post_login(client)
            statements = count_statements(auth, monkeypatch)
            assert await who(client) == "ann"
            assert len(statements) == (2 if auth.tables.django_tables else 1)


async def test_without_a_feature_nothing_is_noted(database: Any) -> None:
    async with installed(database) as auth:
        ann = await auth.users.create_user("ann", "", PASSWORD)
        async with browser_of(auth) as client:
            await begin_as_django(auth, client, ann)
            assert await who(client) == "ann"
            [session] = await auth.user_sessions.list(ann)
            assert ENTRY not in session

"""Only active users are users, and a login counts only while its backend is configured."""

import asyncio
from pathlib import Path
from typing import Any

import httpx
import pytest
import sqlalchemy as sa
from databases import Database
from starlette.requests import HTTPConnection, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route, WebSocketRoute

from starlette_auth import (
    Auth,
    AuthenticationBackend,
    Feature,
    ImproperlyConfigured,
    LoginFailed,
    RemoteUserBackend,
    User,
    UserLoggedIn,
    authenticate,
    get_auth,
    login,
)
from starlette_auth.backends.session import BACKEND
from starlette_auth.middlewares.session.websocket import WebSocketSessionResponder
from starlette_auth.testing import log_in

from ..conftest import DJANGO, ON_SERVER, PASSWORD, client_of, installed, name_of, post_login, with_store, with_tables
from ..sessions.test_sessions import Socket
from ..support.apps import echo, make_app

pytestmark = with_tables

STORES = ["cookie", *ON_SERVER, *DJANGO, "django cookie"]
DJANGO_LDAP = "django_auth_ldap.backend.LDAPBackend"


class NamingBackend(AuthenticationBackend):
    """Identifies the user whom the header `x-user` names, active or not, as a bearer token would."""

    async def identify(self, conn: HTTPConnection) -> User | None:
        return await get_auth(conn).users.get_by_username(conn.headers.get("x-user", ""))


class AmbientBackend(NamingBackend):
    ambient = True


class PersistingBackend(NamingBackend):
    persists_login = True


class PersistingAmbientBackend(PersistingBackend):
    ambient = True


class PinBackend(AuthenticationBackend):
    """Accepts the PIN 1234 of every user, active or not."""

    async def authenticate(
        self, conn: HTTPConnection, *, username: str = "", password: str = "", **credentials: Any
    ) -> User | None:
        return await get_auth(conn).users.get_by_username(username) if password == "1234" else None


async def session_data(request: Request) -> Response:
    return JSONResponse(dict(request.session))


async def username_of(client: httpx.AsyncClient, **headers: str) -> str:
    answer = await client.get("/whoami", headers={name.replace("_", "-"): value for name, value in headers.items()})
    assert answer.status_code == 200
    return str(answer.json()["username"])


# Inactive users


@pytest.mark.parametrize("backend", [NamingBackend, AmbientBackend, PersistingBackend, PersistingAmbientBackend])
@pytest.mark.parametrize("method", ["update", "SQL"])
async def test_no_backend_can_identify_an_inactive_user(
    database: Database, backend: type[AuthenticationBackend], method: str
) -> None:
    async with installed(database, backends=[backend()]) as auth:
        ann = await auth.users.create_user("ann", password=PASSWORD)
        await auth.users.create_user("ben", password=PASSWORD)
        app = make_app(auth)
        async with client_of(app) as client, client_of(app) as browser:
            assert await username_of(client, x_user="ann") == "ann"
            if method == "update":
                await auth.users.update(ann, is_active=False)
            else:
                user = auth.tables.user
                await database.execute(sa.update(user).values(is_active=False).where(user.c.username == "ann"))
            for visitor in (client, browser):  # with and without the session of an earlier login
                assert await username_of(visitor, x_user="ann") == ""
                assert (await visitor.get("/members", headers={"x-user": "ann"})).status_code == 303
            assert "session" not in browser.cookies
            headers = {"x-user": "ann", "accept": "application/json"}
            assert (await browser.get("/members", headers=headers)).status_code == 401
            socket = Socket(app, "/members-socket", browser)
            socket.scope["headers"].append((b"x-user", b"ann"))  # type: ignore[attr-defined]
            async with socket:
                assert socket.answer["type"] != "websocket.accept"
            assert await username_of(browser, x_user="ben") == "ben"


async def test_an_inactive_user_of_a_token_does_not_end_another_login(database: Database) -> None:
    async with installed(database, backends=[NamingBackend()]) as auth:
        await auth.users.create_user("ann", password=PASSWORD)
        await auth.users.create_user("off", is_active=False)
        async with client_of(make_app(auth)) as client:
            await post_login(client)
            assert await username_of(client, x_user="off") == "ann"
            assert await username_of(client) == "ann"


@pytest.mark.parametrize("kind", STORES, ids=name_of)
@pytest.mark.parametrize("backend", [PersistingBackend, RemoteUserBackend])
async def test_a_proxy_that_names_an_inactive_user_ends_the_login_that_it_began(
    kind: str, tmp_path: Path, backend: type[AuthenticationBackend]
) -> None:
    async with with_store(kind, tmp_path) as auth:
        if backend is RemoteUserBackend:
            auth.backends.insert(0, RemoteUserBackend(auth.users, trusted_proxies=["192.0.2.1"], header="x-user"))
        else:
            auth.backends.insert(0, backend())
        await auth.users.create_user("ann", password=PASSWORD)
        await auth.users.create_user("off", is_active=False)
        async with client_of(make_app(auth)) as client:
            assert await username_of(client, x_user="ann") == "ann"
            assert await username_of(client, x_user="off") == ""
            assert await username_of(client) == ""


async def test_authenticate_returns_no_inactive_user(database: Database) -> None:
    failures: list[LoginFailed] = []

    async def api_login(request: Request) -> Response:
        user = await authenticate(request, username="ann", password="1234")
        return PlainTextResponse("refused" if user is None else "accepted")

    async with installed(database, backends=[PinBackend()]) as auth:
        auth.events.on(LoginFailed)(failures.append)
        ann = await auth.users.create_user("ann", password=PASSWORD)
        async with client_of(make_app(auth, Route("/api", api_login))) as client:
            assert (await client.get("/api")).text == "accepted"
            await auth.users.update(ann, is_active=False)
            assert (await client.get("/api")).text == "refused"
            response = await post_login(client, password="1234")
            assert response.status_code == 422
            assert "Please enter a correct username and password" in response.text
    assert len(failures) == 2


async def test_a_further_backend_is_asked_when_the_first_names_an_inactive_user(database: Database) -> None:
    class OldDirectory(PinBackend):
        async def authenticate(
            self, conn: HTTPConnection, *, username: str = "", password: str = "", **credentials: Any
        ) -> User | None:
            return await get_auth(conn).users.get_by_username("off")

    async with installed(database, backends=[OldDirectory()]) as auth:
        await auth.users.create_user("ann", password=PASSWORD)
        await auth.users.create_user("off", is_active=False)
        async with client_of(make_app(auth)) as client:
            assert (await post_login(client)).status_code == 303
            assert await username_of(client) == "ann"


# Sessions whose backend is not configured any more


@pytest.mark.parametrize("kind", STORES, ids=name_of)
@pytest.mark.parametrize("backend", [PinBackend, PersistingBackend])
async def test_a_session_is_anonymous_when_its_backend_is_removed(
    kind: str, tmp_path: Path, backend: type[AuthenticationBackend]
) -> None:
    async with with_store(kind, tmp_path, backends=[backend()]) as auth:
        ann = await auth.users.create_user("ann", password=PASSWORD)
        app = make_app(auth)
        async with client_of(app) as client, client_of(app) as by_password:
            if backend is PinBackend:
                assert (await post_login(client, password="1234")).status_code == 303
            else:
                await username_of(client, x_user="ann")
            await post_login(by_password)
            await client.get("/remember?secret=1")
            assert await username_of(client) == "ann"
            removed = auth.backends.pop(0)
            if auth.sessions.supports_user_lookup:
                assert len(await auth.user_sessions.list(ann)) == 1
            answer = (await client.get("/whoami")).json()
            assert (answer["username"], answer["session"]) == ("", {})
            assert (await client.get("/accounts/password_change")).status_code == 303
            assert (await client.get("/members")).status_code == 303
            async with Socket(app, "/members-socket", client) as socket:
                assert socket.answer["type"] != "websocket.accept"
            assert await username_of(by_password) == "ann"
            auth.backends.insert(0, removed)
            assert await username_of(client) == "", "the session was deleted"


async def test_another_process_without_the_backend_does_not_accept_its_session(auth: Auth, ann: User) -> None:
    with_pin = Auth(auth.database, secret_key=auth.keys.all, passwords=auth.passwords, backends=[PinBackend()])
    async with client_of(make_app(with_pin)) as client, client_of(make_app(auth)) as client_of_other:
        await post_login(client, password="1234")
        client_of_other.cookies = client.cookies
        assert await username_of(client) == "ann"
        assert await username_of(client_of_other) == ""


@pytest.mark.parametrize("kind", ["cookie", *ON_SERVER], ids=name_of)
async def test_an_open_websocket_is_closed_when_its_backend_is_removed(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(WebSocketSessionResponder, "check_interval", 0.05)
    async with with_store(kind, tmp_path, backends=[PinBackend()]) as auth:
        await auth.users.create_user("ann", password=PASSWORD)
        app = make_app(auth, WebSocketRoute("/mirror", echo))
        async with client_of(app) as client:
            await post_login(client, password="1234")
            async with Socket(app, "/mirror", client) as socket:
                await asyncio.sleep(0.2)
                assert socket.received.empty()
                auth.backends.pop(0)
                async with asyncio.timeout(5):
                    assert (await socket.received.get())["type"] == "websocket.close"


@pytest.mark.parametrize("path", ["", "gone.Backend", None, 1, []], ids=repr)
async def test_a_session_that_names_no_backend_of_the_installation_is_anonymous(
    auth: Auth, ann: User, path: object
) -> None:
    session = await auth.sessions.load("")
    auth.session_backend.bind(session, ann, auth.model_backend.path)
    session[BACKEND] = path
    async with client_of(make_app(auth), cookies={"session": await auth.sessions.save(session, 60)}) as client:
        assert await username_of(client) == ""


@pytest.mark.parametrize("when", ["attach", "after the middleware", "new list", "replaced password backend"])
async def test_a_backend_that_is_added_later_counts(database: Database, when: str) -> None:
    class Pins(Feature):
        def attach(self, auth: Auth) -> None:
            auth.backends.insert(0, PinBackend())

    async with installed(database, features=[Pins()] if when == "attach" else []) as auth:
        await auth.users.create_user("ann", password=PASSWORD)
        app = make_app(auth)
        async with client_of(app) as client:
            await client.get("/")
            if when == "after the middleware":
                auth.backends.append(PinBackend())
            elif when == "new list":
                auth.backends = [PinBackend(), *auth.backends]
            elif when == "replaced password backend":
                auth.backends[:] = [auth.session_backend, PinBackend()]
            assert (await post_login(client, password="1234")).status_code == 303
            assert await username_of(client) == "ann"


async def test_login_refuses_the_path_of_an_unknown_backend(auth: Auth, ann: User) -> None:
    events: list[UserLoggedIn] = []
    auth.events.on(UserLoggedIn)(events.append)

    async def log_in_ann(request: Request) -> Response:
        if request.query_params["by"] == "argument":
            await login(request, ann, backend="shop.Typo")
        ann.backend = "shop.Typo"
        await login(request, ann)
        return PlainTextResponse("")

    async with client_of(make_app(auth, Route("/force", log_in_ann))) as client:
        for by in ("argument", "user"):
            with pytest.raises(ImproperlyConfigured, match=r"shop\.Typo.*starlette_auth\.ModelBackend"):
                await client.get(f"/force?by={by}")
        assert await username_of(client) == ""
    fresh = await auth.users.get(ann.id)
    assert fresh is not None
    assert fresh.last_login is None
    assert events == []


@pytest.mark.parametrize("with_passwords", [True, False])
async def test_log_in_of_the_testing_module_works_with_other_backends(database: Database, with_passwords: bool) -> None:
    async with installed(database, backends=[PinBackend()]) as auth:
        if not with_passwords:
            auth.backends.remove(auth.model_backend)
        ann = await auth.users.create_user("ann")
        async with client_of(make_app(auth)) as client:
            await log_in(client, ann, auth)
            assert await username_of(client) == "ann"


# Django projects


DJANGO_STORES = [*DJANGO, "django cookie"]


@pytest.mark.parametrize("kind", DJANGO_STORES, ids=name_of)
@pytest.mark.parametrize("path", ["django.contrib.auth.backends.ModelBackend", DJANGO_LDAP])
async def test_a_login_that_django_wrote_counts_whatever_its_backend(kind: str, tmp_path: Path, path: str) -> None:
    async with with_store(kind, tmp_path) as auth:
        ann = await auth.users.create_user("ann", password=PASSWORD)
        session = await auth.sessions.load("")
        auth.session_backend.bind(session, ann, auth.model_backend.path)
        written_by_django = {name: session[name] for name in ("_auth_user_id", "_auth_user_hash")}
        session.clear()
        session.update({**written_by_django, BACKEND: path})
        cookie = await auth.sessions.save(session, 60)
        async with client_of(make_app(auth), cookies={auth.cookie.name: cookie}) as client:
            assert await username_of(client) == "ann"
            assert len(await auth.user_sessions.list(ann)) == 1 if auth.sessions.supports_user_lookup else True


@pytest.mark.parametrize("kind", DJANGO_STORES, ids=name_of)
async def test_a_login_at_django_counts_after_a_login_here_by_a_removed_backend(kind: str, tmp_path: Path) -> None:
    """Django keeps the other entries of the session when the same user logs in again."""

    async def log_in_as_django(request: Request) -> Response:
        request.session[BACKEND] = DJANGO_LDAP
        return PlainTextResponse("")

    async with with_store(kind, tmp_path, backends=[PinBackend()]) as auth:
        await auth.users.create_user("ann", password=PASSWORD)
        async with client_of(make_app(auth, Route("/django", log_in_as_django))) as client:
            await post_login(client, password="1234")
            await client.get("/django")
            auth.backends.pop(0)
            assert await username_of(client) == "ann"


@pytest.mark.parametrize("kind", ["memory", "cookie", *DJANGO_STORES], ids=name_of)
async def test_only_sessions_shared_with_django_note_who_wrote_the_login(kind: str, tmp_path: Path) -> None:
    async with with_store(kind, tmp_path) as auth:
        await auth.users.create_user("ann", password=PASSWORD)
        async with client_of(make_app(auth, Route("/data", session_data))) as client:
            await post_login(client)
            assert ("_auth_own_backend" in (await client.get("/data")).json()) is kind.startswith("django")

"""Behaviours of Django's own tests of backends, remote users and signals, which no other test of this package proves.

They are in `auth_tests` of version 5.2: test_auth_backends.py, test_remote_user.py and test_signals.py.
"""

from typing import Any

import httpx
import pytest
import sqlalchemy as sa
from databases import Database
from starlette.requests import HTTPConnection, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from starlette_auth import (
    Auth,
    AuthenticationBackend,
    Event,
    ImproperlyConfigured,
    LoginFailed,
    ModelBackend,
    NumericPasswordValidator,
    RemoteUserBackend,
    UnstorableValue,
    User,
    UserLoggedIn,
    UserLoggedOut,
    login,
)
from starlette_auth.testing import FrozenClock

from ..conftest import (
    PASSWORD,
    any_database,
    client_of,
    installed,
    post_login,
    token_in,
    with_tables,
)
from ..support.apps import make_app

pytestmark = [with_tables, any_database]
ORIGIN = {"origin": "http://testserver"}


# authenticate()


class Broken(AuthenticationBackend):
    async def authenticate(self, conn: HTTPConnection, **credentials: Any) -> User | None:
        raise TypeError("a bug of the backend")


async def test_the_debug_page_shows_no_password(database: Database) -> None:
    """Starlette's debug page shows the source code of each frame, but no local variables."""
    secret, new = "supersecretmypassword", "anothersecretpassword"

    class BrokenValidator(NumericPasswordValidator):
        def validate(self, password: str, user: Any = None) -> None:
            raise TypeError("a bug of the validator")

    async with installed(database, password_validators=[BrokenValidator()]) as auth:
        ann = await auth.users.create_user("ann", password=secret)
        transport = httpx.ASGITransport(make_app(auth, debug=True), raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://testserver") as client:
            await post_login(client, password=secret)
            form = {"old_password": secret, "new_password1": new, "new_password2": new}
            changed = await client.post("/accounts/password_change", data=form, headers=ORIGIN)
            await client.post("/accounts/logout", headers=ORIGIN)
            auth.backends.insert(0, Broken())
            page = await post_login(client, password=secret)
        for response, bug in ((changed, "a bug of the validator"), (page, "a bug of the backend")):
            assert response.status_code == 500
            assert bug in response.text
            assert "TypeError" in response.text
            assert secret not in response.text
            assert new not in response.text
        assert await auth.users.check_password(ann, secret)


async def test_a_backend_whose_method_is_decorated_is_skipped_for_other_credentials(database: Database) -> None:
    def decorated(method: Any) -> Any:
        async def wrapper(self: Any, conn: HTTPConnection) -> User | None:
            user: User | None = await method(self, conn)
            return user

        return wrapper

    class OfNothing(AuthenticationBackend):
        @decorated
        async def authenticate(self, conn: HTTPConnection) -> User | None:
            raise AssertionError("It accepts no credentials.")

    async with installed(database, backends=[OfNothing()]) as auth:
        ann = await auth.users.create_user("ann", password=PASSWORD)
        assert await auth.authenticate(username="ann", password=PASSWORD) == ann


# The backend of a login


class Other(ModelBackend):
    path = "tests.Other"


@pytest.mark.parametrize(("backend", "expected"), [("", "starlette_auth.ModelBackend"), ("tests.Other", "tests.Other")])
async def test_a_session_names_the_backend_of_its_login(database: Database, backend: str, expected: str) -> None:
    async def force(request: Request) -> Response:
        ann = await auth.users.get_by_username("ann")
        assert ann is not None
        await login(request, ann, backend=backend)
        return PlainTextResponse(str(request.session["_auth_user_backend"]))

    async with installed(database) as auth:
        auth.backends.append(Other(auth.users))
        await auth.users.create_user("ann")
        async with client_of(make_app(auth, Route("/force", force))) as client:
            assert (await client.get("/force")).text == expected
            assert (await client.get("/whoami")).json()["username"] == "ann"


@pytest.mark.parametrize("backend", [ModelBackend, b"starlette_auth.ModelBackend", 1], ids=repr)
async def test_a_backend_that_is_no_path_is_refused_at_the_login(auth: Auth, ann: User, backend: Any) -> None:
    async def force(request: Request) -> Response:
        with pytest.raises(ImproperlyConfigured, match=r"starlette_auth\.ModelBackend"):
            await login(request, ann, backend=backend)
        return JSONResponse(dict(request.session))

    async with client_of(make_app(auth, Route("/force", force))) as client:
        assert (await client.get("/force")).json() == {}


# Users of a reverse proxy


async def name_of(client: httpx.AsyncClient, header: str | None = None) -> str:
    headers = {} if header is None else {"remote-user": header}
    return str((await client.get("/whoami", headers=headers)).json()["username"])


def behind_proxy(auth: Auth, **options: Any) -> Any:
    auth.backends.insert(0, RemoteUserBackend(auth.users, trusted_proxies=["192.0.2.0/24"], **options))
    return make_app(auth)


async def test_without_the_header_no_user_is_created(auth: Auth) -> None:
    async with client_of(behind_proxy(auth)) as client:
        assert [await name_of(client), await name_of(client, "")] == ["", ""]
    assert await auth.users.count() == 0


@pytest.mark.parametrize("header", ["remote-user", "x-authuser"])
async def test_the_user_changes_with_the_header(auth: Auth, ann: User, header: str) -> None:
    await auth.users.create_user("ben")
    async with client_of(behind_proxy(auth, header=header)) as client:
        for name in ("ann", "ben", "ann"):
            response = await client.get("/whoami", headers={header: name})
            assert response.json()["username"] == name
    assert await auth.users.count() == 2


@pytest.mark.parametrize("create_unknown_user", [True, False])
async def test_another_name_in_the_header_ends_the_login(auth: Auth, ann: User, create_unknown_user: bool) -> None:
    async with client_of(behind_proxy(auth, create_unknown_user=create_unknown_user)) as client:
        assert await name_of(client, "ann") == "ann"
        assert await name_of(client, "newnewuser") == ("newnewuser" if create_unknown_user else "")


async def test_the_proxy_sets_last_login_once_in_a_session(database: Database) -> None:
    clock = FrozenClock()
    async with installed(database, clock=clock) as auth:
        ann = await auth.users.create_user("ann")
        async with client_of(behind_proxy(auth)) as client:
            await name_of(client, "ann")
            first = await auth.users.get(ann.id)
            clock.tick(100)
            await name_of(client, "ann")
        second = await auth.users.get(ann.id)
    assert first is not None
    assert second is not None
    assert ann.last_login is None
    assert first.last_login == second.last_login is not None


async def test_a_missing_header_ends_no_login_of_another_backend(auth: Auth, ann: User) -> None:
    async with client_of(behind_proxy(auth)) as client:
        await name_of(client, "ben")
        assert await name_of(client) == ""
        await post_login(client)
        assert await name_of(client) == "ann"


async def test_a_form_is_accepted_in_the_request_that_logs_its_user_in(database: Database) -> None:
    async with installed(database, csrf="strict") as auth:
        app = behind_proxy(auth)
        headers = {"remote-user": "ann", **ORIGIN}
        async with client_of(app) as client, client_of(app) as other:
            token = token_in((await client.get("/accounts/login")).text)
            assert (await other.post("/members", headers=headers)).status_code == 403
            data = {"csrfmiddlewaretoken": token}
            assert (await other.post("/members", headers=headers, data=data)).status_code == 403
            response = await client.post("/members", headers=headers, data=data)
            assert (response.status_code, response.text) == (200, "members")
            # From now on, only forms of this session are accepted.
            assert (await client.post("/members", headers=headers, data=data)).status_code == 403


# Signals


async def test_each_login_attempt_and_logout_is_reported_once(auth: Auth, ann: User) -> None:
    events: list[Event] = []
    auth.events.on(Event)(events.append)
    async with client_of(make_app(auth)) as client:
        await client.post("/accounts/logout", headers=ORIGIN)  # of a visitor
        await post_login(client, password="bad")
        await post_login(client)
        await client.post("/accounts/logout", headers=ORIGIN)
    assert [type(event) for event in events] == [UserLoggedOut, LoginFailed, UserLoggedIn, UserLoggedOut]
    visitor, failed, logged_in, logged_out = events
    assert isinstance(visitor, UserLoggedOut)
    assert visitor.user.is_anonymous
    assert isinstance(failed, LoginFailed)
    assert failed.credentials == {"username": "ann", "password": "*" * 20}
    assert failed.request.url.path == "/accounts/login"
    assert isinstance(logged_in, UserLoggedIn)
    assert isinstance(logged_out, UserLoggedOut)
    assert logged_in.user == logged_out.user == ann


async def test_a_login_stores_nothing_of_its_user_but_last_login(auth: Auth, ann: User) -> None:
    async def force(request: Request) -> Response:
        ann.username = "This name is not stored"
        await login(request, ann)
        return PlainTextResponse("")

    async with client_of(make_app(auth, Route("/force", force))) as client:
        await client.get("/force")
    stored = await auth.users.get(ann.id)
    assert stored is not None
    assert (stored.username, stored.last_login is None) == ("ann", False)


# Permissions


@pytest.mark.parametrize("texts", [{"model": "m" * 101}, {"name": "n" * 256}], ids=str)
async def test_a_permission_with_texts_too_long_for_their_columns_is_refused(auth: Auth, texts: dict[str, str]) -> None:
    with pytest.raises(UnstorableValue):
        await auth.users.create_permission("polls.add_vote", **texts)
    assert await auth.gateway.fetch_all(sa.select(auth.tables.permission)) == []

"""Putting it all into an application, rightly and otherwise."""

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from databases import Database
from starlette.applications import Starlette
from starlette.endpoints import HTTPEndpoint
from starlette.exceptions import HTTPException
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.requests import HTTPConnection, Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from starlette_auth import (
    Auth,
    AuthenticationBackend,
    AuthenticationMiddleware,
    CSRFMiddleware,
    ImproperlyConfigured,
    MemoryStore,
    MinimumLengthValidator,
    PasswordCheckUnavailable,
    PwnedPasswordsValidator,
    SessionMiddleware,
    User,
    auth_context,
    authenticate,
    lifespan,
    login_required,
    middleware,
    migrate,
    update_session_auth_hash,
    user_passes_test,
)
from starlette_auth.pages.forms import Field, Form

from .conftest import PASSWORD, SECRET_KEY, client_of, installed, post_login
from .support.apps import app_routes, make_app, public


@pytest.fixture
def unconnected(tmp_path: Path) -> Auth:
    return Auth(Database(f"sqlite+aiosqlite:///{tmp_path}/app.sqlite3"), secret_key=SECRET_KEY)


async def test_the_lifespan_connects_creates_and_disconnects(unconnected: Auth) -> None:
    auth = unconnected
    async with lifespan(auth, create_tables=True)(None):
        assert auth.database.is_connected
        assert await auth.users.count() == 0
    assert not auth.database.is_connected


async def test_the_applications_own_lifespan_runs_in_between(unconnected: Auth) -> None:
    said: list[str] = []

    @contextlib.asynccontextmanager
    async def own(app: Any) -> AsyncIterator[dict[str, int]]:
        await migrate(unconnected.gateway, unconnected.tables)
        yield {"answer": 42}
        said.append(f"connected: {unconnected.database.is_connected}")

    async with lifespan(unconnected, own)(None) as state:
        assert state == {"answer": 42}
    assert said == ["connected: True"]


async def test_a_database_that_is_connected_already_stays_so(unconnected: Auth) -> None:
    async with unconnected.database:
        async with lifespan(unconnected)(None):
            pass
        assert unconnected.database.is_connected


async def test_the_middlewares_can_be_wrapped_around_an_application(auth: Auth, ann: User) -> None:
    inner = Starlette(routes=app_routes(auth))
    app = SessionMiddleware(
        AuthenticationMiddleware(CSRFMiddleware(inner, auth=auth), auth=auth), store=auth.sessions, cookie=auth.cookie
    )
    async with client_of(app) as client:
        assert (await client.get("/members")).headers["location"] == "/accounts/login?next=%2Fmembers"
        await post_login(client)
        assert (await client.get("/members")).text == "members"


async def test_middlewares_that_run_the_application_in_a_task_of_its_own_change_nothing(auth: Auth, ann: User) -> None:
    class Passing(BaseHTTPMiddleware):
        async def dispatch(self, request: Request, call_next: Any) -> Response:
            response: Response = await call_next(request)
            return response

    app = make_app(auth)
    app.add_middleware(Passing)
    async with client_of(app) as client:
        await post_login(client)
        assert (await client.get("/members")).text == "members"


async def test_pages_of_ones_own_do_without_ours(auth: Auth) -> None:
    app = Starlette(routes=[Route("/", public, methods=["POST"])], middleware=middleware(auth))
    async with client_of(app, cookies={"session": "x"}) as client:
        refused = await client.post("/")
        assert refused.status_code == 403
        assert "stylesheet" not in refused.text


async def test_an_error_page_on_an_excluded_path_knows_nobody(auth: Auth) -> None:
    async def missing(request: Request, error: Exception) -> Response:
        return PlainTextResponse(repr(auth_context(request)["user"]), 404)

    app = Starlette(exception_handlers={404: missing}, middleware=middleware(auth, exclude=("/static",)))
    async with client_of(app) as client:
        assert (await client.get("/static/none")).text == "AnonymousUser()"


async def test_an_endpoint_class_can_have_a_test_that_waits(auth: Auth, ann: User) -> None:
    async def is_ann(user: Any) -> bool:
        return bool(user.username == "ann")

    @user_passes_test(is_ann)
    class Room(HTTPEndpoint):
        async def get(self, request: Request) -> Response:
            return PlainTextResponse("room")

    async with client_of(make_app(auth, Route("/room", Room))) as client:
        assert (await client.get("/room")).status_code == 303
        await post_login(client)
        assert (await client.get("/room")).text == "room"


async def test_the_session_of_one_user_is_not_renewed_for_anothers_password(auth: Auth, ann: User) -> None:
    bob = await auth.users.create_user("bob", password=PASSWORD)

    async def help_bob(request: Request) -> Response:
        await auth.users.set_password(bob, "a new password for bob")
        update_session_auth_hash(request, bob)
        return PlainTextResponse("")

    async with client_of(make_app(auth, Route("/help", login_required(help_bob)))) as client:
        await post_login(client)
        before = client.cookies["session"]
        assert "set-cookie" not in (await client.get("/help")).headers
        assert client.cookies["session"] == before
        assert (await client.get("/whoami")).json()["username"] == "ann"


async def test_a_backend_may_name_what_it_takes(database: Database) -> None:
    class CodeBackend(AuthenticationBackend):
        async def authenticate(self, conn: HTTPConnection, code: str) -> User | None:  # type: ignore[override]
            return ann if code == "1234" else None

    async def probe(request: Request) -> Response:
        by_code = await authenticate(request, code="1234")
        by_password = await authenticate(request, username="ann", password=PASSWORD)
        return PlainTextResponse(f"{by_code} {by_password}")

    async with installed(database, backends=[CodeBackend()], sessions=MemoryStore()) as auth:
        ann = await auth.users.create_user("ann", password=PASSWORD)
        async with client_of(make_app(auth, Route("/probe", probe))) as client:
            assert (await client.get("/probe")).text == "ann ann"


async def test_a_form_outside_of_any_application_is_read_as_well() -> None:
    async def broken() -> Any:
        return {"type": "http.request", "body": b"--x\r\nbroken: \x00\r\n"}

    scope = {"type": "http", "headers": [(b"content-type", b"multipart/form-data")]}
    with pytest.raises(HTTPException, match="cannot be read"):
        await Form(username=Field()).fill_in(Request(scope, broken))


@pytest.mark.parametrize("setting", [{"context_words": "acme"}, {"templates": "templates"}, {"from_email": "ann"}])
def test_a_setting_that_means_nothing_says_how_it_is_written(tmp_path: Path, setting: dict[str, Any]) -> None:
    database = Database(f"sqlite+aiosqlite:///{tmp_path}/app.sqlite3")
    with pytest.raises(ImproperlyConfigured, match=r"Pass .*="):
        Auth(database, secret_key=SECRET_KEY, **setting)


async def test_the_sites_words_join_validators_of_ones_own(database: Database) -> None:
    async with installed(database, password_validators=[MinimumLengthValidator(4)], context_words=["acme"]) as auth:
        assert [error.code for error in await auth.validate_password("acme2026")] == ["password_context_word"]
        assert await auth.validate_password("herons") == []


async def test_when_have_i_been_pwned_is_away_an_event_says_so(database: Database) -> None:
    nobody_there = PwnedPasswordsValidator("http://127.0.0.1:9/")
    heard: list[PasswordCheckUnavailable] = []
    async with installed(database, password_validators=[nobody_there]) as auth:
        auth.events.on(PasswordCheckUnavailable)(heard.append)
        assert await auth.validate_password("nine loud herons") == []
    assert len(heard) == 1


async def test_a_name_that_cannot_be_stored_is_nobodys(auth: Auth) -> None:
    assert not await auth.users.has_username("ann\x00")

"""Tests of the integration into an application: lifespan, middlewares, settings."""

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


async def test_the_lifespan_connects_creates_tables_and_disconnects(unconnected: Auth) -> None:
    auth = unconnected
    async with lifespan(auth, create_tables=True)(None):
        assert auth.database.is_connected
        assert await auth.users.count() == 0
    assert not auth.database.is_connected


async def test_the_applications_lifespan_runs_while_the_database_is_connected(unconnected: Auth) -> None:
    log: list[str] = []

    @contextlib.asynccontextmanager
    async def application_lifespan(app: Any) -> AsyncIterator[dict[str, int]]:
        await migrate(unconnected.gateway, unconnected.tables)
        yield {"answer": 42}
        log.append(f"connected: {unconnected.database.is_connected}")

    async with lifespan(unconnected, application_lifespan)(None) as state:
        assert state == {"answer": 42}
    assert log == ["connected: True"]


async def test_the_lifespan_does_not_disconnect_a_database_that_was_connected_before(unconnected: Auth) -> None:
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


async def test_sessions_work_with_a_base_http_middleware_that_runs_the_app_in_a_task(auth: Auth, ann: User) -> None:
    class PassThrough(BaseHTTPMiddleware):
        async def dispatch(self, request: Request, call_next: Any) -> Response:
            response: Response = await call_next(request)
            return response

    app = make_app(auth)
    app.add_middleware(PassThrough)
    async with client_of(app) as client:
        await post_login(client)
        assert (await client.get("/members")).text == "members"


async def test_the_middlewares_work_without_the_account_pages(auth: Auth) -> None:
    app = Starlette(routes=[Route("/", public, methods=["POST"])], middleware=middleware(auth))
    async with client_of(app, cookies={"session": "x"}) as client:
        response = await client.post("/")
        assert response.status_code == 403
        assert "stylesheet" not in response.text


async def test_the_user_is_anonymous_on_an_error_page_of_an_excluded_path(auth: Auth) -> None:
    async def missing(request: Request, error: Exception) -> Response:
        return PlainTextResponse(repr(auth_context(request)["user"]), 404)

    app = Starlette(exception_handlers={404: missing}, middleware=middleware(auth, exclude=("/static",)))
    async with client_of(app) as client:
        assert (await client.get("/static/none")).text == "AnonymousUser()"


async def test_user_passes_test_accepts_a_coroutine_for_an_endpoint_class(auth: Auth, ann: User) -> None:
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


async def test_changing_another_users_password_does_not_renew_the_session(auth: Auth, ann: User) -> None:
    bob = await auth.users.create_user("bob", password=PASSWORD)

    async def reset_password_of_bob(request: Request) -> Response:
        await auth.users.set_password(bob, "a new password for bob")
        update_session_auth_hash(request, bob)
        return PlainTextResponse("")

    async with client_of(make_app(auth, Route("/help", login_required(reset_password_of_bob)))) as client:
        await post_login(client)
        before = client.cookies["session"]
        assert "set-cookie" not in (await client.get("/help")).headers
        assert client.cookies["session"] == before
        assert (await client.get("/whoami")).json()["username"] == "ann"


async def test_a_backend_may_name_its_credentials_as_parameters(database: Database) -> None:
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


async def test_a_malformed_form_is_reported_outside_of_an_application() -> None:
    async def receive_malformed() -> Any:
        return {"type": "http.request", "body": b"--x\r\nbroken: \x00\r\n"}

    scope = {"type": "http", "headers": [(b"content-type", b"multipart/form-data")]}
    with pytest.raises(HTTPException, match="cannot be read"):
        await Form(username=Field()).fill_in(Request(scope, receive_malformed))


@pytest.mark.parametrize("setting", [{"context_words": "acme"}, {"templates": "templates"}, {"from_email": "ann"}])
def test_an_error_about_an_invalid_setting_shows_the_right_form(tmp_path: Path, setting: dict[str, Any]) -> None:
    database = Database(f"sqlite+aiosqlite:///{tmp_path}/app.sqlite3")
    with pytest.raises(ImproperlyConfigured, match=r"Pass .*="):
        Auth(database, secret_key=SECRET_KEY, **setting)


async def test_context_words_are_checked_with_custom_validators_too(database: Database) -> None:
    async with installed(database, password_validators=[MinimumLengthValidator(4)], context_words=["acme"]) as auth:
        assert [error.code for error in await auth.validate_password("acme2026")] == ["password_context_word"]
        assert await auth.validate_password("herons") == []


async def test_an_event_reports_that_have_i_been_pwned_is_unreachable(database: Database) -> None:
    unreachable = PwnedPasswordsValidator("http://127.0.0.1:9/")
    events: list[PasswordCheckUnavailable] = []
    async with installed(database, password_validators=[unreachable]) as auth:
        auth.events.on(PasswordCheckUnavailable)(events.append)
        assert await auth.validate_password("nine loud herons") == []
    assert len(events) == 1


async def test_a_username_that_cannot_be_stored_does_not_exist(auth: Auth) -> None:
    assert not await auth.users.has_username("ann\x00")

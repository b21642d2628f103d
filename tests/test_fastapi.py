"""Tests of `starlette_auth.fastapi`: dependencies, the order of body and guard, and the OpenAPI schema."""

import functools
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import pytest
import sqlalchemy as sa
from databases import Database
from fastapi import APIRouter, Depends, FastAPI, Form, Security, UploadFile
from fastapi.security import SecurityScopes
from openapi_spec_validator import validate
from pydantic import BaseModel
from starlette.applications import Starlette
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route

from starlette_auth import (
    APITokens,
    Auth,
    BearerSessions,
    Feature,
    ImproperlyConfigured,
    Tables,
    User,
    lifespan,
    login_required,
    middleware,
    staff_required,
    user_columns,
    user_passes_test,
)
from starlette_auth.fastapi import (
    CurrentUser,
    MaybeUser,
    Refused,
    accounts,
    answer,
    current_user,
    fresh_login,
    maybe_user,
    requires,
)
from starlette_auth.features.active_sessions import ActiveSessions
from starlette_auth.features.email_change import EmailChange
from starlette_auth.features.registration import Registration
from starlette_auth.testing import CollectingMailer, FrozenClock, log_in

from .conftest import PASSWORD, SECRET_KEY, any_database, client_of, installed, with_tables

pytestmark = [with_tables, any_database]

PROGRAM = {"accept": "*/*", "sec-fetch-site": "same-origin"}


class Order(BaseModel):
    number: int


async def is_staff(user: Any) -> bool:
    return bool(user.is_staff)


def make_app(auth: Auth) -> FastAPI:
    app = FastAPI(
        middleware=middleware(auth), lifespan=lifespan(auth), exception_handlers={Refused: answer}, title="Shop"
    )
    app.include_router(accounts(auth), prefix="/accounts")
    router = APIRouter(prefix="/router", dependencies=[Depends(current_user)])

    @app.get("/me")
    async def me(user: CurrentUser) -> str:
        return user.username

    @app.get("/maybe")
    async def maybe(user: MaybeUser) -> str | None:
        return user.username if user is not None else None

    @app.get("/scopes")
    async def scopes(user: Annotated[User, Security(current_user, scopes=["shop.view_order"])]) -> str:
        return user.username

    @app.get("/any", dependencies=[Depends(requires(any_of=["shop.view_order", "shop.add_order"]))])
    async def any_of() -> str:
        return "any"

    @app.get("/all", dependencies=[Depends(requires("shop.view_order", "shop.add_order"))])
    async def all_of() -> str:
        return "all"

    @app.delete("/me", dependencies=[Depends(fresh_login(max_age=60))])
    async def delete() -> str:
        return "deleted"

    @app.post("/upload", dependencies=[Depends(login_required)])
    async def upload(file: UploadFile) -> int:
        return len(await file.read())

    @router.post("/upload")
    async def router_upload(file: UploadFile) -> int:
        return len(await file.read())

    @app.post("/form")
    async def form(user: CurrentUser, number: Annotated[int, Form()]) -> int:
        return number

    @app.post("/json")
    async def json(user: CurrentUser, order: Order) -> int:
        return order.number

    @app.post("/decorated")
    @login_required
    async def decorated(request: Request, order: Order) -> int:
        return order.number

    @app.post("/decorated-sync")
    @user_passes_test(lambda user: user.is_staff)
    def decorated_sync(request: Request, order: Order) -> int:
        return order.number

    @app.post("/async-test", dependencies=[Depends(user_passes_test(is_staff))])
    async def async_test(order: Order) -> int:
        return order.number

    @app.post("/open")
    async def opened(order: Order) -> int:
        return order.number

    app.include_router(router)
    return app


async def test_dependencies_return_the_user(auth: Auth, ann: User) -> None:
    async with client_of(make_app(auth), headers=PROGRAM) as client:
        assert (await client.get("/me")).status_code == 401
        assert (await client.get("/maybe")).json() is None
        await log_in(client, ann, auth)
        assert (await client.get("/me")).json() == "ann"
        assert (await client.get("/maybe")).json() == "ann"


async def test_scopes_are_permissions(auth: Auth, ann: User) -> None:
    async with client_of(make_app(auth), headers=PROGRAM) as client:
        for path in ("/scopes", "/any", "/all"):
            assert (await client.get(path)).status_code == 401
        await log_in(client, ann, auth)
        for path in ("/scopes", "/any", "/all"):
            assert (await client.get(path)).status_code == 403
        await auth.users.grant(ann, await auth.users.create_permission("shop.view_order"))
        assert [(await client.get(path)).status_code for path in ("/scopes", "/any", "/all")] == [200, 200, 403]
        await auth.users.grant(ann, await auth.users.create_permission("shop.add_order"))
        assert (await client.get("/all")).json() == "all"


async def test_a_fresh_login_is_a_dependency(database: Any) -> None:
    clock = FrozenClock()
    async with installed(database, clock=clock) as auth, client_of(make_app(auth), headers=PROGRAM) as client:
        assert (await client.delete("/me")).json()["code"] == "not_authenticated"
        await log_in(client, await auth.users.create_user("ann", password=PASSWORD), auth)
        assert (await client.delete("/me")).json() == "deleted"
        clock.tick(61)
        assert (await client.delete("/me")).json()["code"] == "login_too_old"


async def test_a_dependency_can_be_overridden(auth: Auth) -> None:
    app = make_app(auth)
    app.dependency_overrides[current_user] = lambda: User(id=7, username="bob")
    async with client_of(app, headers=PROGRAM) as client:
        assert (await client.get("/me")).json() == "bob"
    app.dependency_overrides = {maybe_user: lambda: User(id=7, username="bob")}
    async with client_of(app, headers=PROGRAM) as client:
        assert (await client.get("/maybe")).json() == "bob"


async def find_order(user: CurrentUser) -> int:
    return len(user.username)


async def test_an_overridden_dependency_is_not_asked_before_the_body_is_read(auth: Auth) -> None:
    app = make_app(auth)

    @app.post("/nested")
    async def nested(number: Annotated[int, Depends(find_order)], order: Order) -> int:
        return number + order.number

    @app.post("/guarded", dependencies=[Depends(requires("shop.add_order"))])
    async def guarded(user: CurrentUser, order: Order) -> int:
        return order.number

    async with client_of(app, headers=PROGRAM) as client:
        app.dependency_overrides[current_user] = lambda: User(id=7, username="bob")
        assert (await client.post("/json", json={"number": 5})).json() == 5
        assert (await client.post("/guarded", json={"number": 5})).status_code == 401, "another guard was left out"
        app.dependency_overrides = {find_order: lambda: 1}
        assert (await client.post("/nested", json={"number": 5})).json() == 6
        assert (await client.post("/json", json={"number": 5})).status_code == 401
        app.dependency_overrides = {}
        assert (await client.post("/nested", content=b"{")).status_code == 401


@pytest.mark.parametrize("guard", [requires, fresh_login])
def test_a_guard_that_must_be_called_is_refused(guard: Any) -> None:
    with pytest.raises(ImproperlyConfigured, match=r"Depends\((requires|fresh_login)\("):
        FastAPI().get("/", dependencies=[Depends(guard)])(lambda: None)


@pytest.mark.parametrize("arguments", [{}, {"any_of": []}, {"any_of": "view"}, {"any_of": [5]}])
def test_names_that_are_no_permissions_are_refused_at_once(arguments: Any) -> None:
    with pytest.raises(ImproperlyConfigured):
        requires(**arguments)
    for name in ("view", ".", "polls.", ".view"):
        with pytest.raises(ImproperlyConfigured, match=r"app\.codename"):
            requires(name)


@pytest.mark.parametrize("scope", ["superuser", "staff", "authenticated", "polls.", ".", "polls.*"])
@pytest.mark.parametrize("place", ["parameter", "route", "above", "router", "application", "partial"])
async def test_scopes_that_are_no_permissions_stop_the_start(auth: Auth, place: str, scope: str) -> None:
    guard: Any = functools.partial(current_user) if place == "partial" else current_user
    security: Any = Security(guard, scopes=[scope])

    def member(user: Annotated[Any, Depends(current_user)]) -> Any:
        return user

    def with_parameter(user: Annotated[Any, security]) -> str:
        return "secret"

    def above(user: Annotated[Any, Security(member, scopes=[scope])]) -> str:
        return "secret"

    endpoint = {"parameter": with_parameter, "partial": with_parameter, "above": above}.get(place, lambda: "secret")
    router = APIRouter(dependencies=[security] if place == "router" else [])
    router.get("/secret", dependencies=[security] if place == "route" else [])(endpoint)
    dependencies = [security] if place == "application" else []
    app = FastAPI(middleware=middleware(auth), lifespan=lifespan(auth), dependencies=dependencies)
    app.include_router(router)
    with pytest.raises(ImproperlyConfigured, match=r"GET /secret gives .* that are no permissions.*staff_required"):
        async with app.router.lifespan_context(app):
            """Is never reached."""
    async with client_of(app) as client:
        with pytest.raises(ImproperlyConfigured, match="GET /secret gives"):
            await client.get("/secret")


def below_login(user: Annotated[Any, Depends(login_required)]) -> Any:
    return user


def below_maybe(user: MaybeUser) -> Any:
    return user


def deep_below_maybe(user: Annotated[Any, Depends(below_maybe)]) -> Any:
    return user


@login_required
def decorated_dependency(request: Request) -> Any:
    return request.user


@pytest.mark.parametrize(
    "function",
    [maybe_user, functools.partial(maybe_user), below_login, below_maybe, deep_below_maybe, decorated_dependency],
)
async def test_scopes_that_no_dependency_reads_stop_the_start(auth: Auth, function: Any) -> None:
    """Each user would pass, with or without the permission that the scopes name."""
    app = FastAPI(middleware=middleware(auth), lifespan=lifespan(auth))
    app.get("/secret", dependencies=[Security(function, scopes=["shop.view_order"])])(lambda: "secret")
    message = r"GET /secret gives scopes to .*, which reads none\. Write Depends\(permission_required\(\['shop.view_order'\]\)\)"
    with pytest.raises(ImproperlyConfigured, match=message):
        async with app.router.lifespan_context(app):
            """Is never reached."""


def two_users(maybe: MaybeUser, user: CurrentUser) -> Any:
    return maybe and user


def reader_of_scopes(scopes: SecurityScopes, user: MaybeUser) -> Any:
    if user is None and scopes.scopes:
        raise Refused(401, "Log in first.")


def scheme_of_the_application() -> str:
    return "a scheme whose scopes are for the schema only"


@pytest.mark.parametrize("function", [two_users, reader_of_scopes, scheme_of_the_application])
async def test_scopes_that_a_function_of_the_tree_reads_are_accepted(auth: Auth, function: Any) -> None:
    app = FastAPI(middleware=middleware(auth), lifespan=lifespan(auth))
    app.get("/", dependencies=[Security(function, scopes=["shop.view_order"])])(lambda: "in")
    expected = 200 if function is scheme_of_the_application else 401
    async with app.router.lifespan_context(app), client_of(app, headers=PROGRAM) as client:
        assert (await client.get("/")).status_code == expected


@pytest.mark.parametrize("annotated", [CurrentUser, MaybeUser, Annotated[int, Depends(requires("shop.view_order"))]])
async def test_an_annotation_in_depends_stops_the_start(auth: Auth, annotated: Any) -> None:
    """FastAPI calls its class with parameters of the query, and answers 422."""
    app = FastAPI(middleware=middleware(auth), lifespan=lifespan(auth))
    app.get("/secret", dependencies=[Depends(annotated)])(lambda: "secret")
    with pytest.raises(
        ImproperlyConfigured, match=r"GET /secret .*Write Depends\((current_user|maybe_user|requires)\)"
    ):
        async with app.router.lifespan_context(app):
            """Is never reached."""


@dataclass(kw_only=True, eq=False)
class VerifiedUser(User):
    is_verified: bool = False


async def is_verified(user: Any) -> bool:
    return bool(user.is_verified)


@pytest.mark.parametrize("test", [lambda user: user.is_verified, is_verified], ids=["sync", "async"])
@pytest.mark.parametrize("is_async", [True, False])
async def test_a_test_of_a_column_of_the_user_class_asks_visitors_to_log_in(
    tmp_path: Path, test: Any, is_async: bool
) -> None:
    """AnonymousUser has no such attribute. An error of the test about something else stays an error."""
    table = sa.Table("verified", sa.MetaData(), *user_columns(), sa.Column("is_verified", sa.Boolean, default=False))
    database = Database(f"sqlite+aiosqlite:///{tmp_path}/x.sqlite3")
    auth = Auth(database, secret_key=SECRET_KEY, tables=Tables(user=table), user_class=VerifiedUser)
    app = FastAPI(middleware=middleware(auth), lifespan=lifespan(auth, create_tables=True))
    guard = user_passes_test(test)
    app.get("/depends", dependencies=[Depends(guard)])(lambda: "in")
    app.get("/decorated")(guard(in_async if is_async else in_sync))
    app.get("/wrong", dependencies=[Depends(user_passes_test(lambda user: user.username.no_such_name))])(lambda: "in")
    async with app.router.lifespan_context(app):
        users = [await auth.users.create_user(name, is_verified=name == "ann") for name in ("ann", "ben")]
        for path in ("/depends", "/decorated"):
            async with client_of(app, headers=PROGRAM) as client:
                assert (await client.get(path)).status_code == 401
                for user in users:
                    await log_in(client, user, auth)
                    assert (await client.get(path)).status_code == (200 if user.username == "ann" else 403)
        async with client_of(app, headers=PROGRAM) as client:
            with pytest.raises(AttributeError, match="no_such_name"):
                await client.get("/wrong")


async def in_async(request: Request) -> str:
    return "in"


def in_sync(request: Request) -> str:
    return "in"


async def test_staff_are_the_users_with_is_staff(auth: Auth) -> None:
    """Superusers without `is_staff` are no staff, as in Django."""
    app = FastAPI(middleware=middleware(auth), lifespan=lifespan(auth))

    @app.get("/office")
    async def office(user: Annotated[User, Depends(staff_required)]) -> str:
        return user.username

    @app.get("/cellar")
    @staff_required
    def cellar(request: Request) -> str:
        return str(request.user.username)

    users: dict[str, dict[str, Any]] = {
        "ann": {"is_staff": True},
        "bob": {"is_superuser": True},
        "cleo": {},
        "dora": {"is_staff": True, "is_superuser": True},
    }
    for name, fields in users.items():
        await auth.users.create_user(name, **fields)
    async with app.router.lifespan_context(app):
        schema = app.openapi()
        for path in ("/office", "/cellar"):
            assert schema["paths"][path]["get"]["security"] == [{"session": []}]
            async with client_of(app, headers=PROGRAM) as client:
                assert (await client.get(path)).status_code == 401
            for name in users:
                async with client_of(app, headers=PROGRAM) as client:
                    await log_in(client, await auth.users.get_by_username(name), auth)
                    answer = await client.get(path)
                    is_staff = name in ("ann", "dora")
                    assert answer.status_code == (200 if is_staff else 403), (path, name)
                    assert answer.json() == name if is_staff else answer.json()["code"] == "permission_denied"


# The order of guard and body

BODIES = {
    "/upload": b'--B\r\nContent-Disposition: form-data; name="file"; filename="x"\r\n\r\n'
    + bytes(2_000_000)
    + b"\r\n--B--\r\n",
    "/form": b"number=abc",
    "/json": b"{",
}
BODIES["/router/upload"] = BODIES["/upload"]
BODIES |= dict.fromkeys(("/decorated", "/decorated-sync", "/async-test"), b"{")
TYPES = {"upload": "multipart/form-data; boundary=B", "form": "application/x-www-form-urlencoded"}


async def post(app: Any, path: str, headers: dict[str, str]) -> tuple[int, int]:
    """Returns the status and how many bytes of the body were read."""
    body, size, statuses = BODIES[path], 0, []
    parts = [body[start : start + 65536] for start in range(0, len(body), 65536)]
    content_type = TYPES.get(path.rpartition("/")[2], "application/json")

    async def receive() -> Any:
        nonlocal size
        if not parts:
            return {"type": "http.disconnect"}
        part = parts.pop(0)
        size += len(part)
        return {"type": "http.request", "body": part, "more_body": bool(parts)}

    async def send(message: Any) -> None:
        statuses.append(message.get("status"))

    pairs = [(name.encode(), value.encode()) for name, value in {"content-type": content_type, **headers}.items()]
    scope = {
        "type": "http",
        "method": "POST",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": [(b"host", b"testserver"), *pairs],
        "http_version": "1.1",
        "scheme": "http",
        "server": ("testserver", 80),
        "client": ("192.0.2.1", 5000),
        "root_path": "",
    }
    await app(scope, receive, send)
    return statuses[0], size


@pytest.mark.parametrize("path", BODIES)
async def test_a_refused_request_is_answered_before_its_body_is_read(auth: Auth, ann: User, path: str) -> None:
    app = make_app(auth)
    assert await post(app, path, PROGRAM) == (401, 0)
    async with client_of(app) as client:
        await log_in(client, ann, auth)
        cookie = {"cookie": "; ".join(f"{name}={value}" for name, value in client.cookies.items())}
    status, size = await post(app, path, {**PROGRAM, **cookie})
    if path in ("/decorated-sync", "/async-test"):
        assert (status, size) == (403, 0)
    else:
        assert (status, size) == (200 if "upload" in path else 422, len(BODIES[path]))


async def test_a_body_is_read_where_no_login_is_needed(auth: Auth) -> None:
    async with client_of(make_app(auth), headers=PROGRAM) as client:
        assert (await client.post("/open", json={"number": 5})).json() == 5
        assert (await client.post("/open", content=b"{")).status_code == 422


# OpenAPI


async def schema_of(auth: Auth) -> Any:
    app = make_app(auth)
    async with app.router.lifespan_context(app), client_of(app) as client:
        return (await client.get("/openapi.json")).json()


async def test_the_schema_shows_guards_and_pages(database: Any) -> None:
    options = {"features": [Registration()], "mailer": CollectingMailer(), "base_url": "http://testserver"}
    async with installed(database, **options) as auth:
        schema = await schema_of(auth)
    validate(schema)
    paths = schema["paths"]
    guarded = {
        (path, method)
        for path, item in paths.items()
        for method, operation in item.items()
        if operation.get("security")
    }
    everything = {(path, method) for path, item in paths.items() for method in item if "/accounts" not in path}
    pages = {(f"/accounts/{name}", "post") for name in ("password_change", "password_set", "reauthenticate")}
    pages.add(("/accounts/security", "get"))
    assert guarded == everything - {("/maybe", "get"), ("/open", "post")} | pages
    for path, method in guarded:
        for status in ("401", "403"):
            content = paths[path][method]["responses"][status]["content"]
            assert content["application/problem+json"]["schema"] == {"$ref": "#/components/schemas/Problem"}
    assert paths["/all"]["get"]["security"] == [{"session": ["shop.view_order", "shop.add_order"]}]
    assert schema["components"]["securitySchemes"]["session"]["name"] == "session"
    body = paths["/accounts/login"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert body["required"] == ["username", "password"]
    assert paths["/accounts/register"]["post"]["responses"].keys() >= {"200", "413", "415", "422", "429"}
    assert paths["/accounts/session"]["get"]["tags"] == ["accounts"]


async def test_the_json_that_the_schema_names_works(auth: Auth, ann: User) -> None:
    async with client_of(make_app(auth), headers=PROGRAM) as client:
        assert (await client.get("/accounts/session")).json() == {
            "user": None,
            "methods": [],
            "level": 0,
            "pending": None,
        }
        assert (await client.post("/accounts/login", json={"username": "ann", "password": "x"})).status_code == 422
        answer = await client.post("/accounts/login", json={"username": "ann", "password": PASSWORD})
        assert answer.json() == {"next": "/"}
        user = (await client.get("/accounts/session")).json()["user"]
        assert (user["username"], user["permissions"], "password" in user) == ("ann", [], False)
        assert (await client.post("/accounts/logout", json={})).status_code == 200
        assert (await client.get("/accounts/session")).json() == {
            "user": None,
            "methods": [],
            "level": 0,
            "pending": None,
        }


@pytest.mark.parametrize("fields", [["username"], ["email"], ["username", "email"]])
async def test_the_schema_shows_the_fields_of_the_registration_form(database: Any, fields: list[str]) -> None:
    async with installed(database, features=[Registration(fields=fields)], **MAILS) as auth:
        for pages in (True, False):
            app = FastAPI(middleware=middleware(auth), lifespan=lifespan(auth))
            app.include_router(accounts(auth, pages=pages), prefix="/accounts")
            if not pages:
                for name, path in LINKED.items():
                    app.get(path, name=name, include_in_schema=False)(lambda: "a page of the application")
            async with app.router.lifespan_context(app), client_of(app, headers=PROGRAM) as client:
                operation = app.openapi()["paths"]["/accounts/register"]["post"]
                body = operation["requestBody"]["content"]["application/json"]["schema"]
                assert body["required"] == list(body["properties"]) == [*fields, "password1", "password2"]
                problem = (await client.post("/accounts/register", json={})).json()
                assert set(problem["errors"]) == set(body["required"])


BODIES_OF_PROGRAMS: list[tuple[bytes, str]] = [
    (b"{}", "application/json"),
    (b"{", "application/json"),
    (b"[]", "application/json"),
    (b'{"email": 5, "password": [], "username": null, "session": {}, "others": "x"}', "application/json"),
    (b'{"email": "\\ud800", "password1": "\\u0000"}', "application/json"),
    (b'{"a": "' + b"a" * 70_000 + b'"}', "application/json"),
    (b"a=b", "application/x-www-form-urlencoded"),
    (b"a", "text/plain"),
    (b"", ""),
]


@pytest.mark.parametrize("is_logged_in", [False, True])
async def test_the_schema_shows_each_status_that_programs_get(database: Any, is_logged_in: bool) -> None:
    features = [Registration(), EmailChange(), ActiveSessions()]
    async with installed(database, features=features, **MAILS) as auth:
        app, ann = make_json_app(auth), await auth.users.create_user("ann", "ann@example.org", PASSWORD)
        async with app.router.lifespan_context(app):
            seen: set[int] = set()
            for path, item in app.openapi()["paths"].items():
                for method, operation in item.items():
                    if not path.startswith("/accounts"):
                        continue
                    documented = operation["responses"].keys()
                    url = path.format(uidb64="MQ", token="x")
                    for site in ("same-origin", "cross-site"):
                        async with client_of(app, headers={"accept": "*/*"}) as client:
                            for body, kind in BODIES_OF_PROGRAMS if method == "post" else [(b"", "")]:
                                if is_logged_in:
                                    await log_in(client, ann, auth)
                                headers = {"content-type": kind, "sec-fetch-site": site}
                                answer = await client.request(method, url, content=body, headers=headers)
                                assert str(answer.status_code) in documented, (method, path, body, answer.text)
                                seen.add(answer.status_code)
            assert seen >= {200, 400, 403, 404, 413, 415, 422} | (set() if is_logged_in else {401})


async def test_the_schema_shows_which_account_pages_need_a_login_and_that_they_take_no_token(database: Any) -> None:
    tokens = APITokens("shop")
    features = [Registration(), EmailChange(), ActiveSessions(), BearerSessions(), tokens]
    async with installed(database, features=features, **MAILS) as auth:
        app, ann = make_json_app(auth), await auth.users.create_user("ann", "ann@example.org", PASSWORD)
        token = (await tokens.create(ann, "backup")).token
        async with app.router.lifespan_context(app), client_of(app, headers=PROGRAM) as client:
            schema = app.openapi()
            validate(schema)
            pages = {path: item for path, item in schema["paths"].items() if path.startswith("/accounts")}
            operations = [(path, method, shown) for path, item in pages.items() for method, shown in item.items()]
            needs_login = set()
            for path, method, operation in operations:
                url = path.format(uidb64="MQ", token="x", id="1")
                body: Any = {"json": {}} if method == "post" else {}
                if (await client.request(method, url, **body)).status_code == 401:
                    needs_login.add((method, path))
                    assert operation["security"] == [{"session": []}, {"app_session": []}], path
                for bearer, status in ((token, 403), ("shop_wrong", 401)):
                    headers = {"authorization": f"Bearer {bearer}"}
                    answer = await client.request(method, url, headers=headers, **body)
                    problem = operation["responses"][str(answer.status_code)]["content"]
                    assert (answer.status_code, *problem) == (status, "application/problem+json"), path
    assert ("get", "/accounts/tokens") in needs_login
    assert needs_login == {(method, path) for path, method, operation in operations if "security" in operation}


async def test_the_schema_is_the_same_at_each_request(auth: Auth) -> None:
    app = make_app(auth)
    async with app.router.lifespan_context(app), client_of(app) as client:
        first = (await client.get("/openapi.json")).json()
        assert (await client.get("/openapi.json")).json() == first


async def test_mounted_applications_show_their_own_guards(auth: Auth) -> None:
    """A route of the same path in the outer application, which is open, stays so in the schema."""
    inner, app = FastAPI(), FastAPI(middleware=middleware(auth), lifespan=lifespan(auth))
    for mounted in (inner, app):
        mounted.get("/orders/{number:int}", dependencies=[Depends(current_user)] if mounted is inner else [])(
            lambda number: number
        )
    app.get("/mine", dependencies=[Security(current_user, scopes=["shop.view_order"])])(lambda: "mine")
    router = APIRouter()
    router.get("/included/{number:int}")(login_required(decorated_endpoint))
    app.include_router(router, prefix="/a")
    app.mount("/in", Starlette(routes=[Mount("/api", GZipMiddleware(inner))]))
    async with app.router.lifespan_context(app), client_of(app) as client:
        outer = (await client.get("/openapi.json")).json()
        own = (await client.get("/in/api/openapi.json")).json()
    for schema in (outer, own):
        validate(schema)
    assert "security" not in outer["paths"]["/orders/{number}"]["get"]
    assert {"session": ["shop.view_order"]} in outer["paths"]["/mine"]["get"]["security"]
    for operation in (own["paths"]["/orders/{number}"]["get"], outer["paths"]["/a/included/{number}"]["get"]):
        assert operation["security"] == [{"session": []}]
        assert {"401", "403"} <= operation["responses"].keys()


async def decorated_endpoint(request: Request, number: int) -> int:
    return number


def test_nothing_of_fastapi_is_imported_without_it() -> None:
    code = "import sys, starlette_auth; assert not [name for name in sys.modules if name.startswith(('fastapi', 'pydantic'))]"
    subprocess.run([sys.executable, "-c", code], check=True)


# JSON without pages

LINKED = {
    "login": "/welcome",
    "register": "/join",
    "register_confirm": "/join/{token}",
    "password_reset_confirm": "/new-password/{uidb64}/{token}",
    "email_change_confirm": "/address/{token}",
    "email_undo_confirm": "/undo/{token}",
}


def make_json_app(auth: Auth, pages: Any = LINKED) -> FastAPI:
    """An application with pages of its own, to which mails link, and with the JSON of this package."""
    app = FastAPI(middleware=middleware(auth), lifespan=lifespan(auth))
    app.include_router(accounts(auth, pages=False), prefix="/accounts")

    for name, path in pages.items():
        app.get(path, name=name, include_in_schema=False)(lambda: "a page of the application")

    @app.get("/me")
    async def me(user: CurrentUser) -> str:
        return user.username

    @app.delete("/me", dependencies=[Depends(fresh_login(max_age=60))])
    async def delete() -> str:
        return "deleted"

    return app


MAILS = {"mailer": CollectingMailer(), "base_url": "http://testserver"}
BROWSER = {"sec-fetch-mode": "navigate", "sec-fetch-dest": "document", "accept": "text/html"}


async def test_without_pages_only_json_is_left(database: Any) -> None:
    features = [Registration(), EmailChange(), ActiveSessions()]
    async with installed(database, features=features, **MAILS) as auth:
        app = make_json_app(auth)
        async with app.router.lifespan_context(app), client_of(app, headers=PROGRAM) as client:
            schema = (await client.get("/openapi.json")).json()
            validate(schema)
            posts = {path for path, item in schema["paths"].items() if path.startswith("/accounts") and "post" in item}
            assert len(posts) == 14
            for path in posts:
                url = path.format(uidb64="MQ", token="x")
                for headers in (BROWSER, PROGRAM):
                    assert (await client.get(url, headers=headers)).status_code == 405, path
                    answer = await client.post(
                        url, data={"a": "b"}, headers={**headers, "sec-fetch-site": "same-origin"}
                    )
                    assert answer.headers["content-type"] == "application/problem+json", (path, answer.text)
                    assert answer.status_code in ((401, 404, 415) if path != "/accounts/logout" else (415,)), path
            for path in ("logged_out", "password_change/done", "auth.css", "login/form", "register/done"):
                assert (await client.get(f"/accounts/{path}")).status_code == 404
            for path in ("/accounts/session", "/accounts/sessions"):
                answer = await client.get(path, headers=BROWSER)
                assert "json" in answer.headers["content-type"], path


async def test_without_pages_programs_do_all_that_the_pages_do(database: Any) -> None:
    clock, mailer = FrozenClock(), CollectingMailer()
    features, options = [Registration(), ActiveSessions()], {"mailer": mailer, "base_url": "http://testserver"}
    async with installed(database, features=features, clock=clock, **options) as auth:
        app = make_json_app(auth)
        async with app.router.lifespan_context(app), client_of(app, headers=PROGRAM) as client:

            async def post(path: str, **data: Any) -> Any:
                answer = await client.post(f"/accounts/{path}", json=data)
                return answer.json()["next"] if answer.status_code == 200 else (answer.status_code, answer.json())

            new = {"password1": PASSWORD, "password2": PASSWORD}
            assert await post("register", username="ann", email="ann@example.org", **new) is None
            await auth.mail_queue.drain()
            link = mailer.links("ann@example.org")[0]
            assert link.startswith("http://testserver/join/")
            assert await post(f"register/confirm/{link.rpartition('/')[2]}", password=PASSWORD) is None
            assert (await post("login", username="ann", password="wrong"))[0] == 422
            assert await post("login", username="ann", password=PASSWORD) == "/"
            assert len((await client.get("/accounts/sessions")).json()["sessions"]) == 1
            clock.tick(61)
            problem = (await client.delete("/me")).json()
            assert (problem["code"], "reauthenticate" in problem) == ("login_too_old", False)
            assert (await client.delete("/me", headers=BROWSER)).headers["content-type"] == "application/problem+json"
            assert await post("reauthenticate", password=PASSWORD) == "/"
            assert (await client.delete("/me")).json() == "deleted"
            other = f"{PASSWORD} 2"
            passwords = {"old_password": PASSWORD, "new_password1": other, "new_password2": other}
            assert await post("password_change", **passwords) is None
            assert await post("sessions/end", others=True) == "/accounts/sessions?done"
            assert (await client.post("/accounts/logout")).json() == {"next": None}
            assert await post("password_reset", email="ann@example.org") is None
            await auth.mail_queue.drain()
            link = next(link for link in mailer.links("ann@example.org") if "new-password" in link)
            uid, token = link.split("/")[-2:]
            assert await post(f"reset/{uid}/{token}", new_password1=PASSWORD, new_password2=PASSWORD) is None
            assert (await post(f"reset/{uid}/{token}", new_password1=PASSWORD, new_password2=PASSWORD))[0] == 404
            assert await post("login", username="ann", password=PASSWORD, next="/welcome?a") == "/welcome?a"


NAMES = ["login", "register", "register_confirm", "password_reset_confirm"]


@pytest.mark.parametrize("missing", [*([name] for name in NAMES), ["login", "register_confirm"], NAMES])
async def test_mails_never_link_to_a_page_that_is_left_out(database: Any, missing: list[str]) -> None:
    """The message names all missing pages, and the application starts once it has what the message says."""
    pages = {name: path for name, path in LINKED.items() if name not in missing}
    async with installed(database, features=[Registration()], **MAILS) as auth:
        app = make_json_app(auth, pages)
        with pytest.raises(ImproperlyConfigured, match="Mails link to pages") as raised:
            async with app.router.lifespan_context(app):
                """Is never reached."""
        examples = re.findall(r'@app.get\("(.*?)", name="(.*?)"\)', str(raised.value))
        assert {name for _, name in examples} == set(missing)
        app = make_json_app(auth, pages | {name: path for path, name in examples})
        async with app.router.lifespan_context(app):
            """Starts."""


@pytest.mark.parametrize("is_there", [False, True])
async def test_without_pages_a_browser_is_sent_to_the_login_page_of_the_application(auth: Auth, is_there: bool) -> None:
    app = make_json_app(auth, {"login": "/welcome"} if is_there else {})
    async with app.router.lifespan_context(app), client_of(app) as client:
        answer, problem = await client.get("/me", headers=BROWSER), (await client.get("/me", headers=PROGRAM)).json()
    if is_there:
        assert (answer.status_code, answer.headers["location"]) == (303, "/welcome?next=%2Fme")
        assert problem["login"] == "/welcome"
    else:
        assert (answer.status_code, answer.json()["code"]) == (401, "not_authenticated")
        assert "login" not in problem


class Hello(Feature):
    def routes(self) -> list[Any]:
        return [Route("/hello", lambda request: PlainTextResponse("hello"))]


async def test_without_pages_a_feature_keeps_its_own_routes(database: Any) -> None:
    async with installed(database, features=[Hello()]) as auth, client_of(make_json_app(auth)) as client:
        assert (await client.get("/accounts/hello")).text == "hello"


def test_the_argument_pages_must_be_true_or_false(auth: Auth) -> None:
    with pytest.raises(ImproperlyConfigured, match="pages"):
        accounts(auth, pages=0)  # type: ignore[arg-type]

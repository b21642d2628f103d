"""An application as mypy and pyright see it. `test_types.py` runs both on this file; nothing here is executed."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, assert_type

import sqlalchemy as sa
from databases import Database
from starlette.requests import HTTPConnection, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount

from starlette_auth import (
    AnonymousUser,
    Auth,
    DatabaseStore,
    Event,
    LoginFailed,
    PasswordChanged,
    Roles,
    Tables,
    User,
    UserCreated,
    UserLoggedIn,
    Users,
    get_auth,
    lifespan,
    login,
    middleware,
    migrate,
    permission_required,
    routes,
)

orders = sa.Table(
    "orders", sa.MetaData(), sa.Column("id", sa.Integer, primary_key=True), sa.Column("owner_id", sa.Integer)
)
database = Database("sqlite+aiosqlite:///x.sqlite3")


@dataclass(kw_only=True, eq=False)
class Member(User):
    phone: str = ""


plain = Auth(database, secret_key="k" * 40)
members = Auth(
    database,
    secret_key="k" * 40,
    user_class=Member,
    tables=Tables(prefix="crm_"),
    sessions=lambda users: DatabaseStore(database, users=users),
)

assert_type(plain, Auth[User])
assert_type(members, Auth[Member])
assert_type(plain.users, Users[User])
assert_type(members.users, Users[Member])


async def users() -> None:
    assert_type(await plain.users.get(1), User | None)
    assert_type(await members.users.get(1), Member | None)
    assert_type(await members.users.get_by_email("ann@example.org"), Member | None)
    assert_type(await members.users.create_user("ann"), Member)
    assert_type(await members.users.create_superuser("root"), Member)
    assert_type(await members.users.with_perm("shop.add_order"), list[Member])
    assert_type(await members.authenticate(username="ann", password="secret"), Member | None)
    assert_type(await plain.authenticate(username="ann", password="secret"), User | None)
    async for member in members.users.all_users():
        assert_type(member, Member)


async def endpoint(request: Request) -> Response:
    assert_type(plain.user(request), User)
    assert_type(members.user(request), Member)
    assert_type(members.maybe_user(request), Member | None)
    assert_type(get_auth(request), Auth[Any])
    await login(request, members.user(request))
    return JSONResponse({"phone": members.user(request).phone})


@members.events.on(UserLoggedIn)
async def welcome(event: UserLoggedIn[Member]) -> None:
    assert_type(event.user, Member)
    assert_type(event.request, HTTPConnection)


@members.events.on(LoginFailed, after_commit=True)
def count(event: LoginFailed[Member]) -> None:
    assert_type(event.user, Member | None)


@plain.events.on(UserCreated)
async def created(event: UserCreated) -> None:
    event.user.anything  # noqa: B018  without a class, the user has any type


@plain.events.on(PasswordChanged[Member])
async def changed(event: PasswordChanged[Member]) -> None:
    assert_type(event.user, Member)


@plain.events.on(Event)
async def log(event: Event) -> None:
    assert_type(event, Event)


def takes_any_auth(auth: Auth) -> None:
    """Accepts each Auth: `Auth` alone is `Auth[User]`, and a member is a user."""


@members.rule("shop.view_order", orders)
def own(user: Member) -> sa.ColumnElement[bool]:
    condition: sa.ColumnElement[bool] = orders.c.owner_id == user.id
    return condition


async def objects(request: Request) -> None:
    user = members.user(request)
    assert_type(members.visible_to(user, "shop.view_order", orders), sa.ColumnElement[bool])
    assert_type(await members.has_perm(user, "shop.view_order", own), bool)
    assert_type(own(user), sa.ColumnElement[bool])
    sa.select(orders).where(members.visible_to(AnonymousUser(), "shop.view_order", orders))


@permission_required("shop.view_order", obj=lambda request: request.path_params)
async def guarded(request: Request) -> Response:
    return JSONResponse(None)


def takes_endpoint(endpoint: Callable[[Request], Awaitable[Response]]) -> None:
    """The decorator keeps the type of the endpoint."""


takes_endpoint(guarded)
Auth(database, secret_key="k" * 40, backends=[Roles({"editor": ["blog.*"], "chief": ("@editor",)})])


async def wire() -> None:
    for auth in (plain, members):
        takes_any_auth(auth)
        Mount("/accounts", routes=routes(auth))
        middleware(auth)
        lifespan(auth)
        await migrate(auth.gateway, auth.tables)
    takes_any_auth(members)

"""`cache_permissions`: for how long a session keeps what a backend has loaded."""

import asyncio
from collections.abc import Collection, Iterable
from typing import Any

import pytest
from databases import Database
from starlette.requests import HTTPConnection, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from starlette_auth import (
    AnonymousUser,
    Auth,
    AuthenticationBackend,
    CookieStore,
    ImproperlyConfigured,
    MemoryStore,
    User,
    login,
    logout,
)
from starlette_auth.backends.permissions.cache import ENTRY
from starlette_auth.middlewares.open_connection import OpenConnection
from starlette_auth.testing import FrozenClock, log_in

from ..conftest import SECRET_KEY, client_of, installed, with_tables
from ..sessions.test_sessions import Socket
from ..support.apps import make_app
from .test_backend_permissions import PERM, AnyUser, answers_of, app_of

pytestmark = with_tables


class Directory(AuthenticationBackend):
    """Grants permissions by username, and counts how often it was asked for each user."""

    cache_permissions = 300

    def __init__(self, **perms: list[str]) -> None:
        self.perms = perms
        self.asked: list[str] = []

    async def load_permissions(self, conn: HTTPConnection | None, user: AnyUser) -> Iterable[str]:
        self.asked.append(user.username)
        await asyncio.sleep(0)
        return self.perms.get(user.username, [])


class Uncached(Directory):
    cache_permissions = 0


async def perms(request: Request) -> Response:
    return JSONResponse(sorted(request.user.get_all_permissions()))


async def login_as(request: Request) -> Response:
    user = await request.scope["starlette_auth"].users.get_by_username(request.path_params["name"])
    await login(request, user)
    return JSONResponse(sorted(request.user.get_all_permissions()))


async def leave(request: Request) -> Response:
    await logout(request)
    return JSONResponse(sorted(request.user.get_all_permissions()))


ROUTES = [Route("/perms", perms), Route("/as/{name}", login_as), Route("/leave", leave)]
STORES: dict[str, Any] = {
    "memory": lambda clock: MemoryStore(clock=clock),
    "cookie": lambda clock: CookieStore(SECRET_KEY, clock=clock),
}


async def members(auth: Auth, *names: str) -> list[User]:
    return [await auth.users.create_user(name) for name in names]


@pytest.mark.parametrize(
    ("backend", "store", "times"),
    [(Directory, "database", 1), (Directory, "memory", 1), (Directory, "cookie", 3), (Uncached, "database", 3)],
)
async def test_a_session_on_the_server_keeps_the_permissions_that_were_loaded(
    database: Database, backend: Any, store: str, times: int
) -> None:
    clock, directory = FrozenClock(), backend(ann=[PERM])
    sessions = (lambda users: STORES[store](clock)) if store in STORES else None  # None: the database
    async with installed(database, backends=[directory], sessions=sessions, clock=clock) as auth:
        [ann] = await members(auth, "ann")
        async with client_of(make_app(auth, *ROUTES)) as client:
            await log_in(client, ann, auth)
            for _ in range(3):
                assert (await client.get("/perms")).json() == [PERM]
            assert directory.asked == ["ann"] * times


async def test_permissions_are_loaded_again_when_the_time_is_over(database: Database) -> None:
    clock, directory = FrozenClock(), Directory(ann=[PERM])
    async with installed(database, backends=[directory], clock=clock) as auth:
        [ann] = await members(auth, "ann")
        async with client_of(make_app(auth, *ROUTES)) as client:
            await log_in(client, ann, auth)
            assert (await client.get("/perms")).json() == [PERM]
            directory.perms = {"ann": ["polls.view_vote"]}
            clock.tick(299)
            assert (await client.get("/perms")).json() == [PERM]
            clock.tick(1)
            assert (await client.get("/perms")).json() == ["polls.view_vote"]
            assert directory.asked == ["ann", "ann"]
            clock.tick(-200)  # set back: it would otherwise be kept for longer
            directory.perms = {}
            assert (await client.get("/perms")).json() == []


async def test_cached_permissions_count_everywhere_alike(database: Database) -> None:
    async with installed(database, backends=[Directory(ann=[PERM])]) as auth:
        ann, ben = await members(auth, "ann", "ben")
        assert await answers_of(auth, ann) == {True}
        assert await answers_of(auth, ben) == {False}
        assert await answers_of(auth) == {False}


async def test_cached_permissions_do_not_outlive_the_login(database: Database) -> None:
    directory = Directory(ann=[PERM], ben=["polls.ben"])
    async with installed(database, backends=[directory]) as auth:
        ann, _ = await members(auth, "ann", "ben")
        async with client_of(make_app(auth, *ROUTES)) as client:
            await log_in(client, ann, auth)
            assert (await client.get("/perms")).json() == [PERM]
            assert (await client.get("/as/ben")).json() == ["polls.ben"]
            assert (await client.get("/perms")).json() == ["polls.ben"]
            assert (await client.get("/leave")).json() == []
            assert (await client.get("/perms")).json() == []
            assert (await client.get("/as/ann")).json() == [PERM]
            directory.perms = {}
            assert (await client.get("/perms")).json() == [], "what was loaded at the login is not kept"
            await auth.users.update(ann, is_active=False)
            assert (await client.get("/perms")).json() == []
            await auth.users.update(ann, is_active=True)
            assert (await client.get("/perms")).json() == []


async def test_the_permissions_of_a_deactivated_user_are_loaded_again(database: Database) -> None:
    """Also in a session that is still there, as beside Django."""
    directory = Directory(ann=[PERM])
    async with installed(database, backends=[directory]) as auth:
        [ann] = await members(auth, "ann")
        session = auth.sessions.new_session(auth.clock)
        auth.session_backend.bind(session, ann, auth.model_backend.path)
        await auth.sessions.save(session, 600)
        conn = HTTPConnection({"type": "http", "session": session})
        await auth.backend_permissions.load(conn, ann)
        assert ENTRY in session
        ann.is_active = False
        directory.perms = {}
        await auth.backend_permissions.load(conn, ann)
        assert ann.get_all_permissions() == set()
        assert directory.asked == ["ann", "ann"]


async def test_a_visitor_gets_no_session(database: Database) -> None:
    directory = Directory()
    directory.perms[""] = [PERM]
    async with installed(database, backends=[directory]) as auth, client_of(make_app(auth, *ROUTES)) as client:
        for _ in range(2):
            response = await client.get("/perms")
            assert response.json() == [PERM]
            assert "set-cookie" not in response.headers
        assert directory.asked == ["", ""]
        await client.get("/remember?a=1")
        assert client.cookies
        directory.perms = {"": []}
        assert (await client.get("/perms")).json() == []


async def test_the_permissions_of_a_user_with_a_token_are_kept_in_no_session(database: Database) -> None:
    class Tokens(AuthenticationBackend):
        async def identify(self, conn: HTTPConnection) -> User | None:
            name = conn.headers.get("x-user")
            return await auth.users.get_by_username(name) if name else None

    directory = Directory(ann=[PERM], ben=["polls.ben"])
    async with installed(database, backends=[Tokens(), directory]) as auth:
        ann, _ = await members(auth, "ann", "ben")
        async with client_of(make_app(auth, *ROUTES)) as client:
            for _ in range(2):
                assert (await client.get("/perms", headers={"x-user": "ben"})).json() == ["polls.ben"]
            assert directory.asked == ["ben", "ben"]
            assert not client.cookies
            await log_in(client, ann, auth)
            assert (await client.get("/perms")).json() == [PERM]
            # The session of another user is not that of the token.
            assert (await client.get("/perms", headers={"x-user": "ben"})).json() == ["polls.ben"]
            assert (await client.get("/perms")).json() == [PERM]
            assert directory.asked == ["ben", "ben", "ann", "ben"]


async def test_the_permissions_of_several_backends_of_a_class_are_kept_apart(database: Database) -> None:
    one, two = Directory(ann=["polls.one"]), Directory(ann=["polls.two"])
    async with installed(database, backends=[one, two]) as auth:
        [ann] = await members(auth, "ann")
        async with client_of(make_app(auth, *ROUTES)) as client:
            await log_in(client, ann, auth)
            for _ in range(2):
                assert (await client.get("/perms")).json() == ["polls.one", "polls.two"]
            assert (one.asked, two.asked) == (["ann"], ["ann"])
            auth.backends.remove(two)
            assert (await client.get("/perms")).json() == ["polls.one"]


@pytest.mark.parametrize("entry", [None, [], "x", {"path": 1}, {"path": ["1"]}, {"path": [1, "later", ["polls.x"]]}])
async def test_permissions_are_loaded_again_if_the_entry_in_the_session_is_damaged(
    database: Database, entry: Any
) -> None:
    directory = Directory(ann=[PERM])

    async def damage(request: Request) -> Response:
        request.session[ENTRY] = {directory.path: entry["path"]} if isinstance(entry, dict) else entry
        return Response()

    async with installed(database, backends=[directory]) as auth:
        [ann] = await members(auth, "ann")
        async with client_of(make_app(auth, *ROUTES, Route("/damage", damage))) as client:
            await log_in(client, ann, auth)
            assert (await client.get("/damage")).status_code == 200
            assert (await client.get("/perms")).json() == [PERM]
            assert (await client.get("/perms")).json() == [PERM]


async def test_permissions_are_loaded_outside_a_request(database: Database) -> None:
    directory = Directory(ann=[PERM])
    async with installed(database, backends=[directory]) as auth:
        [ann] = await members(auth, "ann")
        assert await auth.has_perm(ann, PERM)
        assert not await auth.has_perm(AnonymousUser(), PERM)


async def test_an_open_websocket_is_closed_when_the_time_is_over(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(OpenConnection, "check_interval", 0.02)
    clock, directory = FrozenClock(), Directory(ann=[PERM])
    async with installed(database, backends=[directory], clock=clock) as auth:
        [ann] = await members(auth, "ann")
        async with client_of(app := app_of(auth)) as client:
            await log_in(client, ann, auth)
            assert (await client.get("/decorated")).status_code == 200
            async with Socket(app, "/socket", client) as socket:
                assert socket.answer["type"] == "websocket.accept"
                directory.perms = {}
                await asyncio.sleep(0.1)
                assert socket.received.empty()
                assert directory.asked == ["ann"]
                clock.tick(300)
                async with asyncio.timeout(5):
                    assert (await socket.received.get())["type"] == "websocket.close"


@pytest.mark.parametrize("seconds", [-1, "300", 2.5, True, None])
async def test_a_wrong_number_of_seconds_is_refused(database: Database, seconds: Any) -> None:
    backend = type("Mistaken", (Directory,), {"cache_permissions": seconds})
    with pytest.raises(ImproperlyConfigured, match=r"Mistaken\.cache_permissions is"):
        async with installed(database, backends=[backend()]):
            pass


async def test_a_backend_that_caches_permissions_and_denies_some_is_refused(database: Database) -> None:
    class Vetoes(Directory):
        def denies(self, user: AnyUser) -> Collection[str]:
            return [PERM] if getattr(user, "is_locked", False) else []

    with pytest.raises(ImproperlyConfigured, match=r"a denial would be lost\. Write them in a separate backend"):
        async with installed(database, backends=[Vetoes()]):
            pass

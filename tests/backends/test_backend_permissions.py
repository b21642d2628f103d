"""What backends grant and deny counts wherever somebody asks about a permission."""

import asyncio
import copy
import pickle
from collections.abc import AsyncIterator, Callable, Collection, Iterable
from typing import Annotated, Any

import jinja2
import pytest
import sqlalchemy as sa
from databases import Database
from fastapi import Depends, FastAPI
from starlette.authentication import requires
from starlette.concurrency import run_in_threadpool
from starlette.endpoints import HTTPEndpoint, WebSocketEndpoint
from starlette.requests import HTTPConnection, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.websockets import WebSocket

from starlette_auth import (
    AnonymousUser,
    Auth,
    AuthenticationBackend,
    DoesNotExist,
    ImproperlyConfigured,
    ModelBackend,
    PermissionDenied,
    Unavailable,
    User,
    auth_context,
    get_auth,
    login,
    logout,
    permission_required,
    user_passes_test,
)
from starlette_auth.middlewares.open_connection import OpenConnection
from starlette_auth.testing import log_in

from ..conftest import client_of, count_statements, installed, with_tables
from ..sessions.test_sessions import Socket
from ..support.apps import make_app

pytestmark = with_tables

PERM = "polls.add_vote"
AnyUser = User | AnonymousUser


class Named(AuthenticationBackend):
    """Base of backends that say something about users of these names."""

    def __init__(self, *names: str) -> None:
        self.names = names


class Grants(Named):
    def permissions(self, user: AnyUser) -> Iterable[str]:
        return [PERM] if user.username in self.names else []


class Loads(Named):
    async def load_permissions(self, conn: HTTPConnection | None, user: AnyUser) -> Iterable[str]:
        await asyncio.sleep(0.001)
        return [PERM] if user.username in self.names else []


class Judges(Named):
    """Grants the permission by `has_perm` only."""

    async def has_perm(self, user: AnyUser, perm: str, obj: object = None) -> bool:
        await asyncio.sleep(0)
        return user.username in self.names and perm == PERM

    def has_module_perms(self, user: AnyUser, app_label: str) -> bool:
        return user.username in self.names and app_label == "polls"


class JudgesWithoutModule(Judges):
    def has_module_perms(self, user: AnyUser, app_label: str) -> bool:
        return False


class JudgesAfterWaiting(Judges):
    async def has_perm(self, user: AnyUser, perm: str, obj: object = None) -> bool:
        await asyncio.sleep(0.001)
        return await super().has_perm(user, perm, obj)


class Denies(Named):
    def denies(self, user: AnyUser) -> Collection[str]:
        return {PERM, "polls.unknown"} if user.username in self.names else ()


class Raises(Named):
    async def has_perm(self, user: AnyUser, perm: str, obj: object = None) -> bool:
        if user.username in self.names and perm == PERM:
            raise PermissionDenied("not this one")
        return False


class RaisesAfterWaiting(Raises):
    async def has_perm(self, user: AnyUser, perm: str, obj: object = None) -> bool:
        await asyncio.sleep(0.001)
        return await super().has_perm(user, perm, obj)


class Identifies(AuthenticationBackend):
    """Identifies a user who is not in the database."""

    async def identify(self, conn: HTTPConnection) -> User | None:
        name = conn.headers.get("x-service")
        return User(id=0, username=name) if name else None


async def in_memory(request: Request) -> Response:
    """Answers each question that a page can ask without waiting."""
    user, perms = request.user, auth_context(request)["perms"]
    template = jinja2.Template("{{ perms.polls.add_vote }} {{ 'polls.add_vote' in perms }} {{ 'polls' in perms }}")
    in_template = template.render(perms=perms).split()
    answers = {
        "has_perm": user.has_perm(PERM),
        "has_perms": user.has_perms([PERM]),
        "has_module_perms": user.has_module_perms("polls"),
        "template": in_template[0] == "True",
        "template, in": in_template[1] == "True",
        "template, module": in_template[2] == "True",
        "scopes": PERM in request.auth.scopes,
        "in a thread": await run_in_threadpool(user.has_perm, PERM),
        "in a thread of asyncio": await asyncio.to_thread(user.has_perm, PERM),
    }
    lists = {
        "get_all_permissions": PERM in user.get_all_permissions(),
        "list of scopes": PERM in list(request.auth.scopes),
    }
    return JSONResponse(answers if "short" in request.query_params else answers | lists)


async def awaited(request: Request) -> Response:
    return JSONResponse(await get_auth(request).has_perm(request.user, PERM))


def in_sync_endpoint(request: Request) -> Response:
    return JSONResponse(request.user.has_perm(PERM))


@permission_required(PERM)
async def decorated(request: Request) -> Response:
    return PlainTextResponse("in")


@permission_required([PERM])
def decorated_sync(request: Request) -> Response:
    return PlainTextResponse("in")


@requires(PERM)
async def by_scope(request: Request) -> Response:
    return PlainTextResponse("in")


@user_passes_test(lambda user: user.has_perm(PERM))
async def by_test(request: Request) -> Response:
    return PlainTextResponse("in")


@permission_required(PERM)
class Endpoint(HTTPEndpoint):
    async def get(self, request: Request) -> Response:
        return PlainTextResponse("in")


class Method(HTTPEndpoint):
    @permission_required(PERM)
    def get(self, request: Request) -> Response:
        return PlainTextResponse("in")


@permission_required(PERM)
async def socket(websocket: WebSocket) -> None:
    await websocket.accept()
    await websocket.receive()


@permission_required(PERM)
class SocketEndpoint(WebSocketEndpoint):
    pass


fastapi_routes = FastAPI()


@fastapi_routes.get("/dependency", dependencies=[Depends(permission_required(PERM))])
async def dependency() -> str:
    return "in"


@fastapi_routes.get("/user")
def user_dependency(user: Annotated[User, Depends(permission_required(PERM))]) -> str:
    return "in"


AWAITED = ["/decorated", "/decorated-sync", "/class", "/method", "/fastapi/dependency", "/fastapi/user"]
NOT_AWAITED = ["/by-scope", "/by-test"]


def app_of(auth: Auth, *more: Any) -> Any:
    return make_app(
        auth,
        *more,
        Route("/in-memory", in_memory),
        Route("/awaited", awaited),
        Route("/in-sync-endpoint", in_sync_endpoint),
        Route("/decorated", decorated),
        Route("/decorated-sync", decorated_sync),
        Route("/by-scope", by_scope),
        Route("/by-test", by_test),
        Route("/class", Endpoint),
        Route("/method", Method),
        WebSocketRoute("/socket", socket),
        WebSocketRoute("/socket-class", SocketEndpoint),
        Mount("/fastapi", fastapi_routes),
    )


async def answers_of(
    auth: Auth, user: User | None = None, *, lists: bool = True, memory: bool = True, **headers: str
) -> set[bool]:
    """Asks about the permission in every way in which an application can ask; returns the different answers."""
    answers: dict[str, bool] = {}
    app = app_of(auth)
    async with client_of(app, headers={name.replace("_", "-"): value for name, value in headers.items()}) as client:
        if user is not None:
            await log_in(client, user, auth)
        if memory:
            answers |= (await client.get("/in-memory", params={} if lists else {"short": "1"})).json()
        answers["auth.has_perm"] = (await client.get("/awaited")).json()
        answers["sync endpoint"] = (await client.get("/in-sync-endpoint")).json()
        for path in [*AWAITED, *(NOT_AWAITED if memory else [])]:
            response = await client.get(path)
            assert response.status_code in (200, 303, 403), path
            answers[path] = response.status_code == 200
        for path in ("/socket", "/socket-class"):
            websocket = Socket(app, path, client)
            websocket.scope["headers"] += client.headers.raw  # type: ignore[operator]
            async with websocket:
                answers[path] = websocket.answer["type"] == "websocket.accept"
    assert all(isinstance(answer, bool) for answer in answers.values())
    if len(set(answers.values())) > 1:
        raise AssertionError(f"These differ: {answers}")
    return set(answers.values())


async def create_voter(auth: Auth, username: str = "ann") -> User:
    """Returns a user who has the permission through a group."""
    user = await auth.users.create_user(username)
    await auth.users.create_permission(PERM)
    await auth.users.create_group("voters")
    await auth.users.grant(await auth.users.get_group("voters"), PERM)
    await auth.users.add_to_group(user, "voters")
    return await fresh(auth, user)


async def fresh(auth: Auth, user: User) -> User:
    stored_user = await auth.users.get(user.id)
    assert isinstance(stored_user, User)
    return stored_user


# One answer everywhere


@pytest.mark.parametrize("backend", [Grants, Loads, Judges])
async def test_what_only_a_backend_grants_counts_everywhere(
    database: Database, backend: Callable[..., AuthenticationBackend]
) -> None:
    async with installed(database, backends=[backend("ann")]) as auth:
        ann, ben = await auth.users.create_user("ann"), await auth.users.create_user("ben")
        # What only has_perm() grants is in no list, as in Django.
        assert await answers_of(auth, ann, lists=backend is not Judges) == {True}
        assert await answers_of(auth, ben) == {False}
        assert await answers_of(auth) == {False}


@pytest.mark.parametrize("backend", [Denies, Raises])
async def test_what_a_backend_denies_counts_everywhere(
    database: Database, backend: Callable[..., AuthenticationBackend]
) -> None:
    async with installed(database, backends=[backend("ann", "root")]) as auth:
        ann = await create_voter(auth)
        assert ann.get_group_permissions() == ann.get_user_permissions() == set()
        assert await answers_of(auth, ann) == {False}
        ben, root = await auth.users.create_user("ben"), await auth.users.create_superuser("root")
        await auth.users.grant(ben, PERM)
        assert await answers_of(auth, ben) == {True}
        # Like Django, a superuser has every permission.
        assert await answers_of(auth, root) == {True}
        await auth.users.update(root, is_active=False)
        assert not root.has_perm(PERM)
        assert not await auth.has_perm(root, PERM)


@pytest.mark.parametrize("denying", [Denies, Raises])
@pytest.mark.parametrize("granting", [Grants, Loads, JudgesWithoutModule])
async def test_a_denial_counts_in_any_order(database: Database, granting: Any, denying: Any) -> None:
    async with installed(database) as auth:
        ann = await create_voter(auth)
        others = auth.backends[:]
        for backends in ([denying("ann"), granting("ann")], [granting("ann"), denying("ann")]):
            auth.backends[:] = [*backends, *others]
            assert await answers_of(auth, ann) == {False}
            auth.backends[:] = [*others, *backends]
            assert not (await fresh(auth, ann)).has_perm(PERM)
            assert not await auth.has_perm(ann, PERM)


@pytest.mark.parametrize(("backend", "answer"), [(JudgesAfterWaiting, True), (RaisesAfterWaiting, False)])
async def test_guards_and_threads_wait_for_a_backend_and_other_code_is_told_to(
    database: Database, backend: Any, answer: bool
) -> None:
    questions: dict[str, Callable[[Request], Any]] = {
        "has_perm": lambda request: request.user.has_perm(PERM),
        "has_perms": lambda request: request.user.has_perms([PERM]),
        "scopes": lambda request: PERM in request.auth.scopes,
        "template": lambda request: auth_context(request)["perms"].polls.add_vote,
        "get_group_permissions": lambda request: request.user.get_group_permissions(),
        "get_all_permissions": lambda request: request.user.get_all_permissions(),
    }
    if not answer:
        questions["has_module_perms"] = lambda request: request.user.has_module_perms("polls")

    async def ask(request: Request) -> Response:
        with pytest.raises(ImproperlyConfigured, match=r"await auth\.has_perm.*denies\(\)"):
            questions[request.query_params["question"]](request)
        assert await run_in_threadpool(request.user.has_perm, PERM) is answer
        with pytest.raises(ImproperlyConfigured, match=r"await auth\.has_perm"):  # not in a thread of AnyIO
            await asyncio.to_thread(request.user.has_perm, PERM)
        return Response()

    async with installed(database, backends=[backend("ann")]) as auth:
        ann = await create_voter(auth)
        assert await answers_of(auth, ann, memory=False) == {answer}
        async with client_of(app_of(auth, Route("/ask", ask))) as client:
            await log_in(client, ann, auth)
            for question in questions:
                assert (await client.get("/ask", params={"question": question})).status_code == 200
            with pytest.raises(ImproperlyConfigured, match=r"await auth\.has_perm"):
                await client.get("/by-scope")


async def test_a_backend_that_would_have_to_wait_returns_its_connection(database: Database) -> None:
    class Asks(AuthenticationBackend):
        async def has_perm(self, user: AnyUser, perm: str, obj: object = None) -> bool:
            return bool(await database.fetch_val(sa.text("SELECT 1"))) and await auth.users.count() == 0

    async def ask(request: Request) -> Response:
        for number in range(20):  # a pool has fewer connections
            with pytest.raises(ImproperlyConfigured, match="cannot wait"):
                request.user.has_perm(f"polls.number{number % 15}")
        return Response()

    async with installed(database, backends=[Asks()]) as auth, client_of(app_of(auth, Route("/ask", ask))) as client:
        assert (await client.get("/ask")).status_code == 200
        async with asyncio.timeout(10):
            assert (await client.get("/awaited")).json() is True


# Visitors, inactive users, users who are not in the database


@pytest.mark.parametrize("backend", [Grants, Loads, Judges])
async def test_a_backend_may_grant_something_to_visitors(database: Database, backend: Any) -> None:
    async with installed(database, backends=[backend("")]) as auth:
        assert await answers_of(auth, lists=backend is not Judges) == {True}
        assert await auth.has_perm(AnonymousUser(), PERM)
        assert not await auth.has_perm(AnonymousUser(), "polls.delete_vote")
        # It counts for AnonymousUser only, and a visitor gets no other scope.
        assert await answers_of(auth, await auth.users.create_user("ann")) == {False}
        async with client_of(make_app(auth)) as client:
            scopes = (await client.get("/whoami")).json()["scopes"]
            assert scopes == ([] if backend is Judges else [PERM])
            assert (await client.get("/members")).status_code == 303


@pytest.mark.parametrize("backend", [Grants, Loads, Judges])
async def test_a_backend_may_grant_something_to_inactive_users(database: Database, backend: Any) -> None:
    async with installed(database, backends=[backend("ann")]) as auth:
        ann = await create_voter(auth)
        await auth.users.update(ann, is_active=False)
        await auth.users.create_permission("polls.delete_vote")
        await auth.users.grant(ann, "polls.delete_vote")
        assert await auth.has_perm(ann, PERM)
        assert (await fresh(auth, ann)).is_active is False
        ann = await fresh(auth, ann)
        assert await auth.has_perm(ann, PERM)
        assert ann.has_perm(PERM)
        # What the database grants does not count for an inactive user.
        assert not await auth.has_perm(ann, "polls.delete_vote")
        assert not ann.has_perm("polls.delete_vote")
        assert ann.get_user_permissions() == set()


async def test_what_a_backend_granted_ends_when_the_account_is_switched_off(database: Database) -> None:
    class Active(Grants):
        def permissions(self, user: AnyUser) -> Iterable[str]:
            return super().permissions(user) if user.is_active else ()

    async def switch_off(request: Request) -> Response:
        assert request.user.has_perm(PERM)
        assert request.user.has_perm("polls.loaded")
        request.user.is_active = False
        assert not request.user.has_perm(PERM)
        assert not request.user.has_perm("polls.loaded")
        assert not await get_auth(request).has_perm(request.user, "polls.loaded")
        request.user.is_active = True
        assert request.user.has_perm(PERM)
        await get_auth(request).users.update(request.user, is_active=False)
        assert not request.user.has_perm(PERM)
        return Response()

    class LoadsAnother(AuthenticationBackend):
        async def load_permissions(self, conn: HTTPConnection | None, user: AnyUser) -> Iterable[str]:
            return ["polls.loaded"]

    async with installed(database, backends=[Active("ann"), LoadsAnother()]) as auth:
        ann = await auth.users.create_user("ann")
        async with client_of(make_app(auth, Route("/", switch_off))) as client:
            await log_in(client, ann, auth)
            assert (await client.get("/")).status_code == 200


async def test_a_user_whom_a_backend_made_has_what_backends_grant(database: Database) -> None:
    async with installed(database, backends=[Identifies(), Grants("robot"), Loads("clock")]) as auth:
        assert await answers_of(auth, x_service="robot") == {True}
        assert await answers_of(auth, x_service="clock") == {True}
        assert await answers_of(auth, x_service="other") == {False}
    async with installed(database, backends=[Identifies(), Grants("robot"), Denies("robot")]) as auth:
        assert await answers_of(auth, x_service="robot") == {False}


# When backends are asked


async def test_backends_contribute_once_per_request(database: Database) -> None:
    class Counts(AuthenticationBackend):
        asked: list[Any]

        def permissions(self, user: AnyUser) -> Iterable[str]:
            self.asked.append("permissions")
            return [PERM]

        def denies(self, user: AnyUser) -> Collection[str]:
            self.asked.append("denies")
            return ()

        async def load_permissions(self, conn: HTTPConnection | None, user: AnyUser) -> Iterable[str]:
            assert conn is not None
            self.asked.append(conn.url.path)
            return ()

    async def ask(request: Request) -> Response:
        for _ in range(3):
            assert request.user.has_perm(PERM)
            assert request.user.get_all_permissions() == {PERM}
            assert await get_auth(request).has_perm(request.user, PERM)
        return Response()

    backend = Counts()
    async with installed(database, backends=[backend]) as auth:
        ann = await auth.users.create_user("ann")
        async with client_of(make_app(auth, Route("/ask", ask), Route("/", in_sync_endpoint))) as client:
            for user in (None, ann):
                if user is not None:
                    await log_in(client, ann, auth)
                for _ in range(2):
                    backend.asked = []
                    assert (await client.get("/ask")).status_code == 200
                    assert backend.asked == ["/ask", "permissions", "denies"]


async def test_backends_that_say_nothing_about_permissions_are_not_asked(database: Database) -> None:
    async with installed(database, backends=[Identifies()]) as auth:
        ann = await create_voter(auth)
        assert ann.backend_answers is None
        assert not auth.backend_permissions.are_asked
        assert pickle.loads(pickle.dumps(ann)).has_perm(PERM)
        auth.backends.append(Judges())
        assert (await fresh(auth, ann)).backend_answers is not None


async def test_permissions_of_a_backend_need_no_further_statement(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with installed(database, backends=[Grants("ann"), Denies("ben"), Judges("carl")]) as auth:
        ann = await auth.users.create_user("ann")
        async with client_of(app_of(auth)) as client:
            await log_in(client, ann, auth)
            assert (await client.get("/decorated")).status_code == 200
            statements = count_statements(auth, monkeypatch)
            assert (await client.get("/decorated")).status_code == 200
            assert len(statements) == 1


async def test_backends_may_be_added_and_taken_away_later(database: Database) -> None:
    async with installed(database) as auth:
        ann = await auth.users.create_user("ann")
        app = app_of(auth)
        async with client_of(app) as client:
            await log_in(client, ann, auth)
            for backends, status in (([], 403), ([Grants("ann")], 200), ([Loads("ann")], 200), ([], 403)):
                auth.backends[:] = [*backends, auth.session_backend, auth.model_backend]
                assert (await client.get("/decorated")).status_code == status
                assert await auth.has_perm(ann, PERM) is (status == 200)
            auth.backends = [Grants("ann"), auth.session_backend, auth.model_backend]  # another list
            assert (await client.get("/decorated")).status_code == 200
            assert (await fresh(auth, ann)).has_perm(PERM)
            assert [user.username for user in await auth.users.with_perm(PERM)] == ["ann"]


async def test_what_the_database_grants_counts_without_model_backend(database: Database) -> None:
    async with installed(database) as auth:
        ann = await create_voter(auth)
        auth.backends.remove(auth.model_backend)
        assert await answers_of(auth, ann) == {True}
        auth.backends.append(Judges())
        assert await answers_of(auth, ann) == {True}


async def test_model_backend_tells_what_the_database_grants(database: Database) -> None:
    class Restricted(ModelBackend):
        async def has_perm(self, user: AnyUser, perm: str, obj: object = None) -> bool:
            if perm == "polls.delete_vote":
                raise PermissionDenied("never")
            return await super().has_perm(user, perm, obj)

    async with installed(database) as auth:
        ann = await create_voter(auth)
        assert await auth.model_backend.has_perm(ann, PERM)
        assert not await auth.model_backend.has_perm(ann, PERM, object())
        await auth.users.create_permission("polls.delete_vote")
        await auth.users.grant(ann, "polls.delete_vote")
        auth.backends[-1] = Restricted(auth.users)
        ann = await fresh(auth, ann)
        assert ann.get_all_permissions() == {PERM}
        assert not ann.has_perm("polls.delete_vote")


@pytest.mark.parametrize("backend", [Grants, Loads, Judges])
async def test_login_and_logout_change_what_backends_grant(database: Database, backend: Any) -> None:
    async def log_in_and_out(request: Request) -> Response:
        auth = get_auth(request)
        seen = [request.user.has_perm(PERM)]
        ann = await auth.users.get_by_username("ann")
        assert ann is not None
        await login(request, ann)
        seen += [request.user.has_perm(PERM), PERM in request.auth.scopes]
        await logout(request)
        seen += [request.user.has_perm(PERM), PERM in request.auth.scopes]
        return JSONResponse(seen)

    async with installed(database) as auth:
        await auth.users.create_user("ann")
        async with client_of(make_app(auth, Route("/try", log_in_and_out))) as client:
            for names, seen in (("ann", [False, True, True, False, False]), ("", [True, False, False, True, True])):
                auth.backends[:] = [backend(names), auth.session_backend, auth.model_backend]
                assert (await client.get("/try")).json() == seen


async def test_a_directory_that_is_away_is_reported_as_an_outage(database: Database) -> None:
    class Directory(AuthenticationBackend):
        async def load_permissions(self, conn: HTTPConnection | None, user: AnyUser) -> Iterable[str]:
            raise Unavailable("the directory does not answer")

    async with installed(database, backends=[Directory()]) as auth, client_of(make_app(auth)) as client:
        response = await client.get("/")
        assert (response.status_code, response.headers["retry-after"]) == (503, "3")


# Users outside a request


@pytest.mark.parametrize("backend", [Grants, Judges])
async def test_users_outside_a_request_know_what_backends_say(database: Database, backend: Any) -> None:
    async with installed(database, backends=[backend("ann"), Denies("ben")]) as auth:
        users = auth.users
        ann, ben = await users.create_user("ann", "ann@example.org"), await create_voter(auth, "ben")
        for user in (ann, await users.get(ann.id), await users.get_by_username("ann")):
            assert user is not None
            assert user.has_perm(PERM)
        [by_email] = await users.list_by_email("ann@example.org")
        assert by_email.has_perm(PERM)
        assert not ben.has_perm(PERM)

    # Without a running event loop, as in a script.
    def script() -> bool:
        return ann.has_perm(PERM) and not ben.has_perm(PERM)

    assert await asyncio.to_thread(script)


async def test_outside_a_request_loaded_permissions_have_to_be_awaited_first(database: Database) -> None:
    async with installed(database, backends=[Loads("ann", "")]) as auth:
        for user in (await auth.users.create_user("ann"), User(id=7, username="ann"), AnonymousUser()):
            if user.backend_answers is not None:
                with pytest.raises(ImproperlyConfigured, match=r"not identified in this request.*await auth"):
                    user.has_perm(PERM)
            assert await asyncio.gather(*(auth.has_perm(user, PERM) for _ in range(3))) == [True] * 3
            assert user.has_perm(PERM)
            assert user.get_all_permissions() == {PERM}
        ben = await auth.users.create_user("ben")
        assert not await auth.has_perm(ben, PERM)
        assert not ben.has_perm(PERM)
        carl = await create_voter(auth, "carl")
        assert carl.has_perm(PERM), "what nobody has to wait for is known"


async def test_a_denial_may_depend_on_what_was_loaded(database: Database) -> None:
    class Directory(AuthenticationBackend):
        async def load_permissions(self, conn: HTTPConnection | None, user: AnyUser) -> Iterable[str]:
            await asyncio.sleep(0.001)
            vars(user)["is_locked"] = user.username == "ann"
            return ()

        def denies(self, user: AnyUser) -> Collection[str]:
            return [PERM] if vars(user)["is_locked"] else []

    async with installed(database, backends=[Directory()]) as auth:
        ann = await create_voter(auth)
        with pytest.raises(ImproperlyConfigured, match="not identified"):
            ann.has_perm(PERM)
        assert await answers_of(auth, ann) == {False}
        assert not await auth.has_perm(ann, PERM)
        assert not ann.has_perm(PERM)
        assert await auth.users.with_perm(PERM) == []
        ben = await auth.users.create_user("ben")
        await auth.users.grant(ben, PERM)
        assert await answers_of(auth, ben) == {True}


async def test_copies_of_a_user_ask_the_backends_and_pickles_cannot(database: Database) -> None:
    async with installed(database, backends=[Denies("ann")]) as auth:
        ann = await create_voter(auth)
        for copied in (copy.copy(ann), copy.deepcopy(ann)):
            assert not copied.has_perm(PERM)
        unpickled = pickle.loads(pickle.dumps(ann))
        assert unpickled == ann
        with pytest.raises(ImproperlyConfigured, match=r"auth\.users\.get"):
            unpickled.has_perm(PERM)
        assert not await auth.has_perm(unpickled, PERM)
        assert not unpickled.has_perm(PERM)


# Objects


class Owners(AuthenticationBackend):
    """Lets users change what has their name; asks for the general permission of others."""

    async def has_perm(self, user: AnyUser, perm: str, obj: object = None) -> bool:
        if obj == "secret":
            raise PermissionDenied("nobody")
        return user.has_perm(perm) and (obj == user.username or obj == "everybody's")


async def test_a_backend_may_decide_about_one_object(database: Database) -> None:
    async with installed(database, backends=[Owners(), Denies("carl")]) as auth:
        ann, ben, carl = await create_voter(auth), *[await auth.users.create_user(name) for name in ("ben", "carl")]
        await auth.users.grant(carl, PERM)
        carl = await fresh(auth, carl)
        assert ann.has_perm(PERM)
        assert [await auth.has_perm(ann, PERM, obj) for obj in ("ann", "everybody's", "ben", "secret")] == [
            True,
            True,
            False,
            False,
        ]
        assert not ben.has_perm(PERM)
        assert not await auth.has_perm(ben, PERM, "ben")
        assert not await auth.has_perm(carl, PERM, "carl"), "what is denied is denied for each object"
        root = await auth.users.create_superuser("root")
        assert await auth.has_perm(root, PERM, "secret")
        assert await answers_of(auth, ann) == {True}
        assert await answers_of(auth, ben) == {False}


async def test_backends_of_djangos_tests_decide_as_in_django(database: Database) -> None:
    """SimpleRowlevelBackend of Django's tests/auth_tests/test_auth_backends.py, and what its tests expect."""

    class Rowlevel(AuthenticationBackend):
        def permissions(self, user: AnyUser) -> Iterable[str]:
            return ["other.simple"] if user.username == "group" else []

        async def has_perm(self, user: AnyUser, perm: str, obj: object = None) -> bool:
            if obj != "object":
                return False
            if user.username == "test2":
                return True
            return (user.is_anonymous and perm == "app1.anon") or (not user.is_active and perm == "app1.inactive")

        def has_module_perms(self, user: AnyUser, app_label: str) -> bool:
            return (user.is_anonymous or user.is_active) and app_label == "app1"

    async with installed(database, backends=[Rowlevel()]) as auth:
        test1, test2 = await auth.users.create_user("test1"), await auth.users.create_user("test2")
        inactive = await auth.users.create_user("test3", is_active=False)
        group, visitor = await auth.users.create_user("group"), AnonymousUser()
        assert not await auth.has_perm(test1, "app1.perm", "object")
        assert await auth.has_perm(test2, "app1.perm", "object")
        assert not await auth.has_perm(test2, "app1.perm")
        assert await auth.has_perm(visitor, "app1.anon", "object")
        assert not await auth.has_perm(visitor, "app1.perm", "object")
        assert not await auth.has_perm(test1, "app1.anon", "object")
        assert await auth.has_perm(inactive, "app1.inactive", "object")
        assert not await auth.has_perm(inactive, "app1.inactive")
        assert [user.has_module_perms("app1") for user in (visitor, test1, inactive)] == [True, True, False]
        assert not visitor.has_module_perms("app2")
        assert group.get_all_permissions() == {"other.simple"}
        assert group.has_module_perms("other")
        assert test1.get_all_permissions() == inactive.get_all_permissions() == visitor.get_all_permissions() == set()


async def test_general_permissions_are_none_for_an_object(database: Database) -> None:
    async with installed(database, backends=[Grants("ann")]) as auth:
        ann = await create_voter(auth)
        assert await auth.has_perm(ann, PERM)
        assert not await auth.has_perm(ann, PERM, "a poll")


# Backends that ask about permissions themselves


async def test_backends_may_ask_the_user_in_their_methods(database: Database) -> None:
    class Implies(AuthenticationBackend):
        """Who may change may view; who may delete may change."""

        async def has_perm(self, user: AnyUser, perm: str, obj: object = None) -> bool:
            stronger = {"polls.view_vote": "polls.change_vote", "polls.change_vote": "polls.delete_vote"}
            return user.has_perm(perm) or (perm in stronger and user.has_perm(stronger[perm]))

    class Editors(AuthenticationBackend):
        def permissions(self, user: AnyUser) -> Iterable[str]:
            return ["polls.delete_vote"] if user.has_perm(PERM) else []

        async def load_permissions(self, conn: HTTPConnection | None, user: AnyUser) -> Iterable[str]:
            return ["polls.loaded"] if user.has_perm(PERM) else []

    async with installed(database, backends=[Implies(), Editors()]) as auth:
        ann, ben = await create_voter(auth), await auth.users.create_user("ben")
        for perm in (PERM, "polls.loaded", "polls.delete_vote", "polls.change_vote", "polls.view_vote"):
            assert ann.has_perm(perm)
            assert await auth.has_perm(ann, perm)
            assert not ben.has_perm(perm)
            assert not await auth.has_perm(ben, perm)
        assert ann.get_all_permissions() == {PERM, "polls.loaded", "polls.delete_vote"}
        assert await answers_of(auth, ann) == {True}
        assert await answers_of(auth, ben) == {False}


# Who has a permission


@pytest.mark.parametrize("backend", [Grants, Loads, Judges, JudgesAfterWaiting])
async def test_with_perm_finds_whom_backends_give_a_permission(database: Database, backend: Any) -> None:
    async with installed(database, backends=[Denies("dora", "root"), backend("ann", "dora", "ivy", "root")]) as auth:
        users = auth.users
        for name in ("zoe", "ann", "ben", "dora"):
            await users.create_user(name)
        await users.create_user("ivy", is_active=False)
        await users.create_superuser("root")

        async def names(perm: str = PERM, **options: Any) -> list[str]:
            return [user.username for user in await users.with_perm(perm, **options)]

        # No row of the database names the permission.
        assert await names() == ["ann", "root"]
        await users.create_permission(PERM)
        zoe, dora = await users.get_by_username("zoe"), await users.get_by_username("dora")
        assert zoe is not None
        assert dora is not None
        await users.grant(zoe, PERM)
        await users.grant(dora, PERM)
        assert await names() == ["zoe", "ann", "root"]
        assert await names(is_active=None) == ["zoe", "ann", "ivy", "root"]
        assert await names(is_active=False) == ["ivy"]
        assert await names("polls.other") == ["root"]


async def test_with_perm_asks_about_all_users_in_batches(database: Database) -> None:
    async with installed(database, backends=[Grants("user3", "user7")]) as auth:
        ids = [(await auth.users.create_user(f"user{number}")).id for number in range(8)]
        for batch in (1, 3, 4, 8, 9):
            assert [user.id async for user in auth.users.all_users(batch=batch)] == ids
        assert [user.username for user in await auth.users.with_perm(PERM)] == ["user3", "user7"]


async def test_with_perm_asks_a_backend_that_knows_its_users(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Knows(Grants):
        async def with_perm(self, perm: str) -> Iterable[User]:
            users = [await auth.users.get_by_username(name) for name in (*self.names, "ben")]
            return [user for user in users if user is not None]

    async with installed(database, backends=[Knows("ann", "ivy", "root")]) as auth:
        for name in ("ann", "ben"):
            await auth.users.create_user(name)
        await auth.users.create_user("ivy", is_active=False)
        await auth.users.create_superuser("root")

        async def fail(**options: Any) -> AsyncIterator[User]:
            raise AssertionError("all users are read")
            yield

        monkeypatch.setattr(auth.users, "all_users", fail)
        assert [user.username for user in await auth.users.with_perm(PERM)] == ["ann", "root"]
        without = await auth.users.with_perm(PERM, include_superusers=False)
        assert [user.username for user in without] == ["ann", "root"], "the backend names root, as it names ann"
        everybody = await auth.users.with_perm(PERM, is_active=None)
        assert [user.username for user in everybody] == ["ann", "ivy", "root"]


async def test_with_perm_reports_an_unknown_permission_if_no_backend_grants_any(database: Database) -> None:
    async with installed(database, backends=[Denies("ann")]) as auth:
        with pytest.raises(DoesNotExist, match=r"polls\.add_vote"):
            await auth.users.with_perm(PERM)


# Mistakes


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (PERM, r"returned 'polls.add_vote'. Return a list"),
        (None, "returned None. Return a list"),
        (["voters"], "'voters', which is not a permission"),
        ([1], "returned 1, which is not"),
        (["polls.*"], "each permission by its name"),
    ],
)
@pytest.mark.parametrize("method", ["permissions", "denies", "load_permissions"])
async def test_a_contribution_that_is_no_list_of_permissions_is_reported(
    database: Database, method: str, names: Any, message: str
) -> None:
    async def load(self: Any, conn: Any, user: Any) -> Any:
        return names

    backend = type("Mistaken", (AuthenticationBackend,), {method: load if "load" in method else lambda *_: names})
    async with installed(database, backends=[backend()]) as auth:
        ann = await auth.users.create_user("ann")
        with pytest.raises(ImproperlyConfigured, match=rf"Mistaken\.{method}\(\) .*{message}"):
            await auth.has_perm(ann, PERM)
        with pytest.raises(ImproperlyConfigured, match=message):
            ann.has_perm(PERM)


@pytest.mark.parametrize("method", ["permissions", "denies", "has_module_perms"])
async def test_a_method_that_may_not_be_async_is_reported_at_construction(database: Database, method: str) -> None:
    async def names(self: Any, *args: Any) -> Any:
        return ()

    for mistake in (names, {PERM}):
        backend = type("Mistaken", (AuthenticationBackend,), {method: mistake})
        with pytest.raises(ImproperlyConfigured, match=rf"Mistaken\.{method}\(\) .*load_permissions"):
            async with installed(database, backends=[backend()]):
                pass


async def test_has_perm_may_be_written_without_async(database: Database) -> None:
    class Plain(AuthenticationBackend):
        def has_perm(self, user: AnyUser, perm: str, obj: object = None) -> bool:  # type: ignore[override]
            return user.username == "ann"

    async with installed(database, backends=[Plain()]) as auth:
        assert await answers_of(auth, await auth.users.create_user("ann"), lists=False, memory=False) == {True}


async def test_an_error_of_a_backend_is_not_hidden(database: Database) -> None:
    class Fails(AuthenticationBackend):
        async def has_perm(self, user: AnyUser, perm: str, obj: object = None) -> bool:
            raise RuntimeError("a fault of the backend")

    async def in_thread(request: Request) -> Response:
        with pytest.raises(RuntimeError, match="a fault of the backend"):
            await run_in_threadpool(request.user.has_perm, PERM)
        return Response()

    async with installed(database, backends=[Fails()]) as auth:
        ann = await auth.users.create_user("ann")
        with pytest.raises(RuntimeError, match="a fault of the backend"):
            ann.has_perm(PERM)
        async with client_of(make_app(auth, Route("/thread", in_thread))) as client:
            assert (await client.get("/thread")).status_code == 200


# Open WebSockets


async def tell(websocket: WebSocket) -> None:
    await websocket.accept()
    async for _ in websocket.iter_text():
        await websocket.send_json(websocket.user.has_perm(PERM))


async def answer_of(socket: Socket) -> Any:
    socket.sent.put_nowait({"type": "websocket.receive", "text": "?"})
    return (await socket.received.get())["text"]


@pytest.mark.parametrize("backend", [Grants, Loads, JudgesAfterWaiting])
async def test_an_open_websocket_is_closed_when_a_backend_grants_no_more(
    database: Database, monkeypatch: pytest.MonkeyPatch, backend: Any
) -> None:
    monkeypatch.setattr(OpenConnection, "check_interval", 0.02)
    granting = backend("ann", "")
    async with installed(database, backends=[granting]) as auth:
        ann = await auth.users.create_user("ann")
        async with client_of(app := app_of(auth, WebSocketRoute("/tell", tell))) as client:
            for user in (None, ann):
                if user is not None:
                    await log_in(client, user, auth)
                granting.names = ("ann", "")
                async with Socket(app, "/socket", client) as guarded, Socket(app, "/tell", client) as open_socket:
                    assert guarded.answer["type"] == open_socket.answer["type"] == "websocket.accept"
                    await asyncio.sleep(0.1)
                    assert guarded.received.empty()
                    granting.names = ()
                    if user is not None:  # a visitor without a session is not checked again
                        async with asyncio.timeout(5):
                            assert (await guarded.received.get())["type"] == "websocket.close"
                    if backend is not JudgesAfterWaiting and user is not None:
                        async with asyncio.timeout(5):
                            while await answer_of(open_socket) != "false":
                                await asyncio.sleep(0.02)

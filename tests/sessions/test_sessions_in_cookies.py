"""A session in its cookie: a request that was under way at the logout does not bring it back."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from databases import Database
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from starlette_auth import Auth, CookieStore, DjangoProject, get_auth, login, update_session_auth_hash
from starlette_auth.django.sessions import FIRST_KEY
from starlette_auth.django.signed_cookies import COOKIE_SALT
from starlette_auth.django.signing import DjangoSigner
from starlette_auth.testing import FrozenClock

from ..conftest import (
    PASSWORD,
    SECRET_KEY,
    any_database,
    client_of,
    connected,
    empty_database,
    installed,
    name_of,
    post_login,
    with_store,
    with_tables,
)
from ..support.apps import make_app

pytestmark = [with_tables, any_database]
MINUTE, HOUR = 60, 60 * 60
STORES = ["cookie", "django cookie"]


@asynccontextmanager
async def under_way(
    client: httpx.AsyncClient, app: Any, path: str, action: Any, user: str = "ann"
) -> AsyncIterator[None]:
    """Sends a request in the same browser, whose endpoint runs `action` after the body of the context."""
    arrived, finish = asyncio.Event(), asyncio.Event()

    async def slow(request: Request) -> Response:
        assert request.user.username == user
        arrived.set()
        await finish.wait()
        await action(request)
        return PlainTextResponse("")

    app.router.routes.insert(0, Route(path, slow))
    late = asyncio.create_task(client.get(path))
    await arrived.wait()
    yield
    finish.set()
    assert (await late).status_code == 200


async def cycle(request: Request) -> None:
    request.session.cycle_key()  # type: ignore[attr-defined]


async def cycle_and_save(request: Request) -> None:
    for _ in range(2):
        await cycle(request)
        await request.session.save()  # type: ignore[attr-defined]


async def change(request: Request) -> None:
    request.session["b"] = 2


async def only_read(request: Request) -> None:
    assert request.session["a"] == "1"


async def log_in_again(request: Request) -> None:
    await login(request, request.user)


async def keep_hash(request: Request) -> None:
    update_session_auth_hash(request, request.user)


async def confirm_password(request: Request) -> None:
    get_auth(request).session_backend.renew_auth_time(request.session)  # type: ignore[arg-type]


ACTIONS = [change, cycle, cycle_and_save, log_in_again, keep_hash, confirm_password]


async def username(client: httpx.AsyncClient) -> str:
    return str((await client.get("/whoami")).json()["username"])


@pytest.mark.parametrize("passed", [0, MINUTE, MINUTE + 1, HOUR])
@pytest.mark.parametrize("kind", STORES, ids=name_of)
async def test_a_request_that_reads_the_session_does_not_set_its_cookie_again(
    kind: str, passed: int, tmp_path: Path
) -> None:
    clock = FrozenClock()
    async with with_store(kind, tmp_path, clock) as auth:
        await auth.users.create_user("ann", password=PASSWORD)
        app = make_app(auth)
        async with client_of(app) as client:
            await post_login(client)
            await client.get("/remember?a=1")
            clock.tick(passed)
            async with under_way(client, app, "/slow", only_read):
                response = await client.post("/accounts/logout", headers={"origin": "http://testserver"})
                assert f"{auth.cookie.name}=; " in response.headers["set-cookie"]
            assert auth.cookie.name not in client.cookies
            assert await username(client) == ""
            await post_login(client)
            assert await username(client) == "ann"


async def test_a_request_that_changes_the_session_does_not_bring_back_the_login(tmp_path: Path) -> None:
    async with with_store("cookie", tmp_path) as auth:
        await auth.users.create_user("ann", password=PASSWORD)
        app = make_app(auth)
        async with client_of(app) as client:
            for number in range(7):  # more than the browser remembers
                await post_login(client)
                await client.get("/remember?a=1")
                async with under_way(client, app, f"/slow{number}", change):
                    await client.get("/flush")
                assert "session" in client.cookies
                assert await username(client) == ""
                assert (await client.get("/members")).status_code == 303
            await post_login(client)
            assert await username(client) == "ann"


@asynccontextmanager
async def site(kind: str, tmp_path: Path) -> AsyncIterator[Auth]:
    """Yields an Auth with sessions in cookies and the user ann."""
    project = DjangoProject(session_engine="signed_cookies", session_save_every_request=True)
    async with AsyncExitStack() as stack:
        if kind == "at each request":
            url = await stack.enter_async_context(empty_database("sqlite", tmp_path))
            database = await stack.enter_async_context(connected(url))
            auth = await stack.enter_async_context(installed(database, django=project))
        else:
            auth = await stack.enter_async_context(with_store(kind, tmp_path))
        await auth.users.create_user("ann", password=PASSWORD)
        yield auth


@pytest.mark.parametrize(
    ("kind", "action"),
    [(kind, action) for kind in (*STORES, "at each request") for action in ACTIONS] + [("at each request", only_read)],
)
async def test_no_request_under_way_at_the_logout_brings_back_the_login(kind: str, action: Any, tmp_path: Path) -> None:
    async with site(kind, tmp_path) as auth:
        app, name = make_app(auth), auth.cookie.name
        async with client_of(app) as client:
            for number in range(2):
                await post_login(client)
                await client.get("/remember?a=1")
                await client.get("/remember?c=1")
                async with under_way(client, app, f"/slow{number}", action):
                    await client.get("/flush")
                    assert name not in client.cookies
                assert name in client.cookies
                assert (await client.get("/whoami")).json() == {"username": "", "session": {}, "scopes": []}
            await post_login(client)
            assert await username(client) == "ann"


async def test_no_request_under_way_restores_the_ended_session_of_a_visitor(tmp_path: Path) -> None:
    async with site("cookie", tmp_path) as auth:
        app = make_app(auth)
        async with client_of(app) as client:
            for number, action in enumerate((change, cycle, cycle_and_save)):
                await client.get("/remember?a=1")
                async with under_way(client, app, f"/slow{number}", action, ""):
                    await client.get("/flush")
                assert (await client.get("/whoami")).json()["session"] == {}


async def test_a_logout_ends_a_login_of_django_whose_session_was_saved_here(tmp_path: Path) -> None:
    """Django's cookie contains no session key; this package adds one as an entry when it saves the session."""
    async with site("at each request", tmp_path) as auth:
        app, name = make_app(auth), auth.cookie.name
        async with client_of(app) as client:
            await post_login(client)
            await client.get("/remember?a=1")
            signer = DjangoSigner([SECRET_KEY], COOKIE_SALT)
            data = signer.loads(client.cookies[name], 60)
            assert FIRST_KEY in data
            django = {key: data[key] for key in ("_auth_user_id", "_auth_user_backend", "_auth_user_hash", "a")}
            client.cookies.set(name, signer.dumps(django), domain="testserver.local")
            assert await username(client) == "ann"
            async with under_way(client, app, "/slow", only_read):
                await client.get("/flush")
            assert await username(client) == ""
            await client.get("/remember?a=1")
            assert FIRST_KEY not in signer.loads(client.cookies[name], 60), "visitors need none"


async def test_a_new_login_during_the_logout_of_another_user_counts(tmp_path: Path) -> None:
    async with site("cookie", tmp_path) as auth:
        ben = await auth.users.create_user("ben", password=PASSWORD)

        async def log_in_ben(request: Request) -> None:
            await login(request, ben)

        app = make_app(auth)
        async with client_of(app) as client:
            await post_login(client)
            async with under_way(client, app, "/slow", log_in_ben):
                await client.get("/flush")
            assert await username(client) == "ben"


async def test_a_cookie_that_is_signed_again_at_the_logout_does_not_bring_back_the_login(database: Database) -> None:
    new, old = "a new key, in use from now on, and long", "an old key, which has been in use, and long"
    async with installed(database, secret_key=old, sessions=CookieStore(old)) as before:
        await before.users.create_user("ann", password=PASSWORD)
        async with client_of(make_app(before)) as client:
            await post_login(client)
            await client.get("/remember?a=1")
            cookie = client.cookies["session"]
    async with installed(database, secret_key=[new, old], sessions=CookieStore([new, old])) as auth:
        app = make_app(auth)
        async with client_of(app) as client:
            client.cookies.set("session", cookie, domain="testserver.local")
            async with under_way(client, app, "/slow", only_read):
                await client.get("/flush")
            assert await username(client) == ""


async def test_reading_extends_the_login_by_a_note_that_opens_nothing(tmp_path: Path) -> None:
    clock = FrozenClock()
    async with with_store("cookie", tmp_path, clock) as auth:
        await auth.users.create_user("ann", password=PASSWORD)
        app = make_app(auth)
        async with client_of(app) as client, client_of(app) as thief:
            await post_login(client)
            cookie = client.cookies["session"]
            clock.tick(MINUTE)
            assert "set-cookie" not in (await client.get("/whoami")).headers, "a small part of the idle timeout"
            for passed in (2 * HOUR - MINUTE - 1, 2 * HOUR - 1, HOUR, HOUR, 2 * HOUR - 1):
                clock.tick(passed)
                response = await client.get("/whoami")
                assert response.json()["username"] == "ann"
                [header] = response.headers.get_list("set-cookie")
                assert header.startswith("session_used=")
                assert response.headers["cache-control"] == "no-store"
            assert client.cookies["session"] == cookie
            note = client.cookies["session_used"]
            thief.cookies.set("session_used", note)
            assert await username(thief) == ""
            thief.cookies.set("session", note)
            assert await username(thief) == ""
            clock.tick(2 * HOUR)
            assert await username(client) == ""


async def test_a_note_counts_for_its_own_cookie_only(tmp_path: Path) -> None:
    """A copy of an old cookie, or of another login, is not extended by the note of a newer one."""
    clock = FrozenClock()
    async with with_store("cookie", tmp_path, clock) as auth:
        await auth.users.create_user("ann", password=PASSWORD)
        app = make_app(auth)
        async with client_of(app) as client, client_of(app) as other:
            await post_login(client)
            old = client.cookies["session"]
            clock.tick(HOUR)
            await client.get("/remember?a=1")
            clock.tick(HOUR)
            assert await username(client) == "ann"
            note = client.cookies["session_used"]
            for value, used, name in (
                (client.cookies["session"], note, "ann"),
                (old, note, ""),
                (old, note.replace("-", "-9", 1), ""),
                (old, "no note", ""),
            ):
                headers = {"cookie": f"session={value}; session_used={used}"}
                assert (await other.get("/whoami", headers=headers)).json()["username"] == name
            clock.tick(2 * HOUR - 1)
            forged = f"{int(clock.now)}{note[note.index('-') :]}"
            headers = {"cookie": f"session={client.cookies['session']}; session_used={forged}"}
            clock.tick(1)
            assert (await other.get("/whoami", headers=headers)).json()["username"] == ""


async def test_the_end_of_a_session_is_noted_in_this_browser_only(tmp_path: Path) -> None:
    """An attacker who plants the cookie of ended sessions can log out no user without knowing the session."""
    async with with_store("cookie", tmp_path) as auth:
        await auth.users.create_user("ann", password=PASSWORD)
        app: ASGIApp = make_app(auth)
        async with client_of(app) as client:
            await post_login(client)
            for planted in ("", "x", ".", "." * 3000, "0" * 32):
                client.cookies.set("session_ended", planted)
                assert await username(client) == "ann"
            client.cookies.delete("session_ended")
            response = await client.get("/flush")
            headers = response.headers.get_list("set-cookie")
            assert sorted(header.partition("=")[0] for header in headers) == ["session", "session_ended"]
            await client.get("/remember?a=1")
            response = await client.get("/flush")
            ended = client.cookies["session_ended"]
            assert len(ended.split(".")) == 2

"""Tests of `starlette_auth.testing`, which applications use in their tests."""

import asyncio
import time
from pathlib import Path

import pyotp
import pytest
from databases import Database
from starlette.testclient import TestClient

from starlette_auth import Auth, BearerSessions, ImproperlyConfigured, MemoryStore, User, lifespan, migrate
from starlette_auth.testing import browser_headers, log_in, totp_code

from .conftest import PASSWORD, SECRET_KEY, client_of, post_login, with_tables
from .support.apps import make_app

pytestmark = with_tables


def new_auth(folder: Path) -> Auth:
    return Auth(Database(f"sqlite+aiosqlite:///{folder}/testing.sqlite3"), secret_key=SECRET_KEY)


async def make_ann(auth: Auth) -> User:
    await migrate(auth.gateway, auth.tables)
    ann: User = await auth.users.create_user("ann")
    return ann


@pytest.mark.parametrize("base_url", ["http://testserver", "https://testserver"])
def test_log_in_works_repeatedly_with_a_test_client(tmp_path: Path, base_url: str) -> None:
    auth = new_auth(tmp_path)
    with TestClient(make_app(auth, lifespan=lifespan(auth)), base_url=base_url) as client:
        assert client.portal is not None
        ann = client.portal.call(make_ann, auth)
        bob = client.portal.call(auth.users.create_user, "bob")
        for user in (ann, bob, ann):
            log_in(client, user)
            assert client.get("/whoami").json()["username"] == user.username


def test_log_in_works_with_a_test_client_that_was_not_started(tmp_path: Path) -> None:
    auth = new_auth(tmp_path)

    async def prepare() -> User:
        async with auth.database:
            return await make_ann(auth)

    ann = asyncio.run(prepare())
    auth.sessions = MemoryStore()
    client = TestClient(make_app(auth))
    log_in(client, ann)
    assert client.cookies["session"]


async def test_log_in_returns_an_awaitable_for_an_async_client(auth: Auth, ann: User) -> None:
    async with client_of(make_app(auth)) as client:
        login = log_in(client, ann, auth)
        assert login is not None
        await login
        assert (await client.get("/members")).text == "members"
        await post_login(client, password=PASSWORD)
        assert (await client.get("/members")).text == "members"


def test_log_in_makes_a_client_an_app(tmp_path: Path) -> None:
    database = Database(f"sqlite+aiosqlite:///{tmp_path}/testing.sqlite3")
    auth = Auth(database, secret_key=SECRET_KEY, features=[BearerSessions()])
    with TestClient(make_app(auth, lifespan=lifespan(auth))) as client:
        assert client.portal is not None
        ann = client.portal.call(make_ann, auth)
        bob = client.portal.call(auth.users.create_user, "bob")
        for user in (ann, bob):
            log_in(client, user, as_app=True)
            assert client.get("/whoami").json()["username"] == user.username
        assert not list(client.cookies.jar)
        assert len(client.portal.call(auth.user_sessions.list, ann)) == 1


def test_a_test_client_leaves_the_headers_of_a_browser_as_they_are(auth: Auth) -> None:
    before = dict(browser_headers)
    TestClient(make_app(auth), headers=browser_headers)
    assert browser_headers == before


async def test_log_in_has_the_methods_of_the_test(auth: Auth, ann: User) -> None:
    for methods, level in ((("password", "totp"), 2), (("passkey",), 2), (("password",), 1)):
        async with client_of(make_app(auth)) as client:
            await log_in(client, ann, auth, methods=methods)
            answer = (await client.get("/accounts/session")).json()
            assert ([method["name"] for method in answer["methods"]], answer["level"]) == ([*methods], level)


async def test_log_in_of_an_app_needs_the_feature(auth: Auth, ann: User) -> None:
    async with client_of(make_app(auth)) as client:
        with pytest.raises(ImproperlyConfigured, match=r"BearerSessions\(\)"):
            log_in(client, ann, auth, as_app=True)


async def test_log_in_without_an_auth_or_a_user_reports_the_fix(auth: Auth, ann: User) -> None:
    async with client_of(make_app(auth)) as client:
        with pytest.raises(ImproperlyConfigured, match=r"log_in\(client, user, auth\)"):
            log_in(client, ann)
        with pytest.raises(ValueError, match="Create the user first"):
            log_in(client, None, auth)


@pytest.mark.parametrize("at", [0, 59, 1_800_000_000.5, 2_000_000_000])
def test_totp_code_is_that_of_an_app(at: float) -> None:
    key = "GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ"
    expected = pyotp.TOTP(key).at(int(at))
    grouped = " ".join(key[start : start + 4] for start in range(0, len(key), 4))
    for secret in (key, key.lower(), grouped, b"12345678901234567890"):
        assert totp_code(secret, at) == expected


def test_totp_code_is_that_of_now_by_default() -> None:
    before = time.time()
    key = "GEZDGNBVGY3TQOJQGEZDGNBVGY"  # without its padding
    code = totp_code(key)
    assert code in {pyotp.TOTP(key).at(int(at)) for at in (before, time.time())}


def test_totp_code_needs_base32() -> None:
    with pytest.raises(ValueError, match="is not base32"):
        totp_code("0189")

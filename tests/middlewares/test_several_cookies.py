"""Several cookies of one name: those of another application are passed over, and two sessions count as none."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from databases import Database
from starlette.requests import HTTPConnection

from starlette_auth import Auth, Cookie, MemoryStore, User
from starlette_auth.testing import log_in

from ..conftest import (
    PASSWORD,
    SECRET_KEY,
    any_database,
    client_of,
    count_statements,
    installed,
    name_of,
    post_login,
    token_in,
    with_store,
    with_tables,
)
from ..sessions.test_sessions import Socket
from ..support.apps import make_app

pytestmark = [with_tables, any_database]
SITE, PARENT = "https://shop.example.org", ".example.org"
STORES = ["memory", "sqlite", "cookie", "django sqlite", "django cookie"]
DEAD = "A" * 43  # has the form of a session key
KNOWN = "eyJhIjogMX0.aGkK.sent-by-another-application"


async def whoami(client: httpx.AsyncClient, *values: str, name: str = "__Host-session") -> str:
    headers = {"cookie": "; ".join(f"{name}={value}" for value in values)} if values else {}
    return str((await client.get("/whoami", headers=headers)).json()["username"])


@pytest.fixture(params=STORES, ids=name_of)
async def site(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Auth]:
    async with with_store(request.param, tmp_path) as auth:
        await auth.users.create_user("ann", password=PASSWORD)
        await auth.users.create_user("mallory", password=PASSWORD)
        yield auth


def name_in(auth: Auth, *, https: bool = True) -> str:
    return auth.cookie.names[https]


async def session_of(auth: Auth, username: str) -> str:
    """Returns the cookie of a new login."""
    async with client_of(make_app(auth), base_url=SITE) as client:
        await log_in(client, await auth.users.get_by_username(username), auth)
        return client.cookies[name_in(auth)]


@pytest.mark.parametrize("base_url", [SITE, "http://shop.example.org"], ids=["https", "http"])
async def test_a_login_works_beside_a_cookie_of_the_parent_domain(site: Auth, base_url: str) -> None:
    name = name_in(site, https=base_url == SITE)
    async with client_of(make_app(site), base_url=base_url, headers={"origin": base_url}) as client:
        client.cookies.set(name, KNOWN, domain=PARENT)
        client.cookies.set(f"{site.csrf_cookie.names[base_url == SITE]}", "B" * 43, domain=PARENT)
        assert (await post_login(client)).status_code == 303
        assert await whoami(client) == "ann"
        await client.get("/remember?a=1")
        assert (await client.get("/whoami")).json()["session"] == {"a": "1"}
        assert (await client.post("/accounts/logout")).status_code == 303
        assert await whoami(client) == ""


async def test_what_opens_no_session_is_passed_over_in_any_order(site: Auth) -> None:
    own, name = await session_of(site, "ann"), name_in(site)
    async with client_of(make_app(site), base_url=SITE) as client:
        for values in ([DEAD, own], [own, DEAD], [KNOWN, own, DEAD], [DEAD, KNOWN, own], [own, own, own, own, DEAD]):
            assert await whoami(client, *values, name=name) == "ann", values
        assert await whoami(client, DEAD, KNOWN, name=name) == ""


async def test_two_sessions_count_as_none_until_the_next_login(site: Auth, caplog: pytest.LogCaptureFixture) -> None:
    """Mallory, on a subdomain, plants the cookie of her own session; ann must not go on as mallory."""
    own, planted, name = await session_of(site, "ann"), await session_of(site, "mallory"), name_in(site)
    async with client_of(make_app(site), base_url=SITE, headers={"origin": SITE}) as client:
        for values in ([own, planted], [planted, own], [DEAD, planted, own]):
            caplog.clear()
            assert await whoami(client, *values, name=name) == ""
            assert [record.levelname for record in caplog.records] == ["WARNING"]
            assert "cookies of 2 sessions" in caplog.text
            assert own not in caplog.text
            assert planted not in caplog.text
        client.cookies.set(name, planted, domain=PARENT)
        client.cookies.set(name, own, domain="shop.example.org")
        assert (await post_login(client, "ann")).status_code == 303
        caplog.clear()
        assert await whoami(client) == "ann"
        await client.get("/remember?a=1")
        assert await whoami(client) == "ann"
        assert caplog.records == []
        if site.sessions.is_server_side:
            assert await whoami(client, planted, name=name) == ""


async def test_a_logout_ends_all_sessions_between_which_a_request_could_not_choose(site: Auth) -> None:
    own, planted, name = await session_of(site, "ann"), await session_of(site, "mallory"), name_in(site)
    async with client_of(make_app(site), base_url=SITE) as client:
        headers = {"cookie": f"{name}={own}; {name}={planted}", "origin": SITE}
        response = await client.post("/accounts/logout", headers=headers)
        assert f"{name}=; " in response.headers["set-cookie"]
        if site.sessions.is_server_side:
            assert await whoami(client, own, name=name) == await whoami(client, planted, name=name) == ""


async def test_more_than_three_cookies_open_no_session(site: Auth, caplog: pytest.LogCaptureFixture) -> None:
    """Mallory sends her own session first and others after it, so that ann's would not be looked at."""
    own, planted, name = await session_of(site, "ann"), await session_of(site, "mallory"), name_in(site)
    async with client_of(make_app(site), base_url=SITE) as client:
        assert await whoami(client, planted, DEAD, KNOWN, own, name=name) == ""
        assert "more than 3 cookies" in caplog.text
        assert own not in caplog.text


async def test_one_cookie_is_looked_up_once_and_several_three_times(
    auth: Auth, ann: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    own, dead = await session_of(auth, "ann"), [letter * 43 for letter in "BCDEFGHIJ"]
    async with client_of(make_app(auth), base_url=SITE) as client:
        assert await whoami(client, own) == "ann"
        statements = count_statements(auth, monkeypatch)
        for values, number in (([own], 1), ([*dead[:2], own], 3), ([*dead, own], 0)):
            statements.clear()
            await whoami(client, *values)
            assert len(statements) == number


@pytest.mark.parametrize("order", [1, -1])
async def test_a_websocket_passes_over_foreign_cookies_and_refuses_two_sessions(site: Auth, order: int) -> None:
    own, planted, name = await session_of(site, "ann"), await session_of(site, "mallory"), name_in(site, https=False)
    app = make_app(site)
    for other, answer in ((DEAD, "websocket.accept"), (planted, "websocket.close")):
        async with client_of(app) as client:
            socket = Socket(app, "/members-socket", client)
            value = "; ".join(f"{name}={value}" for value in [own, other][::order])
            socket.scope["headers"] = [(b"host", b"testserver"), (b"cookie", value.encode())]
            async with socket:
                assert socket.answer["type"] == answer


@pytest.mark.parametrize("cookie", [Cookie(), Cookie(domain="shop.example.org")], ids=["host", "domain"])
@pytest.mark.parametrize("order", [1, -1])
async def test_a_form_is_accepted_beside_the_csrf_cookie_of_another_application(
    database: Database, cookie: Cookie, order: int
) -> None:
    auth = Auth(database, secret_key=SECRET_KEY, sessions=MemoryStore(), cookie=cookie, csrf="strict")
    async with client_of(make_app(auth), base_url=SITE) as client:
        name = auth.csrf_cookie.names[True]
        token = token_in((await client.get("/accounts/password_reset")).text)
        own, other = client.cookies[name], "B" * 43
        client.cookies.clear()
        for values, status in (([own, other], 303), ([other, "C" * 43], 403), ([own, "no secret", other], 303)):
            header = "; ".join(f"{name}={value}" for value in values[::order])
            data = {"csrfmiddlewaretoken": token}
            answer = await client.post("/accounts/logout", data=data, headers={"cookie": header, "origin": SITE})
            assert answer.status_code == status


@pytest.mark.parametrize("order", [1, -1])
async def test_a_known_device_stays_known_beside_the_device_cookie_of_another_application(
    database: Database, order: int
) -> None:
    seen: list[Any] = []
    async with installed(database) as auth, client_of(make_app(auth), base_url=SITE) as client:
        ann = await auth.users.create_user("ann", password=PASSWORD)
        await post_login(client)
        name = auth.devices.cookie.names[True]
        own, other = client.cookies[name], f"{'B' * 43}.1800000000-{'0' * 16}-{'0' * 64}"
        scope: dict[str, Any] = {"type": "http", "scheme": "https"}
        for values in ([own, other], [own, "no device", other], [other]):
            header = "; ".join(f"{name}={value}" for value in values[::order])
            scope["headers"] = [(b"cookie", header.encode())]
            seen.append(await auth.devices.known(HTTPConnection(scope), ann))
    assert seen == [own.split(".")[0], own.split(".")[0], ""]

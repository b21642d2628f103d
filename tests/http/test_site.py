"""Tests of the site's own scheme and origins: behind a proxy, on a developer's machine, and in tests."""

import logging
from typing import Any

import pytest
from databases import Database
from starlette.testclient import TestClient

from starlette_auth import Auth, Cookie, DjangoProject, MemoryStore, lifespan
from starlette_auth.testing import log_in

from ..conftest import PASSWORD, any_database, client_of, installed, post_login, with_tables
from ..support.apps import make_app
from ..support.databases import SECRET_KEY

pytestmark = [with_tables, any_database]

SITE = "https://shop.example"
FORWARDED = [
    {"x-forwarded-proto": "https"},
    {"x-forwarded-for": "203.0.113.7"},
    {"x-forwarded-host": "shop.example"},
    {"forwarded": "proto=https"},
    {"via": "1.1 proxy"},
    {"x-real-ip": "203.0.113.7"},
]


def warnings_in(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.message for record in caplog.records if record.levelno == logging.WARNING]


@pytest.mark.parametrize(
    ("url", "headers", "is_secure"),
    [
        ("http://shop.example", {}, True),
        ("http://shop.example:8000", {}, True),
        ("http://192.0.2.7", {}, True),
        ("http://localhost.evil.example", {}, True),
        ("http://127.0.0.1.evil.example", {}, True),
        ("http://testserver.example", {}, True),
        *((f"http://{host}", headers, True) for host in ("localhost:8000", "testserver") for headers in FORWARDED),
        ("https://shop.example", {}, True),
        ("https://localhost", {}, True),
        ("http://testserver", {}, False),
        ("http://localhost", {}, False),
        ("http://LOCALHOST:8000", {}, False),
        ("http://shop.localhost:8000", {}, False),
        ("http://127.0.0.1:8000", {}, False),
        ("http://127.1.2.3", {}, False),
        ("http://[::1]:8000", {}, False),
    ],
)
async def test_cookies_of_an_https_site_are_secure_but_not_on_loopback(
    database: Database, caplog: pytest.LogCaptureFixture, url: str, headers: dict[str, str], is_secure: bool
) -> None:
    """A proxy that terminates TLS, and whose header the server does not believe, makes the scheme http."""
    async with installed(database, base_url=SITE) as auth:
        await auth.users.create_user("ann", password=PASSWORD)
        async with client_of(make_app(auth), base_url=url, headers=headers) as client:
            page = await client.get("/accounts/login")
            cookies = page.headers.get_list("set-cookie")
            # httpx sends no Secure cookie over http, so the test sends it itself, as the browser does to the proxy.
            client.headers["cookie"] = "; ".join(cookie.partition(";")[0] for cookie in cookies)
            client.headers["origin"] = SITE
            answer = await post_login(client)
            assert answer.status_code == 303
            cookies += answer.headers.get_list("set-cookie")
    assert {cookie.partition("=")[0].removeprefix("__Host-") for cookie in cookies} == {
        "session",
        "session_csrf",
        "device",
    }
    for cookie in cookies:
        assert ("; Secure" in cookie, cookie.startswith("__Host-")) == (is_secure, is_secure)
    warnings = warnings_in(caplog)
    assert len(warnings) == (is_secure and url.startswith("http:"))
    if warnings:
        assert "--forwarded-allow-ips" in warnings[0]


async def test_a_request_that_seems_to_be_http_is_warned_about_once(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    async with installed(database, base_url=SITE) as auth:
        async with client_of(make_app(auth), base_url="http://localhost") as client:
            await client.get("/whoami")
        assert warnings_in(caplog) == []
        for host in ("shop.example", "www.shop.example"):
            async with client_of(make_app(auth), base_url=f"http://{host}") as client:
                await client.get("/whoami")
                await client.get("/accounts/login")
        assert len(warnings_in(caplog)) == 1


@pytest.mark.parametrize("secure", [True, False])
@pytest.mark.parametrize("url", ["http://shop.example", "http://testserver", "https://shop.example"])
async def test_what_the_cookie_says_about_secure_always_wins(
    database: Database, caplog: pytest.LogCaptureFixture, secure: bool, url: str
) -> None:
    async with (
        installed(database, base_url=SITE, cookie=Cookie(secure=secure)) as auth,
        client_of(make_app(auth), base_url=url) as client,
    ):
        answers = [await client.get("/remember?a=1"), await client.get("/accounts/login")]
        for answer in answers:
            assert ("; Secure" in answer.headers["set-cookie"]) is secure
        assert warnings_in(caplog) == []


@pytest.mark.parametrize("base_url", [None, "http://shop.example"])
@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_without_an_https_base_url_cookies_follow_the_request(
    database: Database, caplog: pytest.LogCaptureFixture, base_url: str | None, scheme: str
) -> None:
    async with (
        installed(database, base_url=base_url) as auth,
        client_of(make_app(auth), base_url=f"{scheme}://shop.example") as client,
    ):
        answer = await client.get("/remember?a=1")
        assert ("; Secure" in answer.headers["set-cookie"]) is (scheme == "https")
        assert warnings_in(caplog) == []


@pytest.mark.parametrize("secure", ["auto", False])
async def test_the_cookies_of_a_django_project_are_secure_too(database: Database, secure: Any) -> None:
    project = DjangoProject(session_cookie_secure=secure, csrf_cookie_secure=secure)
    auth = Auth(database, secret_key=SECRET_KEY, base_url=SITE, django=project, sessions=MemoryStore())
    async with client_of(make_app(auth), base_url="http://shop.example") as client:
        for path in ("/remember?a=1", "/accounts/login"):
            answer = await client.get(path)
            assert ("; Secure" in answer.headers["set-cookie"]) is (secure == "auto")


@pytest.mark.parametrize("cookie", [Cookie(), Cookie(secure=True), Cookie(secure=False)], ids=str)
@pytest.mark.parametrize("base_url", [SITE, "https://Shop.Example:443/"])
@pytest.mark.parametrize(
    ("url", "origin", "status"),
    [
        ("http://shop.example", SITE, 200),
        ("http://10.0.0.5:8000", SITE, 200),
        ("https://shop.example", SITE, 200),
        ("https://shop.example:443", SITE, 200),
        ("https://www.shop.example", SITE, 200),
        ("https://www.shop.example", "https://www.shop.example", 200),
        ("http://shop.example", "http://shop.example", 403),
        ("https://shop.example", "http://shop.example", 403),
        ("https://shop.example", "https://evil.example", 403),
        ("https://shop.example", "https://shop.example.evil.example", 403),
        ("https://shop.example", "https://shop.example:8443", 403),
        ("https://shop.example", "null", 403),
    ],
)
async def test_the_base_url_is_an_origin_of_the_site(
    database: Database, cookie: Cookie, base_url: str, url: str, origin: str, status: int
) -> None:
    async with (
        installed(database, base_url=base_url, cookie=cookie) as auth,
        client_of(make_app(auth), base_url=url) as client,
    ):
        assert (await client.post("/remember", headers={"origin": origin})).status_code == status
        referer = {"referer": f"{origin}/form"}
        # "null" is no host, so this header does not tell where the request comes from.
        assert (await client.post("/remember", headers=referer)).status_code == (200 if origin == "null" else status)
        fetched = {"origin": origin, "sec-fetch-site": "cross-site"}
        assert (await client.post("/remember", headers=fetched)).status_code == (200 if origin == SITE else 403)


@pytest.mark.parametrize(
    ("base_url", "origin", "status"),
    [
        ("https://bücher.example", "https://xn--bcher-kva.example", 200),
        ("https://[2001:DB8::1]:8443", "https://[2001:db8::1]:8443", 200),
        ("http://shop.example", "http://shop.example", 403),
    ],
)
async def test_origins_are_compared_as_browsers_write_them(
    database: Database, base_url: str, origin: str, status: int
) -> None:
    """An attacker in the network can serve pages over http. Therefore an http origin is foreign to an https site."""
    async with (
        installed(database, base_url=base_url) as auth,
        client_of(make_app(auth), base_url="https://other.example") as client,
    ):
        assert (await client.post("/remember", headers={"origin": origin})).status_code == status


@pytest.mark.parametrize("trusted", ["https://Bücher.example:443/", "https://xn--bcher-kva.example"])
async def test_trusted_origins_are_compared_as_browsers_write_them(database: Database, trusted: str) -> None:
    async with (
        installed(database, trusted_origins=[trusted]) as auth,
        client_of(make_app(auth)) as client,
    ):
        headers = {"origin": "https://xn--bcher-kva.example", "sec-fetch-site": "cross-site"}
        assert (await client.post("/remember", headers=headers)).status_code == 200


@pytest.mark.parametrize(
    ("url", "headers"),
    [
        ("http://testserver", {}),
        ("http://testserver", {"x-forwarded-proto": "https"}),
        ("http://localhost:8000", {}),
        ("https://shop.example", {}),
    ],
)
def test_log_in_of_the_test_helpers_finds_the_name_of_the_cookie(
    tmp_path: Any, url: str, headers: dict[str, str]
) -> None:
    database = Database(f"sqlite+aiosqlite:///{tmp_path}/site.sqlite3")
    auth = Auth(database, secret_key=SECRET_KEY, base_url=SITE)
    app = make_app(auth, lifespan=lifespan(auth, create_tables=True))
    with TestClient(app, base_url=url, headers=headers) as client:
        assert client.portal is not None
        user = client.portal.call(auth.users.create_user, "ann")
        log_in(client, user)
        assert client.get("/whoami").json()["username"] == "ann"


def test_a_websocket_of_the_site_is_accepted_behind_a_proxy(tmp_path: Any) -> None:
    database = Database(f"sqlite+aiosqlite:///{tmp_path}/site.sqlite3")
    auth = Auth(database, secret_key=SECRET_KEY, base_url=SITE, sessions=MemoryStore())
    with (
        TestClient(make_app(auth)) as client,
        client.websocket_connect("/echo?a=1", headers={"origin": SITE, "host": "shop.example"}) as websocket,
    ):
        headers: Any = websocket.extra_headers
        assert b"; Secure" in dict(headers)[b"set-cookie"]

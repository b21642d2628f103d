"""The settings of a cookie: what browsers refuse is refused at construction, with the fix."""

from typing import Any

import pytest
from databases import Database
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.testclient import TestClient

from starlette_auth import (
    Auth,
    Cookie,
    CookieStore,
    DjangoProject,
    ImproperlyConfigured,
    MemoryStore,
    SessionMiddleware,
    middleware,
)

from ..conftest import SECRET_KEY, any_database, client_of, post_login, with_tables
from ..support.apps import make_app

pytestmark = [with_tables, any_database]
WRONG_TYPES: list[Any] = [b"x", 1.5, [], object()]


@pytest.mark.parametrize(
    ("name", "values", "fix"),
    [
        ("name", ["", "a b", "a=b", "käse", None, True, "a\x00b", "__Host-sid"], r"(Remove|Use letters)"),
        ("path", ["app", "", "/a;b", "/ä", None, True, "/a\nb"], r'(Remove them|Pass path="/")'),
        ("max_age", [0, -1, "3600", True, None, float("inf"), 10**20], "Pass an int, such as"),
        (
            "domain",
            ["https://x", "x.org:8000", "x.org/app", "", ".", "a..b", "-x", "straße.de", False, "[::1]"],
            'domain="example.org"',
        ),
        ("secure", ["yes", "True", 1, 0, None, "AUTO"], 'Pass True, False or "auto"'),
        ("samesite", ["foo", "Lax", "", None, True], 'Pass "lax", "strict" or "none"'),
        ("partitioned", ["yes", 1, None], "Pass True or False"),
        ("httponly", ["yes", 0, None], "Pass True or False"),
    ],
)
def test_a_setting_that_browsers_refuse_is_refused_with_the_fix(name: str, values: list[Any], fix: str) -> None:
    wrong = [value for value in WRONG_TYPES if value != 1.5 or name != "secure"]
    for value in [*values, *wrong]:
        with pytest.raises(ImproperlyConfigured, match=fix) as caught:
            Cookie(**{name: value})
        assert str(caught.value).endswith(".")


def test_settings_that_only_work_with_others_are_refused_with_the_fix() -> None:
    for options in ({"samesite": "none"}, {"partitioned": True}):
        with pytest.raises(ImproperlyConfigured, match="secure=True"):
            Cookie(secure=False, **options)
    for name in ("__Host-sid", "__Secure-sid"):
        with pytest.raises(ImproperlyConfigured, match="secure=True"):
            Cookie(name=name, prefix=False, secure=False)
    with pytest.raises(ImproperlyConfigured, match="Remove"):
        Cookie(name="__Host-sid", prefix=False, domain="example.org")


def test_usual_settings_are_accepted() -> None:
    Cookie(name="__Host-sid", prefix=False, secure=True)
    Cookie(name="my.app-sid_1", domain=".example.org", path="/my-app/~x%20y", max_age=1)
    Cookie(domain="localhost", secure=lambda scope: True, samesite="none")
    Cookie(domain="127.0.0.1", samesite="strict", expire_at_browser_close=True, partitioned=True)


async def test_samesite_none_on_an_http_site_is_refused(database: Database) -> None:
    for options in (
        {"cookie": Cookie(samesite="none")},
        {"django": DjangoProject(session_cookie_samesite="None")},
        {"django": DjangoProject(csrf_cookie_samesite="None")},
    ):
        with pytest.raises(ImproperlyConfigured, match='samesite="lax"'):
            Auth(database, secret_key=SECRET_KEY, base_url="http://shop.example", **options)
        Auth(database, secret_key=SECRET_KEY, base_url="https://shop.example", **options)


@pytest.mark.parametrize("cookie", ["sid", Cookie, {"name": "sid"}], ids=["str", "class", "dict"])
async def test_what_is_no_cookie_is_refused(database: Database, cookie: Any) -> None:
    with pytest.raises(ImproperlyConfigured, match=r"Pass cookie=Cookie\("):
        Auth(database, secret_key=SECRET_KEY, cookie=cookie)
    with pytest.raises(ImproperlyConfigured, match=r"Pass cookie=Cookie\("):
        SessionMiddleware(Starlette(), MemoryStore(), cookie)


async def test_what_is_no_store_is_refused(auth: Auth) -> None:
    app = Starlette()
    for arguments in ((app, auth), (auth,), (app, MemoryStore), (app, "memory")):
        with pytest.raises(ImproperlyConfigured, match=r"middleware=middleware\(auth\)"):
            SessionMiddleware(*arguments)


def site(cookie: Cookie) -> Starlette:
    async def show(request: Request) -> Response:
        return PlainTextResponse(str(request.session))

    sessions = Middleware(SessionMiddleware, store=MemoryStore(), cookie=cookie)
    return Starlette(routes=[Route("/", show)], middleware=[sessions])


@pytest.mark.parametrize(
    ("cookie", "text"),
    [
        (Cookie(secure=True), "secure=True"),
        (Cookie(samesite="none"), "samesite="),
        (Cookie(samesite="none", secure=True), "secure=True"),
        (Cookie(), ""),
        (Cookie(secure=False), ""),
    ],
    ids=["secure", "none", "both", "auto", "insecure"],
)
def test_a_cookie_that_needs_https_is_warned_about_once_over_http(
    cookie: Cookie, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    app = site(cookie)
    for base_url, expected in (("https://shop.example", 0), ("http://shop.example", 1), ("http://shop.example", 1)):
        with TestClient(app, base_url=base_url) as client:
            client.get("/")
            client.get("/")
        messages = [record.message for record in caplog.records if record.name == "starlette_auth"]
        assert len(messages) == (expected if text else 0)
        assert all(text in message for message in messages)


@pytest.mark.parametrize("csrf", ["headers", "strict"])
async def test_all_cookies_of_an_embedded_site_are_partitioned(database: Database, csrf: Any) -> None:
    cookie = Cookie(samesite="none", partitioned=True)
    auth = Auth(database, secret_key=SECRET_KEY, sessions=MemoryStore(), cookie=cookie, csrf=csrf)
    await auth.users.create_user("ann", password="correct horse battery staple")
    async with client_of(
        make_app(auth), base_url="https://shop.example", headers={"origin": "https://shop.example"}
    ) as client:
        page = await client.get("/accounts/login")
        headers = page.headers.get_list("set-cookie")
        response = await post_login(client, password="correct horse battery staple")
        assert response.status_code == 303
        headers += response.headers.get_list("set-cookie")
        page = await client.get("/flush")
        deletions = page.headers.get_list("set-cookie")
        assert len(deletions) == 1
        assert "Max-Age=0" in deletions[0]
        headers += deletions
        assert {header.partition("=")[0] for header in headers} == {
            "__Host-session",
            "__Host-session_csrf",
            "__Host-device",
        }
        assert all(header.endswith("; SameSite=None; Secure; Partitioned") for header in headers)


def test_over_http_a_partitioned_cookie_is_an_ordinary_one() -> None:
    """Browsers refuse Partitioned without Secure, and developers have no https."""

    async def change(request: Request) -> Response:
        request.session["a"] = 1
        return PlainTextResponse("")

    sessions = Middleware(SessionMiddleware, store=MemoryStore(), cookie=Cookie(partitioned=True))
    app = Starlette(routes=[Route("/", change)], middleware=[sessions])
    with TestClient(app) as client:
        assert "Partitioned" not in client.get("/").headers["set-cookie"]


# Deletion


@pytest.mark.parametrize(
    "cookie",
    [Cookie(), Cookie(domain="shop.example", path="/accounts"), Cookie(prefix=False)],
    ids=["host", "domain", "plain"],
)
@pytest.mark.parametrize("base_url", ["http://shop.example", "https://shop.example"])
async def test_a_cookie_that_opens_nothing_is_deleted_at_logout_only(
    database: Database, cookie: Cookie, base_url: str
) -> None:
    auth = Auth(database, secret_key=SECRET_KEY, sessions=MemoryStore(), cookie=cookie)
    is_secure = base_url.startswith("https")
    name = cookie.names[is_secure]
    async with client_of(make_app(auth), base_url=base_url, headers={"cookie": f"{name}=dead"}) as client:
        for path in ("/", "/whoami", "/members", "/accounts/login", "/forget"):
            headers = (await client.get(path)).headers.get_list("set-cookie")
            assert not [header for header in headers if header.startswith(f"{name}=")], path
        expected = [f"{name}=", f"Path={cookie.path}"]
        expected += [f"Domain={cookie.domain}"] if cookie.domain else []
        expected += ["Max-Age=0", "Expires=Thu, 01 Jan 1970 00:00:00 GMT", "HttpOnly", "SameSite=Lax"]
        expected += ["Secure"] if is_secure else []
        for method, path in (("GET", "/flush"), ("POST", "/accounts/logout"), ("GET", "/fail")):
            response = await client.request(method, path, headers={"origin": base_url})
            assert response.headers["set-cookie"].split("; ") == expected
    async with client_of(make_app(auth), base_url=base_url) as client:
        assert "set-cookie" not in (await client.get("/flush")).headers


@pytest.mark.parametrize("store", [CookieStore(SECRET_KEY), MemoryStore()], ids=["cookie", "memory"])
async def test_a_flushed_session_that_is_filled_again_keeps_its_new_cookie(database: Database, store: Any) -> None:
    async def restart(request: Request) -> Response:
        session: Any = request.session
        session.flush()
        session["new"] = 1
        return PlainTextResponse("")

    auth = Auth(database, secret_key=SECRET_KEY, sessions=store)
    app = Starlette(routes=[Route("/", restart)], middleware=middleware(auth))
    async with client_of(app, headers={"cookie": "session=dead"}) as client:
        [header] = (await client.get("/")).headers.get_list("set-cookie")
        assert "Max-Age=1209600" in header

"""The account pages: redirects, headers, malformed forms and replaced templates."""

import re
from pathlib import Path
from typing import Any

import pytest
from databases import Database
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.templating import Jinja2Templates

from starlette_auth import Auth, User, auth_context
from starlette_auth.http.urls import safe_url

from ..conftest import PASSWORD, client_of, installed, post_login, token_in, with_tables
from ..support.apps import make_app

pytestmark = with_tables

SAME_ORIGIN = {"origin": "http://testserver"}
UNSAFE_URLS = [
    "https://evil.example/",
    "http://evil.example",
    "//evil.example",
    "///evil.example",
    "////evil.example",
    "/\\evil.example",
    "\\\\evil.example",
    "\\/evil.example",
    "/\t/evil.example",
    "/\n/evil.example",
    "\t//evil.example",
    " //evil.example",
    " https://evil.example",
    "\x00//evil.example",
    "\x1f//evil.example",
    "javascript:alert(1)",
    "JavaScript:alert(1)",
    "java\nscript:alert(1)",
    "data:text/html,x",
    "vbscript:x",
    "file:///etc/passwd",
    "ftp://evil.example/",
    "https:evil.example",
    "https:/evil.example",
    "https:///evil.example",
    "http:\\\\evil.example",
    "https://testserver@evil.example/",
    "https://evil.example/testserver",
    "https://testserver.evil.example/",
    "https://evil.example#testserver",
    "https://evil.example?testserver",
    "https://evil.example\\@testserver",
    "https://user:pass@testserver/",
    "//testserver@evil.example",
    "//evil.example:80",
    "//[::1]",
    "//[",
    "http://[::1",
    "evil.example",
    "evil.example/path",
    "./path",
    "../path",
    "?query",
    "#fragment",
    "@evil.example",
    ":80",
    "//",
    "///",
    "\\",
    "\x7f/",
    "/\ud800",
    "/path with space",
    "/path\r\nSet-Cookie: a=b",
    "\u2028//evil.example",
    "\uff0f\uff0fevil.example",
    "https\uff1a//evil.example",
    "http://\u2100.example/",
    "/" + "x" * 3000,
    "mailto:ann@example.org",
    "blob:https://evil.example/x",
    "about:blank",
    "//evil%2eexample",
]


@pytest.mark.parametrize("url", UNSAFE_URLS)
def test_an_unsafe_url_is_replaced_by_the_default(url: str) -> None:
    assert safe_url(url, default="/home") == "/home"


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("/", "/"),
        ("/a/b?c=d&e=f#g", "/a/b?c=d&e=f#g"),
        ("/a?next=https://example.org/", "/a?next=https://example.org/"),
        ("/caf\u00e9?q=\u2603", "/caf%C3%A9?q=%E2%98%83"),
        ("/a%2Fb?c=%C3%A9", "/a%2Fb?c=%C3%A9"),
        ('/"><script>', "/%22%3E%3Cscript%3E"),
        ("https://Shop.example/cart", "https://shop.example/cart"),
        ("//shop.example/cart", "/home"),
        ("http://shop.example/cart", "/home"),
        ("https://shop.example:8443/", "/home"),
        (None, "/home"),
        ("", "/home"),
    ],
)
def test_a_safe_url_is_kept_and_quoted(url: str | None, expected: str) -> None:
    assert safe_url(url, default="/home", allowed_hosts=["shop.example"], require_https=True) == expected


@pytest.mark.parametrize("url", UNSAFE_URLS)
async def test_an_unsafe_next_does_not_redirect_to_another_site(tmp_path: Path, url: str) -> None:
    async with (
        Database(f"sqlite+aiosqlite:///{tmp_path}/x.sqlite3") as database,
        installed(database) as auth,
        client_of(make_app(auth)) as client,
    ):
        await auth.users.create_user("ann", password=PASSWORD)
        next_url = url.encode("utf-8", "surrogatepass").decode("utf-8", "replace")
        page = await client.get("/accounts/login", params={"next": next_url})
        assert "evil" not in page.text or 'value="/' in page.text
        data = {"username": "ann", "password": PASSWORD, "next": next_url}
        response = await client.post("/accounts/login", data=data, headers=SAME_ORIGIN)
        assert response.status_code == 303
        location = response.headers["location"]
        assert location.startswith("/")
        assert not location.startswith(("//", "/\\"))


async def test_a_failed_login_keeps_next(auth: Auth, ann: User) -> None:
    async with client_of(make_app(auth)) as client:
        page = await client.get("/accounts/login?next=/members%3Fa=1")
        assert '<input type="hidden" name="next" value="/members?a=1">' in page.text
        failed = await post_login(client, password="wrong", next="/members?a=1")
        assert '<input type="hidden" name="next" value="/members?a=1">' in failed.text
        assert (await post_login(client, next="/members?a=1")).headers["location"] == "/members?a=1"


async def test_a_login_may_redirect_to_next_hosts(database: Database) -> None:
    async with installed(database, next_hosts=["shop.example"], login_redirect_url="/home") as auth:
        await auth.users.create_user("ann", password=PASSWORD)
        async with client_of(make_app(auth)) as client:
            assert (await post_login(client, next="http://shop.example/cart")).headers[
                "location"
            ] == "http://shop.example/cart"
            assert (await post_login(client, next="http://evil.example/")).headers["location"] == "/home"
            response = await client.post("/accounts/logout", data={"next": "/bye"}, headers=SAME_ORIGIN)
            assert response.headers["location"] == "/bye"


async def test_account_pages_cannot_be_cached_or_framed(auth: Auth) -> None:
    async with client_of(make_app(auth)) as client:
        response = await client.get("/accounts/login")
        assert response.headers["cache-control"] == "no-store"
        assert response.headers["referrer-policy"] == "same-origin"
        assert response.headers["x-content-type-options"] == "nosniff"
        assert "frame-ancestors 'none'" in response.headers["content-security-policy"]
        assert response.headers["vary"] == "Cookie"
        assert re.findall("<script(?! src=)", response.text) == []
        assert "style=" not in response.text


async def test_the_login_form_has_autocomplete_tokens_for_password_managers(auth: Auth) -> None:
    async with client_of(make_app(auth)) as client:
        page = (await client.get("/accounts/login")).text
    assert 'autocomplete="username"' in page
    assert 'autocomplete="current-password"' in page
    assert 'type="text"' in page


async def test_the_label_names_the_login_field(database: Database) -> None:
    async with installed(database, login_fields=["email"]) as auth, client_of(make_app(auth)) as client:
        page = (await client.get("/accounts/login")).text
        assert "E-mail address" in page
        assert 'type="email"' in page


async def test_the_login_page_shows_who_is_logged_in(auth: Auth, ann: User) -> None:
    async with client_of(make_app(auth)) as client:
        await post_login(client)
        assert "You are logged in as <bdi>ann</bdi>" in (await client.get("/accounts/login")).text


async def test_the_logged_out_page_says_if_the_user_is_still_logged_in(auth: Auth, ann: User) -> None:
    async with client_of(make_app(auth)) as client:
        await post_login(client)
        page = (await client.get("/accounts/logged_out")).text
        assert "You are still logged in" in page
        data = {"csrfmiddlewaretoken": token_in(page)}
        page = (await client.post("/accounts/logout", data=data, follow_redirects=True)).text
        assert "You are logged out" in page


async def test_submitted_values_are_escaped(auth: Auth) -> None:
    async with client_of(make_app(auth)) as client:
        page = (await post_login(client, '"><script>alert(1)</script>')).text
    assert "<script>" not in page
    assert "&lt;script&gt;" in page


async def test_the_stylesheet_may_be_cached(auth: Auth) -> None:
    async with client_of(make_app(auth)) as client:
        page = (await client.get("/accounts/login")).text
        link = page.split('rel="stylesheet" href="')[1].split('"')[0]
        response = await client.get(link)
        assert response.headers["content-type"].startswith("text/css")
        assert "immutable" in response.headers["cache-control"]
        assert "set-cookie" not in response.headers


@pytest.mark.parametrize(
    ("content", "media_type", "status"),
    [
        (b"username=ann&username=bob&password=x", "application/x-www-form-urlencoded", 400),
        (b"{}", "application/json", 422),
        (b"[1]", "application/json", 400),
        (b"{", "application/json", 400),
        (b'{"username": 1}', "application/json", 400),
        (b'{"username": "a", "username": "b"}', "application/json", 400),
        (b"[" * 60_000, "application/json", 400),
        (b"{}", "text/plain", 415),
        (b"", "", 415),
        (b"username=" + b"x" * 70_000, "application/x-www-form-urlencoded", 413),
        (b"&".join(b"a%d=1" % n for n in range(99)), "application/x-www-form-urlencoded", 400),
        (b"--x\r\nbroken", "multipart/form-data; boundary=x", 422),
        (b"--x\r\n", "multipart/form-data", 400),
        (
            b'--x\r\nContent-Disposition: form-data; name="username"; filename="a"\r\n\r\nx\r\n--x--\r\n',
            "multipart/form-data; boundary=x",
            400,
        ),
        (b"username=%00%ff%ed%a0%80&password=%ed%a0%80", "application/x-www-form-urlencoded", 400),
    ],
)
async def test_a_malformed_form_gets_the_right_status(auth: Auth, content: bytes, media_type: str, status: int) -> None:
    async with client_of(make_app(auth)) as client:
        response = await client.post(
            "/accounts/login", content=content, headers={**SAME_ORIGIN, "content-type": media_type}
        )
        assert response.status_code == status


async def test_a_body_without_a_content_length_is_cut_off_at_the_limit(auth: Auth) -> None:
    async def long_body() -> Any:
        for _ in range(20):
            yield b"a" * 10_000

    async with client_of(make_app(auth)) as client:
        headers = {**SAME_ORIGIN, "content-type": "application/x-www-form-urlencoded"}
        assert (await client.post("/accounts/login", content=long_body(), headers=headers)).status_code == 413
        headers["content-length"] = "x"
        assert (await client.post("/accounts/login", content=b"a", headers=headers)).status_code == 413


# Templates of the application


async def test_an_application_can_replace_a_single_template(database: Database, tmp_path: Path) -> None:
    directory = tmp_path / "templates" / "registration"
    directory.mkdir(parents=True)
    (directory / "logged_out.html").write_text("{% extends 'auth_base.html' %}{% block content %}Bye!{% endblock %}")
    async with installed(database, templates=[tmp_path / "templates"]) as auth, client_of(make_app(auth)) as client:
        page = (await client.get("/accounts/logged_out")).text
        assert "Bye!" in page
        assert "auth.css" in page
        assert "Log in" in (await client.get("/accounts/login")).text


async def test_templates_of_the_application_get_user_and_permissions(auth: Auth, ann: User, tmp_path: Path) -> None:
    (tmp_path / "page.html").write_text(
        "{{ user.display_name }}|{{ perms.polls.add_vote }}|{{ perms.polls.close }}|{{ perms.shop.any }}|"
        "{{ 'polls.add_vote' in perms }}|{{ 'polls' in perms }}|{{ 'shop' in perms }}|"
        "{{ 'yes' if perms.polls else 'no' }}|{{ 'yes' if perms.shop else 'no' }}|{{ 'yes' if perms else 'no' }}|"
        "{{ auth_url('login') }}|{{ csrf_input }}|{{ csrf_token }}"
    )
    templates = Jinja2Templates(tmp_path, context_processors=[auth_context])
    templates.env.auto_reload = False
    templates.get_template("page.html")

    async def page(request: Request) -> Response:
        return templates.TemplateResponse(request, "page.html")

    await auth.users.create_permission("polls.add_vote")
    await auth.users.grant(ann, "polls.add_vote")
    async with client_of(make_app(auth, Route("/page", page))) as client:
        await post_login(client)
        text = (await client.get("/page")).text
        assert text.startswith("ann|True|False|False|True|True|False|yes|no|no|/accounts/login|")
        assert token_in(text)
        assert len(text.rpartition("|")[2]) == 86
        client.cookies.clear()
        assert (await client.get("/page")).text.startswith("|False|False|False|False|False|False|no|no|no|")


async def test_perms_cannot_be_listed(auth: Auth, ann: User) -> None:
    async def page(request: Request) -> Response:
        perms = auth_context(request)["perms"]
        with pytest.raises(TypeError, match="get_all_permissions"):
            list(perms)
        assert not hasattr(perms, "_private")
        return Response()

    async with client_of(make_app(auth, Route("/page", page))) as client:
        assert (await client.get("/page")).status_code == 200

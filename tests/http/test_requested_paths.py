"""Tests of the requested path in pages and redirects: it never leads to another site."""

from html import unescape
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urljoin, urlsplit

import pytest
from databases import Database
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Mount, Route
from starlette.types import Message

from starlette_auth import (
    Auth,
    LoginRequiredMiddleware,
    User,
    fresh_login_required,
    login_required,
    middleware,
    permission_required,
    routes,
)
from starlette_auth.http.urls import requested_url
from starlette_auth.testing import FrozenClock

from ..conftest import PASSWORD, any_database, client_of, installed, post_login, with_tables

pytestmark = [with_tables, any_database]

SITE = "http://testserver"
PATHS = [
    "//evil.example/x",
    "///evil.example/x",
    "////evil.example",
    "//evil.example",
    "//",
    "//evil.example:80/x?a=//b.example",
    "/%2Fevil.example/x",
    "/%2F%2Fevil.example/x",
    "/\\evil.example/x",
    "/%5Cevil.example/x",
    "//\\evil.example/x",
    "/%09/evil.example/x",
    "/.//evil.example/x",
    "//user@evil.example/x",
    "//[evil.example/x",
]


@fresh_login_required(keep=("title",))
async def fresh(request: Request) -> Response:
    form = await request.form()
    return JSONResponse({"path": request.path_params["path"], "title": form.get("title", "")})


@login_required
async def members(request: Request) -> Response:
    return PlainTextResponse(request.path_params["path"])


@permission_required("polls.add_vote")
async def voters(request: Request) -> Response:
    return PlainTextResponse("")


def app_of(auth: Auth, endpoint: Any, *more: Middleware) -> Starlette:
    catch_all = Route("/{path:path}", endpoint, methods=["GET", "POST"])
    return Starlette(routes=[Mount("/accounts", routes=routes(auth)), catch_all], middleware=[*middleware(auth), *more])


async def request_path(app: Starlette, method: str, path: str, cookies: str = "", body: bytes = b"") -> Any:
    """Sends a path as it is, which HTTP clients and browsers would change, and returns the response."""
    messages: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": body}

    async def send(message: Message) -> None:
        messages.append(message)

    raw_path, _, query = path.partition("?")
    headers = [
        (b"host", b"testserver"),
        (b"origin", SITE.encode()),
        (b"content-type", b"application/x-www-form-urlencoded"),
        (b"cookie", cookies.encode()),
    ]
    scope = {
        "type": "http",
        "method": method,
        "scheme": "http",
        "path": unquote(raw_path),
        "query_string": query.encode(),
    }
    await app(
        {
            **scope,
            "raw_path": raw_path.encode(),
            "headers": [*headers, (b"accept", b"text/html")],
            "client": ("192.0.2.1", 1),
            "root_path": "",
        },
        receive,
        send,
    )
    text = b"".join(message.get("body", b"") for message in messages).decode()
    sent = {name.decode(): value.decode() for name, value in messages[0]["headers"]}
    return messages[0]["status"], sent, text


def leads_here(url: str) -> bool:
    """Returns whether a browser resolves this URL to our site. It reads a backslash as a slash, and drops tabs."""
    as_browser = url.replace("\\", "/").replace("\t", "")
    target = urlsplit(urljoin(f"{SITE}/accounts/login", as_browser))
    return (target.scheme, target.netloc) == ("http", "testserver") and not as_browser.startswith("//")


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("endpoint", [members, fresh, voters], ids=["login", "fresh login", "permission"])
async def test_a_login_returns_to_a_path_of_this_site(auth: Auth, ann: User, endpoint: Any, path: str) -> None:
    app = app_of(auth, endpoint)
    status, headers, _ = await request_path(app, "GET", path)
    assert status == 303
    wanted = parse_qs(urlsplit(headers["location"]).query)["next"][0]
    assert leads_here(wanted)
    async with client_of(app) as client:
        answer = await post_login(client, next=wanted)
        assert answer.status_code == 303
        assert leads_here(answer.headers["location"])


@pytest.mark.parametrize("path", PATHS)
async def test_the_required_login_returns_to_a_path_of_this_site(auth: Auth, path: str) -> None:
    app = app_of(auth, members, Middleware(LoginRequiredMiddleware))
    status, headers, _ = await request_path(app, "GET", path)
    assert status == 303
    assert leads_here(parse_qs(urlsplit(headers["location"]).query)["next"][0])


@pytest.mark.parametrize("path", PATHS)
async def test_a_saved_form_is_sent_to_this_site(database: Database, path: str) -> None:
    clock = FrozenClock()
    async with installed(database, clock=clock) as auth:
        await auth.users.create_user("ann", password=PASSWORD)
        app = app_of(auth, fresh)
        async with client_of(app, headers={"origin": SITE}) as client:
            await post_login(client)
            clock.tick(600)
            cookies = "; ".join(f"{name}={value}" for name, value in client.cookies.items())
            _, headers, _ = await request_path(app, "GET", path, cookies)
            assert leads_here(parse_qs(urlsplit(headers["location"]).query)["next"][0])
            status, _, page = await request_path(app, "POST", path, cookies, b"title=hello")
            assert status == 403
            fields = {name: unescape(value) for name, value in hidden_fields(page).items()}
            assert leads_here(fields["next"])
            answer = await client.post("/accounts/reauthenticate", data={**fields, "password": PASSWORD})
            action = unescape(answer.text.split('class="auth-resend" method="post" action="')[1].split('"')[0])
            assert leads_here(action)
            # The form arrives at the path that was requested.
            cookies = "; ".join(f"{name}={value}" for name, value in client.cookies.items())
            _, _, text = await request_path(app, "POST", action, cookies, b"title=hello")
            _, _, direct = await request_path(app, "POST", path, cookies, b"title=hello")
            assert text == direct
            assert "hello" in text


@pytest.mark.parametrize("tenant", ["/evil.example", "\\evil.example", "\t/evil.example", "a b", "shop", ""])
async def test_links_of_a_mounted_application_stay_on_this_site(auth: Auth, ann: User, tenant: str) -> None:
    """The path below which an application is mounted may come from the request."""
    inner = Starlette(routes=routes(auth), middleware=middleware(auth))
    outer = Starlette(routes=[Mount("/{tenant:path}", app=inner)])
    _, _, page = await request_path(outer, "GET", f"/{quote(tenant)}/login")
    links = [part.split('"')[0] for name in ("href", "action") for part in page.split(f'{name}="')[1:]]
    assert [link for link in links if link.endswith("login")]
    assert [link for link in map(unescape, links) if not leads_here(link)] == []
    _, headers, _ = await request_path(outer, "GET", f"/{quote(tenant)}/password_change")
    assert leads_here(headers["location"])


def hidden_fields(page: str) -> dict[str, str]:
    fields = {}
    for tag in page.split("<input ")[1:]:
        if 'type="hidden"' in tag.split(">")[0]:
            fields[tag.split('name="')[1].split('"')[0]] = tag.split('value="')[1].split('"')[0]
    return fields


@pytest.mark.parametrize("referer", ["http://testserver//evil.example/x", "http://testserver/\\evil.example"])
async def test_the_path_of_the_referring_page_is_of_this_site(database: Database, referer: str) -> None:
    clock = FrozenClock()

    @fresh_login_required
    async def transfer(request: Request) -> Response:
        return PlainTextResponse("")

    async with installed(database, clock=clock) as auth:
        await auth.users.create_user("ann", password=PASSWORD)
        async with client_of(app_of(auth, transfer), headers={"origin": SITE}) as client:
            await post_login(client)
            clock.tick(600)
            page = await client.post("/transfer", data={"a": "b"}, headers={"referer": referer})
            assert leads_here(unescape(hidden_fields(page.text)["next"]))


@pytest.mark.parametrize(
    ("path", "url"),
    [
        ("/a//b", "/a//b"),
        ("//a", "/%2Fa"),
        ("///a", "/%2F/a"),
        ("/", "/"),
        ("", "/"),
        ("http://evil.example/x", "/http%3A//evil.example/x"),
        ("/\\evil", "/%5Cevil"),
        ("/é", "/%C3%A9"),
    ],
)
def test_a_requested_url_is_a_path(path: str, url: str) -> None:
    """A server may pass the whole request target, as in "GET http://evil.example/x", as the path."""
    assert requested_url({"path": path, "query_string": b""}) == url
    assert requested_url({"path": path, "query_string": b"a=//b"}) == f"{url}?a=//b"

"""The account pages find each other wherever they are mounted, and behind a proxy that removes a prefix."""

import re
from collections.abc import Callable
from html import unescape
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from databases import Database
from fastapi import APIRouter, FastAPI
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import BaseRoute, Host, Mount, Route, Router
from starlette.types import ASGIApp, Receive, Scope, Send

from starlette_auth import (
    Auth,
    Cookie,
    EmailChange,
    ImproperlyConfigured,
    LoginRequiredMiddleware,
    Registration,
    get_auth,
    login_required,
    middleware,
    redirect_to_login,
    routes,
)
from starlette_auth.testing import CollectingMailer

from ..conftest import PASSWORD, any_database, client_of, installed, with_tables

pytestmark = [with_tables, any_database]

SITE = "http://testserver"


@login_required
async def members(request: Request) -> Response:
    return PlainTextResponse("members")


def members_route() -> Route:
    return Route("/members", members, methods=["GET", "POST"])


class Prefixed:
    """A server behind a proxy that removes a prefix, and tells the application about it as its root_path."""

    def __init__(self, app: ASGIApp, *, keeps_prefix: bool) -> None:
        self.app = app
        self.keeps_prefix = keeps_prefix  # uvicorn puts it back

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        assert scope["path"].startswith("/proxied/"), f"{scope['path']} does not reach the proxy"
        path = scope["path"] if self.keeps_prefix else scope["path"].removeprefix("/proxied")
        await self.app({**scope, "path": path, "root_path": "/proxied"}, receive, send)


def nested(auth: Auth) -> ASGIApp:
    pages = Mount("/b", routes=[Mount("/accounts", routes=routes(auth))])
    return Starlette(routes=[Mount("/a", routes=[members_route(), pages])], middleware=middleware(auth))


def named_mounts(auth: Auth) -> ASGIApp:
    pages = Mount("/accounts", routes=routes(auth), name="accounts")
    return Starlette(routes=[Mount("/a", routes=[members_route(), pages], name="a")], middleware=middleware(auth))


def bare(auth: Auth) -> ASGIApp:
    return Starlette(routes=[members_route(), *routes(auth)], middleware=middleware(auth))


def inner_with_middleware(auth: Auth) -> ASGIApp:
    inner = Starlette(routes=[members_route(), Mount("/accounts", routes=routes(auth))], middleware=middleware(auth))
    return Starlette(routes=[Mount("/a", routes=[Mount("/b", app=inner)])])


def outer_with_middleware(auth: Auth) -> ASGIApp:
    inner = FastAPI()
    inner.router.routes += [members_route(), Mount("/accounts", app=Router(routes=routes(auth)))]
    return Starlette(routes=[Mount("/a", app=inner)], middleware=middleware(auth))


def wrapped(auth: Auth) -> Any:
    inner = Starlette(routes=[members_route(), *routes(auth)])
    app: Any = Starlette(routes=[Mount("/a", app=GZipMiddleware(inner))])
    for layer in reversed(middleware(auth)):
        app = layer.cls(app, *layer.args, **layer.kwargs)
    return app


def middleware_of_a_mount(auth: Auth) -> ASGIApp:
    inner: list[BaseRoute] = [members_route(), Mount("/accounts", routes=routes(auth))]
    return Starlette(routes=[Mount("/a", routes=[Mount("/b", routes=inner, middleware=middleware(auth))])])


def with_parameters(auth: Auth) -> ASGIApp:
    pages = Mount("/accounts", routes=routes(auth))
    return Starlette(routes=[Mount("/{tenant}", routes=[members_route(), pages])], middleware=middleware(auth))


def included(auth: Auth) -> ASGIApp:
    app = FastAPI(middleware=middleware(auth))
    app.include_router(APIRouter(routes=[members_route(), *routes(auth)]), prefix="/a/accounts")
    return app


def of_a_host(auth: Auth) -> ASGIApp:
    inner = Router(routes=[members_route(), Mount("/accounts", routes=routes(auth))])
    return Starlette(routes=[Host("testserver", app=inner)], middleware=middleware(auth))


def in_another_application(auth: Auth) -> ASGIApp:
    pages = Starlette(routes=routes(auth), middleware=middleware(auth))
    api = Starlette(routes=[members_route()], middleware=middleware(auth))
    return Starlette(routes=[Mount("/accounts", app=pages), Mount("/a", app=api)])


Build = Callable[[Auth], ASGIApp]
SITES: dict[Build, tuple[str, str]] = {  # where the members' page and the account pages are
    nested: ("/a/members", "/a/b/accounts"),
    named_mounts: ("/a/members", "/a/accounts"),
    bare: ("/members", ""),
    inner_with_middleware: ("/a/b/members", "/a/b/accounts"),
    outer_with_middleware: ("/a/members", "/a/accounts"),
    wrapped: ("/a/members", "/a"),
    middleware_of_a_mount: ("/a/b/members", "/a/b/accounts"),
    with_parameters: ("/shop%25/members", "/shop%25/accounts"),
    included: ("/a/accounts/members", "/a/accounts"),
    of_a_host: ("/members", "/accounts"),
    in_another_application: ("/a/members", "/accounts"),
}


def links_in(page: str) -> list[str]:
    return [unescape(link) for link in re.findall(r'(?:href|action|src)="([^"]*)"', page)]


async def walk(client: httpx.AsyncClient, members_path: str, pages: str) -> None:
    """Visits the pages as a browser does, from one to the next."""
    answer = await client.get(f"{members_path}?a=1")
    location = answer.headers["location"]
    assert urlsplit(location).path == f"{pages}/login"
    assert parse_qs(urlsplit(location).query) == {"next": [f"{members_path}?a=1"]}
    page = await client.get(location)
    assert page.status_code == 200
    home = pages.removesuffix("/accounts").removesuffix("/b") or "/"
    for link in links_in(page.text):
        if link.rstrip("/") not in (home.rstrip("/"), "/a/b", "/proxied", "", "/shop%25", "/a"):
            assert link.startswith(f"{pages}/"), link
            assert (await client.get(link)).status_code == 200
    data = {"username": "ann", "password": PASSWORD, "next": f"{members_path}?a=1"}
    answer = await client.post(f"{pages}/login", data=data)
    assert answer.headers["location"] == f"{members_path}?a=1"
    assert (await client.get(f"{members_path}?a=1")).text == "members"
    answer = await client.get(f"{pages}/password_change")
    assert f'href="{pages}/auth.css' in answer.text
    answer = await client.post(f"{pages}/logout")
    assert answer.headers["location"] == f"{pages}/logged_out"
    answer = await client.post(f"{pages}/password_reset", data={"email": "ann@example.org"})
    assert answer.headers["location"] == f"{pages}/password_reset/done"


async def site_of(auth: Auth) -> None:
    await auth.users.create_user("ann", "ann@example.org", PASSWORD)


OPTIONS: dict[str, Any] = {"base_url": SITE, "features": [Registration(), EmailChange()]}


@pytest.mark.parametrize("build", SITES, ids=lambda build: build.__name__)
async def test_the_pages_find_each_other_however_they_are_mounted(database: Database, build: Build) -> None:
    mailer = CollectingMailer()
    async with installed(database, mailer=mailer, **OPTIONS) as auth:
        await site_of(auth)
        members_path, pages = SITES[build]
        async with client_of(build(auth), headers={"origin": SITE}) as client:
            await walk(client, members_path, pages)
            await auth.mail_queue.drain()
            link = mailer.links()[0]
            assert link.startswith(f"{SITE}{pages}/reset/")
            page = await client.get(link, follow_redirects=True)
            assert "Choose a new password" in page.text


@pytest.mark.parametrize(
    ("build", "keeps_prefix"),
    [
        *((build, keeps_prefix) for build in (nested, bare, included) for keeps_prefix in (False, True)),
        (inner_with_middleware, True),  # without the prefix, Starlette does not find the mount around our middleware
    ],
    ids=lambda value: getattr(value, "__name__", f"keeps prefix {value}"),
)
async def test_behind_a_proxy_all_links_have_its_prefix(database: Database, build: Build, keeps_prefix: bool) -> None:
    mailer = CollectingMailer()
    async with installed(database, mailer=mailer, **OPTIONS) as auth:
        await site_of(auth)
        members_path, pages = SITES[build]
        app = Prefixed(build(auth), keeps_prefix=keeps_prefix)
        async with client_of(app, headers={"origin": SITE}) as client:
            await walk(client, f"/proxied{members_path}", f"/proxied{pages}")
            await auth.mail_queue.drain()
            assert mailer.links()[0].startswith(f"{SITE}/proxied{pages}/reset/")


async def test_pages_that_are_mounted_twice_lead_to_their_own_mount(auth: Auth) -> None:
    both = [
        Mount(f"/{name}", routes=[members_route(), Mount("/accounts", routes=routes(auth))]) for name in ("one", "two")
    ]
    async with client_of(Starlette(routes=both, middleware=middleware(auth))) as client:
        for name in ("one", "two"):
            login = (await client.get(f"/{name}/members")).headers["location"]
            assert login.startswith(f"/{name}/accounts/login?")
            page = (await client.get(login)).text
            assert f'action="/{name}/accounts/login"' in page
            assert f'href="/{name}/accounts/auth.css' in page


async def test_a_page_of_the_application_with_the_name_of_ours_replaces_it_everywhere(auth: Auth) -> None:
    async def own_login(request: Request) -> Response:
        return PlainTextResponse("own login")

    own = Route("/enter", own_login, name="login")
    app = Starlette(routes=[own, Mount("/accounts", routes=routes(auth))], middleware=middleware(auth))
    async with client_of(app) as client:
        location = (await client.get("/accounts/password_change")).headers["location"]
        assert location == "/enter?next=%2Faccounts%2Fpassword_change"


@pytest.mark.parametrize("build", [nested, outer_with_middleware, wrapped, included], ids=lambda build: build.__name__)
async def test_the_required_login_lets_the_pages_through_however_they_are_mounted(auth: Auth, build: Build) -> None:
    members_path, pages = SITES[build]
    async with client_of(_require_login(build(auth), auth)) as client:
        assert (await client.get(members_path)).status_code == 303
        assert (await client.get(f"{pages}/password_reset")).status_code == 200
        assert (await client.get(f"{pages}/auth.css")).status_code == 200
        assert (await client.get(f"{pages}/login")).status_code == 200


def _require_login(app: ASGIApp, auth: Auth) -> ASGIApp:
    """Puts LoginRequiredMiddleware behind the middlewares of an application."""
    if isinstance(app, Starlette):
        app.user_middleware.append(Middleware(LoginRequiredMiddleware))
        return app
    inner: Any = app  # the outermost of our middlewares
    inner.app.app.app = LoginRequiredMiddleware(inner.app.app.app)
    return app


async def test_the_required_login_ends_at_a_login_page_that_is_not_ours(database: Database) -> None:
    async def own_login(request: Request) -> Response:
        return PlainTextResponse("own login")

    async with installed(database, login_url="/enter") as auth:
        stack = [*middleware(auth), Middleware(LoginRequiredMiddleware)]
        app = Starlette(routes=[Route("/enter", own_login), members_route()], middleware=stack)
        async with client_of(app, follow_redirects=True) as client:
            assert (await client.get("/members")).text == "own login"


async def test_a_prefix_ends_at_a_slash(auth: Auth) -> None:
    """With the root_path "/app", "/apple" is a page below it whose prefix the proxy has removed."""
    app = Starlette(routes=[Route("/lemons", members)], middleware=middleware(auth, exclude=("/le",)))
    transport = httpx.ASGITransport(app, root_path="/app")
    async with httpx.AsyncClient(transport=transport, base_url=SITE, headers={"accept": "text/html"}) as client:
        with pytest.raises(ImproperlyConfigured, match="no route with the name 'login'"):
            await client.get("/lemons")
    app = Starlette(routes=[Route("/apple", members), *routes(auth)], middleware=middleware(auth, exclude=("/le",)))
    transport = httpx.ASGITransport(app, root_path="/app")
    async with httpx.AsyncClient(transport=transport, base_url=SITE, headers={"accept": "text/html"}) as client:
        assert (await client.get("/apple")).headers["location"] == "/app/login?next=%2Fapp%2Fapple"


async def test_names_may_be_those_of_mounts_too(auth: Auth) -> None:
    async def links(request: Request) -> Response:
        url_for = get_auth(request).url_for
        names = [url_for(request, "shop:accounts:login"), url_for(request, "static", path="/a.css")]
        return PlainTextResponse(" ".join([*names, url_for(request, "login"), url_for(request, "/x")]))

    pages = Mount("/accounts", routes=routes(auth), name="accounts")
    shop = Mount("/shop", routes=[pages], name="shop")
    static = Mount("/static", app=PlainTextResponse("css"), name="static")
    app = Starlette(routes=[Route("/links", links), shop, static], middleware=middleware(auth))
    async with client_of(app) as client:
        expected = "/shop/accounts/login /static/a.css /shop/accounts/login /x"
        assert (await client.get("/links")).text == expected


async def test_an_application_that_is_mounted_in_itself_has_links(auth: Auth) -> None:
    app = Starlette(middleware=middleware(auth))
    app.router.routes += [members_route(), Mount("/again", app=app.router), *routes(auth)]
    async with client_of(app) as client:
        assert (await client.get("/members")).headers["location"] == "/login?next=%2Fmembers"


@pytest.mark.parametrize("path", ["/a/members", "/a/b/members"])
async def test_pages_behind_a_middleware_that_hides_them_find_each_other(auth: Auth, path: str) -> None:
    inner = Starlette(routes=[members_route(), Mount("/b", routes=[members_route(), *routes(auth)])])

    async def hiding(scope: Scope, receive: Receive, send: Send) -> None:
        await inner(scope, receive, send)

    async with client_of(Starlette(routes=[Mount("/a", app=hiding)], middleware=middleware(auth))) as client:
        login = (await client.get(path)).headers["location"]
        assert login.startswith("/a/b/login?next=")
        assert 'action="/a/b/login"' in (await client.get(login)).text


async def test_a_function_may_redirect_to_the_login_from_everywhere(database: Database) -> None:
    async def page(request: Request) -> Response:
        return redirect_to_login(request)

    async with installed(database, cookie=Cookie(path="/a")) as auth:
        inner = Starlette(routes=[Route("/page", page)])
        outer = [Mount("/a", app=inner), Mount("/accounts", routes=routes(auth))]
        async with client_of(Starlette(routes=outer, middleware=middleware(auth))) as client:
            assert (await client.get("/a/page")).headers["location"] == "/accounts/login?next=%2Fa%2Fpage"

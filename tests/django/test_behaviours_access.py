"""Behaviours of Django's own tests of decorators, mixins, middlewares and template variables, as they are here.

Behaviours that other tests of this package prove are left out.
"""

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pytest
from databases import Database
from starlette.applications import Starlette
from starlette.endpoints import HTTPEndpoint
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.templating import Jinja2Templates

from starlette_auth import (
    AnonymousUser,
    Auth,
    ImproperlyConfigured,
    LoginRequiredMiddleware,
    User,
    auth_context,
    get_auth,
    login,
    login_not_required,
    login_required,
    logout,
    middleware,
    permission_required,
    redirect_to_login,
    user_passes_test,
)
from starlette_auth.testing import log_in

from ..conftest import PASSWORD, any_database, client_of, installed, post_login, with_tables
from ..support.apps import app_routes, make_app, whoami

pytestmark = [with_tables, any_database]

OWN = {"origin": "http://testserver"}
PERMS = ["auth_tests.add_customuser", "auth_tests.change_customuser"]
DECORATORS: dict[str, Any] = {
    "login_required": login_required,
    "login_required()": login_required(),
    "permission_required": permission_required("polls.add_vote"),
    "user_passes_test": user_passes_test(lambda user: True),
    "login_not_required": login_not_required,
}


async def page(request: Request) -> Response:
    return PlainTextResponse("page")


def sync_page(request: Request) -> Response:
    return PlainTextResponse("page")


class Page(HTTPEndpoint):
    async def get(self, request: Request) -> Response:
        return PlainTextResponse("page")


ENDPOINTS: list[Any] = [page, sync_page, Page]


async def is_joe(user: Any) -> bool:
    await anyio.sleep(0.001)  # waits, as a database query would
    return bool(user.username == "joe")


# Decorators


@pytest.mark.parametrize("decorator", DECORATORS.values(), ids=DECORATORS)
def test_a_decorated_function_is_async_if_it_was_so_before(decorator: Any) -> None:
    async def async_view(request: Request) -> Response:
        return Response()

    def sync_view(request: Request) -> Response:
        return Response()

    class CallableView:
        def __call__(self, request: Request) -> Response:
            return Response()

    assert inspect.iscoroutinefunction(decorator(async_view))
    assert not inspect.iscoroutinefunction(decorator(sync_view))
    assert not inspect.iscoroutinefunction(decorator(CallableView()))


@pytest.mark.parametrize("endpoint", ENDPOINTS)
@pytest.mark.parametrize("options", [{}, {"login_url": "/somewhere/"}], ids=["default", "login_url"])
async def test_a_login_opens_a_page_that_requires_it(
    auth: Auth, ann: User, endpoint: Any, options: dict[str, Any]
) -> None:
    guarded = login_required(**options)(endpoint) if options else login_required(endpoint)
    async with client_of(make_app(auth, Route("/page", guarded))) as client:
        login_url = options.get("login_url", "/accounts/login")
        assert (await client.get("/page")).headers["location"] == f"{login_url}?next=%2Fpage"
        await post_login(client)
        assert (await client.get("/page")).text == "page"


def test_login_not_required_marks_the_function() -> None:
    @login_not_required
    async def view(request: Request) -> Response:
        return Response()

    assert view.login_required is False  # type: ignore[attr-defined]


@pytest.mark.parametrize("endpoint", ENDPOINTS)
async def test_all_named_permissions_are_required(auth: Auth, endpoint: Any) -> None:
    for name in PERMS:
        await auth.users.create_permission(name)
    joe = await auth.users.create_user("joe")
    guards = [PERMS, set(PERMS), tuple(PERMS), iter(PERMS), PERMS[0], [*PERMS, "auth_tests.nonexistent"]]
    pages = [Route(f"/{number}", permission_required(guard)(endpoint)) for number, guard in enumerate(guards)]
    stacked = [
        Route("/stacked", login_required(permission_required(PERMS)(endpoint))),
        Route("/stacked2", permission_required(PERMS)(login_required(endpoint))),
    ]
    async with client_of(make_app(auth, *pages, *stacked)) as client:
        for number in range(len(guards)):
            assert (await client.get(f"/{number}")).headers["location"] == f"/accounts/login?next=%2F{number}"
        assert (await client.get("/stacked")).headers["location"] == "/accounts/login?next=%2Fstacked"
        await log_in(client, joe, auth)
        await auth.users.grant(joe, PERMS[0])
        assert [(await client.get(f"/{number}")).status_code for number in range(len(guards))] == [403] * 4 + [200, 403]
        assert [(await client.get(path)).status_code for path in ("/stacked", "/stacked2")] == [403, 403]
        await auth.users.grant(joe, PERMS[1])
        assert [(await client.get(f"/{number}")).status_code for number in range(len(guards))] == [200] * 5 + [403]
        assert [(await client.get(path)).status_code for path in ("/stacked", "/stacked2")] == [200, 200]


@pytest.mark.parametrize("endpoint", ENDPOINTS)
@pytest.mark.parametrize("test", [is_joe, lambda user: user.username == "joe"], ids=["async", "sync"])
async def test_a_test_may_be_async_whatever_the_endpoint_is(auth: Auth, endpoint: Any, test: Any) -> None:
    app = make_app(auth, Route("/page", user_passes_test(test)(endpoint)))
    async with client_of(app) as client:
        assert (await client.get("/page")).headers["location"] == "/accounts/login?next=%2Fpage"
        for username, status in (("joe", 200), ("jim", 403)):
            await log_in(client, await auth.users.create_user(username), auth)
            assert (await client.get("/page")).status_code == status


async def test_a_test_of_visitors_may_let_them_in(auth: Auth) -> None:
    app = make_app(auth, Route("/page", user_passes_test(lambda user: user.is_anonymous)(page)))
    async with client_of(app) as client:
        assert (await client.get("/page")).text == "page"


async def test_an_async_test_of_a_sync_endpoint_in_the_event_loop_raises(auth: Auth, ann: User) -> None:
    guarded = user_passes_test(is_joe)(sync_page)

    async def calls_it(request: Request) -> Response:
        return guarded(request)

    async with client_of(make_app(auth, Route("/page", calls_it))) as client:
        with pytest.raises(ImproperlyConfigured, match=r"test_behaviours_access\.py.*Write it with `async def`\.$"):
            await client.get("/page")


OPTIONS: list[tuple[dict[str, Any], str]] = [
    ({}, "/accounts/login?next=%2Frand"),
    ({"login_url": "/login/"}, "/login/?next=%2Frand"),
    ({"login_url": "login"}, "/accounts/login?next=%2Frand"),
    (
        {"login_url": "https://www.remote.example.com/login"},
        "https://www.remote.example.com/login?next=http%3A%2F%2Ftestserver%2Frand",
    ),
    ({"redirect_field_name": "goto"}, "/accounts/login?goto=%2Frand"),
    ({"redirect_field_name": None}, "/accounts/login"),
    ({"redirect_field_name": None, "login_url": "/login/?a=1"}, "/login/?a=1"),
]


@pytest.mark.parametrize("endpoint", ENDPOINTS)
@pytest.mark.parametrize(("options", "expected"), OPTIONS)
async def test_each_decorator_leads_to_the_login_page_that_it_names(
    auth: Auth, endpoint: Any, options: dict[str, Any], expected: str
) -> None:
    decorators = (
        login_required(**options),
        permission_required("polls.add_vote", **options),
        user_passes_test(lambda user: False, **options),
    )

    async def own_logic(request: Request) -> Response:
        return redirect_to_login(request, **options)

    for guarded in (*(decorator(endpoint) for decorator in decorators), own_logic):
        async with client_of(make_app(auth, Route("/rand", guarded))) as client:
            assert (await client.get("/rand")).headers["location"] == expected


async def test_a_redirect_to_the_login_page_without_next_causes_no_loop(auth: Auth, ann: User) -> None:
    async def start(request: Request) -> Response:
        return redirect_to_login(request, redirect_field_name=None)

    navigation = {**OWN, "sec-fetch-site": "same-origin", "sec-fetch-dest": "document", "sec-fetch-mode": "navigate"}
    async with client_of(make_app(auth, Route("/", start)), headers=navigation) as client:
        await post_login(client)
        answer = await client.get("/", follow_redirects=True)
        assert (answer.url.path, len(answer.history)) == ("/accounts/login", 1)
        assert "You are logged in as <bdi>ann</bdi>" in answer.text


@pytest.mark.parametrize("url", ["https:///login", "//evil.example/login", "javascript:x", "/a b", 5])
def test_each_decorator_refuses_an_invalid_login_url(url: Any) -> None:
    decorations: list[Callable[[], Any]] = [
        lambda: login_required(login_url=url),
        lambda: permission_required("polls.add_vote", login_url=url),
        lambda: user_passes_test(lambda user: True, login_url=url),
    ]
    for decorate in decorations:
        with pytest.raises(ImproperlyConfigured, match=r'login_url="/login"\.$'):
            decorate()


# Middlewares


async def test_the_user_of_a_request_changes_with_its_login_and_logout(auth: Auth, ann: User) -> None:
    bob = await auth.users.create_user("bob")
    seen: list[Any] = []

    async def change(request: Request) -> Response:
        seen.append(request.user)
        await login(request, bob)
        seen.append(request.user)
        await logout(request)
        seen.append(request.user)
        return Response()

    async with client_of(make_app(auth, Route("/change", change)), headers=OWN) as client:
        await post_login(client)
        await client.get("/change")
        assert seen == [ann, bob, AnonymousUser()]
        assert (await client.get("/whoami")).json()["username"] == ""


async def test_a_new_password_empties_the_session(auth: Auth, ann: User) -> None:
    async with client_of(make_app(auth), headers=OWN) as client:
        await post_login(client)
        await client.get("/remember?cart=full")
        assert (await client.get("/whoami")).json()["username"] == "ann"
        await auth.users.set_password(ann, "an entirely new passphrase")
        assert (await client.get("/whoami")).json() == {"username": "", "session": {}, "scopes": []}


async def test_a_required_login_uses_the_settings_and_the_options_of_an_endpoint(database: Database) -> None:
    custom: Any = {"login_url": "/custom_login/", "redirect_field_name": "step"}
    options = {"login_url": "/settings_login/", "redirect_field_name": "redirect_to"}
    pages = [
        *(Route(f"/protected{number}", endpoint) for number, endpoint in enumerate(ENDPOINTS)),
        *(
            Route(f"/decorated{number}", login_required(**custom)(endpoint))
            for number, endpoint in enumerate(ENDPOINTS)
        ),
    ]
    async with installed(database, **options) as auth:
        stack = [*middleware(auth), Middleware(LoginRequiredMiddleware)]
        app = Starlette(routes=[*pages, *app_routes(auth)], middleware=stack)
        async with client_of(app) as client:
            for number in range(len(ENDPOINTS)):
                location = (await client.get(f"/protected{number}")).headers["location"]
                assert location == f"/settings_login/?redirect_to=%2Fprotected{number}"
                location = (await client.get(f"/decorated{number}")).headers["location"]
                assert location == f"/custom_login/?step=%2Fdecorated{number}"
            await log_in(client, await auth.users.create_user("ann"), auth)
            for route in pages:
                assert (await client.get(route.path)).text == "page"


# Template variables


async def test_a_template_sees_the_user_and_asks_for_permissions(auth: Auth, ann: User, tmp_path: Path) -> None:
    (tmp_path / "page.html").write_text(
        "{{ user }}|{{ user.id }}|{{ user.username }}|{{ url_for('userpage', name=user.username) }}|"
        "{{ perms.auth and 'yes' }}|{{ perms.auth.add_permission }}|{{ perms.auth.nonexistent }}|"
        "{{ perms.nonexistent and 'yes' or 'no' }}|{{ 'auth' in perms }}|{{ 'auth.add_permission' in perms }}|"
        "{{ 'auth.nonexistent' in perms }}|{{ 'nonexistent' in perms }}"
    )
    templates = Jinja2Templates(tmp_path, context_processors=[auth_context])
    templates.env.auto_reload = False
    templates.get_template("page.html")

    async def show(request: Request) -> Response:
        context = auth_context(request)
        assert context["user"] == await get_auth(request).authenticate(username="ann", password=PASSWORD)
        assert repr(context["perms"]) == "Perms(<User: ann>)"
        with pytest.raises(TypeError, match=r"perms\.auth\.codename"):
            "add_permission" in context["perms"].auth  # noqa: B015  it would be False for any name
        return templates.TemplateResponse(request, "page.html")

    await auth.users.create_permission("auth.add_permission")
    await auth.users.grant(ann, "auth.add_permission")
    pages = Route("/page", show), Route("/userpage/{name}", whoami, name="userpage")
    async with client_of(make_app(auth, *pages)) as client:
        await post_login(client)
        text = (await client.get("/page")).text
    shown = f"ann|{ann.id}|ann|http://testserver/userpage/ann|yes|True|False|no|True|True|False|False"
    assert text == shown

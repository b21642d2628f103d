"""A form that is sent after the session ended: its named fields stay in the login page, and are sent after the login."""

import re
from collections.abc import AsyncIterator
from html import unescape
from pathlib import Path
from typing import Any

import httpx
import pytest
import sqlalchemy as sa
from databases import Database
from fastapi import APIRouter, Depends, FastAPI
from fastapi import Form as FastAPIForm
from starlette.applications import Starlette
from starlette.endpoints import HTTPEndpoint
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Mount, Route, Router

from starlette_auth import (
    Auth,
    CookieStore,
    ImproperlyConfigured,
    LoginRequiredMiddleware,
    User,
    complete_login,
    csrf_exempt,
    fresh_login_required,
    login_required,
    middleware,
    permission_required,
    routes,
    user_passes_test,
)
from starlette_auth.authentication import LoginOptions
from starlette_auth.testing import FrozenClock

from ..conftest import (
    PASSWORD,
    SECRET_KEY,
    any_database,
    client_of,
    installed,
    post_login,
    token_in,
    with_store,
    with_tables,
)
from ..support.apps import make_app

pytestmark = [with_tables, any_database]

SITE = {"origin": "http://testserver"}
KEEP = ("title", "text", "tag")


async def save(request: Request) -> Response:
    form = await request.form()
    return JSONResponse([(name, value) for name, value in form.multi_items() if name != "csrfmiddlewaretoken"])


def save_sync(request: Request) -> Response:
    return PlainTextResponse("saved")


async def csrf_keeping(request: Request) -> Response:
    return PlainTextResponse("saved")


csrf_keeping.login_options = LoginOptions(keep=frozenset(KEEP))  # type: ignore[attr-defined]


@login_required(keep=KEEP)
class Save(HTTPEndpoint):
    async def post(self, request: Request) -> Response:
        return await save(request)


ENDPOINTS: dict[str, Any] = {
    "login": login_required(keep=KEEP)(save),
    "permission": permission_required("polls.add_vote", keep=KEEP)(save),
    "test": user_passes_test(lambda user: user.is_active, keep=list(KEEP))(save),
    "fresh": fresh_login_required(keep=KEEP)(save),
    "class": Save,
}
FIELDS = {"title": 'é "quoted" <b>', "text": "one\ntwo", "tag": ["a", "b"], "password": "hunter2", "other": "x"}
KEPT = [["title", 'é "quoted" <b>'], ["text", "one\ntwo"], ["tag", "a"], ["tag", "b"]]


def app_of(auth: Auth, endpoint: Any) -> Starlette:
    return make_app(auth, Route("/save", endpoint, methods=["POST"]))


def hidden(page: str, name: str) -> str:
    match = re.search(rf'name="{name}" value="([^"]*)"', page)
    assert match, f"no {name} in the page"
    return unescape(match[1])


async def log_in(client: httpx.AsyncClient, page: str, username: str = "ann", **changed: str) -> httpx.Response:
    """Sends the login form of a page."""
    fields = {name: hidden(page, name) for name in ("csrfmiddlewaretoken", "next", "saved")}
    data = {**fields, "username": username, "password": PASSWORD, **changed}
    return await client.post("/accounts/login", data=data)


async def send_form(client: httpx.AsyncClient, page: str) -> httpx.Response:
    """Clicks on the button of the page after the login."""
    match = re.search(r'<form class="auth-resend" method="post" action="([^"]*)">(.*?)</form>', page, re.DOTALL)
    assert match, page
    data: dict[str, list[str]] = {}
    for name, value in re.findall(r'<input type="hidden" name="([^"]*)" value="([^"]*)">', match[2]):
        data.setdefault(unescape(name), []).append(unescape(value))
    return await client.post(unescape(match[1]), data=data)


@pytest.mark.parametrize("mode", ["headers", "strict"])
@pytest.mark.parametrize("name", ENDPOINTS)
async def test_the_named_fields_are_sent_after_the_login(database: Database, name: str, mode: Any) -> None:
    async with installed(database, csrf=mode) as auth:
        ann = await auth.users.create_user("ann", password=PASSWORD)
        await auth.users.create_permission("polls.add_vote")
        await auth.users.grant(ann, "polls.add_vote")
        async with client_of(app_of(auth, ENDPOINTS[name]), headers=SITE) as client:
            await post_login(client)
            token = token_in((await client.get("/accounts/password_change")).text)
            await auth.user_sessions.revoke_all(ann)
            page = await client.post("/save?a=1", data={"csrfmiddlewaretoken": token, **FIELDS})
            assert page.status_code == 403
            assert page.headers["cache-control"] == "no-store"
            assert "<h1>Log in</h1>" in page.text
            assert "hunter2" not in page.text
            wrong = await log_in(client, page.text, password="wrong")
            assert wrong.status_code == 422
            logged_in = await log_in(client, wrong.text)
            assert logged_in.status_code == 200
            assert "You are logged in as <bdi>ann</bdi>" in logged_in.text
            assert 'action="/save?a=1"' in logged_in.text
            assert "hunter2" not in logged_in.text
            assert (await client.get("/whoami")).json()["username"] == "ann"
            assert (await send_form(client, logged_in.text)).json() == KEPT


@pytest.mark.parametrize("kind", ["cookie", "database"])
async def test_a_form_with_the_token_of_a_session_that_is_gone_is_kept(database: Database, kind: str) -> None:
    """The browser has no cookie of the session any more, or only one that does not name it."""
    sessions = CookieStore(SECRET_KEY) if kind == "cookie" else None
    async with installed(database, csrf="strict", sessions=sessions) as auth:
        ann = await auth.users.create_user("ann", password=PASSWORD)
        async with client_of(app_of(auth, ENDPOINTS["login"]), headers=SITE) as client:
            await post_login(client)
            token = token_in((await client.get("/accounts/password_change")).text)
            await auth.users.set_password(ann, PASSWORD)
            if kind == "database":
                client.cookies.delete("session")
            page = await client.post("/save", data={"csrfmiddlewaretoken": token, **FIELDS})
            assert page.status_code == 403
            logged_in = await log_in(client, page.text)
            assert (await send_form(client, logged_in.text)).json() == KEPT


async def test_a_forged_token_does_not_reach_the_endpoint(database: Database) -> None:
    async with (
        installed(database, csrf="strict") as auth,
        client_of(app_of(auth, csrf_keeping), headers=SITE) as client,
    ):
        await client.get("/accounts/login")
        page = await client.post("/save", data={"csrfmiddlewaretoken": "x" * 86, **FIELDS})
        assert (page.status_code, page.text == "saved") == (403, False)
        page = await client.post("/save", data=FIELDS, headers={"origin": "https://evil.example"})
        assert (page.status_code, 'name="saved"' in page.text) == (403, False)


@pytest.mark.parametrize(
    "text", ["я" * 7_000, "中" * 5_000, "😀" * 3_500, '"' * 7_000], ids=["я", "中", "emoji", "quotes"]
)
async def test_texts_of_any_script_are_kept_up_to_16_kib(auth: Auth, ann: User, text: str) -> None:
    async with client_of(app_of(auth, ENDPOINTS["login"]), headers=SITE) as client:
        page = await client.post("/save", data={"text": text})
        logged_in = await log_in(client, page.text)
        assert (await send_form(client, logged_in.text)).json() == [["text", text]]


async def test_endpoints_that_are_not_async_and_single_methods_keep_fields_too(auth: Auth, ann: User) -> None:
    class Methods(HTTPEndpoint):
        @login_required(keep=KEEP)
        async def post(self, request: Request) -> Response:
            return PlainTextResponse("saved")

    for endpoint in (login_required(keep=KEEP)(save_sync), Methods):
        async with client_of(app_of(auth, endpoint), headers=SITE) as client:
            page = await client.post("/save", data=FIELDS)
            assert (await send_form(client, (await log_in(client, page.text)).text)).text == "saved"


async def test_the_required_login_keeps_the_fields_too(auth: Auth, ann: User) -> None:
    stack = [*middleware(auth), Middleware(LoginRequiredMiddleware)]
    pages = [Route("/save", ENDPOINTS["login"], methods=["POST"]), Mount("/accounts", routes=routes(auth))]
    async with client_of(Starlette(routes=pages, middleware=stack), headers=SITE) as client:
        page = await client.post("/save", data=FIELDS)
        assert (await send_form(client, (await log_in(client, page.text)).text)).json() == KEPT


async def test_in_fastapi_the_fields_are_kept_by_decorators_and_dependencies(auth: Auth, ann: User) -> None:
    app = FastAPI(middleware=middleware(auth))
    app.mount("/accounts", Router(routes=routes(auth)))

    @app.post("/decorated")
    @login_required(keep=("title", "text"))
    async def decorated(request: Request, title: str = FastAPIForm(), text: str = FastAPIForm()) -> Any:
        return {"title": title, "text": text}

    @app.post("/dependent", dependencies=[Depends(login_required(keep=("title", "text")))])
    async def dependent(title: str = FastAPIForm(), text: str = FastAPIForm()) -> Any:
        return {"title": title, "text": text}

    for path in ("/decorated", "/dependent"):
        async with client_of(app, headers=SITE) as client:
            page = await client.post(path, data={"title": "a", "text": "b", "other": "c"})
            assert page.status_code == 403
            logged_in = await log_in(client, page.text)
            assert (await send_form(client, logged_in.text)).json() == {"title": "a", "text": "b"}


@pytest.mark.parametrize("required", [False, True], ids=["without the middleware", "with the middleware"])
async def test_a_dependency_keeps_the_fields_of_a_form_whose_token_is_too_old(
    database: Database, required: bool
) -> None:
    async def endpoint(request: Request) -> Response:
        return await save(request)

    async with installed(database, csrf="strict") as auth:
        ann = await auth.users.create_user("ann", password=PASSWORD)
        app, router = FastAPI(middleware=middleware(auth)), APIRouter(dependencies=[Depends(login_required(keep=KEEP))])
        router.add_api_route("/save", endpoint, methods=["POST"], response_model=None)
        app.include_router(router)
        app.mount("/accounts", Router(routes=routes(auth)))
        if required:
            app.user_middleware.append(Middleware(LoginRequiredMiddleware))
        async with client_of(app, headers=SITE) as client:
            await post_login(client)
            token = token_in((await client.get("/accounts/password_change")).text)
            await auth.user_sessions.revoke_all(ann)
            client.cookies.delete(auth.cookie.name)
            page = await client.post("/save", data={"csrfmiddlewaretoken": token, **FIELDS})
            assert page.status_code == 403
            logged_in = await log_in(client, page.text)
            assert (await send_form(client, logged_in.text)).json() == KEPT


async def test_a_form_that_cannot_be_kept_leads_back_to_its_page(auth: Auth) -> None:
    async with client_of(app_of(auth, ENDPOINTS["login"]), headers=SITE) as client:
        client.headers["referer"] = "http://testserver/write?draft=1"
        bodies: list[dict[str, Any]] = [
            {"data": {"text": "x" * 17_000}},
            {"data": {"text": "x" * 70_000}},
            {"data": {"other": "x"}},
            {"data": {"text": "a"}, "files": {"upload": ("a.txt", b"a")}},
            {"content": b"text=%ff", "headers": {"content-type": "application/x-www-form-urlencoded"}},
            {"content": b"text", "headers": {"content-type": "text/plain"}},
            {},
        ]
        for body in bodies:
            answer = await client.post("/save", **body)
            assert (answer.status_code, answer.headers["location"]) == (
                303,
                "/accounts/login?next=%2Fwrite%3Fdraft%3D1",
            )
        answer = await client.post("/save", json={"text": "a"}, headers={"accept": "application/json"})
        assert answer.status_code == 401
        assert (await client.post("/members", data={"text": "a"})).status_code == 303


async def test_a_custom_login_page_gets_the_redirect(database: Database) -> None:
    async def own_page(request: Request) -> Response:
        return PlainTextResponse("own page")

    async with installed(database, login_url="/enter") as auth:
        app = make_app(auth, Route("/save", ENDPOINTS["login"], methods=["POST"]), Route("/enter", own_page))
        async with client_of(app, headers=SITE) as client:
            assert (await client.post("/save", data=FIELDS)).headers["location"] == "/enter"


async def test_no_form_of_another_site_is_kept(auth: Auth, ann: User) -> None:
    """An attacker's page sends a form to a webhook, and the visitor would send it again after the login."""
    app = app_of(auth, csrf_exempt(login_required(keep=KEEP)(save)))
    for headers in ({"sec-fetch-site": "cross-site"}, {"origin": "https://evil.example"}):
        async with client_of(app, headers=headers) as client:
            answer = await client.post("/save", data=FIELDS)
            assert answer.status_code == 303
            assert "saved" not in answer.headers["location"]


async def test_a_kept_form_is_bound_to_browser_url_and_content(auth: Auth, ann: User) -> None:
    app = app_of(auth, ENDPOINTS["login"])
    async with client_of(app, headers=SITE) as client, client_of(app, headers=SITE) as other:
        page = (await client.post("/save", data=FIELDS)).text
        saved = hidden(page, "saved")
        other_page = (await other.post("/save", data=FIELDS)).text
        for forged in (saved + " ", saved.replace("one", "two"), "x", ":[]", "é:é", hidden(other_page, "saved")):
            answer = await log_in(client, page, saved=forged)
            assert answer.status_code == 400
        assert (await log_in(client, page, next="/members")).status_code == 400
        assert (await client.get("/whoami")).json()["username"] == ""
        assert (await log_in(other, page)).status_code in (400, 403)
        assert (await log_in(client, page)).status_code == 200


async def test_another_user_sees_whose_login_sends_the_form(auth: Auth, ann: User) -> None:
    """The next user of a device must not send a form without knowing. Therefore no script sends it."""
    await auth.users.create_user("ben", password=PASSWORD)
    async with client_of(app_of(auth, ENDPOINTS["login"]), headers=SITE) as client:
        page = await client.post("/save", data=FIELDS)
        logged_in = await log_in(client, page.text, "ben")
        assert "You are logged in as <bdi>ben</bdi>" in logged_in.text
        assert "has not been sent yet" in logged_in.text
        assert '<div class="auth-waits">\n<form class="auth-resend"' in logged_in.text
        assert "é &#34;quoted&#34; &lt;b&gt;" in logged_in.text


def with_steps(auth: Auth, number: int) -> Starlette:
    """Adds login steps to `auth`; returns an application with a page for each step, which asks for a code."""

    def make_step(name: str) -> Any:
        async def step(request: Request, user: User) -> Response | None:
            if name in request.session.get("passed", []):
                return None
            request.session.update({"pending_user": str(user.id)})
            return RedirectResponse(f"/step/{name}", status_code=303)

        return step

    async def enter_code(request: Request) -> Response:
        user = await auth.users.get(request.session["pending_user"])
        if (await request.form())["code"] != "right" or user is None:
            return PlainTextResponse("wrong", 422)
        session: Any = request.session
        session["passed"] = [*session.get("passed", []), request.path_params["name"]]
        session.cycle_key()
        return await complete_login(request, user)

    auth.login_steps.extend(make_step(str(number)) for number in range(number))
    page = Route("/step/{name}", enter_code, methods=["POST"])
    return make_app(auth, Route("/save", ENDPOINTS["login"], methods=["POST"]), page)


async def pass_steps(client: httpx.AsyncClient, answer: httpx.Response, number: int) -> httpx.Response:
    """Enters a wrong code and then the right code in each step; returns the last response."""
    for name in range(number):
        assert answer.headers["location"] == f"/step/{name}"
        assert (await client.post(f"/step/{name}", data={"code": "wrong"})).status_code == 422
        answer = await client.post(f"/step/{name}", data={"code": "right"})
    return answer


@pytest.fixture
async def stepped(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Auth]:
    async with with_store(request.param, tmp_path) as auth:
        await auth.users.create_user("ann", password=PASSWORD)
        yield auth


@pytest.mark.parametrize("stepped", ["memory", "cookie", "sqlite", "django sqlite", "django cookie"], indirect=True)
@pytest.mark.parametrize("number", [1, 3])
async def test_the_fields_are_sent_after_any_number_of_login_steps(stepped: Auth, number: int) -> None:
    async with client_of(with_steps(stepped, number), headers=SITE) as client:
        page = await client.post("/save?a=1", data={**FIELDS, "text": "x" * 12_000})
        wrong = await log_in(client, page.text, password="wrong")
        answer = await pass_steps(client, await log_in(client, wrong.text), number)
        assert answer.status_code == 303
        page = await client.get(answer.headers["location"])
        assert page.headers["cache-control"] == "no-store"
        assert 'action="/save?a=1"' in page.text
        assert "hunter2" not in page.text
        assert (await client.get(answer.headers["location"])).text.count("x" * 12_000) == 2, "a reload shows it again"
        assert (await send_form(client, page.text)).json() == [KEPT[0], ["text", "x" * 12_000], *KEPT[2:]]
        assert (await client.get("/whoami")).json()["username"] == "ann"


async def test_the_page_of_a_kept_form_shows_it_to_its_user_only(auth: Auth, ann: User) -> None:
    await auth.users.create_user("ben", password=PASSWORD)
    async with client_of(with_steps(auth, 1), headers=SITE) as client, client_of(make_app(auth)) as other:
        page = await client.post("/save", data=FIELDS)
        waiting = await log_in(client, page.text)
        assert waiting.headers["location"] == "/step/0"
        answer = await client.get("/accounts/login/form")
        assert (answer.status_code, "/accounts/login?" in answer.headers["location"]) == (303, True)
        answer = await pass_steps(client, await post_login(client, "ben", next="/members"), 1)
        assert answer.headers["location"] == "/members"
        answer = await client.get("/accounts/login/form")
        assert (answer.status_code, answer.headers["location"]) == (303, "/")
        auth.login_steps.clear()
        other.headers.update(SITE)
        await post_login(other)
        assert (await other.get("/accounts/login/form")).headers["location"] == "/"


async def test_a_kept_form_is_shown_once_and_forgotten_at_the_logout(auth: Auth, ann: User) -> None:
    async with client_of(with_steps(auth, 1), headers=SITE) as client:
        page = await client.post("/save", data=FIELDS)
        answer = await pass_steps(client, await log_in(client, page.text), 1)
        assert answer.headers["location"] == "/accounts/login/form"
        again = await post_login(client, next="/members")
        assert again.headers["location"] == "/members"
        assert 'action="/save"' in (await client.get("/accounts/login/form")).text
        await client.post("/accounts/logout")
        assert (await pass_steps(client, await post_login(client), 1)).headers["location"] == "/"


async def test_a_kept_form_waits_for_the_steps_of_a_login_for_one_hour(database: Database) -> None:
    clock = FrozenClock()
    async with installed(database, clock=clock) as auth:
        await auth.users.create_user("ann", password=PASSWORD)
        async with client_of(with_steps(auth, 1), headers=SITE) as client:
            page = await client.post("/save", data=FIELDS)
            answer = await log_in(client, page.text)
            clock.tick(60 * 60)
            assert (await pass_steps(client, answer, 1)).headers["location"] == "/"
            await auth.clear_expired()
            assert await auth.gateway.fetch_all(sa.select(auth.tables.token)) == []


async def test_a_login_in_a_second_tab_skips_no_login_step_and_loses_no_form(auth: Auth, ann: User) -> None:
    """The session of the browser belongs to another user when the login with the kept form asks for a code."""
    await auth.users.create_user("ben", password=PASSWORD)
    app = with_steps(auth, 1)
    steps, auth.login_steps[:] = list(auth.login_steps), []
    async with client_of(app, headers=SITE) as client:
        page = await client.post("/save", data=FIELDS)
        await post_login(client, "ben")
        auth.login_steps.extend(steps)
        answer = await log_in(client, page.text)
        assert answer.headers["location"] == "/step/0"
        assert (await client.get("/whoami")).json()["username"] == "ben"
        assert (await client.get("/accounts/login/form")).headers["location"] == "/"
        answer = await pass_steps(client, answer, 1)
        assert (await client.get("/whoami")).json()["username"] == "ann"
        page = await client.get(answer.headers["location"])
        assert (await send_form(client, page.text)).json() == KEPT


async def test_a_site_without_the_page_of_kept_forms_redirects_as_usual(auth: Auth, ann: User) -> None:
    app = with_steps(auth, 1)
    async with client_of(app, headers=SITE) as client:
        answer = await log_in(client, (await client.post("/save", data=FIELDS)).text)
        app.router.routes[:] = [route for route in app.router.routes if getattr(route, "path", "") == "/step/{name}"]
        assert (await pass_steps(client, answer, 1)).headers["location"] == "/"


def test_keep_is_a_list_of_names() -> None:
    for keep in ("title", [1], [None]):
        for decorate in (login_required, fresh_login_required):
            with pytest.raises(ImproperlyConfigured, match="keep is a list"):
                decorate(keep=keep)  # type: ignore[arg-type]
        with pytest.raises(ImproperlyConfigured, match="keep is a list"):
            permission_required("polls.add_vote", keep=keep)  # type: ignore[arg-type]

"""Tests for the steps of a login, such as a second factor, and the pending login between them."""

import itertools
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import sqlalchemy as sa
from databases import Database
from starlette.applications import Starlette
from starlette.authentication import requires
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Mount, Route

from starlette_auth import (
    Auth,
    BearerSessions,
    LoginPending,
    LoginStep,
    PendingLogin,
    User,
    UserLoggedIn,
    advance,
    complete_login,
    get_auth,
    login,
    login_required,
    middleware,
    pending_login,
    routes,
)
from starlette_auth.testing import FrozenClock

from ..conftest import (
    DJANGO,
    ON_SERVER,
    PASSWORD,
    SECRET_KEY,
    any_database,
    installed,
    name_of,
    post_login,
    with_store,
    with_tables,
)
from ..conftest import client_of as any_client_of

pytestmark = [with_tables, any_database]

JSON = {"username": "ann", "password": PASSWORD, "next": "/members", "remember": True}
CODES = {"totp": "123456", "policy": "yes", "sms": "1"}


class CodeStep(LoginStep):
    """Asks for a code, until the login has the method with the name of the step."""

    def __init__(self, name: str) -> None:
        self.name = name

    async def is_needed(self, request: Request, login: PendingLogin) -> bool:
        return not login.has(self.name)

    def url(self, request: Request) -> str:
        return f"/step/{self.name}"


async def step_page(request: Request) -> Response:
    form = await request.json() if request.headers.get("content-type") == "application/json" else await request.form()
    login_id: Any = form.get("login")
    pending = await pending_login(request, login_id)
    name = request.path_params["name"]
    if form.get("code") != CODES[name]:
        return PlainTextResponse(f"{name} of {pending.user.username}? {pending.id}", 422)
    return await advance(request, pending, name)


async def show_step(request: Request) -> Response:
    pending = await pending_login(request)
    return PlainTextResponse(f"{pending.user.username} {pending.id}")


async def whoami(request: Request) -> Response:
    methods = [method.name for method in request.auth.methods]
    return JSONResponse({"username": request.user.username, "methods": methods, "level": request.auth.level})


@login_required
async def members(request: Request) -> Response:
    return PlainTextResponse("members only")


@requires("level2")
async def vault(request: Request) -> Response:
    return PlainTextResponse("gold")


def client_of(app: Starlette, **options: Any) -> httpx.AsyncClient:
    return any_client_of(app, headers={"origin": "http://testserver"}, **options)


def asks_to_log_in(response: httpx.Response) -> bool:
    """Returns whether there is no pending login any more."""
    return response.status_code == 303 and response.headers["location"] == "/accounts/login"


def make_app(auth: Auth, *more: Route, **options: Any) -> Starlette:
    own = [
        Route("/", whoami),
        Route("/members", members),
        Route("/vault", vault),
        Route("/step/{name}", step_page, methods=["POST"]),
        Route("/step/{name}", show_step),
        *more,
    ]
    return Starlette(routes=[*own, Mount("/accounts", routes=routes(auth, **options))], middleware=middleware(auth))


@pytest.fixture
def clock() -> FrozenClock:
    return FrozenClock()


@pytest.fixture
async def auth(database: Database, clock: FrozenClock) -> AsyncIterator[Auth]:
    async with installed(database, clock=clock, session_limits="aal1") as auth:
        auth.login_steps.append(CodeStep("totp"))
        await auth.users.create_user("ann", "ann@example.org", PASSWORD)
        await auth.users.create_user("ben", password=PASSWORD)
        yield auth


@pytest.fixture
async def browser(auth: Auth) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(make_app(auth)) as client:
        yield client


async def who(client: httpx.AsyncClient) -> str:
    username: str = (await client.get("/")).json()["username"]
    return username


async def login_id(client: httpx.AsyncClient, name: str = "totp") -> str:
    return (await client.get(f"/step/{name}")).text.split()[1]


# What users see


async def test_a_step_keeps_next_and_remember_and_the_user_stays_a_visitor_until_its_end(
    auth: Auth, browser: httpx.AsyncClient
) -> None:
    browser.cookies["theme"] = "dark"
    response = await post_login(browser, next="/members", remember="on")
    assert (response.status_code, response.headers["location"]) == (303, "/step/totp")
    assert await who(browser) == ""
    assert (await browser.get("/members")).headers["location"].startswith("/accounts/login?")
    assert (await browser.post("/step/totp", data={"code": "0"})).status_code == 422
    assert await who(browser) == ""
    response = await browser.post("/step/totp", data={"code": "123456", "login": await login_id(browser)})
    assert (response.status_code, response.headers["location"]) == (303, "/members")
    assert "max-age" in response.headers["set-cookie"].lower(), "the login is remembered"
    assert (await browser.get("/")).json() == {"username": "ann", "methods": ["password", "totp"], "level": 2}
    assert asks_to_log_in(await browser.get("/step/totp")), "the pending login has ended"


@pytest.mark.parametrize("kind", [*ON_SERVER, "cookie", *DJANGO, "django cookie"], ids=name_of)
async def test_a_pending_login_is_in_each_store(kind: str, tmp_path: Path) -> None:
    async with with_store(kind, tmp_path) as auth:
        auth.login_steps.append(CodeStep("totp"))
        ann = await auth.users.create_user("ann", password=PASSWORD)
        async with client_of(make_app(auth)) as client:
            await post_login(client)
            assert (await client.post("/step/totp", data={"code": "123456"})).status_code == 303
            assert await who(client) == "ann"
            await client.post("/accounts/logout")
            await post_login(client)
            await auth.users.set_password(ann, "another good password")
            assert asks_to_log_in(await client.post("/step/totp", data={"code": "123456"}))
            assert await who(client) == ""


async def test_a_login_without_steps_writes_no_entry(auth: Auth, browser: httpx.AsyncClient) -> None:
    auth.login_steps.clear()
    await post_login(browser)
    [row] = await auth.gateway.fetch_all(sa.select(auth.tables.session))
    assert "_auth_hash" in str(row) or "_auth_user_hash" in str(row)
    assert "_pending" not in str(row)
    assert "_auth_methods" not in str(row)
    assert (await browser.get("/")).json() == {"username": "ann", "methods": ["password"], "level": 1}


# Attacks 1 to 7 of a login in two steps


async def test_attack_1_no_page_acts_for_a_user_whose_login_is_pending(auth: Auth, browser: httpx.AsyncClient) -> None:
    await post_login(browser)
    for route in make_app(auth).routes:
        paths = [f"/accounts{page.path}" for page in getattr(route, "routes", [])] or [getattr(route, "path", "")]
        for path in paths:
            response = await browser.get(path.replace("{name}", "totp").replace("{uidb64}/{token}", "MQ/x"))
            assert "ann" not in response.text or path == "/step/{name}", path
    assert await who(browser) == ""


@pytest.mark.parametrize("order", list(itertools.permutations(["totp", "policy", "sms"])), ids="-".join)
async def test_attack_2_the_order_of_the_requests_skips_no_step(auth: Auth, order: tuple[str, ...]) -> None:
    auth.login_steps.extend([CodeStep("policy"), CodeStep("sms")])
    async with client_of(make_app(auth)) as client:
        await post_login(client)
        for name in order:
            assert await who(client) == ""
            response = await client.post(f"/step/{name}", data={"code": CODES[name]})
        assert response.headers["location"] == "/"
        assert await who(client) == "ann"


async def test_attack_3_a_stolen_cookie_of_half_a_login_ends_with_its_next_proof(
    auth: Auth, browser: httpx.AsyncClient
) -> None:
    await post_login(browser)
    half = browser.cookies["session"]
    await browser.post("/step/totp", data={"code": "123456"})
    async with client_of(make_app(auth), cookies={"session": half}) as thief:
        assert await who(thief) == ""
        assert asks_to_log_in(await thief.get("/step/totp"))


async def test_attack_3_a_planted_session_key_gets_no_half_login(auth: Auth) -> None:
    async with client_of(make_app(auth)) as mallory:
        await post_login(mallory, "ben")
        async with client_of(make_app(auth), cookies={"session": mallory.cookies["session"]}) as victim:
            await post_login(victim)
            assert "ann" in (await victim.get("/step/totp")).text
        assert asks_to_log_in(await mallory.get("/step/totp")), "the key has ended"


async def test_attacks_4_and_5_the_form_of_another_login_is_refused(auth: Auth, browser: httpx.AsyncClient) -> None:
    await post_login(browser)
    first = await login_id(browser)
    await post_login(browser, "ben")
    response = await browser.post("/step/totp", data={"code": "123456", "login": first})
    assert response.status_code == 409
    assert "Another login began in this browser" in response.text
    assert await who(browser) == ""
    await browser.post("/step/totp", data={"code": "123456", "login": await login_id(browser)})
    assert await who(browser) == "ben"


@pytest.mark.parametrize(("seconds", "location"), [(899, "/"), (900, "/accounts/login")])
async def test_attack_6_a_pending_login_ends_after_15_minutes(
    auth: Auth, browser: httpx.AsyncClient, clock: FrozenClock, seconds: int, location: str
) -> None:
    auth.login_steps.append(CodeStep("policy"))
    await post_login(browser)
    clock.tick(600)
    await browser.post("/step/totp", data={"code": "123456"})  # does not extend it
    clock.tick(seconds - 600)
    assert (await browser.post("/step/policy", data={"code": "yes"})).headers["location"] == location


async def test_attack_7_a_pending_login_ends_with_the_account_and_its_password(auth: Auth) -> None:
    ann = await auth.users.get_by_username("ann")
    assert ann is not None
    for change in ({"is_active": False}, {"password": "x"}, None):
        await auth.users.update(ann, is_active=True)
        await auth.users.set_password(ann, PASSWORD)
        async with client_of(make_app(auth)) as client:
            await post_login(client)
            if change is None:
                await auth.users.delete(ann)
            elif "password" in change:
                await auth.users.set_password(ann, "another good password")
            else:
                await auth.users.update(ann, **change)
            assert asks_to_log_in(await client.post("/step/totp", data={"code": "123456"}))
            assert await who(client) == ""


async def test_a_new_secret_key_ends_no_pending_login(auth: Auth, database: Database, clock: FrozenClock) -> None:
    async with client_of(make_app(auth)) as client:
        await post_login(client)
        async with installed(
            database, clock=clock, secret_key=["a-newer-key-of-forty-characters-01234567", SECRET_KEY]
        ) as newer:
            newer.login_steps.append(CodeStep("totp"))
            async with client_of(make_app(newer), cookies=dict(client.cookies)) as same:
                assert (await same.post("/step/totp", data={"code": "123456"})).status_code == 303


async def test_a_user_who_is_logged_in_stays_until_the_end_of_another_login(
    auth: Auth, browser: httpx.AsyncClient
) -> None:
    await post_login(browser, "ben")
    await browser.post("/step/totp", data={"code": "123456"})
    await post_login(browser)
    assert await who(browser) == "ben"
    await browser.post("/step/totp", data={"code": "123456"})
    assert await who(browser) == "ann"
    await browser.post("/accounts/logout")
    await post_login(browser)
    await browser.post("/accounts/logout")
    assert asks_to_log_in(await browser.get("/step/totp")), "a logout ends a pending login"


# Events, devices


async def test_only_the_end_of_a_login_is_a_login(auth: Auth, browser: httpx.AsyncClient) -> None:
    seen: list[Any] = []
    auth.events.on(LoginPending)(seen.append)
    auth.events.on(UserLoggedIn)(seen.append)
    await post_login(browser)
    ann = await auth.users.get_by_username("ann")
    assert ann is not None
    assert ann.last_login is None
    assert "device" not in browser.cookies, "a password alone makes no browser known"
    assert [(type(event), event.step, event.methods) for event in seen] == [(LoginPending, "totp", ("password",))]
    await browser.post("/step/totp", data={"code": "123456"})
    assert type(seen[-1]) is UserLoggedIn
    assert "device" in browser.cookies


# Programs


async def test_attack_11_a_program_gets_401_with_the_step(auth: Auth, clock: FrozenClock) -> None:
    async with client_of(make_app(auth)) as client:
        response = await client.post("/accounts/login", json=JSON)
        assert response.status_code == 401
        assert response.headers["content-type"] == "application/problem+json"
        problem = response.json()
        step = problem["step"]
        assert (problem["code"], step["name"], step["url"], step["expires_in"]) == (
            "login_step",
            "totp",
            "/step/totp",
            900,
        )
        clock.tick(60)
        answer = (await client.get("/accounts/session")).json()
        assert answer == {"user": None, "methods": [], "level": 0, "pending": {**step, "expires_in": 840}}
        response = await client.post("/step/totp", json={"code": "123456", "login": step["login"]})
        assert response.status_code == 303
        answer = (await client.get("/accounts/session")).json()
        assert answer["user"]["username"] == "ann"
        assert answer["methods"] == [{"name": "password", "age": 60}, {"name": "totp", "age": 0}]
        assert (answer["level"], answer["pending"]) == (2, None)


@pytest.mark.parametrize("status", [302, 303, 307])
async def test_attack_11_a_function_that_redirects_is_a_step_for_programs(auth: Auth, status: int) -> None:
    async def ask(request: Request, user: User) -> Response | None:
        return RedirectResponse("/sms", status)

    auth.login_steps[:] = [ask]
    async with client_of(make_app(auth)) as client:
        response = await client.post("/accounts/login", json=JSON)
        assert response.status_code == 401
        assert (response.json()["step"]["name"], response.json()["step"]["url"]) == ("ask", "/sms")
        assert (await post_login(client)).status_code == status, "a browser follows the redirect"


async def test_an_app_logs_in_with_a_step(database: Database, clock: FrozenClock) -> None:
    async with installed(database, clock=clock, features=[BearerSessions()]) as auth:
        auth.login_steps.append(CodeStep("totp"))
        await auth.users.create_user("ann", password=PASSWORD)
        async with client_of(make_app(auth)) as app:
            response = await app.post("/accounts/login", json={**JSON, "client": "app"})
            assert response.status_code == 401
            assert "set-cookie" not in response.headers
            half = response.headers["x-session-token"]
            bearer = {"authorization": f"Bearer {half}"}
            code = {"code": "123456", "login": response.json()["step"]["login"]}
            response = await app.post("/step/totp", json=code, headers=bearer)
            assert response.status_code == 200
            key = response.json()["token"]
            assert key == response.headers["x-session-token"] != half
            assert (await app.get("/", headers={"authorization": f"Bearer {key}"})).json()["level"] == 2
            assert (await app.get("/", headers=bearer)).json()["username"] == ""


# Login pages of the application


async def test_a_login_page_of_the_application_goes_through_the_steps_and_adds_its_proof(auth: Auth) -> None:
    async def other_login(request: Request) -> Response:
        user = await get_auth(request).users.get_by_username("ann")
        assert user is not None
        return await complete_login(request, user, request.query_params.get("next"), method="provider:corp")

    app = make_app(auth, Route("/other", other_login, methods=["POST"]))
    async with client_of(app) as client:
        assert (await client.post("/other?next=/members")).headers["location"] == "/step/totp"
        response = await client.post("/step/totp", data={"code": "123456"})
        assert response.headers["location"] == "/members"
        assert (await client.get("/")).json() == {"username": "ann", "methods": ["provider:corp", "totp"], "level": 2}
        assert (await client.get("/vault")).text == "gold"


async def test_a_function_that_asks_keeps_next_until_the_application_completes_the_login(auth: Auth) -> None:
    async def ask(request: Request, user: User) -> Response | None:
        return None if request.session.get("sent") else RedirectResponse("/sms", 303)

    async def sms(request: Request) -> Response:
        request.session["sent"] = True
        return await complete_login(request, (await pending_login(request)).user, method="sms")

    auth.login_steps[:] = [ask]
    async with client_of(make_app(auth, Route("/sms", sms, methods=["POST"]))) as client:
        assert (await post_login(client, next="/members")).headers["location"] == "/sms"
        assert (await client.post("/sms")).headers["location"] == "/members"
        assert (await client.get("/")).json() == {"username": "ann", "methods": ["password", "sms"], "level": 1}


async def test_a_step_that_refuses_leaves_nothing(auth: Auth, browser: httpx.AsyncClient) -> None:
    async def policy(request: Request, user: User) -> Response | None:
        return PlainTextResponse("Not today.", 403)

    auth.login_steps[:] = [policy]
    assert (await post_login(browser)).text == "Not today."
    assert asks_to_log_in(await browser.get("/step/totp"))


async def test_a_direct_login_asks_for_no_step_and_ends_a_pending_one(auth: Auth, browser: httpx.AsyncClient) -> None:
    async def direct(request: Request) -> Response:
        user = await get_auth(request).users.get_by_username("ben")
        assert user is not None
        await login(request, user)
        return PlainTextResponse("in")

    async with client_of(make_app(auth, Route("/direct", direct, methods=["POST"]))) as client:
        await post_login(client)
        assert (await client.post("/direct")).text == "in"
        assert await who(client) == "ben"
        assert asks_to_log_in(await client.get("/step/totp"))


async def test_a_second_proof_of_the_password_keeps_the_other_methods(auth: Auth, clock: FrozenClock) -> None:
    async with client_of(make_app(auth)) as client:
        await post_login(client)
        await client.post("/step/totp", data={"code": "123456"})
        clock.tick(100)
        assert (await client.post("/accounts/reauthenticate", data={"password": PASSWORD})).status_code == 303
        answer = (await client.get("/accounts/session")).json()
        assert answer["methods"] == [{"name": "totp", "age": 100}, {"name": "password", "age": 0}]
        assert answer["level"] == 2


async def test_only_the_package_decides_when_a_user_is_logged_in() -> None:
    """Each way to log in goes through the steps. Only these modules begin a session themselves."""
    package = Path(__file__).parents[2] / "starlette_auth"
    callers = {
        path.relative_to(package).as_posix()
        for path in package.rglob("*.py")
        if "user_sessions.begin(" in path.read_text() or "session_backend.bind(" in path.read_text()
    }
    assert callers == {"authentication.py", "middlewares/authentication.py", "pages/login_steps.py", "testing.py"}

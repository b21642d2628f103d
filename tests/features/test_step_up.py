"""Tests of endpoints that require a second factor: `factor_required`, and `fresh_login_required(level=2)`."""

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from fastapi import Depends, FastAPI
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.websockets import WebSocket

from starlette_auth import (
    APITokens,
    Auth,
    ImproperlyConfigured,
    TwoFactor,
    User,
    csrf_exempt,
    factor_required,
    fresh_login_required,
    middleware,
    routes,
)
from starlette_auth.fastapi import accounts, fresh_login
from starlette_auth.testing import FrozenClock, log_in

from ..conftest import PASSWORD, any_database, client_of, installed
from ..sessions.test_sessions import Socket
from .test_factor_store import add, clock_of, code_of, feature_of
from .test_two_factor_pages import app_in, codes_in

pytestmark = any_database

PAGE, JSON = "/accounts/second_factor", {"accept": "application/json"}


@factor_required
async def vault(request: Request) -> Response:
    return PlainTextResponse("gold")


@factor_required(max_age=300, keep=("amount",))
async def pay(request: Request) -> Response:
    form = await request.form()
    return PlainTextResponse(f"paid {form.get('amount')}")


@csrf_exempt
@factor_required(keep=("amount",))
async def pay_exempt(request: Request) -> Response:
    return PlainTextResponse("paid")


@factor_required(phishing_resistant=True)
def keys(request: Request) -> Response:
    return PlainTextResponse("keys")


@fresh_login_required(level=2)
async def close(request: Request) -> Response:
    return PlainTextResponse("closed")


@factor_required
async def mirror(websocket: WebSocket) -> None:
    await websocket.accept()
    await websocket.send_text("gold")


def make_app(auth: Auth) -> Starlette:
    own = [
        Route("/vault", vault),
        Route("/pay", pay, methods=["GET", "POST"]),
        Route("/exempt", pay_exempt, methods=["POST"]),
        Route("/keys", keys),
        Route("/close", close),
        WebSocketRoute("/mirror", mirror),
    ]
    return Starlette(routes=[*own, Mount("/accounts", routes=routes(auth))], middleware=middleware(auth))


@pytest.fixture
async def auth(database: Any) -> AsyncIterator[Auth]:
    features = [TwoFactor(), APITokens("shop")]
    async with installed(database, features=features, clock=FrozenClock()) as auth:
        yield auth


@pytest.fixture
async def client(auth: Auth) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(make_app(auth)) as client:
        yield client


async def step_up(auth: Auth, client: httpx.AsyncClient, location: str) -> httpx.Response:
    """Opens the page to which a refusal leads, and sends a right code with the fields of its form."""
    assert location.startswith(f"{PAGE}?next=")
    page = await client.get(location)
    assert page.status_code == 200
    assert "Begin again" not in page.text
    next_url = str(httpx.URL(location).params["next"])
    assert f'name="next" value="{next_url}"' in page.text
    return await client.post(PAGE, data={"next": next_url, "code": code_of(auth)})


async def test_a_visitor_logs_in_first(client: httpx.AsyncClient, ann: User) -> None:
    for path in ("/vault", "/pay", "/keys", "/close"):
        assert (await client.get(path)).headers["location"].startswith("/accounts/login?next=")
        assert (await client.get(path, headers=JSON)).json()["code"] == "not_authenticated"


async def test_a_weak_login_gives_a_code_and_returns(auth: Auth, client: httpx.AsyncClient, ann: User) -> None:
    await add(feature_of(auth).store, ann)
    await log_in(client, ann, auth)
    done = await step_up(auth, client, (await client.get("/vault")).headers["location"])
    assert (done.status_code, done.headers["location"]) == (303, "/vault")
    assert (await client.get("/vault")).text == "gold"
    assert "session=" in done.headers["set-cookie"]  # under a new key
    async with Socket(make_app(auth), "/mirror", client) as socket:
        assert socket.answer["type"] == "websocket.accept"


async def test_a_wrong_code_leads_nowhere(auth: Auth, client: httpx.AsyncClient, ann: User) -> None:
    await add(feature_of(auth).store, ann)
    await log_in(client, ann, auth)
    wrong = await client.post(PAGE, data={"next": "/vault", "code": "000000"})
    assert wrong.status_code == 422
    assert 'name="next" value="/vault"' in wrong.text
    assert (await client.get("/vault")).status_code == 303
    async with Socket(make_app(auth), "/mirror", client) as socket:
        assert socket.answer["type"] == "websocket.close"
    for _ in range(4):
        await client.post(PAGE, data={"code": "000000"})
    assert (await client.post(PAGE, data={"code": code_of(auth)})).status_code == 429  # one counter for all pages


async def test_the_step_up_leads_to_no_other_site(auth: Auth, client: httpx.AsyncClient, ann: User) -> None:
    await add(feature_of(auth).store, ann)
    await log_in(client, ann, auth)
    done = await client.post(PAGE, data={"next": "https://evil.example/", "code": code_of(auth)})
    assert done.headers["location"] == "/"


async def test_a_factor_that_is_too_old_is_asked_for_again(auth: Auth, client: httpx.AsyncClient, ann: User) -> None:
    await add(feature_of(auth).store, ann)
    await log_in(client, ann, auth, methods=("password", "totp"))
    assert (await client.get("/pay")).text == "paid None"
    clock_of(auth).tick(300)
    assert (await client.get("/vault")).text == "gold"
    refused = (await client.get("/pay", headers=JSON)).json()
    assert refused["code"] == "factor_too_old"
    assert refused["need"] == {"level": 2, "max_age": 300, "url": PAGE}
    await step_up(auth, client, (await client.get("/pay")).headers["location"])
    assert (await client.get("/pay")).text == "paid None"


async def test_a_form_is_kept_during_the_step_up(auth: Auth, client: httpx.AsyncClient, ann: User) -> None:
    await add(feature_of(auth).store, ann)
    await log_in(client, ann, auth)
    posted = await client.post(
        "/pay", data={"amount": "12", "secret": "x"}, headers={"referer": "http://testserver/pay"}
    )
    done = await step_up(auth, client, posted.headers["location"])
    assert done.headers["location"] == "/accounts/login/form"
    page = await client.get("/accounts/login/form")
    assert 'action="/pay"' in page.text
    assert 'name="amount" value="12"' in page.text
    assert "secret" not in page.text
    assert (await client.post("/pay", data={"amount": "12"})).text == "paid 12"


async def test_a_form_of_another_site_is_not_kept(auth: Auth, client: httpx.AsyncClient, ann: User) -> None:
    await log_in(client, ann, auth)
    for site, number in (("cross-site", 0), ("same-origin", 1)):
        headers = {"sec-fetch-site": site}
        assert (await client.post("/exempt", data={"amount": "12"}, headers=headers)).status_code == 303
        assert len(await auth.tokens.recent("saved_form", f"saved form of user {ann.id}")) == number


async def test_a_user_without_a_factor_adds_one_and_returns(auth: Auth, client: httpx.AsyncClient, ann: User) -> None:
    await log_in(client, ann, auth)
    location = (await client.get("/vault")).headers["location"]
    enrolment = (await client.get(location)).headers["location"]
    assert enrolment == "/accounts/totp?next=%2Fvault"
    page = await client.get(enrolment)
    assert 'name="next" value="/vault"' in page.text
    app = await app_in(client)
    made = await client.post("/accounts/totp", data={"next": "/vault", "code": app.at(auth.clock())})
    assert len(codes_in(made.text)) == 10
    assert 'href="/vault"' in made.text
    assert (await client.get("/vault")).text == "gold"


async def test_a_program_steps_up(auth: Auth, client: httpx.AsyncClient, ann: User) -> None:
    await log_in(client, ann, auth)
    refused = await client.get("/vault", headers=JSON)
    assert (refused.status_code, refused.json()["code"]) == (403, "factor_required")
    need = refused.json()["need"]
    assert need == {"level": 2, "max_age": None, "url": PAGE}
    missing = await client.post(need["url"], json={"code": "000000"})
    assert (missing.status_code, missing.json()["code"], missing.json()["totp"]) == (
        403,
        "factor_missing",
        "/accounts/totp",
    )
    await add(feature_of(auth).store, ann)
    assert (await client.get(PAGE, headers=JSON)).json() == {"step": {"name": "second_factor", "methods": ["totp"]}}
    done = await client.post(need["url"], json={"code": code_of(auth), "next": "/vault"})
    assert (done.status_code, done.json()) == (200, {"next": "/vault"})
    assert (await client.get("/vault", headers=JSON)).text == "gold"


async def test_a_code_is_not_phishing_resistant(auth: Auth, client: httpx.AsyncClient, ann: User) -> None:
    await log_in(client, ann, auth, methods=("password", "totp"))
    refused = (await client.get("/keys", headers=JSON)).json()
    assert refused["need"] == {"level": 2, "max_age": None, "url": "/accounts/login", "phishing_resistant": True}
    assert (await client.get("/keys")).headers["location"].startswith("/accounts/login")
    await log_in(client, ann, auth, methods=("passkey",))
    assert (await client.get("/keys")).text == "keys"


async def test_a_token_is_refused(auth: Auth, client: httpx.AsyncClient, ann: User) -> None:
    tokens = auth.features[1]
    assert isinstance(tokens, APITokens)
    token = str((await tokens.create(ann, "script")).token)
    refused = await client.get("/vault", headers={"authorization": f"Bearer {token}"})
    assert refused.status_code == 401
    assert "insufficient_user_authentication" in refused.headers["www-authenticate"]


async def test_a_fresh_login_of_level_2_needs_both(auth: Auth, client: httpx.AsyncClient, ann: User) -> None:
    await add(feature_of(auth).store, ann)
    await log_in(client, ann, auth, methods=("password", "totp"))
    assert (await client.get("/close")).text == "closed"
    clock_of(auth).tick(300)
    location = (await client.get("/close")).headers["location"]
    assert location.startswith("/accounts/reauthenticate?next=")
    await client.post("/accounts/reauthenticate", data={"password": PASSWORD})
    await step_up(auth, client, (await client.get("/close")).headers["location"])
    assert (await client.get("/close")).text == "closed"
    clock_of(auth).tick(200)
    await client.post("/accounts/reauthenticate", data={"password": PASSWORD})
    clock_of(auth).tick(100)
    assert (await client.get("/close")).headers["location"].startswith(PAGE)


async def test_a_second_factor_alone_is_no_fresh_login(auth: Auth, client: httpx.AsyncClient, ann: User) -> None:
    await add(feature_of(auth).store, ann)
    await log_in(client, ann, auth, methods=("password", "totp"))
    clock_of(auth).tick(300)
    await client.post(PAGE, data={"code": code_of(auth)})
    assert (await client.get("/accounts/totp/remove")).headers["location"].startswith("/accounts/reauthenticate")


async def test_fastapi_takes_both_as_dependencies(auth: Auth, ann: User) -> None:
    app = FastAPI(middleware=middleware(auth))
    app.include_router(accounts(auth), prefix="/accounts")

    @app.get("/gold")
    async def gold(user: User = Depends(factor_required)) -> str:  # noqa: B008
        return user.username

    @app.get("/end", dependencies=[Depends(fresh_login(level=2)), Depends(factor_required(max_age=60))])
    async def end() -> str:
        return "ended"

    async with client_of(app, headers=JSON) as client:
        await log_in(client, ann, auth)
        for path in ("/gold", "/end"):
            refused = await client.get(path)
            assert (refused.status_code, refused.json()["need"]["url"]) == (403, PAGE)
        await log_in(client, ann, auth, methods=("password", "totp"))
        assert ((await client.get("/gold")).json(), (await client.get("/end")).json()) == ("ann", "ended")


@pytest.mark.parametrize("options", [{"level": 3}, {"level": 0}, {"max_age": 0}, {"phishing_resistant": 1}])
def test_wrong_options_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises((ImproperlyConfigured, TypeError, ValueError)):
        factor_required(**options)

"""Tests of passkeys: adding, logging in, confirming, renaming, removing, and the attacks against these."""

import json
import re
from collections.abc import AsyncIterator
from html import unescape
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.routing import Mount, Route

from starlette_auth import (
    Auth,
    FactorAdded,
    Passkeys,
    TwoFactor,
    User,
    UserLoggedIn,
    factor_required,
    middleware,
    routes,
)
from starlette_auth.testing import FrozenClock, SoftPasskey

from ..conftest import any_database, client_of, installed, post_login
from .test_second_factor import events_of, vault, whoami

pytestmark = any_database

ORIGIN = "http://localhost:8000"
LOGIN, LIST, ADD = "/accounts/login/passkey", "/accounts/passkeys", "/accounts/passkeys/add"
RENAME, REMOVE = "/accounts/passkeys/rename", "/accounts/passkeys/remove"
STEP, CONFIRM = "/accounts/second_factor", "/accounts/reauthenticate"
JSON = {"accept": "application/json"}


async def keys(request: Any) -> Any:
    return await whoami(request)


def make_app(auth: Auth) -> Starlette:
    own = [
        Route("/", whoami),
        Route("/vault", vault),
        Route("/gold", factor_required(whoami)),
        Route("/keys", factor_required(phishing_resistant=True)(keys)),
    ]
    return Starlette(routes=[*own, Mount("/accounts", routes=routes(auth))], middleware=middleware(auth))


def browser_of(auth: Auth) -> httpx.AsyncClient:
    return client_of(make_app(auth), base_url=ORIGIN, headers={"origin": ORIGIN})


@pytest.fixture(params=[False, True], ids=["alone", "with TwoFactor"])
def features(request: pytest.FixtureRequest) -> list[Any]:
    return [*([TwoFactor()] if request.param else []), Passkeys()]


@pytest.fixture
async def auth(database: Any, features: list[Any]) -> AsyncIterator[Auth]:
    async with installed(database, features=features, base_url=ORIGIN, clock=FrozenClock()) as auth:
        yield auth


@pytest.fixture
async def client(auth: Auth, ann: User) -> AsyncIterator[httpx.AsyncClient]:
    """A browser in which ann has just logged in."""
    async with browser_of(auth) as client:
        await post_login(client)
        yield client


def options_in(page: str) -> dict[str, Any]:
    match = re.search(r"data-(?:get|create)='([^']+)'", page)
    assert match, page
    options: dict[str, Any] = json.loads(unescape(match[1]))
    return options


async def add(client: httpx.AsyncClient, passkey: SoftPasskey, name: str = "Laptop", **fields: str) -> httpx.Response:
    page = await client.get(ADD, params=fields)
    assert page.status_code == 200, page.headers
    credential = passkey.create(options_in(page.text))
    return await client.post(ADD, data={"credential": credential, "name": name, **fields})


async def log_in_with(client: httpx.AsyncClient, passkey: SoftPasskey, **fields: str) -> httpx.Response:
    page = await client.get("/accounts/login")
    return await client.post(LOGIN, data={"credential": passkey.sign(options_in(page.text)), **fields})


async def test_a_user_adds_a_passkey_and_logs_in(auth: Auth, client: httpx.AsyncClient) -> None:
    seen = events_of(auth, FactorAdded, UserLoggedIn)
    passkey = SoftPasskey(origin=ORIGIN)
    added = await add(client, passkey)
    assert (added.status_code, added.headers["location"]) == (303, f"{LIST}?done")
    page = (await client.get(f"{LIST}?done")).text
    assert "Laptop" in page
    assert "Passkey, on one device" in page
    async with browser_of(auth) as other:
        done = await log_in_with(other, passkey, next="/vault")
        assert (done.status_code, done.headers["location"]) == (303, "/vault")
        assert (await other.get("/")).json() == {"username": "ann", "methods": ["passkey"], "level": 2}
        assert (await other.get("/vault")).text == "gold"
    assert [type(event) for event in seen] == [FactorAdded, UserLoggedIn]

"""Requests at the same moment, on every database: polls, decisions, and the end of an account."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import sqlalchemy as sa

from starlette_auth import APITokens, Auth, DeviceLogin, PermissionDenied, User, ValidationError
from starlette_auth.testing import FrozenClock, log_in

from ..conftest import PASSWORD, client_of, installed
from ..support.apps import make_app
from .test_device_login import CLIENTS, ask, decide, enter, error_of, handle_in, poll, tokens_in

ROUNDS = 5


@pytest.fixture
async def auth(database: Any) -> AsyncIterator[Auth]:
    features = [APITokens("shop"), DeviceLogin(CLIENTS)]
    rates = {"device": "", "device_authorization": ""}
    async with installed(database, features=features, clock=FrozenClock(), rates=rates) as auth:
        yield auth


@pytest.fixture
def tokens(auth: Auth) -> APITokens:
    return tokens_in(auth)


@pytest.fixture
async def browser(auth: Auth, ann: User) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(make_app(auth)) as client:
        await log_in(client, ann, auth)
        yield client


@pytest.fixture
async def device(auth: Auth) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(make_app(auth), headers={"accept": "*/*"}) as client:
        yield client


@pytest.mark.parametrize("number", [2, 10])
async def test_polls_at_the_same_moment_get_one_token(
    tokens: APITokens, device: httpx.AsyncClient, browser: httpx.AsyncClient, ann: User, number: int
) -> None:
    for round_number in range(1, ROUNDS + 1):
        codes = await ask(device)
        await decide(browser, codes["user_code"])
        responses = await asyncio.gather(*(poll(device, codes["device_code"]) for _ in range(number)))
        assert sorted(response.status_code for response in responses) == [200] + [400] * (number - 1)
        errors = {response.json()["error"] for response in responses if response.status_code == 400}
        assert errors == {"invalid_grant"}
        assert len(await tokens.list(ann)) == round_number


async def test_polls_at_the_same_moment_count_one_by_one(device: httpx.AsyncClient, auth: Auth) -> None:
    codes = await ask(device)
    responses = await asyncio.gather(*(poll(device, codes["device_code"]) for _ in range(10)))
    errors = sorted(response.json()["error"] for response in responses)
    assert errors == ["authorization_pending"] + ["slow_down"] * 9
    clock = auth.clock
    assert isinstance(clock, FrozenClock)
    clock.tick(5 + 9 * 5 - 1)
    assert await error_of(device, codes["device_code"]) == (400, "slow_down")


@pytest.mark.parametrize(
    "decisions", [("approve", "refuse"), ("approve", "approve"), ("refuse", "refuse")], ids="-".join
)
async def test_decisions_at_the_same_moment_decide_once(
    device: httpx.AsyncClient, browser: httpx.AsyncClient, decisions: tuple[str, str]
) -> None:
    for _ in range(ROUNDS):
        codes = await ask(device)
        handle = handle_in(await enter(browser, codes["user_code"]))
        forms = [{"request": handle, "decision": decision} for decision in decisions]
        responses, early = (
            await asyncio.gather(*(browser.post("/accounts/device", data=form) for form in forms)),
            await asyncio.gather(*(poll(device, codes["device_code"]) for _ in range(10))),
        )
        assert sorted(response.status_code for response in responses) == [303, 422]
        winner = decisions[[response.status_code for response in responses].index(303)]
        if winner == "approve":
            assert sorted(response.status_code for response in early) == [200] + [400] * 9
        else:
            assert {response.json()["error"] for response in early} == {"access_denied"}


async def test_two_users_who_enter_one_code_at_the_same_moment_decide_once(
    auth: Auth, tokens: APITokens, device: httpx.AsyncClient, browser: httpx.AsyncClient, ann: User
) -> None:
    ben = await auth.users.create_user("ben")
    async with client_of(make_app(auth)) as other:
        await log_in(other, ben, auth)
        for round_number in range(1, ROUNDS + 1):
            codes = await ask(device)
            responses = await asyncio.gather(*(decide(client, codes["user_code"]) for client in (browser, other)))
            assert sorted(response.status_code for response in responses) == [303, 422]
            assert (await poll(device, codes["device_code"])).status_code == 200
            assert len(await tokens.list(ann)) + len(await tokens.list(ben)) == round_number


@pytest.mark.parametrize("by_reset", [False, True], ids=["deactivated", "reset"])
async def test_a_poll_at_the_moment_in_which_the_account_ends_leaves_no_token(
    auth: Auth, tokens: APITokens, device: httpx.AsyncClient, by_reset: bool
) -> None:
    for number in range(ROUNDS):
        user = await auth.users.create_user(f"user{number}", "", PASSWORD)
        async with client_of(make_app(auth)) as client:
            await log_in(client, user, auth)
            codes = await ask(device)
            await decide(client, codes["user_code"])
        end = end_of(auth, user, by_reset=by_reset)
        polls = [poll(device, codes["device_code"]) for _ in range(3)]
        await asyncio.gather(*polls[: number % 3], end, *polls[number % 3 :])
        await auth.users.update(user, is_active=True)
        assert await tokens.list(user) == []
        assert await error_of(device, codes["device_code"]) == (400, "invalid_grant")


@pytest.mark.parametrize("by_reset", [False, True], ids=["deactivated", "reset"])
async def test_an_approval_at_the_moment_in_which_the_account_ends_gives_no_token(
    auth: Auth, tokens: APITokens, device: httpx.AsyncClient, by_reset: bool
) -> None:
    for number in range(ROUNDS):
        user = await auth.users.create_user(f"user{number}", "", PASSWORD)
        async with client_of(make_app(auth)) as client:
            await log_in(client, user, auth)
            codes = await ask(device)
            handle = handle_in(await enter(client, codes["user_code"]))
            form = {"request": handle, "decision": "approve"}
            await asyncio.gather(client.post("/accounts/device", data=form), end_of(auth, user, by_reset=by_reset))
        await auth.users.update(user, is_active=True)
        assert (await poll(device, codes["device_code"])).status_code == 400
        assert await tokens.list(user) == []


@pytest.mark.parametrize("by_reset", [False, True], ids=["deactivated", "reset"])
async def test_a_token_created_at_the_moment_in_which_the_account_ends_does_not_outlive_it(
    auth: Auth, tokens: APITokens, by_reset: bool
) -> None:
    for number in range(ROUNDS):
        user = await auth.users.create_user(f"user{number}", "", PASSWORD)
        stale = await auth.users.get(user.id)
        assert stale is not None
        creations = [tokens.create(stale, "planted") for _ in range(4)]
        results = await asyncio.gather(
            *creations[:2], end_of(auth, user, by_reset=by_reset), *creations[2:], return_exceptions=True
        )
        assert all(not isinstance(result, BaseException) or isinstance(result, PermissionDenied) for result in results)
        await auth.users.update(user, is_active=True)
        assert await tokens.list(user) == []


async def test_a_user_who_was_loaded_before_the_account_ended_gets_no_token(auth: Auth, tokens: APITokens) -> None:
    for by_reset in (False, True):
        user = await auth.users.create_user(f"user{by_reset}", "", PASSWORD)
        stale = await auth.users.get(user.id)
        assert stale is not None
        await end_of(auth, user, by_reset=by_reset)
        with pytest.raises(PermissionDenied):
            await tokens.create(stale, "planted")
        assert await tokens.list(user) == []


async def test_tokens_created_at_the_same_moment_stay_below_the_limit(database: Any) -> None:
    feature = APITokens("shop", max_per_user=3)
    async with installed(database, features=[feature]) as auth:
        ann = await auth.users.create_user("ann")
        creations = (feature.create(ann, f"token {number}") for number in range(8))
        results = await asyncio.gather(*creations, return_exceptions=True)
        assert sum(isinstance(result, ValidationError) for result in results) == 5
        assert len(await feature.list(ann)) == 3
        rows = await auth.gateway.fetch_all(sa.select(feature.store.table.c.id))
        assert len(rows) == 3


async def end_of(auth: Auth, user: User, *, by_reset: bool) -> None:
    if by_reset:
        current = await auth.users.get(user.id)
        assert current is not None
        encoded = await auth.passwords.hash("a quiet heron 42")
        assert await auth.users.replace_password(current, encoded, by_reset=True)
    else:
        await auth.users.update(user, is_active=False)

"""Tests of second factors on the database of a real, running Django."""

import dataclasses
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import pytest
import sqlalchemy as sa

from starlette_auth import Auth, TwoFactor, User
from starlette_auth.features.passkeys.store import PasskeyStore
from starlette_auth.features.two_factor.totp import code_at, step_at

from ..conftest import BACKENDS, PASSWORD, name_of, post_login, token_in
from ..features.test_factor_store import SECRET, feature_of
from ..features.test_passkey_store import CREDENTIAL, HasTable
from .djangos import Django, browser, django_on, shared_auth
from .test_django import log_in_to_django, make_shared_app, username_here, username_in_django

STEP = "/accounts/second_factor"


@pytest.fixture(scope="module", params=BACKENDS, ids=name_of)
def django(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Django]:
    """One project per database for all tests of this file. Each test uses its own usernames."""
    with django_on(str(request.param), tmp_path_factory.mktemp("django")) as project:
        yield project


@pytest.fixture
async def auth(django: Django) -> AsyncIterator[Auth]:
    async with shared_auth(django, features=[TwoFactor(), HasTable()]) as auth:
        yield auth


async def enrolled(auth: Auth, name: str) -> User:
    """Creates a user with an app, recovery codes and a passkey."""
    user: User = await auth.users.create_user(name, f"{name}@example.org", PASSWORD)
    store = feature_of(auth).store
    assert await store.add_totp(user, SECRET, 0)
    await store.make_recovery_codes(user, 10)
    passkeys = auth.features[1]
    assert isinstance(passkeys, HasTable)
    credential = dataclasses.replace(CREDENTIAL, credential_id=name.encode())
    await PasskeyStore(auth, passkeys.table).insert(user, credential, "Laptop")
    return user


async def rows_of(auth: Auth, user: User) -> int:
    """Returns the number of rows in our tables that belong to a user."""
    passkeys = auth.features[1]
    assert isinstance(passkeys, HasTable)
    tables = [*feature_of(auth)._tables, passkeys.table]
    rows = [
        await auth.gateway.fetch_all(sa.select(table.c.user_id).where(table.c.user_id == user.id)) for table in tables
    ]
    return sum(map(len, rows))


def right_code(auth: Auth) -> str:
    return code_at(SECRET, step_at(auth.clock()))


async def test_djangos_admin_deletes_a_user_with_all_factors(django: Django, auth: Auth) -> None:
    victim, other = await enrolled(auth, "victim"), await enrolled(auth, "other")
    await auth.users.create_user("root", "", PASSWORD, is_staff=True, is_superuser=True)
    assert (await rows_of(auth, victim), await rows_of(auth, other)) == (12, 12)
    async with browser(django, make_shared_app(auth)) as client:
        client.headers["origin"] = django.url
        assert await log_in_to_django(client, django, "root") == 200
        page = f"{django.url}/admin/auth/user/{victim.id}/delete/"
        confirmation = await client.get(page)
        assert confirmation.status_code == 200
        assert "Are you sure" in confirmation.text
        data = {"csrfmiddlewaretoken": token_in(confirmation.text), "post": "yes"}
        deleted = await client.post(page, data=data)
        assert (deleted.status_code, deleted.headers["location"]) == (302, "/admin/auth/user/")
    assert await auth.users.get(victim.id) is None
    assert (await rows_of(auth, victim), await rows_of(auth, other)) == (0, 12)


async def test_attack_9_a_login_at_djangos_page_stops_at_the_second_factor(django: Django, auth: Auth) -> None:
    user = await enrolled(auth, "ann")
    await auth.users.update(user, is_staff=True)
    async with browser(django, make_shared_app(auth)) as client:
        page = f"{django.url}/admin/login/?next=/whoami"
        token = token_in((await client.get(page)).text)
        fields = {"username": user.username, "password": PASSWORD, "csrfmiddlewaretoken": token, "next": "/whoami"}
        assert (await client.post(page, data=fields, headers={"origin": django.url})).status_code == 302
        assert await username_in_django(client, django) == user.username
        assert await username_here(client) == ""
        led = await client.get("/accounts/login?next=/whoami")
        assert led.headers["location"] == STEP
        assert (await client.post(STEP, json={"login": await login_id(client), "code": "000000"})).status_code == 422
        assert await username_here(client) == ""
        done = await client.post(STEP, json={"login": await login_id(client), "code": right_code(auth)})
        assert (done.status_code, done.json()) == (200, {"next": "/whoami"})
        assert await username_here(client) == await username_in_django(client, django) == user.username


async def test_a_login_that_waits_for_a_second_factor_is_none_in_django(django: Django, auth: Auth) -> None:
    user = await enrolled(auth, "eve")
    async with browser(django, make_shared_app(auth)) as client:
        assert (await post_login(client, user.username)).headers["location"] == STEP
        assert await username_here(client) == await username_in_django(client, django) == ""


async def login_id(client: httpx.AsyncClient) -> Any:
    return (await client.get(STEP, headers={"accept": "application/json"})).json()["step"]["login"]

"""Attack 17: a stolen dump of the database, with everything enrolled. No value in it opens anything."""

import base64
import re
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import pytest
import sqlalchemy as sa

from starlette_auth import Auth, BearerSessions, Passkeys, TwoFactor, User
from starlette_auth.database.introspection import all_columns
from starlette_auth.features.two_factor.totp import code_at, step_at
from starlette_auth.testing import CollectingMailer, FrozenClock, SoftPasskey

from ..conftest import PASSWORD, installed, post_login
from .test_assurance import is_staff
from .test_factor_store import SECRET, code_of, feature_of
from .test_passkeys import ORIGIN, STEP, add, browser_of

LOGIN, ENROL, JSON = "/accounts/login", "/accounts/enrol", {"accept": "application/json"}
PART = re.compile(r"[\w-]{6,}")  # the smallest text of a row that could be a secret


@pytest.fixture
async def auth(database: Any) -> AsyncIterator[Auth]:
    features: list[Any] = [TwoFactor(required_for=is_staff), Passkeys(), BearerSessions()]
    # Without limits, so that each value is looked at.
    options: dict[str, Any] = {"base_url": ORIGIN, "mailer": CollectingMailer(), "throttling": False}
    async with installed(database, features=features, clock=FrozenClock(), **options) as auth:
        yield auth


async def enrol_everything(auth: Auth, ann: User) -> tuple[list[str], list[str]]:
    """Gives ann each factor, and leaves sessions, a pending login and mailed secrets.

    Returns ann's recovery codes, and the session cookies of a browser that is logged in and of one that waits.
    """
    store, passkey = feature_of(auth).store, SoftPasskey(origin=ORIGIN)
    async with browser_of(auth) as laptop, browser_of(auth) as half, browser_of(auth) as app, browser_of(auth) as ben:
        await post_login(laptop)
        assert (await add(laptop, passkey)).status_code == 303
        assert await store.add_totp(ann, SECRET, 0)
        codes = await store.make_recovery_codes(ann, 10)
        step = (await app.post(LOGIN, json={"username": "ann", "password": PASSWORD, "client": "app"})).json()["step"]
        assert step["name"] == "second_factor"
        assert (await post_login(half)).headers["location"] == STEP
        await auth.users.create_user("ben", "ben@example.org", PASSWORD, is_staff=True)
        step = (await ben.post(LOGIN, json={"username": "ben", "password": PASSWORD})).json()["step"]
        await ben.post(ENROL, json={"login": step["login"], "send": "1"})
        await ben.post("/accounts/password_reset", data={"email": "ann@example.org"})
        await auth.mail_queue.drain()
        return codes, [laptop.cookies[auth.cookie.names[0]], half.cookies[auth.cookie.names[0]]]


async def dump(auth: Auth) -> dict[str, set[str]]:
    """Returns the texts of all columns, whole and in parts, by the name of the table."""
    texts: dict[str, set[str]] = {}
    for name, columns in (await all_columns(auth.gateway)).items():
        rows: Any = sa.select(*(sa.column(column) for column in sorted(columns))).select_from(sa.table(name))
        for row in await auth.gateway.fetch_all(rows):
            for value in row.values():
                text = value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
                texts.setdefault(name, set()).update((text, *PART.findall(text)))
    return texts


def readings_of(text: str) -> Iterator[bytes]:
    """Yields the bytes that an attacker may read from a text, as the secret of an app."""
    yield text.encode()
    for decode in (base64.b32decode, base64.urlsafe_b64decode, bytes.fromhex):
        try:
            yield decode(text + "=" * (-len(text) % 8) if decode is not bytes.fromhex else text)
        except ValueError:
            continue


async def is_anonymous(client: httpx.AsyncClient) -> bool:
    return is_of_visitor(await client.get("/accounts/session"))


def is_of_visitor(response: httpx.Response) -> bool:
    return response.json()["user"] is None and response.json()["pending"] is None


async def test_attack_17_no_value_of_a_dump_opens_anything(auth: Auth, ann: User) -> None:
    codes, cookies = await enrol_everything(auth, ann)
    tables = await dump(auth)
    enrolled = {"auth_totp", "auth_recovery_code", "auth_passkey", "auth_token", "auth_session"}
    assert enrolled <= {name.removeprefix("starlette_") for name in tables}, sorted(tables)
    values = set().union(*tables.values())
    everything = "\n".join(values)
    assert not any(code in everything or code.replace("-", "") in everything for code in codes)
    now = step_at(auth.clock())
    right = {code_of(auth), code_of(auth, -1)}
    for text in values:
        assert text not in right
        assert all(code_at(secret, now) not in right for secret in readings_of(text)), text
    async with browser_of(auth) as thief:
        for text in cookies:  # which are in no row
            assert not await is_anonymous(await with_cookie(thief, auth.cookie.names[0], text))
        for text in values:
            for name in auth.cookie.names:
                assert await is_anonymous(await with_cookie(thief, name, text)), text
        thief.cookies.clear()
        for text in values:
            if text.isascii() and text.isprintable():
                state = await thief.get("/accounts/session", headers={"authorization": f"Bearer {text}"})
                assert state.status_code in (400, 401) or is_of_visitor(state), text


async def with_cookie(client: httpx.AsyncClient, name: str, value: str) -> httpx.AsyncClient:
    client.cookies.clear()
    if value.isascii() and value.isprintable() and not set(value) & set('",; \\'):
        client.cookies.set(name, value)
    return client


async def test_attack_17_no_value_of_a_dump_answers_a_step(auth: Auth, ann: User) -> None:
    await enrol_everything(auth, ann)
    values = sorted(set().union(*(await dump(auth)).values()), key=len)
    async with browser_of(auth) as thief:
        step = (await thief.post(LOGIN, json={"username": "ann", "password": PASSWORD})).json()["step"]
        for text in values:
            for field in ("code", "recovery_code", "credential"):
                answer = await thief.post(STEP, json={"login": step["login"], field: text[:64]})
                assert answer.status_code in (400, 422), (field, text)
        assert (await thief.get("/accounts/session")).json()["user"] is None
    async with browser_of(auth) as thief:
        step = (await thief.post(LOGIN, json={"username": "ben", "password": PASSWORD})).json()["step"]
        await thief.post(ENROL, json={"login": step["login"], "send": "1"})
        await auth.mail_queue.drain()
        new = await dump(auth)
        for text in sorted(new.get("auth_token", set()) | new.get("starlette_auth_token", set())):
            answer = await thief.post(ENROL, json={"login": step["login"], "code": text[:64]})
            assert answer.status_code == 422, text

"""Tests of the step in which users who must have a second factor add one."""

import re
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pyotp
import pytest

from starlette_auth import Auth, FactorAdded, ImproperlyConfigured, TwoFactor, User, UserLoggedIn
from starlette_auth.mail.messages import plain_text
from starlette_auth.testing import CollectingMailer, FrozenClock, log_in

from ..conftest import PASSWORD, all_of, any_database, installed, post_login
from .test_assurance import browser_of, is_staff, who
from .test_factor_store import add, clock_of, feature_of, rows_of
from .test_second_factor import events_of
from .test_two_factor_pages import app_in, codes_in

pytestmark = any_database

ENROL, TOTP, JSON = "/accounts/enrol", "/accounts/totp", {"accept": "application/json"}
CODE = re.compile(r"\b[B-Z]{4}-[B-Z]{4}\b")


@pytest.fixture
def mailer() -> CollectingMailer:
    return CollectingMailer()


@pytest.fixture
async def auth(database: Any, mailer: CollectingMailer) -> AsyncIterator[Auth]:
    features, site = [TwoFactor(required_for=is_staff)], "http://testserver"
    async with installed(database, features=features, clock=FrozenClock(), mailer=mailer, base_url=site) as auth:
        yield auth


@pytest.fixture
async def ann(auth: Auth) -> User:
    """A member of the staff without a second factor."""
    user: User = await auth.users.create_user("ann", "ann@example.org", PASSWORD, is_staff=True)
    return user


@pytest.fixture
async def client(auth: Auth) -> AsyncIterator[httpx.AsyncClient]:
    async with browser_of(auth) as client:
        yield client


async def begin(client: httpx.AsyncClient) -> str:
    """Logs in with the password; returns the id of the pending login."""
    response = await post_login(client, next="/members")
    assert (response.status_code, response.headers["location"]) == (303, ENROL)
    return str((await client.get(ENROL, headers=JSON)).json()["step"]["login"])


async def mailed_code(auth: Auth, mailer: CollectingMailer) -> str:
    await auth.mail_queue.drain()
    message = mailer.messages[-1]
    assert message["To"] == "ann@example.org"
    match = CODE.search(plain_text(message))
    assert match
    html = message.get_body(("html",))
    assert html is not None
    assert match[0] in html.get_content()
    return match[0]


async def add_app(auth: Auth, client: httpx.AsyncClient, login: str) -> httpx.Response:
    app = await app_in(client)
    return await client.post(TOTP, data={"login": login, "code": app.at(auth.clock())})


async def test_a_user_adds_an_app_during_the_login(
    auth: Auth, client: httpx.AsyncClient, ann: User, mailer: CollectingMailer
) -> None:
    seen = events_of(auth, FactorAdded, UserLoggedIn)
    login = await begin(client)
    page = await client.get(ENROL)
    assert "Send the code" in page.text
    assert "Code from the e-mail" not in page.text
    assert (await client.post(ENROL, data={"login": login, "send": "1"})).headers["location"] == ENROL
    assert "Code from the e-mail" in (await client.get(ENROL)).text
    code = await mailed_code(auth, mailer)
    sent = await client.post(ENROL, data={"login": login, "code": code.lower().replace("-", " ")})
    assert sent.headers["location"] == ENROL
    assert (await client.get(ENROL)).headers["location"] == TOTP
    assert "The account ann needs a second factor." in (await client.get(TOTP)).text
    made = await add_app(auth, client, login)
    assert len(codes_in(made.text)) == 10
    assert await who(client) == ""
    assert [type(event) for event in seen] == [FactorAdded]
    done = await client.post(ENROL, data={"login": login})
    assert (done.status_code, done.headers["location"]) == (303, "/members")
    assert (await client.get("/")).json() == {"username": "ann", "methods": ["password", "email", "totp"], "level": 2}
    assert [type(event) for event in seen] == [FactorAdded, UserLoggedIn]


async def test_attack_20_a_thief_with_the_password_adds_no_app(
    auth: Auth, client: httpx.AsyncClient, ann: User, mailer: CollectingMailer
) -> None:
    login = await begin(client)
    app = pyotp.TOTP(pyotp.random_base32())
    for answer in (await client.get(TOTP), await client.post(TOTP, data={"login": login, "code": app.now()})):
        assert (answer.status_code, answer.headers["location"]) == (303, ENROL)
    await client.post(ENROL, data={"login": login, "send": "1"})
    right = await mailed_code(auth, mailer)
    for code in ("", "BBBB-BBBB", "BBBB-BBBC", "BBBB-BBBD"):
        assert (await client.post(ENROL, data={"login": login, "code": code})).status_code == 422
    assert (await client.post(ENROL, data={"login": login, "code": right})).status_code == 422  # the tries are used up
    assert (await client.get(TOTP)).headers["location"] == ENROL
    assert await rows_of(auth) == []
    assert await who(client) == ""


async def test_attack_20_of_many_codes_at_once_three_are_looked_at(
    auth: Auth, client: httpx.AsyncClient, ann: User, mailer: CollectingMailer
) -> None:
    login = await begin(client)
    await client.post(ENROL, data={"login": login, "send": "1"})
    right = await mailed_code(auth, mailer)
    wrong = [client.post(ENROL, data={"login": login, "code": f"BBBB-BBB{letter}"}) for letter in "BCDFGHJKLM"]
    assert {response.status_code for response in await all_of(*wrong)} == {422}
    assert (await client.post(ENROL, data={"login": login, "code": right})).status_code == 422


async def test_attack_20_a_code_counts_in_its_own_login_and_for_ten_minutes(
    auth: Auth, client: httpx.AsyncClient, ann: User, mailer: CollectingMailer
) -> None:
    login = await begin(client)
    await client.post(ENROL, data={"login": login, "send": "1"})
    code = await mailed_code(auth, mailer)
    async with browser_of(auth) as thief:
        other = await begin(thief)
        await thief.post(ENROL, data={"login": other, "send": "1"})
        assert (await thief.post(ENROL, data={"login": other, "code": code})).status_code == 422
        assert (await thief.post(ENROL, data={"login": login, "code": code})).status_code == 409
    clock_of(auth).tick(10 * 60)
    assert (await client.post(ENROL, data={"login": login, "code": code})).status_code == 422


async def test_attack_20_a_stolen_session_of_a_user_who_was_made_staff(
    auth: Auth, client: httpx.AsyncClient, ann: User
) -> None:
    await log_in(client, ann, auth, methods=("email", "password"))  # the address was proved when the session began
    clock_of(auth).tick(60)
    assert await who(client) == ""
    assert (await client.get("/accounts/login?next=/members")).headers["location"] == ENROL
    assert (await client.get(TOTP)).headers["location"] == ENROL
    assert "Send the code" in (await client.get(ENROL)).text


async def test_three_mails_are_sent_in_fifteen_minutes(
    auth: Auth, client: httpx.AsyncClient, ann: User, mailer: CollectingMailer
) -> None:
    statuses = []
    for _ in range(4):
        login = await begin(client)
        statuses.append((await client.post(ENROL, data={"login": login, "send": "1"})).status_code)
    assert statuses == [303, 303, 303, 429]
    await auth.mail_queue.drain()
    assert len(mailer.messages) == 3


async def test_a_new_code_replaces_the_earlier_one(
    auth: Auth, client: httpx.AsyncClient, ann: User, mailer: CollectingMailer
) -> None:
    login = await begin(client)
    await client.post(ENROL, data={"login": login, "send": "1"})
    first = await mailed_code(auth, mailer)
    await client.post(ENROL, data={"login": login, "send": "1"})
    second = await mailed_code(auth, mailer)
    assert (await client.post(ENROL, data={"login": login, "code": first})).status_code == 422
    assert (await client.post(ENROL, data={"login": login, "code": second})).status_code == 303


@pytest.mark.parametrize("email", ["", "ann@example.org"])
async def test_without_an_address_or_a_mailer_no_code_is_asked_for(database: Any, email: str) -> None:
    mailer = CollectingMailer() if not email else None
    features: list[Any] = [TwoFactor(required_for=is_staff)]
    options: dict[str, Any] = {"mailer": mailer, "base_url": "http://testserver"}
    async with installed(database, features=features, clock=FrozenClock(), **options) as auth:
        await auth.users.create_user("ann", email, PASSWORD, is_staff=True)
        async with browser_of(auth) as client:
            login = await begin(client)
            assert (await client.get(ENROL)).headers["location"] == TOTP
            assert len(codes_in((await add_app(auth, client, login)).text)) == 10
            assert (await client.post(ENROL, data={"login": login})).headers["location"] == "/members"
            assert await who(client) == "ann"


async def test_a_program_adds_an_app_during_the_login(
    auth: Auth, client: httpx.AsyncClient, ann: User, mailer: CollectingMailer
) -> None:
    begun = await client.post("/accounts/login", json={"username": "ann", "password": PASSWORD})
    step = begun.json()["step"]
    assert (begun.status_code, step["name"], step["url"]) == (401, "enrol", ENROL)
    assert (await client.get(ENROL, headers=JSON)).json()["step"]["needs_mail"]
    sent = await client.post(ENROL, json={"login": step["login"], "send": "1"})
    assert (sent.status_code, sent.json()["step"]["name"]) == (401, "enrol")
    code = await mailed_code(auth, mailer)
    proved = await client.post(ENROL, json={"login": step["login"], "code": code})
    assert (proved.status_code, proved.json()["step"]["name"]) == (401, "enrol")
    assert not (await client.get(ENROL, headers=JSON)).json()["step"]["needs_mail"]
    app = pyotp.TOTP((await client.get(TOTP, headers=JSON)).json()["secret"])
    made = (await client.post(TOTP, json={"login": step["login"], "code": app.at(auth.clock())})).json()
    assert len(made["recovery_codes"]) == 10
    done = await client.post(made["step"]["url"], json={"login": made["step"]["login"]})
    assert (done.status_code, await who(client)) == (200, "ann")


async def test_the_form_of_another_login_adds_nothing(auth: Auth, client: httpx.AsyncClient, ann: User) -> None:
    await auth.users.update(ann, email="")
    await begin(client)
    for login in ("", "x"):
        assert (await add_app(auth, client, login)).status_code == 409
    assert await rows_of(auth) == []


async def test_a_user_with_an_app_is_asked_for_its_code_only(auth: Auth, client: httpx.AsyncClient, ann: User) -> None:
    await add(feature_of(auth).store, ann)
    assert (await post_login(client)).headers["location"] == "/accounts/second_factor"
    assert (await client.get(ENROL)).headers["location"] == "/accounts/second_factor"


async def test_other_users_add_an_app_if_they_like(auth: Auth, client: httpx.AsyncClient) -> None:
    await auth.users.create_user("ben", "", PASSWORD)
    assert (await post_login(client, "ben", next="/members")).headers["location"] == "/members"
    assert await who(client) == "ben"
    assert len(codes_in((await add_app(auth, client, "")).text)) == 10


@pytest.mark.parametrize("required_for", ["staff", True])
def test_required_for_is_a_function(required_for: Any) -> None:
    with pytest.raises(ImproperlyConfigured, match="Pass a function, as in"):
        TwoFactor(required_for=required_for)


def test_required_for_does_not_wait() -> None:
    async def is_required(user: User) -> bool:
        return True

    with pytest.raises(ImproperlyConfigured, match="does not wait"):
        TwoFactor(required_for=is_required)  # type: ignore[arg-type]

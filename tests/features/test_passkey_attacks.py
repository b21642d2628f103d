"""Attacks on passkeys, by their numbers in the design: 23 to 29."""

import itertools
import re
from collections.abc import Callable

import httpx
import pytest
import sqlalchemy as sa

from starlette_auth import Auth, PasskeyCloned, SecondFactorFailed, User
from starlette_auth.testing import SoftPasskey, log_in

from ..conftest import PASSWORD, all_of, any_database, post_login
from .test_factor_store import clock_of
from .test_passkeys import (
    ADD,
    CONFIRM,
    JSON,
    LIST,
    LOGIN,
    ORIGIN,
    STEP,
    add,
    auth,
    browser_of,
    client,
    feature_of,
    features,
    log_in_with,
    options_in,
)
from .test_second_factor import events_of

__all__ = ["auth", "client", "features"]  # fixtures
pytestmark = any_database

WRONG: dict[str, Callable[[SoftPasskey], None]] = {
    "origin": lambda passkey: setattr(passkey, "origin", "https://evil.example"),
    "other port": lambda passkey: setattr(passkey, "origin", "http://localhost:9000"),
    "subdomain": lambda passkey: setattr(passkey, "origin", "http://a.localhost:8000"),
    "frame": lambda passkey: passkey.client_data.update(crossOrigin=True),
    "top origin": lambda passkey: passkey.client_data.update(topOrigin="https://evil.example"),
    "not verified": lambda passkey: setattr(passkey, "user_verified", False),
}


def make_synced(passkey: SoftPasskey) -> None:
    passkey.backup_eligible = passkey.backed_up = True


async def answered(client: httpx.AsyncClient, passkey: SoftPasskey) -> httpx.Response:
    return await client.post(LOGIN, data={"credential": passkey.sign((await client.get(LOGIN, headers=JSON)).json())})


@pytest.mark.parametrize("wrong", WRONG)
async def test_attack_23_a_phished_passkey(auth: Auth, client: httpx.AsyncClient, wrong: str) -> None:
    passkey, fresh = SoftPasskey(origin=ORIGIN, synced=True), SoftPasskey(origin=ORIGIN)
    await add(client, passkey)
    WRONG[wrong](passkey)
    WRONG[wrong](fresh)
    async with browser_of(auth) as other:
        refused = await log_in_with(other, passkey)
        assert refused.status_code == 422
        assert (await other.get("/vault")).status_code == 403
    assert (await add(client, fresh)).status_code == 422
    assert len((await client.get(LIST, headers=JSON)).json()["passkeys"]) == 1


async def test_attack_23_a_passkey_of_another_domain(auth: Auth, client: httpx.AsyncClient) -> None:
    passkey = SoftPasskey(origin=ORIGIN)
    await add(client, passkey)
    options = (await client.get(LOGIN, headers=JSON)).json()["publicKey"]
    passkey.rp_id = options["rpId"] = "evil.example"
    assert (await client.post(LOGIN, data={"credential": passkey.sign(options)})).status_code == 422


async def test_attack_24_an_answer_is_accepted_once(auth: Auth, client: httpx.AsyncClient) -> None:
    passkey = SoftPasskey(origin=ORIGIN, synced=True)
    await add(client, passkey)
    async with browser_of(auth) as other:
        credential = passkey.sign((await other.get(LOGIN, headers=JSON)).json())
        answers = await all_of(*(other.post(LOGIN, data={"credential": credential}) for _ in range(20)))
        assert sorted(answer.status_code for answer in answers) == [303] + [422] * 19
        assert (await other.post(LOGIN, data={"credential": credential})).status_code == 422


async def test_attack_24_a_registration_is_accepted_once(auth: Auth, client: httpx.AsyncClient) -> None:
    options = (await client.get(ADD, headers=JSON)).json()
    first, second = [SoftPasskey(origin=ORIGIN).create(options) for _ in range(2)]
    assert (await client.post(ADD, json={"credential": first})).status_code == 200
    assert (await client.post(ADD, json={"credential": second})).status_code == 422


async def test_attack_24_a_challenge_ends(auth: Auth, client: httpx.AsyncClient) -> None:
    passkey = SoftPasskey(origin=ORIGIN, synced=True)
    options = (await client.get(ADD, headers=JSON)).json()
    clock_of(auth).tick(299)
    assert (await client.post(ADD, data={"credential": passkey.create(options)})).status_code == 303
    async with browser_of(auth) as other:
        for seconds, status in ((3600, 422), (3599, 303)):
            options = (await other.get(LOGIN, headers=JSON)).json()
            clock_of(auth).tick(seconds)
            assert (await other.post(LOGIN, data={"credential": passkey.sign(options)})).status_code == status


async def test_attack_25_a_challenge_is_for_one_purpose_browser_and_user(
    auth: Auth, client: httpx.AsyncClient, ann: User
) -> None:
    """Each of six challenges, used in each of six places: only the own one is accepted."""
    if len(auth.features) < 2:
        pytest.skip("the second step needs TwoFactor")
    passkey, key = SoftPasskey(origin=ORIGIN, synced=True), SoftPasskey(origin=ORIGIN, synced=True)
    await add(client, key, kind="key")
    await add(client, passkey)
    ben = await auth.users.create_user("ben", "ben@example.org", PASSWORD)
    async with browser_of(auth) as visitor, browser_of(auth) as pending, browser_of(auth) as other_user:
        await log_in(other_user, ben, auth)

        async def begin() -> None:
            """Makes the login of `pending` wait, also after it was completed."""
            pending.cookies.delete("session")
            login = await post_login(pending)
            assert login.headers["location"] == STEP

        await begin()

        async def challenge(browser: httpx.AsyncClient, url: str) -> str:
            answer = (await browser.get(url, headers=JSON)).json()
            options = answer.get("publicKey") or answer["step"]["publicKey"]
            text: str = options["challenge"]
            return text

        places: dict[str, tuple[httpx.AsyncClient, str, dict[str, str]]] = {
            "login": (visitor, LOGIN, {}),
            "second step": (pending, STEP, {}),
            "step-up": (client, STEP, {}),
            "confirm": (client, CONFIRM, {}),
            "login elsewhere": (other_user, LOGIN, {}),
            "add": (client, ADD, {}),
        }
        for source, target in itertools.product(places, places):
            await begin() if "second step" in (source, target) else None
            text = await challenge(*places[source][:2])
            browser, url, fields = places[target]
            fields = dict(fields)
            if url == ADD:
                options = (await browser.get(ADD, headers=JSON)).json()["publicKey"]
                credential = SoftPasskey(origin=ORIGIN).create({**options, "challenge": text})
            else:
                credential = passkey.sign({"challenge": text, "rpId": "localhost", "allowCredentials": []})
            if target == "second step":
                told = (await browser.get(STEP, headers=JSON)).json()["step"]
                fields["login"] = told["login"]
            await auth.throttle.clear_expired()
            await auth.database.execute("DELETE FROM auth_throttle")
            answer = await browser.post(url, data={"credential": credential, **fields})
            is_accepted = answer.status_code == 303
            assert is_accepted is (source == target), (source, target, answer.status_code)


async def test_attack_26_a_credential_belongs_to_one_user(auth: Auth, client: httpx.AsyncClient) -> None:
    passkey = SoftPasskey(origin=ORIGIN)
    await add(client, passkey)
    ben = await auth.users.create_user("ben", "ben@example.org", PASSWORD)
    async with browser_of(auth) as other:
        await log_in(other, ben, auth)
        thief = SoftPasskey(origin=ORIGIN)
        thief.credential_id = passkey.credential_id
        refused = await add(other, thief)
        assert refused.status_code == 422
        assert "registered already" in refused.text
        assert (await log_in_with(other, thief)).status_code == 422
        assert (await log_in_with(other, passkey)).status_code == 303
        assert (await other.get("/")).json()["username"] == "ann"


@pytest.mark.parametrize(
    "change",
    [
        lambda passkey: setattr(passkey, "user_handle", b"of another user"),
        lambda passkey: setattr(passkey, "user_handle", b""),
        lambda passkey: setattr(passkey, "user_verified", False),
        make_synced,
    ],
    ids=["user handle", "no user handle", "not verified", "can be backed up now"],
)
async def test_attack_27_what_the_library_does_not_check(
    auth: Auth, client: httpx.AsyncClient, change: Callable[[SoftPasskey], None]
) -> None:
    passkey = SoftPasskey(origin=ORIGIN)
    await add(client, passkey)
    passkey.sign_count = 5
    change(passkey)
    async with browser_of(auth) as other:
        assert (await log_in_with(other, passkey)).status_code == 422
        assert (await other.get("/vault")).status_code == 403


async def test_attack_27_a_security_key_is_no_passkey(auth: Auth, client: httpx.AsyncClient) -> None:
    key = SoftPasskey(origin=ORIGIN)
    if len(auth.features) < 2:
        assert (await client.get(ADD, params={"kind": "key"})).status_code == 400
        return
    await add(client, key, kind="key")
    async with browser_of(auth) as other:
        assert (await answered(other, key)).status_code == 422
        await post_login(other)
        page = await other.get(STEP)
        login = re.search(r'name="login" value="([^"]+)"', page.text)
        assert login
        data = {"credential": key.sign(options_in(page.text)), "login": login[1]}
        assert (await other.post(STEP, data=data)).status_code == 303
        assert (await other.get("/")).json()["methods"] == ["password", "key"]
        told = (await other.get(CONFIRM, headers=JSON)).json()["step"]
        assert told["methods"] == ["password"]


async def test_attack_28_a_cloned_passkey(auth: Auth, client: httpx.AsyncClient) -> None:
    seen = events_of(auth, PasskeyCloned)
    passkey = SoftPasskey(origin=ORIGIN)
    await add(client, passkey)
    passkey.sign_count = 10
    async with browser_of(auth) as other:
        assert (await answered(other, passkey)).status_code == 303
        passkey.sign_count = 4
        assert (await answered(other, passkey)).status_code == 422
        [event] = seen
        assert (event.user.username, event.name) == ("ann", "Laptop")
        passkey.sign_count = 20
        assert (await answered(other, passkey)).status_code == 303
        assert len(seen) == 1


async def test_attack_28_the_counter_of_a_synced_passkey_may_stay(auth: Auth, client: httpx.AsyncClient) -> None:
    seen = events_of(auth, PasskeyCloned)
    passkey = SoftPasskey(origin=ORIGIN, synced=True)
    await add(client, passkey)
    for count in (7, 7, 3, 0):
        passkey.sign_count = count
        assert (await answered(client, passkey)).status_code == 303
    assert seen == []


async def test_attack_29_unknown_foreign_and_broken_passkeys_get_one_answer(
    auth: Auth, client: httpx.AsyncClient, ann: User
) -> None:
    """The answers are equal, but for what differs each time, and for what tells the browser to forget an unknown one."""
    known, broken, inactive = (SoftPasskey(origin=ORIGIN, synced=True) for _ in range(3))
    for passkey in (known, broken):
        await add(client, passkey)
    broken.user_handle = b"x" * 32
    stranger = SoftPasskey(origin=ORIGIN, synced=True)
    stranger.create((await client.get(ADD, headers=JSON)).json())
    ben = await auth.users.create_user("ben", "ben@example.org", PASSWORD)
    async with browser_of(auth) as other:
        await log_in(other, ben, auth)
        await add(other, inactive)
    await auth.users.update(ben, is_active=False)
    answers = []
    for passkey in (stranger, broken, inactive):
        async with browser_of(auth) as visitor:
            page = await log_in_with(visitor, passkey, next="/vault")
            program = await visitor.post(
                LOGIN, json={"credential": passkey.sign((await visitor.get(LOGIN, headers=JSON)).json())}
            )
            assert (page.status_code, program.status_code) == (422, 422)
            answers.append((_without_secrets(page.text), program.text, sorted(page.headers)))
    assert answers[0] == answers[1] == answers[2]


def _without_secrets(page: str) -> str:
    page = re.sub(r'<p hidden data-signal="signalUnknownCredential"[^>]*></p>\n', "", page)
    return re.sub(r'("challenge": "|name="csrfmiddlewaretoken" value=")[^"]+', r"\1", page)


async def test_attack_29_the_browser_forgets_only_unknown_passkeys(auth: Auth, client: httpx.AsyncClient) -> None:
    known, unknown = SoftPasskey(origin=ORIGIN), SoftPasskey(origin=ORIGIN)
    await add(client, known)
    unknown.create((await client.get(ADD, headers=JSON)).json())
    known.user_verified = False
    assert "signalUnknownCredential" in (await log_in_with(client, unknown)).text
    assert "signalUnknownCredential" not in (await log_in_with(client, known)).text
    old = unknown.sign(options_in((await client.get("/accounts/login")).text))
    clock_of(auth).tick(3600)
    assert "signalUnknownCredential" not in (await client.post(LOGIN, data={"credential": old})).text


async def test_attack_29_the_options_name_no_passkey_before_the_user_is_known(
    auth: Auth, client: httpx.AsyncClient
) -> None:
    await add(client, SoftPasskey(origin=ORIGIN))
    async with browser_of(auth) as other:
        for url in (LOGIN, "/accounts/login"):
            answer = await other.get(url, headers=JSON if url == LOGIN else {})
            options = answer.json()["publicKey"] if url == LOGIN else options_in(answer.text)
            assert options["allowCredentials"] == []


async def test_attack_18_a_row_of_another_user_opens_nothing(auth: Auth, client: httpx.AsyncClient) -> None:
    passkey = SoftPasskey(origin=ORIGIN)
    await add(client, passkey)
    ben = await auth.users.create_user("ben", "ben@example.org", PASSWORD)
    table = feature_of(auth).store.table
    await auth.gateway.execute(sa.update(table).values(user_id=ben.id))
    async with browser_of(auth) as other:
        assert (await log_in_with(other, passkey)).status_code == 422


async def test_wrong_passkeys_count_with_the_other_factors(auth: Auth, client: httpx.AsyncClient) -> None:
    seen = events_of(auth, SecondFactorFailed)
    await add(client, SoftPasskey(origin=ORIGIN))
    for _ in range(5):
        assert (await client.post(CONFIRM, data={"credential": "{}"})).status_code == 422
    assert (await client.post(CONFIRM, data={"credential": "{}"})).status_code == 429
    assert {event.method for event in seen} == {"passkey"}

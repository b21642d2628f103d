"""Tests of known devices: their cookie, and the logins of an owner whose account is under attack."""

import contextlib
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from databases import Database
from starlette.requests import HTTPConnection

from starlette_auth import ActiveSessions, Argon2PasswordHasher, Auth, Passwords, User, UserLoggedIn
from starlette_auth.features.email_change import EmailChange
from starlette_auth.passwords.passwords import default_hashers
from starlette_auth.security.known_devices import MAX_USERS
from starlette_auth.security.reset_tokens import encode_uid
from starlette_auth.security.throttle import Throttle
from starlette_auth.testing import CollectingMailer, FrozenClock

from ..conftest import (
    DJANGO,
    ON_SERVER,
    PASSWORD,
    SECRET_KEY,
    all_of,
    client_of,
    installed,
    name_of,
    with_store,
    with_tables,
)
from ..support.apps import make_app

pytestmark = with_tables

SITE = "https://site.example"
SAME = {"origin": SITE}
ONE_YEAR = 365 * 24 * 60 * 60
SUPERSCRIPT = {ord(digit): "\xb2" for digit in "0123456789"}  # str.isdigit() accepts it, int() does not
OLDER_KEY = "a key from the year before, which is still accepted"
COOKIE = "__Host-device"


class CountingHasher(Argon2PasswordHasher):
    """A fast hasher that counts its hashes."""

    def __init__(self) -> None:
        super().__init__(time_cost=1, memory_cost=8, parallelism=1)
        self.lock = threading.Lock()
        self.count = 0

    def encode(self, password: str) -> str:
        self._increment()
        return super().encode(password)

    def verify(self, password: str, encoded: str) -> bool:
        self._increment()
        return super().verify(password, encoded)

    def _increment(self) -> None:
        with self.lock:
            self.count += 1


async def create_users(auth: Auth, *names: str) -> list[User]:
    return [await auth.users.create_user(name, f"{name}@example.org", PASSWORD) for name in names]


def browser(auth: Auth, address: str = "192.0.2.1") -> httpx.AsyncClient:
    transport = httpx.ASGITransport(make_app(auth), client=(address, 5000))
    return httpx.AsyncClient(transport=transport, base_url=SITE)


async def log_in(client: httpx.AsyncClient, username: str = "ann", password: str = PASSWORD) -> httpx.Response:
    data = {"username": username, "password": password}
    return await client.post("/accounts/login", data=data, headers=SAME)


def stop_the_clock(auth: Auth) -> None:
    """Stops the throttle's clock, so that no wait ends during the test."""
    login_throttle = auth.model_backend.throttle
    assert login_throttle is not None
    auth.throttle = login_throttle.throttle = Throttle(
        auth.gateway, table=auth.tables.throttle, clock=lambda: 1_800_000_000.0
    )


async def guess_from_many_addresses(auth: Auth, username: str, number: int = 200) -> list[httpx.Response]:
    """Sends wrong passwords concurrently, each from another address."""
    app = make_app(auth)

    async def guess(n: int) -> httpx.Response:
        transport = httpx.ASGITransport(app, client=(f"198.51.{n // 200}.{n % 200}", 5000))
        async with httpx.AsyncClient(transport=transport, base_url=SITE) as client:
            return await log_in(client, username, f"guess {n}")

    return await all_of(*(guess(n) for n in range(number)))


def conn_with_cookie(value: str, scheme: str = "http") -> HTTPConnection:
    return HTTPConnection(
        {"type": "http", "scheme": scheme, "headers": [(b"cookie", b"device=" + value.encode("latin-1"))]}
    )


async def cookie_after_logins(auth: Auth, conn: HTTPConnection, *users: User) -> str:
    """Returns the cookie after these users have logged in with this browser, one after the other."""
    for user in users:
        await auth.devices.remember(conn, user)
    return str(conn.scope["starlette_auth.device"])


# The cookie


@pytest.mark.parametrize(("base_url", "name"), [(SITE, COOKIE), ("http://testserver", "device")])
async def test_a_login_sets_a_cookie_that_scripts_cannot_read(auth: Auth, ann: User, base_url: str, name: str) -> None:
    async with client_of(make_app(auth), base_url=base_url) as client:
        data = {"username": "ann", "password": "wrong"}
        response = await client.post("/accounts/login", data=data, headers={"origin": base_url})
        assert not [value for value in response.headers.get_list("set-cookie") if "device" in value]
        response = await client.post(
            "/accounts/login", data={**data, "password": PASSWORD}, headers={"origin": base_url}
        )
        (header,) = [value for value in response.headers.get_list("set-cookie") if "device" in value]
        cookie, *flags = header.split("; ")
        secure = ["Secure"] if base_url == SITE else []
        assert flags == ["Path=/", f"Max-Age={ONE_YEAR}", "HttpOnly", "SameSite=Lax", *secure]
        assert cookie.startswith(f"{name}=")
        device, entry = cookie.removeprefix(f"{name}=").split(".")
        issued, generation, signature = entry.split("-")
        assert (len(device), generation, len(signature)) == (43, "", 64)
        assert abs(int(issued) - time.time()) < 60
        assert response.headers["cache-control"] == "no-store"
        before = client.cookies[name].partition(".")[0]
        for path in ("/", "/whoami", "/accounts/login"):
            assert "device" not in str((await client.get(path)).headers.get_list("set-cookie"))
        await client.post("/accounts/logout", headers={"origin": base_url})
        assert client.cookies[name].partition(".")[0] == before
        await client.post("/accounts/login", data={**data, "password": PASSWORD}, headers={"origin": base_url})
        assert client.cookies[name].partition(".")[0] == before


async def test_over_https_a_cookie_without_the_host_prefix_is_ignored(auth: Auth, ann: User) -> None:
    value = await cookie_after_logins(auth, conn_with_cookie(""), ann)
    assert await auth.devices.known(conn_with_cookie(value), ann)
    assert not await auth.devices.known(conn_with_cookie(value, "https"), ann)


async def test_a_browser_is_known_to_the_users_who_logged_in_with_it(auth: Auth, ann: User) -> None:
    bob, carl = await create_users(auth, "bob", "carl")
    value = await cookie_after_logins(auth, conn_with_cookie(""), ann, bob)
    names = [await auth.devices.known(conn_with_cookie(value), user) for user in (ann, bob)]
    assert names == [value.split(".")[0]] * 2
    assert not await auth.devices.known(conn_with_cookie(value), carl)
    assert not await auth.devices.known(conn_with_cookie(""), ann)
    assert await cookie_after_logins(auth, conn_with_cookie(""), ann) != value


async def test_a_browser_is_known_to_the_last_five_users(auth: Auth, ann: User) -> None:
    others = await create_users(auth, *"bcdefg")
    assert MAX_USERS == 5
    value = await cookie_after_logins(auth, conn_with_cookie(""), ann, *others, ann)
    assert value.count(".") == 5
    known_users = [user for user in (ann, *others) if await auth.devices.known(conn_with_cookie(value), user)]
    assert known_users == [ann, *others[2:]]


async def test_a_repeated_login_does_not_displace_another_user(auth: Auth, ann: User) -> None:
    others = await create_users(auth, *"bcde")
    value = await cookie_after_logins(auth, conn_with_cookie(""), ann, *others, *[others[0]] * 3)
    assert [user for user in (ann, *others) if not await auth.devices.known(conn_with_cookie(value), user)] == []


async def test_a_forged_or_malformed_cookie_is_known_to_no_user(auth: Auth, ann: User) -> None:
    value = await cookie_after_logins(auth, conn_with_cookie(""), ann)
    device, entry = value.split(".")
    issued, _, signature = entry.split("-")
    other_device = (await cookie_after_logins(auth, conn_with_cookie(""), ann)).split(".")[0]
    forged_cookies = [
        f"{device}.{signature}",
        f"{device}.{int(issued) + 1}--{signature}",
        f"{device}.{issued}-{'0' * 16}-{signature}",
        f"{device}.-{issued}--{signature}",
        f"{device}.{'9' * 5000}--{signature}",
        f"{device}.{issued.translate(SUPERSCRIPT)}--{signature}",
        f"{other_device}.{entry}",
        f"{device}.{entry[:-1]}",
        f"{device}.{entry}0",
        f"{device}.{entry.upper()}",
        f"{device}",
        f"{device}.",
        f".{entry}",
        f"{device[:-1]}.{entry}",
        f"{device}{entry}",
        f"{device}. .{entry}\xe9",
        f"{device}.{'0.' * 5}{entry}",
        f"{device}.{'x' * 60_000}",
        "." * 60_000,
        "\xff\xfe",
        "",
        "null",
        "%00",
        f"{entry}.{device}",
        f"{'a' * 43}.{entry}",
        f"{device}:{ann.id}.{entry}",
    ]
    for forged in forged_cookies:
        assert await auth.devices.known(conn_with_cookie(forged), ann) == ""
        cookie = await cookie_after_logins(auth, conn_with_cookie(forged), ann)
        assert await auth.devices.known(conn_with_cookie(cookie), ann), forged
        assert len(cookie) < 500


async def test_a_malformed_identifier_is_replaced(auth: Auth, ann: User) -> None:
    for forged in ("short", "x" * 44, "a b" * 14, "ü" * 43):
        assert (await cookie_after_logins(auth, conn_with_cookie(forged), ann)).split(".")[0] != forged


async def test_signatures_by_older_keys_are_accepted_and_replaced_at_login(database: Database) -> None:
    async with installed(database, secret_key=OLDER_KEY) as old:
        users = await create_users(old, *"abcde")
        value = await cookie_after_logins(old, conn_with_cookie(""), *users)
        new = Auth(database, secret_key=[SECRET_KEY, OLDER_KEY])
        assert [user for user in users if not await new.devices.known(conn_with_cookie(value), user)] == []
        value = await cookie_after_logins(new, conn_with_cookie(value), users[-1])
        assert [user for user in users if not await new.devices.known(conn_with_cookie(value), user)] == []
        newest = Auth(database, secret_key=SECRET_KEY)
        assert [user for user in users if await newest.devices.known(conn_with_cookie(value), user)] == [users[-1]]


# Logins


async def test_a_login_is_from_a_new_device_without_a_cookie_of_the_user(auth: Auth, ann: User) -> None:
    logins: list[UserLoggedIn] = []
    auth.events.on(UserLoggedIn)(logins.append)
    await create_users(auth, "bob")
    async with browser(auth) as first, browser(auth) as second, browser(auth) as third:
        for client, username in ((first, "ann"), (second, "bob"), (second, "ann"), (second, "bob"), (third, "bob")):
            assert (await log_in(client, username)).status_code == 303
        assert [event.new_device for event in logins] == [False, False, True, False, True]
        # A cookie that was stolen from bob's browser does not make a browser known to ann.
        async with browser(auth) as thief:
            thief.cookies.set(COOKIE, third.cookies[COOKIE])
            await log_in(thief, "ann")
        assert logins[-1].new_device


@pytest.mark.parametrize("name", ["ann", "unknown"])
async def test_of_200_concurrent_guesses_five_are_checked(database: Database, name: str) -> None:
    hasher = CountingHasher()
    options: dict[str, Any] = {"passwords": Passwords([hasher, *default_hashers()[1:]])}
    async with installed(database, **options) as auth:
        await create_users(auth, "ann")
        stop_the_clock(auth)
        before = hasher.count
        responses = await guess_from_many_addresses(auth, name)
        assert hasher.count - before <= 5
        assert sorted(response.status_code for response in responses) == [422] * 5 + [429] * 195
        throttled = [response for response in responses if response.status_code == 429]
        assert all(1 <= int(response.headers["retry-after"]) <= 15 * 60 for response in throttled)
        assert all("Too many attempts" in response.text for response in throttled)


async def test_throttling_does_not_reveal_whether_an_account_exists(auth: Auth, ann: User) -> None:
    statuses = {}
    stop_the_clock(auth)
    for name in ("ann", "unknown"):
        responses = []
        for typed in [name] * 4 + [name.upper(), f" {name} ", name, name.title()]:
            async with browser(auth, "203.0.113.5") as client:
                response = await log_in(client, typed, "wrong")
                responses.append((response.status_code, response.headers.get("retry-after")))
        statuses[name] = responses
    assert statuses["ann"] == statuses["unknown"]
    assert statuses["ann"][-1][0] == 429


async def test_the_owner_can_log_in_while_an_attacker_has_to_wait(auth: Auth, ann: User) -> None:
    await create_users(auth, "mallory")
    stop_the_clock(auth)
    async with browser(auth) as owner, browser(auth) as attacker, browser(auth) as unknown_browser:
        assert (await log_in(owner)).status_code == 303
        assert (await log_in(attacker, "mallory")).status_code == 303
        await owner.post("/accounts/logout", headers=SAME)
        await guess_from_many_addresses(auth, "ann", 50)
        assert (await log_in(unknown_browser)).status_code == 429
        # A browser known to another user is not known to this one, even with a cookie combined from both.
        assert (await log_in(attacker)).status_code == 429
        device = attacker.cookies[COOKIE].split(".")[0]
        async with browser(auth) as forger:
            forger.cookies.set(COOKIE, f"{device}.{owner.cookies[COOKIE].split('.')[1]}")
            assert (await log_in(forger)).status_code == 429
        assert (await log_in(owner, password="a typing mistake")).status_code == 422
        assert (await log_in(owner)).status_code == 303
        # An attacker who steals the owner's cookie has five free guesses and then has to wait.
        async with browser(auth) as thief:
            thief.cookies.set(COOKIE, owner.cookies[COOKIE])
            codes = [(await log_in(thief, password="guess")).status_code for _ in range(6)]
            assert codes == [422] * 5 + [429]


async def test_of_200_concurrent_guesses_with_a_stolen_cookie_five_are_checked(database: Database) -> None:
    hasher = CountingHasher()
    options: dict[str, Any] = {"passwords": Passwords([hasher, *default_hashers()[1:]])}
    async with installed(database, **options) as auth, browser(auth) as owner:
        await create_users(auth, "ann")
        stop_the_clock(auth)
        await log_in(owner)
        before = hasher.count
        async with browser(auth) as thief:
            thief.cookies.set(COOKIE, owner.cookies[COOKIE])
            responses = await all_of(*(log_in(thief, password=f"guess {n}") for n in range(200)))
        assert hasher.count - before <= 5
        assert sorted(response.status_code for response in responses) == [422] * 5 + [429] * 195


# The end of a known device

NEW_PASSWORD = "eleven purple hats in a row"
DAY = 24 * 60 * 60


@contextlib.asynccontextmanager
async def site(kind: str, folder: Path, clock: FrozenClock) -> AsyncIterator[tuple[Auth, list[UserLoggedIn]]]:
    """Yields a site whose clock stands still, and the list of its logins."""
    features = [EmailChange()] if kind in ("cookie", "django cookie") else [EmailChange(), ActiveSessions()]
    options: dict[str, Any] = {"mailer": CollectingMailer(), "base_url": SITE, "features": features}
    logins: list[UserLoggedIn] = []
    async with with_store(kind, folder, clock, **options) as auth:
        auth.events.on(UserLoggedIn)(logins.append)
        await create_users(auth, "ann", "bob")
        yield auth, logins
        await auth.mail_queue.drain()


async def reset(auth: Auth, client: httpx.AsyncClient) -> httpx.Response:
    """Resets ann's password in this browser, through a link as in a mail."""
    ann = await auth.users.get_by_username("ann")
    assert ann is not None
    link = f"/accounts/reset/{encode_uid(ann)}/{await auth.reset_tokens.make(ann)}"
    page = await client.get(link, follow_redirects=True)
    data = {"new_password1": NEW_PASSWORD, "new_password2": NEW_PASSWORD}
    response = await client.post(page.url, data=data, headers=SAME)
    assert response.status_code == 303, response.text
    return response


def thief_of(auth: Auth, owner: httpx.AsyncClient) -> httpx.AsyncClient:
    """Returns a browser with a copy of the owner's device cookie."""
    thief, name = browser(auth, "203.0.113.9"), auth.devices.cookie.names[True]
    thief.cookies.set(name, owner.cookies[name])
    return thief


async def is_known(auth: Auth, client: httpx.AsyncClient, username: str = "ann") -> bool:
    """Tells whether a browser has a counter of its own: whether a guess in it is checked during an attack."""
    response = await log_in(client, username, "a guess")
    assert response.status_code in (422, 429)
    return response.status_code == 422


async def attack(auth: Auth, username: str = "ann") -> None:
    """Guesses in unknown browsers until they have to wait. The clock stands still, so they wait until the test ends."""
    await guess_from_many_addresses(auth, username, 10)
    async with browser(auth, "203.0.113.77") as unknown_browser:
        assert not await is_known(auth, unknown_browser, username)


@pytest.mark.parametrize(("days", "is_new"), [(364, False), (366, True), (3 * 365, True)])
async def test_a_device_is_known_for_a_year(database: Database, days: int, is_new: bool) -> None:
    clock = FrozenClock()
    logins: list[UserLoggedIn] = []
    async with installed(database, clock=clock) as auth, browser(auth) as owner:
        auth.events.on(UserLoggedIn)(logins.append)
        await create_users(auth, "ann", "bob")
        await log_in(owner)
        async with thief_of(auth, owner) as thief:
            clock.tick(days * DAY)
            await attack(auth)
            assert await is_known(auth, thief) is not is_new
            # A login of another user in the same browser does not make the old entry younger.
            await log_in(thief, "bob")
            clock.tick(2 * DAY)
            await attack(auth)
            assert not await is_known(auth, thief)
            clock.tick(DAY)
            await log_in(thief)
            assert logins[-1].new_device


async def by_reset(auth: Auth, owner: httpx.AsyncClient) -> None:
    async with browser(auth) as other_browser:
        await reset(auth, other_browser)


async def by_reset_in_the_known_browser(auth: Auth, owner: httpx.AsyncClient) -> None:
    await reset(auth, owner)


async def by_password_change(auth: Auth, owner: httpx.AsyncClient) -> None:
    data = {"old_password": PASSWORD, "new_password1": NEW_PASSWORD, "new_password2": NEW_PASSWORD}
    assert (await owner.post("/accounts/password_change", data=data, headers=SAME)).status_code == 303


async def by_set_password(auth: Auth, owner: httpx.AsyncClient) -> None:
    await auth.users.set_password(await get_ann(auth), NEW_PASSWORD)


async def by_undone_email_change(auth: Auth, owner: httpx.AsyncClient) -> None:
    mailer = auth.mail_queue.mailer
    assert isinstance(mailer, CollectingMailer)
    data = {"email": "new@example.org", "old_password": PASSWORD}
    assert (await owner.post("/accounts/email_change", data=data, headers=SAME)).status_code == 303
    await auth.mail_queue.drain()
    (link,) = [link for link in mailer.links("new@example.org") if "/confirm/" in link]
    page = await owner.get(link, follow_redirects=True)
    assert (await owner.post(page.url, data={"button": ""}, headers=SAME)).status_code == 303
    await auth.mail_queue.drain()
    (link,) = [link for link in mailer.links("ann@example.org") if "/email_undo/" in link]
    async with browser(auth) as other_browser:
        page = await other_browser.get(link, follow_redirects=True)
        assert (await other_browser.post(page.url, data={"button": ""}, headers=SAME)).status_code == 303
    await auth.users.set_password(await get_ann(auth), NEW_PASSWORD)


async def by_deactivation(auth: Auth, owner: httpx.AsyncClient) -> None:
    ann = await get_ann(auth)
    await auth.users.update(ann, is_active=False)
    await auth.users.update(ann, is_active=True)


async def by_ending_all_sessions(auth: Auth, owner: httpx.AsyncClient) -> None:
    assert await auth.user_sessions.revoke_all(await get_ann(auth)) >= 1


async def by_ending_all_of_no_sessions(auth: Auth, owner: httpx.AsyncClient) -> None:
    await owner.post("/accounts/logout", headers=SAME)
    assert await auth.user_sessions.revoke_all(await get_ann(auth)) == 0


async def by_ending_all_other_sessions(auth: Auth, owner: httpx.AsyncClient) -> None:
    async with browser(auth) as other_browser:
        await log_in(other_browser)
        data = {"others": "on"}
        assert (await other_browser.post("/accounts/sessions/end", data=data, headers=SAME)).status_code == 303


async def get_ann(auth: Auth) -> User:
    ann: User | None = await auth.users.get_by_username("ann")
    assert ann is not None
    return ann


ENDS_PASSWORD = [
    *(by_reset, by_reset_in_the_known_browser, by_password_change, by_set_password),
    *(by_undone_email_change, by_deactivation),
]
ENDS_SESSIONS = [by_ending_all_sessions, by_ending_all_of_no_sessions, by_ending_all_other_sessions]
CASES = [(kind, end) for kind in dict.fromkeys([*ON_SERVER, "cookie", *DJANGO]) for end in ENDS_PASSWORD] + [
    (kind, end) for kind in ON_SERVER for end in ENDS_SESSIONS
]


@pytest.mark.parametrize(("kind", "end"), CASES, ids=[f"{name_of(kind)} {end.__name__}" for kind, end in CASES])
async def test_a_copied_device_cookie_is_void_after(kind: str, end: Any, tmp_path: Path) -> None:
    async with site(kind, tmp_path, FrozenClock()) as (auth, _logins), browser(auth) as owner:
        await log_in(owner)
        await log_in(owner, "bob")
        await log_in(owner)
        async with thief_of(auth, owner) as thief:
            await end(auth, owner)
            await attack(auth)
            assert not await is_known(auth, thief)
            # Other users know the browser as before.
            await attack(auth, "bob")
            assert await is_known(auth, thief, "bob")
        async with thief_of(auth, owner) as thief:
            assert await is_known(auth, thief) is (end in (by_reset_in_the_known_browser, by_password_change))
            assert await is_known(auth, thief, "bob")


async def test_a_login_in_a_void_browser_is_reported_and_makes_it_known_again(tmp_path: Path) -> None:
    async with site("memory", tmp_path, FrozenClock()) as (auth, logins), browser(auth) as owner:
        for _ in range(3):
            await log_in(owner)
            await log_in(owner)
            assert not logins[-1].new_device
            await auth.user_sessions.revoke_all(await get_ann(auth))
            await log_in(owner)
            assert logins[-1].new_device


async def test_ending_the_other_sessions_keeps_this_browser_known(tmp_path: Path) -> None:
    async with site("memory", tmp_path, FrozenClock()) as (auth, _logins), browser(auth) as owner:
        await log_in(owner)
        assert (await owner.post("/accounts/sessions/end", data={"others": "on"}, headers=SAME)).status_code == 303
        await attack(auth)
        assert await is_known(auth, owner)


@pytest.mark.parametrize(
    ("kind", "login_after_reset"),
    [("memory", False), ("cookie", True), *((kind, kind == DJANGO[0]) for kind in DJANGO)],
)
async def test_a_reset_lets_the_owner_log_in_during_an_attack(
    kind: str, tmp_path: Path, login_after_reset: bool
) -> None:
    clock = FrozenClock()
    async with site(kind, tmp_path, clock) as (auth, logins), browser(auth) as owner, browser(auth) as attacker:
        auth.login_after_reset = login_after_reset
        await attack(auth)
        assert (await log_in(owner)).status_code == 429
        await reset(auth, owner)
        assert (await log_in(owner, password=NEW_PASSWORD)).status_code == 303
        assert not logins[-1].new_device
        # One guess each 15 minutes for a day, before and after the owner's login of that time.
        for _ in range(96):
            clock.tick(15 * 60)
            await log_in(attacker, password="guess")
            assert (await log_in(owner, password=NEW_PASSWORD)).status_code == 303
            assert (await log_in(attacker, password=NEW_PASSWORD)).status_code == 429


async def test_the_counter_of_a_browser_is_empty_after_a_reset(tmp_path: Path) -> None:
    async with site("memory", tmp_path, FrozenClock()) as (auth, _logins), browser(auth) as owner:
        await log_in(owner)
        assert [(await log_in(owner, password="guess")).status_code for _ in range(6)] == [422] * 5 + [429]
        await attack(auth)
        await reset(auth, owner)
        assert (await log_in(owner, password=NEW_PASSWORD)).status_code == 303


async def test_a_reset_makes_only_its_own_browser_known(tmp_path: Path) -> None:
    async with site("memory", tmp_path, FrozenClock()) as (auth, _logins), browser(auth) as owner:
        await attack(auth)
        await owner.post("/accounts/password_reset", data={"email": "ann@example.org"}, headers=SAME)
        await auth.mail_queue.drain()
        mailer = auth.mail_queue.mailer
        assert isinstance(mailer, CollectingMailer)
        link = next(link for link in mailer.links("ann@example.org") if "/reset/" in link)
        # Opening the link, a refused password and a wrong link prove nothing.
        page = await owner.get(link, follow_redirects=True)
        data = {"new_password1": "short", "new_password2": "short"}
        assert (await owner.post(page.url, data=data, headers=SAME)).status_code == 422
        wrong = {"new_password1": NEW_PASSWORD, "new_password2": NEW_PASSWORD}
        assert (await owner.post(link[:-1], data=wrong, headers=SAME)).status_code == 404
        assert not await is_known(auth, owner)
        assert COOKIE not in owner.cookies


async def test_a_new_user_with_the_key_of_a_deleted_one_does_not_know_their_browsers(auth: Auth, ann: User) -> None:
    value = await cookie_after_logins(auth, conn_with_cookie(""), ann)
    await auth.users.delete(ann)
    successor = await auth.users.create_user("eve", "eve@example.org", PASSWORD, id=ann.id)
    assert not await auth.devices.known(conn_with_cookie(value), successor)

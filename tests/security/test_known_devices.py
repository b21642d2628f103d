"""Tests of known devices: their cookie, and the logins of an owner whose account is under attack."""

import threading
from typing import Any

import httpx
import pytest
from databases import Database
from starlette.requests import HTTPConnection

from starlette_auth import Argon2PasswordHasher, Auth, Passwords, User, UserLoggedIn
from starlette_auth.passwords.hashers import default_hashers
from starlette_auth.security.known_devices import MAX_USERS
from starlette_auth.security.throttle import Throttle

from ..conftest import PASSWORD, SECRET_KEY, all_of, client_of, installed, with_tables
from ..support.apps import make_app

pytestmark = with_tables

SITE = "https://site.example"
SAME = {"origin": SITE}
ONE_YEAR = 365 * 24 * 60 * 60
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


def cookie_after_logins(auth: Auth, conn: HTTPConnection, *users: User) -> str:
    """Returns the cookie after these users have logged in with this browser, one after the other."""
    for user in users:
        auth.devices.remember(conn, user)
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
        device, signature = cookie.removeprefix(f"{name}=").split(".")
        assert (len(device), len(signature)) == (43, 64)
        assert response.headers["cache-control"] == "no-store"
        before = client.cookies[name]
        for path in ("/", "/whoami", "/accounts/login"):
            assert "device" not in str((await client.get(path)).headers.get_list("set-cookie"))
        await client.post("/accounts/logout", headers={"origin": base_url})
        assert client.cookies[name] == before
        await client.post("/accounts/login", data={**data, "password": PASSWORD}, headers={"origin": base_url})
        assert client.cookies[name] == before


async def test_over_https_a_cookie_without_the_host_prefix_is_ignored(auth: Auth, ann: User) -> None:
    value = cookie_after_logins(auth, conn_with_cookie(""), ann)
    assert auth.devices.known(conn_with_cookie(value), ann)
    assert not auth.devices.known(conn_with_cookie(value, "https"), ann)


async def test_a_browser_is_known_to_the_users_who_logged_in_with_it(auth: Auth, ann: User) -> None:
    bob, carl = await create_users(auth, "bob", "carl")
    value = cookie_after_logins(auth, conn_with_cookie(""), ann, bob)
    assert auth.devices.known(conn_with_cookie(value), ann) == auth.devices.known(conn_with_cookie(value), bob) != ""
    assert not auth.devices.known(conn_with_cookie(value), carl)
    assert not auth.devices.known(conn_with_cookie(""), ann)
    assert cookie_after_logins(auth, conn_with_cookie(""), ann) != cookie_after_logins(auth, conn_with_cookie(""), ann)


async def test_a_browser_is_known_to_the_last_five_users(auth: Auth, ann: User) -> None:
    others = await create_users(auth, *"bcdefg")
    assert MAX_USERS == 5
    value = cookie_after_logins(auth, conn_with_cookie(""), ann, *others, ann)
    assert value.count(".") == 5
    known_users = [user for user in (ann, *others) if auth.devices.known(conn_with_cookie(value), user)]
    assert known_users == [ann, *others[2:]]


async def test_a_repeated_login_does_not_displace_another_user(auth: Auth, ann: User) -> None:
    others = await create_users(auth, *"bcde")
    value = cookie_after_logins(auth, conn_with_cookie(""), ann, *others, *[others[0]] * 3)
    assert all(auth.devices.known(conn_with_cookie(value), user) for user in (ann, *others))


async def test_a_forged_or_malformed_cookie_is_known_to_no_user(auth: Auth, ann: User) -> None:
    value = cookie_after_logins(auth, conn_with_cookie(""), ann)
    device, signature = value.split(".")
    other_device = cookie_after_logins(auth, conn_with_cookie(""), ann).split(".")[0]
    forged_cookies = [
        f"{other_device}.{signature}",
        f"{device}.{signature[:-1]}",
        f"{device}.{signature}0",
        f"{device}.{signature.upper()}",
        f"{device}",
        f"{device}.",
        f".{signature}",
        f"{device[:-1]}.{signature}",
        f"{device}{signature}",
        f"{device}. .{signature}\xe9",
        f"{device}.{'0.' * 5}{signature}",
        f"{device}.{'x' * 60_000}",
        "." * 60_000,
        "\xff\xfe",
        "",
        "null",
        "%00",
        f"{signature}.{device}",
        f"{'a' * 43}.{signature}",
        f"{device}:{ann.id}.{signature}",
    ]
    for forged in forged_cookies:
        assert auth.devices.known(conn_with_cookie(forged), ann) == ""
        cookie = cookie_after_logins(auth, conn_with_cookie(forged), ann)
        assert auth.devices.known(conn_with_cookie(cookie), ann), forged
        assert len(cookie) < 500


async def test_a_malformed_identifier_is_replaced(auth: Auth, ann: User) -> None:
    for forged in ("short", "x" * 44, "a b" * 14, "ü" * 43):
        assert cookie_after_logins(auth, conn_with_cookie(forged), ann).split(".")[0] != forged


async def test_signatures_by_older_keys_are_accepted_and_replaced_at_login(database: Database) -> None:
    async with installed(database, secret_key=OLDER_KEY) as old:
        users = await create_users(old, *"abcde")
        value = cookie_after_logins(old, conn_with_cookie(""), *users)
        new = Auth(database, secret_key=[SECRET_KEY, OLDER_KEY])
        assert all(new.devices.known(conn_with_cookie(value), user) for user in users)
        value = cookie_after_logins(new, conn_with_cookie(value), users[-1])
        assert all(new.devices.known(conn_with_cookie(value), user) for user in users)
        newest = Auth(database, secret_key=SECRET_KEY)
        assert [user for user in users if newest.devices.known(conn_with_cookie(value), user)] == [users[-1]]


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

"""Browsers that are known: their cookie, and what it does for the owner of an account that is under attack."""

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
    """Cheap, and it knows how often it was asked to work."""

    def __init__(self) -> None:
        super().__init__(time_cost=1, memory_cost=8, parallelism=1)
        self.lock = threading.Lock()
        self.count = 0

    def encode(self, password: str) -> str:
        self._work()
        return super().encode(password)

    def verify(self, password: str, encoded: str) -> bool:
        self._work()
        return super().verify(password, encoded)

    def _work(self) -> None:
        with self.lock:
            self.count += 1


async def make(auth: Auth, *names: str) -> list[User]:
    return [await auth.users.create_user(name, f"{name}@example.org", PASSWORD) for name in names]


def browser(auth: Auth, address: str = "192.0.2.1") -> httpx.AsyncClient:
    transport = httpx.ASGITransport(make_app(auth), client=(address, 5000))
    return httpx.AsyncClient(transport=transport, base_url=SITE)


async def log_in(client: httpx.AsyncClient, username: str = "ann", password: str = PASSWORD) -> httpx.Response:
    data = {"username": username, "password": password}
    return await client.post("/accounts/login", data=data, headers=SAME)


def stop_the_clock(auth: Auth) -> None:
    """However long it takes here, no wait is over meanwhile."""
    guard = auth.model_backend.throttle
    assert guard is not None
    auth.throttle = guard.throttle = Throttle(auth.gateway, table=auth.tables.throttle, clock=lambda: 1_800_000_000.0)


async def try_from_everywhere(auth: Auth, username: str, number: int = 200) -> list[httpx.Response]:
    """Wrong passwords, all at once, each from another address."""
    app = make_app(auth)

    async def one(n: int) -> httpx.Response:
        transport = httpx.ASGITransport(app, client=(f"198.51.{n // 200}.{n % 200}", 5000))
        async with httpx.AsyncClient(transport=transport, base_url=SITE) as client:
            return await log_in(client, username, f"guess {n}")

    return await all_of(*(one(n) for n in range(number)))


def carrying(value: str, scheme: str = "http") -> HTTPConnection:
    return HTTPConnection(
        {"type": "http", "scheme": scheme, "headers": [(b"cookie", b"device=" + value.encode("latin-1"))]}
    )


def given(auth: Auth, conn: HTTPConnection, *users: User) -> str:
    """The cookie after these users logged in with this browser, one after the other."""
    for user in users:
        auth.devices.remember(conn, user)
    return str(conn.scope["starlette_auth.device"])


# The cookie


@pytest.mark.parametrize(("base_url", "name"), [(SITE, COOKIE), ("http://testserver", "device")])
async def test_a_login_leaves_a_cookie_that_only_we_read(auth: Auth, ann: User, base_url: str, name: str) -> None:
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


async def test_over_https_a_cookie_without_the_prefix_is_not_looked_at(auth: Auth, ann: User) -> None:
    value = given(auth, carrying(""), ann)
    assert auth.devices.known(carrying(value), ann)
    assert not auth.devices.known(carrying(value, "https"), ann)


async def test_a_browser_is_known_to_those_who_logged_in_with_it(auth: Auth, ann: User) -> None:
    bob, carl = await make(auth, "bob", "carl")
    value = given(auth, carrying(""), ann, bob)
    assert auth.devices.known(carrying(value), ann) == auth.devices.known(carrying(value), bob) != ""
    assert not auth.devices.known(carrying(value), carl)
    assert not auth.devices.known(carrying(""), ann)
    assert given(auth, carrying(""), ann) != given(auth, carrying(""), ann)


async def test_a_browser_knows_five_users_those_who_came_last(auth: Auth, ann: User) -> None:
    others = await make(auth, *"bcdefg")
    assert MAX_USERS == 5
    value = given(auth, carrying(""), ann, *others, ann)
    assert value.count(".") == 5
    known = [user for user in (ann, *others) if auth.devices.known(carrying(value), user)]
    assert known == [ann, *others[2:]]


async def test_who_logs_in_again_takes_nobodys_place(auth: Auth, ann: User) -> None:
    others = await make(auth, *"bcde")
    value = given(auth, carrying(""), ann, *others, *[others[0]] * 3)
    assert all(auth.devices.known(carrying(value), user) for user in (ann, *others))


async def test_a_cookie_that_was_made_up_or_garbled_is_nobodys(auth: Auth, ann: User) -> None:
    value = given(auth, carrying(""), ann)
    device, signature = value.split(".")
    other_device = given(auth, carrying(""), ann).split(".")[0]
    wrong = [
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
    for forged in wrong:
        assert auth.devices.known(carrying(forged), ann) == ""
        again = given(auth, carrying(forged), ann)
        assert auth.devices.known(carrying(again), ann), forged
        assert len(again) < 500


async def test_a_made_up_identifier_is_not_taken_over_unless_it_looks_like_one(auth: Auth, ann: User) -> None:
    for forged in ("short", "x" * 44, "a b" * 14, "ü" * 43):
        assert given(auth, carrying(forged), ann).split(".")[0] != forged


async def test_older_keys_are_accepted_and_replaced_in_their_place(database: Database) -> None:
    async with installed(database, secret_key=OLDER_KEY) as old:
        five = await make(old, *"abcde")
        value = given(old, carrying(""), *five)
        new = Auth(database, secret_key=[SECRET_KEY, OLDER_KEY])
        assert all(new.devices.known(carrying(value), user) for user in five)
        value = given(new, carrying(value), five[-1])
        assert all(new.devices.known(carrying(value), user) for user in five)
        newest = Auth(database, secret_key=SECRET_KEY)
        assert [user for user in five if newest.devices.known(carrying(value), user)] == [five[-1]]


# What it is for


async def test_a_login_is_from_a_new_device_where_the_cookie_is_not_ones_own(auth: Auth, ann: User) -> None:
    found: list[UserLoggedIn] = []
    auth.events.on(UserLoggedIn)(found.append)
    await make(auth, "bob")
    async with browser(auth) as first, browser(auth) as second, browser(auth) as third:
        for client, username in ((first, "ann"), (second, "bob"), (second, "ann"), (second, "bob"), (third, "bob")):
            assert (await log_in(client, username)).status_code == 303
        assert [event.new_device for event in found] == [False, False, True, False, True]
        # A stolen cookie of bob's browser is no known browser of ann's.
        async with browser(auth) as thief:
            thief.cookies.set(COOKIE, third.cookies[COOKIE])
            await log_in(thief, "ann")
        assert found[-1].new_device


@pytest.mark.parametrize("name", ["ann", "nobody"])
async def test_of_two_hundred_guesses_at_once_five_are_looked_at(database: Database, name: str) -> None:
    hasher = CountingHasher()
    options: dict[str, Any] = {"passwords": Passwords([hasher, *default_hashers()[1:]])}
    async with installed(database, **options) as auth:
        await make(auth, "ann")
        stop_the_clock(auth)
        before = hasher.count
        answers = await try_from_everywhere(auth, name)
        assert hasher.count - before <= 5
        assert sorted(answer.status_code for answer in answers) == [422] * 5 + [429] * 195
        refused = [answer for answer in answers if answer.status_code == 429]
        assert all(1 <= int(answer.headers["retry-after"]) <= 15 * 60 for answer in refused)
        assert all("Too many attempts" in answer.text for answer in refused)


async def test_whether_there_is_an_account_does_not_show_under_attack(auth: Auth, ann: User) -> None:
    seen = {}
    stop_the_clock(auth)
    for name in ("ann", "nobody"):
        answers = []
        for typed in [name] * 4 + [name.upper(), f" {name} ", name, name.title()]:
            async with browser(auth, "203.0.113.5") as client:
                response = await log_in(client, typed, "wrong")
                answers.append((response.status_code, response.headers.get("retry-after")))
        seen[name] = answers
    assert seen["ann"] == seen["nobody"]
    assert seen["ann"][-1][0] == 429


async def test_the_owner_gets_in_while_strangers_wait(auth: Auth, ann: User) -> None:
    await make(auth, "mallory")
    stop_the_clock(auth)
    async with browser(auth) as owner, browser(auth) as thief, browser(auth) as stranger:
        assert (await log_in(owner)).status_code == 303
        assert (await log_in(thief, "mallory")).status_code == 303
        await owner.post("/accounts/logout", headers=SAME)
        await try_from_everywhere(auth, "ann", 50)
        assert (await log_in(stranger)).status_code == 429
        # Somebody else's known browser is none of this account's, whatever is put together from two cookies.
        assert (await log_in(thief)).status_code == 429
        device = thief.cookies[COOKIE].split(".")[0]
        async with browser(auth) as forger:
            forger.cookies.set(COOKIE, f"{device}.{owner.cookies[COOKIE].split('.')[1]}")
            assert (await log_in(forger)).status_code == 429
        assert (await log_in(owner, password="a typing mistake")).status_code == 422
        assert (await log_in(owner)).status_code == 303
        # Whoever steals the right cookie has five guesses of their own, and the wait after those.
        async with browser(auth) as pickpocket:
            pickpocket.cookies.set(COOKIE, owner.cookies[COOKIE])
            answers = [(await log_in(pickpocket, password="guess")).status_code for _ in range(6)]
            assert answers == [422] * 5 + [429]


async def test_of_two_hundred_guesses_with_a_stolen_cookie_five_are_looked_at(database: Database) -> None:
    hasher = CountingHasher()
    options: dict[str, Any] = {"passwords": Passwords([hasher, *default_hashers()[1:]])}
    async with installed(database, **options) as auth, browser(auth) as owner:
        await make(auth, "ann")
        stop_the_clock(auth)
        await log_in(owner)
        before = hasher.count
        async with browser(auth) as thief:
            thief.cookies.set(COOKIE, owner.cookies[COOKIE])
            answers = await all_of(*(log_in(thief, password=f"guess {n}") for n in range(200)))
        assert hasher.count - before <= 5
        assert sorted(answer.status_code for answer in answers) == [422] * 5 + [429] * 195

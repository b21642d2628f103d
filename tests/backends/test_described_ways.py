"""Tests of `auth.describe()`: all ways to log in, with their strength and limits (ASVS 6.1.3)."""

from collections.abc import Sequence
from typing import Any

import pytest

from starlette_auth import APITokens, Auth, AuthenticationBackend, DeviceLogin, RemoteUserBackend, TwoFactor, Way

from ..conftest import any_database, installed

pytestmark = any_database


def by_name(auth: Auth) -> dict[str, Way]:
    ways = auth.describe()
    assert len({way.name for way in ways}) == len(ways)
    return {way.name: way for way in ways}


async def test_a_site_with_passwords_alone_has_one_way(auth: Auth) -> None:
    [way] = auth.describe()
    assert (way.name, way.is_second_factor, way.level, way.phishing_resistant) == ("password", False, 1, False)
    assert way.limits == (
        "5 wrong guesses for an account, then a wait of 1 second that doubles up to 15 minutes. "
        "After 100 in a row, only browsers that logged in before may try. "
        "login: 600 in 1 minute for each IP address. login_failed: 40 in 10 minutes for each IP address."
    )


async def test_all_ways_are_described(database: Any) -> None:
    features = [TwoFactor(), APITokens("shop"), DeviceLogin({"cli": "Shop CLI"})]
    async with installed(database, features=features, login_after_reset=True) as auth:
        auth.backends.insert(0, RemoteUserBackend(auth.users, trusted_proxies=["127.0.0.1"]))
        ways = by_name(auth)
    assert set(ways) == {"proxy", "token", "password", "email", "totp", "recovery_code", "device"}
    assert {name for name, way in ways.items() if way.is_second_factor} == {"totp", "recovery_code"}
    assert {name for name, way in ways.items() if way.level == 2} == {"totp", "recovery_code"}
    assert all(way.limits and not way.phishing_resistant for way in ways.values())
    assert "second_factor: 60 in 1 minute" in ways["totp"].limits
    assert "password_reset_mail: 1 in 5 minutes for each account." in ways["email"].limits
    assert "device_authorization: 20 in 1 minute for each IP address." in ways["device"].limits


async def test_the_limits_are_those_of_the_settings(database: Any) -> None:
    rates = {"login": "7/2h/ip, 3/d/ip", "login_failed": "", "token": "2/30s/ip"}
    async with installed(database, features=[APITokens("shop")], rates=rates, login_fields=["username"]) as auth:
        ways = by_name(auth)
    assert "login: 7 in 2 hours for each IP address. login: 3 in 1 day" in ways["password"].limits
    assert "login_failed" not in ways["password"].limits
    assert "token: 2 in 30 seconds" in ways["token"].limits


async def test_a_site_without_throttling_says_so(database: Any) -> None:
    async with installed(database, features=[TwoFactor()], throttling=False, login_after_reset=True) as auth:
        assert all("No limits: Auth(throttling=False)." in way.limits for way in auth.describe())


class Directory(AuthenticationBackend):
    """A backend of an application that describes itself."""

    def describe(self) -> Sequence[Way]:
        return [Way(name="directory", is_second_factor=False, level=1, phishing_resistant=False, limits="Its own.")]


@pytest.mark.parametrize(
    ("backend", "names"), [(Directory, ["directory", "password"]), (AuthenticationBackend, ["password"])]
)
async def test_backends_of_the_application_describe_themselves(
    database: Any, backend: type[AuthenticationBackend], names: list[str]
) -> None:
    async with installed(database, backends=[backend()]) as auth:
        assert [way.name for way in auth.describe()] == names

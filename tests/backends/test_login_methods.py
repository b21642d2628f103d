"""Tests for the methods of a login, and the levels that they reach."""

from typing import Any

import pytest

from starlette_auth.backends.login_methods import (
    ENTRY,
    LoginMethod,
    is_phishing_resistant,
    level_of,
    methods_in,
    with_method,
)
from starlette_auth.backends.request_user import Credentials
from starlette_auth.users.models import AnonymousUser, User

ANN = User(id=7, username="ann")


@pytest.mark.parametrize(
    ("names", "level", "is_resistant"),
    [
        ("", 0, False),
        ("password", 1, False),
        ("email", 1, False),
        ("proxy", 1, False),
        ("totp", 1, False),
        ("password sms", 1, False),
        ("password device", 1, False),
        ("email totp", 1, False),
        ("proxy totp", 2, False),
        ("proxy key", 2, True),
        ("proxy email", 1, False),
        ("totp recovery_code", 1, False),
        ("password totp", 2, False),
        ("password recovery_code", 2, False),
        ("password key", 2, True),
        ("provider:corp totp", 2, False),
        ("provider:corp", 1, False),
        ("passkey", 2, True),
        ("passkey password", 2, True),
        ("key", 1, True),
    ],
)
def test_levels(names: str, level: int, is_resistant: bool) -> None:
    methods = [LoginMethod(name, 1) for name in names.split()]
    assert (level_of(methods), is_phishing_resistant(methods)) == (level, is_resistant)
    session = {"_auth_user_id": "7", ENTRY: [list(method) for method in methods]}
    scopes = Credentials(ANN, session).scopes
    assert ("level2" in scopes, "phishing_resistant" in scopes) == (level == 2, is_resistant)


def test_a_method_is_kept_once_with_its_newest_time() -> None:
    methods = with_method(with_method(with_method((), "password", 1), "totp", 2), "password", 3)
    assert methods == (LoginMethod("totp", 2), LoginMethod("password", 3))


@pytest.mark.parametrize(
    ("session", "methods"),
    [
        ({}, ()),
        ({"_auth_time": 5}, (LoginMethod("password", 5),)),
        ({"_auth_time": "5"}, ()),
        ({"_auth_time": 5, ENTRY: [["proxy", 4]]}, (LoginMethod("proxy", 4),)),
        ({"_auth_time": 5, ENTRY: "damaged"}, ()),
        ({"_auth_time": 5, ENTRY: [["totp"]]}, ()),
        ({"_auth_time": 5, ENTRY: 7}, ()),
    ],
)
def test_the_methods_of_a_session(session: dict[str, Any], methods: tuple[LoginMethod, ...]) -> None:
    assert methods_in(session) == methods


def test_the_methods_of_another_users_session_do_not_count() -> None:
    session = {"_auth_user_id": "8", ENTRY: [["passkey", 1]]}
    for user in (ANN, AnonymousUser()):
        credentials = Credentials(user, session)
        assert (credentials.methods, credentials.level, "level2" in credentials.scopes) == ((), 0, False)
    assert Credentials(ANN).level == 0

"""Behaviours of Django's own tests of users, backends and validators, as they are here.

Behaviours that other tests of this package prove are left out.
"""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import sqlalchemy as sa
from databases import Database
from starlette.requests import HTTPConnection

from starlette_auth import (
    AlreadyExists,
    AnonymousUser,
    Auth,
    AuthenticationBackend,
    CommonPasswordValidator,
    DjangoProject,
    LoginFailed,
    MinimumLengthValidator,
    NumericPasswordValidator,
    PermissionDenied,
    User,
    UserAttributeSimilarityValidator,
    UserCreated,
    ValidationError,
    migrate,
    user_columns,
)
from starlette_auth.core.text import normalize_email, normalize_username
from starlette_auth.passwords.validators import validate_password

from ..conftest import PASSWORD, SECRET_KEY, any_database, connected, installed, with_tables

pytestmark = [with_tables, any_database]


# Users


@pytest.mark.parametrize(
    ("address", "stored"),
    [
        (r"Abc\@DEF@EXAMPLE.com", r"Abc\@DEF@example.com"),
        ("normal@DOMAIN.COM", "normal@domain.com"),
        (r"email\ with_whitespace@D.COM", r"email\ with_whitespace@d.com"),
        (" ann@D.COM ", "ann@d.com"),
    ],
)
def test_the_domain_of_an_address_is_in_lower_case(address: str, stored: str) -> None:
    assert normalize_email(address) == stored


async def test_two_spellings_of_one_name_are_one_name(auth: Auth) -> None:
    for name in ("jörg", "Григорий", "iamthe\u2126"):
        await auth.users.create_user(name)
    with pytest.raises(AlreadyExists):
        await auth.users.create_user("iamthe\u03a9")
    assert normalize_username("iamthe\u2126") == "iamthe\u03a9"


async def test_a_user_without_anything_but_a_name(auth: Auth) -> None:
    user = await auth.users.create_user("ann")
    assert (user.email, user.last_login, user.is_active, user.is_staff, user.is_superuser) == (
        "",
        None,
        True,
        False,
        False,
    )
    assert not user.has_usable_password()
    assert (user.get_username(), user.is_anonymous, user.is_authenticated) == ("ann", False, True)
    await auth.users.update(user, is_active=False)
    assert not (await auth.users.get(user.id) or user).is_active
    assert (await auth.users.create_user("staff", is_staff=True)).is_staff


async def test_each_creation_is_reported_once(auth: Auth) -> None:
    created: list[UserCreated] = []
    auth.events.on(UserCreated)(created.append)
    await auth.users.create_user("JohnDoe")
    await auth.users.create_superuser("Jane", "mail@example.com", PASSWORD)
    assert [event.user.username for event in created] == ["JohnDoe", "Jane"]


def test_a_hash_of_an_unknown_hasher_is_a_usable_password() -> None:
    assert User(id=1, username="ann", password="some-gibberish").has_usable_password()


def test_a_visitor_has_no_id_no_name_and_no_permissions() -> None:
    visitor = AnonymousUser()
    assert (visitor.id, visitor.username, visitor.get_username(), str(visitor)) == (None, "", "", "AnonymousUser")
    assert (visitor.is_anonymous, visitor.is_authenticated, visitor.is_staff, visitor.is_active) == (
        True,
        False,
        False,
        False,
    )
    assert visitor.get_user_permissions() == visitor.get_group_permissions() == frozenset()
    assert visitor == AnonymousUser() != User(id=None, username="super")
    assert hash(visitor) == 1
    with pytest.raises(TypeError):
        int(visitor)  # type: ignore[call-overload]


@pytest.mark.parametrize("email_field", ["email", "email_address"])
async def test_the_address_is_in_the_column_of_the_email_field(tmp_path: Path, email_field: str) -> None:
    columns = (column for column in user_columns() if column.name != "email")
    member = sa.Table("member", sa.MetaData(), *columns, sa.Column(email_field, sa.String(254), nullable=False))
    project = DjangoProject(user=member, email_field=email_field)
    async with connected(f"sqlite+aiosqlite:///{tmp_path}/members.sqlite3") as database:
        auth = Auth(database, secret_key=SECRET_KEY, django=project)
        for table in auth.tables.django_tables:
            await auth.gateway.execute(sa.schema.CreateTable(table))
        await migrate(auth.gateway, auth.tables)
        ann = await auth.users.create_user("ann", "ann@EXAMPLE.org", PASSWORD)
        assert (ann.email, await auth.users.get_by_email("ann@example.org")) == ("ann@example.org", ann)
        token = await auth.reset_tokens.make(ann)
        await auth.users.update(ann, email="new@example.org")
        assert not await auth.reset_tokens.check(ann, token)
        assert await database.fetch_val(f"SELECT {email_field} FROM member") == "new@example.org"
        await auth.close()


# Backends


class Refusing(AuthenticationBackend):
    async def authenticate(self, conn: HTTPConnection, **credentials: Any) -> User | None:
        raise PermissionDenied("Nobody may log in.")


class Broken(AuthenticationBackend):
    async def authenticate(self, conn: HTTPConnection, **credentials: Any) -> User | None:
        raise TypeError("a bug of the backend")


class OfNothing(AuthenticationBackend):
    async def authenticate(self, conn: HTTPConnection) -> User | None:  # type: ignore[override]
        raise AssertionError("It accepts no credentials.")


async def test_a_backend_that_refuses_ends_the_search_and_the_failure_is_reported(database: Database) -> None:
    for backends, is_refused in (([Refusing()], True), ([OfNothing()], False)):
        failures: list[LoginFailed] = []
        async with installed(database, backends=backends) as auth:
            auth.events.on(LoginFailed)(failures.append)
            user = await auth.users.get_by_username("ann") or await auth.users.create_user("ann", password=PASSWORD)
            found = await auth.authenticate(username="ann", password=PASSWORD)
            assert found == (None if is_refused else user)
            masked = {"username": "ann", "password": "********************"}
            assert [failure.credentials for failure in failures] == ([masked] if is_refused else [])


async def test_an_error_of_a_backend_is_not_taken_for_a_failed_login(database: Database) -> None:
    async with installed(database, backends=[Broken()]) as auth:
        with pytest.raises(TypeError, match="a bug of the backend"):
            await auth.authenticate(username="ann", password=PASSWORD)


async def test_an_inactive_user_is_not_authenticated(auth: Auth, ann: User) -> None:
    assert await auth.authenticate(username="ann", password=PASSWORD) == ann
    await auth.users.update(ann, is_active=False)
    assert await auth.authenticate(username="ann", password=PASSWORD) is None


async def test_permissions_of_a_user_and_of_groups_are_told_apart(auth: Auth, ann: User) -> None:
    for name in ("auth.test", "auth.test2", "auth.test3", "auth.test_group"):
        await auth.users.create_permission(name)
    group = await auth.users.create_group("test_group")
    await auth.users.grant(group, "auth.test_group")
    for name in ("auth.test", "auth.test2"):
        await auth.users.grant(ann, name)
    await auth.users.add_to_group(ann, group)
    user = await auth.users.get(ann.id)
    assert user is not None
    assert user.get_all_permissions() == {"auth.test", "auth.test2", "auth.test_group"}
    assert user.get_user_permissions() == {"auth.test", "auth.test2"}
    assert user.get_group_permissions() == {"auth.test_group"}
    assert user.has_perms(["auth.test2", "auth.test_group"])
    assert not user.has_perms(["auth.test", "auth.test3"])
    assert [user.has_perm("test"), user.has_module_perms("Group"), user.has_module_perms("auth")] == [
        False,
        False,
        True,
    ]
    assert not await auth.has_perm(user, "auth.test", object())  # a general permission is none for an object
    root = await auth.users.create_superuser("root")
    assert len(root.get_all_permissions()) == 4
    await auth.users.update(root, is_active=False)
    assert not root.has_perm("auth.test")
    assert root.get_all_permissions() == frozenset()


# Validators


class Length(MinimumLengthValidator):
    def get_error_message(self) -> str:
        return f"Your password must be {self.min_length} characters long"


class Close(UserAttributeSimilarityValidator):
    def get_error_message(self) -> str:
        return "The password is too close to the %(verbose_name)s."


class Attribute(UserAttributeSimilarityValidator):
    def get_error_message(self) -> str:
        return "The password is too close to a user attribute."


class Common(CommonPasswordValidator):
    def get_error_message(self) -> str:
        return "This password has been used too much."


class Digits(NumericPasswordValidator):
    def get_error_message(self) -> str:
        return "This password is all digits."


CLIENT = User(id=1, username="testclient", email="testclient@example.com", first_name="Test", last_name="Client")


@pytest.mark.parametrize(
    ("validator", "password", "message", "code"),
    [
        (MinimumLengthValidator(8), "1234567", "at least 8 characters.", "password_too_short"),
        (Length(3), "12", "Your password must be 3 characters long", "password_too_short"),
        (UserAttributeSimilarityValidator(), "testclient", "similar to the username.", "password_too_similar"),
        (UserAttributeSimilarityValidator(), "example.com", "to the email address.", "password_too_similar"),
        (
            UserAttributeSimilarityValidator(["first_name"], 0.3),
            "testclient",
            "the first name.",
            "password_too_similar",
        ),
        (UserAttributeSimilarityValidator(["first_name"], 1), "Test", "to the first name.", "password_too_similar"),
        (Close(), "testclient", "The password is too close to the username.", "password_too_similar"),
        (Attribute(), "testclient", "The password is too close to a user attribute.", "password_too_similar"),
        (CommonPasswordValidator(), "godzilla", "This password is too common.", "password_too_common"),
        (CommonPasswordValidator(), "asdfjkl:", "This password is too common.", "password_too_common"),
        (Common(), "godzilla", "This password has been used too much.", "password_too_common"),
        (NumericPasswordValidator(), "42424242", "This password is entirely numeric.", "password_entirely_numeric"),
        (Digits(), "42424242", "This password is all digits.", "password_entirely_numeric"),
    ],
)
async def test_a_validator_refuses_with_its_message_and_code(
    validator: Any, password: str, message: str, code: str
) -> None:
    [error] = await validate_password(password, [validator], CLIENT)
    assert error.message.endswith(message)
    assert error.code == code


async def test_a_validator_accepts_other_passwords_and_users_without_attributes() -> None:
    similarity = UserAttributeSimilarityValidator()
    assert await validate_password("testclient", [similarity]) == []
    assert await validate_password("testclient", [UserAttributeSimilarityValidator(["first_name"])], CLIENT) == []
    assert (
        await validate_password("walrus on a quiet pier", [CommonPasswordValidator(), NumericPasswordValidator()]) == []
    )
    [error] = await validate_password("foobar", [similarity], SimpleNamespace(username="foobar"))
    assert error.params == {"verbose_name": "username"}
    errors = await validate_password("password", [CommonPasswordValidator(), MinimumLengthValidator(12)])
    assert [error.code for error in errors] == ["password_too_common", "password_too_short"]
    assert all(isinstance(error, ValidationError) for error in errors)

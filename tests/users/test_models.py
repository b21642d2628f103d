"""Tests of users and permissions in memory, and of events."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from starlette.authentication import BaseUser, has_required_scope, requires
from starlette.requests import HTTPConnection, Request

from starlette_auth import AnonymousUser, ContentType, Events, Group, Permission, User, UserCreated, UserDeleted
from starlette_auth.backends.request_user import Credentials, Scopes
from starlette_auth.core.events import CLEANSED, Event, clean_credentials


def user_with(direct: list[str] | None = None, through_groups: list[str] | None = None, **fields: Any) -> User:
    user = User(**{"id": 1, "username": "ann", **fields})
    user.permission_json = (json.dumps(direct or []), json.dumps(through_groups or []))
    return user


@dataclass(kw_only=True)
class Customer(User):
    phone: str = ""


@dataclass
class Member(User):
    """A dataclass without `kw_only` and `eq=False`."""

    number: int = 0


def test_a_user_has_the_fields_of_django_with_its_defaults() -> None:
    user = User(id=7, username="ann")
    assert (user.email, user.first_name, user.last_name, user.password) == ("", "", "", "")
    assert (user.is_active, user.is_staff, user.is_superuser) == (True, False, False)
    assert (user.last_login, user.date_joined) == (None, None)
    assert user.is_authenticated
    assert not user.is_anonymous
    assert isinstance(user, BaseUser)
    assert user.get_username() == str(user) == "ann"
    assert user.identity == "7"


@pytest.mark.parametrize(
    ("first", "last", "full"), [("Ann", "Lee", "Ann Lee"), ("Ann", "", "Ann"), ("", "Lee", "Lee"), ("", "", "")]
)
def test_the_display_name_is_the_full_name_or_else_the_username(first: str, last: str, full: str) -> None:
    user = User(id=1, username="ann", first_name=first, last_name=last)
    assert user.get_full_name() == full
    assert user.get_short_name() == first
    assert user.display_name == (full or "ann")


@pytest.mark.parametrize("kind", [User, Customer, Member])
def test_users_with_the_same_id_are_equal(kind: type[User]) -> None:
    user, renamed, namesake = kind(id=1, username="ann"), kind(id=1, username="renamed"), kind(id=2, username="ann")
    assert user == renamed
    assert user != namesake
    assert len({user, renamed, namesake}) == 2
    assert user == User(id=1, username="ann")
    assert user != AnonymousUser()
    assert user != 1


@pytest.mark.parametrize("kind", [User, Customer, Member])
def test_repr_does_not_show_the_password_hash(kind: type[User]) -> None:
    text = repr(kind(id=1, username="ann", password="argon2$secret"))
    assert "ann" in text
    assert "secret" not in text
    assert "secret" not in str(Credentials(kind(id=1, username="ann", password="secret")).scopes)


def test_a_subclass_may_add_columns() -> None:
    customer = Customer(id=1, username="ann", phone="112")
    assert "phone='112'" in repr(customer)
    assert customer.has_perms([])


def test_an_anonymous_user_has_no_data_and_no_permissions() -> None:
    visitor = AnonymousUser()
    assert isinstance(visitor, BaseUser)
    assert (visitor.id, visitor.username, visitor.identity, visitor.display_name) == (None, "", "", "")
    assert (visitor.is_active, visitor.is_staff, visitor.is_superuser) == (False, False, False)
    assert visitor.is_anonymous
    assert not visitor.is_authenticated
    assert visitor.get_username() == visitor.get_full_name() == visitor.get_short_name() == ""
    assert not visitor.has_perm("a.b")
    assert not visitor.has_perms(["a.b"])
    assert not visitor.has_module_perms("a")
    assert visitor.get_all_permissions() == visitor.get_user_permissions() == visitor.get_group_permissions() == set()
    assert visitor == AnonymousUser()
    assert visitor != User(id=1, username="")
    assert len({visitor, AnonymousUser()}) == 1
    assert str(visitor) == "AnonymousUser"  # as in Django's templates
    assert repr(visitor) == "AnonymousUser()"


def test_permissions_come_directly_and_through_groups() -> None:
    user = user_with(["polls.add_vote"], ["polls.view_vote", "blog.add_post"])
    assert user.get_user_permissions() == {"polls.add_vote"}
    assert user.get_group_permissions() == {"polls.view_vote", "blog.add_post"}
    assert user.get_all_permissions() == {"polls.add_vote", "polls.view_vote", "blog.add_post"}
    assert user.has_perm("polls.add_vote")
    assert user.has_perm("blog.add_post")
    assert not user.has_perm("blog.delete_post")
    assert user.has_perms(["polls.add_vote", "polls.view_vote"])
    assert user.has_perms(perm for perm in ("polls.add_vote", "blog.add_post"))
    assert not user.has_perms(["polls.add_vote", "blog.delete_post"])
    assert user.has_module_perms("blog")
    assert not user.has_module_perms("blo")
    assert not user.has_module_perms("shop")


def test_has_perms_rejects_a_single_string_as_django_does() -> None:
    with pytest.raises(ValueError, match="Pass a list"):
        user_with().has_perms("polls.add_vote")


def test_an_inactive_user_has_no_permissions_even_as_superuser() -> None:
    for user in (user_with(["a.b"], ["a.c"], is_active=False), user_with(["a.b"], is_active=False, is_superuser=True)):
        assert not user.has_perm("a.b")
        assert not user.has_module_perms("a")
        assert user.get_all_permissions() == user.get_user_permissions() == user.get_group_permissions() == set()


def test_an_active_superuser_has_even_permissions_that_do_not_exist() -> None:
    user = user_with(["a.b"], is_superuser=True)
    assert user.has_perm("never.heard_of")
    assert user.has_perms(["a.b", "c.d"])
    assert user.has_module_perms("never")
    assert user.get_user_permissions() == user.get_group_permissions() == user.get_all_permissions() == {"a.b"}


def test_a_user_who_was_not_read_from_the_database_has_no_permissions() -> None:
    assert User(id=1, username="ann").get_all_permissions() == set()


def test_groups_and_permissions_have_a_text_for_people() -> None:
    content_type = ContentType(id=1, app_label="polls", model="vote")
    permission = Permission(id=1, codename="add_vote", name="Can add vote", content_type=content_type)
    assert str(permission) == "polls | vote | Can add vote"
    assert permission.user_perm_str == "polls.add_vote"
    assert str(Group(id=1, name="editors")) == "editors"
    assert Group(id=1, name="editors") == Group(id=1, name="editors")


@pytest.mark.parametrize(
    ("user", "granted", "denied"),
    [
        (AnonymousUser(), [], ["authenticated", "staff", "superuser", "a.b"]),
        (user_with(["a.b"], ["a.c"]), ["authenticated", "a.b", "a.c"], ["staff", "superuser", "a.d", "b", "ann"]),
        (user_with(is_staff=True), ["authenticated", "staff"], ["superuser", "a.b"]),
        (user_with(is_superuser=True), ["authenticated", "superuser", "a.b"], ["staff", "everything"]),
        (
            user_with(["a.b"], is_staff=True, is_superuser=True, is_active=False),
            ["authenticated"],
            ["staff", "superuser", "a.b"],
        ),
    ],
)
def test_requires_of_starlette_accepts_roles_and_permissions(
    user: User | AnonymousUser, granted: list[str], denied: list[str]
) -> None:
    conn = HTTPConnection({"type": "http", "auth": Credentials(user), "user": user})
    assert has_required_scope(conn, granted)
    for scope in denied:
        assert not has_required_scope(conn, [*granted, scope])
    assert 1 not in Scopes(user)  # type: ignore[comparison-overlap]


async def test_requires_of_starlette_admits_a_user_with_the_permission() -> None:
    @requires("polls.add_vote")
    async def vote(request: Request) -> str:
        return "voted"

    request = Request({"type": "http", "auth": Credentials(user_with(["polls.add_vote"]))})
    assert await vote(request) == "voted"


def test_scopes_can_be_listed() -> None:
    assert list(Scopes(user_with(["b.c", "a.b"], is_staff=True))) == ["authenticated", "staff", "a.b", "b.c"]


# Events


async def test_listeners_get_their_event_in_order_and_a_listener_on_the_base_class_gets_all() -> None:
    events, calls = Events(), []

    @events.on(UserCreated)
    def first(event: UserCreated) -> None:
        calls.append(("first", event.user))

    @events.on(UserCreated)
    async def second(event: UserCreated) -> None:
        calls.append(("second", event.user))

    @events.on(Event)
    async def every(event: Event) -> None:
        calls.append(("every", type(event).__name__))

    await events.emit(UserCreated(user="ann"))
    await events.emit(UserDeleted(user="bob"))
    assert calls == [("first", "ann"), ("second", "ann"), ("every", "UserCreated"), ("every", "UserDeleted")]


async def test_an_exception_of_a_listener_reaches_the_emitter() -> None:
    events = Events()

    @events.on(UserCreated)
    def refuse(event: UserCreated) -> None:
        raise PermissionError("no more users")

    with pytest.raises(PermissionError):
        await events.emit(UserCreated(user="ann"))


async def test_a_listener_after_commit_is_called_last() -> None:
    events, calls = Events(), []
    events.on(UserCreated, after_commit=True)(lambda event: calls.append("after commit"))
    events.on(UserCreated)(lambda event: calls.append("at once"))
    await events.emit(UserCreated(user="ann"))
    assert calls == ["at once", "after commit"]


def test_on_returns_the_listener_unchanged() -> None:
    def listener(event: Event) -> None: ...

    register: Callable[[Callable[[Event], None]], Any] = Events().on(Event)
    assert register(listener) is listener


def test_secrets_in_credentials_are_masked() -> None:
    credentials = {"username": "ann", "password": "x", "api_key": "x", "OTP": "x", "recovery_code": "x", "Token": "x"}
    assert clean_credentials(credentials) == {**dict.fromkeys(credentials, CLEANSED), "username": "ann"}

"""Users, groups and permissions in memory."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from typing import Any

from starlette.authentication import AuthCredentials, BaseUser


@dataclass(frozen=True, kw_only=True)
class ContentType:
    """What a permission is about: a model of an application."""

    id: int
    app_label: str
    model: str


@dataclass(frozen=True, kw_only=True)
class Permission:
    """The right to do one thing, called `app_label.codename`."""

    id: int
    codename: str
    name: str
    content_type: ContentType

    def __str__(self) -> str:
        return f"{self.content_type.app_label}.{self.codename}"


@dataclass(frozen=True, kw_only=True)
class Group:
    """A name under which permissions are given to several users."""

    id: int
    name: str


class PermissionsMixin:
    """Questions about permissions, answered from what came with the user. Nothing here waits."""

    is_active: bool
    is_superuser: bool
    permission_json: tuple[str | None, str | None] = (None, None)

    @cached_property
    def _granted(self) -> tuple[frozenset[str], frozenset[str]]:
        """In person, and through groups. For a superuser the database sends every permission there is, once."""
        in_person, through_groups = self.permission_json
        direct = _names(in_person)
        return direct, direct if self.is_superuser else _names(through_groups)

    def get_user_permissions(self) -> frozenset[str]:
        """Those granted to the user in person; for a superuser, every one there is."""
        return self._granted[0] if self.is_active else frozenset()

    def get_group_permissions(self) -> frozenset[str]:
        """Those that come through groups; for a superuser, every one there is."""
        return self._granted[1] if self.is_active else frozenset()

    def get_all_permissions(self) -> frozenset[str]:
        return self.get_user_permissions() | self.get_group_permissions()

    def has_perm(self, perm: str) -> bool:
        """Whether an active user has `"app.codename"`. An active superuser has every one, existing or not."""
        if not self.is_active or self.is_superuser:
            return self.is_active
        in_person, through_groups = self._granted
        return perm in through_groups or perm in in_person

    def has_perms(self, perms: Iterable[str]) -> bool:
        """Whether the user has all of them."""
        if isinstance(perms, str):
            raise ValueError("has_perms() takes several permissions. Pass a list, or use has_perm().")
        return all(map(self.has_perm, perms))

    def has_module_perms(self, app_label: str) -> bool:
        """Whether the user has any permission of the application."""
        if not self.is_active:
            return False
        return self.is_superuser or any(perm.startswith(f"{app_label}.") for perm in self.get_all_permissions())


@dataclass(kw_only=True, eq=False)
class User(PermissionsMixin, BaseUser):
    """A row of the user table, with the permissions that were the user's when it was read.

    Subclass it, as a dataclass, for columns of your own, and pass the class as `Auth(user_class=…)`.
    """

    id: Any
    username: str
    password: str = field(default="", repr=False)
    email: str = ""
    first_name: str = ""
    last_name: str = ""
    is_active: bool = True
    is_staff: bool = False
    is_superuser: bool = False
    last_login: datetime | None = None
    date_joined: datetime | None = None

    backend = ""  # the path of the backend that took the credentials, between authenticate() and login()

    def __init_subclass__(cls) -> None:
        # @dataclass would compare a subclass by its fields, and make it unhashable.
        cls.__eq__ = User.__eq__  # type: ignore[method-assign]
        cls.__hash__ = User.__hash__  # type: ignore[method-assign]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, User):
            return NotImplemented
        return bool(self.id == other.id)

    def __hash__(self) -> int:
        return hash(self.id)

    def __str__(self) -> str:
        return self.username

    @property
    def is_authenticated(self) -> bool:
        return True

    @property
    def is_anonymous(self) -> bool:
        return False

    @property
    def display_name(self) -> str:
        return self.get_full_name() or self.username

    @property
    def identity(self) -> str:
        return str(self.id)

    def get_username(self) -> str:
        return self.username

    def get_full_name(self) -> str:
        return f"{self.first_name} {self.last_name}".strip()

    def get_short_name(self) -> str:
        return self.first_name


class AnonymousUser(PermissionsMixin, BaseUser):
    """A visitor who has not logged in, and has no permission."""

    id = None
    username = ""
    email = ""
    first_name = ""
    last_name = ""
    is_active = False
    is_staff = False
    is_superuser = False
    is_authenticated = False
    is_anonymous = True
    display_name = ""
    identity = ""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, AnonymousUser)

    def __hash__(self) -> int:
        return 1

    def __repr__(self) -> str:
        return "AnonymousUser()"

    def __str__(self) -> str:
        return "AnonymousUser"

    def get_username(self) -> str:
        return ""

    get_full_name = get_short_name = get_username


class Scopes(list[str]):
    """What Starlette's `@requires` may ask for: "authenticated", "staff", "superuser", or any permission."""

    def __init__(self, user: User | AnonymousUser) -> None:
        self.user = user
        if user.is_authenticated:
            self.append("authenticated")
        if user.is_active and user.is_staff:
            self.append("staff")
        if user.is_active and user.is_superuser:
            self.append("superuser")

    def __contains__(self, scope: object) -> bool:
        # Permissions are looked up when they are asked for, not listed for each request.
        return super().__contains__(scope) or (isinstance(scope, str) and "." in scope and self.user.has_perm(scope))

    def __iter__(self) -> Iterator[str]:
        yield from super().__iter__()
        yield from sorted(self.user.get_all_permissions())


class Credentials(AuthCredentials):
    """`request.auth`: the scopes of a user."""

    def __init__(self, user: User | AnonymousUser) -> None:
        self._user = user

    @cached_property
    def scopes(self) -> Scopes:  # type: ignore[override]
        return Scopes(self._user)


def _names(row: str | None) -> frozenset[str]:
    return frozenset(json.loads(row)) if row and row != "[]" else frozenset()

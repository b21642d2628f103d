"""Users, groups and permissions in memory."""

import functools
import inspect
from collections.abc import Callable
from dataclasses import InitVar, dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, ClassVar

from starlette.authentication import BaseUser
from starlette.requests import HTTPConnection

from ..core.arguments import describe
from ..core.exceptions import ImproperlyConfigured
from ..core.text import is_usable
from .permission_checks import BackendAnswers, PermissionsMixin


@dataclass(frozen=True, kw_only=True)
class ContentType:
    """Identifies a model of an application, which a permission is about."""

    id: int
    app_label: str
    model: str

    def __str__(self) -> str:
        return f"{self.app_label} | {self.model}"


@dataclass(frozen=True, kw_only=True)
class Permission:
    """Represents the right to perform one action. `user_perm_str` is its name for `has_perm`: `app_label.codename`."""

    id: int
    codename: str
    name: str
    content_type: ContentType

    @property
    def user_perm_str(self) -> str:
        return f"{self.content_type.app_label}.{self.codename}"

    def __str__(self) -> str:
        return f"{self.content_type} | {self.name}"


@dataclass(frozen=True, kw_only=True)
class Group:
    """Represents a group, which gives its permissions to its members."""

    id: int
    name: str

    def __str__(self) -> str:
        return self.name


class HiddenAttributes:
    """Keeps the password hash and the permissions out of `__dict__`, which some serializers read."""

    __slots__ = ("_parsed_permissions", "backend_answers", "group_json", "password", "permission_json", "token_scopes")

    password: str
    backend_answers: BackendAnswers | None
    permission_json: tuple[str | None, str | None]
    group_json: str | None
    token_scopes: frozenset[str] | None
    _parsed_permissions: tuple[frozenset[str], frozenset[str]] | None

    def __getstate__(self) -> object:
        return super().__getstate__()  # pickle's protocols 0 and 1 refuse slots without this method


@dataclass(kw_only=True, eq=False)
class User(HiddenAttributes, PermissionsMixin, BaseUser):
    """Represents a row of the user table, as it was when it was read.

    For additional columns, write a subclass with `@dataclass(kw_only=True, eq=False)` and pass it as
    `Auth(user_class=…)`. Users are equal if they have the same `id`.
    """

    id: Any
    username: str
    # The hash is an argument and an attribute, and not a field. A response that contains a user would otherwise show it
    # to an attacker, who could guess the password from it. A subclass's `__post_init__` takes it as first argument.
    password: InitVar[str] = ""
    email: str = ""
    first_name: str = ""
    last_name: str = ""
    is_active: bool = True
    is_staff: bool = False
    is_superuser: bool = False
    last_login: datetime | None = None
    date_joined: datetime | None = None

    #: Checks the names that visitors choose, by raising ValidationError; UnicodeUsernameValidator() if None.
    username_validator: ClassVar[Any] = None
    backend = ""  # path of the backend that accepted the credentials; set by authenticate(), read by login()

    def __post_init__(self, password: str) -> None:
        self.password, self.permission_json = password, (None, None)
        self._parsed_permissions = self.backend_answers = self.group_json = self.token_scopes = None

    def __init_subclass__(cls) -> None:
        # Without eq=False, @dataclass would compare a subclass by its fields and make it unhashable.
        cls.__eq__ = User.__eq__  # type: ignore[method-assign]
        cls.__hash__ = User.__hash__  # type: ignore[method-assign]
        owner = next(base for base in cls.__mro__ if "__post_init__" in vars(base))
        if owner is cls or not issubclass(owner, User):
            cls.__post_init__ = _with_password(cls, cls.__post_init__)  # type: ignore[method-assign]

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: Any, handler: Any) -> Any:
        """Returns the schema without the argument `password`. Pydantic calls this, also for FastAPI."""
        schema = handler(core_schema)
        handler.resolve_ref_schema(schema).get("properties", {}).pop("password", None)
        return schema

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

    def has_usable_password(self) -> bool:
        """Returns whether the user has a password. Users who log in elsewhere may have none."""
        return is_usable(self.password)

    def get_username(self) -> str:
        return self.username

    def get_full_name(self) -> str:
        return f"{self.first_name} {self.last_name}".strip() or self.first_name  # in a rule, a missing text stays one

    def get_short_name(self) -> str:
        return self.first_name


delattr(User, "password")  # the default of the argument, which would hide the attribute

if TYPE_CHECKING:
    from typing_extensions import TypeVar

    U = TypeVar("U", bound=User, default=User)
    U_co = TypeVar("U_co", bound=User, default=User, covariant=True)
else:  # Python 3.11 knows no defaults
    from typing import TypeVar

    U = TypeVar("U", bound=User)
    U_co = TypeVar("U_co", bound=User, covariant=True)


class AnonymousUser(PermissionsMixin, BaseUser):
    """Represents a visitor who is not logged in. Without a backend that grants some, visitors have no permissions."""

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
        return self.username

    get_full_name = get_short_name = get_username


def require_user(user: User | AnonymousUser) -> None:
    """Raises NotImplementedError for an AnonymousUser, as Django does, and TypeError for anything but a User."""
    if isinstance(user, AnonymousUser):
        raise NotImplementedError(
            "An AnonymousUser is not in the database, and has no row to read, change or delete. "
            "Check request.user.is_authenticated first, or put @login_required above the endpoint."
        )
    if not isinstance(user, User):
        raise TypeError(
            f"This method takes a User, and got {describe(user)}. users.get() and authenticate() return None if there is "
            "no such user: check their result."
        )


def require_person(user: object, *, is_optional: bool = False) -> None:
    """Raises TypeError unless a value is a User or an AnonymousUser, or None with `is_optional`."""
    if not (isinstance(user, User | AnonymousUser) or (user is None and is_optional)):
        raise TypeError(f"`user` is a User or an AnonymousUser, and got {describe(user)}. Pass request.user.")


def require_stored(user: User | AnonymousUser) -> None:
    """Raises what `require_user` raises, and ValueError for a user without an id."""
    require_user(user)
    if user.id is None:
        raise ValueError(f"The user {user.username!r} is not in the database. Create it with users.create_user().")


def require_connection(request: object) -> None:
    """Raises TypeError unless a value is None or a request."""
    if request is not None and not isinstance(request, HTTPConnection):
        raise TypeError(
            f"`request` must be a request, and this is {describe(request)}. Pass request=request, or leave it out."
        )


def _with_password(cls: type[User], post_init: Callable[..., None]) -> Callable[..., None]:
    """Returns the `__post_init__` of a subclass, preceded by User's, in case that it does not call `super()`."""
    first = [*inspect.signature(post_init).parameters.values(), None][1]
    if first is None or not (first.kind is first.VAR_POSITIONAL or "password" in first.name):
        raise ImproperlyConfigured(
            f"{cls.__name__}.__post_init__ does not take the password. Write def __post_init__(self, password: str) "
            "and call super().__post_init__(password) in it."
        )

    @functools.wraps(post_init)
    def wrapper(self: User, password: str, *further: Any) -> None:
        User.__post_init__(self, password)
        post_init(self, password, *further)

    return wrapper

"""Tests of arguments of a wrong type, for every parameter of every public constructor."""

import inspect
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal, get_args, get_origin, get_type_hints

import pytest
import sqlalchemy as sa
from databases import Database
from starlette.applications import Starlette

import starlette_auth
from starlette_auth import (
    Auth,
    DatabaseStore,
    Event,
    ImproperlyConfigured,
    MemoryStore,
    SessionLimit,
    User,
)

from .conftest import SECRET_KEY

#: Classes whose objects the package creates itself, and functions that take a request instead of settings.
NOT_SETTINGS = {
    *(
        "APIToken",
        "ContentType",
        "Group",
        "LoginMethod",
        "Way",
        "PendingLogin",
        "Permission",
        "AnonymousUser",
        "User",
        "SessionBase",
        "Gateway",
        "ValidationError",
    ),
    *("auth_context", "authenticate", "complete_login", "csrf_exempt", "csrf_input", "csrf_token", "get_auth", "login"),
    *("advance", "pending_login"),
    *("login_not_required", "logout", "migrate", "redirect_to_login", "update_session_auth_hash", "answer", "Remedy"),
}
#: Parameters with arguments of any type.
DECORATORS = ("factor_required", "fresh_login_required", "login_required")
ANY = {("Auth", "django"), ("lifespan", "inner"), *((name, "endpoint") for name in DECORATORS)}
WRONG: list[Any] = [None, 5, 2.5, True, "x", b"", object(), object, [], {}]


def make_auth() -> Auth:
    return Auth(Database("sqlite+aiosqlite:///nowhere.sqlite3"), secret_key=SECRET_KEY)


def right_values(auth: Auth, owner: str) -> dict[str, Any]:
    """Returns a valid value for each required parameter, by its name."""
    store = DatabaseStore(auth.database) if owner == "CachedStore" else MemoryStore()
    return {
        "absolute": 60,
        "app": Starlette(),
        "auth": auth,
        "backend": auth.session_backend,
        "clients": {"cli": "Shop CLI"},
        "context_words": ["shop"],
        "database": auth.database,
        "default": SessionLimit(absolute=60, idle=60),
        "devices": auth.devices,
        "events": auth.events,
        "gateway": auth.gateway,
        "host": "smtp.example",
        "idle": 60,
        "invalidate": None,
        "keys": auth.keys,
        "label": "Name",
        "passwords": auth.passwords,
        "perm": "polls.add_vote",
        "prefix": "shop",
        "remembered": SessionLimit(absolute=60, idle=60),
        "roles": {"editor": ["polls.add_vote"]},
        "secret_key": SECRET_KEY,
        "staff": SessionLimit(absolute=60, idle=60),
        "store": store,
        "tables": auth.tables,
        "test": lambda user: True,
        "tokens": auth.tokens,
        "trusted_proxies": [],
        "url": "redis://127.0.0.1",
        "user_class": User,
        "users": auth.users,
        "fields": {},
        "table": sa.Table("member", sa.MetaData(), sa.Column("id", sa.Integer)),
    }


def constructors() -> dict[str, Any]:
    """Returns the public classes and functions that take settings."""
    public = {name: getattr(starlette_auth, name) for name in starlette_auth.__all__}
    return {
        name: value
        for name, value in public.items()
        if callable(value)
        and name not in NOT_SETTINGS
        and not (inspect.isclass(value) and (issubclass(value, BaseException | Event) or _is_interface(value)))
        and list(parameters_of(value))
    }


def _is_interface(kind: type) -> bool:
    return bool(getattr(kind, "_is_protocol", False)) or inspect.isabstract(kind)


def parameters_of(constructor: Any) -> Iterator[inspect.Parameter]:
    for parameter in inspect.signature(constructor, follow_wrapped=False).parameters.values():
        if parameter.kind not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):
            yield parameter


def hints_of(constructor: Any) -> dict[str, Any]:
    return get_type_hints(constructor.__init__ if inspect.isclass(constructor) else constructor)


def fits(value: Any, hint: Any) -> bool:
    """Returns whether a value has the type of an annotation."""
    origin, args = get_origin(hint), get_args(hint)
    if hint is Any or hint is object or isinstance(hint, typing.TypeVar):
        return True
    if origin in (typing.Union, types.UnionType):
        return any(fits(value, part) for part in args)
    if origin is Literal:
        return any(value is choice or (type(value) is type(choice) and value == choice) for choice in args)
    if origin is typing.Annotated:
        return fits(value, args[0])
    if origin is type:
        bound: Any = args[0].__bound__ if isinstance(args[0], typing.TypeVar) else args[0]
        return isinstance(value, type) and issubclass(value, bound)
    if hint is None or hint is type(None):
        return value is None
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if origin is Callable or hint is Callable or "Callable" in str(origin):
        return callable(value) and not isinstance(value, type)
    kind = origin or hint
    if getattr(kind, "_is_protocol", False):
        return False
    if not isinstance(kind, type):
        return False
    if kind is not str and isinstance(value, str | bytes) and issubclass(kind, typing.Iterable):
        return False
    if kind is not Mapping and isinstance(value, Mapping):
        return False
    return isinstance(value, kind)


@pytest.mark.parametrize("name", constructors())
def test_an_argument_of_a_wrong_type_is_refused(name: str) -> None:
    auth, constructor, problems = make_auth(), constructors()[name], list[str]()
    hints, right = hints_of(constructor), right_values(auth, name)
    parameters = [*parameters_of(constructor)]
    required = {
        parameter.name: right[parameter.name]
        for parameter in parameters
        if parameter.default is inspect.Parameter.empty
    }
    required |= {"store": right["store"]} if "store" in hints else {}
    required |= {"auth": right["auth"]} if "auth" in hints else {}
    for parameter in parameters:
        for value in WRONG if (name, parameter.name) not in ANY else ():
            is_right = fits(value, hints.get(parameter.name, Any))
            call = f"{name}({parameter.name}={value!r})"
            try:
                constructor(**{**required, parameter.name: value})
            except ImproperlyConfigured as error:
                message = str(error)
                if not message.endswith((".", ")")):
                    problems.append(f"{call}: the message {message!r} is no sentence")
            except Exception as error:
                problems.append(f"{call} raises {error!r}")
            else:
                problems += [] if is_right else [f"{call} is accepted"]
    assert not problems, "\n".join(problems)

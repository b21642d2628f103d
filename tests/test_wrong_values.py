"""Tests of wrong values for every public method: each raises an error with the fix, and changes nothing."""

import inspect
import traceback
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

import starlette_auth
from starlette_auth import (
    AnonymousUser,
    Auth,
    Event,
    Group,
    Permission,
    SessionBase,
    StarletteAuthError,
    User,
)
from starlette_auth.testing import CollectingMailer

from .conftest import PASSWORD, installed, with_tables

pytestmark = with_tables
PACKAGE = str(Path(starlette_auth.__file__).parent)
SINGLE = ("auth", "session")
OWNERS = ["auth", "users", "user_sessions", "session"]
#: Methods that only this package and its features call.
INTERNAL = {
    "auth": {
        *("authenticate", "close", "override_language", "add_security_headers", "find_url", "url_for"),
        *("awaits_address", "has_factor", "has_any_factor", "list_factors", "remove_factors", "ways_in"),
    },
    "users": {"attach", "columns", "from_row", "get_row", "parse_id"},
    "user_sessions": {"begin", "subscribe", "check_limit", "enforce_limit", "revoke_others"},
    "session": {
        *vars(dict),
        *("changes", "cycle_key_for", "mark_saved", "merge_into", "new_key", "format_expiry", "parse_expiry"),
    },
}
WRONG: list[Any] = [None, 5, "", b"", []]
#: Parameters that accept any value, or that applications do not pass.
ANY = {"obj", "normalize", "by_reset", "include_superusers", "progress", "app", "default", "is_active", "batch"}
#: Methods that accept any value, and return None, False or an empty list for a wrong one.
ANSWERS = {
    *("users.get", "users.get_by_username", "users.get_by_email", "users.list_by_email", "users.has_username"),
    *("users.has_usable_password", "users.check_password", "auth.has_perm"),
}
NO_ROW = ("a visitor", "a user who is not stored", "a deleted user")
#: Values of `WRONG` and users without a row (`NO_ROW`) that a parameter accepts.
MEANINGS: dict[tuple[str, str], list[Any]] = {
    ("auth.validate_password", "user"): [None, *NO_ROW],
    ("users.get_groups", "user"): ["a visitor", "a deleted user"],
    ("users.email_user", "user"): ["a user who is not stored", "a deleted user"],
    ("users.remove_from_group", "user"): ["a deleted user"],
    ("users.revoke", "holder"): ["a deleted user"],
    ("user_sessions.list", "user"): ["a visitor", "a deleted user"],
    ("user_sessions.revoke", "user"): ["a deleted user"],
    ("user_sessions.revoke_all", "user"): ["a deleted user"],
    ("users.replace_password", "user"): ["a deleted user"],
    ("users.create_user", "email"): [None, ""],
    ("users.create_user", "password"): [None, ""],
    ("users.create_superuser", "email"): [None, ""],
    ("users.create_superuser", "password"): [None, ""],
    ("users.create_user", "encoded_password"): [""],
    ("users.create_permission", "name"): [""],
    ("users.create_permission", "model"): [""],
    ("users.set_password", "raw"): [None, ""],
    ("users.replace_password", "raw"): [None, ""],
    ("users.email_user", "message"): [""],
    ("users.email_user", "subject"): [""],
    ("users.email_user", "from_email"): [None, ""],
    ("users.with_perm", "backend"): [None],
    ("auth.validate_password", "password"): [""],
    ("user_sessions.revoke", "public_id"): [""],
    ("user_sessions.revoke_all", "keep"): [None],
    ("session.set_expiry", "value"): [None, 5],
    ("session.get_expiry_age", "modification"): [None],
    ("session.get_expiry_age", "expiry"): [None, 5],
    ("session.get_expiry_date", "modification"): [None],
    ("session.get_expiry_date", "expiry"): [None, 5],
}
EXTRA = {"update": {"first_name": "Ann"}}  # fields without which a method does nothing


class Site:
    """An installation with one user, and a valid value for each parameter of its methods, by its name."""

    def __init__(self, auth: Auth, ann: User, deleted: User, group: Group, perm: Permission) -> None:
        self.auth = auth
        self.ann = ann
        self.users = {
            "a visitor": AnonymousUser(),
            "a user who is not stored": User(id=None, username="nobody"),
            "a deleted user": deleted,
        }
        self.values: dict[str, Any] = {
            "user": ann,
            "holder": ann,
            "group": group,
            "perm": perm.user_perm_str,
            "id": ann.id,
            "username": "bob",
            "email": "ann@example.org",
            "raw": PASSWORD,
            "password": PASSWORD,
            "encoded": ann.password,
            "encoded_password": ann.password,
            "name": group.name,
            "subject": "Hello",
            "message": "Hello",
            "from_email": "site@example.org",
            "public_id": "1" * 22,
            "app_label": "polls",
            "model": "vote",
            "backend": auth.model_backend.path,
            "value": 60,
            "of": sa.Table("orders", sa.MetaData(), sa.Column("id", sa.Integer, primary_key=True)),
        }
        self.events: list[Event] = []
        auth.events.on(Event)(self.events.append)

    def owner(self, name: str) -> Any:
        return {"auth": self.auth, "session": SessionBase()}[name] if name in SINGLE else getattr(self.auth, name)

    def calls(self, owner: str) -> Iterator[tuple[str, str, dict[str, Any]]]:
        """Yields each public method and parameter, with valid values for the other parameters."""
        for name, method in inspect.getmembers(type(self.owner(owner)), callable):
            if name.startswith("_") or name in INTERNAL[owner]:
                continue
            parameters = [
                parameter
                for parameter in inspect.signature(method).parameters.values()
                if parameter.name != "self" and parameter.kind not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL)
            ]
            for wrong in parameters:
                others = EXTRA.get(name, {}) | {
                    other.name: self.value(name, other.name)
                    for other in parameters
                    if other.default is other.empty and other is not wrong
                }
                if wrong.name not in ANY:
                    yield name, wrong.name, others

    def value(self, method: str, parameter: str) -> Any:
        if method in ("create_group", "create_permission") and parameter in ("name", "perm"):
            return {"name": "new", "perm": "new.permission"}[parameter]
        return self.values[parameter]

    async def rows(self) -> dict[str, list[Any]]:
        return {
            table.name: [tuple(row.values()) for row in await self.auth.gateway.fetch_all(sa.select(table))]
            for table in self.auth.tables.metadata.sorted_tables
        }


@pytest.fixture
async def site(database: Any) -> AsyncIterator[Site]:
    options = {"mailer": CollectingMailer(), "base_url": "http://testserver", "from_email": "site@example.org"}
    async with installed(database, **options) as auth:
        deleted = await auth.users.create_user("deleted", "deleted@example.org", PASSWORD)
        await auth.users.delete(deleted)
        ann = await auth.users.create_user("ann", "ann@example.org", PASSWORD)
        group, perm = await auth.users.create_group("editors"), await auth.users.create_permission("polls.add_vote")
        yield Site(auth, ann, deleted, group, perm)


def str_or_repr(value: Any) -> str:
    return value if value in NO_ROW else repr(value)


def is_clear(error: BaseException) -> bool:
    """Returns whether this package raised the exception deliberately, with a message of whole sentences."""
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    is_of_ours = frame.f_code.co_filename.startswith(PACKAGE)
    kinds = (StarletteAuthError, ValueError, TypeError, NotImplementedError)
    return isinstance(error, kinds) and is_of_ours and str(error).endswith((".", ")"))


async def call(method: Callable[..., Any], arguments: dict[str, Any]) -> Any:
    result = method(**arguments)
    if inspect.isasyncgen(result):
        return [item async for item in result]
    return await result if inspect.isawaitable(result) else result


async def outcome(site: Site, owner: str, name: str, arguments: dict[str, Any], *, may_return: bool) -> str:
    """Returns the problem with the result of a call, or ""."""
    before = await site.rows()
    site.events.clear()
    try:
        result = await call(getattr(site.owner(owner), name), arguments)
    except Exception as error:
        if not is_clear(error):
            return f"raises {error!r}"
        if site.events or await site.rows() != before:
            return f"raises {error!r} after {site.events}"
        return ""
    return "" if may_return else f"returns {result!r}"


@pytest.mark.parametrize("owner", OWNERS)
async def test_a_wrong_value_is_refused_and_changes_nothing(site: Site, owner: str) -> None:
    problems: list[str] = []
    for name, parameter, others in [*site.calls(owner)]:
        method = f"{owner}.{name}"
        wrong: dict[str, Any] = {repr(value): value for value in WRONG}
        wrong |= site.users if parameter in ("user", "holder") else {}
        for label, value in wrong.items():
            may_return = method in ANSWERS or label in map(str_or_repr, MEANINGS.get((method, parameter), []))
            if (parameter, label) == ("request", "None") or value == others.get(parameter):
                continue
            problem = await outcome(site, owner, name, {**others, parameter: value}, may_return=may_return)
            if problem:
                problems.append(f"{method}({parameter}={label}) {problem}")
    assert not problems, "\n".join(problems)

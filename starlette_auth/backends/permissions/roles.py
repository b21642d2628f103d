"""Roles in code: which permissions do the members of a group have?"""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import sqlalchemy as sa

from ...core.arguments import as_texts, require_instance
from ...core.exceptions import ImproperlyConfigured
from ...users.models import AnonymousUser, User
from ...users.permission_holders import is_member, permission_names
from ...users.permissions import suggest
from ...users.users import Users
from ..base import AuthenticationBackend

FIX = 'Pass a dict of lists, as in Roles({"editor": ["blog.*", "-blog.delete_post"], "chief": ["@editor"]}).'
ENTRY = 'Write "blog.add_post", "blog.*" or "blog.view_*"; a minus sign before it takes away, and "@editor" includes a role.'
#: app.codename, app.* or app.beginning*
PATTERN = re.compile(r"[^\s*.@-][^\s*.]*\.(\*|[^\s*.][^*.]*\*?)")
MAX_NAME = 150  # characters in the name of a group


class Entry(NamedTuple):
    """One text of a role: a role to include, or a permission or pattern to add or to take away."""

    text: str
    role: str = ""
    pattern: str = ""
    removes: bool = False

    @property
    def is_wildcard(self) -> bool:
        return self.pattern.endswith("*")

    def matches(self, known: Iterable[str]) -> set[str]:
        if not self.is_wildcard:
            return {self.pattern}
        return {perm for perm in known if perm.startswith(self.pattern[:-1])}


class Roles(AuthenticationBackend):
    """Gives the members of a group the permissions of the role with the same name.

    `Auth(backends=[Roles({"editor": ["blog.*", "-blog.delete_post"], "chief": ["@editor", "blog.delete_post"]})])`.
    The texts of a role are applied in their order. `app.codename` adds a permission, which need not be in the database.
    `app.*` and `app.view_*` add all known permissions that begin so. A minus sign takes away, and `@role` includes what
    another role has in the end. Permissions that the database grants to the group count as well.

    Known are the permissions of the database at the start of the application and those that this process creates
    afterwards. Other processes learn of a new permission when they start again. Without `lifespan`, the permissions are
    read when a backend is first asked.

    `users.add_to_group(user, "editor")` creates the group if it does not exist. So a user who may create groups and add
    members may give roles. Raises ImproperlyConfigured for malformed texts, unknown roles and circles; and at the start
    of the application for a pattern that matches no known permission, and for a text that takes nothing away.
    """

    path = "starlette_auth.Roles"

    def __init__(self, roles: Mapping[str, Iterable[str]]) -> None:
        require_instance(roles, Mapping, "roles", FIX)
        self._entries = {name: [*_parse(name, texts)] for name, texts in roles.items()}
        self._order = _in_order(self._entries)
        entries = [entry for entries in self._entries.values() for entry in entries]
        self._known = {entry.pattern for entry in entries if entry.pattern and not (entry.removes or entry.is_wildcard)}
        self._users: Users[Any] | None = None
        self._permissions: dict[str, frozenset[str]] | None = None
        if not any(entry.is_wildcard for entry in entries):
            self._permissions = self._resolve(check=True)

    @property
    def is_prepared(self) -> bool:
        """Whether the permissions of all roles are known, without waiting for the database."""
        return self._permissions is not None

    def attach(self, users: Users[Any]) -> None:
        """Makes the names of a user's groups known with the user. `Auth` calls this."""
        if self._users not in (None, users):
            raise ImproperlyConfigured("These Roles belong to another Auth. Make Roles({…}) for each Auth.")
        if self._users is None:
            self._users = users
            users.read_groups()
            users.role_names.update(self._entries)
            users.permission_listeners.append(self._add_known)

    def require_attached(self, users: Users[Any]) -> None:
        """Raises ImproperlyConfigured unless the groups of a user are known."""
        if self._users is not users:
            raise ImproperlyConfigured(
                "Roles were added after the Auth was made, which does not read the groups of a user. Pass them in "
                "Auth(backends=[Roles({…})])."
            )

    async def prepare(self) -> None:
        """Reads the known permissions, for the patterns. Has no effect if that is done."""
        if self._permissions is None:
            users = self._attached()
            rows = await users.gateway.fetch_all(permission_names(users.tables))
            self._known.update(f"{row['app_label']}.{row['codename']}" for row in rows)
            self._permissions = self._resolve(check=True)

    def permissions(self, user: User | AnonymousUser) -> Iterable[str]:
        if not user.is_active:
            return ()
        permissions = self._resolved()
        return frozenset().union(*(permissions[name] for name in user.stored_groups if name in permissions))

    async def with_perm(self, perm: str, obj: object = None) -> Iterable[User]:
        await self.prepare()
        roles = [name for name, perms in self._resolved().items() if perm in perms]
        if obj is not None or not roles:
            return []
        users = self._attached()
        query = sa.select(*users.columns()).select_from(users.tables.user).where(is_member(users.tables, roles))
        members = [users.from_row(row) for row in await users.gateway.fetch_all(query)]
        # MariaDB's collations treat "editor" and "Editor" as equal.
        return [user for user in members if not user.stored_groups.isdisjoint(roles)]

    def _attached(self) -> Users[Any]:
        if self._users is None:
            raise ImproperlyConfigured("These Roles belong to no Auth. Pass Auth(backends=[Roles({…})]).")
        return self._users

    def _resolved(self) -> Mapping[str, frozenset[str]]:
        if self._permissions is None:
            raise ImproperlyConfigured(
                "The permissions that the patterns of Roles match are not known yet. Pass lifespan=lifespan(auth) to your "
                "app, or ask `await auth.has_perm(user, perm)` first."
            )
        return self._permissions

    def _add_known(self, perm: str) -> None:
        """Notes a permission that was created. The patterns match it from now on."""
        if perm not in self._known:
            self._known.add(perm)
            self._permissions = self._resolve() if self._permissions is not None else None

    def _resolve(self, *, check: bool = False) -> dict[str, frozenset[str]]:
        """Returns the permissions of each role. With `check`, raises ImproperlyConfigured for a text without effect."""
        permissions: dict[str, frozenset[str]] = {}
        for name in self._order:
            perms: set[str] = set()
            for entry in self._entries[name]:
                matches = set(permissions[entry.role]) if entry.role else entry.matches(self._known)
                if check and not (matches & perms if entry.removes else matches or entry.role):
                    raise _without_effect(name, entry, self._known)
                perms = perms - matches if entry.removes else perms | matches
            permissions[name] = frozenset(perms)
        return permissions


def attach_roles(backends: Iterable[AuthenticationBackend], users: Users[Any]) -> None:
    """Makes the names of a user's groups known, if there are roles."""
    for backend in backends:
        if isinstance(backend, Roles):
            backend.attach(users)


def _parse(name: Any, texts: Any) -> Iterable[Entry]:
    if not isinstance(name, str) or not 0 < len(name) <= MAX_NAME or name != name.strip() or name.startswith("@"):
        raise ImproperlyConfigured(
            f"{name!r} is not the name of a role. Use the name of a group, as in Roles({{'editor': […]}})."
        )
    for text in as_texts(texts, _place(name), FIX):
        pattern = text.removeprefix("-")
        if text.startswith("@") and text[1:]:
            yield Entry(text, role=text[1:])
        elif PATTERN.fullmatch(pattern):
            yield Entry(text, pattern=pattern, removes=pattern != text)
        else:
            raise ImproperlyConfigured(
                f"{_place(name)} contains {text!r}, which is not a permission or a role. {ENTRY}"
            )


def _in_order(roles: Mapping[str, Sequence[Entry]]) -> list[str]:
    """Returns the names in an order in which each role comes after those that it includes."""
    order: list[str] = []

    def visit(name: str, path: tuple[str, ...]) -> None:
        if name in path:
            circle = " → ".join((*path[path.index(name) :], name))
            raise ImproperlyConfigured(
                f"Roles include each other in a circle: {circle}. Remove one of these inclusions."
            )
        for entry in roles[name] if name not in order else ():
            if entry.role and entry.role not in roles:
                raise ImproperlyConfigured(
                    f"{_place(name)} includes {entry.text!r}, and there is no such role.{suggest(entry.role, roles)} "
                    f"Add {entry.role!r} to these Roles, or correct the name."
                )
            if entry.role:
                visit(entry.role, (*path, name))
        if name not in order:
            order.append(name)

    for name in roles:
        visit(name, ())
    return order


def _without_effect(name: str, entry: Entry, known: Iterable[str]) -> ImproperlyConfigured:
    names = {f"{perm.partition('.')[0]}.*" for perm in known} if entry.is_wildcard else known
    hint, place = suggest(entry.pattern, names), f"{_place(name)} contains {entry.text!r}"
    if entry.removes:
        return ImproperlyConfigured(
            f"{place}, which takes nothing away: no text before it gives the role such a permission.{hint} "
            "Correct the name, or write it after what it takes away from."
        )
    return ImproperlyConfigured(
        f"{place}, which matches no permission.{hint} Correct it, or create the permissions before the application "
        "starts, as with await auth.users.create_permission(…)."
    )


def _place(name: str) -> str:
    return f'Roles["{name}"]'

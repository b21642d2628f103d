"""Keeps in a session for some time what a backend has loaded, such as the groups of a directory."""

from collections.abc import Sequence
from typing import Any, Protocol

from starlette.requests import HTTPConnection

from ...core.arguments import require_integer
from ...core.clock import Clock
from ...core.exceptions import ImproperlyConfigured
from ...http.scope import IS_CHECK
from ...sessions.base import SessionBase
from ...sessions.records import USER_ID
from ...sessions.store import SessionStore
from ...users.models import AnonymousUser, User
from ..base import AuthenticationBackend

ENTRY = "_auth_loaded_permissions"  # by backend: for whom, until when, and which permissions


class HasSessions(Protocol):
    """An `Auth`."""

    @property
    def backends(self) -> Sequence[AuthenticationBackend]: ...

    @property
    def sessions(self) -> SessionStore: ...

    @property
    def clock(self) -> Clock: ...


def require_seconds(backend: AuthenticationBackend) -> None:
    """Raises ImproperlyConfigured for a wrong `cache_permissions`."""
    name = f"{type(backend).__name__}.cache_permissions"
    require_integer(backend.cache_permissions, name, minimum=0)
    both = (AuthenticationBackend.permissions, AuthenticationBackend.denies)
    if backend.cache_permissions and (type(backend).permissions, type(backend).denies) != both:
        raise ImproperlyConfigured(
            f"{name} keeps what load_permissions() returns, and permissions() or denies() may depend on what it has found: "
            "a denial would be lost. Write them in a separate backend, or leave cache_permissions at 0."
        )


def find_cached(
    auth: HasSessions, backend: AuthenticationBackend, conn: HTTPConnection | None, user: User | AnonymousUser
) -> frozenset[str] | None:
    """Returns what the session keeps for this backend and user; None if that has to be loaded."""
    session = _session_for(auth, backend, conn, user)
    entries: Any = session.get(ENTRY) if session is not None else None
    entry: Any = entries.get(_name_of(auth, backend)) if isinstance(entries, dict) else None
    try:
        user_id, expires, names = entry
        now, seconds = auth.clock(), backend.cache_permissions
        if user_id == user.identity and now < expires <= now + seconds:  # a clock may have been set back
            return frozenset(names)
    except (TypeError, ValueError):
        pass  # there is none, or another version of this package wrote it
    return None


def keep(
    auth: HasSessions,
    backend: AuthenticationBackend,
    conn: HTTPConnection | None,
    user: User | AnonymousUser,
    names: frozenset[str],
) -> None:
    """Keeps what a backend has loaded, if it asks for that and the session is that of this user."""
    session = _session_for(auth, backend, conn, user)
    if session is None or conn is None or IS_CHECK in conn.scope:  # the check of an open connection saves nothing
        return
    entries = session.get(ENTRY)
    paths = {_name_of(auth, backend) for backend in auth.backends}
    kept = {name: entry for name, entry in entries.items() if name in paths} if isinstance(entries, dict) else {}
    expires = auth.clock() + backend.cache_permissions
    session[ENTRY] = {**kept, _name_of(auth, backend): [user.identity, expires, sorted(names)]}


def _session_for(
    auth: HasSessions, backend: AuthenticationBackend, conn: HTTPConnection | None, user: User | AnonymousUser
) -> SessionBase | None:
    """Returns the stored session to which an active user is logged in; None if it must not be used.

    A cookie that holds the session could be sent again by its owner, who would get back permissions that were revoked.
    A visitor's session would be stored only for this.
    """
    if not backend.cache_permissions or conn is None or not user.is_active or not auth.sessions.is_server_side:
        return None
    session = conn.scope.get("session")
    if not isinstance(session, SessionBase) or session.session_key is None:
        return None
    return session if session.get(USER_ID) == user.identity else None


def _name_of(auth: HasSessions, backend: AuthenticationBackend) -> str:
    """Returns the path of a backend, and its number if there are several of its class."""
    same = [other for other in auth.backends if other.path == backend.path]
    number = next(index for index, other in enumerate([*same, backend]) if other is backend)
    return f"{backend.path} {number}" if number else backend.path

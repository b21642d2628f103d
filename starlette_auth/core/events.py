"""The events that this package emits, and their listeners."""

import contextlib
import functools
import inspect
import re
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any, TypeVar

from starlette.requests import HTTPConnection

from .exceptions import ImproperlyConfigured

CLEANSED = "********************"
SENSITIVE = re.compile("api|token|key|secret|password|signature|code|otp", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class Event:
    """The root of all events: a listener on it hears every one."""


E = TypeVar("E", bound=Event)
Listener = Callable[[E], Awaitable[None] | None]


@dataclass(frozen=True, kw_only=True)
class UserLoggedIn(Event):
    """Somebody proved who they are; the session has its new key by the end of the response.

    `new_device`: they were here before, but not in this browser.
    """

    user: Any
    request: HTTPConnection = field(repr=False)
    backend: str
    new_device: bool = False


@dataclass(frozen=True, kw_only=True)
class UserLoggedOut(Event):
    """A session was ended by its user; `user` is anonymous where nobody was logged in."""

    user: Any
    request: HTTPConnection = field(repr=False)


@dataclass(frozen=True, kw_only=True)
class LoginFailed(Event):
    """Credentials that no backend accepted. Whatever could be a secret in them is starred out."""

    credentials: Mapping[str, Any]
    request: HTTPConnection = field(repr=False)


@dataclass(frozen=True, kw_only=True)
class UserCreated(Event):
    """A user row was written."""

    user: Any


@dataclass(frozen=True, kw_only=True)
class UserDeleted(Event):
    """A user is about to go: emitted inside the transaction, before the row is deleted."""

    user: Any


@dataclass(frozen=True, kw_only=True)
class UserDeactivated(Event):
    """An account was switched off; its sessions have ended, and stay so when it is switched on again."""

    user: Any


@dataclass(frozen=True, kw_only=True)
class PasswordChanged(Event):
    """A user has a new password; all sessions but the one that changed it end with their next request.

    `by_reset`: by a link that was mailed, without the old one.
    """

    user: Any
    request: HTTPConnection | None = field(default=None, repr=False)
    by_reset: bool = False


@dataclass(frozen=True, kw_only=True)
class EmailChanged(Event):
    """A user has another address, which was confirmed; or (`undone`) has the old one back."""

    user: Any
    old_email: str
    request: HTTPConnection | None = field(default=None, repr=False)
    undone: bool = False


@dataclass(frozen=True, kw_only=True)
class SessionEnded(Event):
    """One session of a user was ended from elsewhere; `public_id` is how lists of sessions name it."""

    user: Any
    public_id: str
    request: HTTPConnection | None = field(default=None, repr=False)


@dataclass(frozen=True, kw_only=True)
class SessionsEnded(Event):
    """All sessions of a user were ended, but perhaps that of the request; or end with their next request."""

    user: Any
    request: HTTPConnection | None = field(default=None, repr=False)


@dataclass(frozen=True, kw_only=True)
class PasswordCheckUnavailable(Event):
    """The service that knows stolen passwords did not answer; the password was taken unchecked by it."""

    error: Exception


async def _call_now(act: Callable[[], Awaitable[None]]) -> None:
    await act()


class Events:
    """Listeners by the type of event. They run in order, inside the transaction of what they hear about.

    `transaction` begins one, and `after_commit` does something once it has been committed.
    """

    def __init__(
        self,
        transaction: Callable[[], AbstractAsyncContextManager[None]] = contextlib.nullcontext,
        after_commit: Callable[[Callable[[], Awaitable[None]]], Awaitable[None]] = _call_now,
    ) -> None:
        self._listeners: dict[type[Event], list[Listener[Any]]] = {}
        self._later: dict[type[Event], list[Listener[Any]]] = {}
        self._transaction = transaction
        self._after_commit = after_commit

    def on(self, kind: type[E], *, after_commit: bool = False) -> Callable[[Listener[E]], Listener[E]]:
        """`@auth.events.on(UserLoggedIn)` above a function, async or not, that takes the event.

        `after_commit`: for what undoes nothing when it fails, as a mail or a metric. A login, a logout and a failed
        login need no transaction where all listeners are such.
        """

        if not (isinstance(kind, type) and issubclass(kind, Event)):
            raise ImproperlyConfigured("Say which event: @auth.events.on(UserLoggedIn).")

        def register(listener: Listener[E]) -> Listener[E]:
            (self._later if after_commit else self._listeners).setdefault(kind, []).append(listener)
            return listener

        return register

    def transaction(self, kind: type[Event]) -> AbstractAsyncContextManager[None]:
        """For what happens and is told of: a transaction, or none where no listener could undo anything."""
        heard = any(base in self._listeners for base in kind.__mro__)
        return self._transaction() if heard else contextlib.nullcontext()

    async def emit(self, event: Event) -> None:
        """What a listener raises undoes the change that it was told of."""
        await _notify(self._listeners, event)
        if self._later:
            await self._after_commit(functools.partial(_notify, self._later, event))


async def _notify(listeners: Mapping[type[Event], list[Listener[Any]]], event: Event) -> None:
    for kind in type(event).__mro__:
        for listener in listeners.get(kind, ()):
            result = listener(event)
            if inspect.isawaitable(result):
                await result


def clean_credentials(credentials: Mapping[str, Any]) -> dict[str, Any]:
    """Credentials that may be logged, as Django's `user_login_failed` sends them."""
    return {name: CLEANSED if SENSITIVE.search(name) else value for name, value in credentials.items()}

"""Events that this package emits, and the registry of their listeners."""

import contextlib
import functools
import inspect
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Generic, get_origin

from starlette.requests import HTTPConnection

from .arguments import require_callable
from .exceptions import ImproperlyConfigured

if TYPE_CHECKING:
    from typing_extensions import TypeVar

    #: The class of the user, as in `UserLoggedIn[Member]`.
    U = TypeVar("U", default=Any)
else:  # Python 3.11 knows no defaults
    from typing import TypeVar

    U = TypeVar("U")

CLEANSED = "********************"
SENSITIVE = re.compile("api|token|key|secret|password|signature|code|otp", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class Event:
    """Base class of all events. A listener registered for it receives every event."""

    #: Whether it tells of something that a rollback of the application does not undo, such as a failed login.
    outlives_rollback: ClassVar[bool] = False


E = TypeVar("E", bound=Event)
Listener = Callable[[E], Awaitable[None] | None]


@dataclass(frozen=True, kw_only=True)
class UserLoggedIn(Event, Generic[U]):
    """A user logged in. The session gets its new key when the response starts.

    `new_device` is True if the user has logged in before, but not in this browser. `methods` are the names of the proofs,
    such as ("password", "totp"), and `level` is what they amount to: 1, or 2 with a second factor or a passkey.
    """

    user: U
    request: HTTPConnection = field(repr=False)
    backend: str
    new_device: bool = False
    methods: tuple[str, ...] = ()
    level: int = 0


@dataclass(frozen=True, kw_only=True)
class UserLoggedOut(Event):
    """A visitor logged out. `user` is an AnonymousUser if the visitor was not logged in."""

    outlives_rollback = True
    user: Any
    request: HTTPConnection = field(repr=False)


@dataclass(frozen=True, kw_only=True)
class LoginFailed(Event, Generic[U]):
    """No backend accepted the credentials. Fields of `credentials` that may be secret are replaced by asterisks.

    `user` is the user whose name or address was entered, or None. Do not show it to visitors: an attacker would learn
    which accounts exist.
    """

    outlives_rollback = True
    credentials: Mapping[str, Any]
    request: HTTPConnection = field(repr=False)
    user: U | None = None


@dataclass(frozen=True, kw_only=True)
class PasswordRefused(Event, Generic[U]):
    """A wrong password was entered on another page than the login page.

    `action` is the name under which the attempt counts: "password_change", "email_change_password", "reauthenticate",
    "login" for the link of a registration, or "confirm" for a registration whose account does not exist yet: `user` is
    None then.
    """

    outlives_rollback = True
    user: U | None
    request: HTTPConnection = field(repr=False)
    action: str


@dataclass(frozen=True, kw_only=True)
class TooManyAttempts(Event, Generic[U]):
    """A request was refused with 429 because of a rate limit or of earlier wrong passwords.

    `action` names the limit, as in `Auth(rates={"login": …})`. `user` is the user whose password was entered, or None.
    The request may be repeated after `retry_after` seconds.
    """

    outlives_rollback = True
    action: str
    retry_after: int
    request: HTTPConnection = field(repr=False)
    user: U | None = None


@dataclass(frozen=True, kw_only=True)
class LoginsBlocked(Event, Generic[U]):
    """Too many wrong passwords of a user were entered in unknown browsers, one after the other. `request` has the last.

    Unknown browsers are refused until the password is reset by mail. If no such mail can be sent, `can_reset` is False
    and each further attempt has to wait for the longest wait.
    """

    outlives_rollback = True
    user: U
    request: HTTPConnection = field(repr=False)
    can_reset: bool = True


@dataclass(frozen=True, kw_only=True)
class UserCreated(Event, Generic[U]):
    """A user was created."""

    user: U


@dataclass(frozen=True, kw_only=True)
class UserDeleted(Event, Generic[U]):
    """A user is being deleted. Emitted inside the transaction, before the row is deleted."""

    user: U


@dataclass(frozen=True, kw_only=True)
class UserDeactivated(Event, Generic[U]):
    """An account was deactivated. Its sessions have ended, and reactivating the account does not restore them."""

    user: U


@dataclass(frozen=True, kw_only=True)
class PasswordChanged(Event, Generic[U]):
    """A user's password was changed. All other sessions of the user end with their next request.

    `by_reset` is True if the user set the password through a mailed link, without entering the old one.
    """

    user: U
    request: HTTPConnection | None = field(default=None, repr=False)
    by_reset: bool = False


@dataclass(frozen=True, kw_only=True)
class EmailChanged(Event, Generic[U]):
    """A user confirmed a new e-mail address; or, if `undone`, restored the old one.

    `since` is then the time of the change that was undone, in seconds since 1970, UTC. What was added to the account after
    it may be an attacker's. It is None for a new address.
    """

    user: U
    old_email: str
    request: HTTPConnection | None = field(default=None, repr=False)
    undone: bool = False
    since: int | None = None


@dataclass(frozen=True, kw_only=True)
class SessionEnded(Event, Generic[U]):
    """One session of a user was revoked. `public_id` is its identifier in lists of sessions."""

    user: U
    public_id: str
    request: HTTPConnection | None = field(default=None, repr=False)


@dataclass(frozen=True, kw_only=True)
class SessionsEnded(Event, Generic[U]):
    """All sessions of a user were revoked, except possibly the session of `request`.

    They have ended already, or end with their next request.
    """

    user: U
    request: HTTPConnection | None = field(default=None, repr=False)


@dataclass(frozen=True, kw_only=True)
class SessionExpired(Event):
    """A request had a session whose login is no longer valid. The session was deleted.

    `reason` is "timeout", "password changed", "user inactive", "user deleted", "backend removed" or "proxy".
    """

    outlives_rollback = True
    user_id: str
    reason: str
    request: HTTPConnection = field(repr=False)


@dataclass(frozen=True, kw_only=True)
class EverybodyLoggedOut(Event):
    """The sessions of all users and visitors were deleted. `number` tells how many."""

    number: int
    request: HTTPConnection | None = field(default=None, repr=False)


@dataclass(frozen=True, kw_only=True)
class TokenCreated(Event, Generic[U]):
    """An API token was created. `token_id` is its number in lists of tokens, and `name` what its owner called it."""

    user: U
    token_id: int
    name: str
    request: HTTPConnection | None = field(default=None, repr=False)


@dataclass(frozen=True, kw_only=True)
class TokenRevoked(Event, Generic[U]):
    """An API token was revoked: by its owner, by application code, by a password reset, or by a deactivation."""

    user: U
    token_id: int
    name: str
    request: HTTPConnection | None = field(default=None, repr=False)


@dataclass(frozen=True, kw_only=True)
class TokenExpired(Event, Generic[U]):
    """A request had an API token that has expired. It is emitted once for each token."""

    outlives_rollback = True
    user: U
    token_id: int
    name: str
    request: HTTPConnection = field(repr=False)


@dataclass(frozen=True, kw_only=True)
class PasswordCheckUnavailable(Event):
    """The breached-password service did not answer. The password was accepted without that check."""

    error: Exception


async def _call_now(callback: Callable[[], Awaitable[None]]) -> None:
    await callback()


class Events:
    """Registers listeners by event class and calls them in order, inside the transaction of the change.

    `transaction` begins a transaction. `after_commit` runs a callback once the transaction has been committed. `apart`
    keeps events with `outlives_rollback` out of a transaction that the application shares.
    """

    def __init__(
        self,
        transaction: Callable[[], AbstractAsyncContextManager[None]] = contextlib.nullcontext,
        after_commit: Callable[[Callable[[], Awaitable[None]]], Awaitable[None]] = _call_now,
        apart: Callable[[], AbstractContextManager[None]] = contextlib.nullcontext,
    ) -> None:
        for name, function in (("transaction", transaction), ("after_commit", after_commit), ("apart", apart)):
            is_default = function is contextlib.nullcontext
            require_callable(None if isinstance(function, type) and not is_default else function, name, "Leave it out.")
        self._listeners: dict[type[Event], list[Listener[Any]]] = {}
        self._after_commit_listeners: dict[type[Event], list[Listener[Any]]] = {}
        self._transaction = transaction
        self._run_after_commit = after_commit
        self._apart = apart

    def on(self, kind: type[E], *, after_commit: bool = False) -> Callable[[Listener[E]], Listener[E]]:
        """Registers the decorated function, async or not, as a listener: `@auth.events.on(UserLoggedIn)`.

        With `after_commit=True` the listener runs once the change has been committed, so its failure undoes nothing:
        use this for mails and metrics. If all listeners are of this kind, a login, a logout and a failed login need
        no transaction.
        """

        kind = get_origin(kind) or kind  # UserLoggedIn[Member]
        if not (isinstance(kind, type) and issubclass(kind, Event)):
            raise ImproperlyConfigured("events.on() needs an event class. Use @auth.events.on(UserLoggedIn).")

        def register(listener: Listener[E]) -> Listener[E]:
            require_callable(listener, "A listener", "Write @auth.events.on(UserLoggedIn) above a function.")
            listeners = self._after_commit_listeners if after_commit else self._listeners
            listeners.setdefault(kind, []).append(listener)
            return listener

        return register

    def transaction(self, kind: type[Event]) -> AbstractAsyncContextManager[None]:
        """Returns a transaction for a change and its event; a null context if no listener could undo the change."""
        has_listener = any(base in self._listeners for base in kind.__mro__)
        if not has_listener:
            return contextlib.nullcontext()
        return self._transaction_apart() if kind.outlives_rollback else self._transaction()

    async def emit(self, event: Event) -> None:
        """Calls the listeners of an event. An exception in a listener rolls back the change that caused the event."""
        with self._apart() if event.outlives_rollback else contextlib.nullcontext():
            await _notify(self._listeners, event)
            if self._after_commit_listeners:
                await self._run_after_commit(functools.partial(_notify, self._after_commit_listeners, event))

    @contextlib.asynccontextmanager
    async def _transaction_apart(self) -> AsyncIterator[None]:
        with self._apart():
            async with self._transaction():
                yield


async def _notify(listeners: Mapping[type[Event], list[Listener[Any]]], event: Event) -> None:
    for kind in type(event).__mro__:
        for listener in listeners.get(kind, ()):
            result = listener(event)
            if inspect.isawaitable(result):
                await result


def clean_credentials(credentials: Mapping[str, Any]) -> dict[str, Any]:
    """Returns credentials with secrets masked, as in Django's signal `user_login_failed`."""
    return {name: CLEANSED if SENSITIVE.search(name) else value for name, value in credentials.items()}

"""The exceptions of this package."""

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from starlette.exceptions import HTTPException, WebSocketException
from starlette.responses import Response


class StarletteAuthError(Exception):
    """Base class of the exceptions that this package raises for programmers."""


class ImproperlyConfigured(StarletteAuthError):
    """The application is configured incorrectly. The message ends with the fix."""


class PermissionDenied(StarletteAuthError):
    """Raised by a backend to refuse at once: later backends are not called."""


@dataclass(frozen=True)
class Remedy:
    """The page that lifts a refusal: "login" or "reauthenticate", its URL, and the parameter for the way back.

    An application for programs may have no such page; `url` is then None. `field` is None if the page shall not know
    the way back.
    """

    name: str
    url: str | None
    field: str | None = "next"


class Refused(HTTPException):
    """A request that this package refuses. `answer` makes the response that its client understands.

    `code` names the reason for programs, and stays the same in later versions. `status_code` is that of the response to
    a program: browsers that open a page may get a redirect. `remedy` is the page that lifts the refusal, and `challenge`
    holds the parameters of `WWW-Authenticate` (RFC 9110 §11.6.1). `page` makes the response for a browser that opens a
    page; without it, the browser gets an error page. `members` are further members of the problem for a program.
    """

    code = "refused"

    def __init__(
        self,
        status_code: int,
        detail: str,
        *,
        code: str = "",
        headers: Mapping[str, str] | None = None,
        remedy: Remedy | None = None,
        challenge: Mapping[str, str] | None = None,
        page: Callable[[], Response] | None = None,
        members: Mapping[str, object] | None = None,
    ) -> None:
        super().__init__(status_code, detail, dict(headers or {}))
        self.code = code or type(self).code
        self.remedy = remedy
        self.challenge = challenge
        self.page = page
        self.members = members or {}
        self.response: Response | None = None  # made already


class CrossSiteLogin(PermissionDenied, Refused):
    """Another site sent the request that logs in. The response is 403."""

    code = "cross_site"

    def __init__(self, detail: str) -> None:
        super().__init__(403, detail)


class CrossSiteSocketLogin(PermissionDenied, WebSocketException):
    """Another site opened the WebSocket that logs in. The close code is 1008."""

    def __init__(self, reason: str) -> None:
        super().__init__(1008, reason)


class SessionInterrupted(StarletteAuthError):
    """The session was deleted or got a new key while this request was running."""


class SessionTooLarge(StarletteAuthError):
    """The session data does not fit into a cookie."""


class Unavailable(StarletteAuthError):
    """The database or Redis is unreachable. Visitors get status 503 with `Retry-After`."""


class IntegrityError(StarletteAuthError):
    """The database rejected a row: a unique value exists already, or a foreign key points to no row."""


class UnstorableValue(StarletteAuthError, ValueError):
    """A value fits no database column: it contains NUL or a lone surrogate, is too long or too large."""


class AlreadyExists(StarletteAuthError, ValueError):
    """A user, group or permission with that name exists already.

    `field` is "email" if another user has the address of a user, and otherwise empty.
    """

    def __init__(self, message: str, field: str = "") -> None:
        super().__init__(message)
        self.field = field


class DoesNotExist(StarletteAuthError, LookupError):
    """No user, group or permission with that name exists."""


class HashingBusy(Refused):
    """Too many password checks are waiting. The response is 503 with `Retry-After`, in seconds."""

    code = "busy"

    def __init__(self, retry_after: int = 5) -> None:
        super().__init__(
            503,
            "Many people are logging in at this moment. Please try again in a few seconds.",
            headers={"Retry-After": str(retry_after)},
        )


class Throttled(Refused):
    """Too many attempts were made. The response is 429 (RFC 6585 §4) with `Retry-After`, in seconds.

    `action` names the limit. `is_reported` tells whether the event TooManyAttempts was emitted.
    """

    code = "throttled"

    def __init__(self, retry_after: int, *, action: str = "") -> None:
        self.retry_after = retry_after
        self.action = action
        self.is_reported = False
        super().__init__(429, "Too many attempts. Please try again later.", headers={"Retry-After": str(retry_after)})


class TooManyFailures(Throttled):
    """Too many wrong passwords, or second factors, were entered for an account, one after the other. The response is 429.

    Only browsers that logged in before can log in, until the password is reset by mail. `looks_checked` asks for a
    response after the time of a password check, though no password was checked.
    """

    code = "too_many_failures"

    def __init__(self, retry_after: int, *, looks_checked: bool = False) -> None:
        super().__init__(retry_after)
        self.looks_checked = looks_checked
        self.detail = (
            "Too many wrong passwords were entered. Log in with a browser that you have used here before, or reset your "
            "password."
        )


class TooManySessions(Refused):
    """The user has as many sessions as `Auth(max_sessions=…)` allows. The response is 403."""

    code = "too_many_sessions"

    def __init__(self, number: int) -> None:
        self.number = number
        super().__init__(
            403, "You are logged in on too many other devices already. Please log out on one of them first."
        )


class ValidationError(StarletteAuthError, ValueError):
    """A value entered by a visitor is invalid. `message` is for the visitor, `code` (Django's) for programs.

    `params` are the values of the message, as in Django: they replace `%(name)s` in it.
    """

    def __init__(self, message: str, code: str = "invalid", params: Mapping[str, object] | None = None) -> None:
        self.message = message
        self.code = code
        self.params = params
        if params and "%(" in message:
            # A message that already contains its values may have a percent sign that starts no placeholder.
            with contextlib.suppress(KeyError, TypeError, ValueError):
                self.message = message % params
        super().__init__(self.message)

    def __str__(self) -> str:
        return self.message

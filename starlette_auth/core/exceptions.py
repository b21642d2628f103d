"""The exceptions of this package."""

from starlette.exceptions import HTTPException


class StarletteAuthError(Exception):
    """The root of every exception that this package raises for a programmer."""


class ImproperlyConfigured(StarletteAuthError):
    """The application is put together wrongly; the message ends with the fix."""


class PermissionDenied(StarletteAuthError):
    """Raised by a backend to stop the search: no other backend is asked."""


class SessionInterrupted(StarletteAuthError):
    """The session was deleted, or changed its key, while this request was under way."""


class SessionTooLarge(StarletteAuthError):
    """The session does not fit into a cookie."""


class Unavailable(StarletteAuthError):
    """The database or Redis cannot be reached at the moment. Visitors get 503 and `Retry-After`."""


class IntegrityError(StarletteAuthError):
    """The database refused a row: a value that must be unique stands there, or a row that is referred to is gone."""


class UnstorableValue(StarletteAuthError, ValueError):
    """A value that no database column can hold: NUL, half a surrogate pair, too long, too large."""


class AlreadyExists(StarletteAuthError, ValueError):
    """A user, group or permission of that name is there already."""


class DoesNotExist(StarletteAuthError, LookupError):
    """There is no user, group or permission of that name."""


class HashingBusy(HTTPException):
    """Too many passwords wait to be checked. Answered with 503 and `Retry-After`."""

    def __init__(self, retry_after: int = 5) -> None:
        super().__init__(
            503,
            "Many people are logging in at this moment. Please try again in a few seconds.",
            headers={"Retry-After": str(retry_after)},
        )


class Throttled(HTTPException):
    """Too many attempts. Answered with 429 and `Retry-After` (RFC 6585 §4), in seconds."""

    def __init__(self, retry_after: int) -> None:
        self.retry_after = retry_after
        super().__init__(429, "Too many attempts. Please try again later.", headers={"Retry-After": str(retry_after)})


class TooManySessions(HTTPException):
    """The user is logged in as often as `Auth(max_sessions=…)` allows. Answered with 403."""

    def __init__(self, number: int) -> None:
        self.number = number
        super().__init__(
            403, "You are logged in on too many other devices already. Please log out on one of them first."
        )


class ValidationError(StarletteAuthError, ValueError):
    """What a visitor filled in cannot be taken. `message` says so to the visitor, `code` (Django's) to programs."""

    def __init__(self, message: str, code: str = "invalid") -> None:
        super().__init__(message)
        self.message = message
        self.code = code

    def __str__(self) -> str:
        return self.message

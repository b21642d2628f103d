"""Which usernames may visitors choose, and which could never be entered at a login?"""

import inspect
from collections.abc import Awaitable, Callable
from typing import Any

from ..core.exceptions import ImproperlyConfigured, ValidationError
from ..core.text import is_username, visible_characters
from ..core.translation import gettext

UsernameValidator = Callable[[str], Awaitable[None] | None]


class UnicodeUsernameValidator:
    """Allows letters and digits of any script and @ . + - _, as Django's validator.

    It refuses invisible characters. It is the default of `User.username_validator`.
    """

    def __call__(self, username: str) -> None:
        if not is_username(username):
            message = gettext(
                "Enter a valid username. This value may contain only letters, numbers, and @/./+/-/_ characters."
            )
            raise ValidationError(message, "invalid")

    def get_help_text(self) -> str:
        return gettext("Letters, digits and @ . + - _ only.")


class ASCIIUsernameValidator(UnicodeUsernameValidator):
    """Allows the letters A to Z, digits and @ . + - _, as Django's validator.

    An attacker chooses a name with Cyrillic letters, which would look like a Latin name; this validator refuses it.
    """

    def __call__(self, username: str) -> None:
        if not username.isascii() or not is_username(username):
            message = gettext(
                "Use only the letters A to Z in upper or lower case, digits, and @ . + - _ in a username."
            )
            raise ValidationError(message, "invalid")

    def get_help_text(self) -> str:
        return gettext("The letters A to Z, digits and @ . + - _ only.")


def parse_validator(validator: Any) -> UsernameValidator:
    """Validates `User.username_validator` and returns it, or the default for None."""
    if validator is None:
        return UnicodeUsernameValidator()
    if isinstance(validator, type) or not callable(validator):
        name = getattr(validator, "__name__", "ASCIIUsernameValidator")
        raise ImproperlyConfigured(f"username_validator is called with a name. Write username_validator = {name}().")
    return validator  # type: ignore[no-any-return]


async def validate_username(username: str, validator: UsernameValidator) -> None:
    """Raises the ValidationError of a validator, async or not, for a name that it refuses.

    A name that no user can have is always refused.
    """
    result = validator(username)
    if inspect.isawaitable(result):
        await result
    if not username or _has_invisible(username):
        raise ValidationError(gettext("This contains a character that cannot be saved. Type it again."), "invalid")


def username_help(validator: UsernameValidator) -> str:
    """Returns the help text of the validator; "" if it has no method `get_help_text`."""
    get_help_text: Callable[[], str] | None = getattr(validator, "get_help_text", None)
    return "" if get_help_text is None else get_help_text()


def require_username(username: str) -> None:
    """Raises ValueError for a name that the login form would never accept."""
    if not username:
        raise ValueError("A user needs a username. Pass one that is not empty.")
    if _has_invisible(username):
        raise ValueError(f"The username {username!r} contains invisible characters. Remove them.")


def _has_invisible(username: str) -> bool:
    plain = username.replace(" ", "").replace("\x00", "")  # the database refuses a null character
    return visible_characters(plain) != plain

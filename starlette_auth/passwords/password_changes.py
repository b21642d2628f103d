"""The interface of a password validator, and the call that reports new passwords to validators."""

import inspect
import unicodedata
from collections.abc import Awaitable, Iterable
from typing import Any, Protocol


class PasswordValidator(Protocol):
    """Checks one rule: `validate` raises `ValidationError` for a password that breaks it.

    `validate` may be a coroutine function. A validator may also have the method `password_changed(password, user)`,
    async or not. It is called with each new password of a stored user, in the transaction of the change. A validator
    that remembers passwords needs it.
    """

    def validate(self, password: str, user: Any = None) -> Awaitable[None] | None: ...

    def get_help_text(self) -> str: ...


async def password_changed(password: str | None, user: Any, validators: Iterable[PasswordValidator]) -> None:
    """Calls `password_changed` of the validators that have it. The password is normalized to NFC.

    Validators are not called for None, which means no password or an unknown one.
    """
    if password is None:
        return
    password = unicodedata.normalize("NFC", password)
    for validator in validators:
        method = getattr(validator, "password_changed", None)
        if method is not None and inspect.isawaitable(result := method(password, user)):
            await result


def has_change_listener(validators: Iterable[PasswordValidator]) -> bool:
    """Returns whether a validator has the method `password_changed`."""
    return any(hasattr(validator, "password_changed") for validator in validators)

"""The events of login steps and of optional features."""

from dataclasses import dataclass, field
from typing import Generic

from starlette.requests import HTTPConnection

from .events import Event, U


@dataclass(frozen=True, kw_only=True)
class LoginPending(Event, Generic[U]):
    """A user gave a right proof, such as the password, and `step` is the next one of `auth.login_steps`.

    `methods` are the names of the proofs so far. The user is not logged in.
    """

    user: U
    step: str
    methods: tuple[str, ...]
    request: HTTPConnection = field(repr=False)


@dataclass(frozen=True, kw_only=True)
class DeviceApproved(Event, Generic[U]):
    """A user approved a device (RFC 8628), which can now fetch a token.

    `client` is the identifier of its program, and `address` the IP address from which the device asked.
    """

    user: U
    client: str
    address: str
    request: HTTPConnection | None = field(default=None, repr=False)


@dataclass(frozen=True, kw_only=True)
class DeviceRefused(Event, Generic[U]):
    """A user refused a device, as for DeviceApproved. The code may be a phisher's, who asked from `address`."""

    user: U
    client: str
    address: str
    request: HTTPConnection | None = field(default=None, repr=False)


@dataclass(frozen=True, kw_only=True)
class SecondFactorFailed(Event, Generic[U]):
    """A wrong second factor was given after a right password. `method` is "totp", "recovery_code", or "passkey".

    An attacker may know the password of the user. `failures` is the number of wrong ones in a row, of all factors, in
    browsers that the user has not logged in with before; a known browser has a separate number. It stops at 100,
    and is 0 with `Auth(throttling=False)`.
    """

    outlives_rollback = True
    user: U
    method: str
    failures: int = 0
    request: HTTPConnection | None = field(default=None, repr=False)


@dataclass(frozen=True, kw_only=True)
class RecoveryCodeUsed(Event, Generic[U]):
    """A user entered a right recovery code. `left` is the number of unused ones."""

    user: U
    left: int
    request: HTTPConnection | None = field(default=None, repr=False)


@dataclass(frozen=True, kw_only=True)
class FactorAdded(Event, Generic[U]):
    """A user added a factor. `factor` is "totp" for an authenticator app, "passkey", or "key" for a security key."""

    user: U
    factor: str
    request: HTTPConnection | None = field(default=None, repr=False)


@dataclass(frozen=True, kw_only=True)
class FactorRemoved(Event, Generic[U]):
    """A user removed a second factor, as for FactorAdded."""

    user: U
    factor: str
    request: HTTPConnection | None = field(default=None, repr=False)


@dataclass(frozen=True, kw_only=True)
class RecoveryCodesMade(Event, Generic[U]):
    """A user made `number` new recovery codes, which replace all earlier ones."""

    user: U
    number: int
    request: HTTPConnection | None = field(default=None, repr=False)


@dataclass(frozen=True, kw_only=True)
class PasskeyCloned(Event, Generic[U]):
    """A login with a passkey or security key was refused: its counter did not rise, so there is probably a copy of it.

    `name` is the name that the user gave to it.
    """

    outlives_rollback = True
    user: U
    name: str
    request: HTTPConnection | None = field(default=None, repr=False)

"""What did a user decide about a device that asked for a login?"""

from dataclasses import dataclass, field
from typing import Generic

from starlette.requests import HTTPConnection

from .events import Event, U


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

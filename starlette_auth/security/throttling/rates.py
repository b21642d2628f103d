"""Rate limits: how often may an action be performed?"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from ...core.arguments import require_text
from ...core.exceptions import ImproperlyConfigured

#: "login_failed" counts the wrong passwords of "login", "password_change", "email_change_password" and
#: "reauthenticate" together.
DEFAULT_RATES: Mapping[str, str] = {
    "login": "600/m/ip",
    "password_change": "60/m/ip",
    "email_change_password": "60/m/ip",
    "reauthenticate": "60/m/ip",
    "login_failed": "40/10m/ip",
    "password_reset": "20/m/ip",
    "password_reset_mail": "1/5m/account",
    "register": "20/m/ip",
    "register_mail": "1/5m/account",
    "email_change": "20/m/ip",
    "confirm": "60/m/ip",
    "notice_mail": "10/h/account",
    "token": "30/m/ip",
    "second_factor": "60/m/ip",
    "passkey": "60/m/ip",
    "enrol_mail": "3/15m/account",
    "device": "5/10m/ip, 10/10m/account",
    "device_authorization": "20/m/ip, 6000/m/client",
}
SECONDS = {"s": 1, "m": 60, "h": 60 * 60, "d": 24 * 60 * 60}


@dataclass(frozen=True)
class Rate:
    """Allows `limit` actions per `period` seconds, for each value of `scope` (such as "ip").

    All of them may come at once. After that, one more is allowed per `interval`. This is GCRA, the generic cell rate
    algorithm.
    """

    limit: int
    period: int
    scope: str

    def __str__(self) -> str:
        return f"{self.limit}/{self.period}s/{self.scope}"

    @property
    def interval(self) -> int:
        """Returns the emission interval of GCRA: the time between evenly spaced actions, in milliseconds."""
        return -(-self.period * 1000 // self.limit)

    @property
    def burst(self) -> int:
        """Returns the burst tolerance of GCRA: how many milliseconds `until` may lie ahead."""
        return (self.limit - 1) * self.interval


def parse_rates(text: str) -> tuple[Rate, ...]:
    """Returns the rates in a text such as "10/m/ip, 5/5m/account".

    The example allows 10 actions per minute for each IP address, and 5 per 5 minutes for each account. The units are
    s, m, h and d. An empty text gives no rates. Raises ImproperlyConfigured for a malformed text.
    """
    require_text(text, "A rate", 'Write "10/m/ip", or several: "10/m/ip, 5/5m/account".')
    return tuple(_parse(part.strip()) for part in text.split(",")) if text.strip() else ()


def _parse(text: str) -> Rate:
    match = re.fullmatch(r"([1-9][0-9]{0,5})/([1-9][0-9]{0,3})?([smhd])/([a-z_]+)", text)
    if match is None:
        raise ImproperlyConfigured(f'{text!r} is not a rate. Write "10/m/ip", or several: "10/m/ip, 5/5m/account".')
    return Rate(limit=int(match[1]), period=int(match[2] or 1) * SECONDS[match[3]], scope=match[4])

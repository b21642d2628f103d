"""Rates: how often may something be done?"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from ..core.exceptions import ImproperlyConfigured

DEFAULT_RATES: Mapping[str, str] = {
    "login": "60/m/ip",
    "password_change": "60/m/ip",
    "reauthenticate": "60/m/ip",
    "password_reset": "20/m/ip",
    "password_reset_mail": "1/5m/account",
    "register": "20/m/ip",
    "register_mail": "1/5m/account",
    "email_change": "20/m/ip",
    "confirm": "60/m/ip",
    "notice_mail": "10/h/account",
}
SECONDS = {"s": 1, "m": 60, "h": 60 * 60, "d": 24 * 60 * 60}


@dataclass(frozen=True)
class Rate:
    """So many in so many seconds, for each of what `scope` names. They may come all at once; then one by one, evenly."""

    limit: int
    period: int
    scope: str

    def __str__(self) -> str:
        return f"{self.limit}/{self.period}s/{self.scope}"

    @property
    def interval(self) -> int:
        """How long one of them counts when they come evenly, in milliseconds."""
        return -(-self.period * 1000 // self.limit)

    @property
    def burst(self) -> int:
        """How long those may count together that are there before one more."""
        return (self.limit - 1) * self.interval


def parse_rates(text: str) -> tuple[Rate, ...]:
    """From "10/m/ip, 5/5m/account": ten a minute from one address, five in five minutes for one account."""
    return tuple(_parse(part.strip()) for part in text.split(",")) if text.strip() else ()


def _parse(text: str) -> Rate:
    found = re.fullmatch(r"([1-9][0-9]{0,5})/([1-9][0-9]{0,3})?([smhd])/([a-z_]+)", text)
    if found is None:
        raise ImproperlyConfigured(f'{text!r} is no rate. Write "10/m/ip", or several: "10/m/ip, 5/5m/account".')
    return Rate(limit=int(found[1]), period=int(found[2] or 1) * SECONDS[found[3]], scope=found[4])

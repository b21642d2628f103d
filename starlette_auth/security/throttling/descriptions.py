"""Tells in English which limits hold for the guesses of a password or of a code."""

from collections.abc import Mapping, Sequence
from typing import Protocol

from .rates import Rate

SCOPES = {"ip": "IP address"}
NO_LIMITS = "No limits: Auth(throttling=False)."
UNITS = ((24 * 60 * 60, "day"), (60 * 60, "hour"), (60, "minute"), (1, "second"))


class GuessLimits(Protocol):
    """The limits of wrong guesses, as `FailureCounters` has them. `longest_wait` is in milliseconds."""

    free_failures: int
    longest_wait: int
    max_failures: int


class Limits(Protocol):
    """The limits that a `Throttle` has."""

    enabled: bool

    @property
    def failures(self) -> GuessLimits: ...

    @property
    def rates(self) -> Mapping[str, Sequence[Rate]]: ...


def describe_passwords(throttle: Limits) -> str:
    """Returns the limits of wrong passwords, as `Auth(throttling=…, rates=…)` sets them."""
    if not throttle.enabled:
        return NO_LIMITS
    block = f"After {throttle.failures.max_failures} in a row, only browsers that logged in before may try."
    return f"{_describe_waits(throttle.failures)} {block} {describe_rates(throttle, 'login', 'login_failed')}".rstrip()


def describe_codes(throttle: Limits) -> str:
    """Returns the limits of wrong codes of a second factor, which all factors of a user share."""
    if not throttle.enabled:
        return NO_LIMITS
    return f"{_describe_waits(throttle.failures)} {describe_rates(throttle, 'second_factor')}".rstrip()


def describe_rates(throttle: Limits, *actions: str) -> str:
    """Returns the rates of actions, such as "login: 600 in 1 minute for each IP address."; "" without any."""
    if not throttle.enabled:
        return NO_LIMITS
    rates = [
        f"{action}: {rate.limit} in {_duration(rate.period)} for each {SCOPES.get(rate.scope, rate.scope)}."
        for action in actions
        for rate in throttle.rates[action]
    ]
    return " ".join(rates)


def _describe_waits(failures: GuessLimits) -> str:
    longest = _duration(failures.longest_wait // 1000)
    return (
        f"{failures.free_failures} wrong guesses for an account, then a wait of 1 second that doubles up to {longest}."
    )


def _duration(seconds: int) -> str:
    length, unit = next(pair for pair in UNITS if seconds % pair[0] == 0)
    number = seconds // length
    return f"{number} {unit}" if number == 1 else f"{number} {unit}s"

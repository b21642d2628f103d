"""The rows of the assessment and their results."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

Status = Literal["pass", "fail", "n/a", "manual"]
SHOWN = 4  # examples of what fails


@dataclass(frozen=True)
class Result:
    """The result of a row: why it is so, and for a failure what to set.

    "manual" is for what only a person can decide; then `why` is the question. `headers` are the arguments of
    SecurityHeaders that a row about them wants, a Content-Security-Policy by its directives.
    """

    status: Status
    why: str
    fix: str = ""
    headers: Mapping[str, Any] | None = None


Check = Callable[[Any], Awaitable[Result]]


@dataclass(frozen=True)
class Row:
    """One requirement of ASVS 5.0.0: its number, its level, a few words of ours, and the check."""

    id: str
    level: int
    requirement: str
    check: Check


def passed(why: str) -> Result:
    return Result("pass", why)


def failed(why: str, fix: str, headers: Mapping[str, Any] | None = None) -> Result:
    return Result("fail", why, fix, headers)


def absent(why: str) -> Result:
    """Returns the result of a row about something that the application does not have."""
    return Result("n/a", why)


def manual(question: str) -> Result:
    return Result("manual", question)


def always(result: Result) -> Check:
    """Returns the check of a row that has the same result for every application."""

    async def check(_: Any) -> Result:
        return result

    return check


def some(names: Sequence[str]) -> str:
    """Returns the first few names as text, and how many more there are."""
    unique = list(dict.fromkeys(names))
    more = f" and {len(unique) - SHOWN} more" if len(unique) > SHOWN else ""
    return ", ".join(unique[:SHOWN]) + more

"""What visitors are told when something is refused."""

from .exceptions import HashingBusy, SessionInterrupted, Throttled, TooManySessions, Unavailable
from .translation import gettext, ngettext


def explain(error: Exception) -> str:
    """In the visitor's language; what an exception of another kind says by itself."""
    match error:
        case SessionInterrupted():
            return gettext("Your session ended while this page was loading. Please log in again.")
        case Unavailable():
            return gettext("We cannot look up who you are at this moment. Please try again in a few seconds.")
        case HashingBusy():
            return gettext("Many people are logging in at this moment. Please try again in a few seconds.")
        case TooManySessions():
            return _log_out_elsewhere(error.number)
        case Throttled():
            return _wait(error.retry_after)
    return str(getattr(error, "detail", error))


def _log_out_elsewhere(number: int) -> str:
    text = ngettext(
        "You are logged in on %(number)d other device already. Please log out there first.",
        "You are logged in on %(number)d other devices already. Please log out on one of them first.",
        number,
    )
    return text % {"number": number}


def _wait(seconds: int) -> str:
    if seconds < 60:
        text = ngettext(
            "Too many attempts. Please try again in %(number)d second.",
            "Too many attempts. Please try again in %(number)d seconds.",
            seconds,
        )
        return text % {"number": seconds}
    minutes = -(-seconds // 60)
    text = ngettext(
        "Too many attempts. Please try again in %(number)d minute.",
        "Too many attempts. Please try again in %(number)d minutes.",
        minutes,
    )
    return text % {"number": minutes}

"""Error messages for visitors, and problem responses in JSON (RFC 9457)."""

import http
from collections.abc import Mapping, Sequence
from typing import Any

from starlette.responses import JSONResponse
from starlette.types import Message

from ..core.exceptions import (
    HashingBusy,
    SessionInterrupted,
    Throttled,
    TooManyFailures,
    TooManySessions,
    Unavailable,
    ValidationError,
)
from ..core.text import close_reason
from ..core.translation import gettext, ngettext


def error_message(error: Exception) -> str:
    """Returns the message for the visitor, translated; for other exceptions their own text."""
    match error:
        case SessionInterrupted():
            return gettext("Your session ended while this page was loading. Please log in again.")
        case Unavailable():
            return gettext("Your account cannot be loaded at the moment. Please try again in a few seconds.")
        case HashingBusy():
            return gettext("Many people are logging in at this moment. Please try again in a few seconds.")
        case TooManySessions():
            return _log_out_elsewhere(error.number)
        case TooManyFailures(action="second_factor"):
            return gettext(
                "Too many wrong codes were entered. Log in with a browser that you have used here before, or reset your "
                "password first. If you cannot, ask the people who run this site for a new password."
            )
        case TooManyFailures():
            return gettext(
                "Too many wrong passwords were entered. Log in with a browser that you have used here before, or reset "
                "your password."
            )
        case Throttled():
            return _wait(error.retry_after)
    return str(getattr(error, "detail", error))


def close_message(status_code: int, reason: str) -> Message:
    """Returns the message that closes a WebSocket whose request would get this status.

    The code is 1013 (try again later) for 503, and 1008 (policy violation) for others. RFC 6455 §7.4.1 and the registry
    of IANA define them.
    """
    return {"type": "websocket.close", "code": 1013 if status_code == 503 else 1008, "reason": close_reason(reason)}


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


def problem_response(
    status: int,
    detail: str,
    errors: Mapping[str, Sequence[ValidationError]] | None = None,
    *,
    code: str = "",
    members: Mapping[str, Any] | None = None,
) -> JSONResponse:
    """Returns a problem response in JSON (RFC 9457). `code` names the problem for programs.

    `errors` are listed by field name. Errors of the whole form have the key "", which is sent as `__all__` (Django).
    """
    title = http.HTTPStatus(status).phrase
    content: dict[str, Any] = {"type": "about:blank", "title": title, "status": status, "detail": detail}
    if code:
        content["code"] = code
    content |= members or {}
    if errors:
        content["errors"] = {
            name or "__all__": [{"code": error.code, "message": str(error)} for error in field_errors]
            for name, field_errors in errors.items()
        }
    return JSONResponse(content, status, media_type="application/problem+json")

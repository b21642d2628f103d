"""How does a client send a token or a session key in the header Authorization?"""

import re
from collections.abc import Callable
from urllib.parse import parse_qsl

from starlette.requests import HTTPConnection
from starlette.types import Scope

from ..core.exceptions import Refused
from ..core.translation import gettext

SCHEME = re.compile(r"bearer(?: +|$)", re.IGNORECASE)
URL_PARAMETER = "access_token"  # RFC 6750 §2.3
#: The response header with the new key of a session that has no cookie.
SESSION_TOKEN = b"x-session-token"
# The dot tells a session key from an API token, and from the value of a cookie, without a look-up.
PREFIX = "app."
KEY = re.compile(re.escape(PREFIX) + r"([0-9A-Za-z_-]{8,64})")


def session_token(session_key: str) -> str:
    """Returns the text that a client sends in `Authorization: Bearer …` for a session."""
    return PREFIX + session_key


def is_session_token(text: str) -> bool:
    return KEY.fullmatch(text) is not None


def session_key_in(scope: Scope) -> str | None:
    """Returns the session key in the only header Authorization of a request; None for other requests."""
    values = [value for name, value in scope["headers"] if name == b"authorization"]
    match = KEY.fullmatch(_token_in(values[0].decode("latin-1").strip()) or "") if len(values) == 1 else None
    return match[1] if match is not None else None


def read_bearer(conn: HTTPConnection, is_token: Callable[[str], bool]) -> str | None:
    """Returns the token in the header Authorization of a request; None if there is none.

    `is_token` tells what is a token of the caller. Raises Refused (400) for a malformed header, and for a token in the
    URL: an access log, a browser's history or the header Referer would show the token (RFC 6750 §5.3).
    """
    values = [value.strip() for value in conn.headers.getlist("authorization")]
    tokens = [token for value in values if (token := _token_in(value)) is not None]
    query = conn.scope.get("query_string", b"")
    in_url = [value for name, value in parse_qsl(query.decode("latin-1")) if name == URL_PARAMETER] if query else []
    if in_url and (tokens or any(map(is_token, in_url))):
        conn.scope["query_string"] = b""
        raise _malformed(gettext("Send the token in the header Authorization, not in the URL."))
    if not tokens:
        return None
    text = tokens[0]
    if len(values) > 1 or not text or not text.isascii() or any(part.isspace() or part == "," for part in text):
        raise _malformed(gettext("Send one token, in one header: Authorization: Bearer …"))
    return text


def _token_in(value: str) -> str | None:
    match = SCHEME.match(value)
    return value[match.end() :] if match is not None else None


def _malformed(detail: str) -> Refused:
    return Refused(400, detail, code="invalid_request", challenge={"error": "invalid_request"})

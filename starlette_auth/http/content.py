"""What did the client send, and what can it read? Media types, forms and JSON bodies."""

import json
from collections.abc import AsyncIterator
from typing import Any

from python_multipart.multipart import parse_options_header
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException
from starlette.requests import HTTPConnection, Request

from ..core.translation import gettext

MAX_BODY = 64 * 1024
MAX_FIELDS = 50
FORMS = ("application/x-www-form-urlencoded", "multipart/form-data")
JSON = "application/json"


def content_type(conn: HTTPConnection) -> str:
    """The media type of what was sent."""
    return conn.headers.get("content-type", "").split(";")[0].strip().lower()


def is_utf8(conn: HTTPConnection) -> bool:
    """Starlette reads a form in any of Python's codecs, and for punycode takes time that grows with the square."""
    _, options = parse_options_header(conn.headers.get("content-type", ""))
    return options.get(b"charset", b"utf-8").lower() in (b"utf-8", b"utf8")


async def read_fields(request: Request) -> dict[str, list[Any]]:
    """All values that were sent, by name."""
    kind = content_type(request)
    if kind not in (*FORMS, JSON):
        raise HTTPException(415, gettext("Send this as a form, or as JSON."))
    length = request.headers.get("content-length", "0")
    if not length.isdecimal() or len(length) > 10 or int(length) > MAX_BODY:
        raise _too_long()
    body = b"".join([chunk async for chunk in _limited(request)])
    try:
        return _from_json(body) if kind == JSON else await _from_form(request, body)
    except (MultiPartException, ValueError, KeyError, RecursionError) as error:
        raise HTTPException(400, gettext("This cannot be read. Load the page again, and send it once more.")) from error


async def _limited(request: Request) -> AsyncIterator[bytes]:
    received = 0
    async for chunk in request.stream():
        received += len(chunk)
        if received > MAX_BODY:
            raise _too_long()
        yield chunk


def _from_json(body: bytes) -> dict[str, list[Any]]:
    pairs = json.loads(body.decode(), object_pairs_hook=tuple)
    if not isinstance(pairs, tuple):
        raise ValueError("This is no JSON object.")
    sent: dict[str, list[Any]] = {}
    for name, value in pairs:
        sent.setdefault(name, []).append(value)
    return sent


async def _from_form(request: Request, body: bytes) -> dict[str, list[Any]]:
    async def receive() -> Any:
        return {"type": "http.request", "body": body}

    if not is_utf8(request):
        raise ValueError("A form is in UTF-8.")
    try:
        async with Request(request.scope, receive).form(max_files=0, max_fields=MAX_FIELDS) as sent:
            return {name: sent.getlist(name) for name in sent}
    except HTTPException as error:  # what Starlette says of a body that it cannot read
        raise ValueError(error.detail) from error


def _too_long() -> HTTPException:
    return HTTPException(413, gettext("This form is too long. Shorten what you filled in."))


def sent_json(conn: HTTPConnection) -> bool:
    return content_type(conn) == JSON


def wants_json(conn: HTTPConnection) -> bool:
    """Whether it is a program that asks: by what it sent, or by what it can read."""
    return sent_json(conn) or prefers_json(conn)


def prefers_json(conn: HTTPConnection) -> bool:
    """Whether a program asks, which has no use for a page."""
    accept = conn.headers.get("accept", "")
    return "application/json" in accept and "text/html" not in accept

"""What did the client send, and what does it accept? Media types, encodings and bodies."""

import json
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import unquote_to_bytes

from python_multipart.multipart import parse_options_header
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException
from starlette.requests import HTTPConnection, Request

from ..core.translation import gettext
from .scope import FOR_PROGRAMS

FORMS = ("application/x-www-form-urlencoded", "multipart/form-data")
JSON = "application/json"
MAX_BODY = 64 * 1024
MAX_FIELDS = 50


def content_type(conn: HTTPConnection) -> str:
    """Returns the media type of the request body, in lower case; empty if not given."""
    return conn.headers.get("content-type", "").split(";")[0].strip().lower()


def is_utf8(conn: HTTPConnection) -> bool:
    """Tells whether the body of a form is in UTF-8, which is also the default.

    Starlette decodes a form with any codec of Python. An attacker could choose punycode, whose decoder takes quadratic
    time. Therefore only UTF-8 is accepted.
    """
    _, options = parse_options_header(conn.headers.get("content-type", ""))
    return options.get(b"charset", b"utf-8").lower() in (b"utf-8", b"utf8")


def sent_json(conn: HTTPConnection) -> bool:
    """Tells whether the client sent JSON, or the route takes nothing else."""
    return content_type(conn) == JSON or FOR_PROGRAMS in conn.scope


def prefers_json(conn: HTTPConnection) -> bool:
    """Tells whether the `Accept` header names JSON but not HTML."""
    return JSON in conn.headers.get("accept", "") and not accepts_html(conn)


def accepts_html(conn: HTTPConnection) -> bool:
    """Tells whether the `Accept` header names HTML."""
    return "text/html" in conn.headers.get("accept", "")


async def read_fields(request: Request) -> dict[str, list[Any]]:
    """Returns the values of a form or JSON object by field name, each as a list.

    Raises HTTPException: 415 for other media types, 413 for more than 64 KiB, 400 for malformed bodies. A body that is
    not in UTF-8 is malformed: replaced characters would set a password that the user does not know.
    """
    media_type = content_type(request)
    if media_type not in (*FORMS, JSON):
        raise HTTPException(415, gettext("Send this as a form, or as JSON."))
    if media_type != JSON and FOR_PROGRAMS in request.scope:
        raise HTTPException(415, gettext("Send this as JSON."))
    length = request.headers.get("content-length", "0")
    if not length.isdecimal() or len(length) > 10 or int(length) > MAX_BODY:
        raise _too_long()
    body = b"".join([chunk async for chunk in _limited(request)])
    if not is_utf8(request) or not _is_utf8_text(body):
        raise HTTPException(400, gettext("This form is not in UTF-8. Please reload the page and send it again."))
    try:
        if media_type == JSON:
            return _from_json(body)
        return _from_urlencoded(body) if media_type == FORMS[0] else await _from_multipart(request, body)
    except UnicodeDecodeError as error:
        raise HTTPException(
            400, gettext("This form is not in UTF-8. Please reload the page and send it again.")
        ) from error
    except (MultiPartException, ValueError, KeyError, RecursionError) as error:
        raise HTTPException(
            400, gettext("This request cannot be read. Please reload the page and send it again.")
        ) from error


async def _limited(request: Request) -> AsyncIterator[bytes]:
    received = 0
    async for chunk in request.stream():
        received += len(chunk)
        if received > MAX_BODY:
            raise _too_long()
        yield chunk


def _is_utf8_text(body: bytes) -> bool:
    try:
        body.decode()
    except UnicodeDecodeError:
        return False
    return True


def _from_json(body: bytes) -> dict[str, list[Any]]:
    pairs = json.loads(body.decode(), object_pairs_hook=tuple)
    if not isinstance(pairs, tuple):
        raise ValueError("The body is not a JSON object. Send an object.")
    fields: dict[str, list[Any]] = {}
    for name, value in pairs:
        fields.setdefault(name, []).append(value)
    return fields


def text_of_object(value: Any) -> str | None:
    """Returns the JSON of an object in the fields of `read_fields`; None for other values.

    An object that has a member twice is none, because two parsers could read different values.
    """
    try:
        return json.dumps(_as_object(value)) if isinstance(value, tuple) else None
    except ValueError:
        return None


def _as_object(value: Any) -> Any:
    """Returns a value of JSON whose objects are pairs, as `_from_json` reads them, with dicts in their place."""
    if isinstance(value, list):
        return [_as_object(item) for item in value]
    if not isinstance(value, tuple):
        return value
    members = {name: _as_object(item) for name, item in value}
    if len(members) < len(value):
        raise ValueError("A member of an object was sent twice. Send it once.")
    return members


def _from_urlencoded(body: bytes) -> dict[str, list[Any]]:
    """Reads a form (WHATWG URL §5.1). Starlette would replace bytes that are not UTF-8."""
    pairs = [pair for pair in body.split(b"&") if pair]
    if len(pairs) > MAX_FIELDS:
        raise ValueError("The form has too many fields. Send fewer.")
    fields: dict[str, list[Any]] = {}
    for pair in pairs:
        name, value = (unquote_to_bytes(part.replace(b"+", b" ")).decode() for part in pair.partition(b"=")[::2])
        fields.setdefault(name, []).append(value)
    return fields


async def _from_multipart(request: Request, body: bytes) -> dict[str, list[Any]]:
    async def receive() -> Any:
        return {"type": "http.request", "body": body}

    try:
        async with Request(request.scope, receive).form(max_files=0, max_fields=MAX_FIELDS) as form:
            return {name: form.getlist(name) for name in form}
    except HTTPException as error:  # Starlette's error for a malformed body
        raise ValueError(error.detail) from error


def _too_long() -> HTTPException:
    return HTTPException(413, gettext("This form is too long. Please shorten your entries."))

"""What a visitor filled in, and what was wrong with it."""

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, Literal

from python_multipart.multipart import parse_options_header
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException
from starlette.requests import HTTPConnection, Request

from .exceptions import ValidationError
from .mail import one_address
from .text import has_surrogate
from .translation import gettext, ngettext

MAX_BODY = 64 * 1024
MAX_FIELDS = 50
FORMS = ("application/x-www-form-urlencoded", "multipart/form-data")
JSON = "application/json"


@dataclass(frozen=True, kw_only=True)
class Field:
    """One field of a form. `autocomplete` is a token of the HTML standard, for browsers and password managers."""

    label: str = ""
    type: Literal["text", "email", "password", "hidden", "checkbox"] = "text"
    required: bool = True
    max_length: int | None = None
    autocomplete: str = "off"
    help_text: str = ""
    passwordrules: str = ""

    def clean(self, value: str) -> str:
        """White space around a text goes, around a password it stays. ValidationError with Django's codes."""
        if self.type == "checkbox" and value.lower() in ("false", "off", "0"):
            value = ""
        if self.type == "hidden":  # nobody typed it, nobody can correct it: it is judged where it is used
            return value
        value = value if self.type == "password" else value.strip()
        if not value and self.required:
            raise ValidationError(gettext("This field is required."), "required")
        if "\x00" in value:
            raise ValidationError(gettext("Null characters are not allowed."), "null_characters_not_allowed")
        if has_surrogate(value):
            raise ValidationError(gettext("This contains a character that cannot be saved. Type it again."), "invalid")
        if self.max_length is not None and len(value) > self.max_length:
            message = ngettext(
                "Ensure this value has at most %(limit_value)d character (it has %(show_value)d).",
                "Ensure this value has at most %(limit_value)d characters (it has %(show_value)d).",
                self.max_length,
            )
            raise ValidationError(message % {"limit_value": self.max_length, "show_value": len(value)}, "max_length")
        if value and self.type == "email" and not _is_email(value):
            raise ValidationError(gettext("Enter a valid email address."), "invalid")
        return value


class Form:
    """The fields of a form by name, what was filled in, and the errors; those of the whole form under ""."""

    def __init__(self, **fields: Field) -> None:
        self.fields = fields
        self.data = dict.fromkeys(fields, "")
        self.errors: dict[str, list[ValidationError]] = {}

    def add_error(self, name: str, error: ValidationError) -> None:
        self.errors.setdefault(name, []).append(error)

    @property
    def is_valid(self) -> bool:
        return not self.errors

    async def fill_in(self, request: Request) -> bool:
        """Reads what was sent, as a form or as JSON, and checks each field; gives whether all is well.

        HTTPException 413 for more than 64 KiB, 415 for another kind of body, 400 for a field that comes twice or
        is no text.
        """
        sent = await read_fields(request)
        for name, field in self.fields.items():
            values = sent.get(name, [""])
            if field.type == "checkbox" and isinstance(values[0], bool):
                values = ["on" if values[0] else "", *values[1:]]
            if len(values) > 1 or not isinstance(values[0], str):
                # Two readers of one request could each take another of the two.
                raise HTTPException(400, gettext("A field came more than once, or is no text. Send this once more."))
            self.data[name] = values[0]
            try:
                self.data[name] = field.clean(values[0])
            except ValidationError as error:
                self.add_error(name, error)
        return self.is_valid


def _is_email(value: str) -> bool:
    """Whether it is one address that the Internet can know."""
    try:
        domain = one_address(value).domain
    except ValueError:
        return False
    return "." in domain or domain == "localhost"


def kind_of(conn: HTTPConnection) -> str:
    """The media type of what was sent."""
    return conn.headers.get("content-type", "").split(";")[0].strip().lower()


def is_utf8(conn: HTTPConnection) -> bool:
    """Starlette reads a form in any of Python's codecs, and for punycode takes time that grows with the square."""
    _, options = parse_options_header(conn.headers.get("content-type", ""))
    return options.get(b"charset", b"utf-8").lower() in (b"utf-8", b"utf8")


async def read_fields(request: Request) -> dict[str, list[Any]]:
    """All values that were sent, by name."""
    kind = kind_of(request)
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

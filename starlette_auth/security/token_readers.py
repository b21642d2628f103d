"""Where in a form is the CSRF token? Readers that stop at the token."""

from urllib.parse import unquote_plus

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import HTTPConnection

from ..http.content import FORMS, content_type
from .csrf_tokens import FIELD

NAME = FIELD.encode()
MAX_LENGTH = 200  # characters of a token; ours have 86, Django's 64


class Found(Exception):
    """Ends the parser at the end of the token."""


def form_reader(conn: HTTPConnection) -> "UrlencodedReader | MultipartReader | None":
    """Returns a reader for the body of a form, or None if its boundary is invalid."""
    if content_type(conn) == FORMS[0]:
        return UrlencodedReader()
    _, options = parse_options_header(conn.headers.get("content-type", ""))
    try:
        return MultipartReader(options[b"boundary"])
    except (KeyError, FormParserError):
        return None


class UrlencodedReader:
    """Reads a form of the kind `a=1&b=2`."""

    def __init__(self) -> None:
        self.rest = b""
        self.token: str | None = None

    @property
    def is_found(self) -> bool:
        return self.token is not None

    def feed(self, body: bytes) -> bool:
        """Reads a part of the body. Returns False if no more is needed."""
        *pairs, self.rest = (self.rest + body).split(b"&") if b"&" in body else [self.rest + body]
        for pair in pairs:
            self._read(pair)
        return not self.is_found

    def finish(self) -> str | None:
        """Returns the token, or None. Called after the last part of the body that is read."""
        if self.token is None:
            self._read(self.rest)
        return self.token

    def _read(self, pair: bytes) -> None:
        name, _, value = pair.partition(b"=")
        if name == NAME and self.token is None and len(value) <= MAX_LENGTH:
            self.token = unquote_plus(value.decode("latin-1"))


class MultipartReader:
    """Reads a form with files (RFC 7578)."""

    def __init__(self, boundary: bytes) -> None:
        self.parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self.begin_part,
                "on_header_begin": self.begin_header,
                "on_header_field": self.add_to_name,
                "on_header_value": self.add_to_value,
                "on_header_end": self.end_header,
                "on_part_data": self.add_to_part,
                "on_part_end": self.end_part,
            },
        )
        self.name = self.value = self.part = b""
        self.is_token = False
        self.token: str | None = None

    @property
    def is_found(self) -> bool:
        return self.token is not None

    def feed(self, body: bytes) -> bool:
        """Reads a part of the body. Returns False after the token or in a malformed form."""
        try:
            self.parser.write(body)
        except (Found, FormParserError):
            return False
        return True

    def finish(self) -> str | None:
        """Returns the token, or None."""
        return self.token

    def begin_part(self) -> None:
        self.is_token, self.part = False, b""

    def begin_header(self) -> None:
        self.name = self.value = b""

    def add_to_name(self, data: bytes, start: int, end: int) -> None:
        self.name += data[start:end]

    def add_to_value(self, data: bytes, start: int, end: int) -> None:
        self.value += data[start:end]

    def end_header(self) -> None:
        if self.name.lower() == b"content-disposition":
            _, options = parse_options_header(self.value)
            self.is_token = options.get(b"name") == NAME and b"filename" not in options

    def add_to_part(self, data: bytes, start: int, end: int) -> None:
        if self.is_token and len(self.part) <= MAX_LENGTH:
            self.part += data[start:end]

    def end_part(self) -> None:
        if self.is_token:
            self.token = self.part.decode("latin-1")
            raise Found

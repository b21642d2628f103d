"""What did the client send, and what does it accept? Media types and encodings."""

from python_multipart.multipart import parse_options_header
from starlette.requests import HTTPConnection

FORMS = ("application/x-www-form-urlencoded", "multipart/form-data")
JSON = "application/json"


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
    return content_type(conn) == JSON


def wants_json(conn: HTTPConnection) -> bool:
    """Tells whether the response should be JSON: the client sent JSON, or prefers it to HTML."""
    return sent_json(conn) or prefers_json(conn)


def prefers_json(conn: HTTPConnection) -> bool:
    """Tells whether the `Accept` header names JSON but not HTML."""
    accept = conn.headers.get("accept", "")
    return "application/json" in accept and "text/html" not in accept

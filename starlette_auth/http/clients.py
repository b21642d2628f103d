"""What kind of client sent a request, and so which response does it understand?"""

import enum
import re

from starlette.requests import HTTPConnection

from .content import accepts_html, prefers_json, sent_json
from .scope import FOR_PROGRAMS

BEARER = re.compile(r"bearer(?: |$)", re.IGNORECASE)


class ClientKind(enum.Enum):
    """The kinds of clients. Each gets refusals in its own form."""

    BEARER = "bearer"  # sends `Authorization: Bearer` (RFC 6750)
    HTMX = "htmx"  # htmx, which puts responses into the page
    PAGE = "page"  # a browser that opens a page or sends a form
    PART = "part"  # a browser that loads an image, a script or another part of a page
    PROGRAM = "program"  # a script in a page, or another program
    WEBSOCKET = "websocket"


def kind_of_client(conn: HTTPConnection) -> ClientKind:
    """Returns the kind of client that sent a request, by its headers.

    Browsers tell in the headers `Sec-Fetch-*` what they do with the response (W3C Fetch Metadata), and scripts cannot
    change these headers. Browsers before 2023, and programs, do not send them.
    """
    headers = conn.headers
    if conn.scope["type"] == "websocket":
        return ClientKind.WEBSOCKET
    if BEARER.match(headers.get("authorization", "").lstrip()):
        return ClientKind.BEARER
    if headers.get("hx-request", "").lower() == "true":
        return ClientKind.HTMX
    if FOR_PROGRAMS in conn.scope:
        return ClientKind.PROGRAM
    destination = headers.get("sec-fetch-dest", "")
    if headers.get("sec-fetch-mode") == "navigate" or destination == "document":
        return ClientKind.PAGE
    if destination not in ("", "empty"):
        return ClientKind.PART
    is_program = destination == "empty" or sent_json(conn) or prefers_json(conn) or "x-requested-with" in headers
    may_be_page = conn.scope["method"] in ("GET", "HEAD", "POST") and accepts_html(conn)
    return ClientKind.PAGE if may_be_page and not is_program else ClientKind.PROGRAM


def wants_json(conn: HTTPConnection) -> bool:
    """Tells whether a page should be JSON: the client sent JSON, prefers it, or is a program that does not name HTML.

    A script may load a page of the site in order to show it. It then asks for HTML, as Turbo does.
    """
    if sent_json(conn) or prefers_json(conn):
        return True
    return kind_of_client(conn) in (ClientKind.BEARER, ClientKind.PROGRAM) and not accepts_html(conn)

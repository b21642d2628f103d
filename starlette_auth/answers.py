"""What answers of ours tell browsers and programs."""

import http
from typing import Any

from starlette.requests import HTTPConnection
from starlette.responses import JSONResponse, Response

from .auth import Auth
from .authentication import prefers_json
from .cookies import add_vary
from .forms import JSON, Form, kind_of

HEADERS = {
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    # Not no-referrer: with it, browsers send our own forms with "Origin: null".
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
POLICY = (
    "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; font-src 'self'; "
    "base-uri 'none'; frame-ancestors 'none'; form-action {}"
)


def problem(status: int, detail: str, form: Form | None = None) -> JSONResponse:
    """A problem in JSON (RFC 9457), with the errors of a form by field, those of the whole under Django's `__all__`."""
    title = http.HTTPStatus(status).phrase
    content: dict[str, Any] = {"type": "about:blank", "title": title, "status": status, "detail": detail}
    if form is not None and form.errors:
        content["errors"] = {
            name or "__all__": [{"code": error.code, "message": str(error)} for error in errors]
            for name, errors in form.errors.items()
        }
    return JSONResponse(content, status, media_type="application/problem+json")


def sent_json(conn: HTTPConnection) -> bool:
    return kind_of(conn) == JSON


def wants_json(conn: HTTPConnection) -> bool:
    """Whether it is a program that asks: by what it sent, or by what it can read."""
    return sent_json(conn) or prefers_json(conn)


def add_headers(auth: Auth, response: Response) -> None:
    response.headers.update(HEADERS)
    # Browsers hold a form's redirect against this too: a login may lead to another of our hosts.
    response.headers["Content-Security-Policy"] = POLICY.format(" ".join(["'self'", *auth.next_hosts]))
    if len(auth.languages.all) > 1:
        add_vary(response.raw_headers, "Accept-Language")

"""Response headers: security headers, `Vary`, and replacing a header."""

from collections.abc import Sequence
from typing import Any

from starlette.responses import Response

Headers = list[tuple[bytes, bytes]]
HEADERS = {
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    # With no-referrer, browsers would send "Origin: null" with the forms of this site.
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
POLICY = (
    "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; font-src 'self'; "
    "base-uri 'none'; frame-ancestors 'none'; form-action {}"
)


def add_vary(headers: Headers, field: str) -> None:
    """Adds a field name to the `Vary` header and keeps the existing ones."""
    for index, (name, value) in enumerate(headers):
        if name.lower() == b"vary":
            present = [part.strip().lower() for part in value.decode("latin-1").split(",")]
            if "*" not in present and field.lower() not in present:
                headers[index] = (name, value + b", " + field.encode())
            return
    headers.append((b"vary", field.encode()))


def set_header(headers: Headers, field: str, value: str) -> None:
    """Replaces all headers of a name by one header."""
    headers[:] = [pair for pair in headers if pair[0].lower() != field.lower().encode()]
    headers.append((field.lower().encode(), value.encode("latin-1")))


def response_headers(message: Any) -> Headers:
    """Copies the headers of an ASGI response message into a new list, sets it and returns it."""
    message["headers"] = headers = list(message.get("headers", ()))
    return headers


def add_security_headers(response: Response, *, form_targets: Sequence[str], varies_by_language: bool) -> None:
    """Adds the security headers of an account page.

    `form_targets` are the additional hosts to which the redirect after a form may lead.
    """
    response.headers.update(HEADERS)
    # Browsers apply form-action also to the redirect after a form, and a login may redirect to one of `next_hosts`.
    response.headers["Content-Security-Policy"] = POLICY.format(" ".join(["'self'", *form_targets]))
    if varies_by_language:
        add_vary(response.raw_headers, "Accept-Language")


def is_event_stream(headers: Headers) -> bool:
    """Returns whether the response consists of server-sent events, which end at any event."""
    return any(name == b"content-type" and value.lower().startswith(b"text/event-stream") for name, value in headers)

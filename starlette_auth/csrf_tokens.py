"""Tokens that tell our own forms from those of other sites."""

import base64
import secrets

from markupsafe import Markup
from starlette.requests import HTTPConnection

from .auth import NEW_CSRF_SECRET, get_auth
from .backends import session_of
from .django import csrf as django
from .sessions.keys import is_key

FIELD = "csrfmiddlewaretoken"  # Django's names
HEADER = "x-csrftoken"
PURPOSE = "starlette_auth.csrf"


def csrf_token(conn: HTTPConnection) -> str:
    """A token for a form of this visitor, another text each time (a page that is compressed would betray a fixed one)."""
    if get_auth(conn).defaults.has_django_csrf:
        return django.mask(_django_secret(conn) or _new_django_secret(conn))
    secret = conn.scope.get(NEW_CSRF_SECRET) or browser_secret(conn)
    if secret is None:
        secret = conn.scope[NEW_CSRF_SECRET] = secrets.token_urlsafe(32)
    signature = get_auth(conn).keys.sign(PURPOSE, _binding(conn, secret, bound=True))
    return _mask(bytes.fromhex(signature))


def csrf_input(conn: HTTPConnection) -> Markup:
    """The hidden field for a form."""
    return Markup('<input type="hidden" name="{}" value="{}">').format(FIELD, csrf_token(conn))


def is_valid(conn: HTTPConnection, token: str) -> bool:
    if get_auth(conn).defaults.has_django_csrf:
        django_secret = _django_secret(conn)
        return django_secret is not None and django.is_token_of(django_secret, token)
    secret, given = browser_secret(conn), _unmask(token)
    if secret is None or given is None:
        return False
    # A page of an anonymous visitor may be older than the session that another page began meanwhile.
    bindings = [True] if conn.user.is_authenticated else [True, False]
    auth = get_auth(conn)
    return any(
        auth.keys.verify(PURPOSE, _binding(conn, secret, bound=bound), given.hex()) is not None for bound in bindings
    )


class LazyToken:
    """In a template: made when it is written into the page, so that a page without a form sets no cookie."""

    def __init__(self, conn: HTTPConnection, *, as_input: bool) -> None:
        self.conn = conn
        self.as_input = as_input

    def __html__(self) -> str:
        return str(csrf_input(self.conn) if self.as_input else csrf_token(self.conn))

    __str__ = __html__


def rotate(conn: HTTPConnection) -> None:
    """At a login. Our own tokens hang on the key of the session, which changes then; Django's do not."""
    if get_auth(conn).defaults.has_django_csrf:
        _new_django_secret(conn)


def _new_django_secret(conn: HTTPConnection) -> str:
    secret = django.new_secret()
    if get_auth(conn).defaults.csrf_use_sessions:
        conn.session[django.SESSION_KEY] = secret
    else:
        conn.scope[NEW_CSRF_SECRET] = secret
    return secret


def _django_secret(conn: HTTPConnection) -> str | None:
    auth, session = get_auth(conn), session_of(conn)
    if auth.defaults.csrf_use_sessions:
        return django.secret_in(str(session.get(django.SESSION_KEY, ""))) if session else None
    return conn.scope.get(NEW_CSRF_SECRET) or django.secret_in(auth.csrf_cookie.read(conn.scope))


def browser_secret(conn: HTTPConnection) -> str | None:
    """What this browser was given with the first form that it loaded."""
    value = get_auth(conn).csrf_cookie.read(conn.scope)
    return value if value is not None and is_key(value) else None


def _binding(conn: HTTPConnection, secret: str, *, bound: bool) -> str:
    session = session_of(conn)
    # Of a session that is about to be saved, or to change its key, the key that the form will come back with.
    key = session.key_to_be if session and bound else ""
    return f"{secret}:{key}"


def _mask(signature: bytes) -> str:
    pad = secrets.token_bytes(len(signature))
    mixed = bytes(a ^ b for a, b in zip(pad, signature, strict=True))
    return base64.urlsafe_b64encode(pad + mixed).decode().rstrip("=")


def _unmask(token: str) -> bytes | None:
    try:
        raw = base64.urlsafe_b64decode(token.encode("ascii") + b"==")
    except ValueError:
        return None
    half = len(raw) // 2
    return bytes(a ^ b for a, b in zip(raw[:half], raw[half:], strict=True)) if len(raw) == 64 else None

"""Where is a CSRF token made and checked?"""

import base64
import secrets
from typing import Literal, cast

from starlette.requests import HTTPConnection

from ..core.exceptions import ImproperlyConfigured
from ..core.signing import SecretKeys, is_key
from ..http.cookies import Cookie
from ..http.scope import NEW_CSRF_SECRET

FIELD = "csrfmiddlewaretoken"  # Django's names
HEADER = "x-csrftoken"
PURPOSE = "starlette_auth.csrf"
CSRFMode = Literal["headers", "strict"]


def parse_mode(mode: str) -> CSRFMode:
    """Returns the setting `csrf`, checked."""
    if mode not in ("headers", "strict"):
        raise ImproperlyConfigured(f'csrf={mode!r} is not known. Use "headers" (the default) or "strict".')
    return cast(CSRFMode, mode)


class CSRFTokens:
    """Makes and checks the form tokens that prove a form came from our own pages.

    A token signs a secret that this browser holds in `cookie`, and the key of its session. An attacker's site can send
    a form in a visitor's name, but reads neither of the two; therefore it cannot make a token.
    """

    def __init__(self, keys: SecretKeys, cookie: Cookie) -> None:
        self.keys = keys
        self.cookie = cookie

    @property
    def need_origin(self) -> bool:
        """Whether a token over https is valid only together with a header that names the page.

        An attacker on a subdomain can set a cookie for this site, unless its name begins with `__Host-`, and send a
        token that matches it. Therefore Django 4.0 and later refuse such requests without `Origin` and `Referer`.
        """
        return not self.cookie.names[1].startswith("__Host-")

    def token(self, conn: HTTPConnection) -> str:
        """Returns a token for a form of this browser, a different text each time.

        An attacker who can measure the size of compressed pages would learn a fixed text (BREACH).
        """
        secret = conn.scope.get(NEW_CSRF_SECRET) or self.browser_secret(conn)
        if secret is None:
            secret = conn.scope[NEW_CSRF_SECRET] = secrets.token_urlsafe(32)
        signature = self.keys.sign(PURPOSE, f"{secret}:{_session_key(conn)}")
        return _mask(bytes.fromhex(signature))

    def is_valid(
        self, conn: HTTPConnection, token: str, *, ended_key: str | None = None, by_visitor: bool = False
    ) -> bool:
        """Returns whether this browser was given the token in a form of the current session.

        An anonymous visitor's page may be older than the session that another page of the same browser created. It may
        also be of a session that has ended; its key is `ended_key`, from the cookie. `by_visitor` accepts a form from
        before a login, for pages that act in the name of no user, such as the login page in a second tab.
        """
        secret, signature = self.browser_secret(conn), _unmask(token)
        if secret is None or signature is None:
            return False
        keys = [_session_key(conn)]
        if by_visitor or not conn.user.is_authenticated:
            keys.append("")
        if ended_key and not conn.user.is_authenticated:
            keys.append(ended_key)
        return any(self.keys.verify(PURPOSE, f"{secret}:{key}", signature.hex()) is not None for key in keys)

    def rotate(self, conn: HTTPConnection) -> None:
        """Makes the tokens from before a login invalid.

        There is nothing to do here: a token signs the session key, and the login changes that key.
        """

    def ensure_secret(self, conn: HTTPConnection) -> str:
        """Returns the secret of this browser, and sets a new one if it has none."""
        self.token(conn)
        return str(conn.scope.get(NEW_CSRF_SECRET) or self.browser_secret(conn))

    def browser_secret(self, conn: HTTPConnection) -> str | None:
        """Returns the secret that this browser got with its first form, or None."""
        value = self.cookie.read(conn.scope)
        return value if value is not None and is_key(value) else None


def _session_key(conn: HTTPConnection) -> str:
    """Returns the key that the session will have when the form comes back.

    Returns "" without a session, or for an empty one.
    """
    session = conn.scope.get("session")
    return str(getattr(session, "next_key", "")) if session else ""


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

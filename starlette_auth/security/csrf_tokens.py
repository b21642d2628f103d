"""Where is a CSRF token made and checked?"""

import base64
import secrets
from collections.abc import Sequence
from typing import Literal, cast

from starlette.requests import HTTPConnection

from ..core.exceptions import ImproperlyConfigured
from ..core.signing import SecretKeys, is_key
from ..http.cookies import MAX_VALUES, Cookie
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
        signature = self.keys.sign(PURPOSE, f"{self.ensure_secret(conn)}:{_session_key(conn)}")
        return _mask(bytes.fromhex(signature))

    def is_valid(
        self, conn: HTTPConnection, token: str, *, ended_keys: Sequence[str] = (), by_visitor: bool = False
    ) -> bool:
        """Returns whether this browser was given the token in a form of the current session.

        An anonymous visitor's page may be older than the session that another page in this browser created. The page
        may also belong to a session that has ended: `ended_keys` are the keys in the cookies of the request.
        `by_visitor` accepts a form from before a login, for pages that do not act for the logged-in user, such as the
        login page in a second tab. Such a form is also accepted in a request without a stored session, as the one in
        which a reverse proxy logs its user in: no page can contain a token of a session that begins with the request.
        """
        secrets_of_browser, signature = self.browser_secrets(conn), _unmask(token)
        if not secrets_of_browser or signature is None:
            return False
        keys = [_session_key(conn)]
        if by_visitor or not conn.user.is_authenticated or not _has_stored_session(conn):
            keys.append("")
        if not conn.user.is_authenticated:
            keys.extend(ended_keys)
        subjects = [f"{secret}:{key}" for secret in secrets_of_browser for key in keys]
        return any(self.keys.verify(PURPOSE, subject, signature.hex()) is not None for subject in subjects)

    def rotate(self, conn: HTTPConnection) -> None:
        """Makes the tokens from before a login invalid.

        There is nothing to do here: a token signs the session key, and the login changes that key.
        """

    def browser_secrets(self, conn: HTTPConnection) -> list[str]:
        """Returns the secrets in the cookies of this browser: usually one, or none.

        There are several if an application on a parent domain has set a cookie of this name.
        """
        return [value for value in self.cookie.values(conn.scope)[:MAX_VALUES] if is_key(value)]

    def own_secrets(self, conn: HTTPConnection, *, is_local: bool) -> list[str]:
        """Returns the secrets of this browser that no other host can have set.

        An attacker on a sibling subdomain registers the address of a victim, and copies the attacker's cookie to the
        victim's browser, which would count as the browser of the registration. Therefore only a cookie with the prefix
        `__Host-` counts, or any cookie if the site `is_local`: a loopback host has no sibling subdomains.
        """
        is_own = self.cookie.is_of_this_host(conn.scope) or is_local
        return self.browser_secrets(conn) if is_own else []

    def ensure_secret(self, conn: HTTPConnection) -> str:
        """Returns the secret of this browser, and sets a new one if it has none."""
        secret = conn.scope.get(NEW_CSRF_SECRET) or next(reversed(self.browser_secrets(conn)), None)
        if secret is None:
            secret = conn.scope[NEW_CSRF_SECRET] = secrets.token_urlsafe(32)
        return str(secret)


def _has_stored_session(conn: HTTPConnection) -> bool:
    """Returns whether the request has a session that the store keeps already."""
    return getattr(conn.scope.get("session"), "stored_key", None) is not None


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

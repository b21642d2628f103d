"""Django's CSRF tokens, in the format of `django.middleware.csrf` of Django 4.1 to 6.1."""

import hmac
import secrets
import string
from collections.abc import Sequence

from starlette.requests import HTTPConnection

from ..core.signing import SecretKeys
from ..http.cookies import MAX_VALUES, Cookie
from ..http.scope import NEW_CSRF_SECRET
from ..security.csrf_tokens import CSRFTokens

LENGTH = 32
CHARACTERS = string.ascii_letters + string.digits
SESSION_KEY = "_csrftoken"  # the entry in which CSRF_USE_SESSIONS stores the secret


def new_secret() -> str:
    return "".join(secrets.choice(CHARACTERS) for _ in range(LENGTH))


def mask(secret: str) -> str:
    """Returns a token of 64 characters: a random mask, and the secret encrypted with it.

    The token differs on each call. An attacker could otherwise recover a constant secret from the sizes of compressed
    pages (BREACH).
    """
    pad = new_secret()
    pairs = zip(pad, secret, strict=True)
    cipher = (CHARACTERS[(CHARACTERS.index(a) + CHARACTERS.index(b)) % len(CHARACTERS)] for a, b in pairs)
    return pad + "".join(cipher)


def secret_in(token: str | None) -> str | None:
    """Returns the secret of a masked or unmasked token; None if the token is malformed."""
    if token is None or len(token) not in (LENGTH, 2 * LENGTH) or not (token.isascii() and token.isalnum()):
        return None
    if len(token) == LENGTH:
        return token
    pairs = zip(token[:LENGTH], token[LENGTH:], strict=True)
    return "".join(CHARACTERS[CHARACTERS.index(b) - CHARACTERS.index(a)] for a, b in pairs)


def is_token_of(secret: str, token: str) -> bool:
    token_secret = secret_in(token)
    return token_secret is not None and hmac.compare_digest(token_secret, secret)


class DjangoCSRFTokens(CSRFTokens):
    """Creates and checks Django's CSRF tokens, so that both applications accept each other's forms.

    The secret is in a cookie, or with `use_sessions` (Django's CSRF_USE_SESSIONS) in the session.
    """

    def __init__(self, keys: SecretKeys, cookie: Cookie, *, use_sessions: bool = False) -> None:
        super().__init__(keys, cookie)
        self.use_sessions = use_sessions

    def token(self, conn: HTTPConnection) -> str:
        return mask(self.ensure_secret(conn))

    def is_valid(
        self, conn: HTTPConnection, token: str, *, ended_keys: Sequence[str] = (), by_visitor: bool = False
    ) -> bool:
        return any(is_token_of(secret, token) for secret in self._secrets(conn))

    def ensure_secret(self, conn: HTTPConnection) -> str:
        # Of several cookies Django reads the last one.
        return next(reversed(self._secrets(conn)), "") or self._new_secret(conn)

    def rotate(self, conn: HTTPConnection) -> None:
        """Replaces the secret at login, which invalidates earlier tokens.

        Django's tokens do not depend on the session key, so the new key alone would not invalidate them.
        """
        self._new_secret(conn)

    def _new_secret(self, conn: HTTPConnection) -> str:
        secret = new_secret()
        if self.use_sessions:
            conn.session[SESSION_KEY] = secret
        else:
            conn.scope[NEW_CSRF_SECRET] = secret
        return secret

    def _secrets(self, conn: HTTPConnection) -> list[str]:
        texts = [conn.scope[NEW_CSRF_SECRET]] if NEW_CSRF_SECRET in conn.scope else self.cookie.values(conn.scope)
        if self.use_sessions:
            session = conn.scope.get("session")
            texts = [str(session.get(SESSION_KEY, ""))] if session else []
        return [secret for text in texts[:MAX_VALUES] if (secret := secret_in(text)) is not None]

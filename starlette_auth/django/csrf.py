"""Django's CSRF tokens: `django.middleware.csrf`, the same in Django 4.1 to 6.1."""

import hmac
import secrets
import string

from starlette.requests import HTTPConnection

from ..core.signing import SecretKeys
from ..http.cookies import Cookie
from ..http.scope import NEW_CSRF_SECRET
from ..security.csrf_tokens import CSRFTokens

LENGTH = 32
CHARACTERS = string.ascii_letters + string.digits
SESSION_KEY = "_csrftoken"  # where CSRF_USE_SESSIONS keeps the secret


def new_secret() -> str:
    return "".join(secrets.choice(CHARACTERS) for _ in range(LENGTH))


def mask(secret: str) -> str:
    """The secret in another guise each time: a pad, and the sum of both."""
    pad = new_secret()
    places = zip(pad, secret, strict=True)
    mixed = (CHARACTERS[(CHARACTERS.index(a) + CHARACTERS.index(b)) % len(CHARACTERS)] for a, b in places)
    return pad + "".join(mixed)


def secret_in(token: str | None) -> str | None:
    """The secret in a token, masked or bare; None when it is none."""
    if token is None or len(token) not in (LENGTH, 2 * LENGTH) or not (token.isascii() and token.isalnum()):
        return None
    if len(token) == LENGTH:
        return token
    places = zip(token[:LENGTH], token[LENGTH:], strict=True)
    return "".join(CHARACTERS[CHARACTERS.index(b) - CHARACTERS.index(a)] for a, b in places)


def is_token_of(secret: str, token: str) -> bool:
    given = secret_in(token)
    return given is not None and hmac.compare_digest(given, secret)


class DjangoCSRFTokens(CSRFTokens):
    """Makes and checks Django's CSRF tokens, so that a form of either application is accepted by both.

    Django keeps the secret in a cookie, or with CSRF_USE_SESSIONS in the session (`use_sessions`).
    """

    def __init__(self, keys: SecretKeys, cookie: Cookie, *, use_sessions: bool = False) -> None:
        super().__init__(keys, cookie)
        self.use_sessions = use_sessions

    def token(self, conn: HTTPConnection) -> str:
        return mask(self._secret(conn) or self._new_secret(conn))

    def is_valid(self, conn: HTTPConnection, token: str) -> bool:
        secret = self._secret(conn)
        return secret is not None and is_token_of(secret, token)

    def rotate(self, conn: HTTPConnection) -> None:
        """Makes the tokens of before a login invalid. Django's do not depend on the session's key."""
        self._new_secret(conn)

    def _new_secret(self, conn: HTTPConnection) -> str:
        secret = new_secret()
        if self.use_sessions:
            conn.session[SESSION_KEY] = secret
        else:
            conn.scope[NEW_CSRF_SECRET] = secret
        return secret

    def _secret(self, conn: HTTPConnection) -> str | None:
        if self.use_sessions:
            session = conn.scope.get("session")
            return secret_in(str(session.get(SESSION_KEY, ""))) if session else None
        return conn.scope.get(NEW_CSRF_SECRET) or secret_in(self.cookie.read(conn.scope))

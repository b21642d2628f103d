"""Django's tokens against requests from other sites: `django.middleware.csrf`, the same in Django 4.1 to 6.1."""

import hmac
import secrets
import string

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

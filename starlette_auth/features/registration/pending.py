"""Which of the pending registrations of an address is the visitor's?"""

from collections.abc import Sequence

from starlette.requests import Request

from ...auth import Auth
from ...core.events import PasswordRefused
from ...core.exceptions import ValidationError
from ...core.signing import salted_hmac
from ...core.text import ascii_lower
from ...core.translation import gettext
from ...pages.forms import Form
from ...pages.mailed_links import referenced_user
from ...security.tokens import Token

REGISTER = "register"
BROWSER = "starlette_auth.registration"
PASSWORD_TAG = "starlette_auth.registration.password"  # noqa: S105  a purpose
MAX_CHECKED = 6  # pending registrations whose password hash is compared with one submitted password


def subject_of(email: str) -> str:
    """Returns the subject of the tokens of an address."""
    return f"address {ascii_lower(email)}"


class PendingRegistrations:
    """Finds the registration that a visitor means who opens a confirmation link: by the browser or the password."""

    def __init__(self, auth: Auth) -> None:
        self.auth = auth

    def sign_browser(self, request: Request) -> str:
        """Returns a signature that identifies this browser by its CSRF cookie; "" if it has none."""
        secrets_of_browser = self.auth.csrf_tokens.browser_secrets(request)
        return self.auth.keys.sign(BROWSER, secrets_of_browser[-1]) if secrets_of_browser else ""

    def is_same_browser(self, request: Request, token: Token) -> bool:
        """Returns whether a cookie that only this host can have set proves that this browser sent the registration."""
        is_local, verify = self.auth.site.is_local(request.scope), self.auth.keys.verify
        own_secrets = self.auth.csrf_tokens.own_secrets(request, is_local=is_local)
        return any(verify(BROWSER, secret, str(token.data["browser"])) is not None for secret in own_secrets)

    async def for_link(self, token: Token) -> list[Token]:
        """Returns all pending registrations of the token's address, this token first.

        The link proves that the visitor owns the address. It does not prove which registration is the visitor's.
        """
        recent = await self.auth.tokens.recent(REGISTER, subject_of(str(token.data["email"])))
        return [token, *(candidate for candidate in recent if candidate != token)]

    async def match_password(self, request: Request, form: Form, pending: Sequence[Token]) -> Token | None:
        """Returns the pending registration with the password in the form; adds an error and returns None for no match.

        An attacker registers the victim's address, with a password of the attacker, just before the victim does. The
        victim gets one mail, which belongs to the attacker's registration. Opening its link would create an account
        with the attacker's password. Therefore the visitor must know the password of the registration.

        Only a few hashes are compared, because each takes long. An attacker could register the address so often that
        the victim's registration is not among them. Therefore those with the tag of the password come first.
        """
        password, tags = form.data["password"], self.tags(str(pending[0].data["email"]), form.data["password"])
        candidates = sorted(pending, key=lambda token: token.data.get("tag") not in tags)[:MAX_CHECKED]
        new, check = [row for row in candidates if "user" not in row.data], self.auth.model_backend.check_password
        if new and (match := await self._match_new(request, password, new)):
            return match
        for candidate in candidates:
            # The password of an existing user is guessed here: its attempts count as those of a login.
            user = await referenced_user(self.auth, candidate) if "user" in candidate.data else None
            if user is not None and await check(request, user, password, upgrade=False):
                return candidate
        message = gettext("This is not the password that you chose. If you did not register, please register now.")
        form.add_error("password", ValidationError(message, "password_incorrect"))
        return None

    async def _match_new(self, request: Request, password: str, pending: Sequence[Token]) -> Token | None:
        """Returns which of these registrations, whose accounts do not exist yet, has this password."""
        account, address = str(pending[0].data["email"]), self.auth.proxies.client_address(request)
        async with self.auth.throttle.attempt("confirm", account=account, address=address) as attempt:
            for candidate in pending:
                if (await self.auth.passwords.check(str(candidate.data["password"]), password)).matches:
                    attempt.succeeded = True
                    return candidate
        await self.auth.events.emit(PasswordRefused(user=None, request=request, action="confirm"))
        return None

    def tags(self, email: str, password: str) -> list[str]:
        """Returns the tag of a password by each secret key, newest first.

        A tag has 12 bits, so that it hardly helps an attacker who has read the database and the secret key.
        """
        content = f"{ascii_lower(email)}\n{password}"
        return [salted_hmac(PASSWORD_TAG, content, key)[:3] for key in self.auth.keys.all]

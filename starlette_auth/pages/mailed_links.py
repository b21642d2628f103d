"""Links in mails: opens them, and sends the mails that contain them."""

from starlette.requests import Request
from starlette.responses import Response

from ..auth import Auth
from ..core.signing import sha256_hex
from ..core.text import ascii_lower
from ..http.urls import redirect
from ..mail.account_mailer import TemplateMail
from ..security.reset_tokens import make_reset_link
from ..security.tokens import Token, TokenHash
from ..users.models import User

IN_SESSION = "open"  # replaces the secret in the URL after the secret moved into the session


async def open_link(auth: Auth, request: Request, purpose: str, route: str) -> Token | Response | None:
    """Returns the token whose secret is in the path, None if it is invalid, or a redirect.

    A GET uses no token up, because mail scanners open links too; the page has a button that sends a POST. The first
    GET stores the token's hash in the session and redirects to the page without the secret, so that neither the
    browser history nor a `Referer` contains the secret.
    """
    secret = request.path_params["token"]
    in_session = secret == IN_SESSION
    if in_session:
        secret = TokenHash(request.session.get(_key(purpose), ""))
    token = await auth.tokens.find(purpose, secret)
    if token is None or in_session or request.method == "POST":
        return token
    await auth.throttle.hit("confirm", ip=auth.proxies.client_address(request))
    request.session[_key(purpose)] = token.token_hash
    return redirect(request, route, token=IN_SESSION)


def close_link(request: Request, purpose: str) -> None:
    request.session.pop(_key(purpose), None)


def user_reference(user: User) -> dict[str, str]:
    """Returns the entries of a token's data that identify the user."""
    return {"user": str(user.id), "joined": str(user.date_joined)}


async def referenced_user(auth: Auth, token: Token) -> User | None:
    """Returns the user that a token's data identifies, or None.

    SQLite reuses the primary keys of deleted rows; therefore `joined` must match too.
    """
    user: User | None = await auth.users.get(token.data["user"])
    return user if user is not None and token.data["joined"] == str(user.date_joined) else None


def _key(purpose: str) -> str:
    return f"_{purpose}_token"


async def send_reset_mail(auth: Auth, request: Request, user: User) -> None:
    link = await make_reset_link(auth.reset_tokens, user)
    auth.account_mailer.enqueue(auth.account_mailer.reset_mail(request, user, link, auth.reset_tokens.max_age))


async def send_mail_once(auth: Auth, email: str, mail: TemplateMail) -> None:
    """Queues the mail unless the rate limit of its address and kind is reached.

    An attacker submits the address of a victim again and again, which would fill the victim's mailbox.
    """
    # The hash keeps look-alike addresses apart, which a database collation may treat as equal. Each kind of mail
    # counts separately, so that one cannot block another.
    account = sha256_hex(f"{mail.name} {ascii_lower(email)}")
    if await auth.throttle.try_hit("register_mail", account=account):
        auth.account_mailer.enqueue(mail)

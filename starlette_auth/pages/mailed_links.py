"""Links in mail: opening them, and sending the mail that holds them."""

from starlette.requests import Request
from starlette.responses import Response

from ..auth import Auth
from ..core.signing import sha256_hex
from ..core.text import ascii_lower
from ..core.translation import format_duration
from ..http.urls import redirect
from ..mail.account_mailer import TemplateMail
from ..security.reset_tokens import encode_uid
from ..security.tokens import Token, TokenHash
from ..users.models import User

IN_SESSION = "open"  # what stands in the URL once the secret has left it


async def open_link(auth: Auth, request: Request, purpose: str, route: str) -> Token | Response | None:
    """What the secret in this request's path stands for; None when it is no good.

    A GET changes nothing, as programs that read mails open links too: it moves the secret into the session and leads
    to the same page without it, so that neither the history nor a Referer holds it. The page has a button.
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
    """What a token's data says of a user."""
    return {"user": str(user.id), "joined": str(user.date_joined)}


async def referenced_user(auth: Auth, token: Token) -> User | None:
    """Whom a token's data names. By the number alone it could be another: SQLite gives those of deleted rows again."""
    user: User | None = await auth.users.get(token.data["user"])
    return user if user is not None and token.data["joined"] == str(user.date_joined) else None


def _key(purpose: str) -> str:
    return f"_{purpose}_token"


async def send_reset_mail(auth: Auth, request: Request, user: User) -> None:
    token = await auth.reset_tokens.make(user)
    link = auth.account_mailer.link(request, "password_reset_confirm", uidb64=encode_uid(user), token=token)
    context = {"user": user, "link": link, "valid_for": format_duration(auth.reset_tokens.max_age)}
    auth.account_mailer.enqueue(TemplateMail(to=user.email, name="password_reset", context=context))


async def send_mail_once(auth: Auth, email: str, letter: TemplateMail) -> None:
    """Nobody's mailbox is filled by somebody who types its address again and again."""
    # Hashed, so that addresses that only look alike are not counted as one; by kind, so that none keeps out another.
    account = sha256_hex(f"{letter.name} {ascii_lower(email)}")
    if await auth.throttle.try_hit("register_mail", account=account):
        auth.account_mailer.enqueue(letter)

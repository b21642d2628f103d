"""Following a link from a mail."""

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from .auth import Auth, get_auth
from .models import User
from .tokens import Token, hide, unhide

IN_SESSION = "open"  # what stands in the URL once the secret has left it


async def follow(request: Request, purpose: str, route: str) -> Token | Response | None:
    """What the secret in this request's path stands for; None when it is no good.

    A GET changes nothing, as programs that read mails open links too: it moves the secret into the session and leads
    to the same page without it, so that neither the history nor a Referer holds it. The page has a button.
    """
    auth, secret = get_auth(request), request.path_params["token"]
    in_session = secret == IN_SESSION
    if in_session:
        secret = unhide(auth.keys, str(request.session.get(_key(purpose), "")))
    token = await auth.tokens.look(purpose, secret)
    if token is None or in_session or request.method == "POST":
        return token
    await auth.throttle.hit("confirm", ip=auth.client_address(request))
    request.session[_key(purpose)] = hide(auth.keys, secret)
    return RedirectResponse(auth.url_for(request, route, token=IN_SESSION), status_code=303)


def forget(request: Request, purpose: str) -> None:
    request.session.pop(_key(purpose), None)


def naming(user: User) -> dict[str, str]:
    """What a token's data says of a user."""
    return {"user": str(user.id), "joined": str(user.date_joined)}


async def named_in(auth: Auth, token: Token) -> User | None:
    """Whom a token's data names. By the number alone it could be another: SQLite gives those of deleted rows again."""
    user: User | None = await auth.users.get(token.data["user"])
    return user if user is not None and token.data["joined"] == str(user.date_joined) else None


def _key(purpose: str) -> str:
    return f"_{purpose}_token"

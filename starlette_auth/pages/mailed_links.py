"""Links in mails: opens them, and sends the mails that contain them."""

from dataclasses import replace
from urllib.parse import quote, unquote

from starlette.requests import Request
from starlette.responses import Response

from ..auth import Auth
from ..core.signing import sha256_hex
from ..core.text import ascii_lower
from ..http.cookies import MAX_VALUES, Cookie
from ..http.urls import redirect
from ..mail.account_mailer import TemplateMail
from ..security.reset_tokens import make_reset_link
from ..security.tokens import Token, TokenHash
from ..users.models import User

SIGNATURE = "starlette_auth.link"
IN_COOKIE = "open"  # replaces the secret in the URL after its hash moved into a cookie
RELOADED = "reloaded"  # the query of a page that has reloaded itself


async def open_link(auth: Auth, request: Request, purpose: str, route: str) -> Token | Response | None:
    """Returns the token whose secret is in the path, None for an invalid one, or a redirect.

    A GET uses no token up, because mail scanners open links too; the page has a button that sends a POST. The first
    GET stores the token's hash in a cookie and redirects to the page without the secret, so that neither the browser
    history nor a `Referer` contains the secret.
    """
    secret = request.path_params["token"]
    if secret == IN_COOKIE:
        for text in read_links(auth, request, purpose):
            token = await auth.tokens.find(purpose, TokenHash(text))
            if token is not None:
                return token
        return None
    token = await auth.tokens.find(purpose, secret)
    if token is None or request.method == "POST":
        return token
    await auth.throttle.hit("confirm", ip=auth.proxies.client_address(request))
    return store_link(auth, request, purpose, token.token_hash, redirect(request, route, token=IN_COOKIE))


def store_link(auth: Auth, request: Request, purpose: str, text: str, response: Response) -> Response:
    """Stores what represents the token of a link in this browser. Returns the response.

    An attacker reads the hash of a token in the database and writes it into a cookie, which would open the link;
    therefore the cookie is signed.
    """
    value = f"{auth.keys.sign(SIGNATURE, f'{purpose} {text}')}.{quote(text, safe='')}"
    response.raw_headers.append(_cookie(auth, purpose).header(request.scope, value, None))
    return response


def read_links(auth: Auth, request: Request, purpose: str) -> list[str]:
    """Returns what `store_link` stored in this browser.

    The browser may hold several cookies of the name, such as an old one for another path. The caller passes over those
    that open nothing.
    """
    texts = []
    for content in _cookie(auth, purpose).values(request.scope)[:MAX_VALUES]:
        signature, _, value = content.partition(".")
        text = unquote(value)
        if auth.keys.verify(SIGNATURE, f"{purpose} {text}", signature) is not None:
            texts.append(text)
    return texts


def close_link(auth: Auth, request: Request, purpose: str, response: Response) -> Response:
    """Removes what `store_link` stored in this browser. Returns the response."""
    cookie = _cookie(auth, purpose)
    if cookie.values(request.scope):
        response.raw_headers.append(cookie.deletion(request.scope))
    return response


def url_to_reload(auth: Auth, request: Request, route: str, token: str = IN_COOKIE, **params: str) -> str:
    """Returns the URL with which a link's page reloads itself to get Strict cookies; or "".

    A browser that follows a link from another site leaves out cookies with SameSite=Strict, also after a redirect of
    this site. The page then does not know who is logged in. When the page reloads itself, the browser sends them.
    """
    is_foreign = request.headers.get("sec-fetch-site") == "cross-site"
    if (
        auth.cookie.samesite != "strict"
        or not is_foreign
        or request.method != "GET"
        or RELOADED in request.query_params
    ):
        return ""
    return f"{auth.url_for(request, route, token=token, **params)}?{RELOADED}"


def _cookie(auth: Auth, purpose: str) -> Cookie:
    """Returns the cookie that represents an opened link. It lives until the browser closes.

    Links are followed from other sites, and lead outside the path of the session cookie. Therefore the cookie is Lax
    instead of Strict, and sent to all paths.
    """
    cookie = auth.site.configured_cookie
    samesite = "lax" if cookie.samesite == "strict" else cookie.samesite
    name = f"{cookie.name}_{purpose}"
    return auth.site.resolve(replace(cookie, name=name, path="/", domain=None, samesite=samesite, httponly=True))


def user_reference(user: User) -> dict[str, str]:
    """Returns the entries of a token's data that identify the user."""
    return {"user": str(user.id), "joined": str(user.date_joined)}


async def referenced_user(auth: Auth, token: Token) -> User | None:
    """Returns the user that a token's data identifies, or None.

    SQLite reuses the primary keys of deleted rows; therefore `joined` must match too.
    """
    user: User | None = await auth.users.get(token.data["user"])
    return user if user is not None and token.data["joined"] == str(user.date_joined) else None


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

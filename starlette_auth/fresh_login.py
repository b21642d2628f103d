"""Asking for the password once more, before something grave is done."""

import json
import re
from collections.abc import Callable
from typing import Any, TypeVar, overload
from urllib.parse import quote, urlencode, urlsplit

from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection, Request
from starlette.responses import RedirectResponse, Response
from starlette.types import Receive, Scope, Send

from .answers import add_headers, problem, wants_json
from .auth import Auth, get_auth
from .authentication import ask_to_log_in, confirm_password, next_url
from .backends import SessionBackend, session_of
from .decorators import guard
from .exceptions import ImproperlyConfigured, ValidationError
from .forms import Field, Form, read_fields
from .models import User
from .pages import log_in_first, render
from .passwords import UNUSABLE
from .translation import gettext, speaking
from .urls import safe_url

F = TypeVar("F", bound=Callable[..., Any])
Pairs = list[tuple[str, str]]

MAX_KEPT = 16 * 1024  # characters of a form, as JSON
# What must not stand in a page, or only holds there and then.
NEVER_KEPT = re.compile(
    r"(?i:passw|passphrase|passcode|passkey|pwd|secret(?!ar)|token|api_?key)"
    r"|(?i:kennwort|mot_?de_?passe|contrase|senha|parol[ae])"
    r"|(?:^|[^A-Za-z])(?i:pass|pw|pin|mfa|t?otp|cvc|cvv)\d*(?:$|[^A-Za-z])"
    r"|(?:^|[^A-Za-z])(?:pin|mfa|otp)[A-Z]|[a-z](?:Pass|Pw|Pin|Otp)\d*$"
)
KEPT = "starlette_auth.kept"


@overload
def fresh_login_required(endpoint: F) -> F: ...
@overload
def fresh_login_required(*, max_age: int = 300) -> Callable[[F], F]: ...
def fresh_login_required(endpoint: F | None = None, *, max_age: int = 300) -> Any:
    """Lets in who has proved in the last `max_age` seconds who they are; others are asked for their password.

    After that they go on with what they were doing. A small form that was sent is kept in the page meanwhile, except
    for passwords and files. A client that wants JSON gets 403, and can send {"password": …} to the page "reauthenticate".
    For all that `login_required` can stand on, and in its place.
    """
    if max_age < 1:
        raise ImproperlyConfigured("Nobody's login is that fresh. Pass max_age in seconds, as in max_age=300.")

    def is_fresh(conn: HTTPConnection) -> bool:
        backend = get_auth(conn).session_backend
        return conn.user.is_authenticated and backend.age_of_proof(session_of(conn), conn.user) < max_age

    demand = guard(is_fresh, _ask, "Confirm that it is you, then connect again.")
    return demand if endpoint is None else demand(endpoint)


async def reauthenticate(request: Request) -> Response:
    """The page that asks for the password; it is opened by itself, or takes the place of an answer to a form."""
    user = request.user
    if not isinstance(user, User) or not _can_confirm(request):
        return log_in_first(request)
    form = _form()
    if request.method != "POST":
        form.data["next"] = next_url(request, request.query_params.get("next"))
        return await _page(request, form)
    if await form.fill_in(request):
        if await confirm_password(request, user, form.data["password"], action="reauthenticate"):
            return await _go_on(request, form)
        message = gettext("Your password was entered incorrectly. Please enter it again.")
        form.add_error("password", ValidationError(message, "password_incorrect"))
    return await _page(request, form, 422)


async def _go_on(request: Request, form: Form) -> Response:
    """To where the visitor was kept; a form that was sent there is sent again."""
    auth, session = get_auth(request), session_of(request)
    assert session is not None  # noqa: S101  _can_confirm has looked
    auth.session_backend.renew_proof(session)
    if not form.data["kept"]:
        return RedirectResponse(next_url(request, form.data["next"]), status_code=303)
    kept = _unseal(request, form.data["next"], form.data["kept"])
    return await render(request, "registration/reauthenticated.html", action=form.data["next"], kept=kept)


class _Question(Response):
    """Stands where an answer is expected, and is made when it is sent: the form that came may have to be read first."""

    def __init__(self, conn: HTTPConnection) -> None:
        super().__init__()
        self.conn = conn

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        auth = get_auth(self.conn)
        with speaking(auth.languages.best(self.conn.headers.get("accept-language", ""))):
            response = await _question(auth, self.conn)
        add_headers(auth, response)
        await response(scope, receive, send)


def _ask(conn: HTTPConnection) -> Response:
    return _Question(conn) if conn.user.is_authenticated else ask_to_log_in(conn)


async def _question(auth: Auth, conn: HTTPConnection) -> Response:
    if not _can_confirm(conn):
        return ask_to_log_in(conn)
    url, method = auth.url_for(conn, "reauthenticate"), conn.scope["method"]
    here = quote(conn.scope["path"]) + (f"?{conn.url.query}" if conn.url.query else "")
    if wants_json(conn) or method not in ("GET", "HEAD", "POST"):
        detail = gettext("Confirm your password first, at %(url)s; then send this request again.") % {"url": url}
        return problem(403, detail)
    if method != "POST":
        return RedirectResponse(f"{url}?{urlencode({'next': here})}", status_code=303)
    form, kept = _form(), await _read(conn)
    form.data["next"], form.data["kept"] = here, _seal(conn, here, kept) if kept else ""
    if not kept:
        # One comes back to the page on which it was filled in, as far as that is known.
        form.data["next"] = _page_before(conn)
    return await _page(conn, form, 403, is_lost=not kept)


def _page_before(conn: HTTPConnection) -> str:
    try:
        path = urlsplit(conn.headers.get("referer", "")).path
    except ValueError:
        path = ""
    return safe_url(path, default=next_url(conn, None))


def _can_confirm(conn: HTTPConnection) -> bool:
    """Whether it is by a password, and in a session, that this user can prove who they are."""
    user, session = conn.user, session_of(conn)
    is_logged_in = session is not None and user.is_authenticated and SessionBackend.is_of(session, user)
    return is_logged_in and not user.password.startswith(UNUSABLE)


def _form() -> Form:
    return Form(
        password=Field(label=gettext("Password"), type="password", autocomplete="current-password"),
        next=Field(type="hidden", required=False),
        kept=Field(type="hidden", required=False),
    )


async def _page(conn: HTTPConnection, form: Form, status: int = 200, *, is_lost: bool = False) -> Response:
    return await render(conn, "registration/reauthenticate.html", status, form=form, is_lost=is_lost)


async def _read(conn: HTTPConnection) -> Pairs:
    """The fields of a form, without passwords; nothing where it is no form, holds a file, or is too long."""
    if not isinstance(conn, Request):
        return []
    try:
        sent = await read_fields(conn)
    except HTTPException:
        return []
    except RuntimeError:  # FastAPI has read it for the endpoint's arguments
        form = await conn.form()
        sent = {name: form.getlist(name) for name in form}
    pairs = [(name, value) for name, values in sent.items() for value in values if not NEVER_KEPT.search(name)]
    is_text = all(isinstance(value, str) for _, value in pairs)
    return pairs if is_text and len(json.dumps(pairs)) <= MAX_KEPT else []


def _seal(conn: HTTPConnection, action: str, pairs: Pairs) -> str:
    """For the page: whoever logs in after this user cannot be made to send the user's form."""
    text = json.dumps(pairs)
    return f"{get_auth(conn).keys.sign(KEPT, _belonging(conn, action, text))}:{text}"


def _unseal(conn: HTTPConnection, action: str, kept: str) -> Pairs:
    """What `_seal` was given, when the browser has sent it back as it was."""
    signature, _, text = kept.partition(":")
    if get_auth(conn).keys.verify(KEPT, _belonging(conn, action, text), signature) is None:
        raise HTTPException(400, gettext("This cannot be read. Load the page again, and send it once more."))
    return [(name, value) for name, value in json.loads(text)]


def _belonging(conn: HTTPConnection, action: str, text: str) -> str:
    return json.dumps([conn.user.identity, action, text])

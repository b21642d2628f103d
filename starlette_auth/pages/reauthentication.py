"""Asking for the password again before a sensitive action."""

import json
from collections.abc import Callable, Sequence
from typing import Any, TypeVar, overload
from urllib.parse import urlencode, urlsplit

from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection, Request
from starlette.responses import RedirectResponse, Response
from starlette.types import Receive, Scope, Send

from ..auth import Auth, get_auth
from ..authentication import confirm_password, next_url, redirect_to_login
from ..backends.session import SessionBackend, session_of
from ..core.exceptions import ImproperlyConfigured, ValidationError
from ..core.translation import gettext
from ..decorators import require
from ..http.content import read_fields, wants_json
from ..http.problems import problem_response
from ..http.urls import requested_url, safe_url
from ..passwords.passwords import is_usable
from ..users.models import User
from .base import login_required_response, render
from .forms import Field, Form

F = TypeVar("F", bound=Callable[..., Any])
Pairs = list[tuple[str, str]]
MAX_SAVED = 16 * 1024  # characters of a form, as JSON
SAVED_FORM = "starlette_auth.saved"


@overload
def fresh_login_required(endpoint: F) -> F: ...


@overload
def fresh_login_required(*, max_age: int = 300, keep: Sequence[str] = ()) -> Callable[[F], F]: ...


def fresh_login_required(endpoint: F | None = None, *, max_age: int = 300, keep: Sequence[str] = ()) -> Any:
    """Lets a user in who entered credentials in the last `max_age` seconds. Asks others for their password first.

    After that the user goes on. `keep` names the fields of a form that may stand in the page meanwhile, as in
    keep=("title", "text"): a small form is sent again with these fields, and with no others. Without it the user has
    to send the form again. A client that wants JSON gets 403, and can send {"password": …} to the page
    "reauthenticate". It decorates whatever `login_required` can decorate, and replaces it.
    """
    if max_age < 1:
        raise ImproperlyConfigured("Nobody's login is that fresh. Pass max_age in seconds, as in max_age=300.")
    if isinstance(keep, str):
        raise ImproperlyConfigured('keep is a list of field names. Pass keep=("title", "text").')
    names = frozenset(keep)

    def is_fresh(conn: HTTPConnection) -> bool:
        backend = get_auth(conn).session_backend
        return conn.user.is_authenticated and backend.auth_age(session_of(conn), conn.user) < max_age

    def ask(conn: HTTPConnection) -> Response:
        return ReauthenticationResponse(conn, names) if conn.user.is_authenticated else redirect_to_login(conn)

    demand = require(is_fresh, ask, "Confirm that it is you, then connect again.")
    return demand if endpoint is None else demand(endpoint)


async def reauthenticate(request: Request) -> Response:
    """The page that asks for the password; it is opened by itself, or takes the place of an answer to a form."""
    user = request.user
    if not isinstance(user, User) or not _can_confirm(request):
        return login_required_response(request)
    auth, form = get_auth(request), _form()
    if request.method != "POST":
        form.data["next"] = next_url(auth, request, request.query_params.get("next"))
        return await _page(auth, request, form)
    if await form.fill_in(request):
        if await confirm_password(auth, request, user, form.data["password"], action="reauthenticate"):
            return await _go_on(auth, request, form)
        message = gettext("Your password was entered incorrectly. Please enter it again.")
        form.add_error("password", ValidationError(message, "password_incorrect"))
    return await _page(auth, request, form, 422)


async def _go_on(auth: Auth, request: Request, form: Form) -> Response:
    """To where the visitor was saved; a form that was sent there is sent again."""
    session = session_of(request)
    assert session is not None  # noqa: S101  _can_confirm has looked
    auth.session_backend.renew_auth_time(session)
    if not form.data["saved"]:
        return RedirectResponse(next_url(auth, request, form.data["next"]), status_code=303)
    saved = _read_signed_form(auth, request, form.data["next"], form.data["saved"])
    return await render(auth, request, "registration/reauthenticated.html", action=form.data["next"], saved=saved)


class ReauthenticationResponse(Response):
    """Stands where an answer is expected, and is made when it is sent: the form that came may have to be read first."""

    def __init__(self, conn: HTTPConnection, keep: frozenset[str]) -> None:
        super().__init__()
        self.conn = conn
        self.keep = keep

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        auth = get_auth(self.conn)
        with auth.override_language(self.conn):
            response = await _question(auth, self.conn, self.keep)
        auth.add_security_headers(response)
        await response(scope, receive, send)


async def _question(auth: Auth, conn: HTTPConnection, keep: frozenset[str]) -> Response:
    if not _can_confirm(conn):
        return redirect_to_login(conn)
    url, method = auth.url_for(conn, "reauthenticate"), conn.scope["method"]
    here = requested_url(conn.scope)
    if wants_json(conn) or method not in ("GET", "HEAD", "POST"):
        detail = gettext("Confirm your password first, at %(url)s; then send this request again.") % {"url": url}
        return problem_response(403, detail)
    if method != "POST":
        return RedirectResponse(f"{url}?{urlencode({'next': here})}", status_code=303)
    form, saved = _form(), await _read(conn, keep)
    form.data["next"], form.data["saved"] = here, _sign_form(auth, conn, here, saved) if saved else ""
    if not saved:
        # One comes back to the page on which it was filled in, as far as that is known.
        form.data["next"] = _page_before(auth, conn)
    return await _page(auth, conn, form, 403, is_lost=not saved)


def _page_before(auth: Auth, conn: HTTPConnection) -> str:
    try:
        path = urlsplit(conn.headers.get("referer", "")).path
    except ValueError:
        path = ""
    return safe_url(path, default=next_url(auth, conn, None))


def _can_confirm(conn: HTTPConnection) -> bool:
    """Whether it is by a password, and in a session, that this user can prove who they are."""
    user, session = conn.user, session_of(conn)
    is_logged_in = session is not None and user.is_authenticated and SessionBackend.belongs_to(session, user)
    return is_logged_in and is_usable(user.password)


def _form() -> Form:
    return Form(
        password=Field(label=gettext("Password"), type="password", autocomplete="current-password"),
        next=Field(type="hidden", required=False),
        saved=Field(type="hidden", required=False),
    )


async def _page(auth: Auth, conn: HTTPConnection, form: Form, status: int = 200, *, is_lost: bool = False) -> Response:
    return await render(auth, conn, "registration/reauthenticate.html", status, form=form, is_lost=is_lost)


async def _read(conn: HTTPConnection, keep: frozenset[str]) -> Pairs:
    """Returns the fields of a form that are named in `keep`; none if it is no form, has files, or is too long."""
    if not keep or not isinstance(conn, Request):
        return []
    try:
        sent = await read_fields(conn)
    except HTTPException:
        return []
    except RuntimeError:  # FastAPI has already read the body, for the arguments of the endpoint
        form = await conn.form()
        sent = {name: form.getlist(name) for name in form}
    is_text = all(isinstance(value, str) for values in sent.values() for value in values)
    pairs = [(name, value) for name, values in sent.items() for value in values if name in keep]
    return pairs if is_text and len(json.dumps(pairs)) <= MAX_SAVED else []


def _sign_form(auth: Auth, conn: HTTPConnection, action: str, pairs: Pairs) -> str:
    """For the page: whoever logs in after this user cannot be made to send the user's form."""
    text = json.dumps(pairs)
    return f"{auth.keys.sign(SAVED_FORM, _signed_content(conn, action, text))}:{text}"


def _read_signed_form(auth: Auth, conn: HTTPConnection, action: str, saved: str) -> Pairs:
    """What `_seal` was given, when the browser has sent it back as it was."""
    signature, _, text = saved.partition(":")
    if auth.keys.verify(SAVED_FORM, _signed_content(conn, action, text), signature) is None:
        raise HTTPException(400, gettext("This cannot be read. Load the page again, and send it once more."))
    return [(name, value) for name, value in json.loads(text)]


def _signed_content(conn: HTTPConnection, action: str, text: str) -> str:
    return json.dumps([conn.user.identity, action, text])

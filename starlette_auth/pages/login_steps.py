"""The end of a login: its steps, such as a second factor, and then the session of the user."""

import secrets
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response

from ..answers import respond
from ..auth import Auth, get_auth
from ..authentication import LoginOptions, not_authenticated, refuse_cross_site
from ..backends.bearer import session_token
from ..backends.login_methods import PASSWORD, with_method
from ..backends.login_steps import LoginStep
from ..backends.pending_login import LIFETIME, PendingLogin, add_proof
from ..backends.session import REMEMBERED, SessionBackend, is_in_header, require_session, session_of
from ..core.awaiting import must_be_awaited
from ..core.exceptions import DoesNotExist, Refused
from ..core.feature_events import LoginPending
from ..core.translation import gettext
from ..http.content import prefers_json, sent_json
from ..http.scope import UNFINISHED_USER, handle_refusals
from ..http.urls import find_url_path
from ..security.stored_forms import find_form, mark_as_shown
from ..sessions.detached import DetachedSession
from ..users.models import User

REDIRECTS = (301, 302, 303, 307, 308)  # status codes


@must_be_awaited
async def complete_login(
    request: Request, user: User, next: str | None = None, *, remember: bool = False, method: str = PASSWORD
) -> Response:
    """Logs in a user who has proved who they are, and returns the redirect to `next`. Every login page ends here.

    Each of `auth.login_steps` may ask for something first: a browser is redirected to the page of the step, and a program
    gets 401 with `step`. The session then holds a pending login for 15 minutes. `method` is the name of the proof. In a
    session with a pending login of the same user, it is added to the earlier proofs, and `next` and `remember` are those
    of the beginning unless they are passed again.

    The redirect leads to `next` if it is safe. If the login page kept the fields of a form before the login steps, it
    leads to the page `saved_form`, which shows them. Raises TooManySessions (403) where `Auth(max_sessions=…)` leaves no
    room, and PermissionDenied as `login` does.
    """
    auth = get_auth(request)
    handle_refusals(request.scope)
    login = begin_login(auth, request, user, next, remember=remember, method=method)
    if auth.login_steps:
        earlier = await auth.pending_logins.find(require_session(request), auth.clock())
        if earlier is not None and earlier.user == user:
            earlier = add_proof(earlier, method, login.began)
            login = replace(earlier, next=next or earlier.next, remember=remember or earlier.remember)
    return await _advance(auth, request, login)


@must_be_awaited
async def advance(request: Request, login: PendingLogin, method: str = "") -> Response:
    """Asks for the next step of a login, or ends it. The page of each step returns this response.

    `method` is the name of what the user has just proved, such as "totp". All steps are asked anew, so that none can be
    left out. Raises what `complete_login` raises, and Refused (401) if the user has been deleted.
    """
    auth = get_auth(request)
    handle_refusals(request.scope)
    return await _advance(auth, request, add_proof(login, method, int(auth.clock())) if method else login)


@must_be_awaited
async def pending_login(request: Request, login_id: str | None = None) -> PendingLogin:
    """Returns the pending login of the session. The page of each login step begins with it.

    `login_id` is the value of the hidden field `login` of the page's form, which holds `login.id`. Raises Refused: 401
    without a pending login, and 409 if the form belongs to another one, for example of another tab. The account in that
    tab must not get the proof of this one.
    """
    auth = get_auth(request)
    handle_refusals(request.scope)
    session = session_of(request)
    login = await auth.pending_logins.find(session, auth.clock()) if session is not None else None
    if login is None:
        raise not_authenticated(request, LoginOptions(redirect_field_name=None))
    if login_id is not None and login_id != login.id:
        text = gettext("Another login began in this browser. Log in again.")
        raise Refused(409, text, code="other_login")
    return login


def begin_login(
    auth: Auth, request: Request, user: User, next: str | None, *, remember: bool, method: str = PASSWORD
) -> PendingLogin:
    """Returns a login that begins with this proof. Raises PermissionDenied for a request from another site."""
    refuse_cross_site(auth, request)
    now = int(auth.clock())
    return PendingLogin(
        id=secrets.token_urlsafe(16),
        user=user,
        methods=with_method((), method, now),
        began=now,
        next=next,
        remember=remember,
        backend=user.backend or auth.model_backend.path,
    )


async def ask_steps(auth: Auth, request: Request, login: PendingLogin) -> Response | None:
    """Returns the response that asks for the first step that is needed; None if the login may end.

    The session then holds the login. Raises PermissionDenied for a request from another site.
    """
    refuse_cross_site(auth, request)
    for step in auth.login_steps:
        if isinstance(step, LoginStep):
            if await step.is_needed(request, login):
                await _store(auth, request, login, step.name)
                return _ask(auth, request, login, step.name, step.url(request))
            continue
        response = await step(request, login.user)
        if response is None:
            continue
        if response.status_code < 400:
            name = getattr(step, "__name__", type(step).__name__)
            await _store(auth, request, login, name)
            if response.status_code in REDIRECTS and _is_program(request):
                return _ask(auth, request, login, name, response.headers["location"])
        return response
    return None


async def resume_login(auth: Auth, request: Request, next: str | None) -> Response | None:
    """Returns the response that asks for the step that the login of this session lacks; None if it lacks none.

    Such a session began elsewhere, for example at a Django page, or before its user needed a second factor. A visitor who
    has seen the step and opens the login page without `next` gets the form, to log in as another user.
    """
    user = request.scope.get(UNFINISHED_USER)
    if not isinstance(user, User):
        return None
    session, now = require_session(request), int(auth.clock())
    login = await auth.pending_logins.find(session, now)
    if login is None or login.user != user:
        backend, is_remembered = SessionBackend.backend_of(session), REMEMBERED in session
        login = begin_login(auth, request, user, next, remember=is_remembered)
        login = replace(login, methods=auth.session_backend.proofs(session), backend=backend)
    elif next is None:
        return None
    return await ask_steps(auth, request, replace(login, next=next or login.next))


async def finish_login(auth: Auth, request: Request, login: PendingLogin) -> Response:
    """Logs in a user who has passed all steps, and returns the redirect. An app gets the key of its session.

    The redirect leads to `login.next` if that is safe, or to the page `saved_form` if a form was stored before the steps.
    """
    session, user = require_session(request), login.user
    for step in auth.login_steps:
        for name in await step.proofs(request, login) if isinstance(step, LoginStep) else ():
            login = add_proof(login, name, int(auth.clock()))
    form = await find_form(auth.tokens, session, user.identity, is_waiting=True)
    auth.csrf_tokens.rotate(request)
    await auth.user_sessions.begin(request, user, login.backend, remember=login.remember, methods=login.methods)
    if session.is_in_header and not isinstance(session, DetachedSession):
        ends = int(session.get_expiry_date().timestamp())
        return JSONResponse({"token": session_token(session.next_key), "expires": ends})
    if form is None:
        return RedirectResponse(auth.redirects.choose(request.scope, login.next), status_code=303)
    url = find_url_path(request.scope, "saved_form")
    if url is None:  # `login.next` is the URL to which the form was sent, and may have no page
        return RedirectResponse(auth.redirects.choose(request.scope, None), status_code=303)
    mark_as_shown(session, form)  # only now: the login has deleted the session data of another user
    return RedirectResponse(url, status_code=303)


async def describe_pending(auth: Auth, request: Request) -> Mapping[str, Any] | None:
    """Returns the step for which the login of this session waits, for programs; None without a pending login."""
    session = session_of(request)
    login = await auth.pending_logins.find(session, auth.clock()) if session is not None else None
    if login is None:
        return None
    for step in auth.login_steps:
        if isinstance(step, LoginStep) and await step.is_needed(request, login):
            return _description(auth, login, step.name, step.url(request))
    return {"login": login.id, "expires_in": _seconds_left(auth, login)}


async def _advance(auth: Auth, request: Request, login: PendingLogin) -> Response:
    try:
        return await ask_steps(auth, request, login) or await finish_login(auth, request, login)
    except DoesNotExist:  # the user was deleted after the proof
        raise not_authenticated(request, LoginOptions(redirect_field_name=None)) from None


async def _store(auth: Auth, request: Request, login: PendingLogin, step: str) -> None:
    auth.pending_logins.store(require_session(request), login)
    methods = tuple(method.name for method in login.methods)
    async with auth.events.transaction(LoginPending):
        await auth.events.emit(LoginPending(user=login.user, request=request, step=step, methods=methods))


def _ask(auth: Auth, request: Request, login: PendingLogin, name: str, url: str) -> Response:
    """Returns the redirect to a step's page; 401 for a program, which would take a redirect for the end of its login."""
    if not _is_program(request):
        return RedirectResponse(url, status_code=303, headers={"Cache-Control": "no-store"})
    detail = gettext("This login has one more step.")
    members = {"step": _description(auth, login, name, url)}
    return respond(auth, request, Refused(401, detail, code="login_step", members=members))


def _description(auth: Auth, login: PendingLogin, name: str, url: str) -> dict[str, Any]:
    return {"name": name, "url": url, "login": login.id, "expires_in": _seconds_left(auth, login)}


def _seconds_left(auth: Auth, login: PendingLogin) -> int:
    return int(login.began + LIFETIME - auth.clock())


def _is_program(request: Request) -> bool:
    """Returns whether the client takes problems. One that sends a form gets the redirect, as after a whole login."""
    return is_in_header(request) or sent_json(request) or prefers_json(request)

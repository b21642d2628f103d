"""Logging in and out."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from starlette.requests import HTTPConnection
from starlette.responses import RedirectResponse, Response

from .auth import Auth, get_auth
from .backends.login_methods import LoginMethod, lacks_first_factor
from .backends.request_user import set_user
from .backends.session import is_in_header, require_session, session_of
from .core.arguments import as_texts, require_text
from .core.awaiting import must_be_awaited
from .core.deferred_response import DeferredResponse
from .core.events import UserLoggedOut
from .core.exceptions import CrossSiteLogin, CrossSiteSocketLogin, ImproperlyConfigured, Refused, Remedy
from .core.functions import layers
from .core.translation import gettext
from .http.dependencies import dependencies_of, is_guard
from .http.endpoints import Target
from .http.mailed_secrets import has_mailed_secret
from .http.scope import UNFINISHED_USER, handle_refusals
from .http.urls import accepts_get, endpoint_of, find_url_path, parse_page, with_query
from .security.saved_forms import Pairs, read_form
from .users.models import AnonymousUser, User

MAX_VISITS = 4  # redirects of a logged-in user from the login page in ten seconds
SAVED_FORM = "starlette_auth.saved_form"  # a key of the scope
SHOWS_SAVED_FORMS = "shows_saved_forms"  # an attribute of the endpoint of our login page


@must_be_awaited
async def authenticate(request: HTTPConnection | None = None, **credentials: Any) -> User | None:
    """Returns the user who has these credentials, or None. Does not log the user in.

    It calls `auth.authenticate`, which a script calls itself, because only a request knows its Auth. Raises
    ImproperlyConfigured without a request.
    """
    if request is None:
        raise ImproperlyConfigured(
            "authenticate() finds the Auth by the request. Without one, call await auth.authenticate(username=…, password=…)."
        )
    return await get_auth(request).authenticate(request, **credentials)


@must_be_awaited
async def login(
    request: HTTPConnection, user: User, *, backend: str = "", remember: bool = False, methods: Sequence[str] = ()
) -> None:
    """Makes `user` the user of this session, under a new session key. Data of an anonymous visitor stays.

    `remember` keeps the login when the browser closes, for as long as `Auth(session_limits=…)` allows. Login steps,
    such as a second factor, are not asked here: pages use `complete_login`. `methods` are the names of what the user has
    proved now, as in ("password", "totp"): the session then counts by its level. Without them, a session of a user with a
    second factor counts only after that factor. Raises PermissionDenied (403) for a request with an unsafe method, or a
    WebSocket, that another site sent.
    """
    auth = get_auth(request)
    names = as_texts(methods, "methods", 'Pass names of login methods, as in methods=("password", "totp").')
    handle_refusals(request.scope)
    refuse_cross_site(auth, request)
    auth.csrf_tokens.rotate(request)
    path = backend or getattr(user, "backend", "") or auth.model_backend.path
    proofs = [LoginMethod(name, int(auth.clock())) for name in dict.fromkeys(names)]
    await auth.user_sessions.begin(request, user, path, remember=remember, methods=proofs)


def refuse_cross_site(auth: Auth, conn: HTTPConnection) -> None:
    """Raises PermissionDenied if another site sent this request.

    An attacker's page posts the attacker's password, and the victim would go on as the attacker's user. Therefore no
    mark of the endpoint allows it. A page of another site cannot send the key of an app.
    """
    if is_in_header(conn) or not auth.site.is_cross_site(conn):
        return
    with auth.override_language(conn):
        text = gettext("This login was sent from another site. Open the login page of this site and log in there.")
    raise CrossSiteSocketLogin(text) if conn.scope["type"] == "websocket" else CrossSiteLogin(text)


@must_be_awaited
async def logout(request: HTTPConnection) -> None:
    """Ends the session. Its data is gone at once; its key is invalid when the response starts, even if that fails."""
    auth, session = get_auth(request), require_session(request)
    user = request.user if isinstance(request.user, User) else AnonymousUser()
    visitor = AnonymousUser()
    session.flush()
    set_user(request.scope, visitor)
    async with auth.events.transaction(UserLoggedOut):
        await auth.events.emit(UserLoggedOut(user=user, request=request))
    await auth.backend_permissions.load(request, visitor)


def update_session_auth_hash(request: HTTPConnection, user: User) -> None:
    """Keeps this session, under a new key, after its user's password changed. The user's other sessions end."""
    get_auth(request).session_backend.refresh_auth_hash(require_session(request), user)


async def confirm_password(auth: Auth, conn: HTTPConnection, user: User, password: str, *, action: str) -> bool:
    """Returns whether this is the logged-in user's password. Attempts are throttled like those of a login."""
    session, before = session_of(conn), user.password
    if not await auth.model_backend.check_password(conn, user, password, action=action):
        return False
    if session is not None and user.password != before:
        # The same password has a new, stronger hash. The session must continue with it.
        auth.session_backend.refresh_auth_hash(session, user)
    return True


@dataclass(frozen=True, kw_only=True)
class LoginOptions:
    """How an endpoint asks an anonymous visitor to log in.

    `keep` names the form fields that are kept during the login. The other fields are arguments of `redirect_to_login`.
    """

    login_url: str | None = None
    redirect_field_name: str | None = ""
    keep: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        if self.login_url is not None:
            parse_page(self.login_url, "login_url")
        if self.redirect_field_name is not None:
            require_text(
                self.redirect_field_name, "redirect_field_name", 'Pass text, as in redirect_field_name="next".'
            )


DEFAULT_OPTIONS = LoginOptions()


def not_authenticated(
    conn: HTTPConnection, options: LoginOptions = DEFAULT_OPTIONS, next: str | None = None
) -> Refused:
    """Returns the refusal of a visitor who has to log in. `next` is the page for afterwards, by default this request."""
    auth = get_auth(conn)
    page = options.login_url or auth.login_url
    field = auth.redirects.field if options.redirect_field_name == "" else options.redirect_field_name
    remedy = Remedy("login", find_url_path(conn.scope, page), field)
    detail, code = gettext("Log in first, then send this request again."), "not_authenticated"
    if UNFINISHED_USER in conn.scope:  # the login page asks for the step
        detail, code = gettext("This login has one more step."), "login_step"
        if has_weak_login(conn):
            detail, code = (
                gettext("This account needs more than a mail. Log in with a password first."),
                "login_too_weak",
            )
    return Refused(
        401,
        detail,
        code=code,
        remedy=remedy,
        challenge={"error": "invalid_token"},
        page=lambda: _login_page(conn, options, replace(remedy, url=auth.url_for(conn, page)), next),
    )


def has_weak_login(conn: HTTPConnection) -> bool:
    """Returns whether the login of the session is too weak for its user, and stays so with any second factor."""
    session = session_of(conn)
    if UNFINISHED_USER not in conn.scope or session is None:
        return False
    required = get_auth(conn).session_backend.required_level(conn.scope[UNFINISHED_USER])
    return required > 1 and lacks_first_factor(get_auth(conn).session_backend.proofs(session))


def _login_page(conn: HTTPConnection, options: LoginOptions, remedy: Remedy, next: str | None) -> Response:
    """Returns the redirect to the login page, or that page with the fields of the submitted form."""
    if options.keep and conn.scope.get("method") == "POST":
        return DeferredResponse(functools.partial(_login_page_with_form, conn, options, remedy), 401)
    return login_redirect(conn, remedy, next)


def login_redirect(conn: HTTPConnection, remedy: Remedy | None = None, next: str | None = None) -> Response:
    """Returns the redirect to the login page, and back to `next`, by default this request."""
    auth = get_auth(conn)
    field, url = (remedy.field, remedy.url) if remedy is not None else (auth.redirects.field, None)
    url = url or auth.url_for(conn, auth.login_url)
    target = with_query(url, field, next or page_to_return_to(auth, conn, url)) if field is not None else url
    response = refused_redirect(target)
    if "user" in conn.scope and conn.user.is_authenticated:
        auth.redirects.count_visit(conn.scope, response, MAX_VISITS)
    return response


def refused_redirect(url: str) -> Response:
    """Returns the redirect of a refused request. A cache must not give it to others, who may use the page."""
    return RedirectResponse(url, status_code=303, headers={"Cache-Control": "no-store"})


async def _login_page_with_form(conn: HTTPConnection, options: LoginOptions, remedy: Remedy) -> Response:
    auth = get_auth(conn)
    pairs: Pairs = []
    page = endpoint_of(conn.scope, remedy.url or "")
    # An attacker's page sends a form to an endpoint marked with csrf_exempt, which would make the visitor send it
    # again after the login. Therefore no form of another site is kept.
    if getattr(page, SHOWS_SAVED_FORMS, False) and not auth.site.is_cross_site(conn):
        pairs = await read_form(conn, options.keep)
    if not pairs:
        return login_redirect(conn, remedy)
    conn.scope[SAVED_FORM] = pairs
    response: Response = await page(conn)
    return response


def page_to_return_to(auth: Auth, conn: HTTPConnection, login_url: str) -> str:
    """Returns the URL of the requested page or of the submitted form's page; "" if unknown.

    After a login the browser sends a GET. An attacker reads the access log, which contains the query of the login page;
    therefore that query contains no path with the secret of a mailed link.
    """
    page = None
    if conn.scope.get("method") not in ("GET", "HEAD"):
        page = auth.redirects.referring_page(conn)
        if page is None and not accepts_get(conn.scope):
            return ""
    if has_mailed_secret({"path": page} if page else conn.scope):
        return ""
    return auth.redirects.for_login(conn.scope, login_url, page)


def login_options_of(target: Target, method: str) -> LoginOptions:
    """Returns the login options of the first guard that a request meets.

    FastAPI calls the dependencies of a route before the endpoint, whose decorator is the last guard. The method of an
    HTTPEndpoint may have a decorator, too.
    """
    dependencies = (dependency.call for dependency in dependencies_of(target.route))
    for function in (*dependencies, getattr(target.endpoint, method.lower(), None), target.endpoint):
        for layer in layers(function):
            options = getattr(layer, "login_options", None)
            if isinstance(options, LoginOptions):
                return options
        if is_guard(function):
            return DEFAULT_OPTIONS
    return DEFAULT_OPTIONS

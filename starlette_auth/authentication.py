"""Logging in and out."""

from typing import Any
from urllib.parse import urlencode

from starlette.requests import HTTPConnection, Request
from starlette.responses import JSONResponse, RedirectResponse, Response

from .auth import Auth, get_auth
from .backends.session import require_session, session_of
from .core.awaiting import must_be_awaited
from .core.events import UserLoggedOut
from .core.exceptions import CrossSiteLogin, CrossSiteSocketLogin, ImproperlyConfigured
from .core.translation import gettext
from .http.content import prefers_json
from .http.mailed_secrets import has_mailed_secret
from .http.urls import requested_url
from .users.models import AnonymousUser, User, set_user


@must_be_awaited
async def authenticate(request: HTTPConnection | None = None, **credentials: Any) -> User | None:
    """Returns the user whose credentials these are, or None. The user is not logged in by this.

    It calls `auth.authenticate`, which a script calls itself, because only a request knows its Auth. Raises
    ImproperlyConfigured without a request.
    """
    if request is None:
        raise ImproperlyConfigured(
            "authenticate() finds the Auth by the request. Without one, call await auth.authenticate(username=…, password=…)."
        )
    return await get_auth(request).authenticate(request, **credentials)


@must_be_awaited
async def login(request: HTTPConnection, user: User, *, backend: str = "", remember: bool = False) -> None:
    """Makes `user` the user of this session, under a new session key. Data of an anonymous visitor stays.

    `remember` keeps the login when the browser closes, for as long as `Auth(session_limits=…)` allows. Login steps,
    such as a second factor, are not asked here: pages use `complete_login`. Raises PermissionDenied (403) for a
    request with an unsafe method, or a WebSocket, that another site sent.
    """
    auth = get_auth(request)
    _refuse_cross_site(auth, request)
    auth.csrf_tokens.rotate(request)
    path = backend or getattr(user, "backend", "") or auth.model_backend.path
    await auth.user_sessions.begin(request, user, path, remember=remember)


@must_be_awaited
async def complete_login(request: Request, user: User, next: str | None = None, *, remember: bool = False) -> Response:
    """Logs in a user who has proved who they are, and returns the redirect to `next`. Every login page ends here.

    Each of `auth.login_steps` may return another response first. `next` is followed when it is safe. Raises
    TooManySessions (403) where `Auth(max_sessions=…)` leaves no room, and PermissionDenied as `login` does.
    """
    auth = get_auth(request)
    _refuse_cross_site(auth, request)
    for step in auth.login_steps:
        response = await step(request, user)
        if response is not None:
            return response
    auth.csrf_tokens.rotate(request)
    await auth.user_sessions.begin(request, user, user.backend or auth.model_backend.path, remember=remember)
    return RedirectResponse(auth.redirects.choose(request.scope, next), status_code=303)


def _refuse_cross_site(auth: Auth, conn: HTTPConnection) -> None:
    """Raises PermissionDenied if another site sent this request.

    An attacker's page posts the attacker's password, and the victim would go on as the attacker's user. Therefore no
    mark of the endpoint allows it.
    """
    if not auth.site.is_cross_site(conn):
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


def redirect_to_login(conn: HTTPConnection, login_url: str | None = None) -> Response:
    """Returns a redirect to the login page and back here afterwards, or 401 for a client that wants JSON."""
    if prefers_json(conn):
        return JSONResponse({"detail": "Log in first, then send this request again."}, 401)
    auth = get_auth(conn)
    url = auth.url_for(conn, login_url or auth.login_url)
    # After a login the browser sends a GET. It can return to a page, and not to the target of a form.
    # The query is logged; therefore no path with the secret of a mailed link is in it.
    if conn.scope.get("method") in ("GET", "HEAD") and not has_mailed_secret(conn.scope):
        url += ("&" if "?" in url else "?") + urlencode({"next": requested_url(conn.scope)})
    return RedirectResponse(url, status_code=303)

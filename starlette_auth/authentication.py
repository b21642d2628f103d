"""Logging in and out."""

import functools
from typing import Any
from urllib.parse import quote, urlencode

from starlette.requests import HTTPConnection, Request
from starlette.responses import JSONResponse, RedirectResponse, Response

from .auth import Auth, get_auth
from .backends import session_of
from .csrf_tokens import rotate
from .events import LoginFailed, UserLoggedIn, UserLoggedOut, cleanse
from .exceptions import ImproperlyConfigured, PermissionDenied
from .models import AnonymousUser, Credentials, User
from .sessions.base import SessionBase
from .urls import safe_url


async def authenticate(request: HTTPConnection, **credentials: Any) -> User | None:
    """Whose credentials are these? The first backend that knows decides; None when none does. Logs nobody in."""
    auth = get_auth(request)
    try:
        for backend in auth.accepting(credentials):
            user = await backend.authenticate(request, **credentials)
            if user is not None:
                user.backend = backend.path
                return user
    except PermissionDenied:
        pass  # a backend knows better than those after it
    async with auth.events.transaction(LoginFailed):
        await auth.events.emit(LoginFailed(credentials=cleanse(credentials), request=request))
    return None


async def login(request: HTTPConnection, user: User, *, backend: str = "", remember: bool = False) -> None:
    """Makes `user` the user of this session, under a new key. What an anonymous visitor stored in it stays.

    `remember`: beyond the end of the browser, and for as long as `Auth(session_limits=…)` allows then.
    It asks nothing: pages go through `complete_login`, where a second factor has its place.
    """
    auth, session = get_auth(request), _session(request)
    if not isinstance(user, User):
        raise TypeError("login() takes a User. What authenticate() gave is None, or was not awaited: look first.")
    if not user.is_active:
        raise PermissionDenied(f"{user.username!r} is not active. Set is_active before login().")
    backend = backend or user.backend or auth.model_backend.path
    new_device = user.last_login is not None and not auth.devices.known(request, user)
    async with auth.events.transaction(UserLoggedIn):
        await auth.users.log_in(user)
        event = UserLoggedIn(user=user, request=request, backend=backend, new_device=new_device)
        await auth.events.emit(event)
    auth.session_backend.remember(session, user, backend, is_remembered=remember)
    session.admission = functools.partial(auth.logins.make_room, user)
    auth.devices.remember(request, user)
    rotate(request)
    set_user(request, user)


async def complete_login(request: Request, user: User, next: str | None = None, *, remember: bool = False) -> Response:
    """The only door in: every way of proving who you are ends here.

    Each of `auth.login_steps` may put a page of its own in between; otherwise the user is logged in and sent on to
    `next`, when that is safe. TooManySessions (403) where `Auth(max_sessions=…)` leaves no room.
    """
    auth = get_auth(request)
    for step in auth.login_steps:
        response = await step(request, user)
        if response is not None:
            return response
    await auth.logins.require_room(user, session_of(request))
    await login(request, user, remember=remember)
    return RedirectResponse(next_url(request, next), status_code=303)


async def logout(request: HTTPConnection) -> None:
    """Ends the session: its data is gone now, its key is dead when the response starts, even if that fails."""
    auth, session = get_auth(request), _session(request)
    user = request.user if isinstance(request.user, User) else AnonymousUser()
    session.flush()
    set_user(request, AnonymousUser())
    async with auth.events.transaction(UserLoggedOut):
        await auth.events.emit(UserLoggedOut(user=user, request=request))


def update_session_auth_hash(request: HTTPConnection, user: User) -> None:
    """Keeps this session, under a new key, after its user's password changed; the user's others end."""
    get_auth(request).session_backend.refresh(_session(request), user)


def set_user(conn: HTTPConnection, user: User | AnonymousUser) -> None:
    conn.scope["user"], conn.scope["auth"] = user, Credentials(user)


def next_url(conn: HTTPConnection, wanted: str | None) -> str:
    """Where to go after a login: `wanted`, when it is safe."""
    auth = get_auth(conn)
    default = auth.url_for(conn, auth.login_redirect_url)
    return safe_next(auth, conn, wanted, default)


def safe_next(auth: Auth, conn: HTTPConnection, wanted: str | None, default: str) -> str:
    secure = auth.cookie.is_secure(conn.scope)
    return safe_url(wanted, default=default, allowed_hosts=auth.next_hosts, require_https=secure)


def prefers_json(conn: HTTPConnection) -> bool:
    """Whether a program asks, which has no use for a page."""
    accept = conn.headers.get("accept", "")
    return "application/json" in accept and "text/html" not in accept


async def confirm_password(request: HTTPConnection, user: User, password: str, *, action: str) -> bool:
    """Whether it is the password of who is logged in here. Guesses are counted like those of a login."""
    auth, session, before = get_auth(request), session_of(request), user.password
    if not await auth.model_backend.check_password(request, user, password, username=user.username, action=action):
        return False
    if session is not None and user.password != before:
        # The same password under a new hash: that must not log out whoever typed it.
        auth.session_backend.refresh(session, user)
    return True


def ask_to_log_in(conn: HTTPConnection, login_url: str | None = None) -> Response:
    """Sends a visitor to the login page, and back here afterwards; a client that wants JSON gets a 401."""
    if prefers_json(conn):
        return JSONResponse({"detail": "Log in first, then send this request again."}, 401)
    auth = get_auth(conn)
    url = auth.url_for(conn, login_url or auth.login_url)
    # After a login the browser can only GET: it goes back to a page, not to where a form was sent.
    if conn.scope.get("method") in ("GET", "HEAD"):
        query = conn.scope.get("query_string", b"").decode("latin-1")
        here = quote(conn.scope["path"]) + (f"?{query}" if query else "")
        url += ("&" if "?" in url else "?") + urlencode({"next": here})
    return RedirectResponse(url, status_code=303)


def _session(conn: HTTPConnection) -> SessionBase:
    session = session_of(conn)
    if session is None:
        raise ImproperlyConfigured(
            "login() and logout() need SessionMiddleware. Pass middleware=middleware(auth) to your app."
        )
    return session

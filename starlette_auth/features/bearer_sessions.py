"""Sessions of native apps, whose key is sent in a header in place of a cookie."""

from starlette.requests import HTTPConnection
from starlette.types import Scope

from ..auth import Auth, Feature
from ..backends.base import AuthenticationBackend
from ..backends.bearer import is_session_token, read_bearer, session_key_in
from ..backends.session import is_in_header, session_of
from ..core.exceptions import ImproperlyConfigured
from ..pages.app_sessions import begin_app_session
from ..sessions.detached import DetachedSession
from ..users.models import User


class BearerSessions(Feature):
    """Lets native apps log in without cookies: `Auth(features=[BearerSessions()])`.

    An app sends `{"username": …, "password": …, "client": "app"}` as JSON to the login page, gets the key of its session
    in the body, and sends it in `Authorization: Bearer …`. The session is in the store of all sessions: it has the same
    limits, stands in the same list, and ends in the same ways. A new key comes in the response header `X-Session-Token`.
    The key of an app opens no session as a cookie, and the key of a cookie none in the header.

    Raises ImproperlyConfigured, with Auth, if the store keeps sessions in cookies.
    """

    def attach(self, auth: Auth) -> None:
        if not auth.sessions.is_server_side:
            raise ImproperlyConfigured(
                f"{type(auth.sessions).__name__} keeps each session in its cookie, which an app does not have. For "
                "BearerSessions(), use DatabaseStore, RedisStore or CachedStore."
            )
        auth.backends.insert(auth.backends.index(auth.session_backend), BearerBackend())

    def begin(self, request: HTTPConnection) -> None:
        """Gives the request a new session for an app. Call it before `login()` in a login endpoint of your own.

        The response brings the key in the header `X-Session-Token`, and no cookie. Raises Refused (403) for a page of
        this site.
        """
        begin_app_session(request)


class BearerBackend(AuthenticationBackend):
    """Reads the session key of a request. SessionBackend then identifies the user of the session."""

    path = "starlette_auth.BearerBackend"
    scheme = "Bearer"

    def session_key(self, scope: Scope) -> str | None:
        return session_key_in(scope)

    async def identify(self, conn: HTTPConnection) -> User | None:
        text = read_bearer(conn, is_session_token)
        is_read = is_in_header(conn) and not isinstance(session_of(conn), DetachedSession)
        if text is not None and is_session_token(text) and not is_read:
            raise ImproperlyConfigured(
                "SessionMiddleware does not read the session key in the header of this request. Pass middleware=middleware(auth) "
                "to your app, after Auth(features=[BearerSessions()]), or SessionMiddleware(key_in_header=…)."
            )
        return None

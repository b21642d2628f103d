"""Sessions of apps, which keep the key and send it in the header Authorization."""

from starlette.requests import HTTPConnection

from ..auth import Auth
from ..backends.session import require_session
from ..core.exceptions import ImproperlyConfigured, Refused
from ..core.translation import gettext


def offers_app_sessions(auth: Auth) -> bool:
    """Returns whether an app may log in: `Auth(features=[BearerSessions()])`."""
    return any(backend.reads_sessions for backend in auth.backends)


def begin_app_session(conn: HTTPConnection) -> None:
    """Gives the request a new session, whose key the client gets in a header. The session of its cookie stays.

    Raises Refused (403) for a page of this site. An attacker's script in that page could read the key, which it cannot
    do with the cookie.
    """
    session = require_session(conn)
    if session.is_in_header:
        return
    if conn.headers.get("sec-fetch-site") == "same-origin":
        detail = gettext('A page of this site logs in with a cookie. Leave out the field "client".')
        raise Refused(403, detail, code="client_refused")
    if session.move_to_header is None:
        raise ImproperlyConfigured(
            "SessionMiddleware takes no session keys in headers. Pass middleware=middleware(auth) to your app, after "
            "Auth(features=[BearerSessions()])."
        )
    session.move_to_header()

"""Sessions of apps, which keep the key and send it in the header Authorization."""

from starlette.requests import HTTPConnection, Request

from ..auth import Auth
from ..backends.session import require_session
from ..core.exceptions import ImproperlyConfigured, Refused, ValidationError
from ..core.translation import gettext
from ..http.content import sent_json
from ..sessions.base import APP
from .forms import Field, Form

FIELD = "client"


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


def add_client_field(auth: Auth, request: Request, form: Form) -> None:
    """Adds the JSON field in which an app asks for the key of its session, where apps may log in."""
    if sent_json(request) and offers_app_sessions(auth):
        form.fields[FIELD], form.data[FIELD] = Field(required=False, max_length=20), ""


def begin_requested_session(request: Request, form: Form) -> bool:
    """Begins the session of an app if the form asks for one. Returns False, with an error, for other clients."""
    client = form.data.get(FIELD)
    if client and client != APP:
        form.add_error(FIELD, ValidationError(gettext('Send "app", or leave this field out.'), "invalid"))
        return False
    if client:
        begin_app_session(request)
    return True

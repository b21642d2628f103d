"""Which response does a refused request get? It depends on the kind of client."""

import functools
import re
from collections.abc import Mapping
from html import escape
from typing import Any

from starlette.requests import HTTPConnection
from starlette.responses import HTMLResponse, Response
from starlette.types import Receive, Scope, Send

from .auth import Auth, get_auth
from .authentication import LoginOptions, not_authenticated, page_to_return_to
from .context_processors import template_context
from .core.arguments import require_instance
from .core.deferred_response import DeferredResponse
from .core.exceptions import Refused
from .core.functions import is_async
from .core.translation import gettext
from .http.clients import ClientKind, kind_of_client
from .http.problems import close_message, error_message, problem_response
from .http.scope import IS_REFUSED
from .http.urls import brings_json_only, find_url_path, with_query

KEPT = ("insufficient_scope", "invalid_request")  # the errors of RFC 6750 §3.1 that do not ask for another token
DENIAL = "websocket.http.response"  # the ASGI extension with which a WebSocket gets a response


class WebSocketRefusal(Response):
    """Refuses a WebSocket: with a response if the server can send one, or else with a close code.

    A WebSocket that was accepted already (`is_open`) can only be closed.
    """

    def __init__(self, refused: Refused, *, is_open: bool = False) -> None:
        super().__init__(status_code=refused.status_code)
        self.refused = refused
        self.is_open = is_open

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if DENIAL in scope.get("extensions", {}) and not self.is_open:
            conn = HTTPConnection(scope)
            await respond(get_auth(conn), conn, self.refused)(scope, receive, send)
        else:
            await send(close_message(self.refused.status_code, self.refused.detail))


async def answer(conn: HTTPConnection, error: Exception) -> Response:
    """Returns the response to a refused request: `exception_handlers={Refused: answer}`."""
    if not isinstance(error, Refused):
        raise error
    if conn.scope["type"] == "websocket":
        return WebSocketRefusal(error)
    response, error.response = error.response, None  # the response refers to the exception
    return response or respond(get_auth(conn), conn, error)


def respond(auth: Auth, conn: HTTPConnection, refused: Refused) -> Response:
    """Returns the response that `Auth(answer=…)` makes, or else the response for this kind of client."""
    conn.scope[IS_REFUSED] = True
    if auth.answer is None:
        return _respond(auth, conn, refused)
    if is_async(auth.answer):
        return DeferredResponse(functools.partial(_ask_application, auth, conn, refused), refused.status_code)
    return _checked(auth.answer(conn, refused)) or _respond(auth, conn, refused)


def csrf_refusal(auth: Auth, conn: HTTPConnection, reason: str) -> Refused:
    """Returns the refusal of a request that another site may have sent."""
    page = functools.partial(_page, auth, conn, "403_csrf.html", 403, reason=reason)
    return Refused(403, reason, code="csrf_failed", page=lambda: DeferredResponse(page, 403))


def redirect_to_login(
    request: HTTPConnection, next: str | None = None, login_url: str | None = None, redirect_field_name: str | None = ""
) -> Response:
    """Returns a redirect to the login page and back to `next`, or 401 for a program.

    Call it where an endpoint checks permissions itself. `next` is this request by default, or the page with the form if
    the request cannot be repeated by a link. `login_url` (name, path or URL) and `redirect_field_name` are those of
    `Auth` by default; `redirect_field_name=None` leaves `next` out. A logged-in user who is sent here lacks a
    permission, and the login page does not send that user back.
    """
    options = LoginOptions(login_url=login_url, redirect_field_name=redirect_field_name)
    return respond(get_auth(request), request, not_authenticated(request, options, next))


async def _ask_application(auth: Auth, conn: HTTPConnection, refused: Refused) -> Response:
    response: Any = auth.answer(conn, refused) if auth.answer is not None else None
    return _checked(await response) or _respond(auth, conn, refused)


def _checked(response: Any) -> Response | None:
    if response is not None:
        fix = "Return a Response, or None for the usual one."
        require_instance(response, Response, "What the function of Auth(answer=…) returned", fix)
    return response  # type: ignore[no-any-return]


def _respond(auth: Auth, conn: HTTPConnection, refused: Refused) -> Response:
    kind = kind_of_client(conn)
    if kind is ClientKind.PAGE and not _lacks_page(conn, refused):
        if refused.page is not None:
            return refused.page()
        return DeferredResponse(functools.partial(_error_page, auth, conn, refused), refused.status_code)
    with auth.override_language(conn):
        response = _without_page(auth, conn, refused, kind)
    is_refused_token = kind is ClientKind.BEARER or (refused.challenge or {}).get("error") == "invalid_request"
    if refused.challenge is not None and response.status_code in (400, 401, 403) and is_refused_token:
        response.headers["WWW-Authenticate"] = _challenge("Bearer", auth, refused.challenge)
    elif response.status_code == 401:
        scheme = next((backend.scheme for backend in auth.backends if backend.scheme), "Cookie")
        response.headers["WWW-Authenticate"] = _challenge(scheme, auth, {})
    response.headers.update(refused.headers or {})
    response.headers["Cache-Control"] = "no-store"
    return response


def _lacks_page(conn: HTTPConnection, refused: Refused) -> bool:
    """Returns whether the site has only the JSON of the page that would help a browser."""
    remedy = refused.remedy
    return remedy is not None and remedy.url is None and brings_json_only(conn.scope)


def _without_page(auth: Auth, conn: HTTPConnection, refused: Refused, kind: ClientKind) -> Response:
    remedy = refused.remedy
    if kind is ClientKind.PART:
        return Response(status_code=refused.status_code)
    if kind is ClientKind.HTMX:
        if remedy is None or remedy.url is None:
            return HTMLResponse(f"<p>{escape(_message(refused))}</p>", refused.status_code)
        # htmx follows a redirect itself, and would put the login page into the current page.
        page = auth.redirects.own_page(conn.scope, conn.headers.get("hx-current-url", ""))
        return Response(
            status_code=401,
            headers={"HX-Redirect": with_query(remedy.url, remedy.field, page) if remedy.field else remedy.url},
        )
    status = refused.status_code
    if kind is ClientKind.BEARER and refused.challenge and refused.challenge.get("error") not in KEPT:
        status = 401
    members = {remedy.name: remedy.url} if remedy is not None and remedy.url is not None else {}
    return problem_response(status, _message(refused), code=refused.code, members={**members, **refused.members})


async def _error_page(auth: Auth, conn: HTTPConnection, refused: Refused) -> Response:
    with auth.override_language(conn):
        detail = _message(refused)
    context = {"status": refused.status_code, "code": refused.code, "detail": detail}
    login_url = find_url_path(conn.scope, auth.login_url)
    if refused.code == "permission_denied" and login_url and auth.find_url(conn, "logout"):
        context["redirect_field_name"] = auth.redirects.field
        context["login_again"] = with_query(login_url, auth.redirects.field, page_to_return_to(auth, conn, login_url))
    response = await _page(auth, conn, "auth_error.html", refused.status_code, **context)
    response.headers.update(refused.headers or {})
    return response


async def _page(auth: Auth, conn: HTTPConnection, template: str, status_code: int, **context: Any) -> Response:
    with auth.override_language(conn):
        if "reason" in context:
            context["reason"] = gettext(context["reason"])
        page = await auth.templates.render(template, {**template_context(auth, conn), **context})
    response = HTMLResponse(page, status_code)
    auth.add_security_headers(response)
    return response


def _message(refused: Refused) -> str:
    return error_message(refused) if type(refused) is not Refused else gettext(refused.detail)


def _challenge(scheme: str, auth: Auth, params: Mapping[str, str]) -> str:
    """Returns a value of `WWW-Authenticate` (RFC 9110 §11.6.1). Browsers ask for no password for the scheme Cookie."""
    realm = re.sub(r"[^ !#-\[\]-~]", "", auth.site_name) or "account"
    return f"{scheme} " + ", ".join(f'{name}="{value}"' for name, value in {"realm": realm, **params}.items())

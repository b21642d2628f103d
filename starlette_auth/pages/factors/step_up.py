"""Step-up: what a login must have proved for a sensitive action, and the way to prove it."""

import functools
from dataclasses import dataclass

from starlette.requests import HTTPConnection, Request
from starlette.responses import Response

from ...auth import Auth, get_auth
from ...authentication import login_redirect, page_to_return_to, refused_redirect
from ...backends.login_methods import (
    PHISHING_RESISTANT,
    SECOND_FACTORS,
    is_phishing_resistant,
    lacks_first_factor,
    level_of,
)
from ...backends.request_user import Credentials
from ...backends.session import SessionBackend, require_session, session_of
from ...core.arguments import require_bool, require_integer
from ...core.deferred_response import DeferredResponse
from ...core.exceptions import Refused, Remedy
from ...core.text import is_usable
from ...core.translation import gettext
from ...http.scope import IS_CHECK
from ...http.urls import brings_json_only, find_url_path, requested_url, with_query
from ...security.saved_forms import read_form
from ...security.stored_forms import find_form, mark_as_shown, store_form
from ...users.models import User

PAGE, REAUTHENTICATE = "second_factor", "reauthenticate"  # the names of the routes


@dataclass(frozen=True)
class Need:
    """What a login must have proved for an endpoint. `max_age` is in seconds."""

    level: int
    phishing_resistant: bool
    max_age: int | None

    def __post_init__(self) -> None:
        require_integer(self.level, "level", maximum=2)
        require_bool(self.phishing_resistant, "phishing_resistant")
        if self.max_age is not None:
            require_integer(self.max_age, "max_age")

    def is_met(self, conn: HTTPConnection) -> bool:
        # A response that is being sent was allowed when it began; a long download must not be cut off by `max_age`.
        is_sending = bool(conn.scope.get(IS_CHECK)) and conn.scope["type"] == "http"
        return self.is_strong_enough(conn) and (is_sending or self._is_recent(conn))

    def is_strong_enough(self, conn: HTTPConnection) -> bool:
        methods = Credentials(conn.user, session_of(conn)).methods
        return level_of(methods) >= self.level and (not self.phishing_resistant or is_phishing_resistant(methods))

    def _is_recent(self, conn: HTTPConnection) -> bool:
        if self.max_age is None:
            return True
        names = PHISHING_RESISTANT if self.phishing_resistant else {"passkey", *SECOND_FACTORS}
        counting = [
            method.at
            for method in Credentials(conn.user, session_of(conn)).methods
            if method.name in names or (self.level < 2 and not self.phishing_resistant)
        ]
        return get_auth(conn).clock() - max(counting, default=0) < self.max_age


def refusal(conn: HTTPConnection, need: Need, keep: frozenset[str]) -> Refused:
    """Returns the refusal of a user whose second factor is missing or too old."""
    auth, is_weak = get_auth(conn), not need.is_strong_enough(conn)
    # A user whom a token identifies, for example, has no login that could become stronger.
    can_step_up = _has_login(conn) and need.level >= 2 and not need.phishing_resistant
    name, page = (PAGE, PAGE) if can_step_up else ("login", auth.login_url)
    if can_step_up and lacks_first_factor(Credentials(conn.user, session_of(conn)).methods):
        # A login by mail has level 1 also with a code. It needs the password.
        can_step_up = is_usable(conn.user.password)
        name, page = (REAUTHENTICATE, REAUTHENTICATE) if can_step_up else ("login", auth.login_url)
    url = find_url_path(conn.scope, page) if brings_json_only(conn.scope) else auth.url_for(conn, page)
    wanted: dict[str, object] = {"level": need.level, "max_age": need.max_age, "url": url}
    age = {"max_age": f"{need.max_age}"} if need.max_age is not None else {}
    return Refused(
        403,
        gettext("Log in with a second factor, then send this request again.")
        if is_weak
        else gettext("Confirm that it is you, then send this request again."),
        code="factor_required" if is_weak else "factor_too_old",
        remedy=Remedy(name, url, auth.redirects.field),
        challenge={"error": "insufficient_user_authentication", **age},  # RFC 9470 §3
        page=lambda: _ask(auth, conn, url, keep) if can_step_up and url else login_redirect(conn),
        members={"need": {**wanted, **({"phishing_resistant": True} if need.phishing_resistant else {})}},
    )


async def return_url(auth: Auth, request: Request, user: User, next: str | None) -> str:
    """Returns the URL to which a user returns after a step-up: the page of a form that was kept, or else `next`."""
    session = require_session(request)
    form = await find_form(auth.tokens, session, user.identity, is_waiting=True)
    url = find_url_path(request.scope, "saved_form") if form is not None else None
    if form is None or url is None:
        return auth.redirects.choose(request.scope, next)
    mark_as_shown(session, form)
    return url


def _has_login(conn: HTTPConnection) -> bool:
    session = session_of(conn)
    return session is not None and isinstance(conn.user, User) and SessionBackend.belongs_to(session, conn.user)


def _ask(auth: Auth, conn: HTTPConnection, url: str, keep: frozenset[str]) -> Response:
    """Returns the redirect to the page of the second factor. It keeps the fields of a submitted form."""
    if keep and conn.scope["method"] == "POST" and not auth.site.is_cross_site(conn):
        return DeferredResponse(functools.partial(_keep_form, auth, conn, url, keep), 303)
    return refused_redirect(with_query(url, auth.redirects.field, page_to_return_to(auth, conn, url)))


async def _keep_form(auth: Auth, conn: HTTPConnection, url: str, keep: frozenset[str]) -> Response:
    pairs = await read_form(conn, keep)
    if pairs:
        await store_form(auth.tokens, require_session(conn), conn.user.identity, requested_url(conn.scope), pairs)
    return _ask(auth, conn, url, frozenset())

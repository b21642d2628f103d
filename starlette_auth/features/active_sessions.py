"""A page on which users see and end their sessions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection, Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import BaseRoute, Route

from ..answers import redirect_to_login
from ..auth import Auth, Feature
from ..backends.session import SessionBackend, session_of
from ..core.exceptions import ImproperlyConfigured
from ..core.translation import format_time_since, gettext
from ..http.clients import wants_json
from ..http.user_agents import describe_user_agent
from ..pages.base import account_page, render
from ..pages.factors.reauthentication import fresh_login_required
from ..pages.forms import Field, Form
from ..sessions.base import SessionBase
from ..users.models import User

SHOWN = 100


@dataclass(frozen=True, kw_only=True)
class ActiveSession:
    """One session as its user sees it. Times are in seconds since 1970, UTC."""

    id: str
    device: str
    address: str
    created: int
    last_seen: int
    is_this: bool


class ActiveSessions(Feature):
    """Adds the pages `sessions` and `sessions_end`: `Auth(features=[ActiveSessions()])`.

    Application code uses `auth.user_sessions` instead.
    """

    def attach(self, auth: Auth) -> None:
        if not auth.sessions.is_server_side:
            raise ImproperlyConfigured(
                f"{type(auth.sessions).__name__} keeps no list of sessions. For ActiveSessions(), use DatabaseStore, "
                "RedisStore or CachedStore."
            )
        self.auth = auth

    def routes(self) -> Sequence[BaseRoute]:
        return [
            Route("/sessions", account_page(self.list), name="sessions", methods=["GET"]),
            Route("/sessions/end", account_page(self.end), name="sessions_end", methods=["POST"]),
        ]

    async def security_section(self, request: HTTPConnection, user: User) -> tuple[str, Mapping[str, Any]] | None:
        return "registration/security_sessions.html", {"number": len(await self.auth.user_sessions.list(user))}

    async def list(self, auth: Auth, request: Request) -> Response:
        """Shows the user's sessions, the current one first; as JSON for a client that wants JSON."""
        user = request.user
        if not isinstance(user, User):
            return redirect_to_login(request)
        active_sessions = await self._active_sessions(request, user)
        if wants_json(request):
            return JSONResponse({"sessions": [vars(session) for session in active_sessions]})
        now = int(auth.clock())
        return await render(
            auth,
            request,
            "registration/sessions.html",
            active_sessions=active_sessions[:SHOWN],
            others=sum(not session.is_this for session in active_sessions),
            more=max(0, len(active_sessions) - SHOWN),
            format_time_since=lambda time: format_time_since(now - time),
            is_done="done" in request.query_params,
        )

    async def end(self, auth: Auth, request: Request) -> Response:
        """Ends the session with the id `session`, or with `others` all sessions but the current one.

        An attacker with a stolen session could log the owner out everywhere. Therefore it needs a login or the password
        of the last five minutes.
        """
        user = request.user
        if not isinstance(user, User):
            return redirect_to_login(request)
        return await self._end(auth, request, user)

    @fresh_login_required(keep=("session", "others"))
    async def _end(self, auth: Auth, request: Request, user: User) -> Response:
        current = session_of(request)
        form = Form(session=Field(required=False, max_length=64), others=Field(type="checkbox", required=False))
        await form.fill_in(request)
        if form.data["others"]:
            await auth.user_sessions.revoke_all(
                user, keep=current if SessionBackend.belongs_to(current, user) else None, request=request
            )
        elif form.data["session"] and form.is_valid:
            await auth.user_sessions.revoke(user, form.data["session"], request=request)
        else:
            raise HTTPException(400, gettext("No session was selected. Go back and select one."))
        return RedirectResponse(f"{auth.url_for(request, 'sessions')}?done", status_code=303)

    async def _active_sessions(self, request: Request, user: User) -> Sequence[ActiveSession]:
        current = session_of(request)
        current_id = current.public_id if current is not None else ""
        active_sessions = [_active_session(session, current_id) for session in await self.auth.user_sessions.list(user)]
        return sorted(active_sessions, key=lambda session: not session.is_this)


def _active_session(session: SessionBase, current_id: str) -> ActiveSession:
    record = session.record
    assert record is not None  # noqa: S101  the session is stored
    return ActiveSession(
        id=record.public_id,
        device=describe_user_agent(record.user_agent),
        address=record.address,
        created=record.created,
        last_seen=record.last_seen,
        is_this=record.public_id == current_id,
    )

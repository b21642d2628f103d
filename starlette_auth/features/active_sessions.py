"""A page on which users see and end their sessions."""

from collections.abc import Sequence
from dataclasses import dataclass

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import BaseRoute, Route

from ..auth import Auth, Feature
from ..backends.session import SessionBackend, session_of
from ..core.exceptions import ImproperlyConfigured
from ..core.translation import ago, gettext
from ..http.content import wants_json
from ..http.user_agents import describe
from ..pages.base import log_in_first, page, render
from ..pages.forms import Field, Form
from ..sessions.base import SessionBase
from ..users.models import User

SHOWN = 100


@dataclass(frozen=True, kw_only=True)
class Place:
    """One session, as its owner is told of it. Times are seconds since 1970, UTC."""

    id: str
    device: str
    address: str
    created: int
    last_seen: int
    is_this: bool


class ActiveSessions(Feature):
    """The pages `sessions` and `sessions_end`: `Auth(features=[ActiveSessions()])`. In code it is `auth.logins`."""

    def attach(self, auth: Auth) -> None:
        if not auth.sessions.on_server:
            raise ImproperlyConfigured(
                f"{type(auth.sessions).__name__} keeps no list of sessions. For ActiveSessions(), use DatabaseStore, "
                "RedisStore or CachedStore."
            )
        self.auth = auth

    def routes(self) -> Sequence[BaseRoute]:
        return [
            Route("/sessions", page(self.list), name="sessions", methods=["GET"]),
            Route("/sessions/end", page(self.end), name="sessions_end", methods=["POST"]),
        ]

    async def list(self, request: Request) -> Response:
        user = request.user
        if not isinstance(user, User):
            return log_in_first(request)
        places = await self._places(request, user)
        if wants_json(request):
            return JSONResponse({"sessions": [vars(place) for place in places]})
        now = int(self.auth.clock())
        return await render(
            self.auth,
            request,
            "registration/sessions.html",
            places=places[:SHOWN],
            others=sum(not place.is_this for place in places),
            more=max(0, len(places) - SHOWN),
            ago=lambda moment: ago(now - moment),
            is_done="done" in request.query_params,
        )

    async def end(self, request: Request) -> Response:
        """The one that `session` names, or with `others` all but this. What has ended already, has ended."""
        user, here = request.user, session_of(request)
        if not isinstance(user, User):
            return log_in_first(request)
        form = Form(session=Field(required=False, max_length=64), others=Field(type="checkbox", required=False))
        await form.fill_in(request)
        if form.data["others"]:
            await self.auth.logins.end_all(
                user, keep=here if SessionBackend.is_of(here, user) else None, request=request
            )
        elif form.data["session"] and form.is_valid:
            await self.auth.logins.end(user, form.data["session"], request=request)
        else:
            raise HTTPException(400, gettext("It was not said which session is to end. Go back, and choose one."))
        return RedirectResponse(f"{self.auth.url_for(request, 'sessions')}?done", status_code=303)

    async def _places(self, request: Request, user: User) -> Sequence[Place]:
        here = session_of(request)
        this = here.public_id if here is not None else ""
        places = [_place(session, this) for session in await self.auth.logins.of(user)]
        return sorted(places, key=lambda place: not place.is_this)


def _place(session: SessionBase, this: str) -> Place:
    record = session.record
    assert record is not None  # noqa: S101  a store gave it
    return Place(
        id=record.public_id,
        device=describe(record.user_agent),
        address=record.address,
        created=record.created,
        last_seen=record.last_seen,
        is_this=record.public_id == this,
    )

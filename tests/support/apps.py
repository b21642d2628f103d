"""A small application with one endpoint for each thing that tests ask about."""

from typing import Any

from starlette.applications import Starlette
from starlette.authentication import requires
from starlette.endpoints import HTTPEndpoint, WebSocketEndpoint
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.websockets import WebSocket

from starlette_auth import (
    Auth,
    Throttled,
    get_auth,
    login_required,
    logout,
    middleware,
    permission_required,
    routes,
    user_passes_test,
)


async def public(request: Request) -> Response:
    return PlainTextResponse("public")


async def whoami(request: Request) -> Response:
    shown = {key: value for key, value in request.session.items() if not key.startswith("_")}
    return JSONResponse({"username": request.user.username, "session": shown, "scopes": list(request.auth.scopes)})


async def remember(request: Request) -> Response:
    """Merges the query into the session; answers with the status that is asked for."""
    request.session.update(request.query_params)
    return PlainTextResponse("remembered", int(request.query_params.get("status", "200")))


async def forget(request: Request) -> Response:
    request.session.clear()
    return PlainTextResponse("forgotten")


async def flush(request: Request) -> Response:
    request.session.flush()  # type: ignore[attr-defined]
    return PlainTextResponse("flushed")


async def log_out_and_crash(request: Request) -> Response:
    await logout(request)
    raise RuntimeError("the application broke after the logout")


async def log_out_and_fail(request: Request) -> Response:
    await logout(request)
    return PlainTextResponse("broken", 500)


@login_required
async def members(request: Request) -> Response:
    return PlainTextResponse("members")


@login_required
def members_sync(request: Request) -> Response:
    return PlainTextResponse("members")


@permission_required("polls.add_vote")
async def vote(request: Request) -> Response:
    return PlainTextResponse("voted")


@permission_required(["polls.add_vote", "polls.delete_vote"])
def recount(request: Request) -> Response:
    return PlainTextResponse("recounted")


@requires("polls.add_vote")
async def vote_by_scope(request: Request) -> Response:
    return PlainTextResponse("voted")


@user_passes_test(lambda user: user.is_staff)
async def staff(request: Request) -> Response:
    return PlainTextResponse("staff")


@login_required
class Club(HTTPEndpoint):
    async def get(self, request: Request) -> Response:
        return PlainTextResponse("club")


class Desk(HTTPEndpoint):
    async def get(self, request: Request) -> Response:
        return PlainTextResponse("open")

    @permission_required("polls.add_vote")
    async def post(self, request: Request) -> Response:
        return PlainTextResponse("voted")

    @login_required
    def delete(self, request: Request) -> Response:
        return PlainTextResponse("deleted")


async def echo(websocket: WebSocket) -> None:
    """Stores what it is told: "key=value", "flush" or "cycle"."""
    before = dict(websocket.query_params)
    websocket.session.update(before)
    await websocket.accept(headers=[(b"x-app", b"1")])
    async for text in websocket.iter_text():
        match text.partition("="):
            case "flush", _, _:
                websocket.session.flush()  # type: ignore[attr-defined]
            case "cycle", _, _:
                websocket.session.cycle_key()  # type: ignore[attr-defined]
            case key, _, value:
                websocket.session[key] = value
        await websocket.send_json({"heard": text})


async def rude(websocket: WebSocket) -> None:
    """Does not expect its browser to go away."""
    await websocket.accept()
    websocket.session["rude"] = True
    await websocket.send_text("and?")
    await websocket.receive_text()


async def late(websocket: WebSocket) -> None:
    """Ends its own session behind its back before it accepts."""
    websocket.session["late"] = True
    await get_auth(websocket).sessions.delete(str(websocket.session.session_key))  # type: ignore[attr-defined]
    await websocket.accept()


@login_required
async def members_socket(websocket: WebSocket) -> None:
    await websocket.accept()
    await websocket.send_text(websocket.user.username)
    await websocket.close()


@login_required
class ClubSocket(WebSocketEndpoint):
    encoding = "text"

    async def on_connect(self, websocket: WebSocket) -> None:
        await websocket.accept()
        await websocket.send_text(websocket.user.username)


def app_routes(auth: Auth) -> list[Any]:
    return [
        Route("/", public),
        Route("/whoami", whoami),
        Route("/remember", remember, methods=["GET", "POST"]),
        Route("/forget", forget),
        Route("/flush", flush),
        Route("/crash", log_out_and_crash),
        Route("/fail", log_out_and_fail),
        Route("/members", members, methods=["GET", "POST"]),
        Route("/members-sync", members_sync),
        Route("/vote", vote, methods=["GET", "POST"]),
        Route("/recount", recount),
        Route("/vote-by-scope", vote_by_scope),
        Route("/staff", staff),
        Route("/club", Club),
        Route("/desk", Desk),
        WebSocketRoute("/echo", echo),
        WebSocketRoute("/rude", rude),
        WebSocketRoute("/late", late),
        WebSocketRoute("/members-socket", members_socket),
        WebSocketRoute("/club-socket", ClubSocket),
        Mount("/accounts", routes=routes(auth)),
    ]


def make_app(auth: Auth, *more: Any, **options: Any) -> Starlette:
    return Starlette(routes=[*more, *app_routes(auth)], middleware=middleware(auth), **options)


async def is_throttled(auth: Auth, name: str) -> bool:
    """Makes an attempt with a wrong password. Returns whether it was refused unchecked."""
    try:
        async with auth.throttle.attempt("login", account=name, address="192.0.2.1"):
            return False
    except Throttled:
        return True

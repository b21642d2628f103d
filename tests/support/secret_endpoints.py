"""An endpoint and a WebSocket that send "secret", for tests of what guards them."""

from typing import Any

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.websockets import WebSocket


def new_endpoint() -> Any:
    async def secret(request: Request) -> Response:
        return PlainTextResponse("secret")

    return secret


def new_socket() -> Any:
    async def secret(websocket: WebSocket) -> None:
        await websocket.accept()
        await websocket.send_text("secret")
        await websocket.close()

    return secret

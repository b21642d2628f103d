"""Starlette alone, which knows nobody."""

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from ..settings import GREETING, Settings


async def public(request: Request) -> Response:
    return JSONResponse(GREETING)


def make(settings: Settings) -> ASGIApp:
    return Starlette(routes=[Route("/public", public)])

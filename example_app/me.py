"""A look at one's own session, as a page and as JSON."""

import json
import math
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from starlette_auth import CookieStore, get_auth, login_required

from .pages import render

MAX_BODY = 64 * 1024
MAX_COOKIE = 2 * 1024  # of JSON; signed, and with what a login adds, it fits into the 4 KiB of a cookie
MAX_DEPTH = 20


@login_required
async def me(request: Request) -> Response:
    session = request.session
    entries = {key: json.dumps(value, ensure_ascii=False) for key, value in visible(session).items()}
    context = {
        "entries": entries,
        "hidden": sorted(set(session) - set(entries)),
        "permissions": sorted(request.user.get_all_permissions()),
        "groups": await get_auth(request).users.get_groups(request.user),
    }
    return render(request, "me.html", context)


async def api_me(request: Request) -> Response:
    answer = {
        "is_authenticated": request.user.is_authenticated,
        "username": request.user.username,
        "permissions": sorted(request.user.get_all_permissions()),
        "session": visible(request.session),
    }
    return JSONResponse(answer, headers={"Cache-Control": "no-store"})


async def api_session(request: Request) -> Response:
    session = request.session
    changed = {**session, **parse(await read_body(request))}
    if len(json.dumps(changed)) > room(request):
        raise HTTPException(413, f"The session would be too long. Keep it below {room(request)} bytes.")
    session.update(changed)
    return JSONResponse({"session": visible(session)}, headers={"Cache-Control": "no-store"})


def visible(session: dict[str, Any]) -> dict[str, Any]:
    """Without what starlette_auth keeps for itself, the hash of the password among it."""
    return {key: value for key, value in session.items() if not key.startswith("_")}


def room(request: Request) -> int:
    return MAX_COOKIE if isinstance(get_auth(request).sessions, CookieStore) else MAX_BODY


async def read_body(request: Request) -> bytes:
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY:
            raise HTTPException(413, f"The body is too long. Send at most {MAX_BODY} bytes.")
    return body


def parse(body: bytes) -> dict[str, Any]:
    """What may be merged into a session; 400 for anything else."""
    try:
        sent = json.loads(body.decode())
    except (ValueError, RecursionError) as error:
        raise HTTPException(400, 'The body is not JSON. Send an object, as in {"colour": "green"}.') from error
    if not isinstance(sent, dict):
        raise HTTPException(400, 'The body is JSON, but not an object. Send one, as in {"colour": "green"}.')
    private = [key for key in sent if key.startswith("_")]
    if private:
        raise HTTPException(400, "Keys that start with _ are reserved. Choose other names.")
    if not is_storable(sent):
        raise HTTPException(
            400, f"Send only finite numbers, valid Unicode, and at most {MAX_DEPTH} levels of lists and objects."
        )
    return sent


def is_storable(value: Any, depth: int = 0) -> bool:
    """Python's reader takes more than its writer, or UTF-8, can give back: NaN, 1e999, half a surrogate pair."""
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, str):
        return not any("\ud800" <= mark <= "\udfff" for mark in value)
    if isinstance(value, (dict, list)):
        inside = [*value, *value.values()] if isinstance(value, dict) else value
        return depth < MAX_DEPTH and all(is_storable(one, depth + 1) for one in inside)
    return True

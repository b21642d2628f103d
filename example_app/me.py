"""The visitor's own session, as a page and as JSON."""

import json
import math
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from starlette_auth import CookieStore, get_auth, login_not_required, login_required, redirect_to_login

from .pages import render

MAX_BODY = 64 * 1024
MAX_COOKIE = 2 * 1024  # bytes of JSON; with the signature and the login's entries it fits into a cookie of 4 KiB
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


@login_not_required
async def api_me(request: Request) -> Response:
    if "authorization" in request.headers and not request.user.is_authenticated:
        return redirect_to_login(request)  # 401 for a program whose token was revoked
    content = {
        "is_authenticated": request.user.is_authenticated,
        "username": request.user.username,
        "permissions": sorted(request.user.get_all_permissions()),
        "session": visible(request.session),
    }
    return JSONResponse(content, headers={"Cache-Control": "no-store"})


@login_not_required
async def api_session(request: Request) -> Response:
    session = request.session
    changed = {**session, **parse(await read_body(request))}
    if len(json.dumps(changed)) > max_size(request):
        raise HTTPException(413, f"The session would be too large. Keep it below {max_size(request)} bytes.")
    session.update(changed)
    return JSONResponse({"session": visible(session)}, headers={"Cache-Control": "no-store"})


def visible(session: dict[str, Any]) -> dict[str, Any]:
    """Returns the session without starlette_auth's own entries, such as the hash derived from the password."""
    return {key: value for key, value in session.items() if not key.startswith("_")}


def max_size(request: Request) -> int:
    return MAX_COOKIE if isinstance(get_auth(request).sessions, CookieStore) else MAX_BODY


async def read_body(request: Request) -> bytes:
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY:
            raise HTTPException(413, f"The body is too large. Send at most {MAX_BODY} bytes.")
    return body


def parse(body: bytes) -> dict[str, Any]:
    """Returns the JSON object to merge into the session. Raises HTTPException 400 for anything else."""
    try:
        values = json.loads(body.decode())
    except (ValueError, RecursionError) as error:
        raise HTTPException(400, 'The body is not JSON. Send an object, as in {"colour": "green"}.') from error
    if not isinstance(values, dict):
        raise HTTPException(400, 'The body is JSON, but not an object. Send one, as in {"colour": "green"}.')
    private = [key for key in values if key.startswith("_")]
    if private:
        raise HTTPException(400, "Keys that start with _ are reserved. Choose other names.")
    if not is_storable(values):
        raise HTTPException(
            400, f"Send only finite numbers, valid Unicode, and at most {MAX_DEPTH} levels of lists and objects."
        )
    return values


def is_storable(value: Any, depth: int = 0) -> bool:
    """Returns whether a value can be stored as JSON in UTF-8.

    `json.loads` also accepts NaN, 1e999 and lone surrogates.
    """
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, str):
        return not any("\ud800" <= character <= "\udfff" for character in value)
    if isinstance(value, (dict, list)):
        items = [*value, *value.values()] if isinstance(value, dict) else value
        return depth < MAX_DEPTH and all(is_storable(item, depth + 1) for item in items)
    return True

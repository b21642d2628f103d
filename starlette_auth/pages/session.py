"""The page that tells a program who is logged in."""

import dataclasses
from datetime import datetime
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from ..auth import Auth
from ..users.models import User


async def session_page(auth: Auth, request: Request) -> Response:
    """Returns the logged-in user as JSON; `{"user": null}` for an anonymous visitor."""
    user = request.user
    return JSONResponse({"user": _as_json(user) if isinstance(user, User) else None})


def _as_json(user: User) -> dict[str, Any]:
    """Returns the fields of a user, without the password hash, and the names of all permissions."""
    values = {field.name: getattr(user, field.name) for field in dataclasses.fields(user) if field.repr}
    shown = {name: _json_value(value) for name, value in values.items()}
    return {**shown, "permissions": sorted(user.get_all_permissions())}


def _json_value(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat()
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)

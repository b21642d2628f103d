"""The page that tells a program who is logged in."""

import dataclasses
from datetime import datetime
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from ..auth import Auth
from ..backends.login_methods import level_of
from ..backends.request_user import Credentials
from ..users.models import User
from .login_steps import describe_pending


async def session_page(auth: Auth, request: Request) -> Response:
    """Returns who is logged in as JSON, by what, and the step for which a login waits.

    `{"user": null, "methods": [], "level": 0, "pending": null}` is the response for an anonymous visitor.
    """
    user, now = request.user, int(auth.clock())
    credentials = request.auth
    methods = credentials.methods if isinstance(credentials, Credentials) else ()
    return JSONResponse(
        {
            "user": _as_json(user) if isinstance(user, User) else None,
            "methods": [{"name": method.name, "age": now - method.at} for method in methods],
            "level": level_of(methods),
            "pending": await describe_pending(auth, request),
        }
    )


def _as_json(user: User) -> dict[str, Any]:
    """Returns the fields of a user, without the password hash, and the names of all permissions."""
    values = {field.name: getattr(user, field.name) for field in dataclasses.fields(user) if field.repr}
    shown = {name: _json_value(value) for name, value in values.items()}
    return {**shown, "permissions": sorted(user.get_all_permissions())}


def _json_value(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat()
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)

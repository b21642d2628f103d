"""Dependencies and routes for FastAPI applications. This module needs the extra `fastapi`."""

import functools
from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Depends
from fastapi.security import SecurityScopes
from starlette.requests import HTTPConnection

from .answers import answer
from .auth import Auth
from .backends.permissions.guards import LoadObject
from .core.arguments import as_permissions
from .core.exceptions import Refused
from .decorators import login_required, permission_guard
from .guards import Guard
from .http.dependencies import RETURNS_USER, NotADependency, mark_as_dependency
from .pages.factors.reauthentication import fresh_login_required
from .pages.routes import routes
from .users.models import User

__all__ = [
    "CurrentUser",
    "MaybeUser",
    "Refused",
    "accounts",
    "answer",
    "current_user",
    "fresh_login",
    "maybe_user",
    "requires",
]

NAME_PERMISSION = NotADependency('Name the permission in the dependency: Depends(requires("shop.view_order")).')
CALL_IT = NotADependency("Call it in the dependency: Depends(fresh_login()).")


async def _signature(endpoint: HTTPConnection, scopes: SecurityScopes) -> None:
    """Shows FastAPI what `current_user` takes."""


class CurrentUserGuard(Guard):
    """Allows logged-in users, with the permissions that `Security(current_user, scopes=[…])` names."""

    def __call__(self, endpoint: Any = None, scopes: SecurityScopes | None = None) -> Any:
        if scopes is None or not scopes.scopes:
            return super().__call__(endpoint)
        return self.for_scopes(scopes.scopes)(endpoint)

    def for_scopes(self, scopes: Sequence[str]) -> Guard:
        return _with_scopes(tuple(scopes)) if scopes else self


@functools.lru_cache
def _with_scopes(scopes: tuple[str, ...]) -> Guard:
    return permission_guard("current_user", as_permissions(scopes, "scopes"))


_login = login_required()
current_user = CurrentUserGuard("current_user", _login.test, _login.refuse, _login.login_options)
mark_as_dependency(current_user, _signature)


async def maybe_user(conn: HTTPConnection) -> Any:
    """Returns the user of the request; None for an anonymous visitor."""
    return conn.user if conn.user.is_authenticated else None


setattr(maybe_user, RETURNS_USER, True)

CurrentUser = Annotated[User, Depends(current_user)]
MaybeUser = Annotated[User | None, Depends(maybe_user)]


def requires(
    *perms: Annotated[str, NAME_PERMISSION],
    any_of: Annotated[Sequence[str], NAME_PERMISSION] = (),
    obj: Annotated[LoadObject | None, NAME_PERMISSION] = None,
) -> Guard:
    """Allows users with all of these permissions, and at least one of `any_of`: `Depends(requires("shop.add_order"))`.

    `obj` is a function, async or not, that takes the request and returns the object that the permissions must be about:
    `requires("shop.view_order", obj=load_order)`. For None the response is 404. It is called for logged-in users only,
    and may be called before the body is read. It reads `request.path_params`, whose values are texts unless the path says
    otherwise (`/orders/{order_id:int}`).
    """
    return permission_guard("requires", as_permissions(perms, "perms"), as_permissions(any_of, "any_of"), obj=obj)


def fresh_login(*, max_age: Annotated[int, CALL_IT] = 300, level: Annotated[int, CALL_IT] = 1) -> Guard:
    """Allows users who entered their password in the last `max_age` seconds: `Depends(fresh_login(max_age=300))`.

    With `level=2` they must have given a second factor in this time, too.
    """
    return fresh_login_required(max_age=max_age, level=level)


def accounts(auth: Auth, *, pages: bool = True) -> APIRouter:
    """Returns the account pages: `app.include_router(accounts(auth), prefix="/accounts")`.

    Each page takes and returns JSON too, as `/docs` shows. `pages=False` brings only this JSON API, for an application
    that brings the pages itself: see `routes`. Dependencies of the application do not apply to the pages.
    """
    router = APIRouter()
    router.routes.extend(routes(auth, pages=pages))
    return router

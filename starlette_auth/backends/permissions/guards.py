"""The tests of guards: has the user of a request these permissions, in general or on the object of the request?"""

import inspect
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection

from ...core.arguments import require_function
from ...core.exceptions import Refused
from ...core.functions import is_async
from ...http.scope import GUARDED_OBJECTS, IS_CHECK, handle_refusals
from .backend_permissions import BackendPermissions

#: Returns the object that a request is about, or None if there is no such object. It may be async.
LoadObject = Callable[[Any], Any]
Test = Callable[[Any], bool | Awaitable[bool]]
GetAuth = Callable[[HTTPConnection], Any]  # an `Auth`


def tests_of(
    get_auth: GetAuth, perms: Sequence[str], any_of: Sequence[str], load: LoadObject | None
) -> tuple[Test, Test]:
    """Returns the tests of an endpoint that is async, and of one that is not."""
    if load is not None:
        fix = "Pass a function that takes the request and returns the object, as in obj=load_order."
        require_function(load, "obj", fix)
        test = _object_test(get_auth, perms, any_of, load)
        return test, test

    def has_perms(conn: HTTPConnection) -> bool:
        user = conn.user
        return bool(user.has_perms(perms)) and (not any_of or any(map(user.has_perm, any_of)))

    async def ask_backends(conn: HTTPConnection) -> bool:
        permissions: BackendPermissions = get_auth(conn).backend_permissions
        if not await permissions.has_perms(conn.user, perms):
            return False
        return not any_of or any([await permissions.has_perm(conn.user, perm) for perm in any_of])

    def ask(conn: HTTPConnection) -> bool | Awaitable[bool]:
        if getattr(conn.user, "backend_answers", None) is None:
            return has_perms(conn)
        return ask_backends(conn)  # backends may wait for their answers

    return ask, has_perms


def _object_test(get_auth: GetAuth, perms: Sequence[str], any_of: Sequence[str], load: LoadObject) -> Test:
    async def test(conn: HTTPConnection) -> bool:
        auth, user = get_auth(conn), conn.user
        if not user.is_authenticated:
            return False  # before the object is loaded: a visitor does not learn which objects exist
        obj = await _load_once(conn, load)
        for perm in perms:
            if not await auth.has_perm(user, perm, obj):
                return False
        return not any_of or any([await auth.has_perm(user, perm, obj) for perm in any_of])

    return test


async def _load_once(conn: HTTPConnection, load: LoadObject) -> Any:
    """Returns the object of a request. Raises HTTPException (404) if there is none.

    A request may be asked about twice: before its body is read, and before the endpoint is called. An open connection
    is asked about again and again, and loads the object anew.
    """
    objects: dict[int, Any] = {} if IS_CHECK in conn.scope else conn.scope.setdefault(GUARDED_OBJECTS, {})
    try:
        if id(load) not in objects:
            loaded = load(conn) if is_async(load) else await run_in_threadpool(load, conn)
            objects[id(load)] = await loaded if inspect.isawaitable(loaded) else loaded
        if objects[id(load)] is None:
            raise HTTPException(404)
    except HTTPException as error:
        if conn.scope["type"] != "websocket":
            raise
        # A server may be unable to send a response to a WebSocket. It is closed then.
        handle_refusals(conn.scope)
        raise Refused(error.status_code, error.detail, code="not_found" if error.status_code == 404 else "") from error
    return objects[id(load)]

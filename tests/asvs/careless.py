"""An application that has written its account pages, its store and its backend itself, and carelessly."""

import base64
import json
from typing import Any

from starlette.requests import HTTPConnection, Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import BaseRoute, Route

from starlette_auth import (
    AuthenticationBackend,
    MemoryStore,
    SessionBase,
    User,
    get_auth,
    login,
    login_not_required,
    login_required,
    logout,
)

#: The rows that fail on these pages, with this store, and with this backend; others fail with them.
PAGES_FAIL = {
    *("2.3.1", "3.5.2", "3.5.3", "11.5.1", "14.2.1", "15.3.3", "15.3.7"),
    *("6.2.1", "6.2.3", "6.2.6", "6.2.7", "6.2.8", "6.3.1", "6.3.4", "6.3.8", "6.4.1", "7.5.1", "7.6.2"),
}
STORE_FAILS = {"7.2.1", "7.2.2", "7.2.3", "7.2.4"}
STALE_FAILS = {"7.4.2", "7.4.3", "8.3.2"}
FORM = '<input type="text" name="password" autocomplete="off" onpaste="return false">'


async def fields_of(request: Request) -> dict[str, str]:
    """Takes what comes, from wherever it comes. Of several values, the last one counts."""
    body = await request.body()
    try:
        return dict(json.loads(body))
    except ValueError:
        return {**request.query_params, **{name: str(value) for name, value in (await request.form()).items()}}


@login_not_required
async def log_in(request: Request) -> Response:
    fields = await fields_of(request)
    if "username" not in fields:
        return HTMLResponse(FORM)
    auth = get_auth(request)
    user = await auth.users.get_by_username(fields["username"])
    if user is None:
        return HTMLResponse("There is no such user.", 404)
    if not (await auth.passwords.check(user.password, fields.get("password", "").strip())).matches:
        return HTMLResponse("The password is wrong.", 422)
    await login(request, user)
    return RedirectResponse("/", 303)


@login_not_required
async def log_out(request: Request) -> Response:
    await logout(request)
    return RedirectResponse("/", 303)


@login_required
async def change_password(request: Request) -> Response:
    fields = await fields_of(request)
    if request.method == "POST":
        users = get_auth(request).users
        await users.set_password(request.user, fields.pop("new_password1"), request=request)
        await users.update(request.user, is_staff=bool(fields.get("is_staff")))
    return RedirectResponse("/", 303)


@login_required
async def change_address(request: Request) -> Response:
    if request.method == "POST":
        await get_auth(request).users.update(request.user, email=(await fields_of(request))["email"])
    return RedirectResponse("/", 303)


@login_not_required
async def ask_for_link(request: Request) -> Response:
    users = get_auth(request).users
    for user in await users.list_by_email((await fields_of(request)).get("email", "")):
        await users.send_password_reset(user, request=request)
    return HTMLResponse("sent")


@login_not_required
async def reset(request: Request) -> Response:
    """Believes the number of the user in the link."""
    if request.method == "POST":
        users = get_auth(request).users
        key = request.path_params["uidb64"]
        user = await users.get(_decoded(key))
        if user is not None:
            await users.set_password(user, (await fields_of(request))["new_password1"], request=request)
    return HTMLResponse("done")


def _decoded(key: str) -> str:
    return base64.b64decode(key + "==", altchars="-_").decode()


BOTH = ["GET", "POST"]
CARELESS_PAGES: list[BaseRoute] = [
    Route("/login", log_in, name="login", methods=BOTH),
    Route("/logout", log_out, name="logout", methods=BOTH),
    Route("/password", change_password, name="password_change", methods=BOTH),
    Route("/address", change_address, name="email_change", methods=BOTH),
    Route("/forgotten", ask_for_link, name="password_reset", methods=BOTH),
    Route("/reset/{uidb64}/{token}", reset, name="password_reset_confirm", methods=BOTH),
]


class Pin:
    """Reset tokens of four digits."""

    max_age = 60

    async def make(self, user: User) -> str:
        return "1234"

    async def check(self, user: User, token: str) -> bool:
        return token == "1234"

    async def consume(self, user: User, token: str) -> bool:
        return token == "1234"

    def to_session(self, token: str) -> str:
        return token

    def from_session(self, text: str) -> str:
        return text


class OneSession(MemoryStore):
    """Gives all browsers the cookie "session", which stands for the session that was saved last."""

    last = ""

    async def save(self, session: SessionBase, max_age: int) -> str:
        self.last = await super().save(session, max_age) or self.last
        return "session"

    async def load(self, cookie: str) -> SessionBase:
        return await super().load(self.last)


class Stale(AuthenticationBackend):
    """Keeps the user of each cookie in memory, and so does not see changes."""

    def __init__(self) -> None:
        self.users: dict[str, User] = {}
        self.auth: Any = None

    async def identify(self, conn: HTTPConnection) -> User | None:
        cookie, key = conn.headers.get("cookie", ""), conn.scope["session"].get("_auth_user_id")
        if key is not None and cookie not in self.users:
            self.users[cookie] = await self.auth.users.get(key)
        return self.users.get(cookie)

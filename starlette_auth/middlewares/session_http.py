"""Where is the session saved? The session around one HTTP request."""

import contextlib
import logging

from starlette.requests import HTTPConnection
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..core.clock import Clock
from ..core.concurrency import run_to_completion
from ..core.exceptions import SessionInterrupted, TooManySessions, Unavailable
from ..http.content import prefers_json
from ..http.cookies import Cookie
from ..http.headers import add_vary, response_headers, set_header
from ..http.problems import error_message
from ..http.scope import SCOPE_KEY
from ..sessions.base import SessionBase
from ..sessions.store import SessionStore

logger = logging.getLogger("starlette_auth")
START_MESSAGES = ("http.response.start", "websocket.accept", "websocket.http.response.start")
RETRY_AFTER = "3"  # seconds
Refusal = SessionInterrupted | TooManySessions | Unavailable


class SessionResponder:
    """Loads the session before the application runs and saves it when the response starts."""

    session: SessionBase
    had_key = False
    has_started = False
    is_replaced = False  # an error response was sent; messages of the application are dropped

    def __init__(
        self, store: SessionStore, cookie: Cookie, clock: Clock, scope: Scope, receive: Receive, send: Send
    ) -> None:
        self.store = store
        self.cookie = cookie
        self.scope = scope
        self.receive_on = receive
        self.send_on = send
        self.clock = clock
        self.value = cookie.read(scope)

    async def run(self, app: ASGIApp) -> None:
        """Runs the application with a session. Responds with 503 if the database or Redis is unavailable."""
        try:
            if self.value:
                session = await self.store.load(self.value)
                self.had_key = session.session_key is not None
            else:
                session = self.store.new_session(self.clock)
            session.max_age, session.expire_at_browser_close = self.cookie.max_age, self.cookie.expire_at_browser_close
            self.scope["session"] = self.session = session
            try:
                await self.call_app(app)
            finally:
                # It refers to the scope, which refers to the session. Only the garbage collector frees such a cycle,
                # and all requests of the process wait for it.
                session.edit_headers = None
        except Unavailable as error:
            if self.is_replaced:
                # The error response was sent; this is the clean-up of the same failed save.
                logger.error("The clean-up after an error response failed. %s", error)
                return
            if self.has_started:
                raise
            self.has_started = True
            await self.send_unavailable(error)

    async def call_app(self, app: ASGIApp) -> None:
        try:
            await app(self.scope, self.receive_on, self.send)
        finally:
            # If the application crashes, its changes may be lost, but a logout must still take effect.
            if self.session.key_to_delete is not None:
                await self.delete_old_key()
        if self.session.needs_touch:
            await self.touch(self.session)

    async def send(self, message: Message) -> None:
        if not self.has_started and message["type"] in START_MESSAGES:
            self.has_started = True
            await self.start(message)
        elif not self.is_replaced:
            await self.send_on(message)

    async def start(self, message: Message) -> None:
        session, set_cookie = self.session, None
        try:
            is_modified = session.modified
            if is_modified or session.key_to_delete is not None:
                # An emptied session is saved even if the application fails: many applications log out that way.
                must_save = is_modified and (message.get("status", 200) < 500 or not session)
                set_cookie = await self.commit(save=must_save)
        except (SessionInterrupted, TooManySessions) as error:
            await self.send_error(error)
            return
        except Unavailable as error:
            if session:
                # It could not be saved under its new key, so the row under the old key is kept.
                session.keep_stored()
            await self.send_unavailable(error)
            return
        headers = response_headers(message)
        if session.edit_headers is not None:
            session.edit_headers(headers)
        if set_cookie is not None:
            headers.append(set_cookie)
            set_header(headers, "Cache-Control", "no-store")
        if set_cookie is not None or (session.accessed and session.edit_headers is None):
            add_vary(headers, "Cookie")
        await self.send_on(message)

    async def commit(self, *, save: bool) -> tuple[bytes, bytes] | None:
        """Saves and deletes as the application requested; returns the `Set-Cookie` header, if any."""
        session, value = self.session, None
        is_new = session.stored_key is None
        if save:
            try:
                value = await self.save()
            except SessionInterrupted:
                if not session.is_only_resigned:
                    raise
                session.keep_stored()
        if session.is_only_resigned:
            return None  # it could not be saved, so the stored session and its cookie stay
        await self.delete_old_key()
        if value and is_new and session.after_save is not None:
            await session.after_save(session)
        if value:
            return self.cookie.header(self.scope, value, session.get_cookie_age())
        if self.had_key and (value == "" or session.session_key is None):
            return self.cookie.deletion(self.scope)
        return None

    async def save(self) -> str:
        """Saves the session; returns the cookie value, or "" if the session is empty."""
        session = self.session
        stored_key, key = session.stored_key, session.session_key
        if stored_key is None and session.user_id is not None:
            self.record_client(session)
        try:
            self.value = await self.store.save(session, session.get_expiry_age())
        except SessionInterrupted:
            if session:
                raise
            return ""  # the application emptied it, and another request has already ended it
        if stored_key is not None and key is None:
            self.store.open_websockets.session_deleted(stored_key)
        return self.value

    async def touch(self, session: SessionBase) -> None:
        """Records the last use of the session, after the response. An error is only logged."""
        self.record_client(session)
        try:
            await self.store.touch(session, session.get_expiry_age())
        except Unavailable as error:
            logger.warning("The last use of a session could not be recorded. %s", error)

    async def delete_old_key(self) -> None:
        key = self.session.key_to_delete
        if key is not None and not self.session.is_only_resigned:
            # A closed browser or a timeout can cancel the request; the deletion still runs to completion.
            await run_to_completion(self.store.delete(key))
            self.session.keep_stored()
            self.store.open_websockets.session_deleted(key)

    def record_client(self, session: SessionBase) -> None:
        """Records address and user agent for the user's list of sessions. Anonymous sessions have neither."""
        conn, auth = HTTPConnection(self.scope), self.scope.get(SCOPE_KEY)
        address = conn.client.host if conn.client else ""
        session.address = auth.proxies.client_address(conn) if auth is not None else address
        session.user_agent = conn.headers.get("user-agent", "")

    async def send_unavailable(self, error: Unavailable) -> None:
        logger.error("A request was answered with 503. %s", error)
        await self.send_error(error)

    async def send_error(self, error: Refusal) -> None:
        self.is_replaced = True
        auth, headers = self.scope.get(SCOPE_KEY), {"Cache-Control": "no-store", "Vary": "Cookie"}
        status = status_code_for(error)
        if status == 503:
            headers["Retry-After"] = RETRY_AFTER
        with auth.override_language(HTTPConnection(self.scope)) if auth is not None else contextlib.nullcontext():
            detail = error_message(error)
        if prefers_json(HTTPConnection(self.scope)):
            response: Response = JSONResponse({"detail": detail}, status, headers)
        else:
            response = PlainTextResponse(f"{detail}\n", status, headers)
        await response(self.scope, self.receive_on, self.send_on)


def status_code_for(error: Refusal) -> int:
    if isinstance(error, Unavailable):
        return 503
    return error.status_code if isinstance(error, TooManySessions) else 400

"""Where is the session saved? The session around one HTTP request."""

import asyncio
import contextlib
import logging

from starlette.requests import ClientDisconnect, HTTPConnection
from starlette.types import ASGIApp, Message

from ...backends.request_user import set_user
from ...core.exceptions import SessionInterrupted, TooManySessions, Unavailable
from ...http.headers import add_vary, is_event_stream, response_headers, set_header
from ...http.scope import SCOPE_KEY
from ...users.models import AnonymousUser
from ..refusals import START_MESSAGES, Refusal, send_refusal, unavailable_behind
from .changes import SessionChanges

logger = logging.getLogger("starlette_auth")
WITHOUT_BODY = (204, 304)  # status codes
DISCONNECT: Message = {"type": "http.disconnect"}
END_OF_BODY: Message = {"type": "http.response.body", "body": b"", "more_body": False}


class SessionResponder(SessionChanges):
    """Loads the session before the application runs and saves it when the response starts.

    A streamed response of a user ends when a WebSocket would be closed. For the application this looks as if the client
    had disconnected. For the client, server-sent events end as usual: EventSource connects again, and gets the refusal.
    Any other response is cut off, so that the client does not take a part of a file for the whole.
    """

    is_in_use = True  # the request itself
    reported: Unavailable | None = None  # answered with 503; a mounted application raises it again afterwards
    content_length: bytes | None = None
    length = 0  # of the parts of the body that were sent
    is_event_stream = False
    is_sending = False
    is_complete = False  # the body of an ended stream has its end
    task: asyncio.Task[object] | None = None  # runs the application
    listener: asyncio.Task[object] | None = None  # waits in receive()
    interrupted: tuple[asyncio.Task[object], int] | None = None

    async def run(self, app: ASGIApp) -> None:
        """Runs the application with a session. Responds with 503 if the database or Redis is unavailable."""
        try:
            session = await self.load() if self.values else self.new_session()
            session.max_age, session.expire_at_browser_close = self.cookie.max_age, self.cookie.expire_at_browser_close
            self.scope["session"] = self.session = session
            session.save_now = self.save_now
            if self.offers_header:
                session.is_in_header = self.is_in_header or self.is_detached
                session.move_to_header = self.move_to_header
            try:
                await self.call_app(app)
            finally:
                self.report_detached()
                # They refer to the scope, which refers to the session. Only the garbage collector frees such a cycle,
                # and all requests of the process wait for it.
                session.edit_headers = session.save_now = session.move_to_header = None
        except SessionInterrupted as error:  # raised by `session.save()`
            if self.has_started:
                raise
            self.has_started = True
            await self.send_error(error)
        except Unavailable as error:
            if error is self.reported:
                return
            if self.is_replaced:  # an error response was sent, but the application continued
                logger.error("The clean-up after an error response failed. %s", error)
                return
            if self.has_started:
                raise
            self.has_started = True
            await self.send_unavailable(error)

    async def call_app(self, app: ASGIApp) -> None:
        self.task = asyncio.current_task()
        try:
            await app(self.scope, self.receive, self.send)
        except BaseException as error:
            if not (self.is_ended and self.is_disconnect(error)):
                self.stop_watching()
                raise
        finally:
            self.task = None  # which may keep an exception, whose traceback refers to this object
            if self.watcher is not None and not self.is_ended:
                self.stop_watching()
            self.report_late_changes()
            # If the application crashes, its changes may be lost, but a logout must still take effect.
            if self.session.key_to_delete is not None or self.rivals:
                await self.delete_at_end()
        if self.is_ended:
            await self.finish_stream()
        elif self.session.needs_touch and self.is_in_use:
            await self.touch(self.session)

    async def receive(self) -> Message:
        if self.is_ended:
            return DISCONNECT
        self.listener = asyncio.current_task()
        try:
            return await self.receive_on()
        except asyncio.CancelledError:
            if self.take_interrupt():
                return DISCONNECT
            raise
        finally:
            self.listener = None

    async def send(self, message: Message) -> None:
        if not self.has_started and message["type"] in START_MESSAGES:
            self.has_started = True
            await self.start(message)
        elif self.is_ended:
            raise ConnectionAbortedError("The login of this response has ended, so the response has ended too.")
        elif not self.is_replaced:
            if self.watcher is not None or message.get("more_body", False):
                await self.send_part(message)
            else:
                await self.send_on(message)

    async def send_part(self, message: Message) -> None:
        """Sends a part of a body. Watches the login from the first part on that is not the whole body."""
        if not message.get("more_body", False):
            self.stop_watching()
        elif self.watcher is None:
            self.length += len(message.get("body", b""))
            if self.content_length is None or str(self.length).encode() != self.content_length:
                self.watch_stream()
        self.is_sending = True
        try:
            await self.send_on(message)
        finally:
            self.is_sending = False

    def watch_stream(self) -> None:
        """Watches the login of a response that goes on. There is nothing to watch for an anonymous visitor."""
        user, session = self.scope.get("user"), self.session
        is_of_user = session.user_id is not None or (user is not None and user.is_authenticated)
        if is_of_user or (user is None and session.session_key is not None):
            self.start_watching()

    async def finish_stream(self) -> None:
        """Waits until the end of an ended stream is sent. Raises ConnectionAbortedError if it has none."""
        self.take_interrupt()  # if the application has ignored it
        watcher, self.watcher = self.watcher, None
        if watcher is not None:
            await watcher
        if not self.is_complete:
            # The server closes the connection. The client would otherwise take the part for the whole.
            raise ConnectionAbortedError("The login of this response has ended, so the response was cut off.")

    async def end(self, reason: str) -> None:
        """Ends the stream, and tells the application that the client has disconnected."""
        self.is_ended, listener = True, self.listener
        for _ in range(20):  # until the part that is being sent is sent, unless the client does not read it
            if not (self.is_event_stream and self.is_sending):
                break
            await asyncio.sleep(0.02)
        if self.is_event_stream and not self.is_sending:
            with contextlib.suppress(Exception):  # the client has disconnected
                await self.send_on(END_OF_BODY)
                self.is_complete = True
        if listener is None:
            self.interrupt(self.task)
        elif self.listener is listener:
            self.interrupt(listener)

    def interrupt(self, task: asyncio.Task[object] | None) -> None:
        """Cancels what a task waits for. `take_interrupt` undoes it in the task."""
        if task is not None:
            self.interrupted = task, task.cancelling()
            task.cancel()

    def take_interrupt(self) -> bool:
        """Returns whether this task was cancelled by `interrupt()` only, and resets that."""
        if self.interrupted is None or self.interrupted[0] is not asyncio.current_task():
            return False
        (task, earlier), self.interrupted = self.interrupted, None
        return task.uncancel() <= earlier

    def is_disconnect(self, error: BaseException) -> bool:
        """Returns whether the application failed because its stream was ended."""
        if isinstance(error, BaseExceptionGroup):
            return all(map(self.is_disconnect, error.exceptions))
        if isinstance(error, asyncio.CancelledError):
            return self.take_interrupt()
        return isinstance(error, ConnectionAbortedError | ClientDisconnect)

    async def start(self, message: Message) -> None:
        session, self.reported = self.session, unavailable_behind(message)
        if self.reported is not None:
            await self.send_unavailable(self.reported)
            return
        try:
            is_modified = session.modified
            if is_modified or session.key_to_delete is not None or session.is_flushed:
                # An emptied session is saved even if the application fails: many applications log out that way.
                must_save = is_modified and (message.get("status", 200) < 500 or not session)
                await self.commit(save=must_save)
                if is_modified and not must_save:
                    session.modified = False  # nothing of a failed request is stored
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
            session.edit_headers(headers, message.get("status", 200))
        cookies = [] if self.set_cookie is None else [self.set_cookie]
        if not self.store.is_server_side:
            cookies += self.note_use()
        if cookies:
            headers += cookies
            set_header(headers, "Cache-Control", "no-store")
        if cookies or (session.accessed and session.edit_headers is None):
            add_vary(headers, "Cookie")
        self.is_answered = True
        await self.send_on(message)
        if message["type"] == "http.response.start":
            for name, value in headers:
                if name == b"content-length":
                    self.content_length = value
                    break
            else:
                if message["status"] not in WITHOUT_BODY:
                    self.is_event_stream = is_event_stream(headers)
                    self.watch_stream()

    async def send_unavailable(self, error: Unavailable) -> None:
        logger.error("A request was answered with 503. %s", error)
        await self.send_error(error)

    async def send_error(self, error: Refusal) -> None:
        self.is_replaced = True
        auth = self.scope.get(SCOPE_KEY)
        if isinstance(error, TooManySessions) and self.scope["type"] == "http" and auth is not None:
            auth.security_log.refused(HTTPConnection(self.scope), "too many sessions")
        set_user(self.scope, AnonymousUser())  # for the error page; the session could not be loaded or saved
        await send_refusal(self.scope, self.receive_on, self.send_on, error, self.answer)

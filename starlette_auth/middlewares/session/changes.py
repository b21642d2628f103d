"""What does a connection change in its stored session and in the cookie?"""

import logging
from collections.abc import Sequence

from starlette.requests import HTTPConnection

from ...core.concurrency import run_to_completion
from ...core.exceptions import SessionInterrupted, Unavailable
from ...http.scope import SCOPE_KEY
from ...sessions.base import APP, CLIENT, SessionBase
from ...sessions.detached import DetachedSession
from ..open_connection import run_logged
from .loading import MAX_ENDED, SessionLoader, name_of

logger = logging.getLogger("starlette_auth")
MAX_NAMES = 10  # names of entries in one line of the log


class SessionChanges(SessionLoader):
    """Saves, deletes and renews the session of a connection as the application requested."""

    has_started = False
    is_answered = False  # the response of the application has begun, with the cookies of the session
    is_replaced = False  # an error response was sent; messages of the application are dropped
    set_cookie: tuple[bytes, bytes] | None = None  # the header that the response must get

    def note_use(self) -> list[tuple[bytes, bytes]]:
        """Returns the `Set-Cookie` headers with the last use and the ended sessions, for sessions in cookies."""
        session, headers = self.session, list[tuple[bytes, bytes]]()
        if self.ended_keys or self.set_cookie is not None:
            names = [*map(name_of, self.ended_keys), *self.ended_names]
            if session.session_key is not None:
                # In Django's format, two sessions of one second without `_auth_first_key` may have equal cookies.
                names = [name for name in names if name != name_of(session.first_key)]
            if names != self.ended_names:
                text = ".".join(names[:MAX_ENDED])
                headers.append(self.cookie.for_ended.header(self.scope, text, self.cookie.for_ended.max_age))
        elif self.value is not None and session.session_key is not None:
            note = self.store.note_use(session, self.value)
            if note:
                headers.append(self.cookie.for_use.header(self.scope, note, session.get_cookie_age()))
        if session.is_flushed and self.cookie.for_use.values(self.scope):
            headers.append(self.cookie.for_use.deletion(self.scope))
        return headers

    async def commit(self, *, save: bool) -> None:
        """Saves and deletes as the application requested, and notes the `Set-Cookie` header of the response."""
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
            return  # it could not be saved, so the stored session and its cookie stay
        await self.delete_ended(with_rivals=bool(value) and is_new)
        if value and is_new and session.after_save is not None:
            await session.after_save(session)
        if value:
            self.set_cookie = self.key_header(value)
        elif value == "" or session.session_key is None:
            # Another response may just have set a valid cookie. Therefore a cookie without a session is deleted only if
            # the application ends the session.
            must_delete = not self.is_in_header and (self.had_key or (session.is_flushed and self.values))
            self.set_cookie = self.cookie.deletion(self.scope) if must_delete else None

    async def save(self) -> str:
        """Saves the session; returns the cookie value, or "" if the session is empty."""
        session = self.session
        stored_key, key = session.stored_key, session.session_key
        if stored_key is None and session.user_id is not None:
            self.record_client(session)
        try:
            self.value = await self.store_session()
        except SessionInterrupted:
            if session:
                raise
            return ""  # the application emptied it, and another request has already ended it
        if stored_key is not None and key is None:
            self.store.open_websockets.session_deleted(stored_key)
        return self.value

    async def store_session(self) -> str:
        """Stores the session, with the entry that tells by what it is opened; returns the cookie value."""
        session = self.session
        if self.is_in_header and session:
            session[CLIENT] = APP
        return await self.store.save(session, session.get_expiry_age())

    async def save_now(self) -> None:
        """Stores the session at once, for `request.session.save()`.

        Raises RuntimeError if the response has begun and the browser would need another cookie.
        """
        session = self.session
        if not self.has_started:
            try:
                await self.commit(save=bool(session) or session.stored_key is not None)
            except Unavailable:
                if session:
                    # It could not be saved under its new key, so the row under the old key is kept.
                    session.keep_stored()
                raise
        elif not self.store.is_server_side and not session.modified and session.key_to_delete is None:
            return  # the browser has the cookie of this session already
        elif not self.store.is_server_side or (session and session.session_key is None):
            raise RuntimeError(
                "The response has begun, so the browser gets no further cookie, which this change of the session needs. "
                "Change the session, or call request.session.save(), before the response."
            )
        elif session.session_key is None:
            await self.delete_ended()
        else:
            await self.store_session()

    async def touch(self, session: SessionBase) -> None:
        """Records the last use of the session, after the response. An error is only logged."""

        async def record() -> None:
            if isinstance(session, DetachedSession):
                if session.after_response is not None:
                    await session.after_response()
                return
            self.record_client(session)
            await self.store.touch(session, session.get_expiry_age())

        await run_logged(record, "The last use of a session could not be recorded.")

    async def delete_at_end(self) -> None:
        """Deletes the old session after the application has run. After the response, only logs an error."""
        if not self.has_started:
            await self.delete_ended()
        else:
            await run_logged(self.delete_ended, "A session that has ended could not be deleted, and is still valid.")

    async def delete_ended(self, *, with_rivals: bool = False) -> None:
        """Deletes the session that the application has ended.

        With `with_rivals`, also deletes the sessions of a request that brought several. The browser keeps their
        cookies, so the cookie of a new session would again be one of several.
        """
        key, rivals = self.session.key_to_delete, self.rivals
        if key is not None and not self.session.is_only_resigned:
            await self.delete(key)
            self.ended_keys += [self.session.ended_key] if self.session.is_flushed else []
            self.session.keep_stored()
        if rivals and (with_rivals or self.session.is_flushed):
            self.rivals, self.ended_keys = (), [*self.ended_keys, *(rival.first_key for rival in rivals)]
            for rival in rivals:
                await self.delete(str(rival.session_key))

    async def delete(self, key: str) -> None:
        # A closed browser or a timeout can cancel the request; the deletion still runs to completion.
        await run_to_completion(self.store.delete(key))
        self.store.open_websockets.session_deleted(key)

    def report_late_changes(self) -> None:
        """Logs the entries that changed after the response began and are therefore not stored."""
        session = self.session
        if not self.is_answered:
            return
        names = session.unsaved_names()
        if (names is not None or self.is_flushed_too_late) and not session.is_only_resigned:
            logger.warning(
                "request.session changed after the response began, and the change is lost: %s. Change the session before "
                "the response, or call `await request.session.save()`.",
                list_names(names),
            )

    def report_detached(self) -> None:
        """Logs the entries of a session that is not stored, because the request has a token."""
        if self.is_detached and self.session:
            logger.warning(
                "request.session changed in a request with a token, and the change is lost: %s. Such a request has no "
                "session. Store the data in a table of the application.",
                list_names(list(self.session)),
            )

    @property
    def is_flushed_too_late(self) -> bool:
        """Returns whether flush() came too late to delete a session that is in its cookie."""
        return self.is_answered and self.session.key_to_delete is not None and not self.store.is_server_side

    def record_client(self, session: SessionBase) -> None:
        """Records address and user agent for the user's list of sessions. Anonymous sessions have neither."""
        conn, auth = HTTPConnection(self.scope), self.scope.get(SCOPE_KEY)
        address = conn.client.host if conn.client else ""
        session.address = auth.proxies.client_address(conn) if auth is not None else address
        session.user_agent = conn.headers.get("user-agent", "")


def list_names(names: Sequence[str] | None) -> str:
    """Returns the names of entries for the log: at most ten, without their values."""
    if not names:
        return "its key"
    shown = ", ".join(f"{str(name)[:50]!r}" for name in names[:MAX_NAMES])
    return shown if len(names) <= MAX_NAMES else f"{shown} and {len(names) - MAX_NAMES} more"

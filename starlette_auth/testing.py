"""Helpers for the tests of applications: logging in, collecting mail, setting the time."""

import asyncio
import re
import threading
from collections.abc import Awaitable
from email.message import EmailMessage
from typing import Any, Protocol, overload

from .auth import Auth
from .core.exceptions import ImproperlyConfigured
from .core.text import parse_address
from .mail.messages import plain_text
from .users.models import User


class Client(Protocol):
    """Starlette's TestClient, or a client of httpx."""

    cookies: Any
    headers: Any


class AsyncClient(Client, Protocol):
    """A client whose requests are awaited."""

    async def aclose(self) -> None: ...


@overload
def log_in(  # type: ignore[overload-overlap]
    client: AsyncClient, user: User | None, auth: Auth | None = None
) -> Awaitable[None]: ...


@overload
def log_in(client: Client, user: User | None, auth: Auth | None = None) -> None: ...


def log_in(client: Client, user: User | None, auth: Auth | None = None) -> Awaitable[None] | None:
    """Makes `user` the user of this client, as a login would, without a password.

    With a TestClient that is all; with an AsyncClient, `await log_in(…)`. The Auth is found in a TestClient's app;
    pass it where that is not possible. From then on the client says of its requests what a browser says of those that
    come from the site's own pages (`Sec-Fetch-Site: same-origin`), so that a POST needs no token.
    """
    if user is None:
        raise ValueError("log_in() was given None in place of a user. Create the user first.")
    auth = auth or _find_auth(getattr(client, "app", None))
    task = _log_in(client, user, auth)
    if hasattr(client, "aclose"):
        return task
    portal = getattr(client, "portal", None)
    if portal is not None:
        portal.call(lambda: task)
    else:
        asyncio.run(task)
    return None


async def _log_in(client: Client, user: User, auth: Auth) -> None:
    session = auth.sessions.new_session(auth.clock)
    auth.session_backend.bind(session, user, auth.model_backend.path)
    value = await auth.sessions.save(session, session.get_expiry_age())
    base = str(getattr(client, "base_url", "http://testserver"))
    name = auth.cookie.names[auth.cookie.is_secure({"scheme": base.partition(":")[0]})]
    client.cookies.delete(name) if name in client.cookies else None
    client.cookies.set(name, value)
    client.headers["Sec-Fetch-Site"] = "same-origin"


def _find_auth(app: Any) -> Auth:
    for entry in getattr(app, "user_middleware", ()):
        auth = entry.kwargs.get("auth")
        if isinstance(auth, Auth):
            return auth
    raise ImproperlyConfigured("This client's app does not show its Auth. Pass it: log_in(client, user, auth).")


class FrozenClock:
    """Time that passes when a test says so.

    clock = FrozenClock()
    auth = Auth(database, secret_key="…", clock=clock)
    clock.tick(12 * 60 * 60)  # half a day later
    """

    def __init__(self, now: float = 1_800_000_000.0) -> None:
        """`now` is in seconds since 1970."""
        self.now = now

    def __call__(self) -> float:
        return self.now

    def tick(self, seconds: float) -> None:
        self.now += seconds


class CollectingMailer:
    """Keeps mails in place of sending them. Pass it to your Auth as `mailer`, and follow the links that it found.

        mailer = CollectingMailer()
        auth = Auth(database, secret_key="…", mailer=mailer)
        with TestClient(app) as client:
            client.post("/accounts/password_reset", data={"email": "ann@example.org"})
            mailer.wait_for(1)
            client.get(mailer.links("ann@example.org")[0])

    Mails arrive a moment after the response. The `with` keeps the event loop of the TestClient alive for them. In an
    async test `await auth.mail_queue.drain()` in place of `wait_for()`.
    """

    def __init__(self) -> None:
        self.messages: list[EmailMessage] = []
        self._arrived = threading.Condition()

    async def send(self, message: EmailMessage) -> None:
        with self._arrived:
            self.messages.append(message)
            self._arrived.notify_all()

    def wait_for(self, number: int = 1, timeout: float = 5) -> list[EmailMessage]:
        """All messages, as soon as there are `number`. For tests that are not async."""
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            with self._arrived:
                if self._arrived.wait_for(lambda: len(self.messages) >= number, timeout):
                    return list(self.messages)
            raise TimeoutError(
                f"{len(self.messages)} of {number} mails arrived in {timeout} s. Is the client opened by "
                "`with TestClient(app) as client:`, so that its event loop goes on after the response?"
            ) from None
        raise RuntimeError(
            "wait_for() would stop the event loop. Use `await auth.mail_queue.drain()` in an async test."
        )

    def links(self, to: str | None = None) -> list[str]:
        """The links in the texts of all messages, or of those to one address; those of the newest message first."""
        found: list[str] = []
        for message in reversed(self.messages):
            readers = [address.addr_spec for address in message["To"].addresses]
            if to is None or parse_address(to).addr_spec in readers:
                found += [link.rstrip(".,;:!?)") for link in re.findall(r"https?://[^\s<>\"]+", plain_text(message))]
        return found

    def clear(self) -> None:
        with self._arrived:
            self.messages.clear()

"""Helpers for the tests of applications: login, codes, collected mail, a clock and a passkey."""

import asyncio
import base64
import binascii
import re
import threading
import time
from collections.abc import Awaitable, Mapping, Sequence
from email.message import EmailMessage
from typing import Any, Protocol, overload
from urllib.parse import urlsplit

from .auth import Auth
from .backends.bearer import session_token
from .backends.login_methods import PASSWORD, LoginMethod
from .core.exceptions import ImproperlyConfigured
from .core.text import parse_address
from .features.two_factor.totp import code_at, step_at
from .mail.messages import plain_text
from .security.webauthn.soft_passkey import SoftPasskey
from .sessions.base import APP, CLIENT
from .users.models import User

__all__ = ["CollectingMailer", "FrozenClock", "SoftPasskey", "browser_headers", "log_in", "totp_code"]

#: Headers with which a test client gets what a browser that opens a page gets, such as redirects to the login page.
browser_headers = {
    "Accept": "text/html,application/xhtml+xml,*/*;q=0.8",
    "Sec-Fetch-Dest": "document",
    "Sec-Fetch-Mode": "navigate",
    "Sec-Fetch-Site": "none",
    "user-agent": "testclient",  # or else Starlette's TestClient adds it to this dictionary, which others use
}


class Client(Protocol):
    """A Starlette TestClient or an httpx client."""

    cookies: Any
    headers: Any


class AsyncClient(Client, Protocol):
    """A client with coroutine methods, such as `httpx.AsyncClient`."""

    async def aclose(self) -> None: ...


@overload
def log_in(  # type: ignore[overload-overlap]
    client: AsyncClient,
    user: User | None,
    auth: Auth | None = None,
    *,
    methods: Sequence[str] = (PASSWORD,),
    as_app: bool = False,
) -> Awaitable[None]: ...


@overload
def log_in(
    client: Client,
    user: User | None,
    auth: Auth | None = None,
    *,
    methods: Sequence[str] = (PASSWORD,),
    as_app: bool = False,
) -> None: ...


def log_in(
    client: Client,
    user: User | None,
    auth: Auth | None = None,
    *,
    methods: Sequence[str] = (PASSWORD,),
    as_app: bool = False,
) -> Awaitable[None] | None:
    """Logs `user` in on this client, without a password.

    With an AsyncClient, use `await log_in(…)`. The Auth is taken from the app of a TestClient; pass it for other
    clients. The client also sends `Sec-Fetch-Site: same-origin` from now on, as a browser does for requests from the
    site's own pages, so a POST needs no CSRF token. `methods` are what the user proved, as in ("password", "totp"), which
    `request.auth.methods` shows. With `as_app=True` it is a native app of `BearerSessions`: it sends
    the key in the header Authorization, and no cookie for it. Raises ValueError for None as user, and
    ImproperlyConfigured if the Auth is not found, or for `as_app` without that feature.
    """
    if user is None:
        raise ValueError("log_in() needs a user, not None. Create the user first.")
    auth = auth or _find_auth(getattr(client, "app", None))
    if as_app and not any(backend.reads_sessions for backend in auth.backends):
        raise ImproperlyConfigured("This site has no sessions of apps. Pass Auth(features=[BearerSessions()]).")
    task = _log_in_app(client, user, auth, methods) if as_app else _log_in(client, user, auth, methods)
    if hasattr(client, "aclose"):
        return task
    portal = getattr(client, "portal", None)
    if portal is not None:
        portal.call(lambda: task)
    else:
        asyncio.run(task)
    return None


async def _log_in_app(client: Client, user: User, auth: Auth, methods: Sequence[str]) -> None:
    key = await _store_session(user, auth, methods, {CLIENT: APP})
    client.headers["Authorization"] = f"Bearer {session_token(key)}"


async def _log_in(client: Client, user: User, auth: Auth, methods: Sequence[str]) -> None:
    value = await _store_session(user, auth, methods, {})
    base = urlsplit(str(getattr(client, "base_url", "http://testserver")))
    headers = [
        (name.lower().encode(), value.encode()) for name, value in {"Host": base.netloc, **client.headers}.items()
    ]
    name = auth.cookie.names[auth.cookie.is_secure({"scheme": base.scheme, "headers": headers})]
    client.cookies.delete(name) if name in client.cookies else None
    client.cookies.set(name, value)
    client.headers["Sec-Fetch-Site"] = "same-origin"


async def _store_session(user: User, auth: Auth, methods: Sequence[str], data: Mapping[str, str]) -> str:
    """Stores a session of the user with some data; returns the value of its cookie."""
    session = auth.sessions.new_session(auth.clock)
    # A site without passwords has removed ModelBackend, and a login counts only while its backend is configured.
    backend = auth.model_backend if auth.model_backend in auth.backends else auth.session_backend
    proofs = [LoginMethod(name, int(auth.clock())) for name in methods]
    auth.session_backend.bind(session, user, backend.path, methods=proofs)
    session.update(data)
    return await auth.sessions.save(session, session.get_expiry_age())


def totp_code(secret: str | bytes, at: float | None = None) -> str:
    """Returns the code that an authenticator app shows, 6 digits.

    `secret` is the key as the page `totp` shows it, in base32 with or without blanks, or its bytes. `at` is a time in
    seconds since 1970, UTC, such as that of a FrozenClock; without it, the time is now. A code is accepted once; 30
    seconds later there is another one. Raises ValueError for a text that is not base32.
    """
    if isinstance(secret, str):
        text = "".join(secret.split()).upper().rstrip("=")
        try:
            secret = base64.b32decode(text + "=" * (-len(text) % 8))
        except binascii.Error:
            raise ValueError("The secret is not base32. Pass the key that the page `totp` shows.") from None
    return code_at(secret, step_at(time.time() if at is None else at))


def _find_auth(app: Any) -> Auth:
    for entry in getattr(app, "user_middleware", ()):
        auth = entry.kwargs.get("auth")
        if isinstance(auth, Auth):
            return auth
    raise ImproperlyConfigured("The client's app has no Auth in its middleware. Pass it: log_in(client, user, auth).")


class FrozenClock:
    """A clock that advances only by `tick`.

    clock = FrozenClock()
    auth = Auth(database, secret_key="…", clock=clock)
    clock.tick(12 * 60 * 60)  # half a day later
    """

    def __init__(self, now: float = 1_800_000_000.0) -> None:
        """`now` is in seconds since 1970-01-01 UTC."""
        self.now = now

    def __call__(self) -> float:
        return self.now

    def tick(self, seconds: float) -> None:
        self.now += seconds


class CollectingMailer:
    """Collects mails instead of sending them. Pass it to your Auth as `mailer`.

        mailer = CollectingMailer()
        auth = Auth(database, secret_key="…", mailer=mailer)
        with TestClient(app) as client:
            client.post("/accounts/password_reset", data={"email": "ann@example.org"})
            mailer.wait_for(1)
            client.get(mailer.links("ann@example.org")[0])

    Mails arrive shortly after the response. `with TestClient(…)` keeps the client's event loop running until then. In
    an async test, use `await auth.mail_queue.drain()` instead of `wait_for()`.
    """

    def __init__(self) -> None:
        self.messages: list[EmailMessage] = []
        self._arrived = threading.Condition()

    async def send(self, message: EmailMessage) -> None:
        with self._arrived:
            self.messages.append(message)
            self._arrived.notify_all()

    def wait_for(self, number: int = 1, timeout: float = 5) -> list[EmailMessage]:
        """Waits until `number` messages have arrived, and returns all messages.

        For tests that are not async. Raises TimeoutError after `timeout` seconds, and RuntimeError in an async test.
        """
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            with self._arrived:
                if self._arrived.wait_for(lambda: len(self.messages) >= number, timeout):
                    return list(self.messages)
            raise TimeoutError(
                f"{len(self.messages)} of {number} mails arrived within {timeout} s. Open the client with "
                "`with TestClient(app) as client:`, so that its event loop runs on after the response."
            ) from None
        raise RuntimeError(
            "wait_for() would block the event loop. Use `await auth.mail_queue.drain()` in an async test."
        )

    def links(self, to: str | None = None) -> list[str]:
        """Returns the links in all messages, or in those to one address.

        The links are taken from the plain texts. Those of the newest message come first.
        """
        links: list[str] = []
        for message in reversed(self.messages):
            recipients = [address.addr_spec for address in message["To"].addresses]
            if to is None or parse_address(to).addr_spec in recipients:
                links += [link.rstrip(".,;:!?)") for link in re.findall(r"https?://[^\s<>\"]+", plain_text(message))]
        return links

    def clear(self) -> None:
        with self._arrived:
            self.messages.clear()

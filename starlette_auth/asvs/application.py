"""The application that is assessed: loads and starts it, and lends temporary users and clients to the checks."""

import asyncio
import contextlib
import importlib
import logging
import os
import re
import secrets
import sys
import traceback
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from starlette.config import Config

from ..auth import Auth
from ..core.exceptions import DoesNotExist, IntegrityError, StarletteAuthError
from ..core.text import ascii_lower
from ..http.urls import JSON_SUFFIX, brings_json_only, connection_to, find_url_path
from ..security.known_devices import owner_of_devices
from ..security.reset_tokens import user_subject
from ..security.tokens import EMAIL_UNDO
from ..testing import CollectingMailer, log_in
from ..users.models import User
from .clients import Browser, Cookies

SECURITY = "starlette_auth.security"
EXAMPLE = "--asvs app:app"
OWN_STEPS = ("second_factor", "enrol")  # they let users without a second factor pass, unless the policy requires one
NAME_IT = f"Write the module and the object, as in {EXAMPLE}."

#: The source files of the functions that read the environment and raise KeyError for a missing variable.
READERS = {type(os.environ).__getitem__.__code__.co_filename, Config.get.__code__.co_filename}


def requires_factor_of_all(auth: Auth[Any]) -> bool:
    """Returns whether the policy requires a second factor also of a user without any rights."""
    with contextlib.suppress(Exception):  # the class or the policy wants columns that only a row has
        return auth.session_backend.required_level(auth.users.user_class(id=None, username="asvs")) >= 2
    return False


class AssessmentError(Exception):
    """The assessment cannot be made. The message ends with the fix."""


@dataclass
class Person:
    """A temporary user, and the password."""

    user: User
    name: str  # with which the user logs in
    password: str


class Records(logging.Handler):
    """Collects log records, each once."""

    def __init__(self) -> None:
        super().__init__(logging.NOTSET)
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record not in self.records[-8:]:
            self.records.append(record)

    def events(self, since: int = 0) -> list[str]:
        """Returns the events of the security log."""
        return [str(getattr(record, "event", "")) for record in self.records[since:] if record.name == SECURITY]


class Target:
    """The running application with its Auth, for the checks."""

    def __init__(self, app: Any, auth: Auth, *, prefix: str = "", level: int = 2) -> None:
        self.app = app
        self.auth = auth
        self.prefix = prefix  # the path of the mount whose application has the Auth
        self.level = level
        self.state: dict[str, Any] = {}
        self.people: list[User] = []
        self.cookies: list[Cookies] = []  # of each browser
        self.addresses: list[str] = []  # e-mail addresses that were entered into forms
        self.secrets: list[str] = []  # passwords and keys that no log may contain
        self.mailer = CollectingMailer()
        self.log = Records()
        self.leftovers: list[str] = []  # what could not be deleted
        self.cache: dict[str, Any] = {}  # results that several rows share
        self.password = f"{secrets.token_urlsafe(18)} Aa1!"
        self._encoded = ""
        url = urlsplit(auth.site.base_url or "https://localhost")
        self.base_url = f"https://{url.netloc}"

    @property
    def has_passwords(self) -> bool:
        return self.auth.model_backend in self.auth.backends

    @property
    def login_is_one_step(self) -> bool:
        """Returns whether the login page logs in with a password alone, and so the checks can use it."""
        steps = [step for step in self.auth.login_steps if getattr(step, "name", "") not in OWN_STEPS]
        has_page = self.has_passwords and self.path("login") is not None
        return has_page and not steps and not requires_factor_of_all(self.auth)

    @property
    def sends_mail(self) -> bool:
        return self.auth.account_mailer.is_configured

    def path(self, name: str) -> str | None:
        """Returns the path that a form of an account page posts to; None if there is none.

        Where the account pages take JSON only, the route with that name may be a page of the application.
        """
        conn = connection_to(self.app)
        return self.auth.find_url(conn, f"{name}{JSON_SUFFIX}") or self.auth.find_url(conn, name)

    def form_of(self, link: str) -> str:
        """Returns the path that the page of a mailed reset link posts to: the link itself, if the page is ours."""
        conn = connection_to(self.app)
        page, form = (
            find_url_path(conn.scope, name, uidb64="UIDB64", token="TOKEN")  # noqa: S106  part of a path
            for name in ("password_reset_confirm", f"password_reset_confirm{JSON_SUFFIX}")
        )
        if page is None or form is None:
            return link
        pattern = re.escape(page).replace("UIDB64", "(?P<uid>[^/]+)").replace("TOKEN", "(?P<token>[^/]+)")
        match = re.fullmatch(pattern, link)
        return form.replace("UIDB64", match["uid"]).replace("TOKEN", match["token"]) if match else link

    def nowhere(self) -> str:
        """Returns a path that no route has, within the application that has the Auth."""
        return f"{self.prefix}/asvs-{secrets.token_hex(8)}"

    @property
    def takes_json_only(self) -> bool:
        """Returns whether the account pages are mounted with pages=False."""
        return brings_json_only(connection_to(self.app).scope)

    def browser(self, **options: Any) -> Browser:
        browser = Browser(self.app, self.state, self.base_url, is_json=self.takes_json_only, **options)
        self.cookies.append(browser.cookies)
        return browser

    async def person(self, **fields: Any) -> Person:
        """Creates a temporary user with a random name."""
        if not self._encoded:
            self._encoded = await self.auth.passwords.hash(self.password)
            self.secrets.append(self.password)
        name = f"asvs-{secrets.token_hex(8)}"
        email = f"{name}@example.org"
        user = await self.auth.users.create_user(name, email, encoded_password=self._encoded, **fields)
        self.people.append(user)
        self.addresses.append(email)
        return Person(user, self.auth.model_backend.names_of(user)[0], self.password)

    async def logged_in(self, person: Person | None = None, **options: Any) -> Browser:
        """Returns a browser that is logged in, without a login page."""
        person = person or await self.person()
        browser = self.browser(**options)
        needs_factor = self.auth.session_backend.required_level(person.user) >= 2
        await log_in(browser, person.user, self.auth, methods=("password", "totp") if needs_factor else ("password",))
        self.secrets.append(self.session_key(browser))
        return browser

    async def enter(self, browser: Browser, name: str, password: str) -> Any:
        """Logs in on the login page, and returns the user whom the next request has; None if there is none."""
        response = await browser.submit(self.path("login") or self.nowhere(), username=name, password=password)
        self.cache["login response"] = response
        return await self.who(browser)

    async def who(self, browser: Browser) -> Any:
        """Returns the user that the application sees in this browser."""
        await browser.get(self.nowhere())
        return browser.user

    def session_key(self, browser: Browser) -> str:
        return next((browser.cookies[name] for name in self.auth.cookie.names[::-1] if name in browser.cookies), "")

    def set_session_key(self, browser: Browser, value: str) -> None:
        browser.cookies[self.auth.cookie.names[self.auth.cookie.is_secure({"scheme": "https", "headers": []})]] = value

    async def mails(self) -> list[Any]:
        """Returns the mails since the last call. None of them is sent."""
        await self.auth.mail_queue.drain()
        messages = list(self.mailer.messages)
        self.mailer.clear()
        return messages

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator["Target"]:
        """Starts the application. Afterwards deletes the temporary users, also after a failure, and stops it."""
        auth, mailer = self.auth, self.auth.mail_queue.mailer
        loggers = [logging.getLogger(), logging.getLogger(SECURITY)]
        async with _lifespan(self.app, self.state):
            if not auth.gateway.is_connected:
                raise AssessmentError(
                    "the lifespan of the application does not connect the database. Pass lifespan=lifespan(auth) to it."
                )
            try:
                await auth.users.count()
            except StarletteAuthError as error:
                raise AssessmentError(f"the database cannot be used: {error}") from error
            except Exception as error:
                raise AssessmentError(
                    f"the database cannot be used ({_first_line(error)}). Run `starlette-auth migrate`, or mend its URL."
                ) from error
            auth.mail_queue.mailer = self.mailer if mailer is not None else None
            for logger in loggers:
                logger.addHandler(self.log)
            try:
                yield self
            finally:
                await self._clean_up()
                auth.mail_queue.mailer = mailer
                for logger in loggers:
                    logger.removeHandler(self.log)

    async def _clean_up(self) -> None:
        await self.auth.mail_queue.drain()
        users, tokens = self.auth.users, self.auth.tokens
        for email in self.addresses:
            await tokens.revoke_all(f"address {ascii_lower(email)}")
            self.people += [user for user in await users.list_by_email(email) if user not in self.people]
        for user in self.people:
            try:
                await users.delete(user)
            except DoesNotExist:
                continue
            except IntegrityError as error:
                await users.update(user, is_active=False)
                self.leftovers.append(f"The user {user.username} could not be deleted and is inactive: {error}")
            finally:
                await tokens.revoke_all(user_subject(user))
                await tokens.revoke_all(owner_of_devices(user))
                for token in await tokens.recent(EMAIL_UNDO, user_subject(user)):
                    await tokens.consume(token)
        sessions = self.auth.sessions
        if sessions.is_server_side and not sessions.supports_user_lookup:  # the others went with their users
            for name, value in {pair for cookies in self.cookies for pair in cookies.received}:
                if name in self.auth.cookie.names:
                    await sessions.delete(value)


def load(name: str) -> tuple[Any, Auth, str]:
    """Returns the application of MODULE:APP, its Auth, and the path of the mount that has the Auth."""
    module, _, attribute = name.partition(":")
    if not module or not attribute:
        raise AssessmentError(f"{name!r} does not name an application. Write the module and the object: {EXAMPLE}.")
    sys.path.insert(0, os.getcwd())
    try:
        app = importlib.import_module(module)
    except Exception as error:
        raise AssessmentError(f"{name} cannot be loaded ({_first_line(error)}). {_fix(error, module)}") from error
    try:
        for part in attribute.split("."):
            app = getattr(app, part)
    except AttributeError as error:
        raise AssessmentError(f"{name} cannot be loaded ({_first_line(error)}). {NAME_IT}") from error
    auth, prefix = next(find_auths(app), (None, ""))
    if auth is None:
        raise AssessmentError(
            f"{name} has no Auth in its middleware. Name the application that has middleware=middleware(auth)."
        )
    return app, auth, prefix


def _fix(error: Exception, module: str) -> str:
    """Returns what mends an error of the import of an application."""
    if isinstance(error, ModuleNotFoundError) and f"{module}.".startswith(f"{error.name}."):
        return NAME_IT
    sources = {frame.filename for frame in traceback.extract_tb(error.__traceback__)[-1:]}
    if isinstance(error, KeyError) and sources & READERS:
        match = re.search(r"\w+", str(error).removeprefix('"Config ').removeprefix("'Config "))
        variable = match[0] if match else str(error)
        return f"Set this environment variable, in the shell or in a conftest.py: os.environ[{variable!r}] = …"
    return f'Run python -c "import {module}", and mend what stops it.'


def find_auths(app: Any, prefix: str = "", seen: frozenset[int] = frozenset()) -> Iterator[tuple[Auth, str]]:
    """Yields each Auth in the middlewares of the application, of what it wraps, and of what is mounted in it."""
    if app is None or id(app) in seen:
        return
    entries = [entry.kwargs.get("auth") for entry in getattr(app, "user_middleware", ())]
    for auth in (getattr(app, "auth", None), *entries):
        if isinstance(auth, Auth):
            yield auth, prefix
            return
    seen = seen | {id(app)}
    yield from find_auths(getattr(app, "app", None), prefix, seen)
    for route in getattr(app, "routes", None) or ():
        path = str(getattr(route, "path", ""))
        if "{" not in path:
            yield from find_auths(getattr(route, "app", None), prefix + path, seen)


@contextlib.asynccontextmanager
async def _lifespan(app: Any, state: dict[str, Any]) -> AsyncIterator[None]:
    """Runs the lifespan of the application, in a separate task, as a server does."""
    inbox: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    outbox: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    scope = {"type": "lifespan", "asgi": {"version": "3.0", "spec_version": "2.0"}, "state": state}

    async def run() -> None:
        try:
            await app(scope, inbox.get, outbox.put)
        except BaseException as error:
            await outbox.put({"type": "lifespan.startup.failed", "message": f"{type(error).__name__}: {error}"})

    task = asyncio.create_task(run())
    await inbox.put({"type": "lifespan.startup"})
    answer = await outbox.get()
    if answer["type"] != "lifespan.startup.complete":
        await task
        lines = [line for line in str(answer.get("message", "")).splitlines() if line.strip()]
        raise AssessmentError(
            f"the application does not start ({lines[-1] if lines else 'without a message'}). Start it with its server, "
            "and mend what stops it."
        )
    try:
        yield
    finally:
        await inbox.put({"type": "lifespan.shutdown"})
        await task


def _first_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"

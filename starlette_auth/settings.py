"""Checks the arguments of `Auth`. The message about a wrong argument ends with the fix."""

import inspect
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from typing import Any

from starlette.requests import HTTPConnection
from starlette.responses import Response

from .backends.base import AuthenticationBackend
from .core.arguments import (
    as_instances,
    require_bool,
    require_clock,
    require_function,
    require_instance,
    require_integer,
    require_methods,
)
from .core.clock import Clock
from .core.exceptions import ImproperlyConfigured, Refused
from .database.gateways import AnyDatabase, require_database
from .database.tables import Tables
from .http.cookies import Cookie
from .http.urls import parse_page
from .mail.mailers import Mailer
from .passwords.password_changes import PasswordValidator
from .passwords.passwords import Passwords
from .security.csrf_tokens import CSRFMode
from .security.reset_tokens import ResetTokens
from .sessions.limits import Preset, SessionLimits
from .sessions.store import SessionStore
from .users.models import User
from .users.users import Users

#: Optional parts, their classes, and what to pass.
PARTS: Mapping[str, tuple[type, str]] = {
    "tables": (Tables, "Pass tables=Tables(user=member)."),
    "cookie": (Cookie, 'Pass cookie=Cookie(name="shop").'),
    "passwords": (Passwords, "Pass passwords=Passwords([Argon2PasswordHasher(), …])."),
}
PAGES = ("login_url", "login_redirect_url", "logout_redirect_url")
BOOLS = ("redirect_authenticated_user", "notices", "login_after_reset", "clear_site_data", "throttling")
SESSIONS = "Pass a store, as in sessions=MemoryStore(), or a function that makes one: sessions=lambda users: …."
BACKENDS = "Pass objects, as in backends=[TokenBackend()]."
MAILER = 'Pass an object with `async def send(self, message)`, as in mailer=SMTPMailer("smtp.example").'
ANSWER = "Pass a function that returns a Response or None, as in answer=lambda conn, refused: None."
#: Returns the response to a refused request, or None for the usual one. It may be async.
Answer = Callable[[HTTPConnection, Refused], Response | Awaitable[Response | None] | None]
RESET_TOKENS = "Pass an object, as in reset_tokens=PasswordResetTokens(SECRET)."


@dataclass(kw_only=True)
class Settings:
    """Holds the arguments of `Auth`, and checks those that no part of `Auth` checks."""

    database: AnyDatabase
    secret_key: str | Sequence[str]
    tables: Tables | None
    user_class: type[User]
    login_fields: Sequence[str]
    sessions: SessionStore | Callable[[Users[Any]], SessionStore] | None
    cookie: Cookie | None
    session_limits: SessionLimits | Preset | None
    max_sessions: int | None
    when_full: Any
    backends: Sequence[AuthenticationBackend]
    passwords: Passwords | None
    templates: Sequence[str | PathLike[str]]
    login_url: str
    login_redirect_url: str
    logout_redirect_url: str
    redirect_authenticated_user: bool
    redirect_field_name: str
    next_hosts: Sequence[str]
    trusted_origins: Sequence[str]
    csrf: CSRFMode
    mailer: Mailer | None
    base_url: str | None
    site_name: str
    from_email: str
    notices: bool
    languages: Sequence[str]
    locale_dirs: Sequence[str | PathLike[str]]
    password_validators: Sequence[PasswordValidator] | None
    context_words: Sequence[str]
    reset_tokens: ResetTokens | None
    login_after_reset: bool
    clear_site_data: bool
    rates: Mapping[str, str] | None
    throttling: bool
    trusted_proxies: Sequence[str]
    features: Sequence[Any]
    django: Any
    connections: int | None
    answer: Answer | None
    clock: Clock

    def __post_init__(self) -> None:
        require_database(self.database)
        for name, (kind, fix) in PARTS.items():
            if getattr(self, name) is not None:
                require_instance(getattr(self, name), kind, name, fix)
        for name in PAGES:
            parse_page(getattr(self, name), name)
        for name in BOOLS:
            require_bool(getattr(self, name), name)
        self.backends = as_instances(self.backends, AuthenticationBackend, "backends", BACKENDS)
        if self.sessions is not None and not isinstance(self.sessions, SessionStore):
            require_function(self.sessions, "sessions", SESSIONS)
        if self.mailer is not None:
            require_methods(self.mailer, ["send"], "mailer", MAILER)
        if self.reset_tokens is not None:
            methods = ("make", "check", "consume", "to_session", "from_session")
            require_methods(self.reset_tokens, methods, "reset_tokens", RESET_TOKENS)
        if self.django is not None:
            require_methods(self.django, ["tables", "session_limits"], "django", 'Pass DjangoProject(version="5.2").')
        if self.connections is not None:
            require_integer(self.connections, "connections", minimum=0)
        if self.answer is not None:
            require_function(self.answer, "answer", ANSWER)
        require_clock(self.clock)

    def make_store(self, users: Users[Any]) -> SessionStore | None:
        """Returns the given store or the store that the given function makes, or None."""
        if self.sessions is None or isinstance(self.sessions, SessionStore):
            return self.sessions
        try:
            inspect.signature(self.sessions).bind(users)
        except TypeError as error:
            raise ImproperlyConfigured(f"The function of sessions must take the Users. {SESSIONS}") from error
        store = self.sessions(users)
        require_instance(store, SessionStore, "What the function of sessions returned", SESSIONS)
        return store

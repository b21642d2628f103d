"""One installation of this package: its parts, put together."""

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from os import PathLike
from typing import Any, Literal

import sqlalchemy as sa
from databases import Database
from starlette.requests import HTTPConnection, Request
from starlette.responses import Response
from starlette.routing import BaseRoute, NoMatchFound

from .addresses import Proxies
from .backends import AuthenticationBackend, Guard, ModelBackend, SessionBackend
from .clock import Clock
from .cookies import Cookie
from .defaults import Defaults
from .devices import Devices
from .django.project import DjangoProject
from .events import Events, PasswordCheckUnavailable
from .exceptions import ImproperlyConfigured, PermissionDenied, ValidationError
from .gateway import Gateway
from .letters import Letters
from .limits import Preset, SessionLimits
from .limits import session_limits as parse_limits
from .logins import Logins
from .mail import Mailer
from .models import AnonymousUser, User
from .notices import Notices
from .outbox import Outbox
from .passwords import Passwords
from .sessions.store import Progress, SessionStore
from .signing import SecretKeys
from .tables import Tables
from .templating import VERSIONS, Templates
from .throttling import Throttle
from .tokens import ResetTokens, Tokens
from .translation import Languages
from .users import Users
from .validators import (
    ContextWordsValidator,
    PasswordValidator,
    PwnedPasswordsValidator,
    default_validators,
    validate_password,
)

LoginStep = Callable[[Request, User], Awaitable[Response | None]]
SCOPE_KEY = "starlette_auth"
SCOPE_APP = "starlette_auth.app"
NEW_CSRF_SECRET = "starlette_auth.csrf"  # noqa: S105  a key of the scope
ONE_YEAR = 365 * 24 * 60 * 60
ASSET_ROUTES = {"auth.css": "auth_style", "auth.js": "auth_script"}  # files, and the names of their routes


class Feature:
    """Something optional: its tables, its pages and its listeners, in one file. `Auth(features=[…])` attaches it."""

    def tables(self, tables: Tables) -> Sequence[sa.Table]:
        """Further tables, for `migrate` to create."""
        return ()

    def attach(self, auth: "Auth") -> None:
        """Called once: listen to `auth.events`, add to `auth.login_steps` or `auth.backends`."""

    def routes(self) -> Sequence[BaseRoute]:
        """Further pages, below wherever `routes(auth)` is mounted."""
        return ()


class Auth:
    """Everything that the middlewares, the pages and the command line work with.

    `secret_key` is a text, or several, newest first. `sessions` is a store, or a function that makes one of the `Users`
    (default: the table `auth_session`); `session_limits` say how long a login lasts ("aal1", "aal2", "aal3" of NIST's
    levels, or your own), `max_sessions` how many a user may have at a time, and `when_full` what happens to one more.
    `backends` are asked before the session and the password. `login_url` and `login_redirect_url` are names of routes
    or paths. `next_hosts` are the other hosts to which a login may lead, `trusted_origins` those whose pages may post
    to us, as in "https://shop.example".

    Mails need a `mailer` and `base_url`, the site's scheme and host. `password_validators` judge new passwords
    (`context_words`: the site's name and the like). `rates` say how often things may be tried, as in
    {"login": "60/m/ip"}; behind a proxy, name it in `trusted_proxies`, or all visitors count as one. `django` sets what
    belongs together where a Django project has the same database and the same key. So many `connections` of a pool of
    PostgreSQL are kept for this package, which saves a round trip at each use; leave the application some. `clock`
    tells all parts the time (a store that you pass has its own).
    """

    def __init__(
        self,
        database: Database,
        *,
        secret_key: str | Sequence[str],
        tables: Tables | None = None,
        user_class: type[User] = User,
        login_fields: Sequence[str] = ("username",),
        sessions: SessionStore | Callable[[Users[Any]], SessionStore] | None = None,
        cookie: Cookie | None = None,
        session_limits: SessionLimits | Preset | None = None,
        max_sessions: int | None = None,
        when_full: Literal["drop_oldest", "reject"] = "drop_oldest",
        backends: Sequence[AuthenticationBackend] = (),
        passwords: Passwords | None = None,
        templates: Sequence[str | PathLike[str]] = (),
        login_url: str = "login",
        login_redirect_url: str = "/",
        logout_redirect_url: str = "logged_out",
        next_hosts: Sequence[str] = (),
        trusted_origins: Sequence[str] = (),
        csrf: Literal["headers", "strict"] = "headers",
        mailer: Mailer | None = None,
        base_url: str | None = None,
        site_name: str = "",
        from_email: str = "",
        notices: bool = True,
        languages: Sequence[str] = ("en",),
        locale_dirs: Sequence[str | PathLike[str]] = (),
        password_validators: Sequence[PasswordValidator] | None = None,
        context_words: Sequence[str] = (),
        reset_tokens: ResetTokens | None = None,
        login_after_reset: bool = False,
        clear_site_data: bool = False,
        rates: Mapping[str, str] | None = None,
        throttling: bool = True,
        trusted_proxies: Sequence[str] = (),
        features: Sequence[Feature] = (),
        django: DjangoProject | None = None,
        connections: int = 0,
        clock: Clock = time.time,
    ) -> None:
        if when_full not in ("drop_oldest", "reject"):
            raise ImproperlyConfigured(f'when_full={when_full!r} is not known. Use "drop_oldest" or "reject".')
        if csrf not in ("headers", "strict"):
            raise ImproperlyConfigured(f'csrf={csrf!r} is not known. Use "headers" (the default) or "strict".')
        if not isinstance(database, Database):
            raise ImproperlyConfigured("Auth takes a Database. Pass Database(url), from the package `databases`.")
        if isinstance(next_hosts, str) or not all(next_hosts):
            raise ImproperlyConfigured('next_hosts is a list of hosts. Pass next_hosts=["shop.example"].')
        if isinstance(trusted_origins, str) or not all("://" in origin for origin in trusted_origins):
            raise ImproperlyConfigured('trusted_origins is a list. Pass trusted_origins=["https://shop.example"].')
        if isinstance(context_words, str) or isinstance(templates, str):
            raise ImproperlyConfigured(
                'context_words and templates are lists. Pass context_words=["acme"], templates=["templates"].'
            )
        if "__dataclass_fields__" not in vars(user_class):
            raise ImproperlyConfigured(f"Put @dataclass(kw_only=True, eq=False) above class {user_class.__name__}.")
        unknown = set(login_fields) - {"username", "email"}
        if unknown or not login_fields:
            raise ImproperlyConfigured(
                'login_fields is ("username",), ("email",) or ("username", "email"). Choose one.'
            )
        if django is not None and session_limits is not None:
            raise ImproperlyConfigured(
                "Django does not note when a session was last used. Set session_cookie_age of DjangoProject, and leave "
                "session_limits out."
            )
        self.defaults = django or Defaults()
        self.database = database
        self.clock = clock
        self.keys = SecretKeys(secret_key)
        self.gateway = Gateway.of(database)
        self.gateway.keep(connections)
        self.events = Events(self.gateway.atomic, self.gateway.after_commit)
        self.passwords = passwords or self.defaults.passwords()
        self.tables = tables or self.defaults.tables()
        self.users: Users[Any] = Users(
            self.gateway,
            tables=self.tables,
            passwords=self.passwords,
            events=self.events,
            user_class=user_class,
            clock=clock,
        )
        if sessions is None:
            sessions = self.defaults.sessions(database, self.users, self.keys, clock)
        self.sessions: SessionStore = sessions if isinstance(sessions, SessionStore) else sessions(self.users)
        self.cookie = cookie or self.defaults.cookie()
        self.csrf_cookie = self.defaults.csrf_cookie(self.cookie)
        self.devices = Devices(self.keys, replace(self.cookie, name="device", max_age=ONE_YEAR))
        self.proxies = Proxies(trusted_proxies)
        self.throttle = Throttle(self.gateway, table=self.tables.throttle, rates=rates, enabled=throttling, clock=clock)
        self.session_limits = self.defaults.session_limits() if session_limits is None else parse_limits(session_limits)
        self.session_backend = SessionBackend(
            self.users, self.keys, limits=self.session_limits, cycle_key=self.defaults.cycle_key, clock=clock
        )
        self.tokens = Tokens(self.gateway, table=self.tables.token, keys=self.keys, clock=clock)
        self.logins = Logins(
            self.sessions,
            self.session_backend,
            tokens=self.tokens,
            events=self.events,
            max_sessions=max_sessions,
            drop_oldest=when_full == "drop_oldest",
        )
        self.logins.attach()
        guard = Guard(self.throttle, devices=self.devices, proxies=self.proxies)
        self.model_backend = ModelBackend(self.users, login_fields=login_fields, guard=guard)
        self.backends: list[AuthenticationBackend] = [*backends, self.session_backend, self.model_backend]
        self.defaults.name_backends(self.backends)
        self.login_steps: list[LoginStep] = []
        self.templates = Templates(templates)
        self.languages = Languages(languages, locale_dirs)
        self.outbox = Outbox(mailer)
        self.site_name = site_name
        self.letters = Letters(
            self.templates,
            self.outbox,
            base_url=base_url,
            site_name=site_name,
            from_email=from_email,
            path_for=self.url_for,
            clock=clock,
        )
        self.notices = Notices(
            self.letters, gateway=self.gateway, proxies=self.proxies, throttle=self.throttle, clock=clock
        )
        if notices:
            self.notices.attach(self.events)
        words = [*context_words, *filter(None, [site_name])]
        self.password_validators = default_validators(words) if password_validators is None else [*password_validators]
        if password_validators and context_words:
            self.password_validators.append(ContextWordsValidator(words))
        for validator in self.password_validators:
            if isinstance(validator, PwnedPasswordsValidator) and validator.on_failure is None:
                validator.on_failure = self._password_check_failed
        self.reset_tokens: ResetTokens = reset_tokens or self.defaults.reset_tokens(self.tokens, self.keys, clock)
        self.login_after_reset = login_after_reset
        self.clear_site_data = clear_site_data
        self.login_fields = tuple(login_fields)
        self.login_url = login_url
        self.login_redirect_url = login_redirect_url
        self.logout_redirect_url = logout_redirect_url
        self.next_hosts = tuple(next_hosts)
        self.trusted_origins = frozenset(origin.rstrip("/").lower() for origin in trusted_origins)
        self.csrf = csrf
        self.features = list(features)
        for feature in self.features:
            self.tables.features.extend(feature.tables(self.tables))
            feature.attach(self)

    async def has_perm(self, user: User | AnonymousUser, perm: str, obj: object = None) -> bool:
        """Asks each backend, also about one object. No for an inactive or anonymous user, yes for a superuser."""
        if not user.is_active or not isinstance(user, User):
            return False
        if user.is_superuser:
            return True
        try:
            for backend in self.backends:
                if await backend.has_perm(user, perm, obj):
                    return True
        except PermissionDenied:
            return False
        return False

    def url_for(self, conn: HTTPConnection, name: str, **params: Any) -> str:
        """The path of a page, given the name of its route, or a path of the application; its root_path comes in front.

        Looked up from the outermost application, so that an application mounted inside finds it too.
        """
        app, root_path = conn.scope.get(SCOPE_APP, (conn.scope.get("app"), conn.scope.get("root_path", "")))
        if name.startswith("/"):
            return f"{root_path}{name}"
        try:
            return f"{root_path}{app.url_path_for(name, **params)}"
        except (NoMatchFound, AttributeError) as error:
            raise ImproperlyConfigured(
                f'No route is called {name!r}. Add Mount("/accounts", routes=routes(auth)) to your app, '
                'or pass the path of your own page, as in Auth(login_url="/login").'
            ) from error

    def link_for(self, conn: HTTPConnection, name: str) -> str | None:
        """The same, or None: for links to what this site may not have."""
        if name == "password_reset" and not self.letters.can_write:
            return None
        try:
            return self.url_for(conn, name)
        except ImproperlyConfigured:
            return None

    def asset_url(self, conn: HTTPConnection, name: str) -> str | None:
        """Where "auth.css" or "auth.js" is; None where our pages are not mounted."""
        url = self.link_for(conn, ASSET_ROUTES[name])
        return f"{url}?v={VERSIONS[name]}" if url else None

    def client_address(self, conn: HTTPConnection) -> str:
        """Whose request it is, as far as the trusted proxies know."""
        return self.proxies.client_address(conn)

    async def validate_password(self, password: str, user: User | None = None) -> list[ValidationError]:
        """What is wrong with a new password; nothing when it can be taken."""
        return await validate_password(password, self.password_validators, user)

    def password_help(self) -> list[str]:
        """What a new password must be like, one sentence for each rule, in the visitor's language."""
        return [text for validator in self.password_validators if (text := validator.get_help_text())]

    async def clear_expired(self, progress: Progress | None = None) -> int:
        """Deletes sessions, tokens and counters that nobody can use any more; gives the number of the sessions.

        In small batches, with pauses: others hardly notice. `progress` is told the number of the sessions so far.
        """
        number = await self.sessions.clear_expired(progress)
        await self.tokens.clear_expired()
        await self.throttle.clear_expired()
        return number

    async def close(self) -> None:
        """Sends what is still to be mailed, ends the threads, gives back the connections of this event loop."""
        await self.outbox.drain()
        self.passwords.close()
        await self.sessions.close()
        await self.gateway.close()

    async def _password_check_failed(self, error: Exception) -> None:
        await self.events.emit(PasswordCheckUnavailable(error=error))

    def accepting(self, credentials: dict[str, Any]) -> list[AuthenticationBackend]:
        """The backends whose `authenticate` takes credentials of these names."""
        return [backend for backend in self.backends if backend.takes(credentials)]


def get_auth(conn: HTTPConnection) -> Auth:
    """The Auth that takes care of this request."""
    auth = conn.scope.get(SCOPE_KEY)
    if not isinstance(auth, Auth):
        raise ImproperlyConfigured(
            "This request did not pass AuthenticationMiddleware. Pass middleware=middleware(auth) to your app."
        )
    return auth

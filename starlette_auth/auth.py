"""The composition root: `Auth` builds all parts of one installation."""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from os import PathLike
from typing import Any

import sqlalchemy as sa
from starlette.requests import HTTPConnection
from starlette.responses import Response
from starlette.routing import BaseRoute

from .backends.base import AuthenticationBackend
from .backends.credentials import ChecksCredentials
from .backends.factors import KnowsFactors, ProvidesLogins
from .backends.login_steps import AnyStep
from .backends.model import LoginThrottle, ModelBackend, parse_login_fields
from .backends.pending_login import PendingLogins
from .backends.permissions.backend_permissions import BackendPermissions
from .backends.permissions.objects import ChecksPermissions
from .backends.permissions.roles import attach_roles
from .backends.session import SessionBackend
from .backends.user_sessions import UserSessions, WhenFull
from .core.arguments import as_instances
from .core.clock import Clock
from .core.events import Events, PasswordCheckUnavailable
from .core.exceptions import ImproperlyConfigured, ValidationError
from .core.signing import SecretKeys, require_strong_keys
from .core.templating import Templates
from .core.translation import Languages, override_language
from .database.gateways import AnyDatabase, DatabaseAccess, gateway_of
from .database.tables import Tables
from .defaults import Defaults
from .http.cookies import Cookie
from .http.headers import add_security_headers
from .http.proxies import TrustedProxies
from .http.redirects import RedirectTargets
from .http.scope import SCOPE_KEY
from .http.site import Site
from .http.urls import RESET_ROUTES, connection_to, find_url_path, url_path_for
from .mail.account_mailer import AccountMailer
from .mail.mailers import Mailer
from .mail.queue import MailQueue
from .mail.security_notices import SecurityNotices
from .passwords.password_changes import PasswordValidator
from .passwords.passwords import Passwords
from .passwords.validators import build_validators, validate_password
from .security.csrf_tokens import CSRFMode, parse_mode
from .security.known_devices import KnownDevices
from .security.reset_tokens import ResetTokens, make_reset_link
from .security.security_log import SecurityLog
from .security.table_claims import claim_tables
from .security.throttle import Throttle
from .security.tokens import Tokens
from .sessions.limits import Preset, SessionLimits
from .sessions.store import Progress, SessionStore
from .settings import Answer, Settings
from .users.models import U_co, User, require_person
from .users.users import Users


class Feature(ProvidesLogins):
    """An optional part of an installation: tables, pages and listeners. `Auth(features=[…])` attaches it."""

    def tables(self, tables: Tables) -> Sequence[sa.Table]:
        """Returns the feature's own tables, made with `tables.make`. `migrate` creates them."""
        return ()

    def attach(self, auth: "Auth") -> None:
        """Connects the feature: to `auth.events`, `auth.login_steps` or `auth.backends`. `Auth` calls this once."""

    def routes(self) -> Sequence[BaseRoute]:
        """Returns the feature's own pages. They are mounted together with `routes(auth)`."""
        return ()


class Auth(ChecksCredentials[U_co], ChecksPermissions, KnowsFactors, DatabaseAccess):
    """Holds all parts of one installation, for the middlewares, the pages, the features and the command line.

    `secret_key`: a text, or several, newest first. `sessions`: a store, or a function that makes one from the `Users`
    (default: the table `auth_session`). `session_limits`: limits of a login: "aal1", "aal2", "aal3" (NIST's levels) or
    `SessionLimits`. `max_sessions`: sessions per user; `when_full`: "drop_oldest" or "reject". `backends`: asked before
    the session and the password. `login_url`, `login_redirect_url`, `logout_redirect_url`: names of routes, paths or
    URLs. `redirect_authenticated_user`: whether the login page sends users on. `redirect_field_name`: the field with
    the page to return to. `next_hosts`: hosts it may be on. `trusted_origins`: origins that may post here. `mailer`,
    `base_url` (scheme and host of the site): needed for mail; cookies of an https site are always Secure, except on a
    loopback host. `password_validators`: check new passwords; `context_words`: words of the site for these. `rates`:
    rate limits, as in {"login": "60/m/ip"}. `trusted_proxies`: your reverse proxies; without, all visitors behind one
    count as one client. `django`: defaults of a Django project with the same database and secret key. `connections`:
    connections that only this package uses. `answer`: answers refused requests. `clock`: the time.
    """

    backend_permissions: BackendPermissions
    features: list[Feature]

    def __init__(
        self,
        database: AnyDatabase,
        *,
        secret_key: str | Sequence[str],
        tables: Tables | None = None,
        user_class: type[U_co] = User,  # type: ignore[assignment]  # the default of U_co
        login_fields: Sequence[str] = ("username",),
        sessions: SessionStore | Callable[[Users[Any]], SessionStore] | None = None,
        cookie: Cookie | None = None,
        session_limits: SessionLimits | Preset | None = None,
        max_sessions: int | None = None,
        when_full: WhenFull = "drop_oldest",
        backends: Sequence[AuthenticationBackend] = (),
        passwords: Passwords | None = None,
        templates: Sequence[str | PathLike[str]] = (),
        login_url: str = "login",
        login_redirect_url: str = "/",
        logout_redirect_url: str = "logged_out",
        redirect_authenticated_user: bool = True,
        redirect_field_name: str = "next",
        next_hosts: Sequence[str] = (),
        trusted_origins: Sequence[str] = (),
        csrf: CSRFMode = "headers",
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
        django: Defaults | None = None,
        connections: int | None = None,
        answer: Answer | None = None,
        clock: Clock = time.time,
    ) -> None:
        given = Settings(**{name: value for name, value in locals().items() if name in Settings.__annotations__})
        self.defaults = django or Defaults()
        self.clock, self.tables = clock, tables or self.defaults.tables()
        self.keys = SecretKeys(secret_key).scoped(self.tables.namespace)
        self._connect(database, connections, user_class, passwords)
        attach_roles(given.backends, self.users)
        self.password_validators = build_validators(password_validators, context_words, site_name, self._check_failed)
        self.site = Site(cookie or self.defaults.cookie(), base_url=base_url, trusted_origins=trusted_origins)
        self._build_sessions(given)
        self._build_backends(given)
        self._build_mail(given)
        self.reset_tokens = reset_tokens or self.defaults.reset_tokens(self.tokens, self.keys, clock)
        self._set_up_pages(given)
        self._attach_features(features)

    def _connect(
        self, database: AnyDatabase, connections: int | None, user_class: type[U_co], passwords: Passwords | None
    ) -> None:
        """Builds the access to the database, the users, and the single-use tokens of their links."""
        self.gateway = gateway_of(database)
        self.gateway.keep_connections(connections)
        self.events = Events(self.gateway.atomic, self.gateway.after_commit, self.gateway.apart)
        self.passwords = passwords or self.defaults.passwords()
        self.users: Users[U_co] = Users(
            self.gateway,
            tables=self.tables,
            passwords=self.passwords,
            events=self.events,
            user_class=user_class,
            clock=self.clock,
        )
        self.tokens = Tokens(self.gateway, table=self.tables.token, keys=self.keys, clock=self.clock)

    def _build_sessions(self, given: Settings) -> None:
        self.session_limits = self.defaults.session_limits(given.session_limits)
        store = given.make_store(self.users)
        self.sessions = store or self.defaults.sessions(self.gateway.database, self.users, self.keys, self.clock)
        self.sessions.attach(self.gateway.url, self.tables)
        self.cookie = self.site.cookie
        self.csrf_cookie = self.site.resolve(self.defaults.csrf_cookie(self.cookie))
        self.devices = KnownDevices(self.tokens, self.cookie)
        self.session_backend = SessionBackend(
            self.users, self.keys, limits=self.session_limits, cycle_key=self.defaults.cycle_key, clock=self.clock
        )
        self.user_sessions = UserSessions(
            self.sessions,
            self.session_backend,
            devices=self.devices,
            tokens=self.tokens,
            events=self.events,
            max_sessions=given.max_sessions,
            when_full=given.when_full,
        )
        self.user_sessions.subscribe()

    def _build_backends(self, given: Settings) -> None:
        """Builds the backends, and the throttle that protects their accounts."""
        self.login_fields, self.proxies = parse_login_fields(given.login_fields), TrustedProxies(given.trusted_proxies)
        self.security_log = SecurityLog(self.keys, self.proxies, namespace=self.tables.namespace)
        self.security_log.subscribe(self.events)
        self.throttle = Throttle(
            self.gateway,
            table=self.tables.throttle,
            rates=given.rates,
            names_per_user=len(self.login_fields),
            enabled=given.throttling,
            namespace=self.tables.namespace,
            clock=self.clock,
        )
        login_throttle = LoginThrottle(
            self.throttle,
            devices=self.devices,
            proxies=self.proxies,
            events=self.events,
            offers_reset=lambda conn: any(self.find_url(conn, name) for name in RESET_ROUTES),
        )
        self.model_backend = ModelBackend(self.users, login_fields=self.login_fields, throttle=login_throttle)
        self.pending_logins = PendingLogins(self.users, self.keys)
        self.backends: list[AuthenticationBackend] = [*given.backends, self.session_backend, self.model_backend]
        self.defaults.assign_backend_paths(self.backends)
        self.session_backend.require_backend(lambda: self.backends, is_shared=self.defaults.shares_sessions)
        self.backend_permissions = self.users.backend_permissions = BackendPermissions(self)

    def _build_mail(self, given: Settings) -> None:
        """Builds mail, and the templates and languages that pages and mail share."""
        self.templates, self.languages = Templates(given.templates), Languages(given.languages, given.locale_dirs)
        self.mail_queue, self.site_name = MailQueue(given.mailer), given.site_name
        self.account_mailer = AccountMailer(
            self.templates,
            self.mail_queue,
            base_url=given.base_url,
            site_name=given.site_name,
            from_email=given.from_email,
            path_for=self.url_for,
            clock=self.clock,
        )
        self.notices = SecurityNotices(
            self.account_mailer, gateway=self.gateway, proxies=self.proxies, throttle=self.throttle, clock=self.clock
        )
        if given.notices:
            self.notices.subscribe(self.events, self.list_factors)
        self.users.attach(validators=self.password_validators, outbox=self.account_mailer, send_reset=self._send_reset)
        self.app: Any = None  # the application that `lifespan` started

    async def _send_reset(self, user: User, request: HTTPConnection | None, app: Any) -> None:
        conn = request if request is not None else connection_to(app if app is not None else self.app)
        conn.scope.setdefault(SCOPE_KEY, self)
        with self.override_language(conn):
            self.account_mailer.require_configured()
            link = await make_reset_link(self.reset_tokens, user)
            await self.account_mailer.send(self.account_mailer.reset_mail(conn, user, link, self.reset_tokens.max_age))

    def _set_up_pages(self, given: Settings) -> None:
        self.csrf, self.csrf_tokens = parse_mode(given.csrf), self.defaults.csrf_tokens(self.keys, self.csrf_cookie)
        self.login_url, self.login_redirect_url = given.login_url, given.login_redirect_url
        self.logout_redirect_url = given.logout_redirect_url
        self.redirect_authenticated_user = given.redirect_authenticated_user
        self.redirects = RedirectTargets(
            self.site, given.next_hosts, default=given.login_redirect_url, field=given.redirect_field_name
        )
        self.login_after_reset, self.clear_site_data = given.login_after_reset, given.clear_site_data
        self.answer, self.check_routes = given.answer, True

    def _attach_features(self, features: Sequence[Feature]) -> None:
        require_strong_keys(self.account_mailer.base_url, self, self.sessions, self.reset_tokens)
        self.login_steps: list[AnyStep] = []
        self.features = as_instances(features, Feature, "features", "Pass objects, as in features=[Registration()].")
        for feature in self.features:
            self.tables.features.extend(feature.tables(self.tables))
            feature.attach(self)
        self.tables.finish(self.gateway.dialect)
        self._claim = claim_tables(self.gateway, self.tables, self.sessions)

    def url_for(self, conn: HTTPConnection, name: str, **params: Any) -> str:
        """Returns the path of the route called `name`. A `name` with a slash is a path of the application."""
        return url_path_for(conn.scope, name, **params)

    def override_language(self, conn: HTTPConnection) -> AbstractContextManager[None]:
        """Returns a context manager in which texts are in the language that the request prefers."""
        return override_language(self.languages.negotiate(conn.headers.get("accept-language", "")))

    def add_security_headers(self, response: Response) -> None:
        """Adds the security headers of an account page."""
        targets = self.redirects.form_targets(self.login_redirect_url, self.logout_redirect_url, self.login_url)
        add_security_headers(response, form_targets=targets, varies_by_language=len(self.languages.all) > 1)

    def find_url(self, conn: HTTPConnection, name: str) -> str | None:
        """Returns what `url_for` returns, or None if this site has no such page."""
        is_missing = name in RESET_ROUTES and not self.account_mailer.is_configured
        return None if is_missing else find_url_path(conn.scope, name)

    async def validate_password(self, password: str, user: User | None = None) -> list[ValidationError]:
        """Returns the errors of a new password; an empty list if it is accepted."""
        require_person(user, is_optional=True)
        return await validate_password(password, self.password_validators, user)

    def password_help(self) -> list[str]:
        """Returns the rules for a new password, one sentence each, in the visitor's language."""
        return list(filter(None, (validator.get_help_text() for validator in self.password_validators)))

    async def clear_expired(self, progress: Progress | None = None) -> int:
        """Deletes expired sessions, tokens and rate limit counters; returns the number of deleted sessions.

        It works in small batches with pauses. `progress` is called with the number of sessions deleted so far.
        """
        number = await self.sessions.clear_expired(progress)
        await self.tokens.clear_expired()
        await self.throttle.clear_expired()
        return number

    async def close(self) -> None:
        """Sends the queued mails, stops the threads and closes the connections of this event loop."""
        await self.mail_queue.drain()
        self.passwords.close()
        await self.sessions.close()
        await self.gateway.close()

    async def _check_failed(self, error: Exception) -> None:
        await self.events.emit(PasswordCheckUnavailable(error=error))


def get_auth(conn: HTTPConnection) -> Auth[Any]:
    """Returns the `Auth` that handles this request. Raises ImproperlyConfigured without AuthenticationMiddleware."""
    auth = conn.scope.get(SCOPE_KEY)
    if not isinstance(auth, Auth):
        raise ImproperlyConfigured(
            "This request did not pass AuthenticationMiddleware. Pass middleware=middleware(auth) to your app."
        )
    return auth

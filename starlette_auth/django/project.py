"""The settings of a Django project whose database is shared."""

import importlib.util
import logging
import zoneinfo
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import UTC, tzinfo
from typing import Any, Literal

import sqlalchemy as sa

from ..backends.base import AuthenticationBackend
from ..backends.model import ModelBackend
from ..core.arguments import require_bool, require_function, require_instance, require_integer, require_text
from ..core.clock import DAY, TWO_WEEKS, Clock
from ..core.exceptions import ImproperlyConfigured
from ..core.signing import SecretKeys
from ..database.gateways import AnyDatabase
from ..database.tables import Tables
from ..defaults import Defaults
from ..http.cookies import Cookie
from ..passwords.hash_format import PasswordHasher
from ..passwords.hashers import (
    Argon2PasswordHasher,
    PBKDF2PasswordHasher,
    PBKDF2SHA1PasswordHasher,
    ScryptPasswordHasher,
)
from ..passwords.older_hashers import BCryptSHA256PasswordHasher
from ..passwords.passwords import Passwords, default_hashers
from ..security.csrf_tokens import CSRFTokens
from ..security.reset_tokens import ResetTokens
from ..security.tokens import Tokens
from ..sessions.limits import Preset, SessionLimits
from ..sessions.store import SessionStore
from ..users.users import Users
from .csrf import DjangoCSRFTokens
from .reset_tokens import PasswordResetTokens
from .sessions import SALT, DjangoStore, InvalidateSession
from .signed_cookies import DjangoCookieStore

logger = logging.getLogger("starlette_auth")
MODEL_BACKEND = "django.contrib.auth.backends.ModelBackend"
#: PBKDF2 iterations by Django version. Django rehashes a password with another number at the next login.
ITERATIONS = {
    "4.2": 600_000,
    "5.0": 720_000,
    "5.1": 870_000,
    "5.2": 1_000_000,
    "6.0": 1_200_000,
    "6.1": 1_500_000,
}
SameSite = Literal["Lax", "Strict", "None"]
ENGINES = ("db", "cached_db", "signed_cookies")


@dataclass(frozen=True, kw_only=True)
class DjangoProject(Defaults):
    """Holds the settings of a Django project that shares its database.

    Each has Django's name in lower case. Times and ages are in seconds.

    - `version` is the Django version. With `password_algorithm`, the first of PASSWORD_HASHERS, it decides the format of
      new password hashes. Existing hashes are not upgraded at login: a new hash would end the user's other sessions in
      both applications.
    - `user` is the table of AUTH_USER_MODEL, as a name or a table (see `Tables.django`).
    - `session_engine` is "db", "cached_db" or "signed_cookies".
    - `invalidate_session` is needed with "cached_db": a coroutine function that deletes a changed or ended session from
      Django's cache, given the session key. `DjangoCache` does so for Redis.
    - `session_salt` and `session_table` are for projects with their own session engine.
    - `auth_backends` maps the path of an authentication backend of this application to the path in
      AUTHENTICATION_BACKENDS that sessions store for it. `ModelBackend` is stored under Django's path.
    """

    version: str = "5.2"
    password_algorithm: str = "pbkdf2_sha256"  # noqa: S105  a name
    password_reset_timeout: int = 3 * DAY
    user: str | sa.Table = "auth_user"
    user_model: str = ""
    username_field: str = "username"
    email_field: str = "email"
    use_tz: bool = True
    time_zone: str = "UTC"
    auth_backends: Mapping[str, str] = field(default_factory=dict)
    session_engine: str = "db"
    session_table: str | sa.Table = "django_session"
    session_salt: str = SALT
    session_cookie_name: str = "sessionid"
    session_cookie_age: int = TWO_WEEKS
    session_cookie_domain: str | None = None
    session_cookie_path: str = "/"
    session_cookie_samesite: SameSite = "Lax"
    session_cookie_secure: bool | Literal["auto"] = "auto"
    session_expire_at_browser_close: bool = False
    session_save_every_request: bool = False
    csrf_use_sessions: bool = False
    csrf_cookie_name: str = "csrftoken"
    csrf_cookie_age: int | None = 364 * DAY
    csrf_cookie_domain: str | None = None
    csrf_cookie_path: str = "/"
    csrf_cookie_samesite: SameSite = "Lax"
    csrf_cookie_secure: bool | Literal["auto"] = "auto"
    csrf_cookie_httponly: bool = False
    invalidate_session: InvalidateSession | None = None

    cycle_key = True
    shares_sessions = True

    def __post_init__(self) -> None:
        self._check_kinds()
        if self.version not in ITERATIONS:
            raise ImproperlyConfigured(f"version={self.version!r} is not supported. Use {', '.join(ITERATIONS)}.")
        if self.engine not in ENGINES:
            raise ImproperlyConfigured(
                f"session_engine={self.session_engine!r} cannot be shared. In the Django project, set SESSION_ENGINE to "
                '"django.contrib.sessions.backends.cached_db", or to the engine named db or signed_cookies.'
            )
        if self.password_algorithm not in _algorithms():
            raise ImproperlyConfigured(
                f"password_algorithm={self.password_algorithm!r} is not available. Use {', '.join(_algorithms())}."
            )
        try:
            self.zone()
        except (zoneinfo.ZoneInfoNotFoundError, ValueError) as error:
            raise ImproperlyConfigured(
                f"time_zone={self.time_zone!r} is not a known time zone. Use a name like Europe/Berlin, or install tzdata."
            ) from error
        if self.engine == "cached_db" and self.invalidate_session is None:
            logger.warning(
                "Django's cache keeps sessions that end in this application: a user who logs out here stays logged in "
                "to Django. Pass invalidate_session to DjangoProject, as in invalidate_session=DjangoCache(url)."
            )

    def _check_kinds(self) -> None:
        for setting in fields(self):
            value, kind = getattr(self, setting.name), setting.type
            fix = f"Pass the value of {setting.name.upper()} in Django's settings."
            if kind is int:
                require_integer(value, setting.name)
            elif kind is bool:
                require_bool(value, setting.name)
            elif kind is str:
                require_text(value, setting.name, fix)
            elif kind == str | sa.Table:
                require_instance(value, (str, sa.Table), setting.name, fix)
            elif value is not None and kind == int | None:
                require_integer(value, setting.name)
        if self.invalidate_session is not None:
            fix = "Pass a coroutine function, such as DjangoCache(url)."
            require_function(self.invalidate_session, "invalidate_session", fix)
        self.csrf_cookie(self.cookie())  # checks the settings of both cookies
        require_instance(self.auth_backends, Mapping, "auth_backends", 'Pass {"yours.Backend": "django.path.Backend"}.')

    @property
    def engine(self) -> str:
        return self.session_engine.rpartition(".")[2]

    def zone(self) -> tzinfo:
        return UTC if self.time_zone == "UTC" else zoneinfo.ZoneInfo(self.time_zone)

    def tables(self) -> Tables:
        return Tables.django(
            self.user,
            model=self.user_model,
            username_field=self.username_field,
            email_field=self.email_field,
            session=self.session_table,
            time_zone=None if self.use_tz else self.zone(),
        )

    def passwords(self) -> Passwords:
        preferred = self._hasher()
        further = [hasher for hasher in default_hashers() if hasher.algorithm != preferred.algorithm]
        return Passwords([preferred, *further], upgrade=False)

    def cookie(self) -> Cookie:
        return Cookie(
            name=self.session_cookie_name,
            max_age=self.session_cookie_age,
            path=self.session_cookie_path,
            domain=self.session_cookie_domain,
            secure=self.session_cookie_secure,
            samesite=_lower(self.session_cookie_samesite),
            prefix=False,
            expire_at_browser_close=self.session_expire_at_browser_close,
        )

    def csrf_cookie(self, cookie: Cookie) -> Cookie:
        return Cookie(
            name=self.csrf_cookie_name,
            max_age=364 * DAY if self.csrf_cookie_age is None else self.csrf_cookie_age,
            expire_at_browser_close=self.csrf_cookie_age is None,
            path=self.csrf_cookie_path,
            domain=self.csrf_cookie_domain,
            secure=self.csrf_cookie_secure,
            samesite=_lower(self.csrf_cookie_samesite),
            prefix=False,
            httponly=self.csrf_cookie_httponly,
        )

    def csrf_tokens(self, keys: SecretKeys, cookie: Cookie) -> CSRFTokens:
        return DjangoCSRFTokens(keys, cookie, use_sessions=self.csrf_use_sessions)

    def sessions(self, database: AnyDatabase, users: Users[Any], keys: SecretKeys, clock: Clock) -> SessionStore:
        if self.engine == "signed_cookies":
            return DjangoCookieStore(
                keys,
                max_age=self.session_cookie_age,
                save_every_request=self.session_save_every_request,
                time_zone=None if self.use_tz else self.zone(),
                clock=clock,
            )
        return DjangoStore(
            database,
            keys,
            users=users,
            table=users.tables.session,
            salt=self.session_salt,
            invalidate=self.invalidate_session,
            save_every_request=self.session_save_every_request,
            max_age=self.session_cookie_age,
            time_zone=None if self.use_tz else self.zone(),
            clock=clock,
        )

    def session_limits(self, limits: SessionLimits | Preset | None) -> SessionLimits | None:
        """Returns None: Django stores neither the start nor the last use of a session."""
        if limits is not None:
            raise ImproperlyConfigured(
                "session_limits cannot be used with DjangoProject: Django does not store the last use of a session. "
                "Remove session_limits, and set session_cookie_age of DjangoProject."
            )
        return None

    def reset_tokens(self, tokens: Tokens, keys: SecretKeys, clock: Clock) -> ResetTokens:
        return PasswordResetTokens(
            keys, max_age=self.password_reset_timeout, time_zone=self.zone(), use_tz=self.use_tz, clock=clock
        )

    def assign_backend_paths(self, backends: Sequence[AuthenticationBackend]) -> None:
        django_paths = {MODEL_BACKEND, *self.auth_backends.values()}
        for backend in backends:
            default = MODEL_BACKEND if isinstance(backend, ModelBackend) else backend.path
            path = self.auth_backends.get(backend.path, default)
            if backend.path not in django_paths and backend.path != path:
                backend.path = path

    def _hasher(self) -> PasswordHasher:
        iterations = ITERATIONS[self.version]
        match self.password_algorithm:
            case "argon2":
                return Argon2PasswordHasher(time_cost=2, memory_cost=102_400, parallelism=8)
            case "pbkdf2_sha1":
                return PBKDF2SHA1PasswordHasher(iterations=iterations)
            case "scrypt":
                return ScryptPasswordHasher(parallelism=5 if iterations >= ITERATIONS["5.1"] else 1)
            case "bcrypt_sha256":
                return BCryptSHA256PasswordHasher()
        return PBKDF2PasswordHasher(iterations=iterations)


def _lower(samesite: SameSite) -> Literal["lax", "strict", "none"]:
    names: dict[str, Literal["lax", "strict", "none"]] = {"Lax": "lax", "Strict": "strict", "None": "none"}
    if not isinstance(samesite, str) or samesite not in names:
        raise ImproperlyConfigured(f'SameSite={samesite!r} is not a known value. Use "Lax", "Strict" or "None".')
    return names[samesite]


def _algorithms() -> list[str]:
    has_bcrypt = importlib.util.find_spec("bcrypt") is not None
    return ["pbkdf2_sha256", "pbkdf2_sha1", "argon2", "scrypt", *(["bcrypt_sha256"] if has_bcrypt else [])]

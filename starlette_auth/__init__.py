"""Users, sessions, permissions and account pages for Starlette and FastAPI."""

import importlib
from typing import TYPE_CHECKING, Any

from .answers import answer, redirect_to_login
from .application import lifespan, middleware, well_known
from .auth import Auth, Feature, get_auth
from .authentication import authenticate, login, logout, update_session_auth_hash
from .backends.base import AuthenticationBackend
from .backends.login_methods import LoginMethod
from .backends.login_steps import LoginStep
from .backends.model import ModelBackend
from .backends.pending_login import PendingLogin
from .backends.permissions.roles import Roles
from .backends.remote_user import RemoteUserBackend
from .backends.session import SessionBackend
from .backends.user_sessions import UserSessions
from .backends.ways import Way
from .context_processors import auth_context, csrf_input, csrf_token
from .core.events import (
    EmailChanged,
    Event,
    Events,
    EverybodyLoggedOut,
    LoginFailed,
    LoginsBlocked,
    PasswordChanged,
    PasswordCheckUnavailable,
    PasswordRefused,
    SessionEnded,
    SessionExpired,
    SessionsEnded,
    TokenCreated,
    TokenExpired,
    TokenRevoked,
    TooManyAttempts,
    UserCreated,
    UserDeactivated,
    UserDeleted,
    UserLoggedIn,
    UserLoggedOut,
)
from .core.exceptions import (
    AlreadyExists,
    DoesNotExist,
    HashingBusy,
    ImproperlyConfigured,
    IntegrityError,
    PermissionDenied,
    Refused,
    Remedy,
    SessionInterrupted,
    SessionTooLarge,
    StarletteAuthError,
    Throttled,
    TooManyFailures,
    TooManySessions,
    Unavailable,
    UnstorableValue,
    ValidationError,
)
from .core.feature_events import (
    DeviceApproved,
    DeviceRefused,
    FactorAdded,
    FactorRemoved,
    LoginPending,
    PasskeyCloned,
    RecoveryCodesMade,
    RecoveryCodeUsed,
    SecondFactorFailed,
)
from .database.gateway import Gateway
from .database.gateways import gateway_of
from .database.migrations import migrate
from .database.table_definitions import user_columns
from .database.tables import Tables
from .decorators import login_required, permission_required, staff_required, user_passes_test
from .django.cache import DjangoCache
from .django.project import DjangoProject
from .django.reset_tokens import PasswordResetTokens
from .django.sessions import DjangoStore
from .django.signed_cookies import DjangoCookieStore
from .http.cookies import Cookie
from .http.endpoints import csrf_exempt, login_not_required
from .mail.mailers import ConsoleMailer, Mailer, SMTPMailer
from .middlewares.authentication import AuthenticationMiddleware
from .middlewares.csrf import CSRFMiddleware
from .middlewares.login_required import LoginRequiredMiddleware
from .middlewares.security_headers import SecurityHeaders, SecurityHeadersMiddleware
from .middlewares.session import SessionMiddleware
from .pages.factors.reauthentication import factor_required, fresh_login_required
from .pages.forms import Field, Form
from .pages.login_steps import advance, complete_login, pending_login
from .pages.routes import routes
from .passwords.hash_format import PasswordHasher
from .passwords.hashers import (
    Argon2PasswordHasher,
    PBKDF2PasswordHasher,
    PBKDF2SHA1PasswordHasher,
    ScryptPasswordHasher,
)
from .passwords.older_hashers import BCryptPasswordHasher, BCryptSHA256PasswordHasher, MD5PasswordHasher
from .passwords.password_changes import PasswordValidator
from .passwords.passwords import Passwords
from .passwords.pwned import PwnedPasswordsValidator
from .passwords.validators import (
    CommonPasswordValidator,
    ContextWordsValidator,
    MaximumLengthValidator,
    MinimumLengthValidator,
    NumericPasswordValidator,
    UserAttributeSimilarityValidator,
    default_validators,
)
from .sessions.base import SessionBase
from .sessions.cached import CachedStore
from .sessions.cookie import CookieStore
from .sessions.database import DatabaseStore
from .sessions.expiry import SessionLimit
from .sessions.limits import SessionLimits
from .sessions.memory import MemoryStore
from .sessions.redis import RedisStore
from .sessions.store import SessionStore
from .users.models import AnonymousUser, ContentType, Group, Permission, User
from .users.usernames import ASCIIUsernameValidator, UnicodeUsernameValidator
from .users.users import Users

if TYPE_CHECKING:
    from .features.active_sessions import ActiveSessions
    from .features.api_tokens.pages import APITokens
    from .features.api_tokens.tokens import APIToken
    from .features.bearer_sessions import BearerSessions
    from .features.device_login.pages import DeviceLogin
    from .features.email_change import EmailChange
    from .features.passkeys.feature import Passkeys
    from .features.registration import Registration
    from .features.two_factor.pages import TwoFactor

#: The optional features, and their modules. They are imported at the first use: the start of other sites needs no time for
#: them.
_FEATURES = {
    "ActiveSessions": ".features.active_sessions",
    "APITokens": ".features.api_tokens.pages",
    "APIToken": ".features.api_tokens.tokens",
    "BearerSessions": ".features.bearer_sessions",
    "DeviceLogin": ".features.device_login.pages",
    "EmailChange": ".features.email_change",
    "Passkeys": ".features.passkeys.feature",
    "Registration": ".features.registration",
    "TwoFactor": ".features.two_factor.pages",
}

__all__ = [
    "APIToken",
    "APITokens",
    "ASCIIUsernameValidator",
    "ActiveSessions",
    "AlreadyExists",
    "AnonymousUser",
    "Argon2PasswordHasher",
    "Auth",
    "AuthenticationBackend",
    "AuthenticationMiddleware",
    "BCryptPasswordHasher",
    "BCryptSHA256PasswordHasher",
    "BearerSessions",
    "CSRFMiddleware",
    "CachedStore",
    "CommonPasswordValidator",
    "ConsoleMailer",
    "ContentType",
    "ContextWordsValidator",
    "Cookie",
    "CookieStore",
    "DatabaseStore",
    "DeviceApproved",
    "DeviceLogin",
    "DeviceRefused",
    "DjangoCache",
    "DjangoCookieStore",
    "DjangoProject",
    "DjangoStore",
    "DoesNotExist",
    "EmailChange",
    "EmailChanged",
    "Event",
    "Events",
    "EverybodyLoggedOut",
    "FactorAdded",
    "FactorRemoved",
    "Feature",
    "Field",
    "Form",
    "Gateway",
    "Group",
    "HashingBusy",
    "ImproperlyConfigured",
    "IntegrityError",
    "LoginFailed",
    "LoginMethod",
    "LoginPending",
    "LoginRequiredMiddleware",
    "LoginStep",
    "LoginsBlocked",
    "MD5PasswordHasher",
    "Mailer",
    "MaximumLengthValidator",
    "MemoryStore",
    "MinimumLengthValidator",
    "ModelBackend",
    "NumericPasswordValidator",
    "PBKDF2PasswordHasher",
    "PBKDF2SHA1PasswordHasher",
    "PasskeyCloned",
    "Passkeys",
    "PasswordChanged",
    "PasswordCheckUnavailable",
    "PasswordHasher",
    "PasswordRefused",
    "PasswordResetTokens",
    "PasswordValidator",
    "Passwords",
    "PendingLogin",
    "Permission",
    "PermissionDenied",
    "PwnedPasswordsValidator",
    "RecoveryCodeUsed",
    "RecoveryCodesMade",
    "RedisStore",
    "Refused",
    "Registration",
    "Remedy",
    "RemoteUserBackend",
    "Roles",
    "SMTPMailer",
    "ScryptPasswordHasher",
    "SecondFactorFailed",
    "SecurityHeaders",
    "SecurityHeadersMiddleware",
    "SessionBackend",
    "SessionBase",
    "SessionEnded",
    "SessionExpired",
    "SessionInterrupted",
    "SessionLimit",
    "SessionLimits",
    "SessionMiddleware",
    "SessionStore",
    "SessionTooLarge",
    "SessionsEnded",
    "StarletteAuthError",
    "Tables",
    "Throttled",
    "TokenCreated",
    "TokenExpired",
    "TokenRevoked",
    "TooManyAttempts",
    "TooManyFailures",
    "TooManySessions",
    "TwoFactor",
    "Unavailable",
    "UnicodeUsernameValidator",
    "UnstorableValue",
    "User",
    "UserAttributeSimilarityValidator",
    "UserCreated",
    "UserDeactivated",
    "UserDeleted",
    "UserLoggedIn",
    "UserLoggedOut",
    "UserSessions",
    "Users",
    "ValidationError",
    "Way",
    "advance",
    "answer",
    "auth_context",
    "authenticate",
    "complete_login",
    "csrf_exempt",
    "csrf_input",
    "csrf_token",
    "default_validators",
    "factor_required",
    "fresh_login_required",
    "gateway_of",
    "get_auth",
    "lifespan",
    "login",
    "login_not_required",
    "login_required",
    "logout",
    "middleware",
    "migrate",
    "pending_login",
    "permission_required",
    "redirect_to_login",
    "routes",
    "staff_required",
    "update_session_auth_hash",
    "user_columns",
    "user_passes_test",
    "well_known",
]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name not in _FEATURES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(_FEATURES[name], __name__), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_FEATURES})

"""Users, sessions, permissions and account pages for Starlette and FastAPI."""

from .application import lifespan, middleware, well_known
from .auth import Auth, Feature, get_auth
from .authentication import authenticate, complete_login, login, logout, update_session_auth_hash
from .backends import AuthenticationBackend, ModelBackend, RemoteUserBackend, SessionBackend
from .context import auth_context
from .cookies import Cookie
from .csrf import CSRFMiddleware
from .csrf_tokens import csrf_input, csrf_token
from .decorators import login_not_required, login_required, permission_required, user_passes_test
from .django.cache import DjangoCache
from .django.project import DjangoProject
from .events import (
    EmailChanged,
    Event,
    Events,
    LoginFailed,
    PasswordChanged,
    PasswordCheckUnavailable,
    SessionEnded,
    SessionsEnded,
    UserCreated,
    UserDeactivated,
    UserDeleted,
    UserLoggedIn,
    UserLoggedOut,
)
from .exceptions import (
    AlreadyExists,
    DoesNotExist,
    HashingBusy,
    ImproperlyConfigured,
    IntegrityError,
    PermissionDenied,
    SessionInterrupted,
    SessionTooLarge,
    StarletteAuthError,
    Throttled,
    TooManySessions,
    Unavailable,
    UnstorableValue,
    ValidationError,
)
from .features.active_sessions import ActiveSessions
from .features.email_change import EmailChange
from .features.registration import Registration
from .forms import Field, Form
from .fresh_login import fresh_login_required
from .gateway import Gateway
from .hashers import (
    Argon2PasswordHasher,
    BCryptPasswordHasher,
    BCryptSHA256PasswordHasher,
    MD5PasswordHasher,
    PasswordHasher,
    PBKDF2PasswordHasher,
    PBKDF2SHA1PasswordHasher,
    ScryptPasswordHasher,
)
from .limits import SessionLimit, SessionLimits
from .logins import Logins
from .mail import ConsoleMailer, Mailer, SMTPMailer
from .middlewares import AuthenticationMiddleware, LoginRequiredMiddleware, SessionMiddleware
from .models import AnonymousUser, ContentType, Group, Permission, User
from .passwords import Passwords
from .schema import migrate
from .sessions.base import SessionBase
from .sessions.cached import CachedStore
from .sessions.cookie import CookieStore
from .sessions.database import DatabaseStore
from .sessions.django import DjangoStore
from .sessions.django_cookie import DjangoCookieStore
from .sessions.memory import MemoryStore
from .sessions.redis import RedisStore
from .sessions.store import SessionStore
from .tables import Tables, user_columns
from .tokens import PasswordResetTokens
from .users import Users
from .validators import (
    CommonPasswordValidator,
    ContextWordsValidator,
    MaximumLengthValidator,
    MinimumLengthValidator,
    NumericPasswordValidator,
    PasswordValidator,
    PwnedPasswordsValidator,
    UserAttributeSimilarityValidator,
    default_validators,
)
from .views import routes

__all__ = [
    "ActiveSessions",
    "AlreadyExists",
    "AnonymousUser",
    "Argon2PasswordHasher",
    "Auth",
    "AuthenticationBackend",
    "AuthenticationMiddleware",
    "BCryptPasswordHasher",
    "BCryptSHA256PasswordHasher",
    "CSRFMiddleware",
    "CachedStore",
    "CommonPasswordValidator",
    "ConsoleMailer",
    "ContentType",
    "ContextWordsValidator",
    "Cookie",
    "CookieStore",
    "DatabaseStore",
    "DjangoCache",
    "DjangoCookieStore",
    "DjangoProject",
    "DjangoStore",
    "DoesNotExist",
    "EmailChange",
    "EmailChanged",
    "Event",
    "Events",
    "Feature",
    "Field",
    "Form",
    "Gateway",
    "Group",
    "HashingBusy",
    "ImproperlyConfigured",
    "IntegrityError",
    "LoginFailed",
    "LoginRequiredMiddleware",
    "Logins",
    "MD5PasswordHasher",
    "Mailer",
    "MaximumLengthValidator",
    "MemoryStore",
    "MinimumLengthValidator",
    "ModelBackend",
    "NumericPasswordValidator",
    "PBKDF2PasswordHasher",
    "PBKDF2SHA1PasswordHasher",
    "PasswordChanged",
    "PasswordCheckUnavailable",
    "PasswordHasher",
    "PasswordResetTokens",
    "PasswordValidator",
    "Passwords",
    "Permission",
    "PermissionDenied",
    "PwnedPasswordsValidator",
    "RedisStore",
    "Registration",
    "RemoteUserBackend",
    "SMTPMailer",
    "ScryptPasswordHasher",
    "SessionBackend",
    "SessionBase",
    "SessionEnded",
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
    "TooManySessions",
    "Unavailable",
    "UnstorableValue",
    "User",
    "UserAttributeSimilarityValidator",
    "UserCreated",
    "UserDeactivated",
    "UserDeleted",
    "UserLoggedIn",
    "UserLoggedOut",
    "Users",
    "ValidationError",
    "auth_context",
    "authenticate",
    "complete_login",
    "csrf_input",
    "csrf_token",
    "default_validators",
    "fresh_login_required",
    "get_auth",
    "lifespan",
    "login",
    "login_not_required",
    "login_required",
    "logout",
    "middleware",
    "migrate",
    "permission_required",
    "routes",
    "update_session_auth_hash",
    "user_columns",
    "user_passes_test",
    "well_known",
]
__version__ = "0.1.0"

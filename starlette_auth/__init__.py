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
from .events import (
    EmailChanged,
    Event,
    Events,
    LoginFailed,
    PasswordChanged,
    PasswordCheckUnavailable,
    SessionsEnded,
    UserCreated,
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
    UnstorableValue,
    ValidationError,
)
from .features.email_change import EmailChange
from .features.registration import Registration
from .forms import Field, Form
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
from .mail import ConsoleMailer, Mailer, SMTPMailer
from .middlewares import AuthenticationMiddleware, LoginRequiredMiddleware, SessionMiddleware
from .models import AnonymousUser, ContentType, Group, Permission, User
from .passwords import Passwords
from .schema import migrate
from .sessions.base import SessionBase, SessionStore
from .sessions.cookie import CookieStore
from .sessions.database import DatabaseStore
from .sessions.memory import MemoryStore
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
    "AlreadyExists",
    "AnonymousUser",
    "Argon2PasswordHasher",
    "Auth",
    "AuthenticationBackend",
    "AuthenticationMiddleware",
    "BCryptPasswordHasher",
    "BCryptSHA256PasswordHasher",
    "CSRFMiddleware",
    "CommonPasswordValidator",
    "ConsoleMailer",
    "ContentType",
    "ContextWordsValidator",
    "Cookie",
    "CookieStore",
    "DatabaseStore",
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
    "Registration",
    "RemoteUserBackend",
    "SMTPMailer",
    "ScryptPasswordHasher",
    "SessionBackend",
    "SessionBase",
    "SessionInterrupted",
    "SessionMiddleware",
    "SessionStore",
    "SessionTooLarge",
    "SessionsEnded",
    "StarletteAuthError",
    "Tables",
    "Throttled",
    "UnstorableValue",
    "User",
    "UserAttributeSimilarityValidator",
    "UserCreated",
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

"""Tests of wrong settings: each is refused at construction, with a message that ends with the fix."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from databases import Database
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.testclient import TestClient

from starlette_auth import (
    Argon2PasswordHasher,
    Auth,
    AuthenticationBackend,
    AuthenticationMiddleware,
    BCryptSHA256PasswordHasher,
    CachedStore,
    CommonPasswordValidator,
    Cookie,
    CookieStore,
    CSRFMiddleware,
    DatabaseStore,
    DjangoProject,
    DjangoStore,
    EmailChange,
    Events,
    ImproperlyConfigured,
    LoginRequiredMiddleware,
    MaximumLengthValidator,
    MemoryStore,
    MinimumLengthValidator,
    PasswordResetTokens,
    Passwords,
    PBKDF2PasswordHasher,
    PwnedPasswordsValidator,
    Registration,
    RemoteUserBackend,
    ScryptPasswordHasher,
    SessionLimit,
    SessionLimits,
    SessionMiddleware,
    SMTPMailer,
    Tables,
    User,
    UserAttributeSimilarityValidator,
    UserLoggedIn,
    fresh_login_required,
    lifespan,
    middleware,
    permission_required,
    routes,
    well_known,
)
from starlette_auth.testing import CollectingMailer

from .conftest import SECRET_KEY

anything: Any = None
LIMIT = SessionLimit(absolute=60, idle=60)


class TokenBackend(AuthenticationBackend):
    pass


def database() -> Database:
    return Database("sqlite+aiosqlite:///nowhere.sqlite3")


def make_auth(**options: Any) -> Auth:
    return Auth(**{"database": database(), "secret_key": SECRET_KEY, **options})


def refused(construct: Callable[[], object]) -> str:
    """Returns the message with which a wrong argument is refused. It says what to do at its end."""
    with pytest.raises(ImproperlyConfigured) as caught:
        construct()
    message = str(caught.value)
    fix = message.rstrip(".").rpartition(". ")[2]
    verbs = (
        "Pass ",
        "Use ",
        "Write ",
        "Name ",
        "Generate ",
        "Leave ",
        "Create ",
        "Remove ",
        "Choose ",
        "Set ",
        "Make ",
    )
    assert fix.startswith(verbs), message
    return message


#: For each argument of Auth: values of a wrong kind. Each argument gets all of `WRONG` that it does not accept, too.
WRONG: dict[str, list[Any]] = {
    "database": [None, "sqlite:///x", Database],
    "secret_key": [None, "", 5, [], [""], {"a": "b"}, b"x" * 50, [SECRET_KEY, None]],
    "tables": [Tables, "auth_user", []],
    "user_class": [User(id=1, username="ann"), "User", dict, None],
    "login_fields": ["username", (), ("phone",), None, 5, ("username", "username"), ("username", None)],
    "sessions": [MemoryStore, "redis://127.0.0.1", 5, lambda users: None, lambda users: MemoryStore, [], lambda: None],
    "cookie": [Cookie, "session", {"name": "session"}],
    "session_limits": ["aal4", SessionLimits, 60, [], LIMIT],
    "max_sessions": [0, -1, "5", 2.5, True, []],
    "when_full": ["drop", None, []],
    "backends": [[TokenBackend], TokenBackend, TokenBackend(), "TokenBackend", [None], None, ["yours.TokenBackend"]],
    "passwords": [Passwords, [Argon2PasswordHasher()], "argon2"],
    "templates": ["templates", None, [5], Path("templates"), ["/nowhere/at/all"], 5],
    "login_url": [None, "", 5, ["login"], "/\ud800", "/x\r\ny", "javascript:alert(1)", "/log in"],
    "login_redirect_url": [None, "", 5, "data:text/html,x"],
    "logout_redirect_url": [None, "", 5, "/x\x00"],
    "next_hosts": ["shop.example", ["https://shop.example"], ["*"], [None], [""], None, ["a/b"]],
    "csrf": ["off", None, True, []],
    "mailer": [CollectingMailer, "smtp://host", 5, object()],
    "base_url": ["shop.example", "https://shop.example/path", 5, b"https://shop.example", "", "ftp://a.example"],
    "site_name": [None, 5, "Shop\nX", "Shop\x1b[0m"],
    "from_email": [None, 5, "not an address"],
    "languages": ["en", [], None, [None], [""], 5, ["xx"]],
    "locale_dirs": ["locale", None, [5], ["/nowhere/at/all"]],
    "password_validators": [
        ["json.tool"],
        [MinimumLengthValidator],
        MinimumLengthValidator(),
        "django.contrib.auth.password_validation.MinimumLengthValidator",
        [None],
        5,
        {"NAME": "x"},
    ],
    "context_words": ["shop", None, [None], [5], [""]],
    "reset_tokens": [PasswordResetTokens, "token", 5],
    "rates": [["login"], "10/m/ip", {"log_in": "10/m/ip"}, {5: "10/m/ip"}, {"login": 10}, {"login": None}],
    "trusted_proxies": ["10.0.0.0/8", ["*"], [5], None, [None], ["proxy.example"], ["10.0.0.1/8"]],
    "features": [[Registration], Registration, Registration(), "Registration", [None], None],
    "django": [DjangoProject, "5.2", True],
    "connections": ["2", -1, 2.5, True],
    "clock": [None, time, lambda: "now", 5, lambda: None],
    **{name: ["off", 1, None] for name in ("notices", "throttling", "login_after_reset", "clear_site_data")},
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_argument_of_auth_is_refused(name: str) -> None:
    for value in WRONG[name]:
        message = refused(lambda value=value: make_auth(**{name: value}))  # type: ignore[misc]
        assert SECRET_KEY not in message


@pytest.mark.parametrize("origin", ["*", "https://*.shop.example", "https://*", "http://localhost:*"])
def test_wildcards_of_origins_are_not_supported(origin: str) -> None:
    assert "wildcards are not supported" in refused(lambda: make_auth(trusted_origins=[origin]))


@pytest.mark.parametrize(
    "origins", ["https://a.example", ["a.example"], ["https://a.example/path"], [None], None, ["null"]]
)
def test_what_is_no_origin_is_refused(origins: Any) -> None:
    assert 'as in ["https://shop.example"]' in refused(lambda: make_auth(trusted_origins=origins))


def test_the_message_names_what_was_passed() -> None:
    assert "the class Registration" in refused(lambda: make_auth(features=[Registration]))
    assert "the class TokenBackend" in refused(lambda: make_auth(backends=[TokenBackend]))
    assert "a str" in refused(lambda: make_auth(password_validators=["json.tool"]))


def test_right_arguments_in_other_forms_are_taken(tmp_path: Path) -> None:
    auth = make_auth(
        secret_key=iter([SECRET_KEY]),
        login_fields=["username", "email"],
        backends=(backend for backend in [TokenBackend()]),
        features=iter([EmailChange()]),
        templates=(tmp_path,),
        next_hosts={"shop.example:8000", "[::1]:8000"},
        trusted_origins={"https://Shop.example/", "http://[::1]:8000"},
        trusted_proxies=(text for text in ["unix", "10.0.0.0/8"]),
        mailer=CollectingMailer(),
        base_url="https://shop.example",
        clock=lambda: 1,
    )
    assert auth.login_fields == ("username", "email")
    assert len(auth.features) == 1
    assert len(auth.backends) == 3
    assert auth.site.trusted_origins == {"https://shop.example", "http://[::1]:8000"}
    assert (auth.proxies.trusts_socket, len(auth.proxies.networks)) == (True, 1)


OTHERS: dict[str, list[Callable[[], object]]] = {
    "passwords": [
        lambda: Passwords([Argon2PasswordHasher]),  # type: ignore[list-item]
        lambda: Passwords(["argon2"]),  # type: ignore[list-item]
        lambda: Passwords(Argon2PasswordHasher()),  # type: ignore[arg-type]
        lambda: Passwords(threads=0),
        lambda: Passwords(max_waiting=-1),
        lambda: Passwords(upgrade="no"),  # type: ignore[arg-type]
    ],
    "hashers": [
        lambda: Argon2PasswordHasher(time_cost=0),
        lambda: Argon2PasswordHasher(memory_cost=1),
        lambda: PBKDF2PasswordHasher(iterations="1000"),  # type: ignore[arg-type]
        lambda: ScryptPasswordHasher(work_factor=1000),
        lambda: BCryptSHA256PasswordHasher(rounds=99),
    ],
    "validators": [
        lambda: MinimumLengthValidator(0),
        lambda: MinimumLengthValidator("15"),  # type: ignore[arg-type]
        lambda: MaximumLengthValidator(-1),
        lambda: UserAttributeSimilarityValidator("username"),
        lambda: UserAttributeSimilarityValidator(max_similarity="0.7"),  # type: ignore[arg-type]
        lambda: CommonPasswordValidator(5),  # type: ignore[arg-type]
        lambda: UserAttributeSimilarityValidator(max_similarity=3.5),
        lambda: PwnedPasswordsValidator(timeout=0),
        lambda: PwnedPasswordsValidator(timeout=float("nan")),
    ],
    "limits": [
        lambda: SessionLimit(absolute="60", idle=60),  # type: ignore[arg-type]
        lambda: SessionLimit(absolute=60, idle=0),
        lambda: SessionLimit(absolute=60, idle=60, persistent="yes"),  # type: ignore[arg-type]
        lambda: SessionLimits(remembered=60, default=LIMIT, staff=LIMIT),  # type: ignore[arg-type]
    ],
    "features": [
        lambda: Registration(fields="email"),
        lambda: Registration(fields=5),  # type: ignore[arg-type]
        lambda: Registration(fields=("phone",)),
        lambda: Registration(max_age=0),
        lambda: Registration(verify="never"),  # type: ignore[arg-type]
        lambda: EmailChange(max_age="3600"),  # type: ignore[arg-type]
        lambda: EmailChange(undo_age=-1),
    ],
    "stores": [
        lambda: DatabaseStore("sqlite:///x"),  # type: ignore[arg-type]
        lambda: DatabaseStore(anything),
        lambda: DatabaseStore(make_auth().database, users="x"),  # type: ignore[arg-type]
        lambda: DatabaseStore(make_auth().database, table="x"),  # type: ignore[arg-type]
        lambda: CachedStore(MemoryStore(), "redis://127.0.0.1"),  # type: ignore[arg-type]
        lambda: DjangoStore(anything, SECRET_KEY),
        lambda: CookieStore(anything),
    ],
    "backends": [
        lambda: RemoteUserBackend(anything, trusted_proxies=[]),
        lambda: RemoteUserBackend(make_auth().users, trusted_proxies="10.0.0.1"),
        lambda: RemoteUserBackend(make_auth().users, trusted_proxies=[], header=""),
    ],
    "mailers": [
        lambda: SMTPMailer(anything),
        lambda: SMTPMailer("smtp://host"),
        lambda: SMTPMailer("host", port="25"),  # type: ignore[arg-type]
        lambda: SMTPMailer("host", port=70_000),
        lambda: SMTPMailer("host", timeout=0),
        lambda: SMTPMailer("host", tls_context=True),  # type: ignore[arg-type]
        lambda: SMTPMailer("host", tls=True),  # type: ignore[arg-type]
    ],
    "application": [
        lambda: middleware(anything),
        lambda: middleware(Auth),  # type: ignore[arg-type]
        lambda: middleware(make_auth(), exclude="/static"),
        lambda: middleware(make_auth(), exclude=["static"]),
        lambda: middleware(make_auth(), exclude=anything),
        lambda: middleware(make_auth(), exclude=[1]),  # type: ignore[list-item]
        lambda: lifespan(anything),
        lambda: lifespan(make_auth(), 5),  # type: ignore[arg-type]
        lambda: lifespan(make_auth(), create_tables="yes"),  # type: ignore[arg-type]
        lambda: routes(anything),
        lambda: well_known(anything),
        lambda: LoginRequiredMiddleware(Starlette(), exclude="/static"),
    ],
    "decorators": [
        lambda: fresh_login_required(max_age="300"),  # type: ignore[call-overload]
        lambda: fresh_login_required(max_age=0),
        lambda: fresh_login_required(keep="title"),
        lambda: permission_required(anything),
        lambda: permission_required([anything]),
    ],
    "others": [
        lambda: Events().on(UserLoggedIn)("audit"),  # type: ignore[arg-type]
        lambda: Tables(user="member"),  # type: ignore[arg-type]
        lambda: DjangoProject(session_cookie_age="3600"),  # type: ignore[arg-type]
        lambda: DjangoProject(use_tz="no"),  # type: ignore[arg-type]
        lambda: DjangoProject(session_cookie_name=anything),
        lambda: DjangoProject(version=5.2),  # type: ignore[arg-type]
    ],
}


@pytest.mark.parametrize("what", OTHERS)
def test_a_wrong_argument_of_another_public_class_is_refused(what: str) -> None:
    for construct in OTHERS[what]:
        refused(construct)


MISTAKES: list[Middleware] = [
    Middleware(SessionMiddleware, make_auth()),  # type: ignore[arg-type]
    Middleware(SessionMiddleware),
    Middleware(SessionMiddleware, store=MemoryStore),  # type: ignore[arg-type]
    Middleware(AuthenticationMiddleware),
    Middleware(AuthenticationMiddleware, MemoryStore()),  # type: ignore[arg-type]
    Middleware(CSRFMiddleware, Auth),  # type: ignore[arg-type]
]


@pytest.mark.parametrize("mistake", MISTAKES, ids=range(len(MISTAKES)))
def test_the_application_does_not_start_with_a_wrong_middleware(mistake: Middleware) -> None:
    with (
        pytest.raises(ImproperlyConfigured, match=r"[Ww]rite Middleware\("),
        TestClient(Starlette(middleware=[mistake])),
    ):
        pass


def test_a_middleware_without_its_application_is_refused() -> None:
    assert "store=auth.sessions" in refused(lambda: SessionMiddleware(make_auth()))  # type: ignore[arg-type]

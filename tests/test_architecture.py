"""The house: which module may know which."""

import ast
from pathlib import Path

import pytest

import starlette_auth

PACKAGE = Path(starlette_auth.__file__).parent
# Each module imports only from those before it.
BANDS = [
    "exceptions",
    "clock",
    "text",
    "translation",
    "durations",
    "refusals",
    "signing",
    "cookies",
    "urls",
    "addresses",
    "rates",
    "hashers",
    "passwords",
    "password_patterns",
    "password_filter",
    "validators",
    "events",
    "mail",
    "outbox",
    "templating",
    "letters",
    "columns",
    "tables",
    "django",
    "django.history",
    "django.signing",
    "django.csrf",
    "models",
    "limits",
    "statements",
    "drivers",
    "driver_errors",
    "lanes",
    "commits",
    "gateway",
    "catalog",
    "redis_clients",
    "django.cache",
    "cleaning",
    "schema",
    "throttling",
    "tokens",
    "permissions",
    "fields",
    "users",
    "sessions",
    "sessions.keys",
    "sessions.base",
    "sessions.sockets",
    "sessions.store",
    "sessions.memory",
    "sessions.cookie",
    "sessions.database",
    "sessions.django_session",
    "sessions.django",
    "sessions.django_cookie",
    "sessions.redis",
    "sessions.cached",
    "devices",
    "notices",
    "backends",
    "logins",
    "defaults",
    "django.project",
    "auth",
    "csrf_tokens",
    "authentication",
    "visits",
    "middlewares",
    "context",
    "forms",
    "answers",
    "csrf",
    "decorators",
    "pages",
    "fresh_login",
    "views",
    "links",
    "features",
    "features.active_sessions",
    "features.registration",
    "features.email_change",
    "application",
    "terminal",
    "django.survey",
    "django.importing",
    "django.commands",
    "cli",
    "testing",
    "__init__",
    "__main__",
]
MODULES = {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__"): path
    for path in PACKAGE.rglob("*.py")
}
EXTRAS = ("asyncpg", "bcrypt", "asyncmy", "aiomysql", "redis", "aiosmtplib", "fastapi", "uvicorn", "django", "httpx")


def imports(name: str) -> list[tuple[ast.stmt, str]]:
    """Every import in a module, with the full name of what it imports from."""
    found: list[tuple[ast.stmt, str]] = []
    for node in ast.walk(ast.parse(MODULES[name].read_text())):
        if isinstance(node, ast.Import):
            found += [(node, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            home = ["starlette_auth", *name.split(".")][: -node.level] if node.level else []
            if MODULES[name].name == "__init__.py" and node.level:
                home = ["starlette_auth", *([] if name == "__init__" else name.split("."))]
            found.append((node, ".".join([*home, *filter(None, [node.module])])))
    return found


def test_every_module_has_its_place() -> None:
    assert sorted(MODULES) == sorted(BANDS)


@pytest.mark.parametrize("name", BANDS)
def test_a_module_knows_only_those_before_it(name: str) -> None:
    for _, target in imports(name):
        if target.startswith("starlette_auth."):
            ours = target.removeprefix("starlette_auth.")
            assert BANDS.index(ours) < BANDS.index(name), f"{name} imports {ours}"


@pytest.mark.parametrize("name", BANDS)
def test_imports_stand_at_the_top(name: str) -> None:
    for node, target in imports(name):
        assert node.col_offset == 0, f"{name} imports {target} inside something"


@pytest.mark.parametrize("name", BANDS)
def test_only_the_gateway_calls_databases(name: str) -> None:
    for node, target in imports(name):
        if target.split(".")[0] == "databases" and name != "gateway":
            assert isinstance(node, ast.ImportFrom)
            assert [alias.name for alias in node.names] == ["Database"]


@pytest.mark.parametrize("name", BANDS)
def test_extras_are_not_needed(name: str) -> None:
    assert not [target for _, target in imports(name) if target.split(".")[0] in EXTRAS]


@pytest.mark.parametrize("name", BANDS)
def test_the_first_line_says_what_a_module_is_for(name: str) -> None:
    docstring = ast.get_docstring(ast.parse(MODULES[name].read_text()))
    assert docstring
    assert docstring.splitlines()[0].endswith((".", "?"))


def test_public_names_are_listed_and_there() -> None:
    assert starlette_auth.__all__ == sorted(starlette_auth.__all__, key=lambda name: (not name[0].isupper(), name))
    for name in starlette_auth.__all__:
        assert getattr(starlette_auth, name) is not None
    promised = (
        "Auth Feature get_auth middleware routes lifespan SessionMiddleware AuthenticationMiddleware "
        "LoginRequiredMiddleware CSRFMiddleware Cookie SessionBase SessionStore DatabaseStore CookieStore MemoryStore "
        "User AnonymousUser Group Permission ContentType Users Tables AuthenticationBackend SessionBackend ModelBackend "
        "RemoteUserBackend authenticate login logout complete_login update_session_auth_hash login_required "
        "login_not_required permission_required user_passes_test Passwords Events UserLoggedIn UserLoggedOut LoginFailed "
        "PasswordChanged ImproperlyConfigured SessionInterrupted Mailer ConsoleMailer SMTPMailer"
    )
    assert set(promised.split()) <= set(starlette_auth.__all__)

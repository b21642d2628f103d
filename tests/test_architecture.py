"""The architecture: which sub-package may import which, and limits that keep the package readable."""

import ast
from functools import cache
from pathlib import Path

import pytest

import starlette_auth

PACKAGE = Path(starlette_auth.__file__).parent
# A wing is a sub-package or a file in the root. It may import `core` and the wings named beside it; "below" stands for
# all that come before it in this table.
MAY_IMPORT = {
    "core": "",
    "http": "",
    "database": "",
    "passwords": "",
    "users": "database passwords",
    "security": "http database users",
    "sessions": "database users",
    "backends": "http database users sessions security",
    "mail": "http database security",
    "defaults": "http database passwords users security sessions backends",
    "django": "http database passwords users security sessions backends defaults",
    "settings": "http database passwords users security sessions backends mail defaults",
    "auth": "http database passwords users security sessions backends mail defaults settings",
    "authentication": "below",
    "context_processors": "below",
    "answers": "below",
    "guards": "below",
    "decorators": "below",
    "middlewares": "below",
    "pages": "below",
    "features": "below",
    "application": "below",
    "testing": "below",
    "asvs": "below",
    "fastapi": "below",
    "cli": "below",
    "device": "",
    "__init__": "below",
    "__main__": "cli",
}
MODULES = {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
}
EXTRAS = (
    *("asyncpg", "bcrypt", "asyncmy", "aiomysql", "redis", "aiosmtplib", "fastapi", "uvicorn", "django", "httpx"),
    *("cryptography", "segno", "webauthn", "cbor2"),
)


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


def wing_of(module: str) -> str:
    return module.partition(".")[0]


def own_imports(name: str) -> set[str]:
    """The modules of this package that a module imports."""
    names = (
        target.removeprefix("starlette_auth.") for _, target in imports(name) if target.startswith("starlette_auth.")
    )
    return {target for target in names if target in MODULES}


def allowed_wings(wing: str) -> set[str]:
    order = list(MAY_IMPORT)
    named = MAY_IMPORT[wing].split()
    below = order[: order.index(wing)] if "below" in named else []
    return {wing, "core", *named, *below}


@cache
def longest_chain(name: str) -> tuple[str, ...]:
    """The longest chain of imports that begins with a module."""
    chains = [longest_chain(target) for target in sorted(own_imports(name))]
    return (name, *max(chains, key=len, default=()))


def test_every_wing_is_in_the_table() -> None:
    assert {wing_of(name) for name in MODULES} == set(MAY_IMPORT)


@pytest.mark.parametrize("name", MODULES)
def test_a_module_imports_only_the_wings_that_the_table_allows(name: str) -> None:
    for target in own_imports(name):
        assert wing_of(target) in allowed_wings(wing_of(name)), f"{name} imports {target}"


def test_no_feature_imports_another() -> None:
    for name in MODULES:
        if wing_of(name) == "features":
            others = [target for target in own_imports(name) if wing_of(target) == "features"]
            assert not [target for target in others if target.split(".")[1] != name.split(".")[1]]


@pytest.mark.parametrize("wings", [False, True], ids=["modules", "wings"])
def test_nothing_imports_in_a_circle(wings: bool) -> None:
    graph: dict[str, set[str]] = {}
    for name in MODULES:
        source = wing_of(name) if wings else name
        targets = {wing_of(target) if wings else target for target in own_imports(name)}
        graph.setdefault(source, set()).update(targets - {source})
    while graph:
        leaves = [name for name, targets in graph.items() if not targets & graph.keys()]
        assert leaves, f"These import each other in a circle: {sorted(graph)}"
        for name in leaves:
            del graph[name]


def test_the_package_stays_easy_to_find_ones_way_in() -> None:
    root = [path for path in PACKAGE.iterdir() if path.name != "__pycache__"]
    assert len([path for path in root if path.is_file()]) <= 15  # with py.typed
    assert len([path for path in root if path.is_dir() and path.name != "templates"]) <= 15
    for folder in {path.parent for path in MODULES.values()}:
        assert len(list(folder.glob("*.py"))) <= 15, folder
    chain = max(map(longest_chain, MODULES), key=len)
    assert len(chain) <= 15, " imports ".join(chain)


@pytest.mark.parametrize("name", MODULES)
def test_files_and_functions_are_short(name: str) -> None:
    source = MODULES[name].read_text()
    assert len(source.splitlines()) <= 330
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert (node.end_lineno or 0) - node.lineno < 60, node.name


@pytest.mark.parametrize("name", MODULES)
def test_imports_stand_at_the_top(name: str) -> None:
    """Imports that only type checkers read stand in a block of the module."""
    blocks = [node for node in ast.parse(MODULES[name].read_text()).body if isinstance(node, ast.If)]
    for_types = [block for block in blocks if isinstance(block.test, ast.Name) and block.test.id == "TYPE_CHECKING"]
    lines = {line for block in for_types for line in range(block.lineno, (block.end_lineno or 0) + 1)}
    for node, target in imports(name):
        assert node.col_offset == 0 or node.lineno in lines, f"{name} imports {target} inside something"


@pytest.mark.parametrize("name", MODULES)
def test_only_the_database_wing_calls_databases(name: str) -> None:
    for node, target in imports(name):
        if target.split(".")[0] == "databases" and not name.startswith("database.adapters.databases_"):
            assert isinstance(node, ast.ImportFrom)
            assert [alias.name for alias in node.names] == ["Database"]


@pytest.mark.parametrize("name", MODULES)
def test_extras_are_not_needed(name: str) -> None:
    own = {name}  # starlette_auth.fastapi needs the extra of that name
    if wing_of(name) in ("asvs", "device"):  # which only `pytest --asvs` and command lines load
        own.add("httpx")
    assert not [
        target for _, target in imports(name) if target.split(".")[0] in EXTRAS and target.split(".")[0] not in own
    ]


@pytest.mark.parametrize("name", MODULES)
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

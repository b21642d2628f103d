"""Tests of the wheel, of the import and of the README."""

import os
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
GERMAN = "de/LC_MESSAGES/starlette_auth.mo"
# Modules that an import must not load: they belong to databases and pages that an application may not use.
HEAVY = (
    "asyncpg",
    "asyncmy",
    "redis",
    "bcrypt",
    "django",
    "aiosmtplib",
    "httpx",
    "uvicorn",
    "fastapi",
    "jinja2",
    "sqlite3",
)
IMPORTS = f"""
import sys
import starlette_auth
dialects = {{name for name in sys.modules if name.startswith("sqlalchemy.dialects.")}} - {{"sqlalchemy.dialects._typing"}}
print(sorted(dialects), [name for name in {HEAVY!r} if name in sys.modules])
"""
PAGE = """
import asyncio, httpx
from databases import Database
from starlette.applications import Starlette
from starlette.routing import Mount
from starlette_auth import Auth, lifespan, middleware, migrate, routes
import starlette_auth

async def main():
    auth = Auth(Database("sqlite+aiosqlite:///x.sqlite3"), secret_key="k" * 40)
    app = Starlette(routes=[Mount("/accounts", routes=routes(auth))], middleware=middleware(auth), lifespan=lifespan(auth))
    async with app.router.lifespan_context(app):
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://t") as client:
            page = await client.get("/accounts/login")
            style = await client.get("/accounts/auth.css")
    assert page.status_code == style.status_code == 200, (page, style)
    assert "Log in" in page.text
    print(starlette_auth.__file__)

asyncio.run(main())
"""


def run(*command: str | Path, folder: Path, **environment: str) -> str:
    environment = {**{key: value for key, value in os.environ.items() if key != "PYTHONPATH"}, **environment}
    process = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert process.returncode == 0, process.stdout + process.stderr
    return process.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder, folder=ROOT)
    return next(folder.glob("*.whl"))


def test_the_wheel_contains_the_package_its_type_marker_and_its_data(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {"starlette_auth/py.typed", "starlette_auth/templates/registration/login.html"} <= names
    assert {"starlette_auth/templates/auth.css", "starlette_auth/templates/auth.js"} <= names
    assert {
        "starlette_auth/passwords/data/common_passwords.bloom",
        f"starlette_auth/core/locale/{GERMAN}",
    } <= names
    assert all(name.startswith(("starlette_auth/", "starlette_contrib_auth-")) for name in names)


def test_a_wheel_in_a_new_environment_serves_the_login_page(wheel: Path, tmp_path: Path) -> None:
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv" / "bin" / "python"
    run(python, "-m", "pip", "install", "--quiet", wheel, "httpx", folder=tmp_path)
    module_path = run(python, "-c", PAGE, folder=tmp_path)
    assert Path(module_path.strip()).is_relative_to(tmp_path / "venv")


@pytest.mark.parametrize("number", [1, 2], ids=["Starlette", "FastAPI"])
def test_an_example_of_the_readme_runs(number: int, tmp_path: Path) -> None:
    example = (ROOT / "README.md").read_text().split("```python\n")[number].split("```")[0]
    script = tmp_path / "app.py"
    script.write_text(
        example
        + """
from starlette.testclient import TestClient
with TestClient(app) as client:
    client.headers["Accept"] = "text/html"  # as a browser does
    assert client.get("/", follow_redirects=False).status_code == 303
    assert "Log in" in client.get("/").text
"""
    )
    run(sys.executable, script, folder=tmp_path, PYTHONPATH=str(ROOT))


def test_ci_runs_the_test_command_of_the_readme() -> None:
    lines = (ROOT / "README.md").read_text().splitlines()
    command = next(line for line in lines if line.endswith("pytest"))
    assert command in (ROOT / ".ci" / "run").read_text().splitlines()


def test_the_readme_is_short() -> None:
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) <= 250
    assert text.count("```python") == 2  # each of them is run above


def test_an_import_loads_no_optional_dependency(tmp_path: Path) -> None:
    assert run(sys.executable, "-c", IMPORTS, folder=tmp_path).split("\n")[0] == "[] []"

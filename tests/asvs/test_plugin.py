"""The plugin: its messages, its exit status, and what it leaves in the database."""

import asyncio
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from databases import Database

from ..support.databases import SECRET_KEY
from ..support.server import ROOT

pytestmark = pytest.mark.long

SITE = """
from databases import Database
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route
from starlette_auth import Auth, Passwords, lifespan, middleware, routes
from tests.support.databases import weak_passwords

auth = Auth(Database("sqlite+aiosqlite:///site.sqlite3"), secret_key="{key}", passwords=weak_passwords())
{rest}
"""
APP = 'app = Starlette(routes=[Mount("/accounts", routes=routes(auth))], middleware=middleware(auth){lifespan})'
WHOLE = APP.format(lifespan=", lifespan=lifespan(auth, create_tables=True)")


def count_rows(folder: Path) -> int:
    async def count() -> int:
        async with Database(f"sqlite+aiosqlite:///{folder}/site.sqlite3") as database:
            tables = ("auth_user", "auth_session", "auth_token")
            return sum([await database.fetch_val(f"SELECT COUNT(*) FROM {table}") for table in tables])

    return asyncio.run(count())


def run(folder: Path, *arguments: str, site: str = WHOLE) -> tuple[int, str]:
    (folder / "site_app.py").write_text(SITE.format(key=SECRET_KEY, rest=site))
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "COV", "TEST_"))}
    process = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--rootdir", ".", *arguments],
        cwd=folder,
        env={**kept, "PYTHONPATH": str(ROOT), "SECRET_KEY": SECRET_KEY},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
        check=False,
    )
    return process.returncode, process.stdout


MESSAGES = {
    "nothing:app": (WHOLE, "nothing:app cannot be loaded (ModuleNotFoundError: No module named 'nothing')."),
    "site_app:application": (WHOLE, "has no attribute 'application'). Write the module and the object"),
    "site_app": (WHOLE, "'site_app' does not name an application."),
    "site_app:app": ("app = Starlette()", "site_app:app has no Auth in its middleware. Name the application"),
    "site_app:app ": (APP.format(lifespan=""), "does not connect the database. Pass lifespan=lifespan(auth)"),
    "site_app:app  ": (
        APP.format(lifespan=", lifespan=lifespan(auth)"),
        "the database cannot be used: A table is missing (no such table: auth_user",
    ),
    "site_app:app   ": (
        'def broken(app): raise ValueError("no money")\n' + APP.format(lifespan=", lifespan=lifespan(auth, broken)"),
        "the application does not start (ValueError: no money). Start it with its server",
    ),
    "site_app:app    ": (
        'import os\nos.environ["SHOP_URL"]',
        "in the shell or in a conftest.py: os.environ['SHOP_URL'] = …",
    ),
    "site_app:app     ": (
        'from starlette.config import Config\nConfig()("SHOP_URL")',
        "in the shell or in a conftest.py: os.environ['SHOP_URL'] = …",
    ),
    "site_app:app      ": (
        '{}["SHOP_URL"]',
        "(KeyError: 'SHOP_URL'). Run python -c \"import site_app\", and mend what stops it.",
    ),
    "site_app:app       ": ("import nothing", 'Run python -c "import site_app", and mend what stops it.'),
}


@pytest.mark.parametrize("name", MESSAGES)
def test_errors_of_programmers_get_one_line_with_the_fix(name: str, tmp_path: Path) -> None:
    site, message = MESSAGES[name]
    status, output = run(tmp_path, "--asvs", name.strip(), site=site)
    (line,) = [line for line in output.splitlines() if line.startswith("ERROR: ")]
    assert message in line
    assert status == pytest.ExitCode.USAGE_ERROR
    assert "Traceback" not in output


def test_the_exit_status_tells_whether_a_row_up_to_the_level_fails(tmp_path: Path) -> None:
    (tmp_path / "test_of_the_site.py").write_text("def test_it(): raise AssertionError")  # is not run
    status, output = run(tmp_path, "--asvs", "site_app:app", "-n", "2", "-k", "V7.2")
    assert (status, "4 passed" in output) == (0, True), output
    status, output = run(tmp_path, "--asvs", "site_app:app", "-k", "V6.3.3 or V6.3.1")
    assert (status, "1 failed, 1 passed" in output) == (1, True), output
    assert "6.3.3   2 fail    a second factor is required: a password alone logs in\n" in output
    status, output = run(tmp_path, "--asvs", "site_app:app", "-k", "V6.3.3", "--asvs-level", "1")
    assert (status, "1 failed above the level" in output) == (0, True), output


def test_temporary_users_are_deleted_also_after_a_failure(tmp_path: Path) -> None:
    broken = "auth.users.update = None  # stops the checks that change a user\n" + WHOLE
    status, output = run(tmp_path, "--asvs", "site_app:app", site=broken)
    assert (status, "the check was stopped by TypeError" in output) == (1, True), output
    assert count_rows(tmp_path) == 0


TERMINATED = """
import asyncio, os, signal

async def terminate(*_):
    assert await auth.users.count() > 0
    os.kill(os.getpid(), signal.SIGTERM)
    await asyncio.sleep(10)

auth.users.set_password = terminate
"""


def test_temporary_users_are_deleted_after_a_signal_to_terminate(tmp_path: Path) -> None:
    status, output = run(tmp_path, "--asvs", "site_app:app", site=TERMINATED + WHOLE)
    assert (status, "KeyboardInterrupt" in output) == (pytest.ExitCode.INTERRUPTED, True), output
    assert count_rows(tmp_path) == 0


def test_the_assessment_is_imported_for_the_option_only(tmp_path: Path) -> None:
    (tmp_path / "test_imports.py").write_text(
        "import sys\ndef test_it(): assert 'starlette_auth.asvs.plugin' not in sys.modules"
    )
    status, output = run(tmp_path)
    assert status == 0, output


def test_the_fastapi_example_is_assessed(tmp_path: Path) -> None:
    _, output = run(tmp_path, "--asvs", "example_app.api.app:app", "-k", "V8.2.1 or V13.4.5 or V7.2.1 or V6.2.3")
    assert "the check was stopped" not in output
    assert re.search(r"13\.4\.5 +2 manual .*GET /docs", output), output

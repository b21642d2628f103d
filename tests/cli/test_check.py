"""The command `check`."""

import re
from pathlib import Path

import pytest
import sqlalchemy as sa
from databases import Database

from starlette_auth import Tables, gateway_of, migrate
from starlette_auth.cli.main import main
from starlette_auth.database.introspection import all_columns
from starlette_auth.database.migrations import missing_statements

SHOP = """
from databases import Database
from starlette_auth import Auth, Tables
auth = Auth(Database({url!r}), secret_key="k" * 40, tables=Tables(prefix="shop_"), login_fields=("email",))
"""


@pytest.fixture
def url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    for name in ("STARLETTE_AUTH_APP", "DATABASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    return f"sqlite+aiosqlite:///{tmp_path}/shop.sqlite3"


def test_the_command_prints_what_is_missing_and_changes_nothing(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    for _ in range(2):
        assert main(["--database", url, "check"]) == 1
        output = capsys.readouterr()
        assert "-- auth_user\nCREATE TABLE auth_user (" in output.out
        assert "CREATE INDEX auth_user_email_lower ON auth_user (lower(email));" in output.out
        assert "Missing in the database: auth_content_type, " in output.err
        assert "starlette-auth migrate" in output.err
    assert main(["--database", url, "migrate"]) == 0
    capsys.readouterr()
    assert main(["--database", url, "check"]) == 0
    assert capsys.readouterr().out == "All tables are up to date.\n"


def test_the_command_checks_the_tables_of_the_application(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "checked_shop.py").write_text(SHOP.format(url=url))
    monkeypatch.syspath_prepend(tmp_path)
    assert main(["--database", url, "migrate"]) == 0
    assert main(["--app", "checked_shop:auth", "check"]) == 1
    assert "shop_auth_user_email_unique" in capsys.readouterr().out
    assert main(["--app", "checked_shop:auth", "migrate"]) == 0
    assert main(["--app", "checked_shop:auth", "check"]) == 0


def test_a_database_of_a_django_project_without_django_is_refused(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--database", url, "--django", "migrate"]) == 0
    assert main(["--database", url, "check"]) == 1
    assert "--django" in capsys.readouterr().err
    assert main(["--database", url, "--django", "check"]) == 0


async def test_the_printed_statements_create_what_is_missing(database: Database) -> None:
    gateway = gateway_of(database)
    tables = Tables(username_case_sensitive=False)
    tables.require_unique_email()
    missing = await missing_statements(gateway, tables)
    assert await all_columns(gateway) == {}
    for statement in missing.values():
        await database.execute(sa.text(re.sub(r"(?<!:):(?=\w)", r"\\:", statement)))
    assert await missing_statements(gateway, tables) == {}
    assert await migrate(gateway, tables) == []
    await gateway.close()

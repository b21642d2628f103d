"""The command line, run as a command."""

import asyncio
import getpass
import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
import sqlalchemy as sa
from databases import Database

from starlette_auth import Auth
from starlette_auth.cli import main

from .conftest import SECRET_KEY


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("STARLETTE_AUTH_APP", "DATABASE_URL", "STARLETTE_AUTH_PASSWORD"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)


async def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own, with nobody at the keyboard."""
    path = os.pathsep.join([str(Path(__file__).parent.parent), *filter(None, [os.environ.get("PYTHONPATH")])])

    def call() -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "starlette_auth", *arguments],
            env={**os.environ, "PYTHONPATH": path, **environment},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    return await asyncio.to_thread(call)


async def test_from_nothing_to_a_superuser(database_url: str) -> None:
    where = {"DATABASE_URL": database_url}
    first = await run("migrate", **where)
    assert (first.returncode, first.stderr) == (0, "")
    assert "created auth_user\n" in first.stdout
    again = await run("--database", database_url, "migrate")
    assert again.stdout == "Everything is there already.\n"
    created = await run(
        "createsuperuser", "--username", "root", "--noinput", STARLETTE_AUTH_PASSWORD="pässword one", **where
    )
    assert (created.returncode, created.stdout) == (0, "Created the superuser root.\n")
    twice = await run("createsuperuser", "--username", "root", "--noinput", STARLETTE_AUTH_PASSWORD="x", **where)
    assert twice.returncode == 1
    assert "changepassword" in twice.stderr
    changed = await run("changepassword", "root", STARLETTE_AUTH_PASSWORD="pässword two", **where)
    assert changed.returncode == 0
    async with Database(database_url) as database:
        auth = Auth(database, secret_key=SECRET_KEY)
        root = await auth.users.get_by_username("root")
        assert root is not None
        assert (root.is_superuser, root.is_staff) == (True, True)
        assert await auth.users.check_password(root, "pässword two")
        session = await auth.sessions.load("")
        session["a"] = 1
        await auth.sessions.save(session, -1)
        assert (await run("clearsessions", **where)).stdout == "Deleted 1 expired sessions.\n"
        assert await database.fetch_all(sa.select(auth.tables.session)) == []
        await auth.gateway.close()
        auth.passwords.close()


@pytest.fixture
def file_url(tmp_path: Path) -> str:
    return f"sqlite+aiosqlite:///{tmp_path}/cli.sqlite3"


def test_an_application_can_be_named(
    file_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "shop_settings.py").write_text(
        "from databases import Database\nfrom starlette_auth import Auth\n"
        f"auth = Auth(Database({file_url!r}), secret_key={SECRET_KEY!r})\nother = 1\n"
    )
    assert main(["--app", "shop_settings:auth", "migrate"]) == 0
    assert main(["--app", "shop_settings", "migrate"]) == 0
    monkeypatch.setenv("STARLETTE_AUTH_APP", "shop_settings:auth")
    assert main(["clearsessions"]) == 0
    capsys.readouterr()
    for wrong in ("shop_settings:other", "shop_settings:none", "no_such_module:auth", ":", "..:x"):
        assert main(["--app", wrong, "migrate"]) == 1
        said = capsys.readouterr()
        assert said.out == ""
        assert said.err.count("\n") == 1
        assert "--app" in said.err


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["migrate"],
        ["--database", "x", "dance"],
        ["--database", "x", "changepassword"],
        ["--app", "a", "--database", "b", "migrate"],
    ],
)
def test_wrong_words_give_2(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2
    assert "usage:" in capsys.readouterr().err


@pytest.mark.parametrize(
    "url",
    [
        "nonsense",
        "oracle://x",
        "sqlite+aiosqlite://",
        "sqlite+aiosqlite:////no/such/folder/x.sqlite3",
        "postgresql://nobody:wrong@127.0.0.1:1/none",
        "postgresql+aiopg://x/y",
    ],
)
def test_a_database_that_cannot_be_had_is_one_line(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--database", url, "migrate"]) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1
    assert "Traceback" not in said.err


@pytest.mark.parametrize(
    ("words", "password", "expected"),
    [
        (["createsuperuser", "--noinput"], "x", "--username"),
        (["createsuperuser", "--noinput", "--username", "root"], "", "STARLETTE_AUTH_PASSWORD"),
        (["createsuperuser", "--noinput", "--username", "r" * 151], "x", "150"),
        (["createsuperuser", "--noinput", "--username", "root"], "x" * 1025, "1024"),
        (["changepassword", "nobody"], "x", "no user"),
    ],
)
def test_what_is_refused_says_why(
    file_url: str,
    words: list[str],
    password: str,
    expected: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["--database", file_url, "migrate"]) == 0
    monkeypatch.setenv("STARLETTE_AUTH_PASSWORD", password)
    assert main(["--database", file_url, *words]) == 1
    assert expected in capsys.readouterr().err


async def test_without_tables_it_says_so_in_one_line(file_url: str) -> None:
    answer = await run(
        "--database", file_url, "createsuperuser", "--username", "x", "--noinput", STARLETTE_AUTH_PASSWORD="x"
    )
    assert answer.returncode == 1
    assert "migrate" in answer.stderr
    assert answer.stderr.count("\n") == 1


async def test_with_nobody_to_ask_it_says_so(file_url: str) -> None:
    await run("--database", file_url, "migrate")
    answer = await run("--database", file_url, "createsuperuser")
    assert answer.returncode == 1
    assert "--noinput" in answer.stderr


def test_a_password_is_asked_for_twice(
    file_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["--database", file_url, "migrate"])
    typed = iter(["one", "two", "same", "same", "again", "again"])
    # Nobody sits at the terminal of a test: these stand for the keyboard.
    monkeypatch.setattr(getpass, "getpass", lambda prompt: next(typed))
    monkeypatch.setattr(sys, "stdin", io.StringIO("root\nroot@example.org\nn\ny\n"))
    assert main(["createsuperuser", "--database", file_url]) == 0
    said = capsys.readouterr()
    assert "differ" in said.out
    assert said.out.count("Use it all the same?") == 2
    assert "Warning: This password is too short." in said.err
    typed = iter(["nine loud herons stand"] * 2)
    assert main(["--database", file_url, "changepassword", "root"]) == 0
    assert "Warning" not in capsys.readouterr().err


def test_without_a_keyboard_or_with_a_name_that_is_taken_it_refuses(
    file_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["--database", file_url, "migrate"])
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    assert main(["--database", file_url, "createsuperuser"]) == 1
    assert "--noinput" in capsys.readouterr().err
    monkeypatch.setenv("STARLETTE_AUTH_PASSWORD", "x")
    words = ["--database", file_url, "createsuperuser", "--noinput", "--username", "root"]
    assert main(words) == 0
    assert main(words) == 1
    assert "changepassword" in capsys.readouterr().err


def test_stopping_it_is_no_accident(file_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(prompt: str) -> str:
        raise KeyboardInterrupt

    main(["--database", file_url, "migrate"])
    monkeypatch.setattr(getpass, "getpass", stop)
    assert main(["--database", file_url, "createsuperuser", "--username", "root", "--email", ""]) == 1

"""Tests of the command line, in separate processes and through `main`."""

import asyncio
import contextlib
import getpass
import io
import os
import pty
import re
import secrets
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from databases import Database

from starlette_auth import Auth, User
from starlette_auth.cli.main import main
from starlette_auth.cli.terminal import print_error
from starlette_auth.testing import FrozenClock

from ..conftest import SECRET_KEY, connected, count_statements, installed
from ..support.apps import is_throttled
from ..support.server import ROOT


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("STARLETTE_AUTH_APP", "DATABASE_URL", "STARLETTE_AUTH_PASSWORD"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)


async def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs the command in a separate process without standard input."""
    return await run_with_stderr(subprocess.PIPE, *arguments, **environment)


async def run_with_stderr(stderr: int, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs the command with `stderr` as its standard error, where progress is shown."""
    path = os.pathsep.join([str(Path(__file__).parent.parent.parent), *filter(None, [os.environ.get("PYTHONPATH")])])

    def call() -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "starlette_auth", *arguments],
            env={**os.environ, "PYTHONPATH": path, **environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            timeout=60,
            check=False,
        )

    return await asyncio.to_thread(call)


async def test_an_empty_database_gets_tables_and_a_superuser(database_url: str) -> None:
    environment = {"DATABASE_URL": database_url}
    first = await run("migrate", **environment)
    assert (first.returncode, first.stderr) == (0, "")
    assert "created auth_user\n" in first.stdout
    again = await run("--database", database_url, "migrate")
    assert again.stdout == "All tables are up to date.\n"
    created = await run(
        "createsuperuser", "--username", "root", "--noinput", STARLETTE_AUTH_PASSWORD="quiet pässage one", **environment
    )
    assert (created.returncode, created.stdout) == (0, "Created the superuser root.\n")
    twice = await run("createsuperuser", "--username", "root", "--noinput", STARLETTE_AUTH_PASSWORD="x", **environment)
    assert twice.returncode == 1
    assert "changepassword" in twice.stderr
    changed = await run("changepassword", "root", STARLETTE_AUTH_PASSWORD="quiet pässage two", **environment)
    assert changed.returncode == 0
    async with Database(database_url) as database:
        auth = Auth(database, secret_key=SECRET_KEY)
        root = await auth.users.get_by_username("root")
        assert root is not None
        assert (root.is_superuser, root.is_staff) == (True, True)
        assert await auth.users.check_password(root, "quiet pässage two")
        session = await auth.sessions.load("")
        session["a"] = 1
        await auth.sessions.save(session, -1)
        assert (await run("clearsessions", **environment)).stdout == "Deleted 1 expired sessions.\n"
        assert await database.fetch_all(sa.select(auth.tables.session)) == []
        await auth.gateway.close()
        auth.passwords.close()


async def log_in_on(auth: Auth, user: User, number: int) -> None:
    for _ in range(number):
        session = await auth.sessions.load("")
        auth.session_backend.bind(session, user, auth.model_backend.path)
        session.address, session.user_agent = "192.0.2.1", "Mozilla/5.0 (X11; Linux x86_64) Firefox/150.0\x1b[31m"
        await auth.sessions.save(session, 1000)


async def test_sessions_are_listed_and_revoked(database_url: str) -> None:
    async with connected(database_url) as database, installed(database) as auth:
        ann = await auth.users.create_user("ann", password="quiet pässage one")
        ben = await auth.users.create_user("ben", password="quiet pässage one")
        await log_in_on(auth, ann, 3)
        await log_in_on(auth, ben, 1)
        environment = {"DATABASE_URL": database_url}
        listed = await run("sessions", "list", "ann", **environment)
        lines = listed.stdout.splitlines()
        assert (listed.returncode, listed.stderr, len(lines)) == (0, "", 3)
        for line in lines:
            assert line.partition("  ")[2] == "Firefox on Linux, 192.0.2.1, logged in just now, last seen just now"
        ids = [line.split()[0] for line in lines]
        ended = await run("sessions", "revoke", "ann", *ids[:2], **environment)
        assert (ended.returncode, ended.stdout) == (0, "Ended 2 sessions of ann.\n")
        again = await run("sessions", "revoke", "ann", ids[0], ids[2], **environment)
        assert (again.returncode, again.stdout, again.stderr.count("\n")) == (1, "", 1)
        assert ids[0] in again.stderr
        assert ids[2] not in again.stderr, "this session existed and was revoked"
        await log_in_on(auth, ann, 2)
        assert (await run("sessions", "revoke", "ann", "--all", **environment)).stdout == "Ended 2 sessions of ann.\n"
        assert (await run("sessions", "list", "ann", **environment)).stdout == "ann has no sessions.\n"
        assert len(await auth.user_sessions.list(ben)) == 1
        changed = await run("changepassword", "ben", STARLETTE_AUTH_PASSWORD="quiet pässage two", **environment)
        assert changed.returncode == 0
        assert await auth.sessions.list_sessions(ben.identity) == []
        for arguments in (["sessions", "list", "unknown"], ["sessions", "revoke", "unknown", "--all"]):
            refused = await run(*arguments, **environment)
            assert (refused.returncode, refused.stderr.count("\n")) == (1, 1)
            assert "no user" in refused.stderr


@pytest.mark.parametrize("name", ["ann", "ann@example.org"])
async def test_unlock_empties_the_counters_of_a_user(database_url: str, name: str) -> None:
    both: dict[str, Any] = {"login_fields": ("username", "email")}
    async with connected(database_url) as database, installed(database, clock=FrozenClock(), **both) as auth:
        await auth.users.create_user("ann", "ann@example.org", "quiet pässage one")

        async def waits() -> list[bool]:
            return [await is_throttled(auth, login) for login in ("ann", "ann@example.org", "ben")]

        for login in ("ann", "ann@example.org", "ben") * 5:
            assert not await is_throttled(auth, login)
        assert await waits() == [True] * 3
        unlocked = await run("unlock", name, DATABASE_URL=database_url)
        assert (unlocked.returncode, unlocked.stderr) == (0, "")
        assert unlocked.stdout == "Unlocked ann: wrong passwords are counted from 0 again.\n"
        assert await waits() == [False, False, True]


async def test_sessions_in_cookies_cannot_be_listed(tmp_path: Path, file_url: str) -> None:
    (tmp_path / "cookie_settings.py").write_text(
        "from databases import Database\nfrom starlette_auth import Auth, CookieStore\n"
        f"key = {SECRET_KEY!r}\nauth = Auth(Database({file_url!r}), secret_key=key, sessions=CookieStore(key))\n"
    )
    environment = {"STARLETTE_AUTH_APP": "cookie_settings:auth"}
    await run("migrate", **environment)
    await run(
        "createsuperuser", "--username", "ann", "--noinput", STARLETTE_AUTH_PASSWORD="quiet pässage one", **environment
    )
    for arguments in (["list", "ann"], ["revoke", "ann", "--all"], ["revoke", "ann", "x"]):
        refused = await run("sessions", *arguments, **environment)
        assert (refused.returncode, refused.stdout, refused.stderr.count("\n")) == (1, "", 1)
        assert "Use DatabaseStore, RedisStore or CachedStore" in refused.stderr
    assert (await run("clearsessions", **environment)).stdout == "Deleted 0 expired sessions.\n"


def test_a_password_can_be_changed_with_sessions_in_cookies(
    tmp_path: Path, file_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "more_cookie_settings.py").write_text(
        "from databases import Database\nfrom starlette_auth import Auth, CookieStore\n"
        f"key = {SECRET_KEY!r}\nauth = Auth(Database({file_url!r}), secret_key=key, sessions=CookieStore(key))\n"
    )
    monkeypatch.setenv("STARLETTE_AUTH_APP", "more_cookie_settings:auth")
    monkeypatch.setenv("STARLETTE_AUTH_PASSWORD", "quiet pässage one")
    for arguments in (["migrate"], ["createsuperuser", "--username", "ann", "--noinput"], ["changepassword", "ann"]):
        assert main(arguments) == 0


def test_sessions_are_listed_and_revoked_by_main(file_url: str, capsys: pytest.CaptureFixture[str]) -> None:
    async def prepare() -> None:
        async with connected(file_url) as database, installed(database) as auth:
            await log_in_on(auth, await auth.users.create_user("ann", password="quiet pässage one"), 3)

    asyncio.run(prepare())
    options = ["--database", file_url, "sessions"]
    assert main([*options, "list", "ann"]) == 0
    ids = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert main([*options, "revoke", "ann", ids[0]]) == 0
    assert main([*options, "revoke", "ann", ids[0], ids[1]]) == 1
    assert main([*options, "revoke", "--all", "ann"]) == 0
    assert main([*options, "list", "ann"]) == 0
    assert capsys.readouterr().out.endswith("Ended 1 sessions of ann.\nann has no sessions.\n")
    assert main([*options, "list", "unknown"]) == 1
    for arguments in (["revoke", "ann"], ["revoke", "ann", "x", "--all"], [], ["list"]):
        with pytest.raises(SystemExit) as ended:
            main([*options, *arguments])
        assert ended.value.code == 2


def test_clearing_by_main_can_be_interrupted(file_url: str, capsys: pytest.CaptureFixture[str]) -> None:
    async def prepare() -> None:
        async with connected(file_url) as database, installed(database) as auth:
            await fill(auth, 8_000, expires=1)

    asyncio.run(prepare())

    def interrupt() -> None:
        with contextlib.closing(sqlite3.connect(file_url.removeprefix("sqlite+aiosqlite:///"), timeout=30)) as database:
            while database.execute("SELECT count(*) FROM auth_session").fetchone() == (8_000,):
                time.sleep(0.005)
        os.kill(os.getpid(), signal.SIGINT)

    watcher = threading.Thread(target=interrupt)
    watcher.start()
    assert main(["--database", file_url, "clearsessions"]) == 1
    watcher.join()
    assert capsys.readouterr().err.startswith("Stopped after ")
    assert main(["--database", file_url, "clearsessions"]) == 0


# Clearing expired sessions


async def fill(auth: Auth, number: int, expires: int) -> None:
    """Inserts sessions in large batches."""
    rows = [(secrets.token_hex(32), secrets.token_hex(16), None, "{}", 1, 1, expires, "", "", 0) for _ in range(number)]
    names = ("key_hash", "public_id", "user_id", "data", "created", "last_seen", "expires", "address", "user_agent")
    for start in range(0, number, 1000):
        values = [dict(zip((*names, "version"), row, strict=True)) for row in rows[start : start + 1000]]
        await auth.database.execute(sa.insert(auth.tables.session).values(values))


async def count_sessions(auth: Auth) -> int:
    return int(await auth.database.fetch_val(sa.select(sa.func.count()).select_from(auth.tables.session)))


async def test_expired_sessions_are_cleared_in_batches_between_which_other_queries_run(
    auth: Auth, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fill(auth, 1700, expires=1)
    await fill(auth, 3, expires=4_000_000_000)
    statements = count_statements(auth, monkeypatch)
    progress: list[int] = []
    other_queries = 0

    async def query() -> None:
        nonlocal other_queries
        while True:
            await auth.users.count()
            other_queries += 1

    task = asyncio.create_task(query())
    assert await auth.clear_expired(progress.append) == 1700
    task.cancel()
    await asyncio.wait([task])
    assert progress == [500, 1000, 1500, 1700]
    deletes = [statement for statement in statements if statement.startswith("DELETE") and "auth_session" in statement]
    assert len(deletes) == 4
    assert other_queries > 4
    assert await count_sessions(auth) == 3
    assert await auth.clear_expired(progress.append) == 0
    assert progress[4:] == [0]


async def test_several_processes_can_clear_at_the_same_time(auth: Auth) -> None:
    await fill(auth, 3000, expires=1)
    cleared = await asyncio.gather(*(auth.clear_expired() for _ in range(3)))
    assert sum(cleared) == 3000
    assert await count_sessions(auth) == 0


async def test_progress_is_shown_on_a_terminal_only(database_url: str) -> None:
    async with connected(database_url) as database, installed(database) as auth:
        await fill(auth, 1200, expires=1)
        parent, child = pty.openpty()
        completed = await run_with_stderr(child, "clearsessions", DATABASE_URL=database_url)
        os.close(child)
        assert completed.stdout == "Deleted 1200 expired sessions.\n"
        written = os.read(parent, 10_000).decode()
        os.close(parent)
        assert [int(number.replace(",", "")) for number in re.findall(r"Deleted ([\d,]+) ", written)] == [
            500,
            1000,
            1200,
        ]
        assert written.endswith("\r\x1b[K"), "the progress line is erased at the end"
        await fill(auth, 1200, expires=1)
        assert (await run("clearsessions", DATABASE_URL=database_url)).stderr == ""


async def test_interrupted_clearing_continues_with_the_next_command(database_url: str) -> None:
    async with connected(database_url) as database, installed(database) as auth:
        await fill(auth, 12_000, expires=1)
        command = [sys.executable, "-m", "starlette_auth", "--database", database_url, "clearsessions"]
        process = await asyncio.create_subprocess_exec(*command, cwd=ROOT, stderr=subprocess.PIPE)
        while await count_sessions(auth) == 12_000:
            await asyncio.sleep(0.01)
        process.send_signal(signal.SIGINT)
        _, errors = await process.communicate()
        assert process.returncode == 1
        match = re.fullmatch(
            r"Stopped after deleting (\d+) expired sessions\. Run the command again to delete the rest\.\n",
            errors.decode(),
        )
        assert match, errors
        left = await count_sessions(auth)
        assert 0 < left < 12_000
        assert 0 <= 12_000 - left - int(match[1]) <= 500, "at most one batch was deleted but not yet reported"
        assert await auth.clear_expired() == left


@pytest.fixture
def file_url(tmp_path: Path) -> str:
    return f"sqlite+aiosqlite:///{tmp_path}/cli.sqlite3"


def test_an_application_is_loaded_by_name(
    file_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "shop_settings.py").write_text(
        "from databases import Database\nfrom starlette_auth import Auth\n"
        f"auth = Auth(Database({file_url!r}), secret_key={SECRET_KEY!r})\nnumber = 1\n"
    )
    assert main(["--app", "shop_settings:auth", "migrate"]) == 0
    assert main(["--app", "shop_settings", "migrate"]) == 0
    monkeypatch.setenv("STARLETTE_AUTH_APP", "shop_settings:auth")
    assert main(["clearsessions"]) == 0
    capsys.readouterr()
    for wrong in ("shop_settings:number", "shop_settings:none", "no_such_module:auth", ":", "..:x"):
        assert main(["--app", wrong, "migrate"]) == 1
        output = capsys.readouterr()
        assert output.out == ""
        assert output.err.count("\n") == 1
        assert "--app" in output.err


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["migrate"],
        ["--database", "x", "dance"],
        ["--database", "x", "unlock"],
        ["--app", "a", "--database", "b", "migrate"],
    ],
)
def test_wrong_arguments_exit_with_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert "usage:" in capsys.readouterr().err


@pytest.mark.parametrize(
    "url",
    [
        "nonsense",
        "oracle://x",
        "sqlite+aiosqlite://",
        "sqlite+aiosqlite:////no/such/folder/x.sqlite3",
        "postgresql://user:wrong@127.0.0.1:1/none",
        "postgresql+aiopg://x/y",
    ],
)
def test_an_unusable_database_is_reported_in_one_line(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--database", url, "migrate"]) == 1
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.count("\n") == 1
    assert "Traceback" not in output.err


@pytest.mark.parametrize(
    ("arguments", "password", "expected"),
    [
        (["createsuperuser", "--noinput"], "x", "--username"),
        (["createsuperuser", "--noinput", "--username", "root"], "", "STARLETTE_AUTH_PASSWORD"),
        (["createsuperuser", "--noinput", "--username", "r" * 151], "nine loud herons stand", "150"),
        (["createsuperuser", "--noinput", "--username", "root"], "x" * 1025, "1024"),
        (["changepassword", "unknown"], "x", "no user"),
        (["unlock", "unknown"], "", "no user 'unknown'"),
    ],
)
def test_an_error_states_its_reason(
    file_url: str,
    arguments: list[str],
    password: str,
    expected: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["--database", file_url, "migrate"]) == 0
    monkeypatch.setenv("STARLETTE_AUTH_PASSWORD", password)
    assert main(["--database", file_url, *arguments]) == 1
    assert expected in capsys.readouterr().err


async def test_missing_tables_are_reported_in_one_line(file_url: str) -> None:
    response = await run(
        "--database", file_url, "createsuperuser", "--username", "x", "--noinput", STARLETTE_AUTH_PASSWORD="x"
    )
    assert response.returncode == 1
    assert "migrate" in response.stderr
    assert response.stderr.count("\n") == 1


async def test_a_prompt_without_a_terminal_is_an_error(file_url: str) -> None:
    await run("--database", file_url, "migrate")
    response = await run("--database", file_url, "createsuperuser")
    assert response.returncode == 1
    assert "--noinput" in response.stderr


def test_a_password_is_asked_for_twice(
    file_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["--database", file_url, "migrate"])
    typed = iter(["one", "two", "same", "same", "again", "again"])
    # These replace the keyboard, as a test has no terminal.
    monkeypatch.setattr(getpass, "getpass", lambda prompt: next(typed))
    monkeypatch.setattr(sys, "stdin", io.StringIO("root\nroot@example.org\nn\ny\n"))
    assert main(["createsuperuser", "--database", file_url]) == 0
    output = capsys.readouterr()
    assert "differ" in output.out
    assert output.out.count("Use this password anyway?") == 2
    assert "Warning: This password is too short." in output.err
    typed = iter(["nine loud herons stand"] * 2)
    assert main(["--database", file_url, "changepassword", "root"]) == 0
    assert "Warning" not in capsys.readouterr().err


def test_a_missing_terminal_or_a_taken_username_is_an_error(
    file_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["--database", file_url, "migrate"])
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    assert main(["--database", file_url, "createsuperuser"]) == 1
    assert "--noinput" in capsys.readouterr().err
    monkeypatch.setenv("STARLETTE_AUTH_PASSWORD", "nine loud herons stand")
    arguments = ["--database", file_url, "createsuperuser", "--noinput", "--username", "root"]
    assert main(arguments) == 0
    assert main(arguments) == 1
    assert "changepassword" in capsys.readouterr().err


def test_ctrl_c_at_a_prompt_is_handled(file_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(prompt: str) -> str:
        raise KeyboardInterrupt

    main(["--database", file_url, "migrate"])
    monkeypatch.setattr(getpass, "getpass", stop)
    assert main(["--database", file_url, "createsuperuser", "--username", "root", "--email", ""]) == 1


# What createsuperuser and changepassword refuse


def stored_users(url: str) -> list[tuple[str, str]]:
    with contextlib.closing(sqlite3.connect(url.removeprefix("sqlite+aiosqlite:///"))) as database:
        return database.execute("SELECT username, email FROM auth_user").fetchall()


@pytest.fixture
def migrated_url(file_url: str, capsys: pytest.CaptureFixture[str]) -> str:
    assert main(["--database", file_url, "migrate"]) == 0
    capsys.readouterr()
    return file_url


def assert_refused(capsys: pytest.CaptureFixture[str], expected: str) -> None:
    output = capsys.readouterr()
    assert (output.out, output.err.count("\n")) == ("", 1)
    assert expected in output.err


NAMES = """root\\n|\\nroot|ro\\not|ro\\rot|ro\\x00ot|ro\\x1b[31mot|ro\\tot|root | |ro ot|ro\\xa0ot|ro\\u2028ot|ro\\u200bot|
ro\\u202eot|root\\u3164|root\\uffa0|ro\\xadot|ro\\udcffot|root;|<root>"""
ADDRESSES = """not an address|root|root@|@example.org|a@b@example.org|root@example.org, x@example.org|root\\n@example.org|
root@example.org\\nBcc: x@example.org|root@exa mple.org|Root <root@example.org>|root@example|ro\\u200bot@example.org|
root@example.org\\x00|root\\u2028@example.org"""


def unescaped(texts: str) -> list[str]:
    return [text.encode().decode("unicode_escape") for text in texts.replace("|\n", "|").split("|")]


@pytest.mark.parametrize("name", unescaped(NAMES), ids=ascii)
def test_a_superuser_with_an_invalid_name_is_refused(
    migrated_url: str, name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("STARLETTE_AUTH_PASSWORD", "nine loud herons stand")
    assert main(["--database", migrated_url, "createsuperuser", "--noinput", "--username", name]) == 1
    assert_refused(capsys, "is not a valid username. Use letters, digits and @ . + - _ only")
    assert stored_users(migrated_url) == []


@pytest.mark.parametrize("address", unescaped(ADDRESSES), ids=ascii)
def test_a_superuser_with_an_invalid_address_is_refused(
    migrated_url: str, address: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("STARLETTE_AUTH_PASSWORD", "nine loud herons stand")
    arguments = ["createsuperuser", "--noinput", "--username", "root", "--email", address]
    assert main(["--database", migrated_url, *arguments]) == 1
    assert_refused(capsys, "is not an e-mail address. Pass --email in the form ann@example.org.")
    assert stored_users(migrated_url) == []


@pytest.mark.parametrize("answers", ["ro ot\nroot@example.org\n", "root\nnot an address\n"])
def test_answers_at_the_prompt_are_checked_before_the_password_is_asked_for(
    migrated_url: str, answers: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(answers))  # replaces the keyboard
    assert main(["--database", migrated_url, "createsuperuser"]) == 1
    assert "is not" in capsys.readouterr().err
    assert stored_users(migrated_url) == []


def test_where_the_address_is_the_username_it_must_be_one(
    tmp_path: Path, file_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "email_settings.py").write_text(
        "import sqlalchemy as sa\nfrom databases import Database\n"
        "from starlette_auth import Auth, DjangoProject, user_columns\n"
        "columns = [column for column in user_columns() if column.name not in ('username', 'email')]\n"
        "person = sa.Table('person', sa.MetaData(), *columns, sa.Column('email', sa.String(254), unique=True))\n"
        "django = DjangoProject(user=person, username_field='email')\n"
        f"auth = Auth(Database({file_url!r}), secret_key={SECRET_KEY!r}, django=django)\n"
    )
    monkeypatch.setenv("STARLETTE_AUTH_PASSWORD", "nine loud herons stand")
    options = ["--app", "email_settings:auth"]
    assert main([*options, "createsuperuser", "--noinput", "--username", "root"]) == 1
    assert_refused(capsys, "which is the username on this site")
    assert main([*options, "createsuperuser", "--noinput", "--username", "root@example.org"]) == 1
    assert_refused(capsys, "migrate")  # the name is valid, and the tables are missing


@pytest.mark.parametrize("fields", [("email",), ("username", "email"), ("username",)], ids="+".join)
def test_createsuperuser_and_migrate_know_whether_users_log_in_with_their_address(
    tmp_path: Path,
    file_url: str,
    fields: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    module = "_".join(("fields", *fields))
    (tmp_path / f"{module}.py").write_text(
        "from databases import Database\nfrom starlette_auth import Auth\n"
        f"auth = Auth(Database({file_url!r}), secret_key={SECRET_KEY!r}, login_fields={fields!r})\n"
    )
    monkeypatch.setenv("STARLETTE_AUTH_PASSWORD", "nine loud herons stand")
    app, command = ["--app", f"{module}:auth"], ["createsuperuser", "--noinput", "--username"]
    assert main([*app, "migrate"]) == 0
    assert ("created auth_user_email_unique\n" in capsys.readouterr().out) == ("email" in fields)
    assert main([*app, *command, "root", "--email", "root@example.org"]) == 0
    capsys.readouterr()
    again = main([*app, *command, "other", "--email", "ROOT@example.org"])
    assert again == (1 if "email" in fields else 0)
    if "email" in fields:
        assert_refused(capsys, "There is a user with the email address 'ROOT@example.org' already.")
    capsys.readouterr()
    assert main(["--database", file_url, *command, "third", "--email", "Root@example.org"]) == 1
    assert_refused(capsys, "Pass --app MODULE:ATTRIBUTE if")
    assert len(stored_users(file_url)) == 2 - again


def test_migrate_refuses_addresses_that_several_users_have(
    tmp_path: Path, migrated_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    async def create_users() -> None:
        async with connected(migrated_url) as database, installed(database) as auth:
            for name in ("ann", "bob"):
                await auth.users.create_user(name, "ann@example.org")

    asyncio.run(create_users())
    (tmp_path / "shared_address.py").write_text(
        "from databases import Database\nfrom starlette_auth import Auth\n"
        f"auth = Auth(Database({migrated_url!r}), secret_key={SECRET_KEY!r}, login_fields=['email'])\n"
    )
    assert main(["--app", "shared_address:auth", "migrate"]) == 1
    assert_refused(capsys, "Primary keys: 1, 2. Leave each address to one user")


WEAK_PASSWORDS = [
    "a",
    "password",
    "passwordpassword",
    "mypasswordispassword",
    "\N{NO-BREAK SPACE}" * 15,
    "root@example.org",
]


@pytest.mark.parametrize("noinput", [["--noinput"], []])
@pytest.mark.parametrize("password", WEAK_PASSWORDS)
def test_a_weak_password_from_the_environment_is_refused(
    migrated_url: str,
    password: str,
    noinput: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("STARLETTE_AUTH_PASSWORD", password)
    arguments = ["--database", migrated_url, "createsuperuser", *noinput, "--username", "root"]
    arguments += ["--email", "root@example.org"]
    assert main(arguments) == 1
    assert_refused(capsys, "" if not password.strip() else "--allow-weak-password")
    assert stored_users(migrated_url) == []
    if password.strip():
        assert main([*arguments, "--allow-weak-password"]) == 0
        output = capsys.readouterr()
        assert output.out == "Created the superuser root.\n"
        assert output.err.startswith("Warning: ")


@pytest.mark.parametrize("password", WEAK_PASSWORDS)
def test_a_weak_new_password_from_the_environment_is_refused(
    migrated_url: str, password: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("STARLETTE_AUTH_PASSWORD", "nine loud herons stand")
    options = ["--database", migrated_url]
    assert main([*options, "createsuperuser", "--noinput", "--username", "root", "--email", "root@example.org"]) == 0
    capsys.readouterr()
    monkeypatch.setenv("STARLETTE_AUTH_PASSWORD", password)
    assert main([*options, "changepassword", "root"]) == 1
    assert_refused(capsys, "" if not password.strip() else "--allow-weak-password")
    if password.strip():
        assert main([*options, "changepassword", "root", "--allow-weak-password"]) == 0
        assert "Warning: " in capsys.readouterr().err


def test_a_weak_password_at_the_prompt_needs_no_confirmation_with_the_option(
    migrated_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(getpass, "getpass", lambda prompt: "a")  # replaces the keyboard
    arguments = ["createsuperuser", "--username", "root", "--email", "", "--allow-weak-password"]
    assert main(["--database", migrated_url, *arguments]) == 0
    output = capsys.readouterr()
    assert "anyway" not in output.out
    assert "Warning: This password is too short." in output.err


# Credentials in URLs

BAD_URLS = [
    "oracle://user:s3cret@host/name",
    "mssql+pyodbc://user:s3cret@host/name",
    "postgresql+psycopg2://user:s3cret@127.0.0.1:1/name",
    "user:s3cret@host/name",
    "//user:s3cret@host/name",
    "postgresql://user:s3cret/more@host/name",
    "postgresql://user:s3cret#more@host/name",
    "postgresql://user:s3cret?more@host/name",
    "postgresql://user:s3cret[more@host/name",
    "postgresql://user:pw@host:s3cret/name",
    "postgresql://user:s3cret@host:99999/name",
    "mysql+asyncmy://user:s3cret/more@host/name",
    "mysql+asyncmy://user:s3cret@127.0.0.1:1/name",
    "s3cret",
    "",
]


@pytest.mark.parametrize("number", range(len(BAD_URLS)), ids=BAD_URLS)
def test_no_command_prints_the_password_of_a_url(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    url, module = BAD_URLS[number], f"url_settings_{number}"
    (tmp_path / f"{module}.py").write_text(
        "from databases import Database\nfrom starlette_auth import Auth\n"
        f"auth = Auth(Database({url!r}), secret_key={SECRET_KEY!r})\n"
    )
    commands = [
        ["--database", url, "migrate"],
        ["check-django", "--database", url],
        ["import-django", "--from", url, "--to", "sqlite+aiosqlite:///x.sqlite3"],
        ["import-django", "--from", "sqlite+aiosqlite:///x.sqlite3", "--to", url],
        ["--app", f"{module}:auth", "migrate"],
    ]
    for arguments in commands[0 if url else 1 :]:
        assert main(arguments) == 1
        output = capsys.readouterr()
        assert "s3cret" not in output.out + output.err, arguments
        assert output.err.count("\n") == 1
    monkeypatch.setenv("DATABASE_URL", url or "s3cret://")
    for command in ("migrate", "check-django"):
        assert main([command]) == 1
        assert "s3cret" not in capsys.readouterr().err


def test_an_unsupported_url_is_answered_with_the_supported_ones(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--database", "oracle://user:s3cret@host/name", "migrate"]) == 1
    assert_refused(
        capsys, "Use sqlite+aiosqlite:///file, postgresql://user@host/name or mysql+asyncmy://user@host/name."
    )


def test_an_error_that_quotes_a_url_is_printed_without_its_credentials(capsys: pytest.CaptureFixture[str]) -> None:
    print_error("cannot connect to postgresql://user:s3c ret@host/name, as oracle://u:s3c@@host, today")
    assert "s3c" not in (error := capsys.readouterr().err)
    assert error.endswith("@host, today\n")

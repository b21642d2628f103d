"""The command line, run as a command."""

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

import pytest
import sqlalchemy as sa
from databases import Database

from starlette_auth import Auth, User
from starlette_auth.cli.main import main

from ..conftest import SECRET_KEY, connected, count_statements, installed
from ..support.server import ROOT


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("STARLETTE_AUTH_APP", "DATABASE_URL", "STARLETTE_AUTH_PASSWORD"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)


async def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own, with nobody at the keyboard."""
    return await run_at(subprocess.PIPE, *arguments, **environment)


async def run_at(stderr: int, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The same, with a place for what it says of its progress."""
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


async def log_in_on(auth: Auth, user: User, number: int) -> None:
    for _ in range(number):
        session = await auth.sessions.load("")
        auth.session_backend.bind(session, user, "x")
        session.address, session.user_agent = "192.0.2.1", "Mozilla/5.0 (X11; Linux x86_64) Firefox/150.0\x1b[31m"
        await auth.sessions.save(session, 1000)


async def test_sessions_are_listed_and_ended(database_url: str) -> None:
    async with connected(database_url) as database, installed(database) as auth:
        ann = await auth.users.create_user("ann", password="pässword one")
        ben = await auth.users.create_user("ben", password="pässword one")
        await log_in_on(auth, ann, 3)
        await log_in_on(auth, ben, 1)
        where = {"DATABASE_URL": database_url}
        listed = await run("sessions", "list", "ann", **where)
        lines = listed.stdout.splitlines()
        assert (listed.returncode, listed.stderr, len(lines)) == (0, "", 3)
        for line in lines:
            assert line.partition("  ")[2] == "Firefox on Linux, 192.0.2.1, logged in just now, last seen just now"
        ids = [line.split()[0] for line in lines]
        ended = await run("sessions", "revoke", "ann", *ids[:2], **where)
        assert (ended.returncode, ended.stdout) == (0, "Ended 2 sessions of ann.\n")
        again = await run("sessions", "revoke", "ann", ids[0], ids[2], **where)
        assert (again.returncode, again.stdout, again.stderr.count("\n")) == (1, "", 1)
        assert ids[0] in again.stderr
        assert ids[2] not in again.stderr, "this one was there, and has ended"
        await log_in_on(auth, ann, 2)
        assert (await run("sessions", "revoke", "ann", "--all", **where)).stdout == "Ended 2 sessions of ann.\n"
        assert (await run("sessions", "list", "ann", **where)).stdout == "ann is logged in nowhere.\n"
        assert len(await auth.user_sessions.list(ben)) == 1
        changed = await run("changepassword", "ben", STARLETTE_AUTH_PASSWORD="pässword two", **where)
        assert changed.returncode == 0
        assert await auth.sessions.list_sessions(ben.identity) == []
        for words in (["sessions", "list", "nobody"], ["sessions", "revoke", "nobody", "--all"]):
            refused = await run(*words, **where)
            assert (refused.returncode, refused.stderr.count("\n")) == (1, 1)
            assert "no user" in refused.stderr


async def test_sessions_in_cookies_cannot_be_listed(tmp_path: Path, file_url: str) -> None:
    (tmp_path / "cookie_settings.py").write_text(
        "from databases import Database\nfrom starlette_auth import Auth, CookieStore\n"
        f"key = {SECRET_KEY!r}\nauth = Auth(Database({file_url!r}), secret_key=key, sessions=CookieStore(key))\n"
    )
    where = {"STARLETTE_AUTH_APP": "cookie_settings:auth"}
    await run("migrate", **where)
    await run("createsuperuser", "--username", "ann", "--noinput", STARLETTE_AUTH_PASSWORD="pässword one", **where)
    for words in (["list", "ann"], ["revoke", "ann", "--all"], ["revoke", "ann", "x"]):
        refused = await run("sessions", *words, **where)
        assert (refused.returncode, refused.stdout, refused.stderr.count("\n")) == (1, "", 1)
        assert "Use DatabaseStore, RedisStore or CachedStore" in refused.stderr
    assert (await run("clearsessions", **where)).stdout == "Deleted 0 expired sessions.\n"


def test_a_new_password_can_be_given_where_sessions_are_in_cookies(
    tmp_path: Path, file_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "more_cookie_settings.py").write_text(
        "from databases import Database\nfrom starlette_auth import Auth, CookieStore\n"
        f"key = {SECRET_KEY!r}\nauth = Auth(Database({file_url!r}), secret_key=key, sessions=CookieStore(key))\n"
    )
    monkeypatch.setenv("STARLETTE_AUTH_APP", "more_cookie_settings:auth")
    monkeypatch.setenv("STARLETTE_AUTH_PASSWORD", "pässword one")
    for words in (["migrate"], ["createsuperuser", "--username", "ann", "--noinput"], ["changepassword", "ann"]):
        assert main(words) == 0


def test_sessions_by_the_function_too(file_url: str, capsys: pytest.CaptureFixture[str]) -> None:
    async def prepare() -> None:
        async with connected(file_url) as database, installed(database) as auth:
            await log_in_on(auth, await auth.users.create_user("ann", password="pässword one"), 3)

    asyncio.run(prepare())
    where = ["--database", file_url, "sessions"]
    assert main([*where, "list", "ann"]) == 0
    ids = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert main([*where, "revoke", "ann", ids[0]]) == 0
    assert main([*where, "revoke", "ann", ids[0], ids[1]]) == 1
    assert main([*where, "revoke", "--all", "ann"]) == 0
    assert main([*where, "list", "ann"]) == 0
    assert capsys.readouterr().out.endswith("Ended 1 sessions of ann.\nann is logged in nowhere.\n")
    assert main([*where, "list", "nobody"]) == 1
    for words in (["revoke", "ann"], ["revoke", "ann", "x", "--all"], [], ["list"]):
        with pytest.raises(SystemExit) as ended:
            main([*where, *words])
        assert ended.value.code == 2


def test_clearing_by_the_function_can_be_interrupted_too(file_url: str, capsys: pytest.CaptureFixture[str]) -> None:
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
    assert capsys.readouterr().err.startswith("Stopped. ")
    assert main(["--database", file_url, "clearsessions"]) == 0


# Cleaning


async def fill(auth: Auth, number: int, expires: int) -> None:
    """As fast as the database can."""
    rows = [(secrets.token_hex(32), secrets.token_hex(16), None, "{}", 1, 1, expires, "", "", 0) for _ in range(number)]
    names = ("key_hash", "public_id", "user_id", "data", "created", "last_seen", "expires", "address", "user_agent")
    for start in range(0, number, 1000):
        values = [dict(zip((*names, "version"), row, strict=True)) for row in rows[start : start + 1000]]
        await auth.database.execute(sa.insert(auth.tables.session).values(values))


async def sessions_left(auth: Auth) -> int:
    return int(await auth.database.fetch_val(sa.select(sa.func.count()).select_from(auth.tables.session)))


async def test_old_sessions_are_cleared_in_small_batches_that_let_others_through(
    auth: Auth, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fill(auth, 1700, expires=1)
    await fill(auth, 3, expires=4_000_000_000)
    said = count_statements(auth, monkeypatch)
    told: list[int] = []
    others = 0

    async def work() -> None:
        nonlocal others
        while True:
            await auth.users.count()
            others += 1

    busy = asyncio.create_task(work())
    assert await auth.clear_expired(told.append) == 1700
    busy.cancel()
    await asyncio.wait([busy])
    assert told == [500, 1000, 1500, 1700]
    deletes = [statement for statement in said if statement.startswith("DELETE") and "auth_session" in statement]
    assert len(deletes) == 4
    assert others > 4
    assert await sessions_left(auth) == 3
    assert await auth.clear_expired(told.append) == 0
    assert told[4:] == [0]


async def test_two_may_clear_at_the_same_time(auth: Auth) -> None:
    await fill(auth, 3000, expires=1)
    cleared = await asyncio.gather(*(auth.clear_expired() for _ in range(3)))
    assert sum(cleared) == 3000
    assert await sessions_left(auth) == 0


async def test_progress_is_shown_on_a_terminal_and_nowhere_else(database_url: str) -> None:
    async with connected(database_url) as database, installed(database) as auth:
        await fill(auth, 1200, expires=1)
        mine, theirs = pty.openpty()
        shown = await run_at(theirs, "clearsessions", DATABASE_URL=database_url)
        os.close(theirs)
        assert shown.stdout == "Deleted 1200 expired sessions.\n"
        written = os.read(mine, 10_000).decode()
        os.close(mine)
        assert [int(number.replace(",", "")) for number in re.findall(r"Deleted ([\d,]+) ", written)] == [
            500,
            1000,
            1200,
        ]
        assert written.endswith("\r\x1b[K"), "nothing is left of it"
        await fill(auth, 1200, expires=1)
        assert (await run("clearsessions", DATABASE_URL=database_url)).stderr == ""


async def test_clearing_can_be_interrupted_and_goes_on_next_time(database_url: str) -> None:
    async with connected(database_url) as database, installed(database) as auth:
        await fill(auth, 12_000, expires=1)
        command = [sys.executable, "-m", "starlette_auth", "--database", database_url, "clearsessions"]
        process = await asyncio.create_subprocess_exec(*command, cwd=ROOT, stderr=subprocess.PIPE)
        while await sessions_left(auth) == 12_000:
            await asyncio.sleep(0.01)
        process.send_signal(signal.SIGINT)
        _, said = await process.communicate()
        assert process.returncode == 1
        found = re.fullmatch(
            r"Stopped\. (\d+) expired sessions were deleted; the rest is there until next time\.\n", said.decode()
        )
        assert found, said
        left = await sessions_left(auth)
        assert 0 < left < 12_000
        assert 0 <= 12_000 - left - int(found[1]) <= 500, "at most one batch was done and not yet counted"
        assert await auth.clear_expired() == left


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

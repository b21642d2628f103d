"""Tests of what an operator does from the command line: logs everybody out, sends resets, unlocks names."""

import asyncio
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from databases import Database

from starlette_auth import Auth, DatabaseStore, ImproperlyConfigured, Unavailable, lifespan
from starlette_auth.cli.main import main
from starlette_auth.database.urls import open_database
from starlette_auth.testing import CollectingMailer, FrozenClock

from ..conftest import BACKENDS, PASSWORD, SECRET_KEY, client_of, with_store
from ..support.apps import is_throttled, make_app
from ..support.server import ROOT, environment, free_port

SITE: dict[str, Any] = {"base_url": "https://site.example"}
CLOSED = free_port()
NEW_PASSWORD = "eleven purple hats in a row"
APPLICATION = """
from databases import Database
from starlette.applications import Starlette
from starlette.routing import Mount
from starlette_auth import Auth, middleware, routes
from starlette_auth.testing import CollectingMailer

class Mailer(CollectingMailer):
    async def send(self, message):
        if message["To"] == "broken@example.org":
            raise OSError("refused: https://site.example/accounts/reset/MQ/secret")
        await super().send(message)

mailer = Mailer()
auth = Auth(Database({url!r}), secret_key={key!r}, mailer=mailer, base_url="https://site.example")
app = Starlette(routes=[Mount("/accounts", routes=routes(auth))], middleware=middleware(auth))
"""


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("STARLETTE_AUTH_APP", "DATABASE_URL", "STARLETTE_AUTH_PASSWORD"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def file_url(tmp_path: Path) -> str:
    url = f"sqlite+aiosqlite:///{tmp_path}/site.sqlite3"
    assert main(["--database", url, "migrate"]) == 0
    return url


def on_site(url: str, work: Callable[[Auth], Any], **options: Any) -> Any:
    """Returns what `work` returns, given an Auth on the database."""

    async def run() -> Any:
        async with Database(url) as database:
            auth = Auth(database, secret_key=SECRET_KEY, **options)
            try:
                return await work(auth)
            finally:
                await auth.close()

    return asyncio.run(run())


async def create_ann(auth: Auth, email: str = "ann@example.org") -> None:
    await auth.users.create_user("ann", email, PASSWORD)
    session = auth.sessions.new_session()
    session["cart"] = 1
    await auth.sessions.save(session, 60)


def test_everybody_is_logged_out(file_url: str, capsys: pytest.CaptureFixture[str]) -> None:
    on_site(file_url, create_ann)
    capsys.readouterr()
    assert main(["--database", file_url, "sessions", "revoke", "--everybody"]) == 0
    assert capsys.readouterr().out == "Ended all 1 sessions (DatabaseStore, table auth_session).\n"


@pytest.mark.parametrize(
    "arguments",
    [[], ["ann"], ["ann", "--everybody"], ["ann", "x", "--all"], ["--all"], ["ann", "--all", "--everybody"]],
)
def test_sessions_are_revoked_only_by_a_clear_command(
    file_url: str, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--database", file_url, "sessions", "revoke", *arguments])
    assert ended.value.code == 2
    assert "`sessions revoke --everybody`" in capsys.readouterr().err


async def test_a_reset_lets_the_user_choose_the_password(tmp_path: Path) -> None:
    mailer = CollectingMailer()
    async with with_store("sqlite", tmp_path, mailer=mailer, **SITE) as auth:
        ann = await auth.users.create_user("ann", "ann@example.org")  # a new user, without a password
        app = make_app(auth)
        await auth.users.send_password_reset(ann, app=app)
        (message,), link = mailer.messages, mailer.links()[0]
        assert message["To"] == "ann@example.org"
        async with client_of(app, base_url=SITE["base_url"], headers={"origin": SITE["base_url"]}) as client:
            form = await client.get(link.removeprefix(SITE["base_url"]), follow_redirects=True)
            data = {"new_password1": NEW_PASSWORD, "new_password2": NEW_PASSWORD}
            assert (await client.post(str(form.url), data=data)).is_redirect
        fresh = await auth.users.get(ann.id)
        assert fresh is not None
        assert await auth.users.check_password(fresh, NEW_PASSWORD)


async def test_a_reset_that_cannot_be_sent_is_an_error(tmp_path: Path) -> None:
    class Broken(CollectingMailer):
        async def send(self, message: Any) -> None:
            raise OSError(f"rejected {message}")

    async with with_store("sqlite", tmp_path, mailer=Broken(), **SITE) as auth:
        ann = await auth.users.create_user("ann", "ann@example.org")
        with pytest.raises(Unavailable, match=r"Check the mail server") as caught:
            await auth.users.send_password_reset(ann, app=make_app(auth))
        assert "/reset/" not in str(caught.value)
        with pytest.raises(ImproperlyConfigured, match="app=app"):
            await auth.users.send_password_reset(ann)
        await auth.users.update(ann, email="")
        with pytest.raises(ValueError, match="no e-mail address"):
            await auth.users.send_password_reset(ann, app=make_app(auth))


@pytest.mark.parametrize("name", [" ann ", "ａｎｎ", "\u3000ann\n"])
@pytest.mark.parametrize(
    "command", [["changepassword"], ["unlock"], ["sendreset"], ["sessions", "list"], ["sessions", "revoke", "--all"]]
)
def test_a_name_is_read_as_the_login_page_reads_it(
    file_url: str, tmp_path: Path, command: list[str], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "names_site.py").write_text(APPLICATION.format(url=file_url, key=SECRET_KEY))
    monkeypatch.delitem(sys.modules, "names_site", raising=False)
    monkeypatch.setenv("STARLETTE_AUTH_PASSWORD", NEW_PASSWORD)
    on_site(file_url, create_ann)
    assert main(["--app", "names_site:auth", *command, name]) == 0


@pytest.mark.parametrize("command", [["changepassword"], ["sessions", "list"]])
def test_a_stored_name_that_is_not_normalized_is_found(
    file_url: str, command: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STARLETTE_AUTH_PASSWORD", NEW_PASSWORD)
    on_site(file_url, lambda auth: auth.users.create_user("ａｎｎ", normalize=False))
    assert main(["--database", file_url, *command, "ａｎｎ"]) == 0


@pytest.mark.parametrize("name", ["ann", "ann@example.org"])
def test_the_command_sends_a_reset(
    file_url: str, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    module = f"reset_site_{name.partition('@')[2].replace('.', '_')}"
    (tmp_path / f"{module}.py").write_text(APPLICATION.format(url=file_url, key=SECRET_KEY))
    on_site(file_url, create_ann)
    capsys.readouterr()
    assert main(["--app", f"{module}:auth", "sendreset", name]) == 0
    assert capsys.readouterr().out == "Sent ann the link to choose a new password.\n"
    assert sys.modules[module].mailer.links()[0].startswith("https://site.example/accounts/reset/")
    on_site(file_url, lambda auth: _set_email(auth, "broken@example.org"))
    assert main(["--app", f"{module}:auth", "sendreset", "ann"]) == 1
    error = capsys.readouterr().err
    assert (error.count("\n"), "Check the mail server" in error, "/reset/" in error) == (1, True, False)
    assert main(["--app", f"{module}:auth", "sendreset", "nobody"]) == 1
    assert "There is no user" in capsys.readouterr().err
    assert main(["--database", file_url, "sendreset", "ann"]) == 1
    assert "Pass --app" in capsys.readouterr().err


async def _set_email(auth: Auth, email: str) -> None:
    ann = await auth.users.get_by_username("ann")
    assert ann is not None
    await auth.users.update(ann, email=email)


def test_a_name_without_an_account_can_be_unlocked(file_url: str, capsys: pytest.CaptureFixture[str]) -> None:
    clock = FrozenClock()

    async def guess(auth: Auth) -> list[bool]:
        return [await is_throttled(auth, "stranger") for _ in range(6)]

    assert on_site(file_url, guess, clock=clock)[-1]
    assert main(["--database", file_url, "unlock", "stranger"]) == 1
    assert "no user 'stranger'. The name was unlocked anyway" in capsys.readouterr().err
    assert not on_site(file_url, guess, clock=clock)[0]


def wrong_databases() -> dict[str, tuple[str, str]]:
    """Returns URLs of databases that do not exist, by cause, each with a part of the message."""
    urls = {
        "folder": ("sqlite+aiosqlite:////nowhere/at/all.sqlite3", "The folder /nowhere/at of the database file"),
        "no PostgreSQL": (f"postgresql://ann:s3cret@127.0.0.1:{CLOSED}/site", "Check that it is running"),
        "no MySQL": (f"mysql://ann:s3cret@127.0.0.1:{CLOSED}/site", "Check that it is running"),
        "nonsense": ("nonsense", "not a supported database URL"),
    }
    for server in BACKENDS[1:]:
        kind, (user, _, host) = server.partition(":")[0], server.partition("://")[2].partition("@")
        urls[f"no such {kind}"] = (f"{server}/no_such_database", "Create the database first")
        urls[f"stranger {kind}"] = (server.replace(f"//{user}", "//stranger:s3cret") + "/x", "")
        assert host
    return urls


@pytest.mark.parametrize("wrong", wrong_databases())
def test_a_database_that_is_not_there_is_one_line(wrong: str, capsys: pytest.CaptureFixture[str]) -> None:
    url, message = wrong_databases()[wrong]
    assert main(["--database", url, "migrate"]) == 1
    assert main(["check-django", "--database", url]) == 1
    output = capsys.readouterr()
    assert (output.out, output.err.count("\n")) == ("", 2)
    for line in output.err.splitlines():
        assert message in line
        assert line.rstrip().endswith((".", "name"))
    assert "s3cret" not in output.err


@pytest.mark.parametrize("wrong", ["folder", "no PostgreSQL"])
async def test_the_example_says_in_one_line_that_its_database_is_not_there(wrong: str, tmp_path: Path) -> None:
    url, message = wrong_databases()[wrong]

    def call() -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "example_app"],
            env=environment(PORT="0", DATABASE_URL=url, PYTHONPATH=str(ROOT)),
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    process = await asyncio.to_thread(call)
    assert (process.returncode, process.stdout, process.stderr.count("\n")) == (1, "", 1)
    assert message in process.stderr


@pytest.mark.parametrize(
    ("url", "extra"),
    [("postgresql://a@b/c", "postgres"), ("mysql://a@b/c", "mysql"), ("mysql+asyncmy://a@b/c", "mysql")],
)
def test_a_driver_that_is_not_installed_is_named_with_its_extra(
    url: str, extra: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    driver = {"postgres": "asyncpg", "mysql": "asyncmy"}[extra]
    for name in [module for module in sys.modules if module.startswith(("databases.backends.", driver))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, driver, None)
    assert main(["--database", url, "migrate"]) == 1
    error = capsys.readouterr().err
    assert (error.count("\n"), driver in error) == (1, True)
    assert f"pip install starlette-contrib-auth[{extra}]" in error


def test_mysql_stands_for_asyncmy() -> None:
    assert open_database("mysql://root@127.0.0.1/x").url.scheme == "mysql+asyncmy"


async def test_the_application_says_what_is_wrong_with_its_database() -> None:
    database = Database(f"postgresql://ann@127.0.0.1:{CLOSED}/site")
    auth = Auth(database, secret_key=SECRET_KEY, sessions=lambda users: DatabaseStore(database, users=users))
    with pytest.raises(Unavailable, match="Check that it is running"):
        async with lifespan(auth)(None):
            pass

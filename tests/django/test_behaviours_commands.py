"""Behaviours of Django's own tests of its commands: `auth_tests/test_management.py` of version 5.2.

Behaviours that other tests of this package prove are left out; `behaviours/test_management.txt` names these tests.
"""

import asyncio
import getpass
import io
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from databases import Database

from starlette_auth import Auth, Tables, User
from starlette_auth.cli.main import main

from ..conftest import PASSWORD, SECRET_KEY, any_database, connected, installed, with_tables

pytestmark = [with_tables, any_database]
GOOD, OTHER = "nine loud herons stand", "walrus on a quiet pier"


@pytest.fixture
def url(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> str:
    url = f"sqlite+aiosqlite:///{tmp_path}/commands.sqlite3"
    assert main(["--database", url, "migrate"]) == 0
    capsys.readouterr()
    return url


Terminal = Callable[..., None]


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """Sets the answers at the prompts, and the name of the user of the operating system."""
    monkeypatch.delenv("STARLETTE_AUTH_PASSWORD", raising=False)

    def type_in(answers: list[str], passwords: list[str], system_user: str | Exception = "joe") -> None:
        def getuser() -> str:
            if isinstance(system_user, Exception):
                raise system_user
            return system_user

        typed = iter(passwords)
        # These replace the terminal and the operating system.
        monkeypatch.setattr(sys, "stdin", io.StringIO("".join(f"{answer}\n" for answer in answers)))
        monkeypatch.setattr(getpass, "getpass", lambda prompt: next(typed))
        monkeypatch.setattr(getpass, "getuser", getuser)

    type_in([], [])
    return type_in


def in_database(url: str, work: Callable[[Auth], Any]) -> Any:
    async def run() -> Any:
        async with connected(url) as database, installed(database) as auth:
            return await work(auth)

    return asyncio.run(run())


def create_user(url: str, name: str, password: str | None = None) -> None:
    in_database(url, lambda auth: auth.users.create_user(name, password=password))


def user_named(url: str, name: str) -> User | None:
    user: User | None = in_database(url, lambda auth: auth.users.get_by_username(name))
    return user


def has_password(url: str, name: str, password: str) -> bool:
    async def check(auth: Auth) -> bool:
        return await auth.users.check_password(await auth.users.get_by_username(name), password)

    return bool(in_database(url, check))


# createsuperuser: names


@pytest.mark.parametrize(
    ("system_user", "expected"),
    [("joe", "joe"), ("J\xfalia Roberts", "juliaroberts"), ("Domain\\joe", ""), ("taken", "")],
)
def test_createsuperuser_suggests_the_name_of_the_system_user(
    url: str, terminal: Terminal, system_user: str, expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    create_user(url, "taken")
    terminal(["" if expected else "root", ""], [GOOD] * 2, system_user)
    assert main(["--database", url, "createsuperuser"]) == 0
    output = capsys.readouterr().out
    assert ("Username [" in output) is bool(expected)
    assert f"Created the superuser {expected or 'root'}.\n" in output


@pytest.mark.parametrize("error", [ImportError(), KeyError(), OSError()], ids=repr)
def test_without_a_system_user_a_name_has_to_be_entered(url: str, terminal: Terminal, error: Exception) -> None:
    terminal(["", "root", ""], [GOOD] * 2, error)
    assert main(["--database", url, "createsuperuser"]) == 0
    assert user_named(url, "root") is not None


def test_a_suggested_name_is_free_in_the_database_of_the_option(
    url: str, tmp_path: Path, terminal: Terminal, capsys: pytest.CaptureFixture[str]
) -> None:
    other = f"sqlite+aiosqlite:///{tmp_path}/other.sqlite3"
    main(["--database", other, "migrate"])
    create_user(url, "joe")
    terminal(["", ""], [GOOD] * 2)
    assert main(["--database", other, "createsuperuser"]) == 0
    assert user_named(other, "joe") is not None
    capsys.readouterr()
    terminal(["other", ""], [GOOD] * 2)
    assert main(["--database", other, "createsuperuser"]) == 0
    assert "joe" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["x" * 151, "janet"], "150"),
        (["ja net", "janet"], "not a valid username"),
        (["taken", "janet"], "'taken' exists already"),
    ],
)
@pytest.mark.parametrize("by_option", [False, True])
def test_a_name_that_cannot_be_used_is_asked_for_again(
    url: str,
    terminal: Terminal,
    names: list[str],
    message: str,
    by_option: bool,
    capsys: pytest.CaptureFixture[str],
) -> None:
    create_user(url, "taken")
    terminal([*(names[1:] if by_option else names), "no address", "janet@example.org"], [GOOD] * 2)
    option = ["--username", names[0]] if by_option else []
    assert main(["--database", url, "createsuperuser", *option]) == 0
    output = capsys.readouterr()
    assert message in output.err
    assert "'no address' is not an e-mail address" in output.err
    assert "Created the superuser janet." in output.out


@pytest.mark.parametrize("noinput", [[], ["--noinput"]])
def test_a_blank_name_is_an_error(
    url: str, terminal: Terminal, noinput: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--database", url, "createsuperuser", "--username", "", *noinput]) == 1
    assert "Pass --username" in capsys.readouterr().err


@pytest.mark.parametrize("email", [[], ["--email", ""]])
def test_a_superuser_needs_no_address(
    url: str, terminal: Terminal, email: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STARLETTE_AUTH_PASSWORD", GOOD)
    assert main(["--database", url, "createsuperuser", "--noinput", "--username", "joe+admin@x.org", *email]) == 0
    user = user_named(url, "joe+admin@x.org")
    assert user is not None
    assert (user.email, user.is_superuser) == ("", True)
    assert has_password(url, "joe+admin@x.org", GOOD)


# createsuperuser: passwords


@pytest.mark.parametrize(
    ("passwords", "answers", "message"),
    [
        ([GOOD, OTHER, GOOD, GOOD], [], "The two passwords differ."),
        (["", GOOD, GOOD], [], "The password is empty."),
        (["   ", GOOD, GOOD], [], "The password is empty."),
        (["1234567890"] * 2 + [GOOD] * 2, ["n"], "too short"),
        (["supremelycomplex"] * 2 + [GOOD] * 2, ["n"], "too similar to the username"),
    ],
)
def test_a_password_that_cannot_be_used_is_asked_for_again(
    url: str,
    terminal: Terminal,
    passwords: list[str],
    answers: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    terminal(["supremelycomplex", "", *answers], passwords)
    assert main(["--database", url, "createsuperuser"]) == 0
    output = capsys.readouterr()
    assert message in output.out + output.err
    assert has_password(url, "supremelycomplex", GOOD)


def test_a_superuser_may_be_of_a_custom_user_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    url = f"sqlite+aiosqlite:///{tmp_path}/custom.sqlite3"
    (tmp_path / "custom_user_settings.py").write_text(
        "import sqlalchemy as sa\nfrom databases import Database\n"
        "from starlette_auth import Auth, Tables, user_columns\n"
        "person = sa.Table('person', sa.MetaData(), *user_columns(), sa.Column('born', sa.Date))\n"
        f"auth = Auth(Database({url!r}), secret_key={SECRET_KEY!r}, tables=Tables(user=person))\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("STARLETTE_AUTH_PASSWORD", GOOD)
    options = ["--app", "custom_user_settings:auth"]
    assert main([*options, "migrate"]) == 0
    assert main([*options, "createsuperuser", "--noinput", "--username", "joe", "--email", "joe@example.org"]) == 0
    assert "Created the superuser joe." in capsys.readouterr().out

    async def names() -> list[str]:
        async with Database(url) as database:
            return [str(row["username"]) for row in await database.fetch_all("SELECT username FROM person")]

    assert asyncio.run(names()) == ["joe"]
    assert Tables().user.name != "person"


# changepassword


def test_changepassword_is_for_the_system_user_unless_a_name_is_given(url: str, terminal: Terminal) -> None:
    create_user(url, "joe", OTHER)
    terminal([], [GOOD] * 2)
    assert main(["--database", url, "changepassword"]) == 0
    assert has_password(url, "joe", GOOD)


def test_changepassword_reports_an_unknown_user_before_it_asks(
    url: str, terminal: Terminal, capsys: pytest.CaptureFixture[str]
) -> None:
    for system_user, message in (("joe", "There is no user named 'joe'"), (OSError(), "Pass the username")):
        terminal([], [], system_user)
        assert main(["--database", url, "changepassword"]) == 1
        assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("passwords", "message"),
    [
        ([GOOD, OTHER] * 3, "The two passwords differ."),
        ([""] * 3, "The password is empty."),
        (["1234567890"] * 6, "too short"),
        (["joe@example.org"] * 6, "too similar to the email address"),
    ],
)
def test_changepassword_ends_after_three_attempts(
    url: str, terminal: Terminal, passwords: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    in_database(url, lambda auth: auth.users.create_user("joe", "joe@example.org", OTHER))
    terminal(["n"] * 3, passwords)
    assert main(["--database", url, "changepassword", "joe"]) == 1
    output = capsys.readouterr()
    assert (output.out + output.err).count(message) == 3
    assert "after 3 attempts" in output.err
    assert has_password(url, "joe", OTHER)


# Without a prompt


@pytest.fixture
def command(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    url = f"sqlite+aiosqlite:///{tmp_path}/commands.sqlite3"

    def run(*arguments: str, password: str | None = PASSWORD) -> int:
        monkeypatch.delenv("STARLETTE_AUTH_PASSWORD", raising=False)
        if password is not None:
            monkeypatch.setenv("STARLETTE_AUTH_PASSWORD", password)
        return main(["--database", url, *arguments])

    assert run("migrate") == 0
    run.url = url  # type: ignore[attr-defined]
    return run


def test_createsuperuser_says_what_it_needs(command: Any, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, password, message in (
        (["--noinput"], PASSWORD, "--username"),
        (["--noinput", "--username", "joe"], "", "STARLETTE_AUTH_PASSWORD"),
        (["--noinput", "--username", "joe"], "   ", "STARLETTE_AUTH_PASSWORD"),
        (["--noinput", "--username", "joe"], "password", "too common"),
        (["--noinput", "--username", "joe@ doe"], PASSWORD, "not a valid username"),
        (["--noinput", "--username", "x" * 200], PASSWORD, ""),
        (["--noinput", "--username", "joe", "--email", "jdoe"], PASSWORD, "not an e-mail address"),
    ):
        assert command("createsuperuser", *arguments, password=password) == 1
        assert re.search(message, capsys.readouterr().err)
    assert command("createsuperuser", "--noinput", "--username", "joe", "--email", "joe@somewhere.org") == 0
    assert "Created the superuser joe" in capsys.readouterr().out
    assert command("createsuperuser", "--noinput", "--username", "joe") == 1
    assert "exists already" in capsys.readouterr().err


def test_changepassword_changes_only_the_password_of_a_user_who_exists(
    command: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    command("createsuperuser", "--noinput", "--username", "J\xfalia")
    assert command("changepassword", "nobody") == 1
    assert "no user named 'nobody'" in capsys.readouterr().err
    assert command("changepassword", "J\xfalia", password="password") == 1
    assert command("changepassword", "J\xfalia", password="walrus on a quiet pier") == 0
    assert "Changed the password of J\xfalia" in capsys.readouterr().out

    async def check() -> list[bool]:
        async with Database(command.url) as database:
            auth = Auth(database, secret_key=SECRET_KEY)
            user = await auth.users.get_by_username("J\xfalia")
            matches = [await auth.users.check_password(user, raw) for raw in (PASSWORD, "walrus on a quiet pier")]
            await auth.close()
            return matches

    assert asyncio.run(check()) == [False, True]

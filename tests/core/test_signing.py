"""Tests of secret keys: which ones are refused, and which ones cause a warning?"""

import logging
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from databases import Database

from starlette_auth import (
    Auth,
    CookieStore,
    DjangoCookieStore,
    DjangoProject,
    DjangoStore,
    ImproperlyConfigured,
    PasswordResetTokens,
)
from starlette_auth.cli.main import main

from ..conftest import SECRET_KEY
from ..support.server import ROOT

PLACEHOLDER = "change-me-to-fifty-random-characters-please"
WEAK = [
    "short",
    "x1y2z3a4b5c6d7e8f9g0h1i2j3k4l5m",  # 31 characters
    "   x1y2z3a4b5c6d7e8f9g0h1i2j3k4l5m   ",
    "a" * 50,
    "abcd" * 20,
    "0" * 64,
    " " * 40,
    "\t \n\r" * 10,
    "\N{NO-BREAK SPACE}\N{EM SPACE}\N{EN SPACE}\N{THIN SPACE}\N{IDEOGRAPHIC SPACE}\N{ZERO WIDTH SPACE}" * 10,
    PLACEHOLDER,
    PLACEHOLDER.upper(),
    f" {PLACEHOLDER}\n",
    "change_me_to_fifty_random_characters_please",
    "changeme" * 6,
    "django-insecure-short",
]
DOUBTFUL = [
    "django-insecure-" + "x1y2z3a4b5c6d7e8f9g0h1i2j3k4l5m6n7o8p9q0r1s2t3u4v5w",
    "x1y2z3a4b5c6d7e8f9g0h1i2j3k4l5m6",  # 32 characters
    "abcde" * 8,
]


def auth_with(tmp_path: Path, **options: Any) -> Auth:
    options = {"secret_key": SECRET_KEY, "base_url": "https://shop.example", **options}
    return Auth(Database(f"sqlite+aiosqlite:///{tmp_path}/keys.sqlite3"), **options)


@pytest.mark.parametrize("django", [None, DjangoProject(), DjangoProject(session_engine="signed_cookies")])
@pytest.mark.parametrize("key", WEAK)
def test_a_weak_key_is_refused_on_an_https_site(tmp_path: Path, key: str, django: DjangoProject | None) -> None:
    for base_url in ("https://shop.example", "https://shop.example:8443/"):
        with pytest.raises(ImproperlyConfigured, match=r"secret_key .* https .*token_urlsafe\(50\)") as refused:
            auth_with(tmp_path, secret_key=key, base_url=base_url, django=django)
        assert key not in str(refused.value)


@pytest.mark.parametrize("base_url", [None, "http://shop.example", "http://127.0.0.1:8000"])
@pytest.mark.parametrize("key", [*WEAK, *DOUBTFUL])
def test_a_weak_key_is_warned_of_elsewhere(
    tmp_path: Path, key: str, base_url: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    auth_with(tmp_path, secret_key=key, base_url=base_url)
    [record] = caplog.records
    assert (record.name, record.levelno) == ("starlette_auth", logging.WARNING)
    assert "token_urlsafe(50)" in record.getMessage()
    assert key not in record.getMessage()


@pytest.mark.parametrize("django", [None, DjangoProject(), DjangoProject(session_engine="signed_cookies")])
@pytest.mark.parametrize("key", DOUBTFUL)
def test_what_else_django_checks_is_only_warned_of(
    tmp_path: Path, key: str, django: DjangoProject | None, caplog: pytest.LogCaptureFixture
) -> None:
    auth_with(tmp_path, secret_key=key, django=django)
    [record] = caplog.records
    assert record.levelno == logging.WARNING


@pytest.mark.parametrize(
    "key",
    [SECRET_KEY, secrets.token_urlsafe(50), "ключ из пятидесяти и более случайных знаков, не в репозитории"],
    ids=["test key", "generated", "not ASCII"],
)
def test_a_strong_key_is_accepted_in_silence(tmp_path: Path, key: str, caplog: pytest.LogCaptureFixture) -> None:
    auth_with(tmp_path, secret_key=key)
    auth_with(tmp_path, secret_key=[key, SECRET_KEY], django=DjangoProject())
    assert caplog.records == []


def test_an_old_key_is_checked_too(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Signatures by old keys are accepted, so an attacker could use a weak one."""
    with pytest.raises(ImproperlyConfigured, match=r"secret_key\[1\] \(an old key\) is a placeholder"):
        auth_with(tmp_path, secret_key=[SECRET_KEY, PLACEHOLDER])
    assert "secret_key[1]" in caplog.text


@pytest.mark.parametrize(
    "part",
    [
        lambda database: {"sessions": CookieStore(PLACEHOLDER)},
        lambda database: {"sessions": lambda users: CookieStore([SECRET_KEY, PLACEHOLDER])},
        lambda database: {"sessions": DjangoCookieStore(PLACEHOLDER)},
        lambda database: {"sessions": DjangoStore(database, PLACEHOLDER)},
        lambda database: {"reset_tokens": PasswordResetTokens(PLACEHOLDER)},
    ],
)
def test_the_keys_of_stores_and_reset_tokens_are_checked_too(
    tmp_path: Path, part: Callable[[Database], dict[str, Any]], caplog: pytest.LogCaptureFixture
) -> None:
    options = part(Database(f"sqlite+aiosqlite:///{tmp_path}/x.sqlite3"))
    auth_with(tmp_path, **options, base_url="http://localhost")
    assert "placeholder" in caplog.text
    with pytest.raises(ImproperlyConfigured, match="placeholder"):
        auth_with(tmp_path, **options)


def test_the_key_in_the_readme_is_refused(tmp_path: Path) -> None:
    assert PLACEHOLDER in (ROOT / "README.md").read_text()
    with pytest.raises(ImproperlyConfigured, match="placeholder"):
        auth_with(tmp_path, secret_key=PLACEHOLDER)


def test_the_command_line_reports_a_refused_key_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "weak_key_settings.py").write_text(
        "from databases import Database\nfrom starlette_auth import Auth\n"
        f"auth = Auth(Database('sqlite+aiosqlite:///x.sqlite3'), secret_key={PLACEHOLDER!r}, base_url='https://a.example')\n"
    )
    monkeypatch.chdir(tmp_path)
    assert main(["--app", "weak_key_settings:auth", "migrate"]) == 1
    output = capsys.readouterr()
    assert (output.out, output.err.count("\n")) == ("", 1)
    assert "token_urlsafe" in output.err

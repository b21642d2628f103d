"""The table of all ways to log in, in the guide `security.md`, is what `auth.describe()` returns."""

import re
from pathlib import Path

from databases import Database

from starlette_auth import (
    APITokens,
    Auth,
    BearerSessions,
    ConsoleMailer,
    DeviceLogin,
    EmailChange,
    Passkeys,
    Registration,
    RemoteUserBackend,
    TwoFactor,
)

from ..conftest import SECRET_KEY
from ..support.server import ROOT

GUIDE = ROOT / "example_app" / "guides" / "security.md"


def installation(folder: Path) -> Auth:
    """Returns an Auth with all ways to log in that the package has."""
    auth = Auth(
        Database(f"sqlite+aiosqlite:///{folder}/ways.sqlite3"),
        secret_key=SECRET_KEY,
        base_url="https://shop.example",
        mailer=ConsoleMailer(),
        login_after_reset=True,
        features=[
            Registration(),
            EmailChange(),
            TwoFactor(),
            Passkeys(),
            APITokens("shop"),
            BearerSessions(),
            DeviceLogin(clients={"cli": "Shop CLI"}),
        ],
    )
    auth.backends.insert(0, RemoteUserBackend(auth.users, trusted_proxies=["127.0.0.1"]))
    return auth


def rows() -> dict[str, list[str]]:
    """Returns the cells of each row of the table, by the name of the way."""
    section = GUIDE.read_text().partition("## All ways to log in\n")[2].partition("\n## ")[0]
    lines = re.findall(r"(?m)^\| `(\w+)` \|(.*)\|$", section)
    return {name: [cell.strip() for cell in cells.split("|")] for name, cells in lines}


def test_the_guide_has_each_way_with_its_strength(tmp_path: Path) -> None:
    ways = installation(tmp_path).describe()
    described = {
        way.name: ("second factor" if way.is_second_factor else "alone", str(way.level), way.phishing_resistant)
        for way in ways
    }
    table = {name: (kind, level, phishing == "resistant") for name, (_, _, kind, level, phishing, _) in rows().items()}
    assert table == described
    assert len(ways) == len(described)


def test_the_numbers_of_the_limits_are_those_of_the_installation(tmp_path: Path) -> None:
    for way in installation(tmp_path).describe():
        stated = set(re.findall(r"\d+", rows()[way.name][-1]))
        assert stated <= set(re.findall(r"\d+", way.limits)), (way.name, stated, way.limits)

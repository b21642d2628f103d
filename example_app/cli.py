"""A command line for users of the example applications: `python -m example_app.cli login`. Needs the extra `device`."""

import argparse
import importlib
import json
import os
import sys
from pathlib import Path
from typing import Any

import httpx

from starlette_auth.device import DeviceLoginFailed, log_in

CLIENT = "cli"  # as in DeviceLogin(clients={"cli": …})
SERVICE = "example_app.cli"  # the name in the keyring
TOKENS = Path.home() / ".example_app_tokens.json"  # without a keyring


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m example_app.cli", description="Uses the example application.")
    parser.add_argument("command", choices=["login", "me", "logout"])
    parser.add_argument("--site", default=os.environ.get("SITE") or "http://localhost:8000")
    parser.add_argument(
        "--scope", action="append", default=[], help="a permission; without any, the token has all of yours"
    )
    options = parser.parse_args()
    site = options.site.rstrip("/")
    try:
        if options.command == "login":
            save_token(site, log_in(f"{site}/accounts", CLIENT, scopes=options.scope))
            say("Logged in.")
        elif options.command == "me":
            show_me(site)
        else:
            save_token(site, None)
            say(f"The token is deleted on this machine. To end it, revoke it on {site}/accounts/tokens")
    except (DeviceLoginFailed, httpx.HTTPError, ValueError) as error:
        sys.exit(f"{type(error).__name__}: {error}")
    except KeyboardInterrupt:
        sys.exit("Stopped.")


def show_me(site: str) -> None:
    token = load_token(site)
    if token is None:
        sys.exit("Not logged in. Run the command login.")
    response = httpx.get(f"{site}/api/me", headers={"Authorization": f"Bearer {token}"})
    if response.status_code == 401:
        sys.exit("401: the token was revoked or has expired. Run the command login.")
    say(json.dumps(response.raise_for_status().json(), indent=2))


def load_token(site: str) -> str | None:
    keyring = find_keyring()
    token: str | None = keyring.get_password(SERVICE, site) if keyring else read_file().get(site)
    return token


def save_token(site: str, token: str | None) -> None:
    """Stores the token of a site; None deletes it. Each site gets only its own token."""
    keyring = find_keyring()
    if keyring is None:
        tokens = {name: value for name, value in {**read_file(), site: token}.items() if value}
        TOKENS.touch(mode=0o600)
        TOKENS.chmod(0o600)  # if it existed: other users of the machine must not read it
        TOKENS.write_text(json.dumps(tokens))
    elif token is not None:
        keyring.set_password(SERVICE, site, token)
    elif load_token(site) is not None:
        keyring.delete_password(SERVICE, site)


def find_keyring() -> Any:
    """Returns the library keyring if it is installed and has an encrypted store on this machine; otherwise None."""
    try:
        keyring = importlib.import_module("keyring")
    except ImportError:
        return None
    return keyring if keyring.get_keyring().priority >= 1 else None


def read_file() -> dict[str, str | None]:
    tokens: dict[str, str | None] = json.loads(TOKENS.read_text()) if TOKENS.exists() else {}
    return tokens


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")


if __name__ == "__main__":
    main()

"""Which names, addresses and passwords do `createsuperuser` and `changepassword` accept?"""

import argparse
import asyncio
import getpass
import os
from collections.abc import Sequence

from ..auth import Auth
from ..core.exceptions import ValidationError
from ..core.text import is_email_address, normalize_username
from ..users.models import User
from ..users.usernames import UnicodeUsernameValidator, validate_username
from .terminal import CommandError, ask, print_error, print_line


def add_allow_weak_password(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--allow-weak-password", action="store_true", help="accept a password that the rules of the site reject"
    )


def ask_for_superuser(auth: Auth, options: argparse.Namespace) -> None:
    if not options.username and not options.noinput:
        options.username = ask("Username: ")
    if not options.username:
        raise CommandError("A username is needed. Pass --username.")
    if options.email is None and not options.noinput:
        options.email = ask("E-mail address (optional): ")
    name, options.email = options.username, (options.email or "").strip()
    options.username = normalize_username(name)
    # Blanks around the name may come from a mistake in a script. Therefore the name is refused as it was passed.
    _check_account(auth, options.username if name == name.strip() else name, options.email)
    user = User(id=None, username=options.username, email=options.email)
    options.password = _new_password(auth, user, options, may_ask=not options.noinput)


def _check_account(auth: Auth, name: str, address: str) -> None:
    """Raises CommandError for a name or an address that the registration page would not accept either."""
    if auth.tables.username is auth.tables.email:
        if not is_email_address(name):
            raise CommandError(
                f"{name!r} is not an e-mail address, which is the username on this site. "
                "Pass --username in the form ann@example.org."
            )
    else:
        try:
            asyncio.run(validate_username(name, auth.users.username_validator))
        except ValidationError as error:
            is_default = type(auth.users.username_validator) is UnicodeUsernameValidator
            hint = "Use letters, digits and @ . + - _ only, without blanks." if is_default else str(error)
            raise CommandError(f"{name!r} is not a valid username. {hint}") from error
    if address and not is_email_address(address):
        raise CommandError(f"{address!r} is not an e-mail address. Pass --email in the form ann@example.org.")


def ask_for_password(auth: Auth, options: argparse.Namespace) -> None:
    user = User(id=None, username=normalize_username(options.username))
    options.password = _new_password(auth, user, options, may_ask=True)


def _new_password(auth: Auth, user: User, options: argparse.Namespace, *, may_ask: bool) -> str:
    """Returns the password from the environment or the prompt.

    At the prompt, the administrator may confirm a weak password, as in Django.
    """
    password = os.environ.get("STARLETTE_AUTH_PASSWORD", "")
    while may_ask and not password:
        password = ask("Password: ", getpass.getpass)
        if password != ask("Password (again): ", getpass.getpass):
            password = ""
            print_line("The two passwords differ. Try again.")
        elif _warned(auth, user, password) and not (
            options.allow_weak_password or ask("Use this password anyway? [y/N] ").lower().startswith("y")
        ):
            password = ""
    if not password.strip():
        raise CommandError("The password is empty. Enter one, or set STARLETTE_AUTH_PASSWORD.")
    return password


def _warned(auth: Auth, user: User, password: str) -> bool:
    errors = asyncio.run(auth.validate_password(password, user)) if password else []
    _warn(errors)
    return bool(errors)


async def check_password(auth: Auth, user: User, options: argparse.Namespace) -> None:
    """Raises CommandError for a weak password from the environment. One from the prompt was checked already."""
    if not os.environ.get("STARLETTE_AUTH_PASSWORD"):
        return
    errors = await auth.validate_password(options.password, user)
    if errors and not options.allow_weak_password:
        reasons = " ".join(map(str, errors))
        raise CommandError(f"{reasons} Set another STARLETTE_AUTH_PASSWORD, or pass --allow-weak-password.")
    _warn(errors)


def _warn(errors: Sequence[ValidationError]) -> None:
    for error in errors:
        print_error(f"Warning: {error}")

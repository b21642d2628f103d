"""Which names, addresses and passwords do `createsuperuser` and `changepassword` accept?"""

import argparse
import asyncio
import getpass
import os
import unicodedata
from collections.abc import Callable, Sequence

from ..auth import Auth
from ..core.exceptions import ValidationError
from ..core.text import is_email_address, normalize_username
from ..users.models import User
from ..users.usernames import UnicodeUsernameValidator, validate_username
from .terminal import CommandError, ask, print_error, print_line

ATTEMPTS = 3  # of changepassword, as in Django


def add_allow_weak_password(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--allow-weak-password", action="store_true", help="accept a password that the rules of the site reject"
    )


def ask_for_superuser(auth: Auth, options: argparse.Namespace) -> None:
    """Asks for the username, the e-mail address and the password of a superuser.

    The prompts repeat after an invalid answer or option. With `--noinput`, invalid options raise CommandError.
    """
    if options.username == "" or (options.noinput and options.username is None):
        raise CommandError("A username is needed. Pass --username.")
    if options.noinput:
        options.username = _checked_name(auth, options.username)
        options.email = _checked_address(options.email or "")
    else:
        suggested = _suggested_name(auth) if options.username is None else ""
        question = f"Username [{suggested}]: " if suggested else "Username: "
        options.username = _ask_until_valid(
            question, options.username, lambda name: _free_name(auth, name or suggested)
        )
        options.email = _ask_until_valid("E-mail address (optional): ", options.email, _checked_address)
    user = User(id=None, username=options.username, email=options.email)
    options.password = _new_password(auth, user, options, may_ask=not options.noinput)


def _ask_until_valid(question: str, given: str | None, check: Callable[[str], str]) -> str:
    """Returns the result of `check` for the option, or else for the first valid answer."""
    while True:
        text = ask(question) if given is None else given
        try:
            return check(text)
        except CommandError as error:
            print_error(str(error))
            given = None


def _suggested_name(auth: Auth) -> str:
    """Returns a free username from the name of the system user; "" if there is none.

    As in Django, it is ASCII in lower case without blanks.
    """
    name = unicodedata.normalize("NFKD", system_user()).encode("ascii", "ignore").decode().replace(" ", "").lower()
    try:
        return _free_name(auth, name) if name else ""
    except CommandError:
        return ""


def system_user() -> str:
    """Returns the name of the user of the operating system; "" if it has none."""
    try:
        return getpass.getuser()
    except (ImportError, KeyError, OSError):  # the first two before Python 3.13
        return ""


def _free_name(auth: Auth, name: str) -> str:
    """Returns the normalized username. Raises CommandError if it is invalid or taken."""
    name = _checked_name(auth, name)
    if look_up(auth, name) is not None:
        raise name_taken(name)
    return name


def name_taken(name: str) -> CommandError:
    return CommandError(f"A user named {name!r} exists already. Choose another name, or use changepassword.")


async def find_user(auth: Auth, name: str) -> User | None:
    """Returns the user with the normalized name, or else the user with exactly this name.

    The login page normalizes names. `create_user(normalize=False)` stores names of other systems unchanged.
    """
    user: User | None = await auth.users.get_by_username(normalize_username(name))
    return user if user is not None else await auth.users.get_by_username(name)


def look_up(auth: Auth, name: str) -> User | None:
    """Returns what `find_user` returns, for callers that are not async.

    The event loop ends with the look-up, because Ctrl-C does not interrupt a prompt inside an event loop.
    """

    async def find() -> User | None:
        await auth.gateway.connect()
        try:
            return await find_user(auth, name)
        finally:
            await auth.gateway.close()
            await auth.gateway.disconnect()

    return asyncio.run(find())


def _checked_name(auth: Auth, name: str) -> str:
    """Returns the normalized username. Raises CommandError if the registration page would refuse it."""
    normalized = normalize_username(name)
    # Blanks around the name may come from a mistake in a script. Therefore the name is refused as it was passed.
    name = normalized if name == name.strip() else name
    length = getattr(auth.tables.username.type, "length", None)
    if length is not None and len(name) > length:
        raise CommandError(f"The username has {len(name)} characters. Choose one with at most {length}.")
    if auth.tables.username is auth.tables.email:
        if not is_email_address(name):
            raise CommandError(
                f"{name!r} is not an e-mail address, which is the username on this site. "
                "Pass --username in the form ann@example.org."
            )
        return normalized
    try:
        asyncio.run(validate_username(name, auth.users.username_validator))
    except ValidationError as error:
        is_default = type(auth.users.username_validator) is UnicodeUsernameValidator
        hint = "Use letters, digits and @ . + - _ only, without blanks." if is_default else str(error)
        raise CommandError(f"{name!r} is not a valid username. {hint}") from error
    return normalized


def _checked_address(address: str) -> str:
    address = address.strip()
    if address and not is_email_address(address):
        raise CommandError(f"{address!r} is not an e-mail address. Pass --email in the form ann@example.org.")
    return address


def ask_for_password(auth: Auth, options: argparse.Namespace) -> None:
    """Asks for the new password of a user. Raises CommandError if there is no such user.

    The default username is the name of the system user.
    """
    if options.username is None:
        options.username = system_user()
    if not options.username:
        raise CommandError("The operating system does not tell who you are. Pass the username.")
    user = look_up(auth, options.username)
    if user is None:
        raise no_user(options.username)
    options.password = _new_password(auth, user, options, may_ask=True, attempts=ATTEMPTS)


def no_user(name: str) -> CommandError:
    return CommandError(f"There is no user named {name!r}. Check the spelling.")


def _new_password(
    auth: Auth, user: User, options: argparse.Namespace, *, may_ask: bool, attempts: int | None = None
) -> str:
    """Returns the password from the environment or the prompt.

    Raises CommandError if it is empty, or after `attempts` rejected entries at the prompt.
    """
    password, number = os.environ.get("STARLETTE_AUTH_PASSWORD", ""), 0
    while may_ask and not password:
        if number == attempts:
            raise CommandError(f"The password was not changed after {attempts} attempts. Run the command again.")
        password, number = _ask_password(auth, user, options), number + 1
    if not password.strip():
        raise CommandError("The password is empty. Enter one, or set STARLETTE_AUTH_PASSWORD.")
    return password


def _ask_password(auth: Auth, user: User, options: argparse.Namespace) -> str:
    """Returns the password that was entered twice; "" if it cannot be used.

    The administrator may confirm a weak password, as in Django.
    """
    password = ask("Password: ", getpass.getpass)
    if not password.strip():
        print_line("The password is empty. Try again.")
    elif password != ask("Password (again): ", getpass.getpass):
        print_line("The two passwords differ. Try again.")
    elif (
        not _warned(auth, user, password)
        or options.allow_weak_password
        or ask("Use this password anyway? [y/N] ").lower().startswith("y")
    ):
        return password
    return ""


def _warned(auth: Auth, user: User, password: str) -> bool:
    errors = asyncio.run(auth.validate_password(password, user))
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

"""The commands `factors` and `reseal`: the second factors and passkeys of a user, and the keys that sealed secrets."""

import argparse
from typing import Any

from ..auth import Auth
from ..backends.factors import StoredFactor
from ..core.feature_events import FactorRemoved
from ..core.translation import format_time_since
from ..users.models import User
from .accounts import find_user, look_up, no_user
from .loading import find_page
from .terminal import CommandError, ask, print_line

ENROLMENT_PAGE = "totp"


def add_factor_commands(commands: Any, common: argparse.ArgumentParser) -> None:
    factors = commands.add_parser("factors", help="list or remove the second factors and passkeys of a user")
    verbs = factors.add_subparsers(title="commands", required=True, metavar="COMMAND")

    verb = verbs.add_parser("list", help="list the factors of a user", parents=[common])
    verb.add_argument("username", metavar="NAME")
    verb.set_defaults(command=_list, ask=_require_factors)

    verb = verbs.add_parser("reset", help="remove the factors of a user who has lost them", parents=[common])
    verb.add_argument("username", metavar="NAME")
    verb.add_argument("--only", metavar="METHOD", help='only those of one method that `factors list` prints, as "totp"')
    verb.add_argument("--yes", action="store_true", help="do not ask for confirmation")
    verb.set_defaults(command=_reset, ask=_confirm_reset)

    command = commands.add_parser(
        "reseal",
        help="encrypt stored secrets with the newest secret key",
        description="Run it after a new secret key, before the old one is removed. Exits with status 1 if the key of "
        "secrets is lost already.",
        parents=[common],
    )
    command.set_defaults(command=_reseal, ask=_require_factors)


async def _list(auth: Auth, options: argparse.Namespace) -> None:
    user, now = await _user(auth, options), int(auth.clock())
    factors = await auth.list_factors(user)
    for factor in factors:
        used = f"last used {format_time_since(now - factor.last_used)}" if factor.last_used else "not used"
        label = f"{_printable(factor.label)}, " if factor.label else ""
        print_line(f"{factor.method}  {label}added {format_time_since(now - factor.created)}, {used}")
    if not factors:
        print_line(f"{user.username} has no factors.")
    if must_have_factor(auth, user):
        print_line(f"The policy requires a second factor of {user.username}.")
    else:
        print_line(f"The policy does not require a second factor of {user.username}.")


def _confirm_reset(auth: Auth, options: argparse.Namespace) -> None:
    """Asks whether to remove the factors of the user. Raises CommandError if there is no such user."""
    _require_factors(auth, options)
    user = look_up(auth, options.username)
    if user is None:
        raise no_user(options.username)
    if options.yes:
        return
    what = f"the factors {options.only!r}" if options.only is not None else "all second factors and passkeys"
    question = f"Remove {what} of {user.username}, and end all sessions of the user? [y/N] "
    if not ask(question, fix="Pass --yes.").lower().startswith("y"):
        raise CommandError("Nothing was removed.")


async def _reset(auth: Auth, options: argparse.Namespace) -> None:
    user = await _user(auth, options)

    async def remove() -> tuple[list[StoredFactor], int]:
        removed: list[StoredFactor] = []
        for feature in auth.features:
            removed.extend(await feature.remove_factors(user, method=options.only))
        for factor in removed:
            await auth.events.emit(FactorRemoved(user=user, factor=factor.method))
        return removed, await _end_sessions(auth, user) if removed else 0

    removed, sessions = await auth.gateway.run_in_transaction(remove)
    if not removed:
        which = "no factors" if options.only is None else f"no factor {options.only!r}"
        raise CommandError(f"{user.username} has {which}. Run `factors list {user.username}` to see what there is.")
    methods = ", ".join(factor.method for factor in removed)
    print_line(f"Removed {len(removed)} factors of {user.username} ({methods}), and ended {sessions} sessions.")
    if not auth.sessions.supports_user_lookup:
        print_line("The sessions of this site are in cookies. Those of the user end only with a new password.")
    if must_have_factor(auth, user) and not await auth.has_any_factor(user):
        print_line(enrolment_notice(auth, options, user))


async def _end_sessions(auth: Auth, user: User) -> int:
    """Ends the sessions of a user, whose browsers become unknown and are trusted no more. Returns their number."""
    if auth.sessions.supports_user_lookup:
        return await auth.user_sessions.revoke_all(user)
    await auth.devices.revoke_all(user)
    return 0


async def _reseal(auth: Auth, options: argparse.Namespace) -> None:
    number = lost = 0
    for feature in auth.features:
        sealed, without_key = await feature.reseal()
        number, lost = number + sealed, lost + without_key
    print_line(f"Sealed {number} secrets anew, with the newest secret key.")
    if lost:
        raise CommandError(
            f"The key of {lost} secrets is lost; the log names it. Add the old key after the new one, as in "
            "secret_key=[NEW, OLD], and run the command again. If the key is gone, their users need a recovery code, or "
            "`factors reset NAME`."
        )


def must_have_factor(auth: Auth, user: User) -> bool:
    """Returns whether the policy requires a second factor of this user."""
    return auth.session_backend.required_level(user) > 1


def enrolment_notice(auth: Auth, options: argparse.Namespace, user: User) -> str:
    """Returns what a user without a factor, who must have one, has to do next, with the link.

    An attacker who learns the password logs in first and adds the attacker's app; therefore the user should add it now.
    """
    path = find_page(options.app, ENROLMENT_PAGE) if options.app else None
    link = f": {auth.account_mailer.base_url or ''}{path}" if path is not None else "."
    has_mail = auth.account_mailer.is_configured and bool(user.email)
    first = f" A code mailed to {user.email} comes first." if has_mail else ""
    until = "password and mailbox are" if has_mail else "the password is"
    return (
        f"{user.username} must have a second factor, and adds it at the next login.{first} Until then {until} all that "
        f"protects the account. Log in now and add it{link}"
    )


def _require_factors(auth: Auth, options: argparse.Namespace) -> None:
    if not auth.factors():
        raise CommandError(
            "This Auth has no feature with second factors or passkeys. Pass --app MODULE:ATTRIBUTE with the Auth that has "
            "features=[TwoFactor()] or [Passkeys()]."
        )


def _printable(label: str) -> str:
    """Returns a name that a user gave without the control characters that a terminal would execute."""
    return "".join(character if character.isprintable() else "�" for character in label)


async def _user(auth: Auth, options: argparse.Namespace) -> User:
    user = await find_user(auth, options.username)
    if user is None:
        raise no_user(options.username)
    return user

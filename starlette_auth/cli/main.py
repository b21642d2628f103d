"""The command `starlette-auth`."""

import argparse
import asyncio
import os
from collections.abc import Sequence
from typing import Any

from ..auth import Auth
from ..core.exceptions import StarletteAuthError
from ..core.text import normalize_username
from ..core.translation import format_time_since
from ..database.migrations import migrate
from ..database.urls import open_database
from ..http.user_agents import describe_user_agent
from ..users.models import User
from .accounts import (
    add_allow_weak_password,
    ask_for_password,
    ask_for_superuser,
    check_password,
    find_user,
    name_taken,
    no_user,
)
from .build_filter import add_filter_command
from .check import add_check_command
from .django_commands import add_commands
from .factors import add_factor_commands, enrolment_notice, must_have_factor
from .loading import find_application, load_app, load_auth
from .terminal import CommandError, print_error, print_line, show_progress
from .tokens import add_token_commands


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command and returns its exit status: 0 for success, 1 for an error.

    Exits with status 2 for wrong arguments.
    """
    parser = make_parser()
    options = parser.parse_args(arguments, argparse.Namespace(app=None, database=None, django=False))
    if options.handler is _with_auth:
        _find_auth(parser, options)
    try:
        options.handler(options)
    except KeyboardInterrupt:
        return print_error("Stopped.")
    except (CommandError, StarletteAuthError, ValueError, LookupError) as error:
        return print_error(str(error))
    except Exception as error:  # for example an unreachable server, or a file that cannot be written
        return print_error(f"{type(error).__name__}: {error}")
    return 0


def _find_auth(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    if options.app and options.database:
        parser.error("--app and --database exclude each other: pass one of them")
    if not (options.app or options.database):
        options.app, options.database = os.environ.get("STARLETTE_AUTH_APP"), os.environ.get("DATABASE_URL")
    if not (options.app or options.database):
        parser.error("name an application (--app MODULE:ATTRIBUTE) or a database (--database URL)")


def _with_auth(options: argparse.Namespace) -> None:
    auth = load_auth(options)
    # Ask before the event loop runs: inside it, Ctrl-C would not interrupt input().
    options.ask(auth, options)
    asyncio.run(_run(auth, options))


def make_parser() -> argparse.ArgumentParser:
    common = _common_options()
    parser = argparse.ArgumentParser(
        "starlette-auth", description="Manage users and sessions from the command line.", parents=[common]
    )
    parser.set_defaults(handler=_with_auth)
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    _add_migrate(commands, common)
    add_check_command(commands, common)
    _add_createsuperuser(commands, common)
    _add_changepassword(commands, common)
    _add_unlock(commands, common)
    _add_sendreset(commands, common)
    _add_clearsessions(commands, common)
    _add_sessions(commands, common)
    add_token_commands(commands, common)
    add_factor_commands(commands, common)
    add_commands(commands, open_database=open_database, open_app=load_app)
    add_filter_command(commands)
    return parser


def _common_options() -> argparse.ArgumentParser:
    """Returns the options that may stand before or after the command."""
    # With SUPPRESS, the command's parser does not overwrite an option given before the command with its default.
    common = argparse.ArgumentParser(add_help=False, argument_default=argparse.SUPPRESS)
    common.add_argument("--app", metavar="MODULE:ATTRIBUTE", help="an Auth (default: STARLETTE_AUTH_APP)")
    common.add_argument("--database", metavar="URL", help="a database (default: DATABASE_URL)")
    common.add_argument("--django", action="store_true", help="the database has the tables of a Django project")
    return common


def _add_migrate(commands: Any, common: argparse.ArgumentParser) -> None:
    command = commands.add_parser("migrate", help="create missing tables and columns", parents=[common])
    command.add_argument(
        "--leave-grants",
        action="store_true",
        help="do not move grants from auth_user_groups and auth_user_user_permissions to the tables of a custom user table",
    )
    command.set_defaults(command=_migrate, ask=_ask_nothing)


def _add_createsuperuser(commands: Any, common: argparse.ArgumentParser) -> None:
    command = commands.add_parser("createsuperuser", help="create a user with all permissions", parents=[common])
    command.add_argument("--username")
    command.add_argument("--email")
    command.add_argument(
        "--noinput", action="store_true", help="do not prompt; take the password from STARLETTE_AUTH_PASSWORD"
    )
    add_allow_weak_password(command)
    command.set_defaults(command=_createsuperuser, ask=ask_for_superuser)


def _add_changepassword(commands: Any, common: argparse.ArgumentParser) -> None:
    command = commands.add_parser("changepassword", help="set a new password for a user", parents=[common])
    command.add_argument("username", nargs="?", help="default: the name of the user of the operating system")
    add_allow_weak_password(command)
    command.set_defaults(command=_changepassword, ask=ask_for_password)


def _add_unlock(commands: Any, common: argparse.ArgumentParser) -> None:
    command = commands.add_parser(
        "unlock", help="let a user log in again after too many wrong passwords", parents=[common]
    )
    command.add_argument("username", metavar="NAME", help="the username or e-mail address, as entered at the login")
    command.set_defaults(command=_unlock, ask=_ask_nothing)


def _add_sendreset(commands: Any, common: argparse.ArgumentParser) -> None:
    command = commands.add_parser("sendreset", help="mail a user the link to choose a new password", parents=[common])
    command.add_argument("username", metavar="NAME", help="the username or e-mail address of the user")
    command.set_defaults(command=_sendreset, ask=_ask_nothing)


def _add_clearsessions(commands: Any, common: argparse.ArgumentParser) -> None:
    command = commands.add_parser("clearsessions", help="delete expired sessions", parents=[common])
    command.set_defaults(command=_clearsessions, ask=_ask_nothing)


def _add_sessions(commands: Any, common: argparse.ArgumentParser) -> None:
    sessions = commands.add_parser("sessions", help="list or revoke the sessions of a user")
    verbs = sessions.add_subparsers(title="commands", required=True, metavar="COMMAND")

    verb = verbs.add_parser("list", help="list the sessions of a user", parents=[common])
    verb.add_argument("username")
    verb.set_defaults(command=_list_sessions, ask=_ask_nothing)

    verb = verbs.add_parser("revoke", help="end sessions: some or all of a user, or everybody's", parents=[common])
    verb.add_argument("username", nargs="?")
    verb.add_argument("ids", metavar="ID", nargs="*", default=[], help="an ID printed by `sessions list`")
    verb.add_argument("--all", action="store_true", help="all sessions of the user")
    verb.add_argument("--everybody", action="store_true", help="all sessions of all users and visitors")
    verb.set_defaults(command=_revoke_sessions, ask=_check_selection, error=verb.error)


async def _run(auth: Auth, options: argparse.Namespace) -> None:
    await auth.gateway.connect()
    try:
        await options.command(auth, options)
    finally:
        await auth.close()
        await auth.gateway.disconnect()


async def _migrate(auth: Auth, options: argparse.Namespace) -> None:
    created = await migrate(auth.gateway, auth.tables, leave_grants=options.leave_grants)
    print_line("\n".join(f"created {name}" for name in created) or "All tables are up to date.")


async def _createsuperuser(auth: Auth, options: argparse.Namespace) -> None:
    if await auth.users.get_by_username(options.username):
        raise name_taken(options.username)
    if not options.app and await auth.users.list_by_email(options.email):
        # Without the application, the command does not know whether users log in with their addresses.
        raise CommandError(
            f"A user with the email address {options.email!r} exists already. Pass --app MODULE:ATTRIBUTE if several users "
            "of the site may have one address, or choose another one."
        )
    await check_password(auth, User(id=None, username=options.username, email=options.email), options)
    user = await auth.users.create_superuser(options.username, options.email, options.password)
    print_line(f"Created the superuser {user.username}.")
    if must_have_factor(auth, user):
        print_line(enrolment_notice(auth, options, user))


async def _changepassword(auth: Auth, options: argparse.Namespace) -> None:
    user = await _user(auth, options)
    await check_password(auth, user, options)
    await auth.users.set_password(user, options.password)
    if auth.sessions.supports_user_lookup:
        await auth.sessions.revoke_all(user.identity)
    print_line(f"Changed the password of {user.username} and ended the user's sessions.")


async def _unlock(auth: Auth, options: argparse.Namespace) -> None:
    name = normalize_username(options.username)
    users = await _find_users(auth, options.username)
    # With --database, the login fields of the site are unknown.
    for login in {name, *(login for user in users for login in (user.username, user.email) if login)}:
        await auth.throttle.unlock(login)
    if not users:
        raise CommandError(
            f"There is no user {name!r}. The name was unlocked anyway: wrong passwords are counted from 0 again. If an "
            "account should have it, check the spelling."
        )
    who = " and ".join(user.username for user in users)
    print_line(f"Unlocked {who}: wrong passwords are counted from 0 again.")


async def _sendreset(auth: Auth, options: argparse.Namespace) -> None:
    if not options.app:
        raise CommandError("The mail needs the application's mailer and pages. Pass --app MODULE:ATTRIBUTE.")
    users = await _find_users(auth, options.username)
    if not users:
        raise CommandError(f"There is no user {options.username!r}. Check the spelling.")
    if len(users) > 1:
        raise CommandError(f"{len(users)} users have the name or address {options.username!r}. Pass a username.")
    app = find_application(options.app)
    await auth.users.send_password_reset(users[0], app=app)
    print_line(f"Sent {users[0].username} the link to choose a new password.")


async def _find_users(auth: Auth, name: str) -> list[User]:
    """Returns the user with this username, or else the users with this e-mail address."""
    user = await find_user(auth, name)
    return [user] if user is not None else await auth.users.list_by_email(normalize_username(name))


async def _clearsessions(auth: Auth, options: argparse.Namespace) -> None:
    number = 0

    def progress(so_far: int) -> None:
        nonlocal number
        number = so_far
        show_progress(f"Deleted {number:,} expired sessions …")

    try:
        number = await auth.clear_expired(progress)
    except asyncio.CancelledError:  # Ctrl-C
        show_progress("")
        raise CommandError(
            f"Stopped after deleting {number} expired sessions. Run the command again to delete the rest."
        ) from None
    show_progress("")
    print_line(f"Deleted {number} expired sessions.")


async def _list_sessions(auth: Auth, options: argparse.Namespace) -> None:
    # All stored sessions, including those that a password change has invalidated: with --database the secret key,
    # which would tell them apart, is unknown.
    user = await _user(auth, options)
    sessions = await auth.sessions.list_sessions(user.identity)
    now = int(auth.clock())
    for record in [session.record for session in sessions if session.record is not None]:
        times = f"logged in {format_time_since(now - record.created)}, last seen {format_time_since(now - record.last_seen)}"
        device, address = (
            describe_user_agent(record.user_agent) or "Unknown device",
            record.address or "unknown address",
        )
        print_line(f"{record.public_id}  {device}, {address}, {times}")
    if not sessions:
        print_line(f"{user.username} has no sessions.")


def _check_selection(auth: Auth, options: argparse.Namespace) -> None:
    selections = [bool(options.ids), options.all, options.everybody]
    if selections.count(True) != 1 or bool(options.username) is options.everybody:
        options.error(
            "say which sessions to end: `sessions revoke USERNAME ID …`, `sessions revoke USERNAME --all` or "
            "`sessions revoke --everybody`"
        )


async def _revoke_sessions(auth: Auth, options: argparse.Namespace) -> None:
    if options.everybody:
        # With --database, the site may keep its sessions in another store. Therefore the message names the store.
        number, store = await auth.user_sessions.revoke_everybody(), auth.sessions
        table = f", table {store.table.name}" if store.table is not None else ""
        print_line(f"Ended all {number} sessions ({type(store).__name__}{table}).")
        return
    user = await _user(auth, options)
    if options.all:
        print_line(f"Ended {await auth.user_sessions.revoke_all(user)} sessions of {user.username}.")
        return
    missing = [public_id for public_id in options.ids if not await auth.user_sessions.revoke(user, public_id)]
    if missing:
        raise CommandError(
            f"{user.username} has no session {', '.join(missing)}. Run `sessions list {user.username}` to see the IDs."
        )
    print_line(f"Ended {len(options.ids)} sessions of {user.username}.")


async def _user(auth: Auth, options: argparse.Namespace) -> User:
    user = await find_user(auth, options.username)
    if user is None:
        raise no_user(options.username)
    return user


def _ask_nothing(auth: Auth, options: argparse.Namespace) -> None:
    """Does nothing: the command needs no input."""

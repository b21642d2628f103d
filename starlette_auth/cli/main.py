"""The command `starlette-auth`."""

import argparse
import asyncio
import getpass
import importlib
import os
import secrets
import sys
from collections.abc import Sequence
from typing import Any

from databases import Database

from ..auth import Auth
from ..core.exceptions import StarletteAuthError, ValidationError
from ..core.translation import format_time_since
from ..database.migrations import migrate
from ..django.project import DjangoProject
from ..http.user_agents import describe_user_agent
from ..users.models import User
from .build_filter import add_filter_command
from .django_commands import add_commands
from .terminal import CommandError, ask, print_error, print_line, show_progress


def main(arguments: Sequence[str] | None = None) -> int:
    """Gives 0 when it is done, 1 when it was refused, 2 when the words were wrong."""
    parser = _parser()
    options = parser.parse_args(arguments, argparse.Namespace(app=None, database=None, django=False))
    if options.work is _with_auth:
        _find_auth(parser, options)
    try:
        options.work(options)
    except KeyboardInterrupt:
        return print_error("Stopped.")
    except (CommandError, StarletteAuthError, ValueError, LookupError) as error:
        return print_error(str(error))
    except Exception as error:  # a server that is away, a file that cannot be written
        return print_error(f"{type(error).__name__}: {error}")
    return 0


def _find_auth(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    if options.app and options.database:
        parser.error("--app and --database are two ways to say the same: choose one")
    if not (options.app or options.database):
        options.app, options.database = os.environ.get("STARLETTE_AUTH_APP"), os.environ.get("DATABASE_URL")
    if not (options.app or options.database):
        parser.error("name an application (--app module:attribute) or a database (--database URL)")


def _with_auth(options: argparse.Namespace) -> None:
    auth = _auth(options)
    # Questions come first: while an event loop runs, Ctrl-C would not end them.
    options.ask(auth, options)
    asyncio.run(_run(auth, options))


def _parser() -> argparse.ArgumentParser:
    # Before the command or after it: SUPPRESS keeps the one from forgetting what the other heard.
    where = argparse.ArgumentParser(add_help=False, argument_default=argparse.SUPPRESS)
    where.add_argument("--app", metavar="MODULE:ATTRIBUTE", help="an Auth (or STARLETTE_AUTH_APP)")
    where.add_argument("--database", metavar="URL", help="a database (or DATABASE_URL)")
    where.add_argument("--django", action="store_true", help="the database has the tables of a Django project")
    parser = argparse.ArgumentParser(
        "starlette-auth", description="Users and sessions from the command line.", parents=[where]
    )
    parser.set_defaults(work=_with_auth)
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    command = commands.add_parser("migrate", help="create or complete the tables", parents=[where])
    command.set_defaults(command=_migrate, ask=_ask_nothing)

    command = commands.add_parser("createsuperuser", help="create a user who may do everything", parents=[where])
    command.add_argument("--username")
    command.add_argument("--email")
    command.add_argument("--noinput", action="store_true", help="ask nothing; the password is STARLETTE_AUTH_PASSWORD")
    command.set_defaults(command=_createsuperuser, ask=_ask_for_superuser)

    command = commands.add_parser("changepassword", help="give a user a new password", parents=[where])
    command.add_argument("username")
    command.set_defaults(command=_changepassword, ask=_ask_for_password)

    command = commands.add_parser("clearsessions", help="delete sessions that have expired", parents=[where])
    command.set_defaults(command=_clearsessions, ask=_ask_nothing)

    _add_sessions(commands, where)
    add_commands(commands, open_database=_database, open_app=_app)

    add_filter_command(commands)
    return parser


def _add_sessions(commands: Any, where: argparse.ArgumentParser) -> None:
    sessions = commands.add_parser("sessions", help="see where a user is logged in, and end it")
    verbs = sessions.add_subparsers(title="commands", required=True, metavar="COMMAND")

    verb = verbs.add_parser("list", help="list the sessions of a user", parents=[where])
    verb.add_argument("username")
    verb.set_defaults(command=_list_sessions, ask=_ask_nothing)

    verb = verbs.add_parser("revoke", help="end sessions of a user, by ID or all of them", parents=[where])
    verb.add_argument("username")
    which = verb.add_mutually_exclusive_group(required=True)
    which.add_argument("ids", metavar="ID", nargs="*", default=[], help="as `sessions list` shows it")
    which.add_argument("--all", action="store_true", help="every session of the user")
    verb.set_defaults(command=_revoke_sessions, ask=_ask_nothing)


def _auth(options: argparse.Namespace) -> Auth:
    if options.app:
        return _app(options.app)
    django = DjangoProject() if options.django else None
    return Auth(_database(options.database), secret_key=secrets.token_urlsafe(50), django=django)


def _app(name: str) -> Auth:
    module, _, attribute = name.partition(":")
    sys.path.insert(0, os.getcwd())
    try:
        auth = getattr(importlib.import_module(module), attribute or "auth")
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise CommandError(f"{name} cannot be loaded: {error}. Write --app module:attribute.") from error
    if not isinstance(auth, Auth):
        raise CommandError(f"{name} is a {type(auth).__name__}. Name its Auth, as in --app {module}:auth.")
    return auth


def _database(url: str) -> Database:
    try:
        return Database(url)
    except ImportError as error:
        raise CommandError(
            f"{error}. Install starlette-contrib-auth[postgres] or starlette-contrib-auth[mysql]."
        ) from error
    except (KeyError, AssertionError) as error:
        raise CommandError(
            f"{url!r} is no database that we know. Write sqlite+aiosqlite:///file, postgresql://… or mysql+asyncmy://…"
        ) from error


async def _run(auth: Auth, options: argparse.Namespace) -> None:
    await auth.database.connect()
    try:
        await options.command(auth, options)
    finally:
        await auth.close()
        await auth.database.disconnect()


async def _migrate(auth: Auth, options: argparse.Namespace) -> None:
    created = await migrate(auth.gateway, auth.tables)
    print_line("\n".join(f"created {name}" for name in created) or "Everything is there already.")


async def _createsuperuser(auth: Auth, options: argparse.Namespace) -> None:
    if await auth.users.get_by_username(options.username):
        raise CommandError(
            f"There is a user called {options.username!r} already. Choose another name, or use changepassword."
        )
    user = await auth.users.create_superuser(options.username, options.email or "", options.password)
    print_line(f"Created the superuser {user.username}.")
    await _warn_about_password(auth, user, options.password)


async def _changepassword(auth: Auth, options: argparse.Namespace) -> None:
    user = await _user(auth, options)
    await auth.users.set_password(user, options.password)
    if auth.sessions.supports_user_lookup:
        await auth.sessions.revoke_all(user.identity)
    print_line(f"Changed the password of {user.username}; the sessions of the old one have ended.")
    await _warn_about_password(auth, user, options.password)


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
            f"Stopped. {number} expired sessions were deleted; the rest is there until next time."
        ) from None
    show_progress("")
    print_line(f"Deleted {number} expired sessions.")


async def _list_sessions(auth: Auth, options: argparse.Namespace) -> None:
    # All that the store has: with --database nobody knows the secret key, by which old passwords' would be told.
    sessions = await auth.sessions.list_sessions((await _user(auth, options)).identity)
    now = int(auth.clock())
    for record in [session.record for session in sessions if session.record is not None]:
        times = f"logged in {format_time_since(now - record.created)}, last seen {format_time_since(now - record.last_seen)}"
        device, address = (
            describe_user_agent(record.user_agent) or "Unknown device",
            record.address or "unknown address",
        )
        print_line(f"{record.public_id}  {device}, {address}, {times}")
    if not sessions:
        print_line(f"{options.username} is logged in nowhere.")


async def _revoke_sessions(auth: Auth, options: argparse.Namespace) -> None:
    user = await _user(auth, options)
    if options.all:
        print_line(f"Ended {await auth.user_sessions.revoke_all(user)} sessions of {user.username}.")
        return
    missing = [public_id for public_id in options.ids if not await auth.user_sessions.revoke(user, public_id)]
    if missing:
        raise CommandError(
            f"{user.username} has no session {', '.join(missing)}. Look with `sessions list {user.username}`."
        )
    print_line(f"Ended {len(options.ids)} sessions of {user.username}.")


async def _user(auth: Auth, options: argparse.Namespace) -> User:
    user: User | None = await auth.users.get_by_username(options.username)
    if user is None:
        raise CommandError(f"There is no user called {options.username!r}. Check the spelling.")
    return user


def _ask_nothing(auth: Auth, options: argparse.Namespace) -> None:
    """For commands that know what to do."""


def _ask_for_superuser(auth: Auth, options: argparse.Namespace) -> None:
    if not options.username and not options.noinput:
        options.username = ask("Username: ")
    if not options.username:
        raise CommandError("A username is needed. Pass --username.")
    if options.email is None and not options.noinput:
        options.email = ask("E-mail address (may stay empty): ")
    user = User(id=None, username=options.username, email=options.email or "")
    options.password = _new_password(auth, user, may_ask=not options.noinput)


def _ask_for_password(auth: Auth, options: argparse.Namespace) -> None:
    options.password = _new_password(auth, User(id=None, username=options.username), may_ask=True)


def _new_password(auth: Auth, user: User, *, may_ask: bool) -> str:
    """Whoever has this command may insist on a bad one, as in Django."""
    password = os.environ.get("STARLETTE_AUTH_PASSWORD", "")
    while may_ask and not password:
        password = ask("Password: ", getpass.getpass)
        if password != ask("Password (again): ", getpass.getpass):
            password = ""
            print_line("The two passwords differ. Try again.")
        elif _warned(auth, user, password) and not ask("Use it all the same? [y/N] ").lower().startswith("y"):
            password = ""
    if not password.strip():
        raise CommandError("The password is empty. Type one, or set STARLETTE_AUTH_PASSWORD.")
    return password


def _warned(auth: Auth, user: User, password: str) -> bool:
    errors = asyncio.run(auth.validate_password(password, user)) if password else []
    _warn(errors)
    return bool(errors)


async def _warn_about_password(auth: Auth, user: User, password: str) -> None:
    """For one that nobody typed, once all is done."""
    if os.environ.get("STARLETTE_AUTH_PASSWORD"):
        _warn(await auth.validate_password(password, user))


def _warn(errors: Sequence[ValidationError]) -> None:
    for error in errors:
        print_error(f"Warning: {error}")

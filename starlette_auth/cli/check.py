"""The command `check`: does the database have all tables, columns and indexes?"""

import argparse
from typing import Any

from ..auth import Auth
from ..database.migrations import missing_statements
from .terminal import CommandError, print_line


def add_check_command(commands: Any, common: argparse.ArgumentParser) -> None:
    command = commands.add_parser(
        "check",
        help="print the statements for missing tables, columns and indexes",
        description="Changes nothing. Exits with status 1 if anything is missing. Without --app, it checks the tables of an "
        "Auth without arguments.",
        parents=[common],
    )
    command.set_defaults(command=_check, ask=_ask_nothing)


async def _check(auth: Auth, options: argparse.Namespace) -> None:
    missing = await missing_statements(auth.gateway, auth.tables)
    for name, statement in missing.items():
        print_line(f"-- {name}\n{statement};")
    if missing:
        raise CommandError(
            f"Missing in the database: {', '.join(missing)}. Run `starlette-auth migrate`, or let Alembic execute these "
            "statements."
        )
    print_line("All tables are up to date.")


def _ask_nothing(auth: Auth, options: argparse.Namespace) -> None:
    """Does nothing: the command needs no input."""

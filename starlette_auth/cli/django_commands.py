"""The commands `check-django` and `import-django`."""

import argparse
import asyncio
import contextlib
import os
import re
from collections.abc import AsyncIterator, Callable
from datetime import tzinfo
from typing import Any

import sqlalchemy as sa
from databases import Database

from ..auth import Auth
from ..core.exceptions import ImproperlyConfigured
from ..database.gateway import Gateway
from ..database.gateways import gateway_of
from ..database.migrations import migrate
from ..database.tables import Tables
from ..django.importing import UserImport
from ..django.project import DjangoProject
from ..django.survey import SAMPLE, Inspection, UserModel, inspect
from .terminal import CommandError, print_error, print_line, show_progress

#: Patterns for the type names of the databases, with the SQLAlchemy type for each.
TYPES: list[tuple[str, str]] = [
    (r"uuid|char\(32\)", "sa.Uuid"),
    (r"tinyint\(1\)|bool|boolean", "sa.Boolean"),
    (r"bigint\b.*", "sa.BigInteger"),
    (r"(small|tiny|medium)?int(eger)?\b.*", "sa.Integer"),
    (r"(datetime|timestamp)\b.*", "sa.DateTime"),
    (r"date", "sa.Date"),
    (r"jsonb?", "sa.JSON"),
    (r"(double|real|float)\b.*", "sa.Float"),
    (r"(decimal|numeric)\b.*", "sa.Numeric"),
    (r"(?:var)?char.*\((\d+)\)", "sa.String"),
]


def add_commands(commands: Any, *, open_database: Callable[[str], Database], open_app: Callable[[str], Auth]) -> None:
    """Adds both commands. `open_database` opens a Database by URL, `open_app` loads an Auth by MODULE:ATTRIBUTE."""
    openers = {"open_database": open_database, "open_app": open_app}
    _add_check(commands, openers)
    _add_import(commands, openers)


def _add_check(commands: Any, openers: dict[str, Any]) -> None:
    command = commands.add_parser(
        "check-django",
        help="inspect a Django project's database, and print how to share it",
        description="Reads the project's SECRET_KEY and SECRET_KEY_FALLBACKS (one per line) from the environment.",
    )
    command.add_argument(
        "--database",
        metavar="URL",
        default=os.environ.get("DATABASE_URL"),
        help="the project's database (default: DATABASE_URL)",
    )
    command.set_defaults(handler=run_check, **openers)


def _add_import(commands: Any, openers: dict[str, Any]) -> None:
    command = commands.add_parser(
        "import-django", help="copy users, groups and permissions from a Django project's database"
    )
    command.add_argument("--from", dest="source", metavar="URL", required=True, help="the project's database")
    command.add_argument("--to", metavar="URL", help="the database to copy to (or pass --app)")
    command.add_argument(
        "--app", metavar="MODULE:ATTRIBUTE", default=None, help="the Auth to copy to, with a custom user table"
    )
    command.add_argument("--username-field", metavar="NAME", help="USERNAME_FIELD, if it is neither username nor email")
    command.add_argument("--time-zone", metavar="NAME", help="TIME_ZONE, if the project has USE_TZ=False")
    command.add_argument(
        "--ignore", metavar="COLUMN", action="append", default=[], help="a column of the user table not to copy"
    )
    command.set_defaults(handler=run_copy, **openers)


def run_check(options: argparse.Namespace) -> None:
    asyncio.run(check(options))


def run_copy(options: argparse.Namespace) -> None:
    if bool(options.to) == bool(options.app):
        raise CommandError("The import needs one database to copy to. Pass either --to URL or --app module:attribute.")
    # Before the event loop runs, because both read files.
    options.auth = options.open_app(options.app) if options.app else None
    options.zone = DjangoProject(time_zone=options.time_zone).zone() if options.time_zone else None
    asyncio.run(copy(options))


async def check(options: argparse.Namespace) -> None:
    """Prints a report. Raises CommandError if it contains problems."""
    if not options.database:
        raise CommandError("The check needs the project's database. Pass --database URL, or set DATABASE_URL.")
    keys = [os.environ.get("SECRET_KEY", ""), *os.environ.get("SECRET_KEY_FALLBACKS", "").splitlines()]
    async with _open(options.open_database, options.database) as gateway:
        inspection = await inspect(gateway, [key for key in keys if key])
    for line in _report(inspection, has_key=bool(keys[0])):
        print_line(line)
    if inspection.problems:
        raise CommandError(f"Problems found: {len(inspection.problems)}. Fix those listed above.")


def _report(inspection: Inspection, *, has_key: bool) -> list[str]:
    lines = [f"Django:    {inspection.version or 'unknown'}"]
    if inspection.project_version:
        lines[0] += f" (its password hashes are those of {inspection.project_version})"
    if inspection.user is not None:
        lines += _about_users(inspection.user)
    lines += [f"Hashes:    {number:>9,} {kind}" for kind, number in inspection.hashes.most_common()]
    lines += _about_sessions(inspection, has_key=has_key)
    lines += [f"Problem:   {problem}" for problem in inspection.problems]
    lines += _about_indexes(inspection)
    lines += [
        "WARNING:   Django's own login pages, the admin's too, ask for no second factor. With TwoFactor() or Passkeys(), a",
        "           password alone opens the Django site. Set LOGIN_URL to the login page of this package, and redirect the",
        "           admin's login there. This package itself takes no login that a Django page has begun until the user has",
        "           passed the second step",
    ]
    lines.append(
        "Compare:   USE_TZ, TIME_ZONE, SESSION_COOKIE_AGE, the cookie names and PASSWORD_HASHERS are in the project's "
        "settings; pass those that differ from Django's defaults to DjangoProject"
    )
    if inspection.user is not None and inspection.user.username_field:
        lines += ["", *suggestion(inspection, inspection.user)]
    return lines


def _about_users(user: UserModel) -> list[str]:
    names = f"key {user.key} ({user.types[user.key]}), name {user.username_field or 'unknown'}"
    lines = [f"Users:     {user.rows:,} in {user.table}, {names}"]
    if user.further:
        lines.append(f"           additional columns: {', '.join(user.further)}")
    return lines


def _about_sessions(inspection: Inspection, *, has_key: bool) -> list[str]:
    sessions = inspection.sessions
    if sessions is None or not sessions.rows:
        return ["Sessions:  none in django_session: SESSION_ENGINE stores them elsewhere, or the site is new"]
    lines = [
        f"Sessions:  {sessions.rows:,} in django_session; SESSION_ENGINE is db, or cached_db (see invalidate_session)"
    ]
    if not has_key:
        return [*lines, "           set SECRET_KEY to check whether they can be read"]
    counts = (
        f"{sessions.by_newest} by SECRET_KEY, {sessions.by_fallback} by a fallback, {sessions.unreadable} by neither"
    )
    return [*lines, f"           of the latest {min(sessions.rows, SAMPLE)}, signed: {counts}"]


def _about_indexes(inspection: Inspection) -> list[str]:
    if not inspection.missing_indexes:
        return []
    return [
        "Indexes:   look-ups that ignore case read all users. Add these in the project, with migrations.RunSQL:",
        *(f"           {statement};" for statement in inspection.missing_indexes),
    ]


def suggestion(inspection: Inspection, user: UserModel) -> list[str]:
    """Returns lines of code for the application that shares the database."""
    settings = []
    if user.username_field != "username":
        settings.append(f'username_field="{user.username_field}"')
    if user.link_column != f"{user.table.rpartition('_')[2]}_id":
        settings.append(f"user_model={user.link_column.removesuffix('_id')!r}")
    if inspection.project_version not in ("", DjangoProject().version):
        settings.append(f'version="{inspection.project_version}"')
    algorithms = [kind.partition(",")[0] for kind, _ in inspection.hashes.most_common() if kind != "unusable"]
    if algorithms and algorithms[0] in ("argon2", "scrypt", "bcrypt_sha256"):
        settings.append(f'password_algorithm="{algorithms[0]}"')
    lines = []
    if not user.is_standard:
        lines = [f"user = sa.Table({user.table!r}, sa.MetaData(),", *_columns(user), ")"]
        settings.insert(0, "user=user")
    elif user.table != "auth_user":
        settings.insert(0, f"user={user.table!r}")
    project = f"DjangoProject({', '.join(settings)})"
    return [*lines, f"auth = Auth(Database(url), secret_key=[SECRET_KEY, *SECRET_KEY_FALLBACKS], django={project})"]


def _columns(user: UserModel) -> list[str]:
    return [f"    sa.Column({name!r}, {_type(kind)}{_further(user, name, kind)})," for name, kind in user.types.items()]


def _further(user: UserModel, name: str, kind: str) -> str:
    if name == user.key:
        return ", primary_key=True"
    # A user created by this application needs a value in the project's own columns.
    return ', default=""' if name in user.further and _type(kind).startswith(("sa.String", "sa.Text")) else ""


def _type(declared: str) -> str:
    """Returns the code of the SQLAlchemy type for a declared column type."""
    for pattern, code in TYPES:
        match = re.fullmatch(pattern, declared)
        if match:
            return f"{code}({match[1]})" if code == "sa.String" else code
    return "sa.Text"


async def copy(options: argparse.Namespace) -> None:
    async with (
        _open(options.open_database, options.source) as source,
        _target(options) as (target, new),
    ):
        inspection = await inspect(source)
        if inspection.user is None:
            raise CommandError(" ".join(inspection.problems))
        old = django_tables(inspection.user, new, username_field=options.username_field, zone=options.zone)
        if source.url == target.url:
            raise CommandError("Source and target are the same database. Pass another one to copy to.")
        user_import = UserImport(source, target, old=old, new=new, model=inspection.user, ignore=options.ignore)
        losses = await user_import.find_losses()
        for loss in losses:
            print_error(loss)
        if losses:
            raise CommandError("Nothing was copied.")
        await migrate(target, new)
        await user_import.run(lambda done, number: show_progress(f"{done:,} of {number:,} users …"))
        show_progress("")
        for problem in inspection.problems:
            print_error(problem)
        print_line(f"Copied {user_import.copied:,} users; {user_import.present:,} existed already.")


def django_tables(
    user: UserModel, new: Tables, *, username_field: str | None = None, zone: tzinfo | None = None
) -> Tables:
    """Returns the tables of a Django project with this user table.

    A column that the target's user table has too gets the target's type.
    """
    column_types = {
        "sa.Boolean": sa.Boolean(),
        "sa.DateTime": sa.DateTime(),
        "sa.Uuid": sa.Uuid(),
        "sa.Date": sa.Date(),
    }
    columns: list[sa.Column[Any]] = []
    for name, declared in user.types.items():
        column_type: Any = column_types.get(_type(declared), sa.Text())
        if name in new.user.columns and name != user.key:
            column_type = new.user.columns[name].type
        elif _type(declared) in ("sa.Integer", "sa.BigInteger"):
            column_type = sa.Integer()
        columns.append(sa.Column(name, _unlimited(column_type), primary_key=name == user.key))
    field = username_field or user.username_field
    if field not in user.types:
        raise ImproperlyConfigured(f"{user.table} has no column {field!r}. Pass --username-field, one of its columns.")
    return Tables.django(
        sa.Table(user.table, sa.MetaData(), *columns),
        model=user.link_column.removesuffix("_id"),
        username_field=field,
        time_zone=zone,
    )


def _unlimited(column_type: Any) -> Any:
    """Returns a text type without a length.

    A value of the source may be longer than the target allows, which `find_losses` reports.
    """
    return sa.Text() if isinstance(column_type, sa.String) else column_type


@contextlib.asynccontextmanager
async def _open(open_database: Callable[[str], Database], url: str) -> AsyncIterator[Gateway]:
    database = open_database(url)
    gateway = gateway_of(database)
    await gateway.connect()
    try:
        yield gateway
    finally:
        await gateway.close()
        await gateway.disconnect()


@contextlib.asynccontextmanager
async def _target(options: argparse.Namespace) -> AsyncIterator[tuple[Gateway, Tables]]:
    auth = options.auth
    if auth is None:
        async with _open(options.open_database, options.to) as gateway:
            yield gateway, Tables()
        return
    await auth.gateway.connect()
    try:
        yield auth.gateway, auth.tables
    finally:
        await auth.close()
        await auth.gateway.disconnect()

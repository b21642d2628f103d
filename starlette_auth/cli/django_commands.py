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
from ..database.migrations import migrate
from ..database.tables import Tables
from ..django.importing import UserImport
from ..django.project import DjangoProject
from ..django.survey import SAMPLE, Inspection, UserModel, inspect
from .terminal import CommandError, print_error, print_line, show_progress

#: SQLAlchemy's types, by the names that the databases have for theirs.
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
    """What they are given makes a Database of a URL, and finds an Auth by its name, or says no."""
    given = {"work": run_check, "open_database": open_database, "open_app": open_app}
    command = commands.add_parser(
        "check-django",
        help="look at a Django project's database, and say how to share it",
        description="The project's SECRET_KEY, and SECRET_KEY_FALLBACKS (one on each line), come from the environment.",
    )
    command.add_argument("--database", metavar="URL", default=os.environ.get("DATABASE_URL"), help="or DATABASE_URL")
    command.set_defaults(**given)

    command = commands.add_parser(
        "import-django", help="copy users, groups and permissions from a Django project's database"
    )
    command.add_argument("--from", dest="source", metavar="URL", required=True, help="the project's database")
    command.add_argument("--to", metavar="URL", help="a database of ours; or name one by --app")
    command.add_argument(
        "--app", metavar="MODULE:ATTRIBUTE", default=None, help="an Auth, for a user table of your own"
    )
    command.add_argument(
        "--username-field", metavar="NAME", help="USERNAME_FIELD, where it is no username and no email"
    )
    command.add_argument("--time-zone", metavar="NAME", help="TIME_ZONE, where the project says USE_TZ=False")
    command.add_argument(
        "--ignore", metavar="COLUMN", action="append", default=[], help="a column of the users to leave behind"
    )
    command.set_defaults(**{**given, "work": run_copy})


def run_check(options: argparse.Namespace) -> None:
    asyncio.run(check(options))


def run_copy(options: argparse.Namespace) -> None:
    if bool(options.to) == bool(options.app):
        raise CommandError("Name one database to copy to. Pass --to URL, or --app module:attribute.")
    # Before there is an event loop: both read files.
    options.auth = options.open_app(options.app) if options.app else None
    options.zone = DjangoProject(time_zone=options.time_zone).zone() if options.time_zone else None
    asyncio.run(copy(options))


async def check(options: argparse.Namespace) -> None:
    """Exit status 1 when something will not work."""
    if not options.database:
        raise CommandError("Name the project's database. Pass --database URL, or set DATABASE_URL.")
    keys = [os.environ.get("SECRET_KEY", ""), *os.environ.get("SECRET_KEY_FALLBACKS", "").splitlines()]
    async with _open(options.open_database, options.database) as gateway:
        found = await inspect(gateway, [key for key in keys if key])
    for line in _report(found, has_key=bool(keys[0])):
        print_line(line)
    if found.problems:
        raise CommandError(f"{len(found.problems)} of these will not work; see above.")


def _report(found: Inspection, *, has_key: bool) -> list[str]:
    lines = [f"Django:    {found.version or 'unknown'}"]
    if found.project_version:
        lines[0] += f" (its hashes are those of {found.project_version})"
    if found.user is not None:
        lines += _about_users(found.user)
    lines += [f"Hashes:    {number:>9,} {kind}" for kind, number in found.hashes.most_common()]
    lines += _about_sessions(found, has_key=has_key)
    lines += [f"Problem:   {problem}" for problem in found.problems]
    lines.append(
        "Compare:   USE_TZ and TIME_ZONE, SESSION_COOKIE_AGE, the names of the cookies and PASSWORD_HASHERS stand in the "
        "project's settings; where they are not Django's own, say so to DjangoProject"
    )
    if found.user is not None and found.user.username_field:
        lines += ["", *suggestion(found, found.user)]
    return lines


def _about_users(user: UserModel) -> list[str]:
    names = f"key {user.key} ({user.types[user.key]}), name {user.username_field or 'unknown'}"
    lines = [f"Users:     {user.rows:,} in {user.table}, {names}"]
    if user.further:
        lines.append(f"           further columns: {', '.join(user.further)}")
    return lines


def _about_sessions(found: Inspection, *, has_key: bool) -> list[str]:
    sessions = found.sessions
    if sessions is None or not sessions.rows:
        return ["Sessions:  none in django_session: they are elsewhere (SESSION_ENGINE), or nobody has come yet"]
    lines = [f"Sessions:  {sessions.rows:,} in django_session; SESSION_ENGINE is db, or cached_db (see forget_session)"]
    if not has_key:
        return [*lines, "           set SECRET_KEY to know whether they can be read"]
    read = f"{sessions.by_newest} by SECRET_KEY, {sessions.by_fallback} by a fallback, {sessions.unreadable} not"
    return [*lines, f"           of the latest {min(sessions.rows, SAMPLE)}, read: {read}"]


def suggestion(found: Inspection, user: UserModel) -> list[str]:
    """Code for the application."""
    settings = []
    if user.username_field != "username":
        settings.append(f'username_field="{user.username_field}"')
    if user.link_column != f"{user.table.rpartition('_')[2]}_id":
        settings.append(f"user_model={user.link_column.removesuffix('_id')!r}")
    if found.project_version not in ("", DjangoProject().version):
        settings.append(f'version="{found.project_version}"')
    algorithms = [kind.partition(",")[0] for kind, _ in found.hashes.most_common() if kind != "unusable"]
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
    # A new user of ours has to have something there, too.
    return ', default=""' if name in user.further and _type(kind).startswith(("sa.String", "sa.Text")) else ""


def _type(declared: str) -> str:
    """As code."""
    for pattern, ours in TYPES:
        found = re.fullmatch(pattern, declared)
        if found:
            return f"{ours}({found[1]})" if ours == "sa.String" else ours
    return "sa.Text"


async def copy(options: argparse.Namespace) -> None:
    async with (
        _open(options.open_database, options.source) as source,
        _target(options) as (target, new),
    ):
        found = await inspect(source)
        if found.user is None:
            raise CommandError(" ".join(found.problems))
        old = django_tables(found.user, new, username_field=options.username_field, zone=options.zone)
        if source.database.url == target.database.url:
            raise CommandError("These are one database. Name another one to copy to.")
        work = UserImport(source, target, old=old, new=new, model=found.user, ignore=options.ignore)
        losses = await work.find_losses()
        for loss in losses:
            print_error(loss)
        if losses:
            raise CommandError("Nothing was copied.")
        await migrate(target, new)
        await work.run(lambda done, number: show_progress(f"{done:,} of {number:,} users …"))
        show_progress("")
        for problem in found.problems:
            print_error(problem)
        print_line(f"Copied {work.copied:,} users; {work.present:,} were there already.")


def django_tables(
    user: UserModel, new: Tables, *, username_field: str | None = None, zone: tzinfo | None = None
) -> Tables:
    """The tables around a user table that was found. What is in ours too, has the type that it has there."""
    kinds = {"sa.Boolean": sa.Boolean(), "sa.DateTime": sa.DateTime(), "sa.Uuid": sa.Uuid(), "sa.Date": sa.Date()}
    columns: list[sa.Column[Any]] = []
    for name, declared in user.types.items():
        kind: Any = kinds.get(_type(declared), sa.Text())
        if name in new.user.columns and name != user.key:
            kind = new.user.columns[name].type
        elif _type(declared) in ("sa.Integer", "sa.BigInteger"):
            kind = sa.Integer()
        columns.append(sa.Column(name, _unlimited(kind), primary_key=name == user.key))
    field = username_field or user.username_field
    if field not in user.types:
        raise ImproperlyConfigured(f"{user.table} has no column {field!r}. Pass --username-field, one of its columns.")
    return Tables.django(
        sa.Table(user.table, sa.MetaData(), *columns),
        model=user.link_column.removesuffix("_id"),
        username_field=field,
        time_zone=zone,
    )


def _unlimited(kind: Any) -> Any:
    """Here it is read, and may be longer than where it goes."""
    return sa.Text() if isinstance(kind, sa.String) else kind


@contextlib.asynccontextmanager
async def _open(open_database: Callable[[str], Database], url: str) -> AsyncIterator[Gateway]:
    database = open_database(url)
    async with database:
        gateway = Gateway.of(database)
        try:
            yield gateway
        finally:
            await gateway.close()


@contextlib.asynccontextmanager
async def _target(options: argparse.Namespace) -> AsyncIterator[tuple[Gateway, Tables]]:
    auth = options.auth
    if auth is None:
        async with _open(options.open_database, options.to) as gateway:
            yield gateway, Tables()
        return
    async with auth.database:
        try:
            yield auth.gateway, auth.tables
        finally:
            await auth.close()

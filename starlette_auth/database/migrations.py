"""Creating missing tables, columns and indexes."""

import contextlib
import functools
import logging
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.schema import CreateIndex, CreateTable

from ..core.exceptions import ImproperlyConfigured
from .columns import UTCDateTime, ascii_lowered, unique_index_name
from .gateway import Gateway
from .introspection import Catalog, read_catalog
from .statements import get_dialect
from .table_definitions import USER_COLUMNS
from .tables import Tables
from .upgrades.shared_links import check_links, plan_moves, run_moves

logger = logging.getLogger("starlette_auth")
LOCK = "starlette_auth.migrate"
MAX_LISTED = 10  # addresses that an error message lists
# If several processes start at the same time, one migrates and the others wait for it. On SQLite, the write transaction
# is the lock.
TAKE_LOCK = {
    "postgresql": f"SELECT pg_advisory_xact_lock(hashtext('{LOCK}'))::text AS taken",
    "mysql": f"SELECT GET_LOCK('{LOCK}', 60) AS taken",
}
RELEASE_LOCK = {"mysql": f"SELECT RELEASE_LOCK('{LOCK}') AS released"}
#: The Django migrations whose result equals the tables created here (Django 3.1 to 6.1).
APPLIED = [
    ("contenttypes", "0001_initial"),
    ("contenttypes", "0002_remove_content_type_name"),
    ("auth", "0001_initial"),
    ("auth", "0002_alter_permission_name_max_length"),
    ("auth", "0003_alter_user_email_max_length"),
    ("auth", "0004_alter_user_username_opts"),
    ("auth", "0005_alter_user_last_login_null"),
    ("auth", "0006_require_contenttypes_0002"),
    ("auth", "0007_alter_validators_add_error_messages"),
    ("auth", "0008_alter_user_username_max_length"),
    ("auth", "0009_alter_user_last_name_max_length"),
    ("auth", "0010_alter_group_name_max_length"),
    ("auth", "0011_update_proxy_permissions"),
    ("auth", "0012_alter_user_first_name_max_length"),
    ("sessions", "0001_initial"),
]


async def migrate(gateway: Gateway, tables: Tables, *, leave_grants: bool = False) -> list[str]:
    """Creates missing tables, columns and indexes, and returns their names.

    Existing ones are never changed. Repeated and concurrent calls are safe. When the tables of a custom user table are
    created, the grants of its users are moved there from the tables that an earlier version shared between all user
    tables, unless `leave_grants` is True.

    Raises ImproperlyConfigured if a missing column cannot be added to a table, if users share an address with which they
    log in, or if it is not clear to which user table a grant belongs; nothing is changed then.
    """
    tables.finish(gateway.dialect)
    async with gateway.atomic(), _migration_lock(gateway):
        await check_links(gateway, tables)
        missing = await _missing(gateway, tables)
        created = [name for name, _ in missing]
        moves = [] if leave_grants else await plan_moves(gateway, tables, created)
        # MySQL commits each CREATE TABLE. If this stops before the moves, the missing session table brings them back.
        session = tables.session.fullname
        number = created.index(session) if session in created else len(missing)
        for _, change in missing[:number]:
            await gateway.execute(change)
        await run_moves(gateway, moves)
        for _, change in missing[number:]:
            await gateway.execute(change)
        if tables.django_tables and tables.user.fullname in created:
            await _record_migrations(gateway)
        return created


async def missing_statements(gateway: Gateway, tables: Tables) -> dict[str, str]:
    """Returns the names of missing tables, columns and indexes, each with the SQL that creates it. Changes nothing.

    Raises ImproperlyConfigured where `migrate` does so.
    """
    tables.finish(gateway.dialect)
    await check_links(gateway, tables)
    dialect = get_dialect(gateway.dialect)
    missing = await _missing(gateway, tables)
    return {name: str(ddl.compile(dialect=dialect)).strip() for name, ddl in missing}


@contextlib.asynccontextmanager
async def _migration_lock(gateway: Gateway) -> AsyncIterator[None]:
    if gateway.dialect in TAKE_LOCK:
        await gateway.fetch_all(sa.text(TAKE_LOCK[gateway.dialect]).columns(sa.column("taken")))
    try:
        yield
    finally:
        if gateway.dialect in RELEASE_LOCK:
            gateway.allow_cleanup()
            with contextlib.suppress(Exception):  # the server releases the lock of a lost connection automatically
                await gateway.fetch_all(sa.text(RELEASE_LOCK[gateway.dialect]).columns(sa.column("released")))


async def _missing(gateway: Gateway, tables: Tables) -> list[tuple[str, sa.ExecutableDDLElement]]:
    """Returns the names of missing tables, columns and indexes, each with the statement that creates it.

    The full list is built before the first change, because MySQL cannot roll back a CREATE TABLE.
    """
    catalog = await read_catalog(gateway, tables)
    missing: list[tuple[str, sa.ExecutableDDLElement]] = []
    for table in _managed_tables(tables, catalog):
        if not catalog.has_table(table):
            missing.append((table.fullname, CreateTable(table)))
        else:
            absent = [column for column in table.columns if not catalog.has_column(column)]
            missing.extend((f"{table.fullname}.{column.name}", _add(gateway, table, column)) for column in absent)
        absent_indexes = [index for index in table.indexes if not catalog.has_index(table, _name(index))]
        missing.extend((str(index.name), CreateIndex(index)) for index in sorted(absent_indexes, key=_name))
    for column in tables.caseless_columns:
        has_index = catalog.has_index(tables.user, unique_index_name(column))
        if catalog.has_column(column) and (tables.django_tables or not has_index):
            await _refuse_duplicates(gateway, tables, column)
    return missing


async def _refuse_duplicates(gateway: Gateway, tables: Tables, column: sa.Column[Any]) -> None:
    """Raises ImproperlyConfigured if several users have one name or address.

    In a Django project's table it logs a warning instead: Django may add such users at any time, and the application
    must still start.
    """
    groups = await duplicate_emails(gateway, tables.user_key, column)
    if not groups:
        return
    keys = "; ".join(", ".join(map(str, keys)) for keys in groups[:MAX_LISTED])
    more = f"; and {len(groups) - MAX_LISTED} more groups" if len(groups) > MAX_LISTED else ""
    is_email = column is tables.email
    text = "email address, with which users log in" if is_email else "username, apart from the case of its letters"
    problem = f"Users of {tables.user.fullname} have the same {text}. Primary keys: {keys}{more}."
    fix = 'Leave each address to one user, as in users.update(user, email="")'
    if not is_email:
        fix = 'Rename all but one, as in users.update(user, username="…")'
    if tables.django_tables:
        logger.warning("%s These users cannot log in with it. %s.", problem, fix)
    else:
        raise ImproperlyConfigured(f"{problem} {fix}, then try again.")


async def duplicate_emails(gateway: Gateway, key: sa.Column[Any], email: sa.Column[Any]) -> list[list[Any]]:
    """Returns the primary keys of users who have the same address, ignoring case: one list for each address."""
    address = ascii_lowered(email, gateway.dialect)
    repeated = sa.select(address).where(email != "").group_by(address).having(sa.func.count() > 1)
    query = sa.select(key.label("key"), address.label("address")).where(address.in_(repeated)).order_by(address, key)
    groups: dict[Any, list[Any]] = {}
    for row in await gateway.fetch_all(query):
        groups.setdefault(row["address"], []).append(row["key"])
    return list(groups.values())


def _managed_tables(tables: Tables, catalog: Catalog) -> list[sa.Table]:
    """Returns the tables that `migrate` may create or complete.

    In a Django project's database, these are only the tables that Django does not have. The project's own migrations
    define the others. If none of Django's tables exist yet, and the user model is Django's, all tables are created.
    """
    has_django = catalog.has_table(migrations_table())
    expects_no_django = tables.has_default_names and not tables.django_tables
    if expects_no_django and has_django and not catalog.has_table(tables.content_type):
        raise ImproperlyConfigured(
            "This is the database of a Django project. Pass django=DjangoProject(…) to Auth, or --django to the command."
        )
    *core, _ = tables.django_tables or (None,)
    missing = [table.fullname for table in core if not catalog.has_table(table)]
    if not missing:
        return [table for table in tables if table not in tables.django_tables]
    is_standard = tables.user.fullname == "auth_user" and set(tables.user.columns.keys()) == set(USER_COLUMNS)
    if len(missing) < len(core) or not is_standard:
        raise ImproperlyConfigured(
            f"The table {missing[0]} of the Django project is missing. Run `python manage.py migrate` first. If the project "
            "has a custom user model, pass DjangoProject(user=…): `starlette-auth check-django` shows how."
        )
    return [*tables, migrations_table()]


async def _record_migrations(gateway: Gateway) -> None:
    """Marks Django's migrations as applied, because Django would create the same tables."""
    recorded = await gateway.fetch_all(sa.select(migrations_table().c.app, migrations_table().c.name))
    for app, name in APPLIED:
        if {"app": app, "name": name} not in recorded:
            await gateway.insert(migrations_table(), app=app, name=name, applied=datetime.now(UTC))


def _add(gateway: Gateway, table: sa.Table, column: sa.Column[Any]) -> sa.ExecutableDDLElement:
    if not column.nullable and column.server_default is None:
        raise ImproperlyConfigured(
            f"The table {table.fullname} has no column {column.name}, and there is no value for the rows in the table. "
            "Add the column yourself, or give it nullable=True or a server_default."
        )
    if column.unique or column.foreign_keys:
        raise ImproperlyConfigured(
            f"The table {table.fullname} has no column {column.name}, and its constraint cannot be added on every database. "
            "Add the column yourself, with the constraint."
        )
    dialect = get_dialect(gateway.dialect)
    # The same column definition as in CREATE TABLE.
    definition = dialect.ddl_compiler(dialect, CreateTable(table)).get_column_specification(column)
    return RawDDL(f"ALTER TABLE {dialect.identifier_preparer.format_table(table)} ADD COLUMN {definition}")


class RawDDL(sa.ExecutableDDLElement):
    """A DDL statement as literal SQL. sa.text() and sa.DDL() would interpret colons and percent signs in it."""

    def __init__(self, sql: str) -> None:
        self.sql = sql


@compiles(RawDDL)
def _compile_raw_ddl(ddl: RawDDL, compiler: object, **options: object) -> str:
    return ddl.sql


def _name(index: sa.Index) -> str:
    return str(index.name)


@functools.cache
def migrations_table() -> sa.Table:
    """Returns Django's table of applied migrations.

    It is defined on first use: a table with a SQLite option makes SQLAlchemy import its SQLite dialect.
    """
    return sa.Table(
        "django_migrations",
        sa.MetaData(),
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), sa.Identity(), primary_key=True),
        sa.Column("app", sa.String(255), nullable=False),
        sa.Column("name", sa.String(255), nullable=False),
        sa.Column("applied", UTCDateTime(), nullable=False),
        sqlite_autoincrement=True,
    )

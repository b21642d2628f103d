"""Inspecting the database of a Django project."""

import re
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field

import sqlalchemy as sa
from itsdangerous import BadData
from sqlalchemy.schema import CreateIndex

from ..core.text import is_usable
from ..database.columns import add_lookup_index, finish_table
from ..database.gateway import Gateway
from ..database.introspection import all_columns, column_types, foreign_keys_to, index_definitions
from ..database.migrations import migrations_table
from ..database.statements import Row, Statement, get_dialect
from ..database.table_definitions import USER_COLUMNS, TableFactory, django_session_table
from ..passwords.older_hashers import GET_BCRYPT
from ..passwords.passwords import default_hashers
from ..users.users import ADMIN_LOG
from .project import ITERATIONS
from .sessions import SALT
from .signing import DjangoSigner

BATCH = 2000  # rows read by one query
SAMPLE = 500  # sessions whose signature is checked
#: Maps the last migration of django.contrib.auth to the Django versions that include it.
VERSIONS = {
    "0012_alter_user_first_name_max_length": "3.1 or later",
    "0011_update_proxy_permissions": "2.2 or 3.0",
    "0010_alter_group_name_max_length": "2.2 or 3.0",
    "0009_alter_user_last_name_max_length": "2.0 or 2.1",
    "0008_alter_user_username_max_length": "1.10 or 1.11",
}
ALGORITHMS = ("pbkdf2_sha256", "pbkdf2_sha1", "argon2", "bcrypt_sha256", "bcrypt", "scrypt", "md5", "sha1", "crypt")


@dataclass(kw_only=True)
class UserModel:
    """Describes the table of AUTH_USER_MODEL.

    `types` maps its columns to their types. `link_column` is the column that refers to it in the tables of the users'
    groups and permissions.
    """

    table: str
    types: dict[str, str]
    key: str
    link_column: str
    rows: int = 0

    @property
    def username_field(self) -> str:
        """Returns the probable USERNAME_FIELD, which only the project's code states; empty if unknown."""
        return next((name for name in ("username", "email") if name in self.types), "")

    @property
    def further(self) -> list[str]:
        return [name for name in self.types if name not in USER_COLUMNS and name != self.key]

    @property
    def has_uuid(self) -> bool:
        return self.types[self.key] in ("uuid", "char(32)")

    @property
    def is_standard(self) -> bool:
        """Returns whether the columns are Django's own, so that the table's name is enough."""
        expected = {*USER_COLUMNS, self.username_field} - ({"username"} if self.username_field != "username" else set())
        return self.key == "id" and not self.has_uuid and set(self.types) == expected


@dataclass(kw_only=True)
class Sessions:
    """Counts the rows of `django_session`, and those of a sample by the key that signed them."""

    rows: int = 0
    by_newest: int = 0
    by_fallback: int = 0
    unreadable: int = 0


@dataclass(kw_only=True)
class Inspection:
    """The result of `inspect`."""

    version: str = ""
    user: UserModel | None = None
    hashes: Counter[str] = field(default_factory=Counter)
    sessions: Sessions | None = None
    #: Sentences on what will not work, with the fix.
    problems: list[str] = field(default_factory=list)
    #: Statements that create the indexes for look-ups that ignore case, as far as they are missing.
    missing_indexes: list[str] = field(default_factory=list)

    @property
    def project_version(self) -> str:
        """Returns the Django version whose PBKDF2 iterations most hashes have; empty if unknown."""
        counted = {v: self.hashes[f"pbkdf2_sha256, {n:,} iterations"] for v, n in ITERATIONS.items()}
        best = max(counted, key=lambda version: counted[version])
        return best if counted[best] else ""


async def inspect(gateway: Gateway, secret_keys: Sequence[str] = ()) -> Inspection:
    """Inspects users, password hashes and sessions. Changes nothing. Without keys, sessions are only counted."""
    inspection, tables = Inspection(), await all_columns(gateway)
    inspection.version = await _version(gateway, tables, inspection)
    inspection.user = await _user_model(gateway, tables, inspection)
    if inspection.user is not None:
        await _inspect_users(gateway, inspection.user, inspection)
        inspection.missing_indexes = await _missing_indexes(gateway, inspection.user)
    if "django_session" in tables:
        inspection.sessions = await _inspect_sessions(gateway, inspection, secret_keys)
    return inspection


async def _version(gateway: Gateway, tables: dict[str, set[str]], inspection: Inspection) -> str:
    if "django_migrations" not in tables:
        inspection.problems.append("There is no table django_migrations. Is this the database of a Django project?")
        return ""
    migrations = migrations_table().c
    rows = await gateway.fetch_all(sa.select(migrations.name).where(migrations.app == "auth"))
    newest = max((row["name"] for row in rows), default="")
    version = VERSIONS.get(newest, "")
    if newest not in list(VERSIONS)[:1]:
        inspection.problems.append(
            f"The last migration of django.contrib.auth is {newest or 'missing'}. Sessions of Django before 3.1 have "
            "another format. Upgrade Django to 3.1 or later, and run `python manage.py migrate`."
        )
    return version


async def _user_model(gateway: Gateway, tables: dict[str, set[str]], inspection: Inspection) -> UserModel | None:
    candidates = [
        name
        for name, columns in tables.items()
        if "password" in columns and {f"{name}_groups", f"{name}_user_permissions"} <= set(tables)
    ]
    without_groups = [name for name, columns in tables.items() if {"password", "last_login"} <= columns]
    if not candidates:
        inspection.problems.append(
            f"The users in {without_groups[0]} have neither groups nor permissions. Let the model inherit from "
            "PermissionsMixin."
            if without_groups
            else "There is no user table. Run `python manage.py migrate`."
        )
        return None
    name = candidates[0]
    for candidate in candidates[1:]:
        if any(key.table == ADMIN_LOG for key in await foreign_keys_to(gateway, candidate)):
            name = candidate  # Django's admin refers to the table of AUTH_USER_MODEL
    types = await column_types(gateway, name)
    links = [column for column in tables[f"{name}_groups"] if column not in ("id", "group_id")]
    key = "id" if "id" in types else next(iter(types))
    return UserModel(table=name, types=types, key=key, link_column=links[0])


async def _inspect_users(gateway: Gateway, user: UserModel, inspection: Inspection) -> None:
    if not user.username_field:
        inspection.problems.append(
            f"{user.table} has neither username nor email. Pass USERNAME_FIELD, as in DjangoProject(username_field=…)."
        )
    if "is_superuser" not in user.types:
        inspection.problems.append(f"{user.table} has no is_superuser. Let the model inherit from PermissionsMixin.")
    table = _table(user, user.key, "password")
    async for row in in_batches(gateway, table):
        user.rows += 1
        inspection.hashes[_describe_hash(str(row["password"]))] += 1
    readable = {hasher.algorithm for hasher in default_hashers()}
    for kind, number in inspection.hashes.items():
        algorithm = kind.partition(",")[0]
        if algorithm not in readable and algorithm != "unusable":
            fix = GET_BCRYPT if "bcrypt" in algorithm else "Let these users reset their passwords."
            inspection.problems.append(
                f"{number} hashes are {algorithm}, which is not supported: these users cannot log in here. {fix}"
            )


async def _missing_indexes(gateway: Gateway, user: UserModel) -> list[str]:
    """Returns statements for the indexes that Django does not create, and that this package must not."""
    definitions, statements = await index_definitions(gateway, user.table), []
    for name in dict.fromkeys((user.username_field, "email")):
        pattern = re.escape(name) if gateway.dialect == "mysql" else rf"lower\W.*\b{re.escape(name)}\b"
        if name not in user.types or any(re.search(pattern, definition) for definition in definitions):
            continue
        kind = sa.Text() if "text" in user.types[name] else sa.String(254)
        column = sa.Column(name, kind, unique=name == user.username_field)
        table, dialect = sa.Table(user.table, sa.MetaData(), column), get_dialect(gateway.dialect)
        add_lookup_index(column)
        finish_table(table, gateway.dialect)
        statements += [str(CreateIndex(index).compile(dialect=dialect)) for index in table.indexes]
    return statements


async def _inspect_sessions(gateway: Gateway, inspection: Inspection, keys: Sequence[str]) -> Sessions:
    table, sessions = django_session_table(TableFactory()), Sessions()
    count = await gateway.fetch_one(sa.select(sa.func.count().label("rows")).select_from(table))
    sessions.rows = int(count["rows"]) if count else 0
    if not sessions.rows or not keys:
        return sessions
    newest_first = sa.select(table.c.session_data).order_by(table.c.expire_date.desc()).limit(SAMPLE)
    signers = [DjangoSigner([key], SALT) for key in keys]
    for row in await gateway.fetch_all(newest_first):
        index = _signing_key_index(signers, row["session_data"])
        sessions.unreadable += index is None
        sessions.by_newest += index == 0
        sessions.by_fallback += bool(index)
    if sessions.unreadable and not sessions.by_newest + sessions.by_fallback:
        inspection.problems.append(
            "No session was signed with this SECRET_KEY. Either the key is wrong, or sessions are pickled, or "
            "SESSION_ENGINE is a custom class. Check the key, and session_salt of DjangoProject."
        )
    return sessions


def _signing_key_index(signers: Sequence[DjangoSigner], text: str) -> int | None:
    """Returns the index of the key that signed the text; None if none did."""
    for index, signer in enumerate(signers):
        try:
            signer.loads(text)
        except BadData:
            continue
        return index
    return None


async def in_batches(gateway: Gateway, table: sa.Table) -> AsyncIterator[Row]:
    """Yields all rows in the order of the first column, reading 2000 rows at a time."""
    key = next(iter(table.columns))
    first = Statement(sa.select(*table.columns).order_by(key).limit(BATCH))
    further = Statement(sa.select(*table.columns).where(key > sa.bindparam("after")).order_by(key).limit(BATCH))
    rows = await gateway.fetch_all(first)
    while rows:
        for row in rows:
            yield row
        rows = await gateway.fetch_all(further, after=rows[-1][key.name]) if len(rows) == BATCH else []


def _table(user: UserModel, key: str, *columns: str) -> sa.Table:
    kind = sa.Uuid() if user.has_uuid else sa.BigInteger()
    return sa.Table(user.table, sa.MetaData(), sa.Column(key, kind), *(sa.Column(name, sa.Text) for name in columns))


def _describe_hash(encoded: str) -> str:
    """Returns the algorithm of a hash, for PBKDF2 with the number of iterations."""
    if not encoded or not is_usable(encoded):
        return "unusable"
    algorithm, dollar, rest = encoded.partition("$")
    if not dollar:
        return "unsalted md5" if len(encoded) == 32 else "unknown"
    iterations = rest.partition("$")[0]
    if algorithm.startswith("pbkdf2") and iterations.isascii() and iterations.isdecimal():
        return f"{algorithm}, {int(iterations[:9]):,} iterations"
    # An unknown prefix is not reported: it could be a password in plain text.
    return algorithm if algorithm in ALGORITHMS else "unknown"

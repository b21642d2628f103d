"""Would two Auths keep rows about different users in one table?"""

import gc
import weakref
from typing import Protocol

import sqlalchemy as sa

from ..core.exceptions import ImproperlyConfigured
from ..database.gateway import Gateway
from ..database.tables import Tables
from ..database.urls import database_location

Place = tuple[str, str, str]  # a server or file, and the schema and the name of a table in it


class HasTable(Protocol):
    """A session store. `table` is None if it keeps the sessions elsewhere."""

    table: sa.Table | None


class TableClaim:
    """Names the tables that hold rows about the users of one user table. An `Auth` holds it for as long as it lives."""

    def __init__(self, owner: Place, places: frozenset[Place]) -> None:
        self.owner = owner
        self.places = places

    def conflicts(self, other: "TableClaim") -> frozenset[Place]:
        """Returns the tables that both claim, if they have different user tables."""
        return self.places & other.places if self.owner != other.owner else frozenset()


_claims: weakref.WeakSet[TableClaim] = weakref.WeakSet()


def claim_tables(gateway: Gateway, tables: Tables, store: HasTable) -> TableClaim:
    """Returns the claim of an Auth. Raises ImproperlyConfigured if a living Auth claims a table for other users.

    Rows of such tables know a user only by a number: number 1 of one user table would have the rights and sessions of
    number 1 of the other. Several Auths over one user table are allowed.
    """
    own = {tables.user, tables.user_groups, tables.user_permissions, tables.token}
    of_features = {column.table for column in tables.columns_referencing_user()} - {tables.session}
    places = set(_places(gateway, *own, *of_features))
    # A Django project has one user model, and decides itself whose sessions its table holds.
    if store.table is not None and store.table not in tables.django_tables:
        places.update(_places(getattr(store, "gateway", gateway), store.table))
    [owner] = _places(gateway, tables.user)
    claim = TableClaim(owner, frozenset(places))
    if _conflict(claim):
        gc.collect()  # an Auth without references may still wait for the garbage collector
    if conflict := _conflict(claim):
        other, names = conflict
        raise ImproperlyConfigured(
            f"Two Auths, with the user tables {other.owner[2]} and {claim.owner[2]}, would share the table "
            f"{' and '.join(names)}: a user of one would have the rights or sessions of the user of the other with the "
            "same number. Give each a separate table: pass another table to the session store "
            "(DatabaseStore(table=…)), or rename a user table."
        )
    _claims.add(claim)
    return claim


def _conflict(claim: TableClaim) -> tuple[TableClaim, list[str]] | None:
    for other in list(_claims):
        if places := claim.conflicts(other):
            return other, sorted(name for *_, name in places)
    return None


def _places(gateway: Gateway, *tables: sa.Table) -> list[Place]:
    is_sqlite = gateway.dialect == "sqlite"
    # Each in-memory database of SQLite is a separate database.
    is_in_memory = is_sqlite and sa.make_url(gateway.url).database in (None, "", ":memory:")
    location = f"memory {id(gateway)}" if is_in_memory else database_location(gateway.url)
    schema = "main"
    if gateway.dialect == "postgresql":
        schema = gateway.first_schema
    elif gateway.dialect == "mysql":  # where the databases of a server are its schemas
        location, _, schema = location.rpartition("/")
    places = [(location, table.schema or schema, table.name) for table in tables]
    # SQLite ignores the case of names.
    return [(file, schema.lower(), name.lower()) for file, schema, name in places] if is_sqlite else places

"""The statements that create the tables, line by line: they are those of Django where Django has the table."""

from collections.abc import Callable
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy.schema import CreateIndex, CreateTable

from starlette_auth import Tables, user_columns
from starlette_auth.database.statements import get_dialect

DATA = Path(__file__).parent / "data"


def unique_names() -> Tables:
    tables = Tables(username_case_sensitive=False)
    tables.require_unique_email()
    return tables


def custom() -> Tables:
    key = sa.Column("id", sa.Uuid, primary_key=True)
    return Tables(user=sa.Table("shop_customer", sa.MetaData(), *user_columns(key)))


INSTALLATIONS: dict[str, Callable[[], Tables]] = {
    "native": Tables,
    "unique-names": unique_names,
    "custom-user": custom,
    "django": Tables.django,
}


def ddl(tables: Tables, dialect_name: str) -> str:
    """Returns the statements that create the tables and their indexes on one database."""
    dialect = get_dialect(dialect_name)
    tables.finish(dialect_name)
    lines: list[str] = []
    for table in tables:
        indexes = sorted(table.indexes, key=lambda index: str(index.name))
        statements: list[sa.ExecutableDDLElement] = [CreateTable(table), *map(CreateIndex, indexes)]
        for statement in statements:
            lines += [line.rstrip() for line in str(statement.compile(dialect=dialect)).splitlines() if line.strip()]
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize("dialect", ["sqlite", "postgresql", "mysql"])
@pytest.mark.parametrize("name", INSTALLATIONS)
def test_the_statements_that_create_the_tables_stay_the_same(name: str, dialect: str) -> None:
    assert ddl(INSTALLATIONS[name](), dialect) == (DATA / f"{name}-{dialect}.sql").read_text()

"""The SQL, bind parameters and result values of statements for each driver, without a database."""

from datetime import UTC, datetime
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.schema import CreateTable

from starlette_auth import UnstorableValue
from starlette_auth.database.statements import DIALECTS, PreparedStatement, Statement

NOTES = sa.Table(
    "notes",
    sa.MetaData(),
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("name", sa.String(5)),
    sa.Column("done", sa.Boolean),
    sa.Column("data", sa.LargeBinary),
    sa.Column("code", sa.Unicode(3).with_variant(sa.String(2), "sqlite")),
    sa.Column("at", sa.DateTime(timezone=True)),
    sa.Column("local", sa.DateTime()),
    sa.Column("kind", sa.Enum("big", "small", native_enum=False, validate_strings=True)),
)


def prepared(expression: sa.ClauseElement, dialect: str) -> PreparedStatement:
    return Statement(expression).prepared(dialect)


@pytest.mark.parametrize(
    ("dialect", "sql", "arguments"),
    [
        ("sqlite", "UPDATE notes SET name=:new WHERE notes.id = :id_1 RETURNING 1", {"new": "b", "id_1": 7}),
        ("postgresql", "UPDATE notes SET name=$1::VARCHAR WHERE notes.id = $2::INTEGER", ["b", 7]),
        ("mysql", "UPDATE notes SET name=%(new)s WHERE notes.id = %(id_1)s", {"new": "b", "id_1": 7}),
    ],
)
def test_each_driver_gets_its_own_placeholders(dialect: str, sql: str, arguments: Any) -> None:
    statement = prepared(sa.update(NOTES).where(NOTES.c.id == 7).values(name=sa.bindparam("new")), dialect)
    assert statement.sql == sql
    assert statement.bind({"new": "b", "unknown": 1}) == arguments


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_statement_is_prepared_once_for_each_dialect(dialect: str) -> None:
    statement = Statement(sa.select(NOTES))
    assert statement.prepared(dialect) is statement.prepared(dialect)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_missing_bind_parameter_raises_an_error(dialect: str) -> None:
    statement = prepared(sa.select(NOTES).where(NOTES.c.name == sa.bindparam("name")), dialect)
    with pytest.raises(TypeError, match="needs a value for name"):
        statement.bind({"nmae": "a"})
    optional = sa.select(NOTES).where(NOTES.c.name == sa.bindparam("name", "a"))
    assert "a" in str(prepared(optional, dialect).bind({}))
    assert "b" in str(prepared(optional, dialect).bind({"name": "b"}))


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_ddl_statement_has_no_bind_parameters(dialect: str) -> None:
    statement = prepared(CreateTable(NOTES), dialect)
    assert statement.sql.strip().startswith("CREATE TABLE notes")
    assert not statement.bind({})
    assert statement.columns == []


@pytest.mark.parametrize("dialect", DIALECTS)
def test_the_type_variant_of_the_dialect_decides(dialect: str) -> None:
    statement = prepared(sa.insert(NOTES).values(code=sa.bindparam("code")), dialect)
    max_length = 2 if dialect == "sqlite" else 3
    assert statement.bind({"code": "x" * max_length})
    with pytest.raises(UnstorableValue, match=f"do not fit into {max_length}"):
        statement.bind({"code": "x" * (max_length + 1)})


@pytest.mark.parametrize("dialect", DIALECTS)
def test_sqlalchemy_validates_enum_values(dialect: str) -> None:
    statement = prepared(sa.insert(NOTES).values(kind=sa.bindparam("kind")), dialect)
    assert "big" in str(statement.bind({"kind": "big"}))
    with pytest.raises(LookupError):
        statement.bind({"kind": "huge"})


@pytest.mark.parametrize(
    ("dialect", "column", "stored"),
    [
        ("sqlite", "at", "0999-01-02 03:04:05.000006"),
        ("mysql", "at", datetime(999, 1, 2, 3, 4, 5, 6)),
        ("postgresql", "at", datetime(999, 1, 2, 3, 4, 5, 6, tzinfo=UTC)),
        ("postgresql", "local", datetime(999, 1, 2, 3, 4, 5, 6)),
    ],
)
def test_each_driver_gets_datetimes_in_its_own_format(dialect: str, column: str, stored: object) -> None:
    time = datetime(999, 1, 2, 3, 4, 5, 6, tzinfo=UTC)
    statement = prepared(sa.insert(NOTES).values({column: sa.bindparam("when")}), dialect)
    (argument,) = (
        statement.bind({"when": time}) if dialect == "postgresql" else [statement.bind({"when": time})["when"]]
    )
    assert argument == stored
    assert prepared(sa.select(NOTES.c[column]), dialect).row([stored]) == {column: time}


def test_a_boolean_column_refuses_text() -> None:
    statement = prepared(sa.insert(NOTES).values(done=sa.bindparam("done")), "sqlite")
    assert statement.bind({"done": True}) == {"done": True}
    with pytest.raises(TypeError):
        statement.bind({"done": "yes"})


@pytest.mark.parametrize(
    "update", [sa.update(NOTES), sa.update(NOTES).where(NOTES.c.id == sa.bindparam("key"))], ids=["all", "one"]
)
def test_select_matching_has_the_condition_of_its_update(update: sa.Update) -> None:
    statement = Statement(update.values(name=sa.bindparam("new")))
    sql = " ".join(statement.select_matching.prepared("mysql").sql.split())
    condition = " WHERE notes.id = %(key)s" if update.whereclause is not None else ""
    assert sql == f"SELECT 1 AS hit FROM notes{condition} FOR UPDATE"
    assert statement.select_matching is statement.select_matching

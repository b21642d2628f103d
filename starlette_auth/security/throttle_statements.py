"""The SQL statements of the throttle."""

import importlib
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from ..database.statements import Statement


def _upsert(
    dialect: str, table: sa.Table, failures: int, then: dict[str, Any], only: sa.ColumnElement[bool]
) -> Statement:
    """A new row, or a change to the one that is there; hits nothing when that one is not as `only` demands."""
    first = {"key_hash": sa.bindparam("key"), "failures": failures, "until": milliseconds("first")}
    if dialect == "mysql":
        # To MySQL a row is not hit when it is set to what it holds.
        changes = [(name, sa.case((only, value), else_=table.c[name])) for name, value in then.items()]
        return Statement(_insert(dialect, table).values(first).on_duplicate_key_update(changes))
    upsert = _insert(dialect, table).values(first)
    return Statement(upsert.on_conflict_do_update(table.primary_key, set_=then, where=only), durable=False)


def _insert(dialect: str, table: sa.Table) -> Any:
    """SQLAlchemy's INSERT of one database, which is not imported for those who use another."""
    return importlib.import_module(f"sqlalchemy.dialects.{dialect}").insert(table)


def count_statement(dialect: str, table: sa.Table) -> Statement:
    """One more at a rate (GCRA): `until` is when all that was counted would have come at an even pace."""
    until = table.c.until
    later = sa.case((until > milliseconds("now"), until + milliseconds("step")), else_=milliseconds("first"))
    return _upsert(dialect, table, 0, {"until": later}, until <= milliseconds("latest"))


def failure_statement(dialect: str, table: sa.Table, waits: Sequence[int]) -> Statement:
    """One more failure, if the time to wait for it is over."""
    failures, until = table.c.failures, table.c.until
    counted = sa.case((until <= milliseconds("forgotten"), integer(1)), else_=failures + integer(1))
    # MySQL changes one column after the other, and sees here what it did there.
    wait = wait_after(failures if dialect == "mysql" else counted, waits)
    then = {"failures": counted, "until": milliseconds("now") + wait}
    return _upsert(dialect, table, 1, then, until <= milliseconds("now"))


def wait_after(failures: sa.ColumnElement[int], waits: Sequence[int]) -> sa.ColumnElement[int]:
    steps = [number for number in range(1, len(waits)) if waits[number] > waits[number - 1]]
    shorter = [(failures < integer(number), integer(waits[number - 1])) for number in steps]
    return sa.case(*shorter, else_=integer(waits[-1]))


def refund_statement(table: sa.Table, number: int) -> Statement:
    rows = [
        (table.c.key_hash == sa.bindparam(f"key{i}"), table.c.until - milliseconds(f"step{i}")) for i in range(number)
    ]
    fewer = sa.update(table).where(sa.or_(*(row for row, _ in rows))).values(until=sa.case(*rows))
    return Statement(fewer, durable=False)


def milliseconds(name: str) -> sa.BindParameter[int]:
    return sa.bindparam(name, type_=sa.BigInteger)


def integer(value: int) -> sa.ColumnElement[int]:
    return sa.literal_column(str(value), sa.Integer)

"""Builds the SQL statements of the throttle."""

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from ..database.statements import Statement, insert_into


def _upsert(
    dialect: str, table: sa.Table, failures: int, changes: dict[str, Any], condition: sa.ColumnElement[bool]
) -> Statement:
    """Returns an upsert: it inserts a row, or changes the existing row under `condition`.

    The statement affects no row if the existing row does not meet the condition.
    """
    first = {"key_hash": sa.bindparam("key"), "failures": failures, "until": milliseconds("first")}
    if dialect == "mysql":
        # MySQL has no condition here. It does not count a row as affected whose values stay the same.
        assignments = [(name, sa.case((condition, value), else_=table.c[name])) for name, value in changes.items()]
        return Statement(insert_into(table, dialect).values(first).on_duplicate_key_update(assignments))
    upsert = insert_into(table, dialect).values(first)
    return Statement(upsert.on_conflict_do_update(table.primary_key, set_=changes, where=condition), durable=False)


def count_statement(dialect: str, table: sa.Table) -> Statement:
    """Returns the statement that counts one action at a rate, by GCRA.

    `until` is GCRA's theoretical arrival time: when all counted actions would be over at an even pace.
    The statement affects no row if the rate limit is exceeded.
    """
    until = table.c.until
    later = sa.case((until > milliseconds("now"), until + milliseconds("step")), else_=milliseconds("first"))
    return _upsert(dialect, table, 0, {"until": later}, until <= milliseconds("latest"))


def failure_statement(dialect: str, table: sa.Table, waits: Sequence[int]) -> Statement:
    """Returns the statement that counts one failure.

    The statement affects no row if the wait after the previous failure is not over.
    """
    failures, until = table.c.failures, table.c.until
    counted = sa.case((until <= milliseconds("forgotten"), integer(1)), else_=failures + integer(1))
    # MySQL assigns the columns in order: the expression for `until` reads the new value of `failures`.
    wait = wait_after(failures if dialect == "mysql" else counted, waits)
    changes = {"failures": counted, "until": milliseconds("now") + wait}
    return _upsert(dialect, table, 1, changes, until <= milliseconds("now"))


def wait_after(failures: sa.ColumnElement[int], waits: Sequence[int]) -> sa.ColumnElement[int]:
    """Returns the SQL expression for `waits[failures]`: the wait in milliseconds after so many failures."""
    steps = [number for number in range(1, len(waits)) if waits[number] > waits[number - 1]]
    shorter = [(failures < integer(number), integer(waits[number - 1])) for number in steps]
    return sa.case(*shorter, else_=integer(waits[-1]))


def refund_statement(table: sa.Table, number: int) -> Statement:
    """Returns one statement that subtracts `step0`, `step1` … milliseconds from `until` of so many rows."""
    rows = [
        (table.c.key_hash == sa.bindparam(f"key{i}"), table.c.until - milliseconds(f"step{i}")) for i in range(number)
    ]
    update = sa.update(table).where(sa.or_(*(by_key for by_key, _ in rows))).values(until=sa.case(*rows))
    return Statement(update, durable=False)


def milliseconds(name: str) -> sa.BindParameter[int]:
    return sa.bindparam(name, type_=sa.BigInteger)


def integer(value: int) -> sa.ColumnElement[int]:
    return sa.literal_column(str(value), sa.Integer)

"""Builds the SQL statements of the throttle."""

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from ...database.statements import Statement, insert_into, unchanged

DAY = 24 * 60 * 60 * 1000  # milliseconds, as all times in the table
YEAR = 365 * DAY
MAX_FAILURES = 100  # NIST SP 800-63B-4 §3.2.2
# The column `failures` holds two numbers. Its lowest ten bits count the failures since the last day without any, which
# decide the wait. The other bits count all consecutive failures, which decide whether the counter is blocked.
CONSECUTIVE = 1 << 10
RECENT = CONSECUTIVE - 1
ONE_FAILURE = CONSECUTIVE + 1


def _upsert(
    dialect: str, table: sa.Table, failures: int, changes: dict[str, Any], condition: sa.ColumnElement[bool]
) -> Statement:
    """Returns an upsert: it inserts a row, or changes the existing row under `condition`.

    The statement affects no row if the existing row does not meet the condition.
    """
    first = {"key_hash": sa.bindparam("key"), "failures": failures, "until": milliseconds("first")}
    if dialect == "mysql":
        # MySQL has no condition here. A row whose values stay the same does not count as affected.
        assignments = [
            (name, sa.case((condition, value), else_=unchanged(table.c[name]))) for name, value in changes.items()
        ]
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


def failure_statement(
    dialect: str, table: sa.Table, waits: Sequence[int], max_failures: int = MAX_FAILURES
) -> Statement:
    """Returns the statement that counts one failure.

    The statement affects no row if the wait after the previous failure is not over. A blocked counter waits for a year
    after its last attempt, and then begins again.
    """
    failures, until = table.c.failures, table.c.until
    is_forgotten = sa.or_(until <= milliseconds("now") - integer(YEAR), _is_blocked(failures, max_failures))
    is_quiet = until <= milliseconds("now") - integer(DAY)
    counted = sa.case(
        (is_forgotten, integer(ONE_FAILURE)),
        (is_quiet, failures - _recent(failures) + integer(ONE_FAILURE)),
        else_=failures + integer(ONE_FAILURE),
    )
    if dialect == "mysql":  # assigns the columns in order: the expression for `until` reads the new value of `failures`
        wait = wait_after(failures, waits, max_failures)
    else:
        is_last = failures >= integer((max_failures - 1) * CONSECUTIVE)
        wait = sa.case(
            (is_forgotten, integer(waits[1])),
            (is_last, integer(YEAR)),
            (is_quiet, integer(waits[1])),
            else_=_wait(_recent(failures) + integer(1), waits),
        )
    changes = {"failures": counted, "until": milliseconds("now") + wait}
    return _upsert(dialect, table, ONE_FAILURE, changes, until <= milliseconds("now"))


def uncount_statement(table: sa.Table, waits: Sequence[int], max_failures: int) -> Statement:
    """Returns the statement that takes a failure back, and its wait if no failure was counted after it."""
    failures, until = table.c.failures, table.c.until
    is_newest = until - wait_after(failures, waits, max_failures) == milliseconds("now")
    before = sa.case((is_newest, milliseconds("now")), else_=until)
    # MySQL assigns in order, and `until` depends on the old value of `failures`. So `until` comes first.
    uncount = sa.update(table).ordered_values(("until", before), ("failures", failures - integer(ONE_FAILURE)))
    is_counted = sa.and_(failures >= integer(ONE_FAILURE), _recent(failures) > integer(0))
    return Statement(uncount.where(_by_key(table), is_counted), durable=False)


def move_block_statement(table: sa.Table, max_failures: int) -> Statement:
    """Returns the statement that moves `until` of a blocked counter, for exactly one of several concurrent attempts."""
    is_unchanged = sa.and_(table.c.until == milliseconds("old"), _is_blocked(table.c.failures, max_failures))
    return Statement(sa.update(table).values(until=milliseconds("new")).where(_by_key(table), is_unchanged))


def report_statement(table: sa.Table, max_failures: int) -> Statement:
    """Returns the statement that marks a blocked counter as reported, by one more failure. It affects a row once."""
    failures = table.c.failures
    is_new = sa.and_(_is_blocked(failures, max_failures), failures < integer((max_failures + 1) * CONSECUTIVE))
    return Statement(sa.update(table).values(failures=failures + integer(CONSECUTIVE)).where(_by_key(table), is_new))


def forgive_statement(table: sa.Table, max_failures: int) -> Statement:
    """Returns the statement that ends a block, and otherwise sets the number of consecutive failures to 0.

    The waits after recent failures stay.
    """
    failures, until = table.c.failures, table.c.until
    is_blocked = _is_blocked(failures, max_failures)
    update = sa.update(table).ordered_values(
        ("until", sa.case((is_blocked, integer(0)), else_=until)),
        ("failures", sa.case((is_blocked, integer(0)), else_=_recent(failures))),
    )
    return Statement(update.where(_by_key(table)))


def wait_after(failures: sa.ColumnElement[int], waits: Sequence[int], max_failures: int) -> sa.ColumnElement[int]:
    """Returns the SQL expression for `waits[recent failures]`: the wait in milliseconds; a year for a blocked counter."""
    return sa.case((_is_blocked(failures, max_failures), integer(YEAR)), else_=_wait(_recent(failures), waits))


def refund_statement(table: sa.Table, number: int, *, resets: bool = False) -> Statement:
    """Returns one statement that subtracts `step0`, `step1` … milliseconds from `until` of so many rows.

    With `resets` it also empties the counter of failures with the key `reset`.
    """
    key, until = table.c.key_hash, table.c.until
    rows: list[tuple[sa.ColumnElement[bool], sa.ColumnElement[int]]] = [
        (key == sa.bindparam(f"key{i}"), until - milliseconds(f"step{i}")) for i in range(number)
    ]
    values: dict[str, Any] = {}
    if resets:
        is_counter = key == sa.bindparam("reset")
        rows.append((is_counter, integer(0)))
        values["failures"] = sa.case((is_counter, integer(0)), else_=table.c.failures)
    values["until"] = sa.case(*rows, else_=until)
    return Statement(sa.update(table).where(sa.or_(*(by_key for by_key, _ in rows))).values(values), durable=False)


def is_without_effect(table: sa.Table, max_failures: int) -> sa.ColumnElement[bool]:
    """Returns the condition for rows that can be deleted: an over rate or block, or a year without an attempt."""
    failures, until = table.c.failures, table.c.until
    is_forgotten = until <= milliseconds("now") - integer(YEAR)
    is_over = sa.or_(failures == integer(0), _is_blocked(failures, max_failures), is_forgotten)
    return sa.and_(until <= milliseconds("now"), is_over)


def milliseconds(name: str) -> sa.BindParameter[int]:
    return sa.bindparam(name, type_=sa.BigInteger)


def integer(value: int) -> sa.ColumnElement[int]:
    return sa.literal_column(str(value), sa.Integer)


def _by_key(table: sa.Table) -> sa.ColumnElement[bool]:
    return table.c.key_hash == sa.bindparam("key")


def _wait(recent: sa.ColumnElement[int], waits: Sequence[int]) -> sa.ColumnElement[int]:
    steps = [number for number in range(1, len(waits)) if waits[number] > waits[number - 1]]
    return sa.case(
        *((recent < integer(number), integer(waits[number - 1])) for number in steps), else_=integer(waits[-1])
    )


def _recent(failures: sa.ColumnElement[int]) -> sa.ColumnElement[int]:
    return failures.bitwise_and(integer(RECENT))


def _is_blocked(failures: sa.ColumnElement[int], max_failures: int) -> sa.ColumnElement[bool]:
    return failures >= integer(max_failures * CONSECUTIVE)

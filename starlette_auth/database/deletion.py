"""Deleting many rows in small batches."""

import asyncio
import time
from collections.abc import Callable
from typing import Any

import sqlalchemy as sa

from .gateway import Gateway
from .statements import Statement

BATCH = 500  # rows


def delete_batch(
    table: sa.Table, is_old: sa.ColumnElement[bool], oldest_first: sa.Column[Any], *, dialect: str
) -> Statement:
    """Returns a statement that deletes up to `BATCH` old rows of a table. Use it with `delete_in_batches`."""
    key = next(iter(table.primary_key.columns))
    batch = sa.select(key.label("key")).where(is_old).order_by(oldest_first).limit(BATCH).subquery("batch")
    # With IN, MySQL scans the whole table and blocks other writers. SQLite supports only IN here.
    is_in_batch = key.in_(sa.select(batch.c.key)) if dialect == "sqlite" else key == batch.c.key
    # The condition is checked again: another transaction may have renewed a row while PostgreSQL waited for its lock.
    return Statement(sa.delete(table).where(is_in_batch, is_old))


async def delete_in_batches(
    gateway: Gateway, statement: Statement, progress: Callable[[int], None] | None = None, **values: Any
) -> int:
    """Repeats a statement of `delete_batch` until no old rows are left, and returns how many were deleted.

    Each batch is a separate transaction. After each batch, this task sleeps for as long as the batch took, so that other
    writers can continue. An interruption undoes at most one batch. `progress` is called with the total after each batch.
    """
    total = 0
    while True:
        started_at = time.perf_counter()
        deleted = await gateway.execute(statement, **values)
        total += deleted
        if progress is not None:
            progress(total)
        if deleted < BATCH:
            return total
        await asyncio.sleep(time.perf_counter() - started_at)

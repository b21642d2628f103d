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
    """Deletes so many of a table's old rows. To be repeated with `delete_in_batches`."""
    key = next(iter(table.primary_key.columns))
    batch = sa.select(key.label("key")).where(is_old).order_by(oldest_first).limit(BATCH).subquery("batch")
    # MySQL looks through the whole table for an IN here, and keeps everybody waiting; SQLite knows no other way.
    is_in_batch = key.in_(sa.select(batch.c.key)) if dialect == "sqlite" else key == batch.c.key
    # Once more `is_old`: while PostgreSQL waited for a row, somebody may have made it young.
    return Statement(sa.delete(table).where(is_in_batch, is_old))


async def delete_in_batches(
    gateway: Gateway, statement: Statement, progress: Callable[[int], None] | None = None, **values: Any
) -> int:
    """Repeats a statement of `old_rows` until nothing is left; gives the number of rows.

    Each batch is a transaction of its own, and as long as it took, others have their turn. What stops this between two
    batches, or within one, undoes at most that one.
    """
    total = 0
    while True:
        begun = time.perf_counter()
        deleted = await gateway.execute(statement, **values)
        total += deleted
        if progress is not None:
            progress(total)
        if deleted < BATCH:
            return total
        await asyncio.sleep(time.perf_counter() - begun)

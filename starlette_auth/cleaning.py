"""Deleting very many rows, without keeping anybody waiting."""

import asyncio
import random
import time
from collections.abc import Callable
from typing import Any

import sqlalchemy as sa

from .drivers import is_deadlock
from .gateway import Gateway
from .statements import Statement

BATCH = 500  # rows


def old_rows(table: sa.Table, is_old: sa.ColumnElement[bool], oldest_first: sa.Column[Any]) -> Statement:
    """Deletes so many of a table's old rows. To be repeated with `delete_in_batches`."""
    key = next(iter(table.primary_key.columns))
    # In a table of its own (a "derived" one): MySQL takes no LIMIT right below IN.
    batch = sa.select(key.label("key")).where(is_old).order_by(oldest_first).limit(BATCH).subquery("batch")
    return Statement(sa.delete(table).where(key.in_(sa.select(batch.c.key))))


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
        try:
            deleted = await gateway.execute(statement, **values)
        except Exception as error:
            if not is_deadlock(error):
                raise
            await asyncio.sleep(random.uniform(0.01, 0.1))  # noqa: S311  no secret
            continue
        total += deleted
        if progress is not None:
            progress(total)
        if deleted < BATCH:
            return total
        await asyncio.sleep(time.perf_counter() - begun)

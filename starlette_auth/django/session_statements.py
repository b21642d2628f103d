"""The SQL statements of the store for Django's sessions."""

from datetime import datetime
from typing import Any

import sqlalchemy as sa

from ..database.deletion import BATCH, delete_batch
from ..database.statements import Statement


class DjangoSessionStatements:
    """The SQL statements of DjangoStore."""

    def __init__(self, table: sa.Table, *, dialect: str) -> None:
        t = table
        columns = [t.c.session_key, t.c.session_data, t.c.expire_date]
        by_key = t.c.session_key == sa.bindparam("key")
        now: sa.BindParameter[datetime] = sa.bindparam("now", type_=t.c.expire_date.type)
        is_alive = t.c.expire_date > now
        self.load = Statement(sa.select(*columns).where(by_key, is_alive))
        self.lock = Statement(sa.select(*columns).where(by_key, is_alive).with_for_update())
        after = t.c.session_key > sa.bindparam("after")
        self.next_batch = Statement(sa.select(*columns).where(after, is_alive).order_by(t.c.session_key).limit(BATCH))
        self.any_batch = Statement(sa.select(t.c.session_key).where(after).order_by(t.c.session_key).limit(BATCH))
        new: dict[str, Any] = {column.name: sa.bindparam(f"new_{column.name}") for column in columns}
        is_unchanged = t.c.session_data == sa.bindparam("old")
        self.update = Statement(sa.update(t).values(new).where(by_key, is_alive, is_unchanged))
        self.overwrite = Statement(sa.update(t).values(new).where(by_key))
        self.delete = Statement(sa.delete(t).where(by_key))
        self.clear = delete_batch(t, t.c.expire_date <= now, t.c.expire_date, dialect=dialect)

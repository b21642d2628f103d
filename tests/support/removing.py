"""Removes passkeys of a user in a process of its own: `python -m tests.support.removing URL USER ID …`.

It waits for a line on standard input, so that several processes begin together, and prints how many it removed.
"""

import asyncio
import sys
from collections.abc import Sequence

import sqlalchemy as sa

from starlette_auth import Auth, Feature, Tables, User
from starlette_auth.core.exceptions import Refused
from starlette_auth.features.passkeys.store import PasskeyStore, passkey_table
from starlette_auth.pages.ways_in import remove_way_in

from .databases import connected, installed


class StoredPasskeys(Feature):
    """Passkeys in the database, each of which is a way to log in."""

    def tables(self, tables: Tables) -> Sequence[sa.Table]:
        self.table = passkey_table(tables)
        return (self.table,)

    def attach(self, auth: Auth) -> None:
        self.auth, self.store = auth, PasskeyStore(auth, self.table)

    async def ways_in(self, user: User) -> Sequence[str]:
        return ["passkey" for _ in await self.store.list_latest(user)]

    async def remove(self, user: User, passkey_id: int) -> bool:
        """Removes a passkey through `remove_way_in`. Returns False if it was the last way to log in."""
        try:
            return await remove_way_in(self.auth, user, lambda: self.store.delete(user, passkey_id))
        except Refused:
            return False

    async def remove_all(self, user: User, ids: Sequence[int]) -> int:
        """Removes passkeys at the same moment. Returns how many were removed."""
        return sum(await asyncio.gather(*(self.remove(user, passkey_id) for passkey_id in ids)))


async def main(url: str, user_id: str, ids: Sequence[int]) -> None:
    feature = StoredPasskeys()
    async with connected(url) as database, installed(database, features=[feature]) as auth:
        user = await auth.users.get(user_id)
        assert user is not None
        print("ready", flush=True)  # noqa: T201
        await asyncio.to_thread(sys.stdin.readline)
        print(await feature.remove_all(user, ids), flush=True)  # noqa: T201


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], [int(text) for text in sys.argv[3:]]))

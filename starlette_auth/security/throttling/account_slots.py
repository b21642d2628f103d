"""How many password checks of one account run at once?"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass

from ...core.exceptions import Throttled

MAX_WAITING = 100  # attempts of one account


@dataclass
class _Slots:
    semaphore: asyncio.Semaphore
    attempts: int = 0  # that hold a slot or wait for one


class AccountSlots:
    """Limits how many password checks of one account run at once in this process. Further checks wait for a free slot.

    A running check counts as a failure. Without the limit, a user who logs in ten times at once with the right
    password would be refused. An account could also fill the queue of the hasher.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self._slots: dict[tuple[asyncio.AbstractEventLoop, str], _Slots] = {}

    @contextlib.asynccontextmanager
    async def slot(self, key: str) -> AsyncIterator[None]:
        """Waits for a slot. Raises Throttled if too many attempts wait already."""
        loop_and_key = (asyncio.get_running_loop(), key)
        slots = self._slots.setdefault(loop_and_key, _Slots(asyncio.Semaphore(self.size)))
        if slots.attempts >= self.size + MAX_WAITING:
            raise Throttled(1)
        slots.attempts += 1
        try:
            async with slots.semaphore:
                yield
        finally:
            slots.attempts -= 1
            if not slots.attempts:
                del self._slots[loop_and_key]

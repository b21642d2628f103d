"""What both gateways need for a SQLite file: settings, the check of its folder, and the lock that serialises writes."""

import asyncio
import contextlib
from contextvars import ContextVar, Token
from pathlib import Path
from typing import Any

from ...core.exceptions import ImproperlyConfigured, StarletteAuthError, Unavailable

PRAGMAS = ("PRAGMA foreign_keys = ON", "PRAGMA journal_mode = WAL")
RELAXED_PRAGMAS = (*PRAGMAS, "PRAGMA synchronous = NORMAL")  # for changes that a power cut may undo
# The task that holds a write lock. The variable is also set in tasks that the holder starts during its transaction.
_transaction_of: ContextVar[asyncio.Task[Any] | None] = ContextVar("transaction_of", default=None)


async def require_folder(file: str) -> None:
    """Raises MissingFolder if the folder of a file is missing. The error of SQLite does not name the file."""
    folder = Path(file).parent
    if not await asyncio.to_thread(folder.is_dir):
        raise MissingFolder(f"The folder {folder} of the database file does not exist. Create it, or use another path.")


class MissingFolder(ImproperlyConfigured, Unavailable):
    """The folder of the SQLite file is missing: a wrong path, or a disk that is not mounted."""


class WriteLockTimeout(StarletteAuthError, TimeoutError):
    """A task waited too long for a write lock that the task which started it holds.

    This is a mistake of the application: the holder waits for a task that waits for the lock.
    """


class WriteLock:
    """A reentrant lock for tasks: the task that holds it may acquire it again."""

    timeout = 30.0  # seconds

    def __init__(self) -> None:
        self._lock = asyncio.Lock()
        self._owner: asyncio.Task[Any] | None = None
        self._depth = 0
        self._waiting = 0
        self._tokens: list[Token[asyncio.Task[Any] | None]] = []

    async def acquire(self) -> None:
        task = asyncio.current_task()
        if self._owner is not None and self._owner is task:
            self._depth += 1
            return
        if self._waiting or self._lock.locked():
            await self._wait()
        else:
            await self._lock.acquire()
        self._owner, self._depth = task, 1

    def release(self) -> None:
        self._depth -= 1
        if self._depth == 0:
            self._owner = None
            self._lock.release()

    async def __aenter__(self) -> None:
        await self.acquire()
        self._tokens.append(_transaction_of.set(self._owner))

    async def __aexit__(self, *exc: object) -> None:
        with contextlib.suppress(ValueError):  # the block was left in another context, as by a fixture
            _transaction_of.reset(self._tokens.pop())
        self.release()

    async def _wait(self) -> None:
        self._waiting += 1
        try:
            async with asyncio.timeout(self.timeout):
                await self._lock.acquire()
        except TimeoutError:
            problem = f"The write lock has been held by another task for {self.timeout:g} seconds."
            if self._owner is not None and _transaction_of.get() is self._owner:
                raise WriteLockTimeout(
                    f"{problem} That task started this one and must not wait for it inside atomic(). Write in that task."
                ) from None
            raise Unavailable(
                f"{problem} Check that no other process locks the database, and that no task waits inside atomic()."
            ) from None
        finally:
            self._waiting -= 1

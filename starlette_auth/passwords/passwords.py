"""Where is a password compared? Hashing and checking in a thread pool."""

import asyncio
import logging
import os
import re
import secrets
import sys
import threading
import time
import unicodedata
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, TypeVar

from ..core.exceptions import HashingBusy
from ..core.text import has_lone_surrogate
from .hashers import GET_BCRYPT, PasswordHasher, default_hashers, has_bcrypt

logger = logging.getLogger("starlette_auth")
MAX_PASSWORD_LENGTH = 1024
UNUSABLE = "!"
TIMING_MARGIN = 1.25
MAX_KINDS = 50
COST = re.compile(r"[\d,=mtpv]{1,30}")
T = TypeVar("T")


class Verification(NamedTuple):
    """What came of checking a password: whether it is right, and whether its hash should be made anew."""

    matches: bool
    must_update: bool


class Passwords:
    """Hashes and checks passwords in threads of its own, at low priority, with a bounded queue.

    The first hasher makes new hashes; all of them are read. `upgrade=False` leaves hashes of another kind as they are:
    a new one ends the user's other sessions, and Django, where it reads the same table, may want the old kind.

    `threads` is how many work at once (one for each core); when `queue` attempts wait (32 for each thread: a few seconds'
    work), the next raises `HashingBusy`, which answers 503 with `Retry-After`.
    """

    def __init__(
        self,
        hashers: Sequence[PasswordHasher] = (),
        *,
        upgrade: bool = True,
        threads: int | None = None,
        max_waiting: int | None = None,
    ) -> None:
        self.upgrade = upgrade
        self.hashers = {hasher.algorithm: hasher for hasher in hashers or default_hashers()}
        self.preferred = next(iter(self.hashers.values()))
        self.threads = threads or os.cpu_count() or 1
        waiting_slots = 32 * self.threads if max_waiting is None else max_waiting
        self._durations: dict[str, float] = {}  # seconds that each kind of hash takes, of late
        self._slots = threading.BoundedSemaphore(self.threads + waiting_slots)
        self._pool: ThreadPoolExecutor | None = None

    async def hash(self, password: str | None) -> str:
        """The encoded hash; for None one that no password matches. ValueError above 1,024 characters."""
        if password is None:
            return UNUSABLE + secrets.token_urlsafe(30)
        if not is_hashable(password):
            raise ValueError(f"A password is text of at most {MAX_PASSWORD_LENGTH} characters. Choose another one.")
        return await self._run_in_pool(lambda: self.preferred.encode(unicodedata.normalize("NFC", password)))

    async def check(self, encoded: str | None, password: str) -> Verification:
        """Takes as long for no user (None), an unusable or an unreadable hash as for a wrong password."""
        encoded = encoded or UNUSABLE
        hasher = self._hasher_of(encoded)
        if not is_hashable(password):
            hasher, password = None, ""
        begun = time.perf_counter()
        verification = await self._run_in_pool(lambda: self._check(hasher, encoded, password))
        if not verification.matches and len(self._durations) > 1:
            # An account whose hash is of another kind would stand out among those that do not exist.
            await asyncio.sleep(begun + max(self._durations.values()) * TIMING_MARGIN - time.perf_counter())
        return verification

    def is_encoded(self, text: str) -> bool:
        """Whether this is a hash that one of the hashers reads, or an unusable one, and not a password."""
        return not is_usable(text) or ("$" in text and _algorithm(text) in self.hashers)

    def close(self) -> None:
        """Ends the threads; they start again when the next password comes."""
        if self._pool is not None:
            self._pool.shutdown(wait=False)
            self._pool = None

    def _hasher_of(self, encoded: str) -> PasswordHasher | None:
        if not is_usable(encoded):
            return None
        hasher = self.hashers.get(_algorithm(encoded))
        if hasher is None and _algorithm(encoded) in ("bcrypt", "bcrypt_sha256") and not has_bcrypt():
            logger.error("A password hash needs bcrypt, which is missing. %s", GET_BCRYPT)
        elif hasher is None:
            logger.error("A password hash is in no known format. Add its hasher to Passwords([…]), or set a new one.")
        return hasher

    def _check(self, hasher: PasswordHasher | None, encoded: str, password: str) -> Verification:
        # A Django that hashed a decomposed spelling did not normalise it; ours are composed.
        spellings = dict.fromkeys((unicodedata.normalize("NFC", password), password))
        if hasher is not None:
            try:
                begun = time.perf_counter()
                matches = any([hasher.verify(spelling, encoded) for spelling in spellings])  # noqa: C419  the same work for all
                self._record_duration(encoded, time.perf_counter() - begun)
                is_old = hasher is not self.preferred or hasher.must_update(encoded)
                return Verification(matches, matches and is_old and self.upgrade)
            except (ValueError, LookupError, ArithmeticError, MemoryError):
                logger.error("A stored %s hash is damaged: nobody can log in with it.", hasher.algorithm)
        # Whoever asks about a name that does not exist waits for a hash, like everybody: names cannot be probed.
        begun = time.perf_counter()
        made = [self.preferred.encode(spelling) for spelling in spellings]
        self._record_duration(made[0], time.perf_counter() - begun)
        return Verification(matches=False, must_update=False)

    def _record_duration(self, encoded: str, took: float) -> None:
        kind = _kind(encoded)
        if kind in self._durations or len(self._durations) < MAX_KINDS:
            self._durations[kind] = 0.9 * self._durations.get(kind, took) + 0.1 * took

    async def _run_in_pool(self, task: Callable[[], T]) -> T:
        if not self._slots.acquire(blocking=False):
            raise HashingBusy
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self.threads, "starlette_auth.passwords", initializer=_lower_priority)
        job = self._pool.submit(task)
        # Not when the request ends: one that was given up still occupies its thread.
        job.add_done_callback(lambda _: self._slots.release())
        return await asyncio.wrap_future(job)


def is_usable(encoded: str) -> bool:
    """Returns whether a password can match this hash. Users without a password have one that none matches."""
    return not encoded.startswith(UNUSABLE)


def is_hashable(password: str) -> bool:
    """Whether a password is short enough, and text: half a surrogate pair has no bytes to hash."""
    return len(password) <= MAX_PASSWORD_LENGTH and not has_lone_surrogate(password)


def _lower_priority() -> None:
    """On Linux priorities belong to threads, so hashing gives way to the event loop; elsewhere to whole processes."""
    if sys.platform == "linux":
        os.nice(10)


def _kind(encoded: str) -> str:
    """The algorithm and its cost: what says how long a hash takes."""
    return "$".join([_algorithm(encoded), *(part for part in encoded.split("$")[1:] if COST.fullmatch(part))])


def _algorithm(encoded: str) -> str:
    return encoded.split("$", 1)[0]

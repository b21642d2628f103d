"""Where is a password compared? Hashing and checking in a thread pool."""

import asyncio
import logging
import os
import re
import secrets
import sys
import time
import unicodedata
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple, TypeVar

from ..core.arguments import as_list, require_bool, require_integer, require_methods
from ..core.text import UNUSABLE, has_lone_surrogate, is_usable, require_text
from .hash_format import HashTooExpensive, PasswordHasher, with_algorithm
from .hashers import Argon2PasswordHasher, PBKDF2PasswordHasher, PBKDF2SHA1PasswordHasher, ScryptPasswordHasher
from .hashing_queue import HashingQueue, hashing_for
from .older_hashers import (
    GET_BCRYPT,
    BCryptPasswordHasher,
    BCryptSHA256PasswordHasher,
    MD5PasswordHasher,
    has_bcrypt,
)

logger = logging.getLogger("starlette_auth")
MAX_PASSWORD_LENGTH = 1024
HASHERS = "Pass objects, as in Passwords([Argon2PasswordHasher(), PBKDF2PasswordHasher()])."
TIMING_MARGIN = 1.25
MAX_DELAY = 2.0  # seconds
MAX_KINDS = 50
COST = re.compile(r"[\d,=mtpv]{1,30}")
T = TypeVar("T")
#: Classes that read a hash by its parameters only. One object of a class reads hashes of all objects of it.
BUILT_IN: tuple[type, ...] = (
    Argon2PasswordHasher,
    PBKDF2PasswordHasher,
    PBKDF2SHA1PasswordHasher,
    ScryptPasswordHasher,
    BCryptSHA256PasswordHasher,
    BCryptPasswordHasher,
    MD5PasswordHasher,
)


class Verification(NamedTuple):
    """Holds the result of a password check: `must_update` asks for a new hash."""

    matches: bool
    must_update: bool


class Passwords:
    """Hashes and checks passwords in a thread pool with low priority and a bounded queue.

    The first hasher makes new hashes. All hashers verify existing ones; several may have one algorithm, such as an old
    and a new pepper. A weak hash, or one of another hasher, is replaced at the next login. `upgrade=False` turns that
    off: a new hash ends the user's other sessions, and a Django site on the same table may need the old algorithm.

    `threads` is the size of the pool (default: one per CPU core). `max_waiting` is the length of the queue (default: 32
    per thread, a few seconds of work). When the queue is full, `hash` and `check` raise `HashingBusy`, which becomes a
    503 response with `Retry-After`. The clients of `for_client` take turns, each with a separate queue, and one uses
    at most half of the threads.
    """

    def __init__(
        self,
        hashers: Sequence[PasswordHasher] = (),
        *,
        upgrade: bool = True,
        threads: int | None = None,
        max_waiting: int | None = None,
    ) -> None:
        require_bool(upgrade, "upgrade")
        for name, number in {"threads": threads, "max_waiting": max_waiting}.items():
            if number is not None:
                require_integer(number, name, minimum=0 if name == "max_waiting" else 1)
        hashers = as_list(hashers, "hashers", HASHERS)
        for hasher in hashers:
            require_methods(hasher, ("encode", "verify", "must_update"), "An item of hashers", HASHERS)
        self.upgrade = upgrade
        self.hashers: dict[str, PasswordHasher] = {}  # the first hasher of each algorithm
        self._further_hashers: dict[str, list[PasswordHasher]] = {}  # the others, by algorithm
        for hasher in hashers or default_hashers():
            if self.hashers.setdefault(hasher.algorithm, hasher) is not hasher:
                self._further_hashers.setdefault(hasher.algorithm, []).append(hasher)
        self.preferred = next(iter(self.hashers.values()))
        self.threads = threads or os.cpu_count() or 1
        waiting_slots = 32 * self.threads if max_waiting is None else max_waiting
        self._durations: dict[str, float] = {}  # kind of hash: moving average of its seconds
        self._queue = HashingQueue(self.threads, self.threads + waiting_slots, initializer=_lower_priority)

    async def hash(self, password: str | None) -> str:
        """Returns the encoded hash of a password; for None, a hash that no password matches.

        Raises TypeError for other types than str, ValueError above 1,024 characters or for a character that cannot be
        entered (a null character, a lone surrogate), and HashingBusy if the queue is full.
        """
        if password is None:
            return UNUSABLE + secrets.token_urlsafe(30)
        require_text(password, "password")
        if not is_hashable(password) or "\x00" in password:  # the login form accepts no null character
            raise ValueError(f"A password is text of at most {MAX_PASSWORD_LENGTH} characters. Choose another one.")
        return await self._run_in_pool(lambda: self.preferred.encode(unicodedata.normalize("NFC", password)))

    async def check(self, encoded: str | None, password: str | None) -> Verification:
        """Returns whether `password` matches the hash `encoded`, and whether to hash it again.

        A value that is not text, such as JSON's null, matches no hash.

        An attacker measures response times, which would reveal whether an account exists. Therefore the check takes as
        long for an unknown user (None) and for an unusable or unreadable hash as for a wrong password.

        Raises HashingBusy if the queue is full.
        """
        stored = encoded or UNUSABLE
        encoded = with_algorithm(stored)
        hashers = self._hashers_of(encoded)
        if password is None or not is_hashable(password):
            hashers, password = [], ""
        started_at = time.perf_counter()
        verification = await self._run_in_pool(lambda: self._check(hashers, encoded, password))
        if not verification.matches and len(self._durations) > 1:
            # Hashers differ in speed, so an attacker could tell an account with another kind of hash from an unknown
            # account. Therefore each failed check takes as long as the slowest kind. But a single row with a very slow
            # hash would then delay the failed checks of all users. Therefore the delay has a bound.
            delay = min(max(self._durations.values()) * TIMING_MARGIN, MAX_DELAY)
            await asyncio.sleep(started_at + delay - time.perf_counter())
        if verification.matches and encoded != stored:  # a Django site on the same table could not read it
            return Verification(matches=True, must_update=self.upgrade)
        return verification

    def is_encoded(self, text: str) -> bool:
        """Returns whether `text` is a hash: one that a hasher reads, or an unusable one."""
        text = with_algorithm(text)
        return not is_usable(text) or ("$" in text and _algorithm(text) in self.hashers)

    def safe_summary(self, encoded: str) -> dict[str, Any]:
        """Returns the algorithm and cost of a hash, for staff, with the salt and hash masked.

        It is empty for an unusable, unknown or damaged hash.
        """
        encoded = with_algorithm(encoded)
        hasher = self.hashers.get(_algorithm(encoded)) if is_usable(encoded) else None
        if hasher is None:
            return {}
        summary: Callable[[str], dict[str, Any]] | None = getattr(hasher, "safe_summary", None)
        try:
            return {"algorithm": hasher.algorithm} if summary is None else summary(encoded)
        except (ValueError, LookupError):
            return {}

    def close(self) -> None:
        """Shuts the thread pool down. The next password starts a new one."""
        self._queue.close()

    def for_client(self, client: str) -> AbstractContextManager[None]:
        """Returns a context manager in which hashes count as work for this client, such as an IP address."""
        return hashing_for(client)

    @property
    def usual_duration(self) -> float:
        """Returns how many seconds the check of a wrong password takes at present, without the wait for a thread."""
        return min(max(self._durations.values(), default=0.0), MAX_DELAY)

    def _hashers_of(self, encoded: str) -> list[PasswordHasher]:
        """Returns the hashers of the algorithm of a hash, the first one first."""
        if not is_usable(encoded):
            return []
        algorithm = _algorithm(encoded)
        hasher = self.hashers.get(algorithm)
        if hasher is not None:
            return [hasher, *self._further_hashers.get(algorithm, ())]
        if algorithm in ("bcrypt", "bcrypt_sha256") and not has_bcrypt():
            logger.error("A password hash needs bcrypt, which is missing. %s", GET_BCRYPT)
        else:
            logger.error(
                "A password hash has an unknown format. Add its hasher to Passwords([…]), or set a new password."
            )
        return []

    def _check(self, hashers: Sequence[PasswordHasher], encoded: str, password: str) -> Verification:
        # `hash` normalizes to NFC. Django does not, so its hashes may be of the text as it was typed: both are tried.
        spellings = list(dict.fromkeys((unicodedata.normalize("NFC", password), password)))
        started_at = time.perf_counter()
        error: Exception | None = None
        tried: list[PasswordHasher] = []
        for hasher in hashers:
            if not _is_redundant(hasher, tried):
                try:
                    if any([hasher.verify(spelling, encoded) for spelling in spellings]):  # noqa: C419  constant work
                        must_update = hasher is not self.preferred or hasher.must_update(encoded)
                        if len(hashers) == 1:  # otherwise later hashers were not tried
                            self._record_duration(encoded, time.perf_counter() - started_at)
                        return Verification(matches=True, must_update=must_update and self.upgrade)
                    tried.append(hasher)
                except (ValueError, LookupError, ArithmeticError, MemoryError) as exception:
                    # If any hasher finds it too expensive, the hash is not damaged.
                    error = error if isinstance(error, HashTooExpensive) else exception
        if tried:
            self._record_duration(encoded, time.perf_counter() - started_at)
        else:
            self._log_unreadable(hashers, error)
            self._hash_for_unknown_user(spellings)
        return Verification(matches=False, must_update=False)

    def _hash_for_unknown_user(self, spellings: Sequence[str]) -> None:
        """Does the work of a failed check.

        An attacker could find usernames by fast responses for unknown users. Therefore a hash is made for them, too.
        """
        tried: list[PasswordHasher] = []
        started_at = time.perf_counter()
        hashes: list[str] = []
        for hasher in (self.preferred, *self._further_hashers.get(self.preferred.algorithm, ())):
            if not _is_redundant(hasher, tried):
                tried.append(hasher)
                hashes = [self.preferred.encode(spelling) for spelling in spellings]
        self._record_duration(hashes[0], time.perf_counter() - started_at)

    @staticmethod
    def _log_unreadable(hashers: Sequence[PasswordHasher], error: Exception | None) -> None:
        if isinstance(error, HashTooExpensive):
            logger.error("%s", error)
        elif error is not None:
            logger.error(
                "A stored %s hash is damaged, and its user cannot log in. Set a new password.", hashers[0].algorithm
            )

    def _record_duration(self, encoded: str, seconds: float) -> None:
        kind = _kind(encoded)
        if kind in self._durations or len(self._durations) < MAX_KINDS:
            self._durations[kind] = 0.9 * self._durations.get(kind, seconds) + 0.1 * seconds

    async def _run_in_pool(self, task: Callable[[], T]) -> T:
        return await asyncio.wrap_future(self._queue.submit(task))


def is_hashable(password: object) -> bool:
    """Returns whether a password is text of at most 1,024 characters without a lone surrogate."""
    return isinstance(password, str) and len(password) <= MAX_PASSWORD_LENGTH and not has_lone_surrogate(password)


def _lower_priority() -> None:
    """Lowers the priority of the current thread, so that the event loop runs before hashing.

    Linux has a priority per thread. Elsewhere the priority of the whole process would change, so it is left alone.
    """
    if sys.platform == "linux":
        os.nice(10)


def _is_redundant(hasher: PasswordHasher, tried: Sequence[PasswordHasher]) -> bool:
    """Returns whether a hasher of the same class, which reads hashes in the same way, was tried already."""
    return type(hasher) in BUILT_IN and any(type(other) is type(hasher) for other in tried)


def _kind(encoded: str) -> str:
    """Returns the algorithm and the work factor of a hash. They decide how long hashing takes."""
    return "$".join([_algorithm(encoded), *(part for part in encoded.split("$")[1:] if COST.fullmatch(part))])


def _algorithm(encoded: str) -> str:
    return encoded.split("$", 1)[0]


def default_hashers() -> list[PasswordHasher]:
    """Returns Django's hashers, with Argon2id first. The bcrypt hashers are included if bcrypt is installed."""
    hashers: list[PasswordHasher] = [
        Argon2PasswordHasher(),
        PBKDF2PasswordHasher(),
        PBKDF2SHA1PasswordHasher(),
        ScryptPasswordHasher(),
    ]
    if has_bcrypt():
        hashers += [BCryptSHA256PasswordHasher(), BCryptPasswordHasher()]
    return hashers

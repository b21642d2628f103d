"""Turning passwords into hashes that Django reads, and checking them off the event loop."""

import asyncio
import base64
import hashlib
import hmac
import importlib.util
import logging
import os
import secrets
import string
import sys
import threading
import unicodedata
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, Protocol, TypeVar

import argon2

from .exceptions import HashingBusy, ImproperlyConfigured

if importlib.util.find_spec("bcrypt") is not None:
    import bcrypt

logger = logging.getLogger("starlette_auth")

MAX_PASSWORD_LENGTH = 1024
UNUSABLE = "!"
GET_BCRYPT = "Run `pip install starlette-contrib-auth[django]`."
T = TypeVar("T")


class PasswordHasher(Protocol):
    """One way of hashing, in Django's encodings: `algorithm$parameters$salt$hash`."""

    algorithm: str

    def encode(self, password: str) -> str:
        """A new hash with a fresh salt."""
        ...

    def verify(self, password: str, encoded: str) -> bool:
        """Whether `encoded`, whose parameters may differ from ours, was made of `password`.

        ValueError, or one of its like, when it cannot be read.
        """
        ...

    def must_update(self, encoded: str) -> bool:
        """Whether `encoded` is weaker than what `encode` would make."""
        ...


def new_salt() -> str:
    """22 characters, 131 bits: as Django's, because its columns are measured for them."""
    return "".join(secrets.choice(string.ascii_letters + string.digits) for _ in range(22))


class Argon2PasswordHasher:
    """Argon2id (RFC 9106) with 64 MiB, three passes, four lanes, in Django's encoding."""

    algorithm = "argon2"

    def __init__(self, *, time_cost: int = 3, memory_cost: int = 64 * 1024, parallelism: int = 4) -> None:
        """`memory_cost` is in KiB."""
        self.hasher = argon2.PasswordHasher(
            time_cost=time_cost, memory_cost=memory_cost, parallelism=parallelism, hash_len=32, salt_len=16
        )

    def encode(self, password: str) -> str:
        return self.algorithm + self.hasher.hash(password)

    def verify(self, password: str, encoded: str) -> bool:
        try:
            return self.hasher.verify("$" + encoded.split("$", 1)[1], password)
        except argon2.exceptions.VerifyMismatchError:
            return False
        except argon2.exceptions.VerificationError as error:
            raise ValueError(str(error)) from error

    def must_update(self, encoded: str) -> bool:
        ours, theirs = self.hasher, argon2.extract_parameters("$" + encoded.split("$", 1)[1])
        return (
            theirs.type is not argon2.Type.ID
            or theirs.memory_cost < ours.memory_cost
            or theirs.time_cost * theirs.memory_cost < ours.time_cost * ours.memory_cost
        )


class PBKDF2PasswordHasher:
    """PBKDF2 with HMAC-SHA256; 1,000,000 iterations as Django 5.2."""

    algorithm = "pbkdf2_sha256"
    digest = "sha256"

    def __init__(self, *, iterations: int = 1_000_000) -> None:
        self.iterations = iterations

    def encode(self, password: str) -> str:
        return self._encode(password, new_salt(), self.iterations)

    def verify(self, password: str, encoded: str) -> bool:
        _, iterations, salt, _ = encoded.split("$", 3)
        return hmac.compare_digest(self._encode(password, salt, int(iterations)).encode(), encoded.encode())

    def must_update(self, encoded: str) -> bool:
        return int(encoded.split("$")[1]) < self.iterations

    def _encode(self, password: str, salt: str, iterations: int) -> str:
        raw = hashlib.pbkdf2_hmac(self.digest, password.encode(), salt.encode(), iterations)
        return f"{self.algorithm}${iterations}${salt}${base64.b64encode(raw).decode()}"


class PBKDF2SHA1PasswordHasher(PBKDF2PasswordHasher):
    """PBKDF2 with HMAC-SHA1, for old Django databases."""

    algorithm = "pbkdf2_sha1"
    digest = "sha1"


class ScryptPasswordHasher:
    """scrypt (RFC 7914) with Django 5.2's parameters: N=2¹⁴, r=8, p=5."""

    algorithm = "scrypt"

    def __init__(self, *, work_factor: int = 2**14, block_size: int = 8, parallelism: int = 5) -> None:
        self.parameters = (work_factor, block_size, parallelism)

    def encode(self, password: str) -> str:
        return self._encode(password, new_salt(), *self.parameters)

    def verify(self, password: str, encoded: str) -> bool:
        _, n, salt, r, p, _ = encoded.split("$", 5)
        return hmac.compare_digest(self._encode(password, salt, int(n), int(r), int(p)).encode(), encoded.encode())

    def must_update(self, encoded: str) -> bool:
        _, n, _, r, p, _ = encoded.split("$", 5)
        return int(n) * int(r) * int(p) < self.parameters[0] * self.parameters[1] * self.parameters[2]

    def _encode(self, password: str, salt: str, n: int, r: int, p: int) -> str:
        room = 128 * r * (n + p) * 2  # what OpenSSL may use, in bytes: its own default refuses Django's parameters
        raw = hashlib.scrypt(password.encode(), salt=salt.encode(), n=n, r=r, p=p, maxmem=room, dklen=64)
        return f"{self.algorithm}${n}${salt}${r}${p}${base64.b64encode(raw).decode()}"


class BCryptSHA256PasswordHasher:
    """bcrypt over the SHA-256 of the password, for old Django databases. Needs the extra `django`."""

    algorithm = "bcrypt_sha256"

    def __init__(self, *, rounds: int = 12) -> None:
        if not _has_bcrypt():
            raise ImproperlyConfigured(f"bcrypt is missing. {GET_BCRYPT}")
        self.rounds = rounds

    def encode(self, password: str) -> str:
        return f"{self.algorithm}${bcrypt.hashpw(self._input(password), bcrypt.gensalt(self.rounds)).decode()}"

    def verify(self, password: str, encoded: str) -> bool:
        stored = encoded.split("$", 1)[1].encode()
        return hmac.compare_digest(bcrypt.hashpw(self._input(password), stored), stored)

    def must_update(self, encoded: str) -> bool:
        return int(encoded.split("$")[3]) < self.rounds

    def _input(self, password: str) -> bytes:
        return hashlib.sha256(password.encode()).hexdigest().encode()


class BCryptPasswordHasher(BCryptSHA256PasswordHasher):
    """Plain bcrypt, which looks at the first 72 bytes only: for old Django databases. Needs the extra `django`."""

    algorithm = "bcrypt"

    def _input(self, password: str) -> bytes:
        # bcrypt 5 raises for longer input where older ones cut it; a login must not fail for that.
        return password.encode()[:72]


class MD5PasswordHasher:
    """Salted MD5, as ancient Django databases hold. Not in the default list: name it to read them once more."""

    algorithm = "md5"

    def encode(self, password: str) -> str:
        return self._encode(password, new_salt())

    def verify(self, password: str, encoded: str) -> bool:
        return hmac.compare_digest(self._encode(password, encoded.split("$")[1]).encode(), encoded.encode())

    def must_update(self, encoded: str) -> bool:
        return False

    def _encode(self, password: str, salt: str) -> str:
        return f"md5${salt}${hashlib.md5((salt + password).encode(), usedforsecurity=False).hexdigest()}"


def default_hashers() -> list[PasswordHasher]:
    """Django's list, Argon2id first; bcrypt where it is installed."""
    hashers: list[PasswordHasher] = [
        Argon2PasswordHasher(),
        PBKDF2PasswordHasher(),
        PBKDF2SHA1PasswordHasher(),
        ScryptPasswordHasher(),
    ]
    if _has_bcrypt():
        hashers += [BCryptSHA256PasswordHasher(), BCryptPasswordHasher()]
    return hashers


class Verification(NamedTuple):
    """What came of checking a password: whether it is right, and whether its hash should be made anew."""

    matches: bool
    must_update: bool


class Passwords:
    """Hashes and checks passwords in threads of its own, at low priority, with a bounded queue.

    The first hasher makes new hashes; all of them are read. `threads` is how many work at once (one for each core);
    when `queue` attempts wait (32 for each thread: a few seconds' work), the next raises `HashingBusy`, which answers
    503 with `Retry-After`.
    """

    def __init__(
        self, hashers: Sequence[PasswordHasher] = (), *, threads: int | None = None, queue: int | None = None
    ) -> None:
        self.hashers = {hasher.algorithm: hasher for hasher in hashers or default_hashers()}
        self.preferred = next(iter(self.hashers.values()))
        self.threads = threads or os.cpu_count() or 1
        waiting = 32 * self.threads if queue is None else queue
        self._room = threading.BoundedSemaphore(self.threads + waiting)
        self._pool: ThreadPoolExecutor | None = None

    async def hash(self, password: str | None) -> str:
        """The encoded hash; for None one that no password matches. ValueError above 1,024 characters."""
        if password is None:
            return UNUSABLE + secrets.token_urlsafe(30)
        if not is_hashable(password):
            raise ValueError(f"A password is text of at most {MAX_PASSWORD_LENGTH} characters. Choose another one.")
        return await self._work(lambda: self.preferred.encode(unicodedata.normalize("NFC", password)))

    async def check(self, encoded: str | None, password: str) -> Verification:
        """Takes as long for no user (None), an unusable or an unreadable hash as for a wrong password."""
        encoded = encoded or UNUSABLE
        hasher = self._hasher_of(encoded)
        if not is_hashable(password):
            hasher, password = None, ""
        return await self._work(lambda: self._check(hasher, encoded, password))

    def is_encoded(self, text: str) -> bool:
        """Whether this is a hash that one of the hashers reads, or an unusable one, and not a password."""
        return text.startswith(UNUSABLE) or ("$" in text and _algorithm(text) in self.hashers)

    def close(self) -> None:
        """Ends the threads; they start again when the next password comes."""
        if self._pool is not None:
            self._pool.shutdown(wait=False)
            self._pool = None

    def _hasher_of(self, encoded: str) -> PasswordHasher | None:
        if encoded.startswith(UNUSABLE):
            return None
        hasher = self.hashers.get(_algorithm(encoded))
        if hasher is None and _algorithm(encoded) in ("bcrypt", "bcrypt_sha256") and not _has_bcrypt():
            logger.error("A password hash needs bcrypt, which is missing. %s", GET_BCRYPT)
        elif hasher is None:
            logger.error("A password hash is in no known format. Add its hasher to Passwords([…]), or set a new one.")
        return hasher

    def _check(self, hasher: PasswordHasher | None, encoded: str, password: str) -> Verification:
        # A Django that hashed a decomposed spelling did not normalise it; ours are composed.
        spellings = dict.fromkeys((unicodedata.normalize("NFC", password), password))
        if hasher is not None:
            try:
                matches = any([hasher.verify(spelling, encoded) for spelling in spellings])  # noqa: C419  the same work for all
                return Verification(matches, matches and (hasher is not self.preferred or hasher.must_update(encoded)))
            except (ValueError, LookupError, ArithmeticError, MemoryError):
                logger.error("A stored %s hash is damaged: nobody can log in with it.", hasher.algorithm)
        # Whoever asks about a name that does not exist waits for a hash, like everybody: names cannot be probed.
        for spelling in spellings:
            self.preferred.encode(spelling)
        return Verification(matches=False, must_update=False)

    async def _work(self, task: Callable[[], T]) -> T:
        if not self._room.acquire(blocking=False):
            raise HashingBusy
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self.threads, "starlette_auth.passwords", initializer=_lower_priority)
        job = self._pool.submit(task)
        # Not when the request ends: one that was given up still occupies its thread.
        job.add_done_callback(lambda _: self._room.release())
        return await asyncio.wrap_future(job)


def is_hashable(password: str) -> bool:
    """Whether a password is short enough, and text: half a surrogate pair has no bytes to hash."""
    return len(password) <= MAX_PASSWORD_LENGTH and not any("\ud800" <= mark <= "\udfff" for mark in password)


def _lower_priority() -> None:
    """On Linux priorities belong to threads, so hashing gives way to the event loop; elsewhere to whole processes."""
    if sys.platform == "linux":
        os.nice(10)


def _algorithm(encoded: str) -> str:
    return encoded.split("$", 1)[0]


def _has_bcrypt() -> bool:
    return importlib.util.find_spec("bcrypt") is not None

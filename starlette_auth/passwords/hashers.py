"""Password hashers, in encodings that Django reads."""

import base64
import hashlib
import hmac
import importlib.util
import secrets
import string
from typing import Any, Protocol

import argon2

from ..core.exceptions import ImproperlyConfigured

GET_BCRYPT = "Run `pip install starlette-contrib-auth[django]`."


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
    """Argon2id (RFC 9106) with 64 MiB, three passes, four lanes, in Django's encoding and with a salt of Django's form."""

    algorithm = "argon2"

    def __init__(self, *, time_cost: int = 3, memory_cost: int = 64 * 1024, parallelism: int = 4) -> None:
        """`memory_cost` is in KiB."""
        self.hasher = argon2.PasswordHasher(
            time_cost=time_cost, memory_cost=memory_cost, parallelism=parallelism, hash_len=32
        )

    def encode(self, password: str) -> str:
        # Django makes a hash anew whose salt is not 22 letters and digits.
        return self.algorithm + self.hasher.hash(password, salt=new_salt().encode())

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
        if not has_bcrypt():
            raise ImproperlyConfigured(f"bcrypt is missing. {GET_BCRYPT}")
        self.rounds = rounds
        self._bcrypt: Any = importlib.import_module("bcrypt")

    def encode(self, password: str) -> str:
        made: bytes = self._bcrypt.hashpw(self._input(password), self._bcrypt.gensalt(self.rounds))
        return f"{self.algorithm}${made.decode()}"

    def verify(self, password: str, encoded: str) -> bool:
        stored = encoded.split("$", 1)[1].encode()
        return hmac.compare_digest(self._bcrypt.hashpw(self._input(password), stored), stored)

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
    if has_bcrypt():
        hashers += [BCryptSHA256PasswordHasher(), BCryptPasswordHasher()]
    return hashers


def has_bcrypt() -> bool:
    return importlib.util.find_spec("bcrypt") is not None

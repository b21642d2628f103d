"""Password hashers that read and write Django's encodings."""

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
    """Hashes passwords with one algorithm, in Django's encoding `algorithm$parameters$salt$hash`."""

    algorithm: str

    def encode(self, password: str) -> str:
        """Returns the encoded hash of `password`, with a new random salt."""
        ...

    def verify(self, password: str, encoded: str) -> bool:
        """Returns whether `encoded` is a hash of `password`. Its parameters may differ from this hasher's.

        Raises ValueError, LookupError, ArithmeticError or MemoryError if `encoded` is malformed.
        """
        ...

    def must_update(self, encoded: str) -> bool:
        """Returns whether `encoded` is weaker than a hash that `encode` would make now."""
        ...


def new_salt() -> str:
    """Returns a random salt of Django's form: 22 letters and digits (131 bits). It fits Django's column."""
    return "".join(secrets.choice(string.ascii_letters + string.digits) for _ in range(22))


class Argon2PasswordHasher:
    """Hashes with Argon2id (RFC 9106): 64 MiB of memory, 3 passes, 4 lanes. Encoding and salt are Django's."""

    algorithm = "argon2"

    def __init__(self, *, time_cost: int = 3, memory_cost: int = 64 * 1024, parallelism: int = 4) -> None:
        """Sets the parameters: `time_cost` passes, `memory_cost` KiB and `parallelism` lanes."""
        self.hasher = argon2.PasswordHasher(
            time_cost=time_cost, memory_cost=memory_cost, parallelism=parallelism, hash_len=32
        )

    def encode(self, password: str) -> str:
        # Django would rehash a password whose salt is not 22 letters and digits.
        return self.algorithm + self.hasher.hash(password, salt=new_salt().encode())

    def verify(self, password: str, encoded: str) -> bool:
        try:
            return self.hasher.verify("$" + encoded.split("$", 1)[1], password)
        except argon2.exceptions.VerifyMismatchError:
            return False
        except argon2.exceptions.VerificationError as error:
            raise ValueError(str(error)) from error

    def must_update(self, encoded: str) -> bool:
        current, stored = self.hasher, argon2.extract_parameters("$" + encoded.split("$", 1)[1])
        return (
            stored.type is not argon2.Type.ID
            or stored.memory_cost < current.memory_cost
            or stored.time_cost * stored.memory_cost < current.time_cost * current.memory_cost
        )


class PBKDF2PasswordHasher:
    """Hashes with PBKDF2-HMAC-SHA256, by default with the 1,000,000 iterations of Django 5.2."""

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
    """Hashes with PBKDF2-HMAC-SHA1, for old Django databases."""

    algorithm = "pbkdf2_sha1"
    digest = "sha1"


class ScryptPasswordHasher:
    """Hashes with scrypt (RFC 7914). The default parameters are Django 5.2's: N=2¹⁴, r=8, p=5."""

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
        max_memory = 128 * r * (n + p) * 2  # bytes; OpenSSL's default limit rejects Django's parameters
        raw = hashlib.scrypt(password.encode(), salt=salt.encode(), n=n, r=r, p=p, maxmem=max_memory, dklen=64)
        return f"{self.algorithm}${n}${salt}${r}${p}${base64.b64encode(raw).decode()}"


class BCryptSHA256PasswordHasher:
    """Hashes the SHA-256 of a password with bcrypt, for old Django databases. Needs the extra `django`."""

    algorithm = "bcrypt_sha256"

    def __init__(self, *, rounds: int = 12) -> None:
        if not has_bcrypt():
            raise ImproperlyConfigured(f"bcrypt is missing. {GET_BCRYPT}")
        self.rounds = rounds
        self._bcrypt: Any = importlib.import_module("bcrypt")

    def encode(self, password: str) -> str:
        hashed: bytes = self._bcrypt.hashpw(self._input(password), self._bcrypt.gensalt(self.rounds))
        return f"{self.algorithm}${hashed.decode()}"

    def verify(self, password: str, encoded: str) -> bool:
        stored = encoded.split("$", 1)[1].encode()
        return hmac.compare_digest(self._bcrypt.hashpw(self._input(password), stored), stored)

    def must_update(self, encoded: str) -> bool:
        return int(encoded.split("$")[3]) < self.rounds

    def _input(self, password: str) -> bytes:
        return hashlib.sha256(password.encode()).hexdigest().encode()


class BCryptPasswordHasher(BCryptSHA256PasswordHasher):
    """Hashes the first 72 bytes of a password with bcrypt, for old Django databases. Needs the extra `django`."""

    algorithm = "bcrypt"

    def _input(self, password: str) -> bytes:
        # Older versions of bcrypt cut longer input off. bcrypt 5 raises an exception, which would make the login fail.
        return password.encode()[:72]


class MD5PasswordHasher:
    """Hashes with salted MD5, for very old Django databases.

    It is not among the default hashers. Pass it to `Passwords` to read such hashes.
    """

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


def has_bcrypt() -> bool:
    return importlib.util.find_spec("bcrypt") is not None

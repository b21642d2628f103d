"""Password hashers that read and write Django's encodings."""

import base64
import hashlib
import hmac
import importlib.util
import re
import secrets
import string
from typing import Any, Protocol

import argon2

from ..core.arguments import require_integer
from ..core.exceptions import ImproperlyConfigured
from ..core.text import require_text

GET_BCRYPT = "Run `pip install starlette-contrib-auth[django]`."
BCRYPT = re.compile(r"\$2[abxy]\$([0-9]{1,2})\$")


class HashTooExpensive(ValueError):
    """A stored hash asks for more time or memory than its hasher allows. It is not computed."""


class PasswordHasher(Protocol):
    """Hashes passwords with one algorithm, in Django's encoding `algorithm$parameters$salt$hash`.

    The hashers of this package raise TypeError for a password that is not a str.
    """

    algorithm: str

    def encode(self, password: str) -> str:
        """Returns the encoded hash of `password`, with a new random salt."""
        ...

    def verify(self, password: str, encoded: str) -> bool:
        """Returns whether `encoded` is a hash of `password`. Its parameters may differ from this hasher's.

        Raises HashTooExpensive if `encoded` costs more than this hasher allows, and ValueError, LookupError,
        ArithmeticError or MemoryError if `encoded` is malformed.
        """
        ...

    def must_update(self, encoded: str) -> bool:
        """Returns whether `encoded` is weaker than a hash that `encode` would make now."""
        ...


def new_salt() -> str:
    """Returns a random salt of Django's form: 22 letters and digits (131 bits). It fits Django's column."""
    return "".join(secrets.choice(string.ascii_letters + string.digits) for _ in range(22))


def _check_cost(encoded: str, **costs: tuple[int, int]) -> None:
    """Raises HashTooExpensive if a stored hash exceeds a bound. `costs` maps the name of each bound to (cost, bound).

    An attacker writes a row with a huge cost, which would keep a hashing thread busy for minutes, or fill the memory,
    at each login. Therefore a hash states its cost only up to a bound.
    """
    for name, (cost, bound) in costs.items():
        if cost > bound:
            raise HashTooExpensive(
                f"A stored {encoded.split('$', 1)[0]} hash was refused: its cost is {cost:,}, and the hasher's bound is "
                f"{name}={bound:,}. Set a new password, or pass a higher {name} to the hasher."
            )


def _check_parameters(**numbers: int) -> None:
    for name, number in numbers.items():
        require_integer(number, name)


def _to_bytes(password: str) -> bytes:
    require_text(password, "password")
    return password.encode()


class Argon2PasswordHasher:
    """Hashes with Argon2id (RFC 9106): 64 MiB of memory, 3 passes, 4 lanes. Encoding and salt are Django's.

    A stored hash may use up to `max_memory_cost` KiB, `max_work` KiB in all its passes, and `max_parallelism` lanes.
    """

    algorithm = "argon2"

    def __init__(
        self,
        *,
        time_cost: int = 3,
        memory_cost: int = 64 * 1024,
        parallelism: int = 4,
        max_memory_cost: int = 256 * 1024,
        max_work: int = 1024 * 1024,
        max_parallelism: int = 64,
    ) -> None:
        """Sets the parameters: `time_cost` passes, `memory_cost` KiB and `parallelism` lanes."""
        _check_parameters(time_cost=time_cost, parallelism=parallelism)
        require_integer(memory_cost, "memory_cost", minimum=8 * parallelism)  # RFC 9106 §3.1
        _check_parameters(max_memory_cost=max_memory_cost, max_work=max_work, max_parallelism=max_parallelism)
        self.max_memory_cost = max(max_memory_cost, memory_cost)
        self.max_work = max(max_work, time_cost * memory_cost)
        self.max_parallelism = max(max_parallelism, parallelism)
        self.hasher = argon2.PasswordHasher(
            time_cost=time_cost, memory_cost=memory_cost, parallelism=parallelism, hash_len=32
        )

    def encode(self, password: str) -> str:
        # Django would rehash a password whose salt is not 22 letters and digits.
        return self.algorithm + self.hasher.hash(_to_bytes(password), salt=new_salt().encode())

    def verify(self, password: str, encoded: str) -> bool:
        stored = "$" + encoded.split("$", 1)[1]
        parameters = argon2.extract_parameters(stored)
        _check_cost(
            encoded,
            max_memory_cost=(parameters.memory_cost, self.max_memory_cost),
            max_work=(parameters.memory_cost * parameters.time_cost, self.max_work),
            max_parallelism=(parameters.parallelism, self.max_parallelism),
        )
        try:
            return self.hasher.verify(stored, _to_bytes(password))
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
    """Hashes with PBKDF2-HMAC-SHA256, by default with the 1,000,000 iterations of Django 5.2.

    A stored hash may have up to `max_iterations`.
    """

    algorithm = "pbkdf2_sha256"
    digest = "sha256"

    def __init__(self, *, iterations: int = 1_000_000, max_iterations: int = 10_000_000) -> None:
        _check_parameters(iterations=iterations, max_iterations=max_iterations)
        self.iterations = iterations
        self.max_iterations = max(max_iterations, iterations)

    def encode(self, password: str) -> str:
        return self._encode(password, new_salt(), self.iterations)

    def verify(self, password: str, encoded: str) -> bool:
        _, iterations, salt, _ = encoded.split("$", 3)
        _check_cost(encoded, max_iterations=(int(iterations), self.max_iterations))
        return hmac.compare_digest(self._encode(password, salt, int(iterations)).encode(), encoded.encode())

    def must_update(self, encoded: str) -> bool:
        return int(encoded.split("$")[1]) < self.iterations

    def _encode(self, password: str, salt: str, iterations: int) -> str:
        raw = hashlib.pbkdf2_hmac(self.digest, _to_bytes(password), salt.encode(), iterations)
        return f"{self.algorithm}${iterations}${salt}${base64.b64encode(raw).decode()}"


class PBKDF2SHA1PasswordHasher(PBKDF2PasswordHasher):
    """Hashes with PBKDF2-HMAC-SHA1, for old Django databases."""

    algorithm = "pbkdf2_sha1"
    digest = "sha1"


class ScryptPasswordHasher:
    """Hashes with scrypt (RFC 7914). The default parameters are Django 5.2's: N=2¹⁴, r=8, p=5.

    A stored hash may use up to `max_memory` bytes, and `max_work` blocks: N times r times p.
    """

    algorithm = "scrypt"

    def __init__(
        self,
        *,
        work_factor: int = 2**14,
        block_size: int = 8,
        parallelism: int = 5,
        max_memory: int = 256 * 1024 * 1024,
        max_work: int = 2**22,
    ) -> None:
        _check_parameters(block_size=block_size, parallelism=parallelism, max_memory=max_memory, max_work=max_work)
        require_integer(work_factor, "work_factor", minimum=2)
        if work_factor & (work_factor - 1):
            raise ImproperlyConfigured(f"work_factor is {work_factor}. Pass a power of two, such as 2**14.")
        self.parameters = (work_factor, block_size, parallelism)
        self.max_memory = max(max_memory, _scrypt_memory(*self.parameters))
        self.max_work = max(max_work, work_factor * block_size * parallelism)

    def encode(self, password: str) -> str:
        return self._encode(password, new_salt(), *self.parameters)

    def verify(self, password: str, encoded: str) -> bool:
        _, work_factor, salt, block_size, parallelism, _ = encoded.split("$", 5)
        n, r, p = int(work_factor), int(block_size), int(parallelism)
        _check_cost(encoded, max_memory=(_scrypt_memory(n, r, p), self.max_memory), max_work=(n * r * p, self.max_work))
        return hmac.compare_digest(self._encode(password, salt, n, r, p).encode(), encoded.encode())

    def must_update(self, encoded: str) -> bool:
        _, n, _, r, p, _ = encoded.split("$", 5)
        return int(n) * int(r) * int(p) < self.parameters[0] * self.parameters[1] * self.parameters[2]

    def _encode(self, password: str, salt: str, n: int, r: int, p: int) -> str:
        max_memory = _scrypt_memory(n, r, p) * 2  # bytes; OpenSSL's default limit rejects Django's parameters
        raw = hashlib.scrypt(_to_bytes(password), salt=salt.encode(), n=n, r=r, p=p, maxmem=max_memory, dklen=64)
        return f"{self.algorithm}${n}${salt}${r}${p}${base64.b64encode(raw).decode()}"


def _scrypt_memory(n: int, r: int, p: int) -> int:
    """Returns the memory in bytes that scrypt needs (RFC 7914 §5)."""
    return 128 * r * (n + p)


class BCryptSHA256PasswordHasher:
    """Hashes the SHA-256 of a password with bcrypt, for old Django databases. Needs the extra `django`.

    A stored hash may have a cost of up to `max_rounds`. Each further round doubles the time.
    """

    algorithm = "bcrypt_sha256"

    def __init__(self, *, rounds: int = 12, max_rounds: int = 15) -> None:
        if not has_bcrypt():
            raise ImproperlyConfigured(f"bcrypt is missing. {GET_BCRYPT}")
        require_integer(rounds, "rounds", minimum=4, maximum=31)
        require_integer(max_rounds, "max_rounds", minimum=4, maximum=31)
        self.rounds = rounds
        self.max_rounds = max(max_rounds, rounds)
        self._bcrypt: Any = importlib.import_module("bcrypt")

    def encode(self, password: str) -> str:
        hashed: bytes = self._bcrypt.hashpw(self._input(password), self._bcrypt.gensalt(self.rounds))
        return f"{self.algorithm}${hashed.decode()}"

    def verify(self, password: str, encoded: str) -> bool:
        stored = encoded.split("$", 1)[1]
        # The library also reads other forms, such as one without the first "$". Their cost could not be checked here.
        if (match := BCRYPT.match(stored)) is None:
            raise ValueError("This is not a bcrypt hash.")
        _check_cost(encoded, max_rounds=(int(match[1]), self.max_rounds))
        return hmac.compare_digest(self._bcrypt.hashpw(self._input(password), stored.encode()), stored.encode())

    def must_update(self, encoded: str) -> bool:
        return int(encoded.split("$")[3]) < self.rounds

    def _input(self, password: str) -> bytes:
        return hashlib.sha256(_to_bytes(password)).hexdigest().encode()


class BCryptPasswordHasher(BCryptSHA256PasswordHasher):
    """Hashes the first 72 bytes of a password with bcrypt, for old Django databases. Needs the extra `django`."""

    algorithm = "bcrypt"

    def _input(self, password: str) -> bytes:
        # Older versions of bcrypt cut longer input off. bcrypt 5 raises an exception, which would make the login fail.
        return _to_bytes(password)[:72]


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
        return f"md5${salt}${hashlib.md5(salt.encode() + _to_bytes(password), usedforsecurity=False).hexdigest()}"


#: The classes that read a hash by its own parameters only, so that one object of a class reads what another made.
BUILT_IN: tuple[type, ...] = (
    Argon2PasswordHasher,
    PBKDF2PasswordHasher,
    PBKDF2SHA1PasswordHasher,
    ScryptPasswordHasher,
    BCryptSHA256PasswordHasher,
    BCryptPasswordHasher,
    MD5PasswordHasher,
)


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

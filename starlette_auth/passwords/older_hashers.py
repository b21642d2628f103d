"""Password hashers for the hashes of old Django databases: bcrypt and MD5."""

import hashlib
import hmac
import importlib.util
import re
from typing import Any

from ..core.arguments import require_integer
from ..core.exceptions import ImproperlyConfigured
from .hash_format import check_cost, is_poor, mask_hash, new_salt, split_hash, to_bytes

GET_BCRYPT = "Run `pip install starlette-contrib-auth[django]`."
BCRYPT = re.compile(r"\$2[abxy]\$([0-9]{1,2})\$")


class BCryptSHA256PasswordHasher:
    """Hashes the SHA-256 of a password with bcrypt, for old Django databases.

    It needs the extra `django`. A stored hash may have a cost of up to `max_rounds`. Each further round doubles the
    time.
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
        check_cost(encoded, max_rounds=(int(match[1]), self.max_rounds))
        return hmac.compare_digest(self._bcrypt.hashpw(self._input(password), stored.encode()), stored.encode())

    def decode(self, encoded: str) -> dict[str, Any]:
        _, variety, rounds, data = split_hash(encoded, self.algorithm, 4)
        return {
            "algorithm": self.algorithm,
            "algostr": variety,
            "checksum": data[22:],
            "salt": data[:22],
            "work_factor": int(rounds),
        }

    def safe_summary(self, encoded: str) -> dict[str, Any]:
        parts = self.decode(encoded)
        masked = {"salt": mask_hash(parts["salt"]), "checksum": mask_hash(parts["checksum"])}
        return {"algorithm": self.algorithm, "work factor": parts["work_factor"], **masked}

    def must_update(self, encoded: str) -> bool:
        return bool(self.decode(encoded)["work_factor"] < self.rounds)  # the salt of bcrypt always has 128 bits

    def _input(self, password: str) -> bytes:
        return hashlib.sha256(to_bytes(password)).hexdigest().encode()


class BCryptPasswordHasher(BCryptSHA256PasswordHasher):
    """Hashes the first 72 bytes of a password with bcrypt, for old Django databases.

    It needs the extra `django`.
    """

    algorithm = "bcrypt"

    def _input(self, password: str) -> bytes:
        # Older versions of bcrypt cut longer input off. bcrypt 5 raises an exception, which would make the login fail.
        return to_bytes(password)[:72]


class MD5PasswordHasher:
    """Hashes with salted MD5, for very old Django databases.

    It is not among the default hashers. Pass it to `Passwords` to read such hashes.
    """

    algorithm = "md5"

    def encode(self, password: str) -> str:
        return self._encode(password, new_salt())

    def verify(self, password: str, encoded: str) -> bool:
        return hmac.compare_digest(self._encode(password, encoded.split("$")[1]).encode(), encoded.encode())

    def decode(self, encoded: str) -> dict[str, Any]:
        salt, digest = split_hash(encoded, self.algorithm, 2)
        return {"algorithm": self.algorithm, "hash": digest, "salt": salt}

    def safe_summary(self, encoded: str) -> dict[str, Any]:
        parts = self.decode(encoded)
        return {"algorithm": self.algorithm, "salt": mask_hash(parts["salt"], 2), "hash": mask_hash(parts["hash"])}

    def must_update(self, encoded: str) -> bool:
        return is_poor(self.decode(encoded)["salt"])

    def _encode(self, password: str, salt: str) -> str:
        return f"md5${salt}${hashlib.md5(salt.encode() + to_bytes(password), usedforsecurity=False).hexdigest()}"


def has_bcrypt() -> bool:
    return importlib.util.find_spec("bcrypt") is not None

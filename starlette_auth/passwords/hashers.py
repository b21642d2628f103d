"""Password hashers that read and write Django's encodings."""

import base64
import hashlib
import hmac
from typing import Any

import argon2

from ..core.arguments import require_integer, require_integers
from ..core.exceptions import ImproperlyConfigured
from .hash_format import check_cost, is_poor, mask_hash, new_salt, split_hash, to_bytes


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
        require_integers(time_cost=time_cost, parallelism=parallelism)
        require_integer(memory_cost, "memory_cost", minimum=8 * parallelism)  # RFC 9106 §3.1
        require_integers(max_memory_cost=max_memory_cost, max_work=max_work, max_parallelism=max_parallelism)
        self.max_memory_cost = max(max_memory_cost, memory_cost)
        self.max_work = max(max_work, time_cost * memory_cost)
        self.max_parallelism = max(max_parallelism, parallelism)
        self.hasher = argon2.PasswordHasher(
            time_cost=time_cost, memory_cost=memory_cost, parallelism=parallelism, hash_len=32
        )

    def encode(self, password: str) -> str:
        # Django would rehash a password whose salt is not 22 letters and digits.
        return self.algorithm + self.hasher.hash(to_bytes(password), salt=new_salt().encode())

    def verify(self, password: str, encoded: str) -> bool:
        stored = "$" + encoded.split("$", 1)[1]
        parameters = argon2.extract_parameters(stored)
        check_cost(
            encoded,
            max_memory_cost=(parameters.memory_cost, self.max_memory_cost),
            max_work=(parameters.memory_cost * parameters.time_cost, self.max_work),
            max_parallelism=(parameters.parallelism, self.max_parallelism),
        )
        try:
            return self.hasher.verify(stored, to_bytes(password))
        except argon2.exceptions.VerifyMismatchError:
            return False
        except argon2.exceptions.VerificationError as error:
            raise ValueError(str(error)) from error

    def decode(self, encoded: str) -> dict[str, Any]:
        (stored,) = split_hash(encoded, self.algorithm, 1)
        parameters = argon2.extract_parameters(f"${stored}")
        variety, *_, salt, digest = stored.split("$")
        return {
            "algorithm": self.algorithm,
            "hash": digest,
            "memory_cost": parameters.memory_cost,
            "parallelism": parameters.parallelism,
            "salt": base64.b64decode(salt + "=" * (-len(salt) % 4)).decode("latin1"),
            "time_cost": parameters.time_cost,
            "variety": variety,
            "version": parameters.version,
            "params": parameters,
        }

    def safe_summary(self, encoded: str) -> dict[str, Any]:
        parts = self.decode(encoded)
        return {
            **{name: parts[name] for name in ("algorithm", "variety", "version")},
            "memory cost": parts["memory_cost"],
            "time cost": parts["time_cost"],
            "parallelism": parts["parallelism"],
            "salt": mask_hash(parts["salt"]),
            "hash": mask_hash(parts["hash"]),
        }

    def must_update(self, encoded: str) -> bool:
        parts = self.decode(encoded)
        current, stored = self.hasher, parts["params"]
        return bool(
            stored.type is not argon2.Type.ID
            or stored.memory_cost < current.memory_cost
            or stored.time_cost * stored.memory_cost < current.time_cost * current.memory_cost
            or is_poor(parts["salt"])
        )


class PBKDF2PasswordHasher:
    """Hashes with PBKDF2-HMAC-SHA256, by default with the 1,000,000 iterations of Django 5.2.

    A stored hash may have up to `max_iterations`.
    """

    algorithm = "pbkdf2_sha256"
    digest = "sha256"

    def __init__(self, *, iterations: int = 1_000_000, max_iterations: int = 10_000_000) -> None:
        require_integers(iterations=iterations, max_iterations=max_iterations)
        self.iterations = iterations
        self.max_iterations = max(max_iterations, iterations)

    def encode(self, password: str) -> str:
        return self._encode(password, new_salt(), self.iterations)

    def verify(self, password: str, encoded: str) -> bool:
        _, iterations, salt, _ = encoded.split("$", 3)
        check_cost(encoded, max_iterations=(int(iterations), self.max_iterations))
        return hmac.compare_digest(self._encode(password, salt, int(iterations)).encode(), encoded.encode())

    def decode(self, encoded: str) -> dict[str, Any]:
        iterations, salt, digest = split_hash(encoded, self.algorithm, 3)
        return {"algorithm": self.algorithm, "hash": digest, "iterations": int(iterations), "salt": salt}

    def safe_summary(self, encoded: str) -> dict[str, Any]:
        parts = self.decode(encoded)
        masked = {"salt": mask_hash(parts["salt"]), "hash": mask_hash(parts["hash"])}
        return {"algorithm": self.algorithm, "iterations": parts["iterations"], **masked}

    def must_update(self, encoded: str) -> bool:
        parts = self.decode(encoded)
        return parts["iterations"] < self.iterations or is_poor(parts["salt"])

    def _encode(self, password: str, salt: str, iterations: int) -> str:
        raw = hashlib.pbkdf2_hmac(self.digest, to_bytes(password), salt.encode(), iterations)
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
        require_integers(block_size=block_size, parallelism=parallelism, max_memory=max_memory, max_work=max_work)
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
        if min(n, r, p) < 1:
            raise ValueError("A parameter of this scrypt hash is below 1.")
        check_cost(encoded, max_memory=(_scrypt_memory(n, r, p), self.max_memory), max_work=(n * r * p, self.max_work))
        return hmac.compare_digest(self._encode(password, salt, n, r, p).encode(), encoded.encode())

    def decode(self, encoded: str) -> dict[str, Any]:
        work_factor, salt, block_size, parallelism, digest = split_hash(encoded, self.algorithm, 5)
        return {
            "algorithm": self.algorithm,
            "work_factor": int(work_factor),
            "salt": salt,
            "block_size": int(block_size),
            "parallelism": int(parallelism),
            "hash": digest,
        }

    def safe_summary(self, encoded: str) -> dict[str, Any]:
        parts = self.decode(encoded)
        return {
            "algorithm": self.algorithm,
            "work factor": parts["work_factor"],
            "block size": parts["block_size"],
            "parallelism": parts["parallelism"],
            "salt": mask_hash(parts["salt"]),
            "hash": mask_hash(parts["hash"]),
        }

    def must_update(self, encoded: str) -> bool:
        parts, (n, r, p) = self.decode(encoded), self.parameters
        is_weaker = parts["work_factor"] * parts["block_size"] * parts["parallelism"] < n * r * p
        return is_weaker or is_poor(parts["salt"])

    def _encode(self, password: str, salt: str, n: int, r: int, p: int) -> str:
        max_memory = _scrypt_memory(n, r, p) * 2  # bytes; OpenSSL's default limit rejects Django's parameters
        raw = hashlib.scrypt(to_bytes(password), salt=salt.encode(), n=n, r=r, p=p, maxmem=max_memory, dklen=64)
        return f"{self.algorithm}${n}${salt}${r}${p}${base64.b64encode(raw).decode()}"


def _scrypt_memory(n: int, r: int, p: int) -> int:
    """Returns the memory in bytes that scrypt needs (RFC 7914 §5)."""
    return 128 * r * (n + p)

"""The interface of password hashers, and the salts, costs and parts of a stored hash."""

import math
import secrets
import string
from typing import Protocol

from ..core.text import require_text

SALT_ENTROPY = 128  # bits


class HashTooExpensive(ValueError):
    """A stored hash costs more time or memory than its hasher allows. It is not computed."""


class PasswordHasher(Protocol):
    """Hashes passwords with one algorithm, in Django's encoding `algorithm$parameters$salt$hash`.

    The hashers of this package raise TypeError for a password that is not a str. They also have Django's methods
    `decode(encoded)`, which returns the parts of a hash, and `safe_summary(encoded)`, which returns them for people,
    with the salt and the hash masked. `Passwords.safe_summary` calls the second one if a hasher has it.
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


def with_algorithm(encoded: str) -> str:
    """Returns a hash with the name of its algorithm in front, as Django stores it.

    Other libraries, such as argon2-cffi, bcrypt, pwdlib and passlib, store `$argon2id$…` and `$2b$…`.
    """
    if encoded.startswith(("$argon2id$", "$argon2i$", "$argon2d$")):
        return f"argon2{encoded}"
    return f"bcrypt${encoded}" if encoded.startswith(("$2a$", "$2b$", "$2y$")) else encoded


def new_salt() -> str:
    """Returns a random salt in Django's format: 22 letters and digits (131 bits)."""
    return "".join(secrets.choice(string.ascii_letters + string.digits) for _ in range(22))


def is_poor(salt: str) -> bool:
    """Returns whether a salt has fewer than 128 bits.

    A character of a text counts about 6 bits, as in Django; a byte counts 8.
    """
    return len(salt) * (math.log2(62) if salt.isascii() and salt.isprintable() else 8) < SALT_ENTROPY


def mask_hash(text: str, show: int = 6) -> str:
    """Returns a text with asterisks after the first characters."""
    return text[:show] + "*" * len(text[show:])


def split_hash(encoded: str, algorithm: str, parts: int) -> list[str]:
    """Returns the parts of a hash after the algorithm. Raises ValueError for another algorithm or form."""
    found, *rest = encoded.split("$", parts)
    if found != algorithm or len(rest) != parts:
        raise ValueError(f"This is no hash of {algorithm}. Pass a hash to the hasher of its algorithm.")
    return rest


def check_cost(encoded: str, **costs: tuple[int, int]) -> None:
    """Raises HashTooExpensive if a stored hash exceeds a bound.

    `costs` maps the name of each bound to (cost, bound). An attacker writes a row with a huge cost, which would keep a
    hashing thread busy for minutes, or fill the memory, at each login; therefore each cost has a bound.
    """
    for name, (cost, bound) in costs.items():
        if cost > bound:
            raise HashTooExpensive(
                f"A stored {encoded.split('$', 1)[0]} hash was refused: its cost is {cost:,}, and the hasher's bound is "
                f"{name}={bound:,}. Set a new password, or pass a higher {name} to the hasher."
            )


def to_bytes(password: str) -> bytes:
    require_text(password, "password")
    return password.encode()

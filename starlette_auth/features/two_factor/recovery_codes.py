"""Recovery codes, each of which replaces the authenticator app once."""

import secrets

from ...core.signing import sha256_hex

ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford's base32
LENGTH, GROUP = 24, 4  # characters: 120 bits
MISREAD = str.maketrans({"o": "0", "i": "1", "l": "1", "-": ""})


def new_code() -> str:
    """Returns a code in groups of four characters, such as "7k3d-9xq0-…"."""
    code = "".join(secrets.choice(ALPHABET) for _ in range(LENGTH))
    return "-".join(code[start : start + GROUP] for start in range(0, LENGTH, GROUP))


def normalize(text: str) -> str | None:
    """Returns the 24 characters of a code as typed by a user: in any case, with o for 0. None for other texts."""
    code = "".join(text.lower().split()).translate(MISREAD)
    return code if len(code) == LENGTH and set(code) <= set(ALPHABET) else None


def hash_code(owner: str, code: str) -> str:
    """Returns the hash of a normalized code of one user, which the database stores.

    A code has 120 random bits, so that a fast hash without a key is enough. A secret key would make the codes worthless
    when it is lost, and they are the way in when the key that sealed the app's secret is lost. The owner is part of it: an
    attacker who may write to the database copies the hash of a known code to another user.
    """
    return sha256_hex(f"recovery code of {owner}: {code}")

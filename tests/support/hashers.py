"""Django's hashers at their lowest cost, for tests that hash often."""

from starlette_auth import (
    BCryptPasswordHasher,
    BCryptSHA256PasswordHasher,
    MD5PasswordHasher,
    PasswordHasher,
    PBKDF2PasswordHasher,
    PBKDF2SHA1PasswordHasher,
    ScryptPasswordHasher,
)

CHEAP_HASHERS: list[PasswordHasher] = [
    PBKDF2PasswordHasher(iterations=2),
    PBKDF2SHA1PasswordHasher(iterations=2),
    ScryptPasswordHasher(work_factor=2, block_size=1, parallelism=1),
    BCryptSHA256PasswordHasher(rounds=4),
    BCryptPasswordHasher(rounds=4),
    MD5PasswordHasher(),
]

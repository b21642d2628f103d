"""Passwords, tokens and sessions created by Django 5.2 and 6.1. They do not need Django."""

import json
from pathlib import Path

from starlette_auth import (
    Argon2PasswordHasher,
    BCryptPasswordHasher,
    BCryptSHA256PasswordHasher,
    MD5PasswordHasher,
    PasswordHasher,
    PBKDF2PasswordHasher,
    PBKDF2SHA1PasswordHasher,
    ScryptPasswordHasher,
)

VECTORS = [json.loads(file.read_text()) for file in sorted((Path(__file__).parent / "data").glob("vectors-*.json"))]
# All algorithms, with their lowest costs.
ALL: dict[str, PasswordHasher] = {
    hasher.algorithm: hasher
    for hasher in (
        Argon2PasswordHasher(time_cost=1, memory_cost=8, parallelism=1),
        PBKDF2PasswordHasher(iterations=1000),
        PBKDF2SHA1PasswordHasher(iterations=1000),
        ScryptPasswordHasher(work_factor=16),
        BCryptSHA256PasswordHasher(rounds=4),
        BCryptPasswordHasher(rounds=4),
        MD5PasswordHasher(),
    )
}

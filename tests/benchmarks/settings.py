"""What a contestant's process is told, and what all of them answer."""

import json
import os
from dataclasses import asdict, dataclass
from typing import Any

SECRET_KEY = "a secret key that is for measuring only, and long enough"
PERMISSION = "polls.add_vote"
PASSWORD = "correct horse battery staple"
GREETING = {"hello": "world"}
#: Argon2 at its least, the same for all: what is measured is not the hash.
CHEAP: dict[str, Any] = {"time_cost": 1, "memory_cost": 8, "parallelism": 1}
VARIABLE = "STARLETTE_AUTH_BENCHMARK"


@dataclass(frozen=True, kw_only=True)
class Settings:
    """`database` is a URL as `databases` takes it; `pool` is how many connections each may have."""

    database: str = ""
    redis: str = ""
    store: str = "database"
    connections: int = 0
    engine: bool = False  # an AsyncEngine of SQLAlchemy, and no Database
    is_django: bool = False
    costly: bool = False  # passwords as they come, and not at their cheapest
    pool: int = 6
    users: int = 1000

    @classmethod
    def from_environment(cls) -> "Settings":
        return cls(**json.loads(os.environ[VARIABLE]))

    def environment(self) -> dict[str, str]:
        return {**os.environ, VARIABLE: json.dumps(asdict(self))}

    @property
    def is_sqlite(self) -> bool:
        return self.database.startswith("sqlite")

    @property
    def file(self) -> str:
        """Of SQLite."""
        return self.database.partition(":///")[2]

    @property
    def sized(self) -> str:
        """The URL with the size of the pool: otherwise `databases` opens ten connections at once."""
        return self.database if self.is_sqlite else f"{self.database}?min_size=1&max_size={self.pool}"


def name_of(number: int) -> str:
    return f"user{number}"


def email_of(number: int) -> str:
    return f"user{number}@example.org"


def may_vote(number: int) -> bool:
    """Nine of ten are in the group that has the permission."""
    return number % 10 != 0


def vote_of(username: str, email: str) -> dict[str, Any]:
    """What everybody answers to who may vote."""
    return {"username": username, "email": email, "permission": PERMISSION}

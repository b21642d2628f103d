"""The strength and the limits of one way to log in, for the list of all ways."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Way:
    """One way to log in, or one second factor, as `auth.describe()` lists it.

    `name` is that of the login method, and `level` the level of a login with it: a second factor counts together with a
    password. `limits` says which attempts are limited and how, in English.
    """

    name: str
    is_second_factor: bool
    level: int
    phishing_resistant: bool
    limits: str

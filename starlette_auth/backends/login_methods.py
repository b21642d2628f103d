"""By what did a user log in to a session, and how strong is that?"""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from ..core.text import require_text
from ..sessions.base import AUTH_TIME

PASSWORD, EMAIL, PROXY = "password", "email", "proxy"
#: The entry of the session, as [[name, time], …]. It is missing after a login with the password alone.
ENTRY = "_auth_methods"
PENDING = "_pending_login"  # the entry of a login that has a step to pass
SECOND_FACTORS = {"totp", "recovery_code", "key"}
PHISHING_RESISTANT = {"passkey", "key"}  # they sign for the site on which they are used
PROVIDER = "provider:"  # the beginning of a method's name: a login with another site


class LoginMethod(NamedTuple):
    """One proof that a user gave: its name, such as "password" or "totp", and its time in seconds since 1970, UTC."""

    name: str
    at: int


def methods_in(session: Mapping[str, Any]) -> tuple[LoginMethod, ...]:
    """Returns the methods of the login in a session, oldest first; none for a login that Django wrote."""
    entry = session.get(ENTRY)
    if entry is None:
        auth_time = session.get(AUTH_TIME)
        return (LoginMethod(PASSWORD, auth_time),) if isinstance(auth_time, int) else ()
    return read_methods(entry)


def read_methods(entry: Any) -> tuple[LoginMethod, ...]:
    """Returns the methods of a list in the session; none if the application has damaged it."""
    try:
        return tuple(LoginMethod(str(name), int(at)) for name, at in entry)
    except (TypeError, ValueError):
        return ()


def with_method(methods: Iterable[LoginMethod], name: str, at: int) -> tuple[LoginMethod, ...]:
    """Returns the methods with one more. Only its newest time is kept."""
    require_text(name, "name of a login method")
    return (*(method for method in methods if method.name != name), LoginMethod(name, at))


def level_of(methods: Iterable[LoginMethod]) -> int:
    """Returns 2 for a passkey, and for a password or a login elsewhere with a second factor; otherwise 1, or 0 without.

    These are the levels AAL1 and AAL2 of NIST SP 800-63B. A login elsewhere is that of another site or of a proxy. Mails
    count for neither factor (§3.1.3.1).
    """
    names = {method.name for method in methods}
    has_first_factor = any(name in (PASSWORD, PROXY) or name.startswith(PROVIDER) for name in names)
    if "passkey" in names or (has_first_factor and names & SECOND_FACTORS):
        return 2
    return 1 if names else 0


def lacks_first_factor(methods: Iterable[LoginMethod]) -> bool:
    """Returns whether no second factor lifts a login to level 2, because it began with a mail, for example."""
    return level_of([*methods, LoginMethod("totp", 0)]) < 2


def is_phishing_resistant(methods: Iterable[LoginMethod]) -> bool:
    """Returns whether one of the methods works only on the site for which it was made."""
    return any(method.name in PHISHING_RESISTANT for method in methods)

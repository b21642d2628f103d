"""Checks of V11, V13 and V16: stored passwords, keys, debugging, and the security log."""

import logging
import secrets
from typing import Any

from ..core.exceptions import ImproperlyConfigured
from ..passwords.older_hashers import MD5PasswordHasher
from .application import SECURITY, Target
from .clients import FROM_ATTACKER, Browser
from .passwords import NO_PASSWORDS
from .results import Result, absent, failed, manual, passed

LOG = 'Call logging.getLogger("starlette_auth.security").setLevel(logging.INFO), and let it have a handler.'
HASHERS = "Keep the default Passwords(), or make Argon2PasswordHasher() the first hasher."
#: The least work that the OWASP Password Storage Cheat Sheet asks of each algorithm.
LEAST_MEMORY, LEAST_PASSES, LEAST_WORK = 19 * 1024, 2, 46 * 1024  # of Argon2id, in KiB
LEAST_ITERATIONS, LEAST_ROUNDS, LEAST_SCRYPT = 600_000, 10, 2**14 * 5


async def password_storage(target: Target) -> Result:
    if not target.has_passwords:
        return absent(NO_PASSWORDS)
    encoded = await target.auth.passwords.hash(target.password)
    summary = target.auth.passwords.safe_summary(encoded)
    cost = ", ".join(f"{name} {value}" for name, value in summary.items() if name not in ("salt", "hash", "checksum"))
    if not _is_costly(summary):
        return failed(f"too little work: {cost}", HASHERS)
    return passed(cost)


def _is_costly(summary: dict[str, Any]) -> bool:
    algorithm = str(summary.get("algorithm", ""))
    if algorithm == "argon2":
        memory, passes = int(summary["memory cost"]), int(summary["time cost"])
        return memory >= LEAST_MEMORY and (passes >= LEAST_PASSES or memory * passes >= LEAST_WORK)
    if algorithm == "pbkdf2_sha256":
        return int(summary["iterations"]) >= LEAST_ITERATIONS
    if algorithm == "scrypt":
        return int(summary["work factor"]) * int(summary["parallelism"]) >= LEAST_SCRYPT
    return algorithm.startswith("bcrypt") and int(summary.get("work factor", 0)) >= LEAST_ROUNDS


async def hash_functions(target: Target) -> Result:
    if any(isinstance(hasher, MD5PasswordHasher) for hasher in target.auth.passwords.hashers.values()):
        return failed("MD5PasswordHasher reads passwords", "Remove it, and let its users reset their passwords.")
    return passed("SHA-256, HMAC-SHA-256 and the hashers of passwords")


async def secret_key(target: Target) -> Result:
    try:
        target.auth.keys.require_strong()
    except ImproperlyConfigured as error:
        return failed(str(error).partition(",")[0], "Make a key with secrets.token_urlsafe(50), and keep it secret.")
    return manual("is secret_key kept out of the source and of the build, in a store for secrets?")


async def debug(target: Target) -> Result:
    if getattr(target.app, "debug", False):
        return failed("the application shows tracebacks to visitors", "Pass debug=False.")
    return passed("debug is off")


async def _logged(target: Target) -> list[logging.LogRecord]:
    """Returns what the security log has of a login, a wrong password, a refusal, a logout and a blocked guess."""
    if "records" not in target.cache:
        since = len(target.log.records)
        person = await target.person()
        browser = target.browser(headers={"User-Agent": 'x"\r\nINFO login account=1 \x1b[31m'.replace("\r\n", " ")})
        await _act(target, browser, person.name, person.password)
        logged_in = await target.logged_in(person)
        await logged_in.post(target.path("login") or target.nowhere(), headers=FROM_ATTACKER)
        await logged_in.submit(target.path("logout") or target.nowhere())
        target.cache["records"] = [record for record in target.log.records[since:] if record.name == SECURITY]
    records: list[logging.LogRecord] = target.cache["records"]
    return records


async def _act(target: Target, browser: Browser, name: str, password: str) -> None:
    if target.has_passwords and target.path("login") is not None:
        await target.enter(browser, name, "wrong")
        await target.enter(browser, f"\n\x1b[2J{secrets.token_hex(4)}", "wrong")
        await target.enter(browser, name, password)
    for _ in range(8):
        if target.path("password_reset") is not None:
            await browser.post(target.path("password_reset") or "", {})


def _events(records: list[logging.LogRecord]) -> set[str]:
    return {str(getattr(record, "event", "")) for record in records}


async def authentication_logged(target: Target) -> Result:
    wanted = {name for name in ("logout",) if target.path(name) is not None}
    wanted |= {"login_failed"} if target.has_passwords and target.path("login") is not None else set()
    wanted |= {"login"} if target.login_is_one_step else set()
    missing = wanted - _events(await _logged(target))
    if missing:
        return failed(f"not logged: {', '.join(sorted(missing))}", LOG)
    return passed("logins, failures and logouts are logged, with the backend that checked them")


async def refusals_logged(target: Target) -> Result:
    if "refused" not in _events(await _logged(target)):
        return failed("not logged: a refused request", LOG)
    return passed("each 403 and 429 is logged")


async def metadata(target: Target) -> Result:
    records = [r for r in await _logged(target) if getattr(r, "event", "") in ("login", "logout", "refused")]
    if not records:
        return failed("nothing is logged", LOG)
    if not all(getattr(record, "address", "") and getattr(record, "account", "") for record in records):
        return failed("a line lacks the address or the account", "Use the logger starlette_auth.security.")
    return passed("each line has the time, the account, the address, the browser and the path")


async def bypasses_logged(target: Target) -> Result:
    reasons = [str(getattr(record, "reason", "")) for record in await _logged(target)]
    if not any(reason.startswith("CSRF") for reason in reasons):
        return failed("not logged: a forged request", LOG)
    return passed("forged requests and exceeded limits are logged, with the reason")


async def no_injection(target: Target) -> Result:
    lines = [record.getMessage() for record in await _logged(target)]
    if not lines:
        return failed("nothing is logged", LOG)
    if any(not line.isprintable() or not line.isascii() for line in lines):
        return failed("a line contains a control character of the client", "Use the logger starlette_auth.security.")
    return passed("control characters and line breaks are escaped")


async def no_secrets_logged(target: Target) -> Result:
    await _logged(target)
    values = [secret for secret in target.secrets if len(secret) > 15]
    for record in target.log.records:
        if any(value in record.getMessage() for value in values):
            return failed(
                f"the logger {record.name} has logged a password, key or link", "Do not log what a user entered."
            )
    return passed("the log lines of this run contain no password, session key or link")

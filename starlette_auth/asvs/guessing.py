"""Checks of V2.4 and V6.3: guessing of passwords, second factors, and notices of suspicious logins."""

import re
import secrets
import time
from collections.abc import Mapping
from typing import Any

from ..backends.base import AuthenticationBackend
from ..backends.remote_user import RemoteUserBackend
from ..features.api_tokens.backend import TokenBackend
from ..features.bearer_sessions import BearerBackend
from .application import Target
from .clients import TOKEN, Browser
from .passwords import MOUNT, NO_PASSWORDS
from .results import Result, absent, failed, manual, passed, some

MOST_GUESSES = 10  # for one account, before the first refusal
MOST_FAILURES = 100  # of one address, before the first refusal
THROTTLING = 'Pass Auth(throttling=True), and keep the rates: Auth(rates={{"{}": "{}"}}) is the default.'
DEFAULTS = ("admin", "administrator", "root", "sa", "test", "guest", "user", "demo")
DEFAULT_PASSWORDS = ("admin", "password", "changeme")
REQUIRE_FACTOR = "Pass Auth(features=[TwoFactor(required_for=lambda user: True)])."
NOTICES = 'Pass Auth(mailer=…, base_url="https://…") and keep notices=True.'
CHALLENGE = re.compile(r"challenge\W+(?:quot;\W*|#34;\W*)*[\w-]{40,}")  # of a passkey, another one in each page
MEASUREMENTS = 4  # an account has five wrong passwords free
PLAIN_HASH = 0.02  # seconds; a faster hash cannot be told from the noise


async def _has_limit(target: Target, action: str) -> bool:
    """Returns whether an action is refused after at most 100 from a new address."""
    address = f"2001:db8:{secrets.token_hex(2)}:{secrets.token_hex(2)}::1"
    account = f"asvs-{secrets.token_hex(8)}"
    for _ in range(MOST_FAILURES + 1):
        if not await target.auth.throttle.try_hit(action, ip=address, account=account):
            return True
    return False


async def automation(target: Target) -> Result:
    actions = {"password_reset": "20/m/ip", "register": "20/m/ip", "email_change": "20/m/ip", "confirm": "60/m/ip"}
    names = {"confirm": "password_reset"}
    used = {name: rate for name, rate in actions.items() if target.path(names.get(name, name)) is not None}
    for action, rate in used.items():
        if not await _has_limit(target, action):
            return failed(f"{MOST_FAILURES} times {action} from one address", THROTTLING.format(action, rate))
    if not used:
        return absent("no account page sends mail or creates accounts; limit the costly pages of your own")
    return passed(f"limited by address: {some(list(used))}; limit the costly pages of your own")


async def brute_force(target: Target) -> Result:
    """Guesses one password on the page and as JSON, and counts failures of one address without hashing."""
    login = target.path("login")
    if not target.has_passwords:
        return absent(NO_PASSWORDS)
    if login is None:
        return failed("there is no login page", MOUNT)
    guesses = (await _guess(target, login))[0]
    if guesses > MOST_GUESSES:
        fix = "Pass Auth(throttling=True), and log in with authenticate() of this package."
        return failed(f"{guesses - 1} wrong passwords for one account without a wait", fix)
    if not await _has_limit(target, "login_failed"):
        return failed(
            f"{MOST_FAILURES} wrong passwords from one address", THROTTLING.format("login_failed", "40/10m/ip")
        )
    return passed(f"the wrong password no. {guesses} for an account has to wait, and each address has a limit")


async def _guess(target: Target, login: str) -> tuple[int, int]:
    """Returns the number of the first wrong password that gets 429, and the status of one more, sent as JSON."""
    if "guesses" not in target.cache:
        person, browser = await target.person(), target.browser()
        fields = {"username": person.name, "password": "a wrong one"}
        number = 1
        while number <= MOST_GUESSES and (await browser.submit(login, **fields)).status_code != 429:
            number += 1
        target.cache["guesses"] = number, (await browser.post_json(login, fields)).status_code
    guesses: tuple[int, int] = target.cache["guesses"]
    return guesses


async def default_accounts(target: Target) -> Result:
    suspects = []
    for name in DEFAULTS:
        user = await target.auth.users.get_by_username(name)
        if user is None or not user.is_active:
            continue
        suspects.append(name)
        for password in (*DEFAULT_PASSWORDS, name):
            if target.has_passwords and (await target.auth.passwords.check(user.password, password)).matches:
                return failed(f"{name} has a default password", f"Run `starlette-auth changepassword {name}`.")
    if suspects:
        return manual(
            f"does each of these active accounts belong to one person, who chose the password: {some(suspects)}?"
        )
    return passed(f"no active user is called {', '.join(DEFAULTS[:3])} or the like")


async def second_factor(target: Target) -> Result:
    if not target.has_passwords or target.path("login") is None:
        return manual("which factors do your backends and login pages check?")
    person, browser = await target.person(), target.browser()
    if await target.enter(browser, person.name, person.password) is None:
        return passed("a password alone does not log in")
    return failed("a password alone logs in", REQUIRE_FACTOR)


async def pathways(target: Target) -> Result:
    login = target.path("login")
    if not target.has_passwords or login is None:
        return manual("is each way to log in as strong as the others, and documented?")
    if (await _guess(target, login))[1] not in (403, 429):
        return failed("guesses as JSON are not limited", "Pass Auth(throttling=True).")
    ours = (target.auth.session_backend, target.auth.model_backend)
    backends = [backend for backend in target.auth.backends if backend not in ours and _logs_in(backend)]
    others = [type(backend).__name__ for backend in backends if type(backend) not in (BearerBackend, TokenBackend)]
    if others:
        return manual(f"are these backends documented, and as strong as the login page: {some(others)}?")
    return passed("the page and its JSON share limits and steps, tokens are random, and there is no other backend")


async def described_ways(target: Target) -> Result:
    """Looks for backends that log users in and are not in the list of all ways."""
    ours = (target.auth.session_backend, target.auth.model_backend)
    others = [backend for backend in target.auth.backends if backend not in ours and _logs_in(backend)]
    # The session of an app begins with a login of a user, which is in the list.
    silent = [type(other).__name__ for other in others if not other.describe() and type(other) is not BearerBackend]
    if silent:
        return failed(
            f"auth.describe() does not list these backends: {some(silent)}",
            "Override describe() of the backend: return a Way with its level and its limits.",
        )
    names = [way.name for way in target.auth.describe()]
    return passed(f"auth.describe() lists them with level and limits: {', '.join(names)}; add login pages of your own")


def _logs_in(backend: AuthenticationBackend) -> bool:
    """Returns whether a backend identifies users or takes credentials, and does not only give permissions."""
    return backend.identifies or type(backend).authenticate is not AuthenticationBackend.authenticate


async def suspicious_logins(target: Target) -> Result:
    if not target.sends_mail:
        return failed("no mail is sent", NOTICES)
    if not target.has_passwords:
        return absent(NO_PASSWORDS)
    if not target.login_is_one_step:
        return manual("does a login from a new browser send a notice to the user?")
    person = await target.person()
    for _ in range(2):  # the second browser is new
        await target.mails()
        await target.enter(target.browser(), person.name, person.password)
    if not await target.mails():
        return failed("a login from a new browser sends no notice", NOTICES)
    return passed("a login from a new browser, and many wrong passwords, send a notice")


async def mail_is_no_factor(target: Target) -> Result:
    if target.path("password_reset") is None:
        return passed("no mail gives access")
    # A login step of the application may take a mailed code.
    if target.path("second_factor") is not None and (await second_factor(target)).status == "pass":
        return passed("a mailed link sets a password, and a password alone does not log in")
    return failed("a mailed link is enough to choose a new password", f"{REQUIRE_FACTOR} Or pass no mailer.")


async def change_notices(target: Target) -> Result:
    if not target.sends_mail:
        return failed("no mail is sent", NOTICES)
    person = await target.person()
    browser, path = await target.logged_in(person), target.path("password_change")
    if path is None or not target.has_passwords:
        return absent("no account page changes how users log in")
    await target.mails()
    new = f"{secrets.token_urlsafe(18)} Dd4!"
    await browser.submit(path, old_password=person.password, new_password1=new, new_password2=new)
    if not await target.mails():
        return failed("a changed password sends no notice", NOTICES)
    return passed("a changed password sends a notice; a changed address informs the old one")


async def enumeration(target: Target) -> Result:
    """Compares what a visitor sees for an existing and an unknown account."""
    login, reset, register = map(target.path, ("login", "password_reset", "register"))
    person, unknown = await target.person(), f"asvs-{secrets.token_hex(8)}"
    pairs: list[tuple[str, Mapping[str, str], Mapping[str, str]]] = []
    if login is not None and target.has_passwords:
        wrong = {"password": "wrong"}
        pairs.append((login, {"username": person.name, **wrong}, {"username": unknown, **wrong}))
    if reset is not None:
        pairs.append((reset, {"email": person.user.email}, {"email": f"{unknown}@example.org"}))
    if register is not None:
        taken = {"username": person.user.username, "email": person.user.email}
        free = {"username": unknown, "email": f"{unknown}@example.org"}
        passwords = dict.fromkeys(("password1", "password2"), target.password)
        target.addresses.append(free["email"])
        pairs.append((register, {**taken, **passwords}, {**free, **passwords}))
    for path, known, other in pairs:
        if await _seen(target.browser(), path, known) != await _seen(target.browser(), path, other):
            return failed(
                f"{path} answers differently for a taken name", 'Use the pages of this package, with verify="before".'
            )
    if not pairs:
        return absent("there are no account pages")
    if login is not None and target.has_passwords and not await _takes_as_long(target, login, person.name):
        return failed("the login takes longer for an existing account", "Log in with authenticate() of this package.")
    return passed(f"the same answer for both on {some([path for path, _, _ in pairs])}")


async def _seen(browser: Browser, path: str, fields: Mapping[str, str]) -> tuple[int, str, str]:
    response = await browser.submit(path, **fields)
    text = CHALLENGE.sub("", TOKEN.sub("", response.text))
    for value in fields.values():
        text = text.replace(value, "")
    return response.status_code, response.headers.get("location", ""), text


async def _takes_as_long(target: Target, login: str, name: str) -> bool:
    """Returns whether a wrong password takes as long for an existing account as for an unknown one.

    The shortest duration has the least noise of a busy machine. Two that differ are measured again, up to four times.
    """
    durations: dict[bool, list[float]] = {True: [], False: []}
    for number in range(1, MEASUREMENTS + 1):
        for is_known, durations_of_kind in durations.items():
            browser = target.browser()
            fields: dict[str, Any] = {"username": name if is_known else secrets.token_hex(8), "password": "wrong"}
            started_at = time.perf_counter()
            await browser.post(login, fields)
            durations_of_kind.append(time.perf_counter() - started_at)
        known, unknown = (min(values) for values in durations.values())
        if number > 1 and (max(known, unknown) < PLAIN_HASH or 0.5 < known / unknown < 2):
            return True
    return False


def trusts_a_proxy(target: Target) -> bool:
    return any(isinstance(backend, RemoteUserBackend) for backend in target.auth.backends)

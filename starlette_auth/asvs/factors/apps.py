"""Checks of V6.5: authenticator apps and recovery codes."""

import base64
import functools
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from ...database.introspection import all_columns
from ...features.two_factor.recovery_codes import normalize
from ...features.two_factor.totp import code_at, step_at
from ..application import Person, Target
from ..clients import Browser
from ..results import Result, absent, failed, passed

NO_FACTOR = "there is no second factor (see 6.3.3)"
FIX = "Use the pages of TwoFactor()."
SEED, CODE = 128, 112  # bits
TABLE = "auth_recovery_code"
REQUIRED = 409  # the status if the policy requires the factor
WEAK_CODE = 20  # bits of a code that works for a short time only


@dataclass
class Enrolled:
    """A temporary user with an authenticator app and recovery codes, and the browser that added them."""

    person: Person
    browser: Browser
    secret: bytes
    codes: list[str]


Check = Callable[[Target, Enrolled], Awaitable[Result]]


def with_app(check: Check) -> Callable[[Target], Awaitable[Result]]:
    """Returns the check of a row for a new user with an app; "n/a" without the pages of `TwoFactor()`."""

    @functools.wraps(check)
    async def check_row(target: Target) -> Result:
        if not has_apps(target):
            return absent(NO_FACTOR)
        enrolled = await enrol(target)
        return await check(target, enrolled) if enrolled is not None else failed("an app cannot be added", FIX)

    return check_row


def has_apps(target: Target) -> bool:
    """Returns whether users can add an authenticator app, and log in with its codes."""
    return None not in (target.path("totp"), target.path("second_factor"), target.path("login"))


async def enrol(target: Target) -> Enrolled | None:
    """Adds an app to a new user as the page does. The code is that of the last time step, so that another one is left."""
    person = await target.person()
    browser = await target.logged_in(person)
    secret = await begin_enrolment(target, browser)
    for age in (1, 0):  # with drift=0, the last step does not count
        made = await browser.post_json(target.path("totp") or "", {"code": code(target, secret, -age)})
        if made.status_code == 200:
            codes = [str(text) for text in made.json()["recovery_codes"]]
            target.secrets += codes
            return Enrolled(person, browser, secret, codes)
    return None


async def begin_enrolment(target: Target, browser: Browser, path: str = "") -> bytes:
    """Returns the secret of the app that the page offers; b"" if it offers none."""
    response = await browser.get(path or target.path("totp") or "", {"Accept": "application/json"})
    text = str(response.json().get("secret", "")) if response.status_code == 200 else ""
    target.secrets += [text] if text else []
    return base64.b32decode(text + "=" * (-len(text) % 8))


def code(target: Target, secret: bytes, steps: int = 0) -> str:
    """Returns the code that the app shows, or showed some steps before."""
    return code_at(secret, step_at(target.auth.clock()) + steps)


async def log_in(target: Target, person: Person, **proof: str) -> bool:
    """Returns whether the password and this proof log in, in a new browser."""
    browser, fields = target.browser(), {"username": person.name, "password": person.password}
    begun = await browser.post_json(target.path("login") or target.nowhere(), fields)
    step = begun.json().get("step") if begun.status_code == 401 else None
    if not isinstance(step, dict):
        return await target.who(browser) is not None
    await browser.post_json(target.path("second_factor") or "", {"login": str(step["login"]), **proof})
    return await target.who(browser) is not None


@with_app
async def used_once(target: Target, enrolled: Enrolled) -> Result:
    proofs: list[dict[str, Any]] = [
        {"code": code(target, enrolled.secret)},
        {"recovery_code": enrolled.codes[0]},
    ]
    accepted = [[await log_in(target, enrolled.person, **proof) for _ in range(2)] for proof in proofs]
    if any(second for _, second in accepted):
        return failed("a code works twice", FIX)
    if not accepted[1][0]:
        return failed("a recovery code does not log in", FIX)
    return passed("a code of the app and a recovery code are refused the second time")


@with_app
async def hashed(target: Target, enrolled: Enrolled) -> Result:
    codes = [normalize(text) for text in enrolled.codes]
    if not all(codes):
        return failed("recovery codes are short, so that a fast hash is not enough", FIX)
    stored = await _stored_texts(target)
    if not stored:
        return failed(f"no table {TABLE} contains hashes of the codes", FIX)
    if any(text in value for value in stored for text in (*enrolled.codes, *map(str, codes))):
        return failed("the database contains a recovery code", FIX)
    return passed(f"the tables contain none of them; each has {_bits_of(enrolled.codes[0])} bits, at least {CODE}")


@with_app
async def random_codes(target: Target, enrolled: Enrolled) -> Result:
    other = await enrol(target)
    if other is None:
        return failed("a second user cannot add an app", FIX)
    if other.secret == enrolled.secret or len(enrolled.secret) * 8 < SEED:
        return failed("the secrets of two apps are alike or short", FIX)
    if len({*enrolled.codes, *other.codes}) < len(enrolled.codes) + len(other.codes):
        return failed("recovery codes repeat", FIX)
    bits = len(enrolled.secret) * 8
    return passed(f"apps have {bits} bits and recovery codes {_bits_of(enrolled.codes[0])}, and none repeats")


@with_app
async def enough_bits(target: Target, enrolled: Enrolled) -> Result:
    bits = min(map(_bits_of, enrolled.codes))
    if bits < WEAK_CODE:
        return failed(f"recovery codes have {bits} bits", FIX)
    return passed(f"recovery codes have {bits} bits; the mailed code of the enrolment 34")


@with_app
async def short_lived(target: Target, enrolled: Enrolled) -> Result:
    if await _accepts_at_setup(target, -2):
        return failed("a code of the app works for more than a minute", "Pass TwoFactor(drift=1), or drift=0.")
    return passed("the code of the app, and that of the 30 seconds before it (RFC 6238, section 5.2)")


@with_app
async def server_time(target: Target, enrolled: Enrolled) -> Result:
    if await _accepts_at_setup(target, 1):
        return failed("a code of the next 30 seconds works", FIX)
    return passed("the server's clock decides, and no code of a clock ahead of it works")


@with_app
async def revocable(target: Target, enrolled: Enrolled) -> Result:
    """Removes the app; where the policy forbids that, replaces it by another one."""
    path, browser = target.path("totp_remove"), enrolled.browser
    if path is None:
        return failed("users cannot remove a lost app", FIX)
    removed = await browser.post_json(path, {"recovery_code": enrolled.codes[0]})
    if removed.status_code == REQUIRED and not await _replace(target, browser):
        return failed("users can neither remove nor replace a lost app", FIX)
    login = target.browser()
    fields = {"username": enrolled.person.name, "password": enrolled.person.password}
    step = (await login.post_json(target.path("login") or "", fields)).json().get("step") or {}
    proof = {"login": str(step.get("login", "")), "code": code(target, enrolled.secret)}
    if step.get("name") == "second_factor":
        await login.post_json(target.path("second_factor") or "", proof)
        if await target.who(login) is not None:
            return failed("an app that was removed still logs in", FIX)
    elif step and step.get("name") != "enrol":
        return failed("a removed app is still asked for", FIX)
    return passed("users remove an app or replace it, and its codes do not count any more")


async def _replace(target: Target, browser: Browser) -> bool:
    path = f"{target.path('totp')}?replace"
    secret = await begin_enrolment(target, browser, path)
    made = await browser.post_json(path, {"code": code(target, secret)})
    return "recovery_codes" in made.json()


async def _accepts_at_setup(target: Target, steps: int) -> bool:
    """Returns whether a new app can be added with a code of another time step."""
    browser = await target.logged_in()
    secret = await begin_enrolment(target, browser)
    made = await browser.post_json(target.path("totp") or "", {"code": code(target, secret, steps)})
    return made.status_code == 200


async def _stored_texts(target: Target) -> list[str]:
    """Returns the texts in the table of recovery codes."""
    texts: list[str] = []
    for name, columns in (await all_columns(target.auth.gateway)).items():
        if name.endswith(TABLE):
            rows: Any = sa.select(*(sa.column(column) for column in sorted(columns))).select_from(sa.table(name))
            texts += [str(value) for row in await target.auth.gateway.fetch_all(rows) for value in row.values()]
    return texts


def _bits_of(code: str) -> int:
    """Returns the bits of a recovery code: five for each of its characters."""
    return 5 * len(code.replace("-", ""))

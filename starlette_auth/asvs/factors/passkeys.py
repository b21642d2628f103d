"""Checks of V6.5.7 and V6.7: passkeys, the stored keys, and the challenges."""

import functools
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from ...database.introspection import all_columns
from ...security.webauthn.credentials import decode
from ...security.webauthn.soft_passkey import SoftPasskey
from ..application import Person, Target
from ..clients import Browser
from ..results import Result, absent, failed, passed

NO_PASSKEYS = "there are no passkeys: the feature Passkeys() is off"
FIX = "Use the pages of Passkeys()."
TABLE = "auth_passkey"
NONCE = 8  # bytes: 64 bits
JSON = {"Accept": "application/json"}


@dataclass
class Registered:
    """A temporary user with a passkey, which exists in Python only."""

    person: Person
    passkey: SoftPasskey


Check = Callable[[Target, Registered], Awaitable[Result]]


def with_passkey(check: Check) -> Callable[[Target], Awaitable[Result]]:
    """Returns the check of a row for a new user with a passkey; "n/a" without the pages of `Passkeys()`."""

    @functools.wraps(check)
    async def check_row(target: Target) -> Result:
        if target.path("passkey_login") is None or target.path("passkey_add") is None:
            return absent(NO_PASSKEYS)
        registered = await register(target)
        return await check(target, registered) if registered is not None else failed("a passkey cannot be added", FIX)

    return check_row


async def register(target: Target) -> Registered | None:
    # Synced, so that its counter stays 0: only the challenge tells a replay.
    person, passkey = await target.person(), SoftPasskey(origin=target.auth.site.origin, synced=True)
    browser, page = await target.logged_in(person), target.path("passkey_add") or ""
    options = await browser.get(page, JSON)
    if options.status_code != 200:
        return None
    added = await browser.post_json(page, {"credential": json.loads(passkey.create(options.json())), "name": "asvs"})
    return Registered(person, passkey) if added.status_code == 200 else None


async def options_of(target: Target, browser: Browser) -> Any:
    return (await browser.get(target.path("passkey_login") or "", JSON)).json()["publicKey"]


async def send(target: Target, browser: Browser, credential: str) -> bool:
    """Sends what a passkey has signed. Returns whether that logs in."""
    await browser.post_json(target.path("passkey_login") or "", {"credential": json.loads(credential)})
    return await target.who(browser) is not None


@with_passkey
async def biometrics(target: Target, registered: Registered) -> Result:
    """Claims a verified fingerprint, and signs with another device's key."""
    browser, thief = target.browser(), SoftPasskey(origin=target.auth.site.origin, synced=True)
    options = await options_of(target, browser)
    creation = {
        "rp": {"id": options["rpId"]},
        "user": {"id": "AAAA"},
        "challenge": options["challenge"],
        "pubKeyCredParams": [{"type": "public-key", "alg": -7}],
    }
    thief.create(creation)
    thief.credential_id, thief.user_handle = registered.passkey.credential_id, registered.passkey.user_handle
    if await send(target, browser, thief.sign(options)):
        return failed("a passkey logs in without the key of its device", FIX)
    return passed("a fingerprint or face unlocks the key of a device, and without this key does not log in")


@with_passkey
async def stored_keys(target: Target, registered: Registered) -> Result:
    """Moves a passkey to another user in the database, as an attacker does who can write to it."""
    victim, auth = await target.person(), target.auth
    browser = target.browser()
    if not await send(target, browser, registered.passkey.sign(await options_of(target, browser))):
        return failed("a passkey does not log in", FIX)
    column, owner = sa.column("user_id", auth.tables.user_key.type), registered.person.user.id
    for name in [name for name in await all_columns(auth.gateway) if name.endswith(TABLE)]:
        await auth.gateway.execute(
            sa.update(sa.table(name, column)).values(user_id=victim.user.id).where(column == owner)
        )
    browser = target.browser()
    if await send(target, browser, registered.passkey.sign(await options_of(target, browser))):
        return failed("a passkey that was moved to another user in the database logs in", FIX)
    return passed("a row that was changed in the database does not log in: it is signed")


@with_passkey
async def challenges(target: Target, registered: Registered) -> Result:
    browser = target.browser()
    made = [decode((await options_of(target, browser))["challenge"]) for _ in range(8)]
    if len(set(made)) < len(made) or min(map(len, made)) < NONCE:
        return failed("challenges repeat, or have less than 64 bits", FIX)
    signed = registered.passkey.sign(await options_of(target, browser))
    if not await send(target, browser, signed):
        return failed("a passkey does not log in", FIX)
    await browser.submit(target.path("logout") or target.nowhere())
    if await target.who(browser) is None and await send(target, browser, signed):
        return failed("a challenge works twice", FIX)
    return passed("32 random bytes, signed by the site, for one browser, and used once")

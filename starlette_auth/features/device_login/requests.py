"""Where is the request of a device kept until its user has decided? In rows of `auth_token`."""

import json
import secrets
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from ...auth import Auth
from ...core.signing import sha256_hex
from ...database.statements import Statement
from ...security.reset_tokens import user_binding
from ...security.tokens import BINDING, Token, TokenHash
from ...users.models import User

PURPOSE = "device"
CODES = "starlette_auth.device"
ALPHABET = "BCDFGHJKLMNPQRSTVWXZ"  # RFC 8628 §6.1: 20 consonants, so that no code is a word
LENGTH = 8  # characters; 8 of 20 have 34 bits
LIFETIME = 15 * 60  # seconds in which the user has to decide and the device to fetch the token
KEPT = 15 * 60  # seconds for which a device still learns that its code has expired
INTERVAL = 5  # seconds between two requests of a device, and added for each that comes too early (§3.5)
TOLERANCE = 500  # milliseconds by which the network may bring a request too early


@dataclass(frozen=True, kw_only=True)
class DeviceRequest:
    """Represents a device that asks for a token. Times are in seconds since 1970, UTC.

    `client` is the identifier of its program. `address` and `browser` (the header User-Agent) are where it asked.
    `state` is "pending", "approved" or "refused". `polled` is the time of its last question in milliseconds.
    """

    row: Token
    client: str
    scopes: tuple[str, ...] | None
    address: str
    browser: str
    created: int
    state: str = "pending"
    user_id: str = ""
    interval: int = INTERVAL
    polled: int = 0

    @property
    def expires(self) -> int:
        return self.created + LIFETIME


class DeviceRequests:
    """Creates, finds and changes the requests of devices.

    The table stores the hash of a device code and a keyed hash of a user code. An attacker who reads the database could
    otherwise find the user code, which has 34 bits, by trying all of them.
    """

    def __init__(self, auth: Auth) -> None:
        self.auth, self.tokens = auth, auth.tokens
        t = auth.tables.token
        new = {name: sa.bindparam(f"new_{name}", type_=t.c[name].type) for name in ("subject", "binding", "data")}
        is_row = (t.c.token_hash == sa.bindparam("row_hash", type_=t.c.token_hash.type), t.c.purpose == PURPOSE)
        self._update = Statement(sa.update(t).values(new).where(*is_row))

    async def create(
        self, client: str, scopes: tuple[str, ...] | None, *, address: str, browser: str
    ) -> tuple[str, str]:
        """Returns the device code and the user code of a new request."""
        user_code = make_user_code()
        while await self.tokens.recent(PURPOSE, self._subject(user_code)):
            user_code = make_user_code()
        data = {"client": client, "scopes": scopes, "address": address, "browser": browser, "created": self._now()}
        device_code = await self.tokens.create(
            PURPOSE, self._subject(user_code), max_age=LIFETIME + KEPT, data={**data, "state": "pending"}
        )
        return device_code, user_code

    async def find(self, device_code: str) -> DeviceRequest | None:
        """Returns the request with a device code, or with its hash; also if it has expired or was refused."""
        row = await self.tokens.find(PURPOSE, device_code)
        return _request_of(row) if row is not None else None

    async def find_again(self, token_hash: str) -> DeviceRequest | None:
        """Locks a request for the current transaction, and returns it."""
        await self.tokens.lock(f"device {token_hash}")
        return await self.find(TokenHash(token_hash))

    async def find_pending(self, user_code: str) -> DeviceRequest | None:
        """Returns the request with a user code on which no user has decided."""
        code = parse_user_code(user_code)
        rows = await self.tokens.recent(PURPOSE, self._subject(code)) if code else []
        requests = [request for row in rows if self.is_pending(request := _request_of(row))]
        return requests[0] if len(requests) == 1 else None

    def is_pending(self, request: DeviceRequest) -> bool:
        return request.state == "pending" and not self.has_expired(request)

    def has_expired(self, request: DeviceRequest) -> bool:
        return request.expires <= self._now()

    async def count_poll(self, request: DeviceRequest) -> bool:
        """Notes the question of a device. Returns False, and adds 5 seconds to its interval, if it came too early."""
        now = int(self.auth.clock() * 1000)
        is_in_time = now >= request.polled + request.interval * 1000 - TOLERANCE
        interval = request.interval if is_in_time else request.interval + INTERVAL
        await self._write(request, interval=interval, polled=now)
        return is_in_time

    async def approve(self, request: DeviceRequest, user: User) -> None:
        """Records the consent. The request then belongs to the user, and has no user code.

        It ends with a change of the user's password or address, to which `binding` ties it.
        """
        signature = self.auth.keys.sign(BINDING, user_binding(user))
        await self._write(
            request, subject=owner_of_requests(user), binding=signature, state="approved", user_id=user.id
        )

    async def refuse(self, request: DeviceRequest) -> None:
        """Records the refusal. The device is told until its code expires."""
        await self._write(request, state="refused")

    async def owner(self, request: DeviceRequest) -> User | None:
        """Returns the user who approved a request; None if the account has changed since."""
        user = await self.auth.users.get(request.user_id)
        if user is None or not user.is_active:
            return None
        return user if self.tokens.binding_matches(request.row, user_binding(user)) else None

    async def lock_approvals(self, user: User) -> None:
        """Lets one transaction at a time approve a request for a user, or end those that the user has approved.

        Call it before the first query of the transaction: on MySQL that one decides which rows the others read.
        """
        await self.tokens.lock(owner_of_requests(user))

    async def is_unchanged(self, user: User) -> bool:
        """Returns whether a user is active and has the password as loaded.

        An attacker approves a device at the moment in which the owner takes the account back. Therefore a transaction
        that approves asks this behind `lock_approvals`.
        """
        current = await self.auth.users.get(user.id)
        return current is not None and current.is_active and current.password == user.password

    async def revoke_all(self, user: User) -> None:
        """Ends the requests that a user has approved and whose token is not fetched yet."""
        await self.lock_approvals(user)
        await self.tokens.revoke_all(owner_of_requests(user))

    async def _write(self, request: DeviceRequest, *, subject: str = "", binding: str = "", **changes: Any) -> None:
        row = request.row
        if "user_id" in changes:
            changes["user_id"] = str(changes["user_id"])
        await self.auth.gateway.execute(
            self._update,
            row_hash=row.token_hash,
            new_subject=sha256_hex(subject) if subject else row.subject,
            new_binding=binding or row.binding,
            new_data=json.dumps({**row.data, **changes}),
        )

    def _subject(self, user_code: str) -> str:
        return self.auth.keys.sign(CODES, f"user code {user_code}")

    def _now(self) -> int:
        return int(self.auth.clock())


def owner_of_requests(user: User) -> str:
    return f"devices of user {user.id}"


def make_user_code() -> str:
    """Returns a new user code, as "BCDF-GHJK"."""
    text = "".join(secrets.choice(ALPHABET) for _ in range(LENGTH))
    return f"{text[:4]}-{text[4:]}"


def parse_user_code(text: str) -> str:
    """Returns a user code in its usual form: users type small letters and leave the dash out. "" for other texts."""
    letters = "".join(character for character in text.upper() if character not in " -\u2010\u2011\u2013")
    if len(letters) != LENGTH or not set(letters) <= set(ALPHABET):
        return ""
    return f"{letters[:4]}-{letters[4:]}"


def _request_of(row: Token) -> DeviceRequest:
    data = dict(row.data)
    scopes = data.pop("scopes")
    return DeviceRequest(row=row, scopes=None if scopes is None else tuple(scopes), **data)

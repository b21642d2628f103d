"""Passkeys of users: the options for a browser, and the check of what the browser sends back."""

import logging
import secrets
from collections.abc import MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import HTTPConnection

from ...auth import Auth
from ...backends.session import session_of
from ...core.clock import HOUR, MINUTE
from ...core.feature_events import PasskeyCloned
from ...security.webauthn.challenges import Challenges
from ...security.webauthn.credentials import (
    Credential,
    CredentialCloned,
    CredentialRefused,
    CredentialResponse,
    StoredCredential,
    decode,
    encode,
    read_response,
    sign_credential,
)
from ...security.webauthn.relying_party import RelyingParty
from ...users.models import User
from .store import Passkey, PasskeyStore

logger = logging.getLogger("starlette_auth")
PASSKEY, KEY = "passkey", "key"  # the names of the login methods
#: What a challenge is for. A signature for one purpose is refused for each other one.
LOGIN, SECOND_STEP, STEP_UP, REAUTHENTICATE = "login", "second_step", "step_up", "reauthenticate"
ADD = {PASSKEY: "add_passkey", KEY: "add_key"}
LOGIN_MAX_AGE = HOUR  # the browser offers passkeys while the login page is open
MAX_AGE = 5 * MINUTE
HANDLE = "_passkey_handle"  # in the session: the user handle of the first passkey that is being added
#: A public key on P-256 in the format COSE. Its private key was thrown away.
UNKNOWN_KEY = bytes.fromhex(
    "a50102032620012158202cd33675aa089844e3833a86a65a5e396dfa0af3f4f00ce121cc1e6e26a72d9"
    "7225820dbe306f7c704ae6da7c92ea08f46fccc67bd0b6a4bee6b5788a062c07baae4b4"
)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a browser's answer proves: its user and the login method; `user` is None if it was refused.

    `unknown_id` is the ID of a credential that the database does not contain, so that the browser can forget it.
    """

    user: User | None = None
    method: str = ""
    unknown_id: str = ""


class Ceremonies:
    """Makes options and checks credentials. Each challenge belongs to one purpose, browser and user."""

    def __init__(self, auth: Auth, store: PasskeyStore, relying_party: RelyingParty) -> None:
        self.auth, self.store, self.relying_party = auth, store, relying_party
        self.challenges = Challenges(auth.tokens)

    def login_options(self, request: HTTPConnection) -> dict[str, Any]:
        """Returns the options for a visitor. They name no credentials, which would tell who has passkeys."""
        challenge = self.challenges.make(LOGIN, browser=self._browsers(request)[0], max_age=LOGIN_MAX_AGE)
        return self.relying_party.request_options(challenge)

    def request_options(
        self, request: HTTPConnection, user: User, purpose: str, passkeys: Sequence[Passkey], *, verified: bool
    ) -> dict[str, Any]:
        """Returns the options for a user who is known already, with the passkeys that count."""
        challenge = self._challenge(request, user, purpose)
        allow = [passkey.credential for passkey in passkeys]
        return self.relying_party.request_options(challenge, allow=allow, verified=verified)

    def creation_options(
        self, request: HTTPConnection, user: User, kind: str, existing: Sequence[Passkey]
    ) -> dict[str, Any]:
        """Returns the options for a new passkey or security key of a user, who has the `existing` ones."""
        return self.relying_party.creation_options(
            self._challenge(request, user, ADD[kind]),
            user_handle=handle_of(request.session, existing),
            username=user.get_username(),
            display_name=user.get_full_name(),
            exclude=[passkey.credential for passkey in existing],
            verified=kind == PASSKEY,
        )

    async def check_new(
        self, request: HTTPConnection, user: User, kind: str, sent: str, existing: Sequence[Passkey]
    ) -> Credential:
        """Returns the new credential that a browser sent, and uses its challenge up. Raises CredentialRefused."""
        use = _Use(self, ADD[kind], self._browsers(request), user.identity)
        response, handle = read_response(sent), handle_of(request.session, existing)
        credential: Credential = await run_in_threadpool(
            self.relying_party.verify_creation,
            response,
            is_our_challenge=use.is_possible,
            user_handle=handle,
            verified=kind == PASSKEY,
        )
        if not await use.happens(response):
            raise CredentialRefused("The challenge was used before.")
        return credential

    async def check(
        self, request: HTTPConnection, sent: str, *, purpose: str, user: User | None, verified: bool
    ) -> Outcome:
        """Checks the signature of a passkey, notes its use, and uses the challenge up.

        `user` is the user who logs in, or None if only the passkey tells. `verified` demands a passkey that logs in
        alone, and that its device verified the user now. An unknown credential costs as much time as a known one.
        """
        use = _Use(self, purpose, self._browsers(request), user.identity if user is not None else "")
        passkey, owner, response = None, None, None
        try:
            response = read_response(sent)
            passkey, owner = await self.store.find(response.credential_id) or (None, None)
            assertion = await run_in_threadpool(
                self.relying_party.verify_assertion,
                response,
                passkey.stored if passkey is not None else self._unknown(response, use.user),
                is_our_challenge=use.is_possible,
                user=user.identity if user is not None else None,
                verified=verified,
            )
            if passkey is None or owner is None or not owner.is_active:
                raise CredentialRefused("It is unknown, or its user is not active.")
            if not await use.happens(response):
                raise CredentialRefused("The challenge was used before.")
            if not await self.store.record_use(passkey, assertion):
                raise CredentialCloned("Its counter has not risen since another login.")
        except CredentialRefused as error:
            logger.info("A passkey was refused: %s", error.reason)
            if isinstance(error, CredentialCloned) and passkey is not None and owner is not None:
                await self._report_clone(request, passkey, owner)
            is_unknown = response is not None and passkey is None and use.is_possible(response.challenge)
            return Outcome(unknown_id=encode(response.credential_id) if response is not None and is_unknown else "")
        if assertion.count_fell:
            logger.warning("The counter of the synced passkey %d of user %s has not risen.", passkey.id, owner.identity)
        is_verified = passkey.credential.verified and assertion.verified
        return Outcome(user=owner, method=PASSKEY if is_verified else KEY)

    def _challenge(self, request: HTTPConnection, user: User, purpose: str) -> bytes:
        browser = self._browsers(request)[0]
        return self.challenges.make(purpose, browser=browser, user=user.identity, max_age=MAX_AGE)

    def _browsers(self, request: HTTPConnection) -> list[str]:
        """Returns the secrets of the browser, the one for new challenges first. An app has the key of its session."""
        session = session_of(request)
        if session is not None and session.is_in_header:
            return [f"app {session.next_key}", f"app {session.stored_key}"]
        tokens = self.auth.csrf_tokens
        return [tokens.ensure_secret(request), *tokens.browser_secrets(request)]

    def _unknown(self, response: CredentialResponse, user: str) -> StoredCredential:
        """Returns a credential that no signature fits, so that an unknown one takes as long as a wrong signature."""
        credential = Credential(
            credential_id=response.credential_id,
            public_key=UNKNOWN_KEY,
            sign_count=0,
            user_handle=response.user_handle or b"",
            aaguid="",
            transports=(),
            verified=True,
            backup_eligible=False,
            backed_up=False,
        )
        mac = sign_credential(self.auth.keys, user, credential)
        return StoredCredential(credential=credential, user=user, mac=mac)

    async def _report_clone(self, request: HTTPConnection, passkey: Passkey, owner: User) -> None:
        async with self.auth.events.transaction(PasskeyCloned):
            await self.auth.events.emit(PasskeyCloned(user=owner, name=passkey.name, request=request))


@dataclass(frozen=True)
class _Use:
    """The use of a challenge: what it must have been made for."""

    ceremonies: Ceremonies
    purpose: str
    browsers: Sequence[str]
    user: str

    def is_possible(self, challenge: bytes) -> bool:
        return self.ceremonies.challenges.is_valid(challenge, self.purpose, browsers=self.browsers, user=self.user)

    async def happens(self, response: CredentialResponse) -> bool:
        use = self.ceremonies.challenges.use
        return await use(response.challenge, self.purpose, browsers=self.browsers, user=self.user)


def handle_of(session: MutableMapping[str, Any], existing: Sequence[Passkey]) -> bytes:
    """Returns the user handle for a new passkey: that of the earlier ones, or a new one, kept in the session.

    An authenticator stores the handle and gives it to each site that asks, therefore it is random and tells nothing.
    """
    if existing:
        return existing[0].credential.user_handle
    try:
        return decode(session[HANDLE])
    except (KeyError, CredentialRefused):
        handle = secrets.token_bytes(32)
        session[HANDLE] = encode(handle)
        return handle

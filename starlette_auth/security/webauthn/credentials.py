"""Credentials: what a browser sends, decoded, and what is stored of a passkey."""

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ...core.exceptions import StarletteAuthError
from ...core.signing import SecretKeys

SALT = "starlette_auth.passkey"
MAX_LENGTH = 16 * 1024  # characters of a credential as JSON; one with a certificate has about 3,000
BINARY = ("clientDataJSON", "attestationObject", "authenticatorData", "signature")
TRANSPORTS = ("ble", "cable", "hybrid", "internal", "nfc", "smart-card", "usb")


class CredentialRefused(StarletteAuthError):
    """A credential that is malformed or wrong. `reason` is for the log: visitors get one answer for all reasons."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(reason)


class CredentialCloned(CredentialRefused):
    """A security key whose counter did not rise: probably there is a copy of it."""


@dataclass(frozen=True, kw_only=True)
class Credential:
    """A passkey or security key as its registration gave it.

    `public_key` is in the format COSE. `verified` tells whether the authenticator verified its user, so that the
    credential may log in alone. `backup_eligible` tells whether it can be copied to other devices of the user, and
    `backed_up` whether it was. `user_handle` names the user to the authenticator.
    """

    credential_id: bytes
    public_key: bytes = field(repr=False)
    sign_count: int
    user_handle: bytes
    aaguid: str
    transports: tuple[str, ...]
    verified: bool
    backup_eligible: bool
    backed_up: bool


@dataclass(frozen=True, kw_only=True)
class StoredCredential:
    """A credential with the identity of the user to whom it belongs, and the signature over both."""

    credential: Credential
    user: str
    mac: str


def sign_credential(keys: SecretKeys, user: str, credential: Credential) -> str:
    """Returns the signature that is stored with a credential.

    An attacker who can write to the database, but has no secret key, stores a passkey of another user's account, or
    makes a security key a passkey. Therefore a credential counts only with this signature.
    """
    return keys.sign(SALT, _content(user, credential))


def find_signing_key(keys: SecretKeys, stored: StoredCredential) -> int | None:
    """Returns the index of the secret key that signed the stored credential (0 is the newest), or None."""
    return keys.verify(SALT, _content(stored.user, stored.credential), stored.mac)


def _content(user: str, credential: Credential) -> str:
    parts = (credential.credential_id, credential.public_key, credential.user_handle)
    flags = [credential.verified, credential.backup_eligible]
    return json.dumps([user, *(part.hex() for part in parts), *flags])


@dataclass(frozen=True, kw_only=True)
class CredentialResponse:
    """A credential as a browser sent it, decoded and not verified."""

    credential_id: bytes
    challenge: bytes
    client_data: Mapping[str, Any]
    user_handle: bytes | None
    transports: tuple[str, ...]
    fields: Mapping[str, Any] = field(repr=False)  # for the library


def read_response(sent: object) -> CredentialResponse:
    """Returns the credential that a browser sent as `PublicKeyCredential.toJSON()`, as text or as an object.

    Raises CredentialRefused if it is malformed.
    """
    fields = _read_json(sent) if isinstance(sent, str) else sent
    if not isinstance(fields, Mapping) or not isinstance(fields.get("response"), Mapping):
        raise CredentialRefused("It has no response.")
    response = fields["response"]
    client_data = _read_json(decode(response.get("clientDataJSON")))
    handle = response.get("userHandle")
    transports = response.get("transports")
    # The library gets only texts that were checked here: its decoder skips characters that are no base64url.
    binary = {name: text for name in BINARY if (text := response.get(name)) is not None}
    for text in binary.values():
        decode(text)
    return CredentialResponse(
        credential_id=decode(fields.get("rawId")),
        challenge=decode(client_data.get("challenge")),
        client_data=client_data,
        user_handle=None if handle is None else decode(handle),
        transports=tuple(name for name in TRANSPORTS if isinstance(transports, list) and name in transports),
        fields={"id": fields.get("id"), "rawId": fields.get("rawId"), "type": fields.get("type"), "response": binary},
    )


def encode(value: bytes) -> str:
    """Returns base64url without padding (RFC 4648 §5), as WebAuthn has it."""
    return base64.urlsafe_b64encode(value).decode().rstrip("=")


def decode(text: object) -> bytes:
    """Returns the bytes of a text in base64url. Raises CredentialRefused for any other value."""
    if not isinstance(text, str) or len(text) > MAX_LENGTH:
        raise CredentialRefused("A value is missing or too long.")
    try:
        value = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except ValueError:
        raise CredentialRefused("A value is no base64url.") from None
    if encode(value) != text:  # the decoder skips characters that are no base64url
        raise CredentialRefused("A value is no base64url.")
    return value


def _read_json(text: str | bytes) -> Mapping[str, Any]:
    if len(text) > MAX_LENGTH:
        raise CredentialRefused("It is too long.")
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        raise CredentialRefused("It is no JSON.") from None
    if not isinstance(value, dict):
        raise CredentialRefused("It is no JSON object.")
    return value

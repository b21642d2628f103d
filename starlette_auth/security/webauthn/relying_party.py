"""The site towards passkeys: the options for a browser, and the verification of what it sends."""

import hmac
import importlib.util
import ipaddress
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from ...core.arguments import as_texts, require_instance
from ...core.clock import MINUTE
from ...core.exceptions import ImproperlyConfigured
from ...core.signing import SecretKeys
from .credentials import (
    Credential,
    CredentialCloned,
    CredentialRefused,
    CredentialResponse,
    StoredCredential,
    encode,
    find_signing_key,
)

ALGORITHMS = (-8, -7, -257)  # EdDSA, ES256, RS256, the best first
TIMEOUT = 5 * MINUTE
MIN_RSA, MAX_RSA = 2048, 8192  # bits
MAX_ID = 1023  # bytes of a credential ID (WebAuthn Level 3 §4)
LOCAL = "localhost"
FIX = 'Pass rp_id="example.org", the domain of your site without scheme and port.'
ChallengeCheck = Callable[[bytes], bool]


@dataclass(frozen=True, kw_only=True)
class Assertion:
    """What a verified login by a credential changes in its row.

    `verified` tells whether the authenticator verified its user this time. `count_fell` marks a synced passkey whose
    counter did not rise, which happens where devices count apart. `has_old_mac` asks for a signature by the newest key.
    """

    sign_count: int
    backed_up: bool
    verified: bool
    count_fell: bool
    has_old_mac: bool


class RelyingParty:
    """Makes options for passkeys and security keys of one site, and verifies what browsers send.

    `rp_id` is the domain for which credentials are made. `origins` are the origins of the pages that may use them, and
    `name` is the name of the site in the browser's dialog. Raises ImproperlyConfigured for an address in place of a
    domain, and without the package webauthn.
    """

    def __init__(self, rp_id: str, *, origins: Sequence[str], name: str, keys: SecretKeys) -> None:
        if importlib.util.find_spec("webauthn") is None:
            raise ImproperlyConfigured(
                "Passkeys need the package webauthn. Run `pip install starlette-contrib-auth[passkeys]`."
            )
        _require_domain(rp_id)
        self.rp_id = rp_id
        self.origins = tuple(as_texts(origins, "origins", fix := 'Pass origins=["https://example.org"].'))
        self.name, self.keys = name or rp_id, keys
        require_instance(keys, SecretKeys, "keys", "Pass auth.keys.")
        for origin in self.origins:
            _require_origin(origin)
        if not any(_is_within(str(urlsplit(origin).hostname), rp_id) for origin in self.origins):
            raise ImproperlyConfigured(f"No origin is within rp_id {rp_id!r}. {fix}")

    def creation_options(
        self,
        challenge: bytes,
        *,
        user_handle: bytes,
        username: str,
        display_name: str = "",
        exclude: Sequence[Credential] = (),
        verified: bool = True,
    ) -> dict[str, Any]:
        """Returns the options for `navigator.credentials.create()`, as JSON (WebAuthn Level 3 §5.1.9).

        With `verified` the result is a passkey, which can log in alone. Without, it may be a simple security key, which
        is a second factor only. `exclude` are the credentials that the user has already.
        """
        return {
            "rp": {"id": self.rp_id, "name": self.name},
            "user": {"id": encode(user_handle), "name": username, "displayName": display_name or username},
            "challenge": encode(challenge),
            "pubKeyCredParams": [{"type": "public-key", "alg": algorithm} for algorithm in ALGORITHMS],
            "timeout": TIMEOUT * 1000,
            "excludeCredentials": [_descriptor(credential) for credential in exclude],
            "authenticatorSelection": {
                "residentKey": "required" if verified else "discouraged",
                "requireResidentKey": verified,
                "userVerification": "required" if verified else "preferred",
            },
            "attestation": "none",
        }

    def request_options(
        self, challenge: bytes, *, allow: Sequence[Credential] = (), verified: bool = True
    ) -> dict[str, Any]:
        """Returns the options for `navigator.credentials.get()`, as JSON (WebAuthn Level 3 §5.1.10).

        Before the user is known, `allow` stays empty: the list would tell who has passkeys.
        """
        return {
            "challenge": encode(challenge),
            "timeout": TIMEOUT * 1000,
            "rpId": self.rp_id,
            "allowCredentials": [_descriptor(credential) for credential in allow],
            "userVerification": "required" if verified else "preferred",
        }

    def verify_creation(
        self,
        response: CredentialResponse,
        *,
        is_our_challenge: ChallengeCheck,
        user_handle: bytes,
        verified: bool = True,
    ) -> Credential:
        """Returns the new credential (WebAuthn Level 3 §7.1). Raises CredentialRefused.

        `is_our_challenge` tells whether the challenge is valid; use it up afterwards. `user_handle` is that of the
        options. With `verified` the authenticator must have verified its user. The attestation says who made the
        authenticator, which is of no interest here.
        """
        self._check_client_data(response, is_our_challenge)
        result = self._call(
            "verify_registration_response",
            response,
            require_user_verification=verified,
            supported_pub_key_algs=list(ALGORITHMS),
        )
        if result.credential_id != response.credential_id or len(result.credential_id) > MAX_ID:
            raise CredentialRefused("The credential ID is not that of the authenticator, or too long.")
        self._require_usable_key(result.credential_public_key)
        return Credential(
            credential_id=result.credential_id,
            public_key=result.credential_public_key,
            sign_count=result.sign_count,
            user_handle=user_handle,
            aaguid=result.aaguid,
            transports=response.transports,
            verified=verified,
            backup_eligible=result.credential_device_type == "multi_device",
            backed_up=result.credential_backed_up,
        )

    def verify_assertion(
        self,
        response: CredentialResponse,
        stored: StoredCredential,
        *,
        is_our_challenge: ChallengeCheck,
        user: str | None,
        verified: bool = True,
    ) -> Assertion:
        """Returns what a login by a stored credential changes (WebAuthn Level 3 §7.2).

        `user` is the identity of the user who logs in, and None if only the credential tells. `verified` demands a
        credential that may log in alone, and that its authenticator verified the user now. Raises CredentialRefused,
        and CredentialCloned for a security key whose counter did not rise.
        """
        credential = stored.credential
        signing_key = find_signing_key(self.keys, stored)
        if signing_key is None:
            raise CredentialRefused("The stored credential was changed, or its secret key is gone.")
        if not hmac.compare_digest(response.credential_id, credential.credential_id):
            raise CredentialRefused("It is another credential.")
        if user is not None and stored.user != user:
            raise CredentialRefused("It belongs to another user.")
        if verified and not credential.verified:
            raise CredentialRefused("It is a second factor only.")
        self._check_client_data(response, is_our_challenge)
        _check_user_handle(response, credential, is_known=user is not None)
        # The library refuses every count that does not rise. Synced passkeys may have such; hence it compares with 0.
        result = self._call(
            "verify_authentication_response",
            response,
            credential_public_key=credential.public_key,
            credential_current_sign_count=0,
            require_user_verification=verified,
        )
        if (result.credential_device_type == "multi_device") is not credential.backup_eligible:
            raise CredentialRefused("It can be backed up now, or no longer, which never changes.")
        count, last_count = result.new_sign_count, credential.sign_count
        count_fell = max(count, last_count) > 0 and count <= last_count
        if count_fell and not credential.backup_eligible:
            raise CredentialCloned(f"Its counter is {count} after {last_count}.")
        return Assertion(
            sign_count=count,
            backed_up=result.credential_backed_up,
            verified=result.user_verified,
            count_fell=count_fell,
            has_old_mac=signing_key > 0,
        )

    def _check_client_data(self, response: CredentialResponse, is_our_challenge: ChallengeCheck) -> None:
        """Checks what the browser says about its page.

        An attacker shows this site, or only its dialog, in a frame of another page. The browser notes that, and the
        library does not look.
        """
        if not is_our_challenge(response.challenge):
            raise CredentialRefused("The challenge is not ours, too old, used, or of another browser.")
        if response.client_data.get("crossOrigin", False) is not False or "topOrigin" in response.client_data:
            raise CredentialRefused("It was made in a frame of another site.")

    def _call(self, function: str, response: CredentialResponse, **arguments: Any) -> Any:
        """Calls a function of the library. Whatever it raises about data of an attacker refuses the credential."""
        # The import takes 0.1 s, therefore it waits for the first credential.
        verify: Callable[..., Any] = getattr(importlib.import_module("webauthn"), function)
        try:
            return verify(
                credential=dict(response.fields),
                expected_challenge=response.challenge,
                expected_rp_id=self.rp_id,
                expected_origin=list(self.origins),
                **arguments,
            )
        except Exception as error:
            raise CredentialRefused(f"{type(error).__name__}: {error}") from error

    def _require_usable_key(self, public_key: bytes) -> None:
        """Checks the key, which nothing was signed with yet: its point, its curve, its length."""
        helpers: Any = importlib.import_module("webauthn.helpers")
        try:
            decoded = helpers.decode_credential_public_key(public_key)
            key = helpers.decoded_public_key_to_cryptography(decoded)
        except Exception as error:
            raise CredentialRefused(f"{type(error).__name__}: {error}") from error
        curve = getattr(getattr(key, "curve", None), "name", "")
        kind = {-8: "Ed25519PublicKey", -7: "secp256r1", -257: "RSAPublicKey"}[int(decoded.alg)]
        is_fitting = kind in (curve, *(base.__name__ for base in type(key).__mro__))
        if not is_fitting or (kind == "RSAPublicKey" and not MIN_RSA <= key.key_size <= MAX_RSA):
            raise CredentialRefused("The public key does not fit its algorithm.")


def _check_user_handle(response: CredentialResponse, credential: Credential, *, is_known: bool) -> None:
    """Checks the user handle that the authenticator sent.

    A security key without memory sends none, or an empty one, which is enough where the user is known already.
    """
    handle = response.user_handle
    if is_known and not handle:
        return
    if handle is None or not hmac.compare_digest(handle, credential.user_handle):
        raise CredentialRefused("It was made for another user.")


def _descriptor(credential: Credential) -> dict[str, Any]:
    return {
        "type": "public-key",
        "id": encode(credential.credential_id),
        "transports": list(credential.transports),
    }


def _require_domain(rp_id: object) -> None:
    if not isinstance(rp_id, str) or not rp_id:
        raise ImproperlyConfigured(f"rp_id is no domain. {FIX}")
    try:
        ipaddress.ip_address(rp_id.strip("[]"))
    except ValueError:
        pass
    else:
        raise ImproperlyConfigured(
            f"rp_id is the address {rp_id}, and browsers make passkeys only for names. Open http://localhost instead, with "
            "base_url='http://localhost:8000'."
        )
    if rp_id != rp_id.lower() or urlsplit(f"//{rp_id}").hostname != rp_id or not rp_id.isascii():
        raise ImproperlyConfigured(f"rp_id={rp_id!r} is no domain in lower case. {FIX}")


def _require_origin(origin: str) -> None:
    parts = urlsplit(origin)
    host = parts.hostname or ""
    is_safe = parts.scheme == "https" or (parts.scheme == "http" and _is_within(host, LOCAL))
    if not is_safe or origin != f"{parts.scheme}://{parts.netloc}" or "@" in parts.netloc or origin != origin.lower():
        raise ImproperlyConfigured(
            f"{origin!r} is no origin on which browsers use passkeys. Pass https://example.org or http://localhost:8000."
        )


def _is_within(host: str, domain: str) -> bool:
    return host == domain or host.endswith(f".{domain}")

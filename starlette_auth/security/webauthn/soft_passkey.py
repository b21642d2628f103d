"""A passkey in Python, for the tests of applications: an authenticator and its browser."""

import hashlib
import importlib
import json
import secrets
from collections.abc import Mapping
from typing import Any

from ...core.exceptions import ImproperlyConfigured
from .credentials import decode, encode

USER_PRESENT, USER_VERIFIED, BACKUP_ELIGIBLE, BACKED_UP, HAS_CREDENTIAL = 1, 4, 8, 16, 64
Options = str | Mapping[str, Any]


class SoftPasskey:
    """Creates a passkey and logs in with it, as a browser and its authenticator would.

        passkey = SoftPasskey(origin="http://localhost")
        client.post("/accounts/passkeys/add", data={"credential": passkey.create(options), "name": "Laptop"})
        client.post("/accounts/login/passkey", data={"credential": passkey.sign(options)})

    `options` are those of the page, as text or as an object: the member `publicKey` of its JSON. `synced` makes a passkey
    that is copied to other devices, as most are; its counter stays 0. Otherwise it stays on one device, and its counter
    rises. A test may change the attributes between two calls: `origin`, `user_verified`, `user_handle`, `sign_count`,
    `backup_eligible`, `backed_up`, and `client_data`, which is added to what the browser says about its page.
    """

    def __init__(self, *, origin: str, synced: bool = False, algorithm: int = -7) -> None:
        """`algorithm` is a number of COSE: -7 for ES256, -8 for EdDSA, -257 for RS256."""
        try:
            self._ec: Any = importlib.import_module("cryptography.hazmat.primitives.asymmetric.ec")
            self._cbor: Any = importlib.import_module("cbor2")
        except ModuleNotFoundError as error:
            raise ImproperlyConfigured(
                "SoftPasskey needs the package webauthn. Run `pip install starlette-contrib-auth[passkeys]`."
            ) from error
        self.origin, self.algorithm = origin, algorithm
        self.user_verified, self.backup_eligible, self.backed_up = True, synced, synced
        self.sign_count = 0
        self.rp_id, self.user_handle, self.credential_id = "", b"", secrets.token_bytes(32)
        self.client_data: dict[str, Any] = {"crossOrigin": False}
        self._key: Any = None

    def create(self, options: Options) -> str:
        """Returns the new credential as JSON, for the field `credential` of a form.

        Raises ValueError if the options exclude this passkey, or allow no such key.
        """
        options = _read(options)
        if self._key is not None and _names(options.get("excludeCredentials"), self.credential_id):
            raise ValueError("The options exclude this passkey: the user has it already.")
        if self.algorithm not in [parameter["alg"] for parameter in options["pubKeyCredParams"]]:
            raise ValueError(f"The options do not allow the algorithm {self.algorithm}.")
        self.rp_id, self.user_handle = options["rp"]["id"], decode(options["user"]["id"])
        self._key = self._make_key()
        length = len(self.credential_id).to_bytes(2, "big")
        public_key = self._cbor.dumps(self._public_key())
        data = self._authenticator_data(HAS_CREDENTIAL) + bytes(16) + length + self.credential_id + public_key
        attestation = self._cbor.dumps({"fmt": "none", "attStmt": {}, "authData": data})
        response = {
            "clientDataJSON": encode(self._client_data("webauthn.create", options["challenge"])),
            "attestationObject": encode(attestation),
            "transports": ["hybrid", "internal"] if self.backup_eligible else ["usb"],
        }
        return self._credential(response)

    def sign(self, options: Options) -> str:
        """Returns the signed challenge as JSON, for the field `credential` of a form.

        Raises ValueError if the options are for another site, or for other passkeys.
        """
        options = _read(options)
        allowed = options.get("allowCredentials")
        if self._key is None or options["rpId"] != self.rp_id or (allowed and not _names(allowed, self.credential_id)):
            raise ValueError(
                "The options are not for this passkey. Call create() first, with options of the same site."
            )
        if not self.backup_eligible:
            self.sign_count += 1
        data = self._authenticator_data()
        client_data = self._client_data("webauthn.get", options["challenge"])
        response = {
            "clientDataJSON": encode(client_data),
            "authenticatorData": encode(data),
            "signature": encode(self._sign(data + hashlib.sha256(client_data).digest())),
            "userHandle": encode(self.user_handle),
        }
        return self._credential(response)

    def _credential(self, response: Mapping[str, Any]) -> str:
        number = encode(self.credential_id)
        return json.dumps(
            {"id": number, "rawId": number, "type": "public-key", "clientExtensionResults": {}, "response": response}
        )

    def _client_data(self, kind: str, challenge: str) -> bytes:
        content = {"type": kind, "challenge": challenge, "origin": self.origin, **self.client_data}
        return json.dumps(content, separators=(",", ":")).encode()

    def _authenticator_data(self, flags: int = 0) -> bytes:
        flags |= USER_PRESENT
        flags |= USER_VERIFIED if self.user_verified else 0
        flags |= BACKUP_ELIGIBLE if self.backup_eligible else 0
        flags |= BACKED_UP if self.backed_up else 0
        return hashlib.sha256(self.rp_id.encode()).digest() + bytes([flags]) + self.sign_count.to_bytes(4, "big")

    def _make_key(self) -> Any:
        if self.algorithm == -8:
            return _asymmetric("ed25519").Ed25519PrivateKey.generate()
        if self.algorithm == -257:
            return _asymmetric("rsa").generate_private_key(65537, 2048)
        return self._ec.generate_private_key(self._ec.SECP256R1())

    def _public_key(self) -> dict[int, Any]:
        """Returns the public key in the format COSE (RFC 9053 §7, RFC 8230 §4)."""
        public = self._key.public_key()
        if self.algorithm == -8:
            return {1: 1, 3: -8, -1: 6, -2: public.public_bytes_raw()}
        numbers = public.public_numbers()
        if self.algorithm == -257:
            return {1: 3, 3: -257, -1: numbers.n.to_bytes(256, "big"), -2: numbers.e.to_bytes(3, "big")}
        return {1: 2, 3: -7, -1: 1, -2: numbers.x.to_bytes(32, "big"), -3: numbers.y.to_bytes(32, "big")}

    def _sign(self, data: bytes) -> bytes:
        if self.algorithm == -8:
            signature = self._key.sign(data)
        elif self.algorithm == -257:
            signature = self._key.sign(data, _asymmetric("padding").PKCS1v15(), _hashes().SHA256())
        else:
            signature = self._key.sign(data, self._ec.ECDSA(_hashes().SHA256()))
        return bytes(signature)


def _asymmetric(name: str) -> Any:
    return importlib.import_module(f"cryptography.hazmat.primitives.asymmetric.{name}")


def _hashes() -> Any:
    return importlib.import_module("cryptography.hazmat.primitives.hashes")


def _read(options: Options) -> Mapping[str, Any]:
    read: Mapping[str, Any] = json.loads(options) if isinstance(options, str) else options
    inner: Mapping[str, Any] = read.get("publicKey", read)
    return inner


def _names(descriptors: Any, credential_id: bytes) -> bool:
    return any(descriptor["id"] == encode(credential_id) for descriptor in descriptors or ())

"""Sealing: encrypts secrets that the database stores and that this package needs in plain text."""

import base64
import binascii
import hashlib
import importlib
import secrets

from ..core.exceptions import ImproperlyConfigured, StarletteAuthError
from ..core.signing import SecretKeys, salted_hmac

SALT = "starlette_auth.sealing"
VERSION = "1"
NONCE_LENGTH = 12  # bytes, as NIST SP 800-38D recommends for GCM


class CannotUnseal(StarletteAuthError):
    """A sealed text cannot be opened. `lost_key` is the id of its key if that is none of the secret keys, or ""."""

    def __init__(self, message: str, lost_key: str = "") -> None:
        super().__init__(message)
        self.lost_key = lost_key


class Sealer:
    """Encrypts with AES-256-GCM and keys derived from the secret keys: the newest one seals, all of them open.

    `purpose` names a column and `owner` a user. Both are bound to the sealed text: an attacker who may write to the
    database copies the text of one row to another row, which would give both users one secret; it does not open there.

    Raises ImproperlyConfigured without the package `cryptography`, which the extra `extra` installs.
    """

    def __init__(self, keys: SecretKeys, *, extra: str) -> None:
        try:
            ciphers = importlib.import_module("cryptography.hazmat.primitives.ciphers.aead")
            self._invalid: type[Exception] = importlib.import_module("cryptography.exceptions").InvalidTag
        except ImportError as error:
            raise ImproperlyConfigured(
                f"Secrets are stored encrypted, which needs cryptography. Run `pip install starlette-contrib-auth[{extra}]`."
            ) from error
        self._cipher, self.keys = ciphers.AESGCM, keys

    def seal(self, purpose: str, owner: str, data: bytes) -> str:
        """Returns the sealed data as ASCII text: "1.<id of the key>.<base64url>"."""
        key, nonce = self._key(self.keys.all[0], purpose), secrets.token_bytes(NONCE_LENGTH)
        sealed: bytes = self._cipher(key).encrypt(nonce, data, owner.encode())
        return f"{VERSION}.{_key_id(key)}.{base64.urlsafe_b64encode(nonce + sealed).decode()}"

    def unseal(self, purpose: str, owner: str, text: str) -> tuple[bytes, bool]:
        """Returns the data, and whether an older secret key sealed it: seal it again then.

        Raises CannotUnseal if the key is gone, if the text is damaged, and if it was sealed for another purpose or owner.
        """
        key_id, body = _parse(text)
        is_known = False
        for index, secret in enumerate(self.keys.all):
            key = self._key(secret, purpose)
            if _key_id(key) != key_id:
                continue
            is_known = True
            try:
                return self._cipher(key).decrypt(body[:NONCE_LENGTH], body[NONCE_LENGTH:], owner.encode()), index > 0
            except self._invalid:
                continue  # two keys may have the same id
        if is_known:
            raise CannotUnseal(f"A sealed {purpose} is damaged, or belongs to another row than that of {owner}.")
        # Keys are derived for one purpose, so a text for another purpose has an unknown key, too.
        raise CannotUnseal(
            f"The key {key_id}, which sealed the {purpose} of {owner}, is none of the secret keys. Add the old secret key.",
            key_id,
        )

    def _key(self, secret: str, purpose: str) -> bytes:
        return bytes.fromhex(salted_hmac(self.keys.salt(SALT), purpose, secret))


def _key_id(key: bytes) -> str:
    return hashlib.sha256(b"id" + key).hexdigest()[:8]


def _parse(text: str) -> tuple[str, bytes]:
    """Returns the id of the key, and the nonce with the encrypted data."""
    version, _, rest = text.partition(".")
    key_id, _, encoded = rest.partition(".")
    try:
        body = base64.b64decode(encoded.encode("ascii"), altchars=b"-_", validate=True)
    except (UnicodeEncodeError, binascii.Error):
        body = b""
    if version != VERSION or len(body) <= NONCE_LENGTH:
        raise CannotUnseal("A sealed text is damaged: it has not the format of this version.")
    return key_id, body

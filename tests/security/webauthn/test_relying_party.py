"""Tests of the options for passkeys, and of each check of what a browser sends."""

import base64
import dataclasses
import importlib
import json
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import cbor2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from starlette_auth import ImproperlyConfigured
from starlette_auth.core.signing import SecretKeys
from starlette_auth.security.webauthn.credentials import (
    MAX_LENGTH,
    Credential,
    CredentialCloned,
    CredentialRefused,
    StoredCredential,
    decode,
    encode,
    find_signing_key,
    read_response,
    sign_credential,
)
from starlette_auth.security.webauthn.relying_party import Assertion, RelyingParty
from starlette_auth.testing import SoftPasskey

from ...conftest import SECRET_KEY

OLD_KEY = "an older key, which was replaced a year ago: 0123456789"
ORIGIN = "https://example.org"
HANDLE, CHALLENGE = b"h" * 32, b"c" * 72
KEYS = SecretKeys(SECRET_KEY)


class Site:
    """Registers and verifies passkeys of the user "1" with one challenge."""

    def __init__(self, party: RelyingParty) -> None:
        self.party = party

    def create(
        self, passkey: SoftPasskey, *, verified: bool = True, change: Callable[[Any], None] | None = None
    ) -> Credential:
        options = self.party.creation_options(CHALLENGE, user_handle=HANDLE, username="ann", verified=verified)
        sent = json.loads(passkey.create(options))
        if change:
            change(sent)
        return self.party.verify_creation(
            read_response(sent), is_our_challenge=is_ours, user_handle=HANDLE, verified=verified
        )

    def store(self, passkey: SoftPasskey, *, verified: bool = True) -> StoredCredential:
        return stored_of(self.create(passkey, verified=verified))

    def log_in(
        self,
        passkey: SoftPasskey,
        stored: StoredCredential,
        *,
        user: str | None = None,
        verified: bool = True,
        change: Callable[[Any], None] | None = None,
    ) -> Assertion:
        sent = json.loads(passkey.sign(self.party.request_options(CHALLENGE, verified=verified)))
        if change:
            change(sent)
        return self.party.verify_assertion(
            read_response(sent), stored, is_our_challenge=is_ours, user=user, verified=verified
        )


def is_ours(challenge: bytes) -> bool:
    return challenge == CHALLENGE


def is_foreign(challenge: bytes) -> bool:
    return False


def stored_of(credential: Credential, *, user: str = "1", keys: SecretKeys = KEYS) -> StoredCredential:
    return StoredCredential(credential=credential, user=user, mac=sign_credential(keys, user, credential))


def changed(stored: StoredCredential, **fields: Any) -> StoredCredential:
    """The stored credential with other fields and a right signature."""
    return stored_of(dataclasses.replace(stored.credential, **fields), user=stored.user)


@pytest.fixture
def site() -> Site:
    return Site(RelyingParty("example.org", origins=[ORIGIN, "https://www.example.org"], name="Shop", keys=KEYS))


@pytest.fixture
def passkey() -> SoftPasskey:
    return SoftPasskey(origin=ORIGIN)


# What works


@pytest.mark.parametrize("algorithm", [-7, -8, -257])
@pytest.mark.parametrize("synced", [False, True], ids=["one device", "synced"])
def test_a_passkey_is_created_and_logs_in(site: Site, algorithm: int, synced: bool) -> None:
    passkey = SoftPasskey(origin=ORIGIN, synced=synced, algorithm=algorithm)
    stored = site.store(passkey)
    credential = stored.credential
    assert credential.credential_id == passkey.credential_id
    assert (credential.user_handle, credential.sign_count, credential.verified) == (HANDLE, 0, True)
    assert (credential.backup_eligible, credential.backed_up) == (synced, synced)
    assert credential.transports == (("hybrid", "internal") if synced else ("usb",))
    assert credential.aaguid == "00000000-0000-0000-0000-000000000000"
    for number in (1, 2):
        assertion = site.log_in(passkey, stored)
        count = 0 if synced else number
        assert assertion == Assertion(
            sign_count=count, backed_up=synced, verified=True, count_fell=False, has_old_mac=False
        )
        stored = changed(stored, sign_count=assertion.sign_count)


def test_pages_of_all_origins_may_use_a_passkey(site: Site, passkey: SoftPasskey) -> None:
    stored = site.store(passkey)
    passkey.origin = "https://www.example.org"
    site.log_in(passkey, stored)


def test_a_passkey_may_be_backed_up_later(site: Site) -> None:
    passkey = SoftPasskey(origin=ORIGIN, synced=True)
    passkey.backed_up = False
    stored = site.store(passkey)
    assert not site.log_in(passkey, stored).backed_up
    passkey.backed_up = True
    assert site.log_in(passkey, stored).backed_up


def test_the_options_ask_for_passkeys_or_for_security_keys(site: Site, passkey: SoftPasskey) -> None:
    credential = site.create(passkey)
    options = site.party.creation_options(CHALLENGE, user_handle=HANDLE, username="ann", exclude=[credential])
    assert json.loads(json.dumps(options)) == {
        "rp": {"id": "example.org", "name": "Shop"},
        "user": {"id": encode(HANDLE), "name": "ann", "displayName": "ann"},
        "challenge": encode(CHALLENGE),
        "pubKeyCredParams": [{"type": "public-key", "alg": number} for number in (-8, -7, -257)],
        "timeout": 300_000,
        "excludeCredentials": [{"type": "public-key", "id": encode(passkey.credential_id), "transports": ["usb"]}],
        "authenticatorSelection": {
            "residentKey": "required",
            "requireResidentKey": True,
            "userVerification": "required",
        },
        "attestation": "none",
    }
    options = site.party.creation_options(CHALLENGE, user_handle=HANDLE, username="ann", verified=False)
    assert options["authenticatorSelection"] == {
        "residentKey": "discouraged",
        "requireResidentKey": False,
        "userVerification": "preferred",
    }
    request = site.party.request_options(CHALLENGE)
    assert request == {
        "challenge": encode(CHALLENGE),
        "timeout": 300_000,
        "rpId": "example.org",
        "allowCredentials": [],
        "userVerification": "required",
    }
    request = site.party.request_options(CHALLENGE, allow=[credential], verified=False)
    assert [descriptor["id"] for descriptor in request["allowCredentials"]] == [encode(passkey.credential_id)]
    assert request["userVerification"] == "preferred"


def test_the_library_reads_our_options(site: Site, passkey: SoftPasskey) -> None:
    helpers: Any = importlib.import_module("webauthn.helpers")
    credential = site.create(passkey)
    options = site.party.creation_options(CHALLENGE, user_handle=HANDLE, username="ann", exclude=[credential])
    assert helpers.parse_registration_options_json(options).challenge == CHALLENGE
    request = site.party.request_options(CHALLENGE, allow=[credential])
    assert helpers.parse_authentication_options_json(request).allow_credentials[0].id == passkey.credential_id


# Attacks 23 to 28 of the design: each of these is refused


ORIGINS = [
    "https://evil.example",
    "http://example.org",
    "https://example.org:8443",
    "https://example.org/",
    "https://shop.example.org",
    "https://example.org.evil.example",
    "HTTPS://EXAMPLE.ORG",
    "null",
    "",
]


@pytest.mark.parametrize("origin", ORIGINS)
def test_a_page_of_another_origin_is_refused(site: Site, passkey: SoftPasskey, origin: str) -> None:
    stored = site.store(passkey)
    passkey.origin = origin
    with pytest.raises(CredentialRefused, match="origin"):
        site.log_in(passkey, stored)
    with pytest.raises(CredentialRefused, match="origin"):
        site.create(passkey)


@pytest.mark.parametrize("value", [[ORIGIN], {"a": 1}, 1, None])
def test_an_origin_that_is_no_text_is_refused(site: Site, passkey: SoftPasskey, value: object) -> None:
    stored = site.store(passkey)
    passkey.client_data = {"origin": value}
    with pytest.raises(CredentialRefused, match="origin"):
        site.log_in(passkey, stored)


@pytest.mark.parametrize(
    "client_data",
    [
        {"crossOrigin": True},
        {"crossOrigin": True, "topOrigin": "https://evil.example"},
        {"crossOrigin": False, "topOrigin": "https://evil.example"},
        {"topOrigin": ORIGIN},
        {"topOrigin": None},
        {"crossOrigin": None},
        {"crossOrigin": "false"},
        {"crossOrigin": 0},
    ],
    ids=str,
)
def test_a_frame_of_another_site_is_refused(site: Site, passkey: SoftPasskey, client_data: dict[str, Any]) -> None:
    stored = site.store(passkey)
    passkey.client_data = client_data
    with pytest.raises(CredentialRefused, match="frame"):
        site.log_in(passkey, stored)
    with pytest.raises(CredentialRefused, match="frame"):
        site.create(passkey)


def test_browsers_that_do_not_know_of_frames_are_accepted(site: Site, passkey: SoftPasskey) -> None:
    passkey.client_data = {}
    site.log_in(passkey, site.store(passkey))


def test_a_passkey_of_another_site_is_refused(site: Site, passkey: SoftPasskey) -> None:
    stored = site.store(passkey)
    passkey.rp_id = "evil.example"
    sent = json.loads(passkey.sign({**site.party.request_options(CHALLENGE), "rpId": "evil.example"}))
    with pytest.raises(CredentialRefused, match="RP ID"):
        site.party.verify_assertion(read_response(sent), stored, is_our_challenge=is_ours, user=None)
    options = site.party.creation_options(CHALLENGE, user_handle=HANDLE, username="ann")
    sent = json.loads(passkey.create({**options, "rp": {"id": "evil.example", "name": ""}}))
    with pytest.raises(CredentialRefused, match="RP ID"):
        site.party.verify_creation(read_response(sent), is_our_challenge=is_ours, user_handle=HANDLE)


def test_a_challenge_that_is_not_ours_is_refused(site: Site, passkey: SoftPasskey) -> None:
    stored = site.store(passkey)
    response = read_response(passkey.sign(site.party.request_options(CHALLENGE)))
    with pytest.raises(CredentialRefused, match="challenge"):
        site.party.verify_assertion(response, stored, is_our_challenge=is_foreign, user=None)
    options = site.party.creation_options(CHALLENGE, user_handle=HANDLE, username="ann")
    response = read_response(passkey.create(options))
    with pytest.raises(CredentialRefused, match="challenge"):
        site.party.verify_creation(response, is_our_challenge=is_foreign, user_handle=HANDLE)


def test_the_challenge_that_is_checked_is_the_one_that_was_signed(site: Site, passkey: SoftPasskey) -> None:
    seen: list[bytes] = []
    response = read_response(passkey.create(site.party.creation_options(b"x" * 72, user_handle=HANDLE, username="a")))
    check = lambda challenge: not seen.append(challenge)  # type: ignore[func-returns-value]  # noqa: E731
    site.party.verify_creation(response, is_our_challenge=check, user_handle=HANDLE)
    assert seen == [b"x" * 72]


def test_an_unverified_user_is_refused(site: Site, passkey: SoftPasskey) -> None:
    stored = site.store(passkey)
    passkey.user_verified = False
    with pytest.raises(CredentialRefused, match="verif"):
        site.log_in(passkey, stored)
    assert not site.log_in(passkey, stored, verified=False).verified  # as a second factor
    with pytest.raises(CredentialRefused, match="verif"):
        site.create(passkey)


def test_a_security_key_logs_nobody_in_alone(site: Site, passkey: SoftPasskey) -> None:
    passkey.user_verified = False
    stored = site.store(passkey, verified=False)
    assert not stored.credential.verified
    passkey.user_verified = True
    with pytest.raises(CredentialRefused, match="second factor"):
        site.log_in(passkey, stored)
    assert site.log_in(passkey, stored, user="1", verified=False).verified


@pytest.mark.parametrize("handle", [b"", b"g" * 32, b"h" * 31])
def test_the_user_handle_of_another_user_is_refused(site: Site, passkey: SoftPasskey, handle: bytes) -> None:
    stored = site.store(passkey)
    passkey.user_handle = handle
    with pytest.raises(CredentialRefused, match="made for another user"):
        site.log_in(passkey, stored)
    if handle:
        with pytest.raises(CredentialRefused, match="made for another user"):
            site.log_in(passkey, stored, user="1")


def test_a_user_handle_may_be_missing_once_the_user_is_known(site: Site, passkey: SoftPasskey) -> None:
    stored = site.store(passkey)

    def remove(sent: Any) -> None:
        del sent["response"]["userHandle"]

    def set_null(sent: Any) -> None:
        sent["response"]["userHandle"] = None

    for change in (remove, set_null):
        with pytest.raises(CredentialRefused, match="made for another user"):
            site.log_in(passkey, stored, change=change)
        site.log_in(passkey, stored, user="1", change=change)
    passkey.user_handle = b""
    site.log_in(passkey, stored, user="1")


def test_the_passkey_of_another_user_is_no_second_factor(site: Site, passkey: SoftPasskey) -> None:
    stored = site.store(passkey)
    with pytest.raises(CredentialRefused, match="belongs to another user"):
        site.log_in(passkey, stored, user="2", verified=False)


def test_another_credential_than_the_stored_one_is_refused(site: Site, passkey: SoftPasskey) -> None:
    stored = site.store(passkey)
    passkey.credential_id = b"another"
    with pytest.raises(CredentialRefused, match="another credential"):
        site.log_in(passkey, stored)


def test_the_signature_of_another_key_is_refused(site: Site, passkey: SoftPasskey) -> None:
    stored = site.store(passkey)
    other = SoftPasskey(origin=ORIGIN)
    other.credential_id = passkey.credential_id
    site.create(other)
    with pytest.raises(CredentialRefused, match="signature"):
        site.log_in(other, stored)


@pytest.mark.parametrize("synced", [False, True])
def test_a_changed_backup_eligibility_is_refused(site: Site, synced: bool) -> None:
    passkey = SoftPasskey(origin=ORIGIN, synced=synced)
    stored = site.store(passkey)
    passkey.backup_eligible, passkey.backed_up = not synced, False
    with pytest.raises(CredentialRefused, match="backed up"):
        site.log_in(passkey, stored)


@pytest.mark.parametrize(
    ("last_count", "count", "is_cloned"), [(0, 0, False), (0, 1, False), (5, 6, False), (5, 5, True), (5, 0, True)]
)
def test_a_counter_that_does_not_rise_is_that_of_a_clone(
    site: Site, passkey: SoftPasskey, last_count: int, count: int, is_cloned: bool
) -> None:
    stored = changed(site.store(passkey), sign_count=last_count)
    passkey.sign_count = count - 1  # the authenticator adds one
    if is_cloned:
        with pytest.raises(CredentialCloned):
            site.log_in(passkey, stored)
    else:
        assert site.log_in(passkey, stored).sign_count == count


def test_a_synced_passkey_whose_counter_fell_logs_in(site: Site) -> None:
    passkey = SoftPasskey(origin=ORIGIN, synced=True)
    stored = changed(site.store(passkey), sign_count=7)
    for count, count_fell in ((3, True), (7, True), (8, False)):
        passkey.sign_count = count
        assertion = site.log_in(passkey, stored)
        assert (assertion.sign_count, assertion.count_fell) == (count, count_fell)


def test_a_clone_is_only_reported_for_a_right_signature(site: Site, passkey: SoftPasskey) -> None:
    """A stranger who knows the credential ID could otherwise have its owner warned."""
    stored = changed(site.store(passkey), sign_count=7)

    def break_signature(sent: Any) -> None:
        signature = bytearray(decode(sent["response"]["signature"]))
        signature[-1] ^= 1
        sent["response"]["signature"] = encode(bytes(signature))

    with pytest.raises(CredentialRefused) as refusal:
        site.log_in(passkey, stored, change=break_signature)
    assert not isinstance(refusal.value, CredentialCloned)


# The signature of the row


@pytest.mark.parametrize(
    "fields",
    [
        {"public_key": b"another key"},
        {"user_handle": b"g" * 32},
        {"verified": False},
        {"backup_eligible": True},
        {"credential_id": b"another"},
    ],
    ids=str,
)
def test_a_row_that_was_changed_in_the_database_is_refused(
    site: Site, passkey: SoftPasskey, fields: dict[str, Any]
) -> None:
    stored = site.store(passkey)
    forged = dataclasses.replace(stored, credential=dataclasses.replace(stored.credential, **fields))
    with pytest.raises(CredentialRefused, match="was changed"):
        site.log_in(passkey, forged, verified=False)


def test_a_row_that_was_moved_to_another_user_is_refused(site: Site, passkey: SoftPasskey) -> None:
    stored = dataclasses.replace(site.store(passkey), user="2")
    with pytest.raises(CredentialRefused, match="was changed"):
        site.log_in(passkey, stored)


def test_a_row_of_an_older_key_asks_for_a_new_signature(site: Site, passkey: SoftPasskey) -> None:
    stored = stored_of(site.create(passkey), keys=SecretKeys(OLD_KEY))
    with pytest.raises(CredentialRefused, match="secret key is gone"):
        site.log_in(passkey, stored)
    rotated = SecretKeys([SECRET_KEY, OLD_KEY])
    party = RelyingParty("example.org", origins=[ORIGIN], name="Shop", keys=rotated)
    assert Site(party).log_in(passkey, stored).has_old_mac
    assert find_signing_key(rotated, stored_of(stored.credential)) == 0


def test_parts_of_a_row_cannot_be_shifted_into_each_other(site: Site, passkey: SoftPasskey) -> None:
    credential = site.create(passkey)
    longer = dataclasses.replace(
        credential,
        credential_id=credential.credential_id + credential.public_key[:1],
        public_key=credential.public_key[1:],
    )
    assert sign_credential(KEYS, "1", credential) != sign_credential(KEYS, "1", longer)


# Registration


def with_public_key(key: dict[int, Any]) -> Callable[[Any], None]:
    """Returns a change that replaces the public key in the attestation."""

    def change(sent: Any) -> None:
        attestation = cbor2.loads(decode(sent["response"]["attestationObject"]))
        data = attestation["authData"]
        attestation["authData"] = data[: 55 + int.from_bytes(data[53:55], "big")] + cbor2.dumps(key)
        sent["response"]["attestationObject"] = encode(cbor2.dumps(attestation))

    return change


@pytest.mark.parametrize(
    "key",
    [
        {1: 2, 3: -35, -1: 2, -2: b"x" * 48, -3: b"y" * 48},  # ES384
        {1: 2, 3: -7, -1: 1, -2: b"x" * 32, -3: b"y" * 32},  # not on the curve
        {1: 2, 3: -8, -1: 1, -2: b"x" * 32, -3: b"y" * 32},
        {1: 1, 3: -8, -1: 6, -2: b"x" * 31},
        {1: 1, 3: -7, -1: 6, -2: b"x" * 32},
        {1: 3, 3: -257, -1: ((1 << 1023) + 1).to_bytes(128, "big"), -2: b"\1\0\1"},  # 1,024 bits
        {1: 3, 3: -257, -1: ((1 << 8199) + 1).to_bytes(1025, "big"), -2: b"\1\0\1"},
        {1: 3, 3: -65535, -1: ((1 << 2047) + 1).to_bytes(256, "big"), -2: b"\1\0\1"},  # RS1
        {1: 3, 3: -7, -1: ((1 << 2047) + 1).to_bytes(256, "big"), -2: b"\1\0\1"},
        {},
    ],
    ids=lambda key: str((key.get(1), key.get(3), len(key.get(-2, b"")))),
)
def test_a_public_key_that_does_not_fit_is_refused(site: Site, passkey: SoftPasskey, key: dict[int, Any]) -> None:
    with pytest.raises(CredentialRefused):
        site.create(passkey, change=with_public_key(key))


def test_a_key_on_another_curve_is_refused(site: Site, passkey: SoftPasskey) -> None:
    ec: Any = importlib.import_module("cryptography.hazmat.primitives.asymmetric.ec")
    numbers = ec.generate_private_key(ec.SECP384R1()).public_key().public_numbers()
    key = {1: 2, 3: -7, -1: 2, -2: numbers.x.to_bytes(48, "big"), -3: numbers.y.to_bytes(48, "big")}
    with pytest.raises(CredentialRefused, match="does not fit"):
        site.create(passkey, change=with_public_key(key))


def test_an_algorithm_that_was_not_offered_is_refused(site: Site, passkey: SoftPasskey) -> None:
    rsa: Any = importlib.import_module("cryptography.hazmat.primitives.asymmetric.rsa")
    modulus = rsa.generate_private_key(65537, 2048).public_key().public_numbers().n.to_bytes(256, "big")
    for algorithm in (-37, -258, -259):
        with pytest.raises(CredentialRefused, match="Unsupported credential public key alg"):
            site.create(passkey, change=with_public_key({1: 3, 3: algorithm, -1: modulus, -2: b"\1\0\1"}))


def test_a_credential_id_that_the_authenticator_did_not_give_is_refused(site: Site, passkey: SoftPasskey) -> None:
    """An attacker registers the ID of a victim's passkey, whose login would then find another row."""

    def change(sent: Any) -> None:
        sent["id"] = sent["rawId"] = encode(b"the ID of a victim")

    with pytest.raises(CredentialRefused, match="credential ID"):
        site.create(passkey, change=change)


def test_a_credential_id_that_is_too_long_is_refused(site: Site, passkey: SoftPasskey) -> None:
    passkey.credential_id = b"i" * 1023
    site.create(passkey)
    passkey.credential_id = b"i" * 1024
    with pytest.raises(CredentialRefused, match="too long"):
        site.create(passkey)


def test_an_answer_of_the_other_kind_is_refused(site: Site, passkey: SoftPasskey) -> None:
    stored = site.store(passkey)
    passkey.client_data = {"type": "webauthn.create"}
    with pytest.raises(CredentialRefused, match="type"):
        site.log_in(passkey, stored)
    passkey.client_data = {"type": "webauthn.get"}
    with pytest.raises(CredentialRefused, match="type"):
        site.create(passkey)


# Malformed input


@pytest.mark.parametrize(
    "text",
    [
        "",
        "null",
        "[]",
        "1",
        "{}",
        "{",
        '{"response": 1}',
        '{"response": {}}',
        "[" * 10_000,
        '{"a": 1' + " " * 20_000 + "}",
    ],
    ids=lambda text: text[:20] or "empty",
)
def test_a_malformed_credential_is_refused(text: str) -> None:
    with pytest.raises(CredentialRefused):
        read_response(text)


@pytest.mark.parametrize("value", [None, 1, [], [{}], {}, {"response": None}, b"{}"])
def test_a_value_that_is_no_credential_is_refused(value: object) -> None:
    with pytest.raises(CredentialRefused):
        read_response(value)


def test_what_is_too_long_is_not_read(site: Site, passkey: SoftPasskey) -> None:
    site.create(passkey)
    text = passkey.sign(site.party.request_options(CHALLENGE))
    read_response(text + " " * (MAX_LENGTH - len(text)))
    with pytest.raises(CredentialRefused, match="too long"):
        read_response(text + " " * (MAX_LENGTH - len(text) + 1))
    assert decode("A" * MAX_LENGTH) == bytes(MAX_LENGTH * 3 // 4)
    with pytest.raises(CredentialRefused, match="too long"):
        decode("A" * (MAX_LENGTH + 4))


@pytest.mark.parametrize("value", ["AA=", "AA==", "A", "A A", "AA!", "AB", "A/+A", "é", None, 1, ["AA"]])
def test_only_base64url_is_decoded(value: object) -> None:
    with pytest.raises(CredentialRefused):
        decode(value)


@pytest.mark.parametrize("name", ["id", "rawId", "type"])
@pytest.mark.parametrize("value", [None, 1, "", "AAAA", "==", {}])
def test_wrong_members_are_refused(site: Site, passkey: SoftPasskey, name: str, value: object) -> None:
    stored = site.store(passkey)
    with pytest.raises(CredentialRefused):
        site.log_in(passkey, stored, change=lambda sent: sent.update({name: value}))


@pytest.mark.parametrize("name", ["clientDataJSON", "authenticatorData", "signature"])
@pytest.mark.parametrize("value", [None, 1, "", "AAAA", "==", {}, "A" * 17_000])
def test_wrong_members_of_the_response_are_refused(site: Site, passkey: SoftPasskey, name: str, value: object) -> None:
    stored = site.store(passkey)
    with pytest.raises(CredentialRefused):
        site.log_in(passkey, stored, change=lambda sent: sent["response"].update({name: value}))


@pytest.mark.parametrize("name", ["authenticatorData", "signature", "attestationObject"])
def test_the_library_gets_no_other_spelling_of_a_value(site: Site, passkey: SoftPasskey, name: str) -> None:
    """Its decoder skips characters, so that there are many texts for one value."""

    def change(sent: Any) -> None:
        sent["response"][name] = "!" + sent["response"][name]

    if name == "attestationObject":
        with pytest.raises(CredentialRefused, match="no base64url"):
            site.create(passkey, change=change)
    else:
        stored = site.store(passkey)
        with pytest.raises(CredentialRefused, match="no base64url"):
            site.log_in(passkey, stored, change=change)


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_changed_bytes_are_refused_and_raise_nothing_else(data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from(["attestationObject", "authenticatorData", "signature", "clientDataJSON"]))
    text = EXAMPLES[kind == "attestationObject"]
    sent = json.loads(text)
    raw = bytearray(decode(sent["response"][kind]))
    index = data.draw(st.integers(0, len(raw) - 1))
    end = data.draw(st.integers(index, min(len(raw), index + 4)))
    raw[index:end] = data.draw(st.binary(min_size=1, max_size=4))
    sent["response"][kind] = encode(bytes(raw))
    try:
        if kind == "attestationObject":
            PARTY.verify_creation(read_response(sent), is_our_challenge=is_ours, user_handle=HANDLE)
        else:
            PARTY.verify_assertion(read_response(sent), EXAMPLE, is_our_challenge=is_ours, user=None)
            assert sent == json.loads(text)
    except CredentialRefused:
        pass


def make_examples() -> tuple[RelyingParty, StoredCredential, tuple[str, str]]:
    party, passkey = RelyingParty("example.org", origins=[ORIGIN], name="", keys=KEYS), SoftPasskey(origin=ORIGIN)
    created = passkey.create(party.creation_options(CHALLENGE, user_handle=HANDLE, username="ann"))
    credential = party.verify_creation(read_response(created), is_our_challenge=is_ours, user_handle=HANDLE)
    return party, stored_of(credential), (passkey.sign(party.request_options(CHALLENGE)), created)


PARTY, EXAMPLE, EXAMPLES = make_examples()


# Configuration


@pytest.mark.parametrize(
    "rp_id",
    ["", "127.0.0.1", "[::1]", "::1", "https://example.org", "example.org:443", "example.org/", "Example.org", None, 1],
)
def test_an_rp_id_is_a_domain(rp_id: Any) -> None:
    with pytest.raises(ImproperlyConfigured):
        RelyingParty(rp_id, origins=[ORIGIN], name="", keys=KEYS)


def test_an_address_is_refused_with_the_way_out() -> None:
    with pytest.raises(ImproperlyConfigured, match="http://localhost"):
        RelyingParty("127.0.0.1", origins=["http://127.0.0.1:8000"], name="", keys=KEYS)


@pytest.mark.parametrize(
    "origins",
    [
        [],
        ["http://example.org"],
        ["https://example.org/"],
        ["https://Example.org"],
        ["https://ann@example.org"],
        ["https://example.org", "ftp://example.org"],
        ["https://another.example"],
        ["https://notexample.org"],
        "https://example.org",
    ],
    ids=str,
)
def test_origins_are_those_of_safe_pages_of_the_domain(origins: Any) -> None:
    with pytest.raises(ImproperlyConfigured):
        RelyingParty("example.org", origins=origins, name="", keys=KEYS)


def test_localhost_and_further_domains_are_accepted() -> None:
    local = RelyingParty("localhost", origins=["http://localhost:8000"], name="", keys=KEYS)
    assert local.creation_options(CHALLENGE, user_handle=HANDLE, username="ann")["rp"]["name"] == "localhost"
    RelyingParty("example.org", origins=[ORIGIN, "https://example.de"], name="", keys=KEYS)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "webauthn", None)
    with pytest.raises(ImproperlyConfigured, match=r"starlette-contrib-auth\[passkeys\]"):
        RelyingParty("example.org", origins=[ORIGIN], name="", keys=KEYS)
    monkeypatch.setitem(sys.modules, "cbor2", None)
    with pytest.raises(ImproperlyConfigured, match=r"starlette-contrib-auth\[passkeys\]"):
        SoftPasskey(origin=ORIGIN)


def test_the_package_is_imported_at_its_first_use() -> None:
    code = (
        "import sys, starlette_auth, starlette_auth.testing\n"
        "from starlette_auth.core.signing import SecretKeys\n"
        "from starlette_auth.security.webauthn.relying_party import RelyingParty\n"
        f"party = RelyingParty('localhost', origins=['http://localhost'], name='', keys=SecretKeys({SECRET_KEY!r}))\n"
        "party.request_options(b'c')\n"
        "print(sorted({'webauthn', 'cryptography', 'cbor2'} & set(sys.modules)))\n"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


# SoftPasskey


def test_a_soft_passkey_takes_the_json_of_a_page(site: Site, passkey: SoftPasskey) -> None:
    options = site.party.creation_options(CHALLENGE, user_handle=HANDLE, username="ann")
    created = passkey.create(json.dumps({"publicKey": options}))
    credential = site.party.verify_creation(read_response(created), is_our_challenge=is_ours, user_handle=HANDLE)
    signed = passkey.sign(json.dumps({"publicKey": site.party.request_options(CHALLENGE, allow=[credential])}))
    site.party.verify_assertion(read_response(signed), stored_of(credential), is_our_challenge=is_ours, user=None)


def test_a_soft_passkey_refuses_what_a_browser_refuses(site: Site, passkey: SoftPasskey) -> None:
    request = site.party.request_options(CHALLENGE)
    with pytest.raises(ValueError, match="create"):
        passkey.sign(request)
    credential = site.create(passkey)
    with pytest.raises(ValueError, match="not for this passkey"):
        passkey.sign({**request, "rpId": "another.example"})
    other = site.create(SoftPasskey(origin=ORIGIN))
    with pytest.raises(ValueError, match="not for this passkey"):
        passkey.sign(site.party.request_options(CHALLENGE, allow=[other]))
    options = site.party.creation_options(CHALLENGE, user_handle=HANDLE, username="ann", exclude=[credential])
    with pytest.raises(ValueError, match="exclude"):
        passkey.create(options)
    with pytest.raises(ValueError, match="algorithm"):
        SoftPasskey(origin=ORIGIN, algorithm=-35).create({**options, "excludeCredentials": []})


def test_encode_and_decode_are_base64url_without_padding() -> None:
    assert encode(b"\xff\xfe\xfd\xfc") == base64.urlsafe_b64encode(b"\xff\xfe\xfd\xfc").decode().rstrip("=")
    assert decode("__79_A") == b"\xff\xfe\xfd\xfc"

"""Tests of sealing: encrypted secrets in the database open for their owner and purpose only."""

import base64
import secrets
import sys
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from starlette_auth import ImproperlyConfigured
from starlette_auth.core.signing import SecretKeys
from starlette_auth.security.sealing import CannotUnseal, Sealer

from ..conftest import SECRET_KEY

OLD_KEY, OTHER_KEY = (f"{name} {SECRET_KEY}" for name in ("old", "other"))
SEED = bytes(range(20))


def sealer(*keys: str, namespace: str = "") -> Sealer:
    return Sealer(SecretKeys(keys or (SECRET_KEY,)).scoped(namespace), extra="two-factor")


@given(data=st.binary(max_size=200), purpose=st.text(), owner=st.text(st.characters(codec="utf-8")))
def test_what_was_sealed_opens(data: bytes, purpose: str, owner: str) -> None:
    purpose = purpose.encode("utf-8", "replace").decode()
    assert sealer().unseal(purpose, owner, sealer().seal(purpose, owner, data)) == (data, False)


def test_the_text_is_short_ascii_and_different_each_time() -> None:
    texts = {sealer().seal("totp", "user 1", SEED) for _ in range(100)}
    assert len(texts) == 100
    assert all(text.isascii() and len(text) == 75 and text.startswith("1.") for text in texts)
    assert len({text.split(".")[1] for text in texts}) == 1  # the key
    assert not any(SEED in base64.urlsafe_b64decode(text.split(".")[2]) for text in texts)


@pytest.mark.parametrize(
    ("purpose", "owner"), [("totp", "user 2"), ("totp", "user 11"), ("totp", ""), ("token", "user 1"), ("", "user 1")]
)
def test_a_text_opens_for_no_other_owner_or_purpose(purpose: str, owner: str) -> None:
    text = sealer().seal("totp", "user 1", SEED)
    with pytest.raises(CannotUnseal):
        sealer().unseal(purpose, owner, text)


def test_a_text_opens_for_no_user_of_another_user_table() -> None:
    text = sealer(namespace="member").seal("totp", "user 1", SEED)
    assert sealer(namespace="member").unseal("totp", "user 1", text) == (SEED, False)
    with pytest.raises(CannotUnseal):
        sealer().unseal("totp", "user 1", text)


def test_an_old_key_opens_and_says_that_the_text_is_old() -> None:
    text = sealer(OLD_KEY).seal("totp", "user 1", SEED)
    rotated = sealer(SECRET_KEY, OLD_KEY)
    assert rotated.unseal("totp", "user 1", text) == (SEED, True)
    again = rotated.seal("totp", "user 1", SEED)
    assert rotated.unseal("totp", "user 1", again) == (SEED, False)
    assert sealer(SECRET_KEY).unseal("totp", "user 1", again) == (SEED, False)


def test_a_lost_key_is_named() -> None:
    text = sealer(OLD_KEY).seal("totp", "user 1", SEED)
    with pytest.raises(CannotUnseal, match="none of the secret keys") as caught:
        sealer(SECRET_KEY, OTHER_KEY).unseal("totp", "user 1", text)
    assert caught.value.lost_key == text.split(".")[1]
    assert OLD_KEY not in str(caught.value)


def test_two_keys_with_one_id_both_open(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("starlette_auth.security.sealing._key_id", lambda key: "00000000")
    text = sealer(OLD_KEY).seal("totp", "user 1", SEED)
    assert sealer(SECRET_KEY, OLD_KEY).unseal("totp", "user 1", text) == (SEED, True)
    with pytest.raises(CannotUnseal, match="damaged"):
        sealer(SECRET_KEY).unseal("totp", "user 1", text)


def flip(text: str, index: int) -> str:
    return text[:index] + ("A" if text[index] != "A" else "B") + text[index + 1 :]


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: "",
        lambda text: "no seal",
        lambda text: text[:-4],
        lambda text: text[:-1],
        lambda text: text + "AAAA",
        lambda text: text[:20],
        lambda text: text.rpartition(".")[0] + ".",
        lambda text: text.replace("1.", "2.", 1),
        lambda text: text + "ü",
        lambda text: text[:30] + "\n" + text[30:],
        lambda text: flip(text, 2),
    ],
)
def test_a_damaged_text_does_not_open(damage: Callable[[str], str]) -> None:
    with pytest.raises(CannotUnseal):
        sealer().unseal("totp", "user 1", damage(sealer().seal("totp", "user 1", SEED)))


def test_no_character_can_be_changed() -> None:
    text = sealer().seal("totp", "user 1", secrets.token_bytes(18))  # 46 bytes, so the last character has unused bits
    for index in range(len(text) - 3):
        with pytest.raises(CannotUnseal):
            sealer().unseal("totp", "user 1", flip(text, index))


@given(text=st.text())
def test_random_texts_are_refused(text: str) -> None:
    with pytest.raises(CannotUnseal):
        sealer().unseal("totp", "user 1", text)


def test_without_cryptography_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cryptography.hazmat.primitives.ciphers.aead", None)
    with pytest.raises(ImproperlyConfigured, match=r"starlette-contrib-auth\[two-factor\]"):
        sealer()

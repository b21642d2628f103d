"""Tests of the password validators, the Bloom filter and its builder."""

import asyncio
import contextlib
import gzip
import hashlib
import importlib
import io
import json
import logging
import os
import random
import string
import subprocess
import sys
import threading
import time
import unicodedata
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import django.conf
import pytest
from django.contrib.auth import password_validation as django_validation
from django.core.exceptions import FieldDoesNotExist
from django.core.exceptions import ValidationError as DjangoValidationError
from hypothesis import given, settings
from hypothesis import strategies as st

from starlette_auth.cli.build_filter import PasswordList, build_filter
from starlette_auth.cli.main import main
from starlette_auth.core.exceptions import ImproperlyConfigured, ValidationError
from starlette_auth.passwords.bloom_filter import DEFAULT_FILTER, BloomFilter, open_filter
from starlette_auth.passwords.password_changes import PasswordValidator
from starlette_auth.passwords.patterns import is_pattern, variants
from starlette_auth.passwords.pwned import PwnedPasswordsValidator
from starlette_auth.passwords.validators import (
    CommonPasswordValidator,
    ContextWordsValidator,
    MaximumLengthValidator,
    MinimumLengthValidator,
    NumericPasswordValidator,
    UserAttributeSimilarityValidator,
    default_validators,
    validate_password,
)

if not django.conf.settings.configured:
    django.conf.settings.configure(USE_I18N=False)

PASSPHRASE = "correct horse battery staple"
NAMES = {"username": "username", "first_name": "first name", "last_name": "last name", "email": "email address"}


class Meta:
    """Stands in for the `_meta` of a Django model, which Django's validator reads."""

    def get_field(self, name: str) -> SimpleNamespace:
        if name not in NAMES:
            raise FieldDoesNotExist
        return SimpleNamespace(verbose_name=NAMES[name])


def person(**attributes: Any) -> SimpleNamespace:
    return SimpleNamespace(_meta=Meta(), **attributes)


async def codes(password: str, *validators: PasswordValidator, user: Any = None) -> list[str]:
    return [error.code for error in await validate_password(password, validators, user)]


async def errors_of(validator: PasswordValidator, password: str, user: Any = None) -> list[tuple[str, str]]:
    return [(error.code, error.message) for error in await validate_password(password, [validator], user)]


def django_errors_of(validator: Any, password: str, user: Any = None) -> list[tuple[str, str]]:
    try:
        validator.validate(password, user)
    except DjangoValidationError as error:
        return [(str(error.code), error.messages[0])]
    return []


async def test_a_passphrase_is_valid() -> None:
    assert await validate_password(PASSPHRASE, default_validators(["Acme Shop"]), person(username="joe")) == []


async def test_all_errors_are_returned_in_order() -> None:
    user = person(username="dragon")
    errors = await validate_password("dragon", [*default_validators(), NumericPasswordValidator()], user)
    assert [error.code for error in errors] == ["password_too_short", "password_too_similar", "password_too_common"]
    assert str(errors[0]) == "This password is too short. It must contain at least 15 characters."


async def test_context_words_add_a_default_validator() -> None:
    assert len(default_validators()) == 4
    assert await codes("acmeshop2024acmeshop!", *default_validators(["Acme Shop"])) == ["password_context_word"]


async def test_a_too_long_password_gives_only_that_error() -> None:
    errors = await validate_password("1" * 1025, [NumericPasswordValidator(), CommonPasswordValidator()])
    assert [error.code for error in errors] == ["password_too_long"]
    assert errors[0].message == "This password is too long. It must contain at most 1024 characters."
    assert await codes("1" * 1024, NumericPasswordValidator()) == ["password_entirely_numeric"]


async def test_a_letter_with_a_combining_accent_counts_as_one_character() -> None:
    assert await codes("e\N{COMBINING ACUTE ACCENT}" * 14, MinimumLengthValidator()) == ["password_too_short"]
    assert await codes("e\N{COMBINING ACUTE ACCENT}" * 15, MinimumLengthValidator()) == []


async def test_custom_validators_may_be_functions_or_coroutines() -> None:
    class NoX:
        def validate(self, password: str, user: Any = None) -> None:
            if "x" in password:
                raise ValidationError("No x. Take it out.", "x")

        def get_help_text(self) -> str:
            return "No x."

    class NoY:
        async def validate(self, password: str, user: Any = None) -> None:
            if "y" in password:
                raise ValidationError("No y. Take it out.", "y")

        def get_help_text(self) -> str:
            return "No y."

    assert await codes("xyz", NoX(), NoY()) == ["x", "y"]
    assert await codes("zzz", NoX(), NoY()) == []


async def test_eight_characters_are_enough_with_a_second_factor() -> None:
    validator = MinimumLengthValidator()
    assert await codes("8 chars!", validator, user=person(has_second_factor=True)) == []
    assert await errors_of(validator, "7 chars", person(has_second_factor=True)) == [
        ("password_too_short", "This password is too short. It must contain at least 8 characters.")
    ]
    assert await codes("14 characters!", validator, user=person(has_second_factor=False)) == ["password_too_short"]
    assert await codes("six ch", MinimumLengthValidator(6), user=person(has_second_factor=True)) == []


async def test_the_maximum_length_can_be_lowered() -> None:
    assert await codes("x" * 73, MaximumLengthValidator(72)) == ["password_too_long"]
    assert await codes("x" * 72, MaximumLengthValidator(72)) == []


@pytest.mark.parametrize("password", ["", "x", "1234567", "12345678", "①②", "٣٤٥", "12 34", "éééééééé"])
async def test_length_and_digits_are_validated_as_in_django(password: str) -> None:
    for length in (1, 8, 15):
        assert await errors_of(MinimumLengthValidator(length), password) == django_errors_of(
            django_validation.MinimumLengthValidator(length), password
        )
    assert await errors_of(NumericPasswordValidator(), password) == django_errors_of(
        django_validation.NumericPasswordValidator(), password
    )


def test_help_texts_are_those_of_django() -> None:
    pairs: list[tuple[PasswordValidator, Any]] = [
        (MinimumLengthValidator(), django_validation.MinimumLengthValidator(15)),
        (MinimumLengthValidator(1), django_validation.MinimumLengthValidator(1)),
        (UserAttributeSimilarityValidator(), django_validation.UserAttributeSimilarityValidator()),
        (CommonPasswordValidator(), django_validation.CommonPasswordValidator()),
        (NumericPasswordValidator(), django_validation.NumericPasswordValidator()),
    ]
    for validator, django_validator in pairs:
        assert validator.get_help_text() == django_validator.get_help_text()
    for validator in (MaximumLengthValidator(64), ContextWordsValidator(["acme"]), PwnedPasswordsValidator()):
        assert validator.get_help_text().startswith("Your password ")
    assert MaximumLengthValidator().get_help_text() == ""


@pytest.mark.parametrize(
    ("password", "user"),
    [
        ("joe.bloggs", person(email="joe.bloggs@example.com")),
        ("example.com!", person(email="joe.bloggs@example.com")),
        ("Bloggs-Joe", person(username="x", first_name="Joe", last_name="Bloggs")),
        ("testclient", person(username="", first_name=None, last_name=7, email="testclient@example.com")),
        ("sglient", person(first_name="testclient")),
        ("", person(username="joe@")),
        ("", person(username="joe")),
        (PASSPHRASE, person(username="staple")),
        ("a" * 1000, person(username="a" * 538)),
        ("a" * 1000, person(username="a" * 539)),
        ("password", None),
    ],
)
async def test_similarity_is_computed_as_in_django(password: str, user: Any) -> None:
    await assert_same_similarity(password, user, 0.7)


async def assert_same_similarity(password: str, user: Any, max_similarity: float) -> None:
    validator = UserAttributeSimilarityValidator(max_similarity=max_similarity)
    django_validator = django_validation.UserAttributeSimilarityValidator(max_similarity=max_similarity)
    assert await errors_of(validator, password, user) == django_errors_of(django_validator, password, user)


words = st.text("abcAB12.-@ éİ", max_size=24)


@settings(max_examples=400, deadline=None)
@given(words, words, words, st.sampled_from([0.1, 0.5, 0.7, 0.9, 1.0]))
def test_similarity_of_random_words_is_computed_as_in_django(
    password: str, username: str, email: str, max_similarity: float
) -> None:
    user = person(username=username, email=email)
    validator = UserAttributeSimilarityValidator(max_similarity=max_similarity)
    django_validator = django_validation.UserAttributeSimilarityValidator(max_similarity=max_similarity)
    try:
        validator.validate(password, user)
        errors = []
    except ValidationError as error:
        errors = [(error.code, error.message)]
    assert errors == django_errors_of(django_validator, password, user)


@pytest.mark.flaky(reruns=3)  # a busy machine distorts the time
async def test_similarity_is_fast_for_long_attributes() -> None:
    user = person(username="a b" * 1_000_000, email="ab " * 1_000_000)
    started = time.perf_counter()
    assert await codes("a" * 1000 + "b" * 24, UserAttributeSimilarityValidator(), user=user) == []
    assert time.perf_counter() - started < 2


async def test_an_attribute_without_a_verbose_name_is_called_by_its_own() -> None:
    errors = await validate_password(
        "bletchley", [UserAttributeSimilarityValidator(["town"])], person(town="Bletchley")
    )
    assert [error.message for error in errors] == ["The password is too similar to the town."]
    with pytest.raises(ImproperlyConfigured, match="Pass another one"):
        UserAttributeSimilarityValidator(max_similarity=0.05)


async def test_every_common_password_of_django_is_rejected() -> None:
    path = Path(django_validation.__file__).parent / "common-passwords.txt.gz"
    common = await asyncio.to_thread(open_filter, DEFAULT_FILTER)
    listed = [line.strip() for line in gzip.decompress(path.read_bytes()).decode().splitlines()]
    assert len(listed) > 19_000
    assert all(password in common for password in listed)
    for password in listed[::400]:
        assert await errors_of(CommonPasswordValidator(), f" {password.upper()}") == django_errors_of(
            django_validation.CommonPasswordValidator(), f" {password.upper()}"
        )


COMMON = """
    password 12345678 iloveyou PASSWORD passwordpassword passwordpasswor PasswordPassword password-password
    password2024!! password2024password2024 12.05.1999iloveyou Summer-2024-2024 1990sunshine1990 !!!football!!!2023
    trustno1trustno1 dragon1234567890 20240101football monkeymonkeymonkey princess31.12.2020 2020-12-31-princess
    ~~~~~~~~superman~~~~~~~~ shadow!@#$%^&*() letmein123123123 sunshine000000000
    qwertyuiopasdfgh 1qaz2wsx3edc4rfv zaq12wsxcde34rfv !QAZ2wsx#EDC4rfv q1w2e3r4t5y6u7i8 a1b2c3d4e5f6g7h8
    mnbvcxzlkjhgfdsa qwertzuiopasdfgh yxcvbnmasdfghjkl azertyuiopqsdfghjklm 147258369147258 159357159357159
    poiuytrewqlkjhgf qazwsxedcrfvtgb qwertyuiop2024! qqqwwweeerrrttt
    abcdefghijklmnop zyxwvutsrqponmlk abcdefghijklmnopqrstuvwxyz0123456789
    aaaaaaaaaaaaaaa abababababababab 123123123123123 abc-abc-abc-abc xk7-xk7-xk7-xk7- abbabaabbaababba
    20240101202401012024 1990199520002020 12.05.1999-13.06.2001 1.5.1999-3.6.2001 2024-01-01-2024-01-01 847593847593847593
    123456789012345 098765432112345 000000000000000
""".split()  # noqa: SIM905
UNCOMMON = f"""
    {PASSPHRASE}|the qwerty keyboard is old|847593847561234|dressedassessed|xK7#mQ2$vL9@pR4|tr0mbone in the attic
    we were 1234 people there|lighthouse keeper 2024|correcthorsebattery2024!|83746592019374love|love#$&%(]=;{{?+>x
    ünïcödé wörds äre fïne|密码是一个很长的句子而且不常见|horse horse cat dog bird|blue-marble-1987-otter
""".strip().split("|")


@pytest.mark.parametrize("password", [*COMMON, "  iloveyou  ", "password password", "pass\N{NO-BREAK SPACE}" * 4])
async def test_variants_of_common_passwords_are_rejected(password: str) -> None:
    assert await codes(password, CommonPasswordValidator()) == ["password_too_common"]


@pytest.mark.parametrize("password", UNCOMMON)
async def test_uncommon_passwords_are_accepted(password: str) -> None:
    assert await codes(password, CommonPasswordValidator()) == []


JOINED = """
    mypasswordispassword thisismypassword this-is-my-password my.password.is.password MyPasswordIs1234Password!
    ihatemypassword itsmypasswordman passwordpasswordme dragonisthedragon mydogisadogmydog iamtheastronaut
    mysecretpassword passwordandmonkey adminpasswordadmin2024 welcometomyhouse letmeinletmeinnow
    myswordfishisaswordfish thepasswordisswordfish meinpasswortistpasswort ichliebemeinpasswort mipasswordesmipassword
    lamotdepassedemonmotdepasse iloveyouandyouloveme passwordisnotpassword
    p4$$w0rdp4$$w0rd P4$$W0RD-p4$$w0rd! p@ssw0rdp@ssw0rd Pa55w0rd!Pa55w0rd? $up3rm4n$up3rm4n l1v3rp00ll1v3rp00l
    b4s3b4llb4s3b4ll 5unsh1ne5unsh1ne m0nk3y-m0nk3y-m0nk3y h3ll0k1ttyh3ll0k1tty s3cr3tp4ssw0rd!! w3lc0m3t0mYh0u5e
    mYp4$$w0rdi$p4$$w0rd myp@$$w0rdisp@$$w0rd!! l1verpooltheliverpool iloveyouandyoulovem3 p4$$w0rd2024p4$$w0rd
    pässwördpässwörd ｐａｓｓｗｏｒｄｐａｓｓｗｏｒｄ
""".split()  # noqa: SIM905


@pytest.mark.parametrize("password", [*JOINED, "this is my password", "p a s s w o r d", "i am the password"])
async def test_a_common_password_joined_by_small_words_or_spelled_with_digits_is_rejected(password: str) -> None:
    assert await codes(password, CommonPasswordValidator()) == ["password_too_common"]


BLANKS = [
    character
    for character in map(chr, range(sys.maxunicode + 1))
    if character.isspace() or unicodedata.category(character) in ("Zs", "Zl", "Zp", "Cc", "Cf")
]
FILLERS = list(
    "\N{HANGUL FILLER}\N{HALFWIDTH HANGUL FILLER}\N{HANGUL CHOSEONG FILLER}\N{HANGUL JUNGSEONG FILLER}"
    "\N{BRAILLE PATTERN BLANK}\N{COMBINING GRAPHEME JOINER}\N{VARIATION SELECTOR-16}\N{VARIATION SELECTOR-17}"
    "\N{MONGOLIAN FREE VARIATION SELECTOR ONE}\N{KHMER VOWEL INHERENT AQ}\N{MUSICAL SYMBOL NULL NOTEHEAD}"
)


async def test_a_password_of_blanks_of_any_kind_is_rejected() -> None:
    assert len(BLANKS) > 200
    everything = "".join([*BLANKS, *FILLERS])
    passwords = [character * 15 for character in everything]
    passwords += [
        everything,
        "\t \N{ZERO WIDTH SPACE}" * 5,
        " " * 14 + "a",
        "a" + "\N{HANGUL FILLER}" * 14,
        "   x  y      z      ",
    ]
    accepted = [
        password for password in passwords if "password_too_common" not in await codes(password, *default_validators())
    ]
    assert accepted == []


async def test_invisible_characters_do_not_hide_a_common_password() -> None:
    for (
        character
    ) in "\N{ZERO WIDTH SPACE}\N{SOFT HYPHEN}\N{WORD JOINER}\N{HANGUL FILLER}\N{VARIATION SELECTOR-16}\x00\x7f":
        for password in (character.join("password"), f"iloveyou{character * 12}", f"{character}qwertyuiopasdfgh"):
            assert await codes(password, CommonPasswordValidator()) == ["password_too_common"]


@pytest.mark.parametrize(
    "password",
    [
        "密码是一个很长的句子而且不常见",
        "👩‍🚀 flies to the 🌕 with 🐙",
        "nine loud herons stand",
        " x 7 q # 4 ",
        "a password of the attacker",
        "another good password",
    ],
)
async def test_visible_characters_between_blanks_count(password: str) -> None:
    assert await codes(password, CommonPasswordValidator()) == []


@pytest.mark.flaky(reruns=3)  # a busy machine distorts the time
@pytest.mark.parametrize("worst", ["4$0!" * 32, "a1" * 64, "1!" * 64, "mypasswordissunshinetodragon1" * 4, "i" * 1024])
async def test_words_are_found_fast_in_the_worst_passwords(worst: str) -> None:
    started = time.perf_counter()
    await codes(worst, CommonPasswordValidator())
    assert time.perf_counter() - started < 1


async def test_at_most_5_of_3200_good_passwords_are_rejected() -> None:
    chance = random.Random(15)
    words = "anchor basket candle dolphin ember falcon garnet harbor island jungle kettle lantern meadow nickel".split()  # noqa: SIM905
    good_passwords = [
        separator.join(chance.choice(words) for _ in range(4)) + ending
        for separator in (" ", "-", "")
        for ending in ("", "7", "2024", "!")
        for _ in range(100)
    ]
    alphabets = (string.ascii_lowercase, string.ascii_letters + string.digits, string.printable[:94], string.hexdigits)
    good_passwords += ["".join(chance.choices(alphabet, k=15)) for alphabet in alphabets for _ in range(500)]
    rejected = [password for password in good_passwords if await codes(password, CommonPasswordValidator())]
    assert len(rejected) <= 5, rejected


@pytest.mark.flaky(reruns=3)  # a busy machine distorts the time
@pytest.mark.parametrize(
    "password", ["2019" * 128 + "x" + "1920" * 127, "!" * 511 + "ab" + "?" * 511, "ab" * 511 + "c", "1." * 511 + "x"]
)
def test_patterns_are_fast_for_the_worst_passwords(password: str) -> None:
    started = time.perf_counter()
    for form in variants(password):
        is_pattern(form)
    assert time.perf_counter() - started < 1


async def test_a_password_above_the_maximum_length_is_looked_up_without_variants(tmp_path: Path) -> None:
    await build(tmp_path / "own.bloom", "long" * 300)
    validator = CommonPasswordValidator(tmp_path / "own.bloom")
    for password, expected in [("LONG" * 300, True), ("other" * 300, False)]:
        try:
            await validator.validate(password)
            assert not expected
        except ValidationError:
            assert expected


async def test_a_lone_surrogate_raises_no_exception() -> None:
    assert await codes("half \ud800 of a pair", CommonPasswordValidator()) == []


def test_the_shipped_filter_names_its_sources() -> None:
    common = BloomFilter(DEFAULT_FILTER)
    assert common.header["entries"] >= 400_000
    assert common.header["false_positive_rate"] <= 1e-6
    assert sum(source["count"] for source in common.header["sources"]) >= common.header["entries"]
    assert all(source["licence"].split(",")[0] in ("MIT", "BSD-3-Clause") for source in common.header["sources"])
    assert all(source["name"] for source in common.header["sources"])
    assert DEFAULT_FILTER.stat().st_size < 1.6 * 2**20
    # The false positive rate is the share of set bits to the power of the number of hashes.
    bits = DEFAULT_FILTER.read_bytes()[-common.bits // 8 :]
    set_share = int.from_bytes(bits).bit_count() / common.bits
    assert set_share**common.hashes <= 1e-6
    assert sum(f"not a password: {number}" in common for number in range(100_000)) <= 1


async def build(path: Path, *lines: str) -> None:
    source = path.with_suffix(".txt")
    source.write_text("\n".join(lines))
    await asyncio.to_thread(build_filter, [PasswordList(source)], path)


async def test_a_filter_is_opened_once_per_process(tmp_path: Path) -> None:
    path = tmp_path / "own.bloom"
    await build(path, "glockenspiel")
    assert await codes("Glockenspiel 1999", CommonPasswordValidator(path)) == ["password_too_common"]
    assert await asyncio.to_thread(open_filter, path) is await asyncio.to_thread(open_filter, path)
    path.unlink()
    assert await codes("glockenspiel", CommonPasswordValidator(str(path))) == ["password_too_common"]


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: content[:-1],
        lambda content: content + b"\0",
        lambda content: content[:100],
        lambda content: b"hello\n" + content,
        lambda content: b"[]\n" + content,
        lambda content: b"{}\n" + content,
        lambda content: content.replace(b"filter 1", b"filter 9"),
        lambda content: content.replace(b'"hashes": 20', b'"hashes": 00'),
        lambda content: content.replace(b'"hashes": 20', b'"hashes": -1'),
        lambda content: content.replace(b'"hashes": 20', b'"hashes": []'),
        lambda content: bytes(reversed(content)),
    ],
)
async def test_a_damaged_filter_raises_improperly_configured(tmp_path: Path, damage: Any) -> None:
    path = tmp_path / "own.bloom"
    await build(path, "glockenspiel")
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ImproperlyConfigured, match=r"own\.bloom is not a password filter.*buildfilter"):
        await CommonPasswordValidator(path).validate(PASSPHRASE)


async def test_a_missing_filter_raises_improperly_configured(tmp_path: Path) -> None:
    with pytest.raises(ImproperlyConfigured, match=r"none\.bloom is not a password filter.*buildfilter"):
        await CommonPasswordValidator(tmp_path / "none.bloom").validate(PASSPHRASE)


def sha1(password: str) -> str:
    return hashlib.sha1(password.encode()).hexdigest().upper()


def test_a_filter_is_built_from_all_kinds_of_lists(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plain, packed, latin, pwned = (tmp_path / name for name in ("plain.txt", "packed", "latin.txt", "pwned.txt"))
    plain.write_bytes("Glockenspiel\r\nte\N{COMBINING DIAERESIS}st\n\n  padded  \nshort\nglockenspiel\n".encode())
    packed.write_bytes(gzip.compress(b"from the archive\n"))
    latin.write_bytes("gänseblümchen\n".encode("latin-1"))
    pwned.write_text(f"{sha1('Often Seen')}:17\r\n{sha1('seldom seen').lower()}:2\n{sha1('uncounted')}\n")
    output = tmp_path / "out.bloom"
    words = ["buildfilter", str(output), *map(str, (plain, packed, latin, pwned))]
    assert main([*words, "--min-count", "3", "--min-length", "6", "--false-positives", "1e-9"]) == 0
    assert capsys.readouterr().out == f"Wrote 6 passwords to {output}, {output.stat().st_size:,} bytes.\n"
    built = BloomFilter(output)
    for password in ("glockenspiel", "padded", "from the archive", "gänseblümchen", "Often Seen", "uncounted"):
        assert password in built
    for password in ("Glockenspiel", "short", "tëst", "seldom seen", "often seen", ""):
        assert password not in built
    assert built.hashes == 30
    assert [(source["name"], source["count"]) for source in built.header["sources"]] == [
        ("plain.txt", 3),
        ("packed", 1),
        ("latin.txt", 1),
        ("pwned.txt", 2),
    ]
    assert built.header["entries"] == 6
    # Building again overwrites the filter.
    assert main(words) == 0
    assert "seldom seen" in BloomFilter(output)
    assert "short" in BloomFilter(output)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "latin.txt", "out.bloom", "packed", "plain.txt", "pwned.txt"
    ]  # fmt: skip


async def test_a_filter_of_digests_rejects_exactly_the_breached_passwords(tmp_path: Path) -> None:
    await build(tmp_path / "own.bloom", f"{sha1('Glockenspiel')}:17")
    validator = CommonPasswordValidator(tmp_path / "own.bloom")
    assert await codes("Glockenspiel", validator) == ["password_too_common"]
    assert await codes("glockenspiel", validator) == []


def test_the_command_needs_no_application(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("glockenspiel\n")
    path = os.pathsep.join([str(Path(__file__).parent.parent.parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    process = subprocess.run(
        [sys.executable, "-m", "starlette_auth", "buildfilter", "own.bloom", "list.txt"],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": path},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (process.returncode, process.stderr) == (0, "")
    assert "glockenspiel" in BloomFilter(tmp_path / "own.bloom")


def test_progress_is_shown_on_a_terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    (tmp_path / "list.txt").write_text("glockenspiel\n" + "\n" * 99_999)
    assert main(["buildfilter", str(tmp_path / "own.bloom"), str(tmp_path / "list.txt")]) == 0
    assert "list.txt: 100,000 lines" in terminal.getvalue()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "The lists contain no password"),
        (b"short\n", "The lists contain no password"),
        (b"8846F7EAEE8FB117AD06BDD830B7586C:9545824\n", "Download the SHA-1 list"),
        (b"0018A45C4D1DEF81644B54AB7F969B88D65:3\n", "Download the SHA-1 list"),
        (b"\x1f\x8bno archive", "BadGzipFile"),
        (gzip.compress(b"glockenspiel" * 50, mtime=0)[:-9], "EOFError"),
        (None, "is not a file"),
    ],
)
def test_a_useless_list_is_rejected_with_a_message_of_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes | None, message: str
) -> None:
    if content is not None:
        (tmp_path / "list.txt").write_bytes(content)
    output = tmp_path / "own.bloom"
    assert main(["buildfilter", str(output), str(tmp_path / "list.txt"), "--min-length", "8"]) == 1
    output_text = capsys.readouterr()
    assert message in output_text.err
    assert output_text.err.count("\n") == 1
    assert output_text.out == ""
    assert not output.exists()


def test_a_file_that_is_not_a_filter_is_not_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "list.txt").write_text("glockenspiel\n")
    assert main(["buildfilter", str(tmp_path / "list.txt"), str(tmp_path / "list.txt")]) == 1
    assert "Choose another name" in capsys.readouterr().err
    assert (tmp_path / "list.txt").read_text() == "glockenspiel\n"


def test_a_path_that_cannot_be_written_gives_a_message_of_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "list.txt").write_text("glockenspiel\n")
    assert main(["buildfilter", str(tmp_path / "nowhere" / "own.bloom"), str(tmp_path / "list.txt")]) == 1
    assert capsys.readouterr().err.startswith("FileNotFoundError")


def test_an_interrupted_build_leaves_no_file(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("glockenspiel\n" + "\n" * 100_000)
    shown: list[str] = []

    def stop(text: str) -> None:
        shown.append(text)
        if len(shown) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_filter([PasswordList(tmp_path / "list.txt")], tmp_path / "own.bloom", progress=stop)
    assert [path.name for path in tmp_path.iterdir()] == ["list.txt"]


@pytest.mark.parametrize("rate", ["0", "1", "-1", "nan", "many"])
def test_the_false_positive_rate_must_be_between_zero_and_one(rate: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["buildfilter", "own.bloom", "list.txt", f"--false-positives={rate}"])
    assert stopped.value.code == 2
    assert "--false-positives" in capsys.readouterr().err


def test_a_header_may_be_long(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("glockenspiel\n")
    build_filter([PasswordList(tmp_path / "list.txt", "x" * 5000, "MIT")], tmp_path / "own.bloom")
    built = BloomFilter(tmp_path / "own.bloom")
    assert "glockenspiel" in built
    assert json.loads((tmp_path / "own.bloom").read_bytes().split(b"\n")[0])["sources"][0]["licence"] == "MIT"


@pytest.mark.parametrize(
    "password", ["acmeshop2024acmeshop!", "Acme Shop 1999 1999", "ACME-acme-ACME-12", "shopacmeshopping!!!", "acme"]
)
async def test_a_password_of_context_words_is_rejected(password: str) -> None:
    assert await codes(password, ContextWordsValidator(["Acme Shop", "x"])) == ["password_context_word"]


@pytest.mark.parametrize("password", ["the acme is my favourite horse", "x 1234567890", "ac me sh op"])
async def test_a_password_may_contain_context_words(password: str) -> None:
    assert await codes(password, ContextWordsValidator(["Acme Shop", "x"])) == []


def test_context_words_must_be_a_list() -> None:
    with pytest.raises(ImproperlyConfigured, match="must be a list"):
        ContextWordsValidator("Acme Shop")


class PwnedServer:
    """Runs an HTTP server that answers like Have I Been Pwned, or with errors."""

    def __init__(self) -> None:
        self.status = 200
        self.body = ""
        self.delay = 0.0
        self.requests: list[tuple[str, str | None]] = []
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                server.requests.append((self.path, self.headers["Add-Padding"]))
                time.sleep(server.delay)
                with contextlib.suppress(OSError):  # the client has closed the connection
                    self.send_response(server.status)
                    self.send_header("Location", "/elsewhere/")
                    self.send_header("Content-Length", str(len(server.body)))
                    self.end_headers()
                    self.wfile.write(server.body.encode())

            def log_message(self, format: str, *args: Any) -> None:
                """Logs nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/range/"


@pytest.fixture
def pwned() -> Iterator[PwnedServer]:
    pwned = PwnedServer()
    thread = threading.Thread(target=pwned.server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield pwned
    pwned.server.shutdown()
    pwned.server.server_close()
    thread.join()


DIGEST = sha1(PASSPHRASE)


async def test_a_breached_password_is_rejected(pwned: PwnedServer) -> None:
    pwned.body = f"{'0' * 34}A:3\r\n{DIGEST[5:]}:42\r\n{'F' * 35}:0"
    validator = PwnedPasswordsValidator(pwned.url)
    assert await codes(PASSPHRASE, validator) == ["password_breached"]
    assert await codes(PASSPHRASE, PwnedPasswordsValidator(pwned.url, min_count=43)) == []
    assert pwned.requests == [(f"/range/{DIGEST[:5]}", "true")] * 2
    pwned.body = pwned.body.lower()
    assert await codes(PASSPHRASE, validator) == ["password_breached"]


async def test_other_passwords_and_padding_are_accepted(pwned: PwnedServer) -> None:
    failures: list[Exception] = []
    validator = PwnedPasswordsValidator(pwned.url, min_count=0, on_failure=failures.append)
    for pwned.body in (f"{'0' * 35}:3", f"{DIGEST[5:]}:0", ""):
        assert await codes(PASSPHRASE, validator) == []
    assert failures == []


@pytest.mark.parametrize(
    ("status", "body"),
    [(500, f"{DIGEST[5:]}:42"), (302, f"{DIGEST[5:]}:42"), (404, ""), (200, "<html>Log in to this network</html>")],
)
async def test_a_broken_server_does_not_reject_passwords(
    pwned: PwnedServer, caplog: pytest.LogCaptureFixture, status: int, body: str
) -> None:
    failures: list[Exception] = []

    async def record(error: Exception) -> None:
        failures.append(error)

    pwned.status, pwned.body = status, body
    with caplog.at_level(logging.WARNING):
        assert await codes(PASSPHRASE, PwnedPasswordsValidator(pwned.url, on_failure=record)) == []
    assert len(failures) == len(pwned.requests) == 1
    assert "not looked up" in caplog.text
    for secret in (PASSPHRASE, DIGEST, DIGEST[5:], DIGEST[:5]):
        assert secret not in caplog.text


@pytest.mark.flaky(reruns=3)  # a busy machine distorts the time
async def test_a_slow_server_is_waited_for_until_the_timeout(
    pwned: PwnedServer, caplog: pytest.LogCaptureFixture
) -> None:
    pwned.delay, pwned.body = 1.6, f"{DIGEST[5:]}:42"
    failures: list[Exception] = []
    validator = PwnedPasswordsValidator(pwned.url, on_failure=failures.append)
    started = time.perf_counter()
    assert await codes(PASSPHRASE, validator) == []
    assert 0.9 < time.perf_counter() - started < 1.5
    assert len(failures) == 1


async def test_an_unreachable_server_does_not_reject_passwords() -> None:
    assert await codes(PASSPHRASE, PwnedPasswordsValidator("http://127.0.0.1:1/range/")) == []
    assert await codes(PASSPHRASE, PwnedPasswordsValidator("no url at all")) == []


def test_without_httpx_the_message_names_the_package_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> ModuleType:
        raise ImportError(name)

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(ImproperlyConfigured, match=r"pip install starlette-contrib-auth\[pwned\]"):
        PwnedPasswordsValidator()

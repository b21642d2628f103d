"""Tests of mailed tokens: their storage, validity and single use, and compatibility with Django."""

import asyncio
import hashlib
import json
import secrets
import sys
from collections.abc import AsyncIterator
from datetime import UTC, datetime, tzinfo
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
import sqlalchemy as sa
from databases import Database

from starlette_auth import Auth, DjangoProject, PasswordResetTokens, Passwords, User
from starlette_auth.core.signing import SecretKeys
from starlette_auth.security.reset_tokens import (
    HALF_AN_HOUR,
    DatabaseResetTokens,
    encode_uid,
    user_binding,
    user_subject,
)
from starlette_auth.security.tokens import EMAIL_UNDO, Tokens
from starlette_auth.testing import CollectingMailer

from ..conftest import PASSWORD, SECRET_KEY, all_of, client_of, installed, weak_passwords, with_tables
from ..django.vectors import VECTORS
from ..support.apps import make_app

pytestmark = with_tables

NOW = 1_800_000_000
NEW_YORK = ZoneInfo("America/New_York")
SAME_ORIGIN = {"sec-fetch-site": "same-origin"}
# Runs Django's token generator in a separate process, with a given clock. Django sets the process's TIME_ZONE.
DJANGO = """
import json, os, sys, types
from datetime import datetime, timezone

order = json.load(sys.stdin)
project = sys.modules["project"] = types.ModuleType("project")
vars(project).update(INSTALLED_APPS=["django.contrib.auth", "django.contrib.contenttypes"], **order["settings"])
os.environ["DJANGO_SETTINGS_MODULE"] = "project"
import django
django.setup()
from django.conf import settings
from django.contrib.auth.models import User
from django.contrib.auth.tokens import PasswordResetTokenGenerator

class Generator(PasswordResetTokenGenerator):
    def _now(self):
        return datetime.fromtimestamp(self.at)

fields = dict(order["user"])
if fields["last_login"] is not None:
    zone = timezone.utc if settings.USE_TZ else None
    fields["last_login"] = datetime.fromtimestamp(fields["last_login"], zone)
user, generator, results = User(**fields), Generator(), []
for at, token in order["calls"]:
    generator.at = at
    results.append(generator.make_token(user) if token is None else generator.check_token(user, token))
print(json.dumps(results))
"""
# Creates a Django site's database with a user who has logged in, and makes or checks reset tokens there.
DJANGO_SITE = """
import os, sys, types

project = sys.modules["project"] = types.ModuleType("project")
vars(project).update(
    SECRET_KEY=sys.argv[2],
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": sys.argv[1]}},
    INSTALLED_APPS=["django.contrib.auth", "django.contrib.contenttypes", "django.contrib.sessions"],
    DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
    PASSWORD_HASHERS=["django.contrib.auth.hashers.PBKDF2PasswordHasher"],
    TIME_ZONE="America/New_York",
    USE_TZ=True,
    PASSWORD_RESET_TIMEOUT=1800,
)
os.environ["DJANGO_SETTINGS_MODULE"] = "project"
import django
django.setup()
from django.contrib.auth.models import User
from django.contrib.auth.tokens import default_token_generator
from django.core.management import call_command
from django.utils import timezone
from django.utils.encoding import force_bytes
from django.utils.http import urlsafe_base64_encode

if len(sys.argv) == 3:
    call_command("migrate", verbosity=0)
    ann = User.objects.create_user("ann", "Ann@Example.org", "pw")
    ann.last_login = timezone.now()
    ann.save()
    print(urlsafe_base64_encode(force_bytes(ann.pk)), default_token_generator.make_token(ann))
else:
    print(default_token_generator.check_token(User.objects.get(), sys.argv[3]))
"""


class Clock:
    """A clock that only moves when a test sets it."""

    def __init__(self, now: float = NOW) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def tokens(auth: Auth, clock: Clock) -> Tokens:
    return make_tokens(auth, clock)


def make_tokens(auth: Auth, clock: Clock, *secret_keys: str) -> Tokens:
    keys = SecretKeys(secret_keys or SECRET_KEY)
    return Tokens(auth.gateway, table=auth.tables.token, keys=keys, clock=clock)


async def fetch_rows(auth: Auth) -> list[dict[str, Any]]:
    return await auth.gateway.fetch_all(sa.select(*auth.tables.token.columns))


# Tokens


async def test_only_hashes_are_stored(auth: Auth, ann: User, tokens: Tokens) -> None:
    token = await tokens.create("a purpose", "ann@example.org", max_age=60, binding=user_binding(ann), data={"a": "é☃"})
    assert len(token) == 43
    (row,) = await fetch_rows(auth)
    assert row["token_hash"] == hashlib.sha256(token.encode()).hexdigest()
    assert row["expires"] == NOW + 60
    text = str(row)
    assert token not in text
    assert "ann@example.org" not in text
    assert ann.password not in text


async def test_each_token_is_different(tokens: Tokens) -> None:
    created = await all_of(*(tokens.create("a", "s", max_age=60) for _ in range(20)))
    assert len(set(created)) == 20


async def test_find_returns_the_data_of_a_token(tokens: Tokens) -> None:
    row = await tokens.find("a", await tokens.create("a", "s", max_age=60, data={"email": "é☃", "n": [1]}))
    assert row is not None
    assert row.data == {"email": "é☃", "n": [1]}
    assert (row.purpose, row.expires) == ("a", NOW + 60)
    assert "email" not in repr(row)


async def test_a_token_is_for_one_purpose(tokens: Tokens) -> None:
    token = await tokens.create("a", "s", max_age=60)
    for purpose in ("b", "ab", ""):
        assert await tokens.find(purpose, token) is None
    assert await tokens.find("a", token) is not None


@pytest.mark.parametrize("junk", ["", "x", "x" * 128, "x" * 129, "é" * 43, "\x00", "\ud800", "%00", "🔑" * 10_000])
async def test_malformed_tokens_are_not_found(tokens: Tokens, junk: str) -> None:
    await tokens.create("a", "s", max_age=60)
    assert await tokens.find("a", junk) is None
    await tokens.discard("a", junk)
    assert await tokens.recent("a", junk) == []
    await tokens.revoke_all(junk)


async def test_a_hash_from_the_table_is_not_a_token(auth: Auth, tokens: Tokens) -> None:
    await tokens.create("a", "s", max_age=60)
    (row,) = await fetch_rows(auth)
    assert await tokens.find("a", row["token_hash"]) is None


async def test_a_token_is_valid_until_it_expires(tokens: Tokens, clock: Clock) -> None:
    token = await tokens.create("a", "s", max_age=60)
    clock.now += 59.999
    row = await tokens.find("a", token)
    assert row is not None
    assert await tokens.recent("a", "s") == [row]
    clock.now = NOW + 60
    assert await tokens.find("a", token) is None
    assert await tokens.recent("a", "s") == []
    # The row was read before the token expired, and is consumed after that.
    assert not await tokens.consume(row)


async def test_a_token_is_consumed_once(tokens: Tokens) -> None:
    token = await tokens.create("a", "s", max_age=60)
    row = await tokens.find("a", token)
    assert row is not None
    assert await tokens.consume(row)
    assert not await tokens.consume(row)
    assert await tokens.find("a", token) is None


async def test_one_of_100_concurrent_callers_consumes_a_token(tokens: Tokens) -> None:
    row = await tokens.find("a", await tokens.create("a", "s", max_age=60))
    assert row is not None
    assert sorted(await all_of(*(tokens.consume(row) for _ in range(100)))) == [False] * 99 + [True]


async def test_a_rollback_makes_a_consumed_token_usable_again(auth: Auth, tokens: Tokens) -> None:
    token = await tokens.create("a", "s", max_age=60)
    row = await tokens.find("a", token)
    assert row is not None

    async def consume_and_fail() -> None:
        async with auth.gateway.atomic():
            assert await tokens.consume(row)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        await consume_and_fail()
    assert await tokens.find("a", token) == row


async def test_recent_returns_the_latest_expiry_first(tokens: Tokens, clock: Clock) -> None:
    await tokens.create("a", "s", max_age=60, data={"n": 1})
    clock.now += 1
    await tokens.create("a", "s", max_age=60, data={"n": 2})
    await tokens.create("a", "other", max_age=600)
    await tokens.create("b", "s", max_age=600)
    recent = await tokens.recent("a", "s")
    assert recent[0].data == {"n": 2}


async def test_discard_deletes_one_token(auth: Auth, tokens: Tokens) -> None:
    token, second_token = [await tokens.create("a", "s", max_age=60) for _ in range(2)]
    await tokens.discard("b", token)
    assert len(await fetch_rows(auth)) == 2
    await tokens.discard("a", token)
    assert await tokens.find("a", token) is None
    assert await tokens.find("a", second_token) is not None


async def test_revoke_all_keeps_undo_tokens_and_other_subjects(tokens: Tokens) -> None:
    revoked = [await tokens.create(purpose, "s", max_age=60) for purpose in ("a", "b")]
    other_subject = await tokens.create("a", "t", max_age=60)
    undo = await tokens.create(EMAIL_UNDO, "s", max_age=60)
    await tokens.revoke_all("s")
    assert [await tokens.find("a", revoked[0]), await tokens.find("b", revoked[1])] == [None, None]
    assert await tokens.find("a", other_subject) is not None
    assert await tokens.find(EMAIL_UNDO, undo) is not None


async def test_an_undo_revokes_later_undo_tokens_only(tokens: Tokens, clock: Clock) -> None:
    first = await tokens.create(EMAIL_UNDO, "s", max_age=60)
    clock.now += 1
    second, other_subject = [await tokens.create(EMAIL_UNDO, subject, max_age=60) for subject in ("s", "t")]
    clock.now += 1
    third = await tokens.create(EMAIL_UNDO, "s", max_age=60)
    other_purpose = await tokens.create("a", "s", max_age=60)
    used_token = await tokens.find(EMAIL_UNDO, second)
    assert used_token is not None
    await tokens.revoke_undos("s", made_after=used_token)
    is_valid = [await tokens.find(EMAIL_UNDO, token) is not None for token in (first, second, third, other_subject)]
    assert is_valid == [True, False, False, True]
    assert await tokens.find("a", other_purpose) is not None


async def test_a_binding_matches_only_its_own_text(auth: Auth, tokens: Tokens) -> None:
    row = await tokens.find("a", await tokens.create("a", "s", max_age=60, binding="old value"))
    unbound = await tokens.find("a", await tokens.create("a", "s", max_age=60))
    assert row is not None
    assert unbound is not None
    assert tokens.binding_matches(row, "old value")
    assert not tokens.binding_matches(row, "new value")
    assert not tokens.binding_matches(row, "")
    assert not tokens.binding_matches(unbound, "")


async def test_a_binding_is_valid_while_its_secret_key_is_accepted(auth: Auth, clock: Clock) -> None:
    old, both, new = (make_tokens(auth, clock, *keys) for keys in (["a" * 40], ["b" * 40, "a" * 40], ["b" * 40]))
    token = await old.create("a", "s", max_age=60, binding="value")
    row = await both.find("a", token)
    assert row is not None
    assert both.binding_matches(row, "value")
    assert not new.binding_matches(row, "value")
    newer = await new.find("a", await both.create("a", "s", max_age=60, binding="value"))
    assert newer is not None
    assert new.binding_matches(newer, "value")
    assert not old.binding_matches(newer, "value")


async def test_clear_expired_deletes_expired_tokens(auth: Auth, tokens: Tokens, clock: Clock) -> None:
    for max_age in (10, 20, 30):
        await tokens.create("a", "s", max_age=max_age)
    clock.now += 20
    assert await tokens.clear_expired() == 2
    assert [row["expires"] for row in await fetch_rows(auth)] == [NOW + 30]
    assert await tokens.clear_expired() == 0


async def test_clear_expired_of_auth_deletes_expired_tokens(auth: Auth) -> None:
    await auth.tokens.create("a", "s", max_age=-1)
    await auth.clear_expired()
    assert await fetch_rows(auth) == []


# Password reset tokens in the database


@pytest.fixture
def reset_tokens(tokens: Tokens) -> DatabaseResetTokens:
    return DatabaseResetTokens(tokens)


async def test_a_reset_token_is_for_one_user(auth: Auth, ann: User, reset_tokens: DatabaseResetTokens) -> None:
    bob = await auth.users.create_user("bob", ann.email, encoded_password=ann.password)
    token = await reset_tokens.make(ann)
    assert not await reset_tokens.check(bob, token)
    assert not await reset_tokens.consume(bob, token)
    assert await reset_tokens.check(ann, token)
    assert await reset_tokens.consume(ann, token)
    assert not await reset_tokens.check(ann, token)
    assert not await reset_tokens.consume(ann, token)


async def test_a_token_of_another_purpose_resets_no_password(
    ann: User, tokens: Tokens, reset_tokens: DatabaseResetTokens
) -> None:
    token = await tokens.create("email_change", user_subject(ann), max_age=60, binding=user_binding(ann))
    assert not await reset_tokens.check(ann, token)


async def test_a_reset_token_is_valid_for_half_an_hour(
    ann: User, clock: Clock, tokens: Tokens, reset_tokens: DatabaseResetTokens
) -> None:
    token, short = await reset_tokens.make(ann), await DatabaseResetTokens(tokens, max_age=5).make(ann)
    clock.now += 5
    assert not await reset_tokens.check(ann, short)
    clock.now = NOW + HALF_AN_HOUR - 1
    assert await reset_tokens.check(ann, token)
    clock.now += 1
    assert not await reset_tokens.check(ann, token)


@pytest.mark.parametrize("changed", [{"password": "!another"}, {"email": "other@example.org"}, {"email": ""}])
async def test_a_changed_password_or_address_makes_a_reset_token_invalid(
    auth: Auth, ann: User, reset_tokens: DatabaseResetTokens, changed: dict[str, str]
) -> None:
    token = await reset_tokens.make(ann)
    await auth.users.update(ann, first_name="Ann", username="anna")
    assert await reset_tokens.check(ann, token)
    await auth.users.update(ann, **changed)
    assert not await reset_tokens.check(ann, token)
    assert not await reset_tokens.consume(ann, token)


# Stateless password reset tokens of Django


def user_of(vectors: dict[str, Any], **changes: Any) -> User:
    fields = {key: value for key, value in vectors["user"].items() if key != "pk"}
    fields |= {"id": vectors["user"]["pk"], "last_login": datetime.fromisoformat(fields["last_login"]), **changes}
    return User(**fields)


def at(stamp: int) -> Clock:
    """Returns a clock of a site in UTC at which Django's token has the timestamp `stamp`."""
    return Clock(datetime(2001, 1, 1, tzinfo=UTC).timestamp() + stamp)


@pytest.mark.parametrize(
    "changed",
    [
        {"id": 43},
        {"password": "md5$seasaltseasaltseasalt12$other"},
        {"email": "zoe@example.com"},
        {"email": ""},
        {"last_login": None},
        {"last_login": datetime(2024, 5, 6, 7, 8, 10, tzinfo=UTC)},
    ],
)
async def test_a_change_of_a_signed_field_makes_the_token_invalid(changed: dict[str, Any]) -> None:
    vectors = VECTORS[0]
    reset_tokens = PasswordResetTokens(vectors["secret_key"], clock=at(vectors["reset_token"]["ts"]))
    assert not await reset_tokens.check(user_of(vectors, **changed), vectors["reset_token"]["token"])


async def test_a_change_of_another_field_keeps_the_token_valid() -> None:
    vectors = VECTORS[0]
    reset_tokens = PasswordResetTokens(vectors["secret_key"], clock=at(vectors["reset_token"]["ts"]))
    user = user_of(vectors, username="other", last_login=datetime(2024, 5, 6, 3, 8, 9, 999_999, tzinfo=NEW_YORK))
    assert await reset_tokens.check(user, vectors["reset_token"]["token"])


def malformed_tokens() -> list[str]:
    valid = VECTORS[0]["reset_token"]["token"]
    stamp, signature = valid.split("-")
    return [
        *("", "-", "--", "0-", "-0", stamp, signature, f"-{signature}", f"{stamp}-", f"{valid}-", f"{valid} "),
        *(valid.upper(), f"{stamp.upper()}-{signature}", f"0{valid}", f" {valid}", f"+{valid}", f"{valid}\n"),
        *(f"{stamp}--{signature}", f"{stamp}_{signature}", f"{stamp}-{signature[:-1]}", f"{stamp}-{signature}0"),
        *(f"zzzzzzzzzzzzz-{signature}", f"zzzzzzzzzzzzzz-{signature}", f"{'z' * 10_000}-{signature}"),
        *(f"{'0' * 10_000}{valid}", f"c_khfr4-{signature}", f"٣-{signature}", f"ｃkhfr4-{signature}"),
        *(f"{stamp}-é{signature[1:]}", f"{stamp}-\ud800", f"\ud800-{signature}", f"\x00{valid}", f"{valid}\x00"),
        *(f"-5-{signature}", f"ſ-{signature}", f"{stamp}\u2010{signature}"),
    ]


@pytest.mark.parametrize("token", malformed_tokens(), ids=lambda token: ascii(token)[:40])
async def test_a_malformed_token_is_invalid_and_raises_no_error(token: str) -> None:
    vectors = VECTORS[0]
    reset_tokens = PasswordResetTokens(vectors["secret_key"], clock=at(vectors["reset_token"]["ts"]))
    assert not await reset_tokens.check(user_of(vectors), token)


async def test_the_expiry_is_exact_to_the_second() -> None:
    clock, user = Clock(NOW + 0.9), user_of(VECTORS[0])
    reset_tokens = PasswordResetTokens(SECRET_KEY, max_age=60, clock=clock)
    token = await reset_tokens.make(user)
    clock.now = NOW + 60.999
    assert await reset_tokens.check(user, token)
    clock.now = NOW + 61
    assert not await reset_tokens.check(user, token)


async def test_older_keys_are_accepted_and_the_newest_signs() -> None:
    user, (old, new) = user_of(VECTORS[0]), ("a" * 40, "b" * 40)
    only_old, both = PasswordResetTokens(old), PasswordResetTokens([new, old])
    only_new = PasswordResetTokens(SecretKeys(new))
    assert await both.check(user, await only_old.make(user))
    assert await only_new.check(user, await both.make(user))
    assert not await only_old.check(user, await both.make(user))
    assert not await only_new.check(user, await only_old.make(user))


async def test_a_clock_at_the_unix_epoch_causes_no_endless_loop() -> None:
    reset_tokens, user = PasswordResetTokens(SECRET_KEY, clock=Clock(0)), user_of(VECTORS[0])
    token = await asyncio.wait_for(reset_tokens.make(user), 1)
    assert token.startswith("0-")


# Compatibility with Django


async def run_django(
    user: User, calls: list[tuple[float, str | None]], *, zone: str = "UTC", use_tz: bool = True, **settings: Any
) -> list[Any]:
    """Runs Django's token generator. For each call it returns a new token (for None), or whether a token is valid."""
    fields = {name: getattr(user, name) for name in ("password", "email")}
    last_login = user.last_login.timestamp() if user.last_login else None
    order = {
        "settings": {"SECRET_KEY": SECRET_KEY, "TIME_ZONE": zone, "USE_TZ": use_tz, **settings},
        "user": {**fields, "id": user.id, "last_login": last_login},
        "calls": calls,
    }
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", DJANGO), stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    output, _ = await process.communicate(json.dumps(order).encode())
    assert process.returncode == 0
    return list(json.loads(output))


def times_around_clock_changes() -> list[int]:
    """Returns Unix times around the hour that New York repeats in autumn, and the hour that it skips in spring."""
    changes = [datetime(2026, 11, 1, 6, tzinfo=UTC), datetime(2026, 3, 8, 7, tzinfo=UTC)]
    times = [int(change.timestamp()) + minutes * 60 for change in changes for minutes in (-90, -61, -30, -1, 0, 30, 90)]
    return [*times, NOW, 1_780_000_000]


@pytest.mark.parametrize("use_tz", [True, False], ids=["aware", "naive"])
@pytest.mark.parametrize("zone", [UTC, NEW_YORK, ZoneInfo("Asia/Kathmandu")], ids=str)
@pytest.mark.parametrize("last_login", [None, 1_750_000_000.75, 1_768_000_000.0], ids=["never", "summer", "winter"])
async def test_tokens_are_made_and_checked_as_in_django(zone: tzinfo, use_tz: bool, last_login: float | None) -> None:
    login_time = None if last_login is None else datetime.fromtimestamp(last_login, UTC)
    user, clock = User(id=7, username="ann", password="!x", email="Ann@example.org", last_login=login_time), Clock()
    reset_tokens = PasswordResetTokens(SECRET_KEY, max_age=3600, time_zone=zone, use_tz=use_tz, clock=clock)
    tokens = []
    for clock.now in times_around_clock_changes():
        tokens.append(await reset_tokens.make(user))
    delays = [0, 3599, 3600, 3601, 7200, -1, -7200]
    # Each token is checked after each delay. Negative delays are tokens from the future, as in a repeated hour.
    checks: list[tuple[float, str | None]] = [
        (moment + delay, token)
        for moment, token in zip(times_around_clock_changes(), tokens, strict=True)
        for delay in delays
    ]
    makes: list[tuple[float, str | None]] = [(moment, None) for moment in times_around_clock_changes()]
    results = await run_django(user, [*makes, *checks], zone=str(zone), use_tz=use_tz, PASSWORD_RESET_TIMEOUT=3600)
    assert results[: len(tokens)] == tokens
    validity = []
    for clock.now, token in checks:
        validity.append(await reset_tokens.check(user, str(token)))
    assert validity == results[len(tokens) :]
    assert set(validity) == {True, False}


async def test_django_accepts_our_tokens_by_an_older_key_and_we_accept_its() -> None:
    user = User(id=7, username="ann", password="!x", email="ann@example.org")
    old, new = "o" * 40, "n" * 40
    reset_tokens = PasswordResetTokens(old, clock=Clock())
    calls: list[tuple[float, str | None]] = [(NOW, await reset_tokens.make(user)), (NOW, None)]
    is_valid, django_token = await run_django(user, calls, SECRET_KEY=new, SECRET_KEY_FALLBACKS=[old])
    assert is_valid
    assert await PasswordResetTokens(["x" * 40, new], clock=Clock()).check(user, django_token)
    assert not await reset_tokens.check(user, django_token)


async def test_django_rejects_the_same_malformed_tokens() -> None:
    vectors = VECTORS[0]
    user, clock = user_of(vectors), at(vectors["reset_token"]["ts"])
    tokens = [token for token in malformed_tokens() if "\ud800" not in token]  # Django raises for a surrogate
    calls: list[tuple[float, str | None]] = [(clock.now, token) for token in tokens]
    assert await run_django(user, calls, SECRET_KEY=vectors["secret_key"]) == [False] * len(tokens)


async def test_a_reset_link_of_django_works_here_and_ours_in_django(tmp_path: Path) -> None:
    file = str(tmp_path / "django.sqlite3")
    uid, token = (await run_site(file, SECRET_KEY)).split()
    async with Database(f"sqlite+aiosqlite:///{file}") as database:
        reset_tokens = PasswordResetTokens(SECRET_KEY, time_zone=NEW_YORK)
        async with installed(database, reset_tokens=reset_tokens, django=DjangoProject()) as auth:
            ann = await auth.users.get_by_username("ann")
            assert ann is not None
            assert uid == encode_uid(ann)
            assert await run_site(file, SECRET_KEY, await reset_tokens.make(ann)) == "True\n"
            async with client_of(make_app(auth), follow_redirects=True) as client:
                page = await client.get(f"/accounts/reset/{uid}/{token}")
                assert page.status_code == 200
                data = {"new_password1": PASSWORD, "new_password2": PASSWORD}
                page = await client.post(page.url, data=data, headers=SAME_ORIGIN)
                assert page.url.path == "/accounts/reset/done"
                second_response = await client.get(f"/accounts/reset/{uid}/{token}")
                assert second_response.status_code == 404
    assert await run_site(file, SECRET_KEY, token) == "False\n"


async def run_site(*arguments: str) -> str:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", DJANGO_SITE, *arguments, stdout=asyncio.subprocess.PIPE
    )
    output, _ = await process.communicate()
    assert process.returncode == 0
    return output.decode()


# Concurrent requests to the reset page


@pytest.fixture(params=["stored", "signed"])
async def crowded_auth(request: pytest.FixtureRequest, database: Database) -> AsyncIterator[Auth]:
    """Yields an Auth with a queue for 100 hashes, once with each kind of token."""
    kinds = {"stored": None, "signed": PasswordResetTokens(SECRET_KEY)}
    passwords = Passwords([*weak_passwords().hashers.values()], max_waiting=100)
    options = {"mailer": CollectingMailer(), "base_url": "https://site.example", "passwords": passwords}
    async with installed(database, reset_tokens=kinds[request.param], **options) as auth:
        yield auth


async def test_one_of_100_concurrent_requests_resets_the_password(crowded_auth: Auth) -> None:
    auth = crowded_auth
    ann = await auth.users.create_user("ann", "ann@example.org", PASSWORD)
    link = f"/accounts/reset/{encode_uid(ann)}/{await auth.reset_tokens.make(ann)}"
    passwords = [f"{secrets.token_hex(10)} {number}" for number in range(100)]
    async with client_of(make_app(auth)) as client:
        responses = await all_of(
            *(client.post(link, json={"new_password1": new, "new_password2": new}) for new in passwords)
        )
        statuses = [response.status_code for response in responses]
        assert statuses.count(200) == 1
        assert set(statuses) <= {200, 404, 503}
        assert statuses.count(404) > 20
        fresh = await auth.users.get(ann.id)
        assert fresh is not None
        assert await auth.users.check_password(fresh, passwords[statuses.index(200)])
        assert (await client.post(link, json={"new_password1": PASSWORD, "new_password2": PASSWORD})).status_code == 404
    await auth.mail_queue.drain()
    assert len(auth.mail_queue.mailer.messages) == 1  # type: ignore[union-attr]


async def test_one_of_100_concurrent_requests_resets_the_password_with_a_short_queue(database: Database) -> None:
    async with installed(database, passwords=Passwords([*weak_passwords().hashers.values()], max_waiting=5)) as auth:
        ann = await auth.users.create_user("ann", "ann@example.org", PASSWORD)
        link = f"/accounts/reset/{encode_uid(ann)}/{await auth.reset_tokens.make(ann)}"
        async with client_of(make_app(auth)) as client:
            data = {"new_password1": "a passphrase of hers", "new_password2": "a passphrase of hers"}
            responses = await all_of(*(client.post(link, json=data) for _ in range(100)))
        statuses = [response.status_code for response in responses]
        assert statuses.count(200) == 1
        assert set(statuses) <= {200, 404, 503}
        assert all("retry-after" in response.headers for response in responses if response.status_code == 503)


# Reset tokens in a session


async def test_a_session_holds_a_hash_that_finds_the_token_but_works_in_no_link(auth: Auth, ann: User) -> None:
    token = await auth.reset_tokens.make(ann)
    stored = auth.reset_tokens.to_session(token)
    assert token not in stored
    assert await auth.reset_tokens.check(ann, auth.reset_tokens.from_session(stored))
    assert not await auth.reset_tokens.check(ann, stored)
    assert not await auth.reset_tokens.consume(ann, stored)
    assert await auth.reset_tokens.consume(ann, auth.reset_tokens.from_session(stored))
    assert not await auth.reset_tokens.check(ann, token)


@pytest.mark.parametrize("junk", ["", "x" * 43, "\ud800" * 50, "0" * 64, "é" * 40, "x" * 10_000])
async def test_a_malformed_text_in_a_session_finds_no_token(auth: Auth, ann: User, junk: str) -> None:
    await auth.reset_tokens.make(ann)
    assert not await auth.reset_tokens.check(ann, auth.reset_tokens.from_session(junk))


async def test_one_of_20_concurrent_requests_claims_a_name(auth: Auth) -> None:
    results: list[bool] = []
    all_asked = asyncio.Event()

    async def claim() -> None:
        async with auth.tokens.claim("a link") as is_claimed:
            results.append(is_claimed)
            if len(results) == 20:
                all_asked.set()
            await asyncio.wait_for(all_asked.wait(), 30)

    for _ in range(2):
        results.clear()
        all_asked.clear()
        await asyncio.gather(*(claim() for _ in range(20)))
        assert sorted(results) == [False] * 19 + [True]
    with pytest.raises(RuntimeError):
        async with auth.tokens.claim("a link"):
            raise RuntimeError
    async with auth.tokens.claim("a link") as is_claimed:
        assert is_claimed


async def test_one_of_100_concurrent_callers_burns_a_name(tokens: Tokens) -> None:
    assert sorted(await all_of(*(tokens.burn("a challenge", 60) for _ in range(100)))) == [False] * 99 + [True]
    assert await tokens.burn("another challenge", 60)


async def test_a_burnt_name_is_forgotten_after_its_time(auth: Auth, tokens: Tokens, clock: Clock) -> None:
    assert await tokens.burn("a challenge", 60)
    clock.now += 59
    await tokens.clear_expired()
    assert not await tokens.burn("a challenge", 60)
    clock.now += 1
    await tokens.clear_expired()
    assert await fetch_rows(auth) == []
    assert await tokens.burn("a challenge", 60)

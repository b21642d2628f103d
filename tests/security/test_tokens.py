"""Secrets that are sent by mail: what is kept of them, when they work, and that Django reads ours."""

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
# What it makes and checks is its own; only its clock is ours. Django moves the process to TIME_ZONE.
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
user, generator, answers = User(**fields), Generator(), []
for at, token in order["asked"]:
    generator.at = at
    answers.append(generator.make_token(user) if token is None else generator.check_token(user, token))
print(json.dumps(answers))
"""
# A database of Django's own, with a user who has been there before.
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
    """It stands still until it is set."""

    def __init__(self, now: float = NOW) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def tokens(auth: Auth, clock: Clock) -> Tokens:
    return tokens_of(auth, clock)


def tokens_of(auth: Auth, clock: Clock, *secret_keys: str) -> Tokens:
    keys = SecretKeys(secret_keys or SECRET_KEY)
    return Tokens(auth.gateway, table=auth.tables.token, keys=keys, clock=clock)


async def rows(auth: Auth) -> list[dict[str, Any]]:
    return await auth.gateway.fetch_all(sa.select(*auth.tables.token.columns))


# What is kept


async def test_only_hashes_are_kept(auth: Auth, ann: User, tokens: Tokens) -> None:
    token = await tokens.create("a purpose", "ann@example.org", max_age=60, binding=user_binding(ann), data={"a": "é☃"})
    assert len(token) == 43
    (row,) = await rows(auth)
    assert row["token_hash"] == hashlib.sha256(token.encode()).hexdigest()
    assert row["expires"] == NOW + 60
    kept = str(row)
    assert token not in kept
    assert "ann@example.org" not in kept
    assert ann.password not in kept


async def test_no_two_tokens_are_alike(tokens: Tokens) -> None:
    made = await all_of(*(tokens.create("a", "s", max_age=60) for _ in range(20)))
    assert len(set(made)) == 20


async def test_a_secret_gives_back_what_was_noted(tokens: Tokens) -> None:
    found = await tokens.find("a", await tokens.create("a", "s", max_age=60, data={"email": "é☃", "n": [1]}))
    assert found is not None
    assert found.data == {"email": "é☃", "n": [1]}
    assert (found.purpose, found.expires) == ("a", NOW + 60)
    assert "email" not in repr(found)


async def test_a_secret_is_for_one_purpose(tokens: Tokens) -> None:
    token = await tokens.create("a", "s", max_age=60)
    for purpose in ("b", "ab", ""):
        assert await tokens.find(purpose, token) is None
    assert await tokens.find("a", token) is not None


@pytest.mark.parametrize("junk", ["", "x", "x" * 128, "x" * 129, "é" * 43, "\x00", "\ud800", "%00", "🔑" * 10_000])
async def test_junk_is_no_secret(tokens: Tokens, junk: str) -> None:
    await tokens.create("a", "s", max_age=60)
    assert await tokens.find("a", junk) is None
    await tokens.discard("a", junk)
    assert await tokens.recent("a", junk) == []
    await tokens.revoke_all(junk)


async def test_a_hash_from_the_table_is_no_secret(auth: Auth, tokens: Tokens) -> None:
    await tokens.create("a", "s", max_age=60)
    (row,) = await rows(auth)
    assert await tokens.find("a", row["token_hash"]) is None


async def test_a_secret_works_until_it_is_too_old(tokens: Tokens, clock: Clock) -> None:
    token = await tokens.create("a", "s", max_age=60)
    clock.now += 59.999
    found = await tokens.find("a", token)
    assert found is not None
    assert await tokens.recent("a", "s") == [found]
    clock.now = NOW + 60
    assert await tokens.find("a", token) is None
    assert await tokens.recent("a", "s") == []
    # Whoever looked in time, and came back too late.
    assert not await tokens.consume(found)


async def test_a_secret_is_used_up_once(tokens: Tokens) -> None:
    token = await tokens.create("a", "s", max_age=60)
    found = await tokens.find("a", token)
    assert found is not None
    assert await tokens.consume(found)
    assert not await tokens.consume(found)
    assert await tokens.find("a", token) is None


async def test_of_a_hundred_one_uses_it_up(tokens: Tokens) -> None:
    found = await tokens.find("a", await tokens.create("a", "s", max_age=60))
    assert found is not None
    assert sorted(await all_of(*(tokens.consume(found) for _ in range(100)))) == [False] * 99 + [True]


async def test_what_is_rolled_back_was_not_used(auth: Auth, tokens: Tokens) -> None:
    token = await tokens.create("a", "s", max_age=60)
    found = await tokens.find("a", token)
    assert found is not None

    async def use_and_fail() -> None:
        async with auth.gateway.atomic():
            assert await tokens.consume(found)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        await use_and_fail()
    assert await tokens.find("a", token) == found


async def test_the_newest_is_the_one_that_stays_longest(tokens: Tokens, clock: Clock) -> None:
    await tokens.create("a", "s", max_age=60, data={"n": 1})
    clock.now += 1
    await tokens.create("a", "s", max_age=60, data={"n": 2})
    await tokens.create("a", "other", max_age=600)
    await tokens.create("b", "s", max_age=600)
    newest = await tokens.recent("a", "s")
    assert newest[0].data == {"n": 2}


async def test_a_token_that_will_not_be_sent_is_discarded(auth: Auth, tokens: Tokens) -> None:
    token, kept = [await tokens.create("a", "s", max_age=60) for _ in range(2)]
    await tokens.discard("b", token)
    assert len(await rows(auth)) == 2
    await tokens.discard("a", token)
    assert await tokens.find("a", token) is None
    assert await tokens.find("a", kept) is not None


async def test_all_of_a_subject_end_but_the_way_back(tokens: Tokens) -> None:
    mine = [await tokens.create(purpose, "s", max_age=60) for purpose in ("a", "b")]
    other = await tokens.create("a", "t", max_age=60)
    undo = await tokens.create(EMAIL_UNDO, "s", max_age=60)
    await tokens.revoke_all("s")
    assert [await tokens.find("a", mine[0]), await tokens.find("b", mine[1])] == [None, None]
    assert await tokens.find("a", other) is not None
    assert await tokens.find(EMAIL_UNDO, undo) is not None


async def test_the_first_owner_has_the_last_word(tokens: Tokens, clock: Clock) -> None:
    first = await tokens.create(EMAIL_UNDO, "s", max_age=60)
    clock.now += 1
    second, other = [await tokens.create(EMAIL_UNDO, subject, max_age=60) for subject in ("s", "t")]
    clock.now += 1
    third = await tokens.create(EMAIL_UNDO, "s", max_age=60)
    plain = await tokens.create("a", "s", max_age=60)
    used = await tokens.find(EMAIL_UNDO, second)
    assert used is not None
    await tokens.revoke_undos("s", made_after=used)
    left = [await tokens.find(EMAIL_UNDO, token) is not None for token in (first, second, third, other)]
    assert left == [True, False, False, True]
    assert await tokens.find("a", plain) is not None


async def test_a_token_is_bound_to_what_must_not_change(auth: Auth, tokens: Tokens) -> None:
    found = await tokens.find("a", await tokens.create("a", "s", max_age=60, binding="as it was"))
    unbound = await tokens.find("a", await tokens.create("a", "s", max_age=60))
    assert found is not None
    assert unbound is not None
    assert tokens.binding_matches(found, "as it was")
    assert not tokens.binding_matches(found, "as it is")
    assert not tokens.binding_matches(found, "")
    assert not tokens.binding_matches(unbound, "")


async def test_a_binding_outlives_a_new_secret_key_but_not_the_end_of_the_old_one(auth: Auth, clock: Clock) -> None:
    old, both, new = (tokens_of(auth, clock, *keys) for keys in (["a" * 40], ["b" * 40, "a" * 40], ["b" * 40]))
    token = await old.create("a", "s", max_age=60, binding="it")
    found = await both.find("a", token)
    assert found is not None
    assert both.binding_matches(found, "it")
    assert not new.binding_matches(found, "it")
    newer = await new.find("a", await both.create("a", "s", max_age=60, binding="it"))
    assert newer is not None
    assert new.binding_matches(newer, "it")
    assert not old.binding_matches(newer, "it")


async def test_what_is_too_old_is_cleared(auth: Auth, tokens: Tokens, clock: Clock) -> None:
    for max_age in (10, 20, 30):
        await tokens.create("a", "s", max_age=max_age)
    clock.now += 20
    assert await tokens.clear_expired() == 2
    assert [row["expires"] for row in await rows(auth)] == [NOW + 30]
    assert await tokens.clear_expired() == 0


async def test_clearing_is_part_of_the_common_one(auth: Auth) -> None:
    await auth.tokens.create("a", "s", max_age=-1)
    await auth.clear_expired()
    assert await rows(auth) == []


# A forgotten password, with a row for each mail


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


async def test_a_token_for_something_else_resets_no_password(
    ann: User, tokens: Tokens, reset_tokens: DatabaseResetTokens
) -> None:
    token = await tokens.create("email_change", user_subject(ann), max_age=60, binding=user_binding(ann))
    assert not await reset_tokens.check(ann, token)


async def test_a_reset_token_works_for_half_an_hour(
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
async def test_a_reset_token_is_void_when_password_or_address_change(
    auth: Auth, ann: User, reset_tokens: DatabaseResetTokens, changed: dict[str, str]
) -> None:
    token = await reset_tokens.make(ann)
    await auth.users.update(ann, first_name="Ann", username="anna")
    assert await reset_tokens.check(ann, token)
    await auth.users.update(ann, **changed)
    assert not await reset_tokens.check(ann, token)
    assert not await reset_tokens.consume(ann, token)


# The same without a row: Django's


def user_of(vectors: dict[str, Any], **changes: Any) -> User:
    fields = {key: value for key, value in vectors["user"].items() if key != "pk"}
    fields |= {"id": vectors["user"]["pk"], "last_login": datetime.fromisoformat(fields["last_login"]), **changes}
    return User(**fields)


def at(stamp: int) -> Clock:
    """The clock of a site in UTC when Django's counter stands there."""
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
async def test_what_a_use_changes_voids_the_token(changed: dict[str, Any]) -> None:
    vectors = VECTORS[0]
    reset_tokens = PasswordResetTokens(vectors["secret_key"], clock=at(vectors["reset_token"]["ts"]))
    assert not await reset_tokens.check(user_of(vectors, **changed), vectors["reset_token"]["token"])


async def test_what_a_use_does_not_change_is_not_signed() -> None:
    vectors = VECTORS[0]
    reset_tokens = PasswordResetTokens(vectors["secret_key"], clock=at(vectors["reset_token"]["ts"]))
    user = user_of(vectors, username="other", last_login=datetime(2024, 5, 6, 3, 8, 9, 999_999, tzinfo=NEW_YORK))
    assert await reset_tokens.check(user, vectors["reset_token"]["token"])


def junk() -> list[str]:
    golden = VECTORS[0]["reset_token"]["token"]
    stamp, signature = golden.split("-")
    return [
        *("", "-", "--", "0-", "-0", stamp, signature, f"-{signature}", f"{stamp}-", f"{golden}-", f"{golden} "),
        *(golden.upper(), f"{stamp.upper()}-{signature}", f"0{golden}", f" {golden}", f"+{golden}", f"{golden}\n"),
        *(f"{stamp}--{signature}", f"{stamp}_{signature}", f"{stamp}-{signature[:-1]}", f"{stamp}-{signature}0"),
        *(f"zzzzzzzzzzzzz-{signature}", f"zzzzzzzzzzzzzz-{signature}", f"{'z' * 10_000}-{signature}"),
        *(f"{'0' * 10_000}{golden}", f"c_khfr4-{signature}", f"٣-{signature}", f"ｃkhfr4-{signature}"),
        *(f"{stamp}-é{signature[1:]}", f"{stamp}-\ud800", f"\ud800-{signature}", f"\x00{golden}", f"{golden}\x00"),
        *(f"-5-{signature}", f"ſ-{signature}", f"{stamp}\u2010{signature}"),
    ]


@pytest.mark.parametrize("token", junk(), ids=lambda token: ascii(token)[:40])
async def test_junk_is_refused_and_never_an_error(token: str) -> None:
    vectors = VECTORS[0]
    reset_tokens = PasswordResetTokens(vectors["secret_key"], clock=at(vectors["reset_token"]["ts"]))
    assert not await reset_tokens.check(user_of(vectors), token)


async def test_the_time_is_exact_to_the_second() -> None:
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


async def test_a_machine_that_forgot_the_date_does_not_hang() -> None:
    reset_tokens, user = PasswordResetTokens(SECRET_KEY, clock=Clock(0)), user_of(VECTORS[0])
    token = await asyncio.wait_for(reset_tokens.make(user), 1)
    assert token.startswith("0-")


# Beside a running Django


async def django(
    user: User, asked: list[tuple[float, str | None]], *, zone: str = "UTC", use_tz: bool = True, **settings: Any
) -> list[Any]:
    """What Django answers: a token where it was given none, whether it is good where it was given one."""
    fields = {name: getattr(user, name) for name in ("password", "email")}
    last_login = user.last_login.timestamp() if user.last_login else None
    order = {
        "settings": {"SECRET_KEY": SECRET_KEY, "TIME_ZONE": zone, "USE_TZ": use_tz, **settings},
        "user": {**fields, "id": user.id, "last_login": last_login},
        "asked": asked,
    }
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", DJANGO), stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    output, _ = await process.communicate(json.dumps(order).encode())
    assert process.returncode == 0
    return list(json.loads(output))


def moments() -> list[int]:
    """Before, in and after the hours that New York has twice, or not at all."""
    turns = [datetime(2026, 11, 1, 6, tzinfo=UTC), datetime(2026, 3, 8, 7, tzinfo=UTC)]
    around = [int(turn.timestamp()) + minutes * 60 for turn in turns for minutes in (-90, -61, -30, -1, 0, 30, 90)]
    return [*around, NOW, 1_780_000_000]


@pytest.mark.parametrize("use_tz", [True, False], ids=["aware", "naive"])
@pytest.mark.parametrize("zone", [UTC, NEW_YORK, ZoneInfo("Asia/Kathmandu")], ids=str)
@pytest.mark.parametrize("last_login", [None, 1_750_000_000.75, 1_768_000_000.0], ids=["never", "summer", "winter"])
async def test_django_and_we_agree(zone: tzinfo, use_tz: bool, last_login: float | None) -> None:
    seen = None if last_login is None else datetime.fromtimestamp(last_login, UTC)
    user, clock = User(id=7, username="ann", password="!x", email="Ann@example.org", last_login=seen), Clock()
    ours = PasswordResetTokens(SECRET_KEY, max_age=3600, time_zone=zone, use_tz=use_tz, clock=clock)
    made = []
    for clock.now in moments():
        made.append(await ours.make(user))
    later = [0, 3599, 3600, 3601, 7200, -1, -7200]
    # Each token at each time: also those that come from the future, as an hour that is there twice makes them.
    asked: list[tuple[float, str | None]] = [
        (moment + delay, token) for moment, token in zip(moments(), made, strict=True) for delay in later
    ]
    plain: list[tuple[float, str | None]] = [(moment, None) for moment in moments()]
    answers = await django(user, [*plain, *asked], zone=str(zone), use_tz=use_tz, PASSWORD_RESET_TIMEOUT=3600)
    assert answers[: len(made)] == made
    decided = []
    for clock.now, token in asked:
        decided.append(await ours.check(user, str(token)))
    assert decided == answers[len(made) :]
    assert set(decided) == {True, False}


async def test_django_takes_our_tokens_under_an_older_key_and_we_take_its() -> None:
    user = User(id=7, username="ann", password="!x", email="ann@example.org")
    old, new = "o" * 40, "n" * 40
    ours = PasswordResetTokens(old, clock=Clock())
    asked: list[tuple[float, str | None]] = [(NOW, await ours.make(user)), (NOW, None)]
    good, theirs = await django(user, asked, SECRET_KEY=new, SECRET_KEY_FALLBACKS=[old])
    assert good
    assert await PasswordResetTokens(["x" * 40, new], clock=Clock()).check(user, theirs)
    assert not await ours.check(user, theirs)


async def test_django_and_we_refuse_the_same_junk() -> None:
    vectors = VECTORS[0]
    user, clock = user_of(vectors), at(vectors["reset_token"]["ts"])
    tokens = [token for token in junk() if "\ud800" not in token]  # at which Django breaks
    asked: list[tuple[float, str | None]] = [(clock.now, token) for token in tokens]
    assert await django(user, asked, SECRET_KEY=vectors["secret_key"]) == [False] * len(tokens)


async def test_a_link_of_django_works_on_our_page_and_ours_on_its(tmp_path: Path) -> None:
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
                again = await client.get(f"/accounts/reset/{uid}/{token}")
                assert again.status_code == 404
    assert await run_site(file, SECRET_KEY, token) == "False\n"


async def run_site(*arguments: str) -> str:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", DJANGO_SITE, *arguments, stdout=asyncio.subprocess.PIPE
    )
    output, _ = await process.communicate()
    assert process.returncode == 0
    return output.decode()


# A hundred at once, through the page


@pytest.fixture(params=["kept", "signed"])
async def crowded(request: pytest.FixtureRequest, database: Database) -> AsyncIterator[Auth]:
    """An Auth that has room for a hundred hashes at once, with each kind of token."""
    kinds = {"kept": None, "signed": PasswordResetTokens(SECRET_KEY)}
    passwords = Passwords([*weak_passwords().hashers.values()], max_waiting=100)
    options = {"mailer": CollectingMailer(), "base_url": "https://site.example", "passwords": passwords}
    async with installed(database, reset_tokens=kinds[request.param], **options) as auth:
        yield auth


async def test_of_a_hundred_one_resets_the_password(crowded: Auth) -> None:
    auth = crowded
    ann = await auth.users.create_user("ann", "ann@example.org", PASSWORD)
    link = f"/accounts/reset/{encode_uid(ann)}/{await auth.reset_tokens.make(ann)}"
    passwords = [f"{secrets.token_hex(10)} {number}" for number in range(100)]
    async with client_of(make_app(auth)) as client:
        answers = await all_of(
            *(client.post(link, json={"new_password1": new, "new_password2": new}) for new in passwords)
        )
        statuses = [answer.status_code for answer in answers]
        assert statuses.count(200) == 1
        assert set(statuses) <= {200, 404, 503}
        assert statuses.count(404) > 20
        fresh = await auth.users.get(ann.id)
        assert fresh is not None
        assert await auth.users.check_password(fresh, passwords[statuses.index(200)])
        assert (await client.post(link, json={"new_password1": PASSWORD, "new_password2": PASSWORD})).status_code == 404
    await auth.mail_queue.drain()
    assert len(auth.mail_queue.mailer.messages) == 1  # type: ignore[union-attr]


async def test_of_a_hundred_one_resets_the_password_also_when_there_is_no_room(database: Database) -> None:
    async with installed(database, passwords=Passwords([*weak_passwords().hashers.values()], max_waiting=5)) as auth:
        ann = await auth.users.create_user("ann", "ann@example.org", PASSWORD)
        link = f"/accounts/reset/{encode_uid(ann)}/{await auth.reset_tokens.make(ann)}"
        async with client_of(make_app(auth)) as client:
            sent = {"new_password1": "a passphrase of hers", "new_password2": "a passphrase of hers"}
            answers = await all_of(*(client.post(link, json=sent) for _ in range(100)))
        statuses = [answer.status_code for answer in answers]
        assert statuses.count(200) == 1
        assert set(statuses) <= {200, 404, 503}
        assert all("retry-after" in answer.headers for answer in answers if answer.status_code == 503)


# What waits in a session


async def test_a_session_holds_a_hash_that_finds_the_token_and_opens_no_link(auth: Auth, ann: User) -> None:
    token = await auth.reset_tokens.make(ann)
    stored = auth.reset_tokens.to_session(token)
    assert token not in stored
    assert await auth.reset_tokens.check(ann, auth.reset_tokens.from_session(stored))
    assert not await auth.reset_tokens.check(ann, stored)
    assert not await auth.reset_tokens.consume(ann, stored)
    assert await auth.reset_tokens.consume(ann, auth.reset_tokens.from_session(stored))
    assert not await auth.reset_tokens.check(ann, token)


@pytest.mark.parametrize("junk", ["", "x" * 43, "\ud800" * 50, "0" * 64, "é" * 40, "x" * 10_000])
async def test_what_a_session_should_not_hold_finds_no_token(auth: Auth, ann: User, junk: str) -> None:
    await auth.reset_tokens.make(ann)
    assert not await auth.reset_tokens.check(ann, auth.reset_tokens.from_session(junk))

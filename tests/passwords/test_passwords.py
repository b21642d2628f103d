"""Tests of hashing and checking passwords: limits, constant work, the thread pool and its queue."""

import asyncio
import contextlib
import logging
import os
import re
import statistics
import sys
import threading
import time
import unicodedata
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from starlette_auth import (
    Argon2PasswordHasher,
    Auth,
    BCryptPasswordHasher,
    BCryptSHA256PasswordHasher,
    HashingBusy,
    MD5PasswordHasher,
    ModelBackend,
    PasswordHasher,
    Passwords,
    PBKDF2PasswordHasher,
    PBKDF2SHA1PasswordHasher,
    ScryptPasswordHasher,
)
from starlette_auth.passwords.passwords import MAX_KINDS, default_hashers

from ..conftest import PASSWORD, weak_passwords

NFC = unicodedata.normalize("NFC", "Ünïcödé ångström")
NFD = unicodedata.normalize("NFD", NFC)


class CountingHasher:
    """Counts its hashes, and records the threads and priorities they run with."""

    algorithm = "counting"

    def __init__(self) -> None:
        self.hashes = 0
        self.threads: set[int] = set()
        self.priorities: set[int] = set()

    def encode(self, password: str) -> str:
        self.hashes += 1
        self.threads.add(threading.get_ident())
        self.priorities.add(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))
        return f"{self.algorithm}${password}"

    def verify(self, password: str, encoded: str) -> bool:
        return self.encode(password) == encoded

    def must_update(self, encoded: str) -> bool:
        return False


class SlowHasher(CountingHasher):
    """Waits in `encode` until the test opens the gate."""

    algorithm = "slow"

    def __init__(self) -> None:
        super().__init__()
        self.gate = threading.Event()
        self.started = threading.Semaphore(0)

    def encode(self, password: str) -> str:
        self.started.release()
        assert self.gate.wait(30)
        return super().encode(password)


@pytest.fixture
def counting() -> CountingHasher:
    return CountingHasher()


@pytest.fixture
def slow() -> Iterator[SlowHasher]:
    hasher = SlowHasher()
    yield hasher
    hasher.gate.set()


@contextlib.asynccontextmanager
async def passwords_with(*hashers: PasswordHasher, **options: Any) -> AsyncIterator[Passwords]:
    passwords = Passwords(hashers, **options)
    yield passwords
    passwords.close()


async def until(condition: object) -> None:
    """Waits until `condition()` is true, without blocking the event loop."""
    assert callable(condition)
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.005)


async def test_a_hash_matches_only_its_password(fast_passwords: Passwords) -> None:
    encoded = await fast_passwords.hash(PASSWORD)
    assert encoded.startswith("argon2$argon2id$")
    assert await fast_passwords.check(encoded, PASSWORD) == (True, False)
    assert await fast_passwords.check(encoded, PASSWORD.upper()) == (False, False)


@pytest.mark.parametrize("chosen", [NFC, NFD])
@pytest.mark.parametrize("typed", [NFC, NFD])
async def test_composed_and_decomposed_letters_are_one_password(
    fast_passwords: Passwords, chosen: str, typed: str
) -> None:
    assert NFC != NFD
    assert (await fast_passwords.check(await fast_passwords.hash(chosen), typed)).matches


@pytest.mark.parametrize("password", [NFC, NFD])
async def test_a_hash_of_a_text_that_django_did_not_normalise_matches_the_same_text(password: str) -> None:
    async with passwords_with(PBKDF2PasswordHasher(iterations=10)) as passwords:
        encoded = PBKDF2PasswordHasher(iterations=10).encode(password)  # Django does not normalise
        assert (await passwords.check(encoded, password)).matches


@pytest.mark.parametrize("password", ["x" * 1025, "x" * 10_000_000, "half a pair \ud83d", "\udc00"])
async def test_an_invalid_password_is_rejected_before_it_is_hashed(counting: CountingHasher, password: str) -> None:
    async with passwords_with(counting) as passwords:
        with pytest.raises(ValueError, match=r"at most 1024 characters. Choose another one\.$"):
            await passwords.hash(password)
        assert counting.hashes == 0
        assert await passwords.check(f"counting${password}", password) == (False, False)
        assert counting.hashes == 1  # the same work as for a wrong password


async def test_a_password_may_have_1024_characters(fast_passwords: Passwords) -> None:
    long = "☃" * 1024
    assert (await fast_passwords.check(await fast_passwords.hash(long), long)).matches


async def test_no_password_matches_an_unusable_hash(fast_passwords: Passwords) -> None:
    encoded = await fast_passwords.hash(None)
    assert encoded.startswith("!")
    assert len(encoded) == 41  # as Django's
    assert encoded != await fast_passwords.hash(None)
    for password in ("", encoded, encoded[1:], "!"):
        assert await fast_passwords.check(encoded, password) == (False, False)


@pytest.mark.parametrize("encoded", [None, "", "!", "!unusable", "counting$other", "unknown$x", "plain text"], ids=repr)
async def test_each_failed_check_costs_exactly_one_hash(counting: CountingHasher, encoded: str | None) -> None:
    async with passwords_with(counting) as passwords:
        for number in (1, 2, 3):
            assert not (await passwords.check(encoded, PASSWORD)).matches
            assert counting.hashes == number


async def test_a_right_password_costs_exactly_one_hash(counting: CountingHasher) -> None:
    async with passwords_with(counting) as passwords:
        assert (await passwords.check(f"counting${PASSWORD}", PASSWORD)).matches
        assert counting.hashes == 1


async def test_unknown_inactive_unusable_and_wrong_logins_cost_the_same(auth: Auth, counting: CountingHasher) -> None:
    auth.users.passwords = Passwords([counting])
    users = auth.users
    await users.create_user("right", password=PASSWORD)
    await users.create_user("inactive", password=PASSWORD, is_active=False)
    await users.create_user("unusable")
    costs = {}
    for name, password in (("unknown", PASSWORD), ("inactive", PASSWORD), ("unusable", PASSWORD), ("right", "wrong")):
        before = counting.hashes
        # ModelBackend does not use the request.
        assert await ModelBackend(users).authenticate(None, username=name, password=password) is None  # type: ignore[arg-type]
        costs[name] = counting.hashes - before
    users.passwords.close()
    assert costs == {"unknown": 1, "inactive": 1, "unusable": 1, "right": 1}


async def test_both_normal_forms_are_hashed_for_an_unknown_user_too(counting: CountingHasher) -> None:
    async with passwords_with(counting) as passwords:
        await passwords.check(None, NFD)
        unknown = counting.hashes
        await passwords.check("counting$x", NFD)
        assert counting.hashes - unknown == unknown == 2


@pytest.mark.parametrize(
    "encoded",
    [
        "argon2$",
        "argon2$argon2id$v=19$m=65536",
        "argon2$argon2id$v=19$m=8,t=1,p=1$c2FsdHNhbHQ$ÄÄÄÄ",
        "argon2$argon2id$v=19$m=8,t=1,p=1$!!!!$AAAAAAAA",
        "pbkdf2_sha256$",
        "pbkdf2_sha256$many$salt$AA==",
        "pbkdf2_sha256$0$salt$AA==",
        "pbkdf2_sha256$-1$salt$AA==",
        "pbkdf2_sha1$1$\udc00$AA==",
        "scrypt$16384",
        "scrypt$3$salt$8$1$AA==",
        "scrypt$16384$salt$0$0$AA==",
        "scrypt$-1$salt$8$5$AAAA",
        "scrypt$16384$salt$-8$-5$AAAA",
        "bcrypt$",
        "bcrypt_sha256$$2b$",
        "md5",
    ],
)
async def test_a_damaged_hash_matches_no_password_and_is_logged(encoded: str, caplog: pytest.LogCaptureFixture) -> None:
    counting = CountingHasher()
    async with passwords_with(counting, *default_hashers(), MD5PasswordHasher()) as passwords:
        assert await passwords.check(encoded, "pw") == (False, False)
    assert counting.hashes == 1, "it takes as long as a wrong password"
    [record] = caplog.records
    assert (record.name, record.levelno) == ("starlette_auth", logging.ERROR)
    assert "damaged" in record.getMessage()
    assert "$" not in record.getMessage()


@pytest.mark.parametrize("hasher", [*default_hashers()[:4], MD5PasswordHasher()], ids=lambda hasher: hasher.algorithm)
async def test_a_truncated_hash_matches_no_password(hasher: PasswordHasher) -> None:
    weak_hashers: dict[str, PasswordHasher] = {
        "argon2": Argon2PasswordHasher(time_cost=1, memory_cost=8, parallelism=1),
        "pbkdf2_sha256": PBKDF2PasswordHasher(iterations=2),
    }
    encoded = weak_hashers.get(hasher.algorithm, hasher).encode("pw")
    async with passwords_with(CountingHasher(), hasher) as passwords:
        for length in range(0, len(encoded), 1 if hasher.algorithm in weak_hashers else 20):
            assert await passwords.check(encoded[:length], "pw") == (False, False), encoded[:length]
        assert (await passwords.check(encoded, "pw")).matches


async def test_a_hash_of_unknown_format_is_logged_without_its_text(
    counting: CountingHasher, caplog: pytest.LogCaptureFixture
) -> None:
    async with passwords_with(counting) as passwords:
        await passwords.check("8fe4c11451281c094a6578e6ddbf5eed", "pw")
    assert "unknown format" in caplog.text
    assert "8fe4c" not in caplog.text


async def test_a_bcrypt_hash_without_bcrypt_logs_what_to_install(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, counting: CountingHasher
) -> None:
    monkeypatch.setitem(sys.modules, "bcrypt", None)
    async with passwords_with(counting, *default_hashers()) as passwords:
        assert not (await passwords.check("bcrypt$$2b$04$abcdefghijklmnopqrstuu", "pw")).matches
    assert "pip install starlette-contrib-auth[django]" in caplog.text


async def test_the_first_hasher_writes_and_hashes_of_others_must_be_updated(counting: CountingHasher) -> None:
    old = PBKDF2PasswordHasher(iterations=5)
    async with passwords_with(counting, old) as passwords:
        assert await passwords.hash("pw") == "counting$pw"
        assert await passwords.check(old.encode("pw"), "pw") == (True, True)
        assert await passwords.check(old.encode("pw"), "wrong") == (False, False)
    async with passwords_with(PBKDF2PasswordHasher(iterations=6)) as passwords:
        assert await passwords.check(old.encode("pw"), "pw") == (True, True)


def test_hashes_are_distinguished_from_passwords(fast_passwords: Passwords) -> None:
    for encoded in ("!", "!x", "argon2$argon2id$x", "pbkdf2_sha256$1$s$x"):
        assert fast_passwords.is_encoded(encoded)
    for password in ("", PASSWORD, "argon2", "md5$x$y", "None"):
        assert not fast_passwords.is_encoded(password)


async def test_a_full_queue_rejects_the_next_password_with_retry_after(slow: SlowHasher) -> None:
    async with passwords_with(slow, threads=1, max_waiting=2) as passwords:
        waiting = [asyncio.create_task(passwords.hash("pw")) for _ in range(3)]
        await asyncio.sleep(0)
        with pytest.raises(HashingBusy) as busy:
            await passwords.check(None, "pw")
        assert busy.value.status_code == 503
        assert busy.value.headers == {"Retry-After": "5"}
        slow.gate.set()
        assert await asyncio.gather(*waiting) == ["slow$pw"] * 3
        assert await passwords.hash("pw") == "slow$pw"  # the queue has free slots again


async def test_a_cancelled_request_keeps_its_slot_while_its_thread_works(slow: SlowHasher) -> None:
    async with passwords_with(slow, threads=1, max_waiting=1) as passwords:
        working = asyncio.create_task(passwords.hash("pw"))
        await until(lambda: slow.started.acquire(blocking=False))
        waiting = asyncio.create_task(passwords.hash("pw"))
        await asyncio.sleep(0)
        working.cancel()
        with pytest.raises(asyncio.CancelledError):
            await working
        with pytest.raises(HashingBusy):
            await passwords.hash("pw")
        # A request that is cancelled in the queue frees its slot at once, and is not hashed.
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        last = asyncio.create_task(passwords.hash("last"))
        slow.gate.set()
        assert await last == "slow$last"
        assert slow.hashes == 2  # the first and the last


async def test_many_cancellations_lose_no_slot(counting: CountingHasher) -> None:
    async with passwords_with(counting, threads=2, max_waiting=8) as passwords:
        for _ in range(50):
            tasks = [asyncio.create_task(passwords.hash("pw")) for _ in range(10)]
            await asyncio.sleep(0)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await asyncio.sleep(0.001)
        await asyncio.sleep(0.05)
        assert await asyncio.gather(*(passwords.hash("pw") for _ in range(10))) == ["counting$pw"] * 10


async def test_the_number_of_recorded_durations_is_limited() -> None:
    async with passwords_with(PBKDF2PasswordHasher(iterations=1)) as passwords:
        for cost in range(1, 80):
            assert (await passwords.check(PBKDF2PasswordHasher(iterations=cost).encode("pw"), "pw")).matches
        assert len(passwords._durations) == MAX_KINDS


async def test_an_exception_in_a_hasher_frees_its_slot(counting: CountingHasher) -> None:
    class BrokenHasher(CountingHasher):
        def encode(self, password: str) -> str:
            raise RuntimeError("broken")

    async with passwords_with(BrokenHasher(), threads=1, max_waiting=1) as passwords:
        for _ in range(5):
            with pytest.raises(RuntimeError, match="broken"):
                await passwords.hash("pw")


async def test_hashing_does_not_run_in_the_thread_of_the_event_loop(counting: CountingHasher) -> None:
    async with passwords_with(counting, threads=3) as passwords:
        await asyncio.gather(*(passwords.hash("pw") for _ in range(30)))
    assert threading.get_ident() not in counting.threads
    assert 1 <= len(counting.threads) <= 3


@pytest.mark.skipif(sys.platform != "linux", reason="priorities belong to threads on Linux only")
async def test_hashing_threads_have_low_priority_on_linux(counting: CountingHasher) -> None:
    own_priority = os.getpriority(os.PRIO_PROCESS, 0)
    async with passwords_with(counting) as passwords:
        await passwords.hash("pw")
    assert counting.priorities == {min(own_priority + 10, 19)}
    assert os.getpriority(os.PRIO_PROCESS, 0) == own_priority


async def test_the_priority_stays_on_systems_without_thread_priorities(
    counting: CountingHasher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("starlette_auth.passwords.passwords.sys", SimpleNamespace(platform="darwin"))
    async with passwords_with(counting) as passwords:
        assert await passwords.hash("pw") == "counting$pw"
    assert counting.priorities == {os.getpriority(os.PRIO_PROCESS, 0)}


async def test_a_closed_pool_starts_again_for_the_next_password(counting: CountingHasher) -> None:
    passwords = Passwords([counting])
    passwords.close()
    await passwords.hash("pw")
    passwords.close()
    assert await passwords.hash("pw") == "counting$pw"
    passwords.close()
    passwords.close()


def test_one_instance_works_in_several_event_loops(counting: CountingHasher) -> None:
    passwords = Passwords([counting])
    for _ in range(3):
        assert asyncio.run(passwords.hash("pw")) == "counting$pw"
    passwords.close()


async def test_50_logins_at_once_do_not_delay_the_event_loop_and_need_little_memory() -> None:
    for _attempt in range(3):  # the machine may be busy with other work for a while
        delay, growth = await _fifty_logins()
        assert growth < ((os.cpu_count() or 1) * 64 + 100) * 2**20
        if delay < 0.25:
            break
    assert delay < 0.25


async def _fifty_logins() -> tuple[float, int]:
    """Returns the longest delay of an idle coroutine in seconds, and the growth of the process in bytes."""
    passwords = Passwords()
    encoded = await passwords.hash(PASSWORD)
    memory_before = max_memory = resident_memory()
    max_delay = 0.0
    logins = asyncio.gather(*(passwords.check(encoded, PASSWORD) for _ in range(50)))
    while not logins.done():
        started = time.perf_counter()
        await asyncio.sleep(0.005)
        max_delay = max(max_delay, time.perf_counter() - started - 0.005)
        max_memory = max(max_memory, resident_memory())
    assert all(verification.matches for verification in await logins)
    passwords.close()
    return max_delay, max_memory - memory_before


def resident_memory() -> int:
    statm = Path("/proc/self/statm")
    return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") if statm.exists() else 0


@pytest.mark.flaky(reruns=3)  # a busy machine distorts the time
async def test_an_account_with_an_old_hash_takes_as_long_as_an_unknown_user() -> None:
    passwords = Passwords([*weak_passwords().hashers.values()])
    old = PBKDF2PasswordHasher(iterations=300_000).encode("right")

    async def median(encoded: str | None) -> float:
        times = []
        for _ in range(9):
            started_at = time.perf_counter()
            assert not (await passwords.check(encoded, "wrong")).matches
            times.append(time.perf_counter() - started_at)
        return statistics.median(times)

    known, unknown = await median(old), await median(None)
    assert 0.4 < known / unknown < 2.5
    passwords.close()


COSTLY = [
    "argon2$argon2id$v=19$m=2097152,t=1,p=4$c2FsdHNhbHQ$AAAAAAAAAAAAAAAAAAAAAA",
    "argon2$argon2i$v=19$m=1048576,t=3,p=4$c2FsdHNhbHQ$AAAAAAAAAAAAAAAAAAAAAA",
    "argon2$argon2id$v=19$m=65536,t=4000,p=4$c2FsdHNhbHQ$AAAAAAAAAAAAAAAAAAAAAA",
    "argon2$argon2id$v=19$m=8,t=4294967295,p=1$c2FsdHNhbHQ$AAAAAAAAAAAAAAAAAAAAAA",
    "argon2$argon2id$v=19$m=65536,t=1,p=8192$c2FsdHNhbHQ$AAAAAAAAAAAAAAAAAAAAAA",
    "pbkdf2_sha256$40000000$salt$AA==",
    "pbkdf2_sha256$10000001$salt$AA==",
    "pbkdf2_sha256$2147483647$salt$AA==",
    "pbkdf2_sha1$40000000$salt$AA==",
    "scrypt$1048576$salt$8$1$AA==",
    "scrypt$16384$salt$1024$1$AA==",
    "scrypt$16384$salt$8$100000$AA==",
    "scrypt$2$salt$1$1000000000$AA==",
    "scrypt$1073741824$salt$8$1$AA==",
    "scrypt$99999999999999999999999$salt$8$1$AA==",
    "pbkdf2_sha256$99999999999999999999999$salt$AA==",
    "bcrypt$$2b$99$abcdefghijklmnopqrstuu",
    "bcrypt$$2b$22$abcdefghijklmnopqrstuu",
    "bcrypt$$2y$16$abcdefghijklmnopqrstuu",
    "bcrypt_sha256$$2b$31$abcdefghijklmnopqrstuu",
]


@pytest.mark.flaky(reruns=3)  # a busy machine distorts the time
@pytest.mark.parametrize("encoded", COSTLY)
async def test_a_hash_beyond_the_bound_is_refused_without_work_and_logged(
    encoded: str, caplog: pytest.LogCaptureFixture
) -> None:
    counting = CountingHasher()
    async with passwords_with(counting, *default_hashers()) as passwords:
        started_at = time.perf_counter()
        assert await passwords.check(encoded, "pw") == (False, False)
        assert time.perf_counter() - started_at < 0.5
    assert counting.hashes == 1, "it takes as long as a wrong password"
    [record] = caplog.records
    assert (record.name, record.levelno) == ("starlette_auth", logging.ERROR)
    assert re.search(r"was refused.*max_\w+=[\d,]+\. Set a new password, or pass a higher max_\w+", record.getMessage())
    assert "$" not in record.getMessage()


@pytest.mark.flaky(reruns=3)  # a busy machine distorts the time
@pytest.mark.parametrize(
    "encoded",
    ["bcrypt$2b$22$0000000000000000000004", "bcrypt$2b$22$", "bcrypt$$2b$+22$abcdefghijklmnopqrstuu"],
)
async def test_a_bcrypt_cost_in_another_form_is_not_computed(encoded: str, caplog: pytest.LogCaptureFixture) -> None:
    async with passwords_with(CountingHasher(), *default_hashers()) as passwords:
        started_at = time.perf_counter()
        assert await passwords.check(encoded, "pw") == (False, False)
        assert time.perf_counter() - started_at < 0.5
    assert "damaged" in caplog.text


@pytest.mark.parametrize(
    ("hasher", "bounded", "raised"),
    [
        (
            PBKDF2PasswordHasher(iterations=2000),
            PBKDF2PasswordHasher(iterations=1, max_iterations=1999),
            PBKDF2PasswordHasher(iterations=1, max_iterations=2000),
        ),
        (
            PBKDF2SHA1PasswordHasher(iterations=2000),
            PBKDF2SHA1PasswordHasher(iterations=1, max_iterations=1999),
            PBKDF2SHA1PasswordHasher(iterations=1, max_iterations=2000),
        ),
        (
            Argon2PasswordHasher(time_cost=1, memory_cost=64, parallelism=1),
            Argon2PasswordHasher(time_cost=1, memory_cost=8, parallelism=1, max_memory_cost=63),
            Argon2PasswordHasher(time_cost=1, memory_cost=8, parallelism=1, max_memory_cost=64),
        ),
        (
            Argon2PasswordHasher(time_cost=5, memory_cost=8, parallelism=1),
            Argon2PasswordHasher(time_cost=1, memory_cost=8, parallelism=1, max_work=39),
            Argon2PasswordHasher(time_cost=1, memory_cost=8, parallelism=1, max_work=40),
        ),
        (
            Argon2PasswordHasher(time_cost=1, memory_cost=64, parallelism=2),
            Argon2PasswordHasher(time_cost=1, memory_cost=64, parallelism=1, max_parallelism=1),
            Argon2PasswordHasher(time_cost=1, memory_cost=64, parallelism=1, max_parallelism=2),
        ),
        (
            ScryptPasswordHasher(work_factor=64, parallelism=1),
            ScryptPasswordHasher(work_factor=16, parallelism=1, max_memory=128 * 8 * 65 - 1),
            ScryptPasswordHasher(work_factor=16, parallelism=1, max_memory=128 * 8 * 65),
        ),
        (
            ScryptPasswordHasher(work_factor=64, parallelism=1),
            ScryptPasswordHasher(work_factor=16, parallelism=1, max_work=511),
            ScryptPasswordHasher(work_factor=16, parallelism=1, max_work=512),
        ),
        (
            BCryptSHA256PasswordHasher(rounds=5),
            BCryptSHA256PasswordHasher(rounds=4, max_rounds=4),
            BCryptSHA256PasswordHasher(rounds=4, max_rounds=5),
        ),
        (
            BCryptPasswordHasher(rounds=5),
            BCryptPasswordHasher(rounds=4, max_rounds=4),
            BCryptPasswordHasher(rounds=4, max_rounds=5),
        ),
    ],
)
async def test_each_bound_can_be_raised(
    hasher: PasswordHasher, bounded: PasswordHasher, raised: PasswordHasher, caplog: pytest.LogCaptureFixture
) -> None:
    encoded = hasher.encode("pw")
    async with passwords_with(bounded) as passwords:
        assert not (await passwords.check(encoded, "pw")).matches
    assert "was refused" in caplog.text
    async with passwords_with(raised) as passwords:
        assert (await passwords.check(encoded, "pw")).matches


async def test_a_hasher_reads_its_own_hashes_whatever_the_bound() -> None:
    for hasher in (
        PBKDF2PasswordHasher(iterations=200, max_iterations=100),
        Argon2PasswordHasher(
            time_cost=2, memory_cost=64, parallelism=2, max_memory_cost=8, max_work=8, max_parallelism=1
        ),
        ScryptPasswordHasher(work_factor=64, max_memory=1, max_work=1),
        BCryptPasswordHasher(rounds=5, max_rounds=4),
    ):
        assert hasher.verify("pw", hasher.encode("pw"))


@pytest.mark.parametrize(
    "encoded",
    [
        PBKDF2PasswordHasher(iterations=1_500_000).encode("pw"),  # Django 6.1
        Argon2PasswordHasher(time_cost=2, memory_cost=102_400, parallelism=8).encode("pw"),  # Django
        Argon2PasswordHasher(time_cost=3, memory_cost=256 * 1024, parallelism=1).encode("pw"),  # libsodium MODERATE
        ScryptPasswordHasher(work_factor=2**17, parallelism=1).encode("pw"),  # OWASP
        BCryptPasswordHasher(rounds=13).encode("pw"),
    ],
    ids=["pbkdf2", "argon2 of Django", "argon2 of libsodium", "scrypt", "bcrypt"],
)
async def test_usual_costs_are_within_the_bounds(encoded: str) -> None:
    async with passwords_with(*default_hashers()) as passwords:
        assert (await passwords.check(encoded, "pw")).matches


@pytest.mark.flaky(reruns=3)  # a busy machine distorts the time
async def test_a_very_slow_hash_delays_wrong_logins_of_others_by_two_seconds_at_most(auth: Auth) -> None:
    class VerySlowHasher(CountingHasher):
        algorithm = "very_slow"

        def verify(self, password: str, encoded: str) -> bool:
            time.sleep(2.6)
            return False

    auth.users.passwords = Passwords([*weak_passwords().hashers.values(), VerySlowHasher()])
    await auth.users.create_user("ann", password=PASSWORD)
    await auth.users.create_user("old", encoded_password="very_slow$x")
    backend = ModelBackend(auth.users)
    assert await backend.authenticate(None, username="old", password="wrong") is None  # type: ignore[arg-type]
    started_at = time.perf_counter()
    assert await backend.authenticate(None, username="ann", password="wrong") is None  # type: ignore[arg-type]
    assert time.perf_counter() - started_at < 2.3
    auth.users.passwords.close()


async def test_the_first_of_two_hashers_of_one_algorithm_makes_new_hashes() -> None:
    first, second = PBKDF2PasswordHasher(iterations=30), PBKDF2PasswordHasher(iterations=20)
    async with passwords_with(first, second, PBKDF2PasswordHasher(iterations=10)) as passwords:
        assert (await passwords.hash("pw")).startswith("pbkdf2_sha256$30$")
        assert await passwords.check(first.encode("pw"), "pw") == (True, False)
        assert await passwords.check(second.encode("pw"), "pw") == (True, True)
        assert await passwords.check(second.encode("pw"), "wrong") == (False, False)
    async with passwords_with(Argon2PasswordHasher(time_cost=2, memory_cost=64), *default_hashers()) as passwords:
        assert "$m=64,t=2," in await passwords.hash("pw")


class PepperedHasher(CountingHasher):
    """Stands for a hasher with a secret: the encoded hash does not tell which one."""

    algorithm = "peppered"

    def __init__(self, pepper: str, *, max_length: int = 100) -> None:
        super().__init__()
        self.pepper = pepper
        self.max_length = max_length

    def encode(self, password: str) -> str:
        return super().encode(f"{self.pepper} {password}")

    def verify(self, password: str, encoded: str) -> bool:
        if len(encoded) > self.max_length:
            raise ValueError("too long")
        return super().verify(password, encoded)


async def test_each_of_several_hashers_of_one_algorithm_reads_its_hashes() -> None:
    new, old, oldest = PepperedHasher("new"), PepperedHasher("old"), PepperedHasher("oldest")
    async with passwords_with(new, old, oldest) as passwords:
        assert await passwords.hash("pw") == "peppered$new pw"
        assert await passwords.check("peppered$new pw", "pw") == (True, False)
        assert await passwords.check("peppered$old pw", "pw") == (True, True)
        assert await passwords.check("peppered$oldest pw", "pw") == (True, True)
        assert await passwords.check("peppered$older pw", "pw") == (False, False)


async def test_a_failed_check_with_several_hashers_costs_as_much_as_for_an_unknown_user() -> None:
    new, old = PepperedHasher("new"), PepperedHasher("old")
    async with passwords_with(new, old) as passwords:
        costs = []
        for encoded in ("peppered$x", None, "!", "unknown$x"):
            before = new.hashes + old.hashes
            assert not (await passwords.check(encoded, "pw")).matches
            costs.append(new.hashes + old.hashes - before)
        assert costs == [2, 2, 2, 2]


async def test_a_hash_that_one_hasher_cannot_read_is_read_by_the_next(caplog: pytest.LogCaptureFixture) -> None:
    strict, lenient = PepperedHasher("new", max_length=5), PepperedHasher("old")
    async with passwords_with(strict, lenient) as passwords:
        assert (await passwords.check("peppered$old pw", "pw")).matches
        assert not (await passwords.check("peppered$old pw", "wrong")).matches
    low, high = PBKDF2PasswordHasher(iterations=1, max_iterations=9), PBKDF2PasswordHasher(iterations=1)
    async with passwords_with(low, high) as passwords:
        assert (await passwords.check(PBKDF2PasswordHasher(iterations=20).encode("pw"), "pw")).matches
    assert caplog.text == ""

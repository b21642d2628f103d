"""Tests of the queue of the hasher: clients take turns, and no client fills it."""

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator
from typing import Any

import pytest

from starlette_auth import Passwords
from starlette_auth.core.exceptions import HashingBusy
from starlette_auth.passwords.hash_format import PasswordHasher


class GatedHasher(PasswordHasher):
    """Hashes only when the gate is open. Records the order, and how many hashes ran at once."""

    algorithm = "gated"

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.order: list[str] = []
        self.running: list[str] = []
        self.most: dict[str, int] = {}
        self.lock = threading.Lock()

    def encode(self, password: str) -> str:
        client = password[0]
        with self.lock:
            self.order.append(password)
            self.running.append(client)
            self.most[client] = max(self.most.get(client, 0), self.running.count(client))
        self.gate.wait(60)
        with self.lock:
            self.running.remove(client)
        return f"gated${password}"

    def verify(self, password: str, encoded: str) -> bool:
        return encoded == self.encode(password)

    def must_update(self, encoded: str) -> bool:
        return False


@contextlib.asynccontextmanager
async def passwords_with(hasher: PasswordHasher, **options: Any) -> AsyncIterator[Passwords]:
    passwords = Passwords([hasher], **options)
    yield passwords
    passwords.close()


async def hash_for(passwords: Passwords, client: str, text: str) -> str:
    with passwords.for_client(client):
        return await passwords.hash(text)


async def started(hasher: GatedHasher, number: int) -> None:
    """Waits until a number of hashes has begun."""
    async with asyncio.timeout(20):
        while len(hasher.order) < number:
            await asyncio.sleep(0.005)


async def test_clients_take_turns_and_use_half_of_the_threads_at_most() -> None:
    hasher = GatedHasher()
    async with passwords_with(hasher, threads=4, max_waiting=20) as passwords:
        tasks = [asyncio.create_task(hash_for(passwords, "a", f"a{number}")) for number in range(20)]
        tasks += [asyncio.create_task(hash_for(passwords, "b", f"b{number}")) for number in range(2)]
        await started(hasher, 4)
        # The attacker's 18 further passwords do not keep the other client waiting.
        assert sorted(hasher.order) == ["a0", "a1", "b0", "b1"]
        tasks += [asyncio.create_task(hash_for(passwords, "c", "c0"))]
        await asyncio.sleep(0.1)  # the threads would otherwise be through before this client's password comes
        hasher.gate.set()
        await asyncio.gather(*tasks)
        assert hasher.order.index("c0") < 12
        assert hasher.most["a"] == 2


async def test_one_thread_serves_the_clients_in_turn() -> None:
    hasher = GatedHasher()
    async with passwords_with(hasher, threads=1, max_waiting=20) as passwords:
        texts = ["a0", "a1", "a2", "a3", "b0", "b1", "c0"]
        tasks = [asyncio.create_task(hash_for(passwords, text[0], text)) for text in texts[:1]]
        await started(hasher, 1)
        tasks += [asyncio.create_task(hash_for(passwords, text[0], text)) for text in texts[1:]]
        await asyncio.sleep(0.01)
        hasher.gate.set()
        assert await asyncio.gather(*tasks) == [f"gated${text}" for text in texts]
        assert hasher.order == ["a0", "a1", "b0", "c0", "a2", "b1", "a3"]


async def test_a_client_that_fills_its_queue_is_refused_and_others_are_not() -> None:
    hasher = GatedHasher()
    async with passwords_with(hasher, threads=1, max_waiting=3) as passwords:
        tasks = [asyncio.create_task(hash_for(passwords, "a", f"a{number}")) for number in range(4)]
        await asyncio.sleep(0)
        with pytest.raises(HashingBusy):
            await hash_for(passwords, "a", "a4")
        tasks += [asyncio.create_task(hash_for(passwords, client, client)) for client in "bc"]
        tasks.append(asyncio.create_task(passwords.hash("without a client")))
        await asyncio.sleep(0)
        # So many clients wait that another one would wait too long.
        with pytest.raises(HashingBusy):
            await hash_for(passwords, "x", "x0")
        tasks[1].cancel()  # frees a place
        await asyncio.sleep(0)
        tasks.append(asyncio.create_task(hash_for(passwords, "a", "a5")))
        hasher.gate.set()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert [text for text in results if isinstance(text, str)] == [
            *("gated$a0", "gated$a2", "gated$a3", "gated$b", "gated$c", "gated$without a client", "gated$a5")
        ]
        assert "a1" not in hasher.order


async def test_requests_without_a_client_use_all_threads() -> None:
    hasher = GatedHasher()
    async with passwords_with(hasher, threads=4) as passwords:
        tasks = [asyncio.create_task(passwords.hash(f"x{number}")) for number in range(6)]
        await started(hasher, 4)
        await asyncio.sleep(0.05)
        assert len(hasher.order) == 4
        hasher.gate.set()
        await asyncio.gather(*tasks)


async def test_the_usual_duration_is_that_of_a_wrong_password() -> None:
    hasher = GatedHasher()
    hasher.gate.set()
    async with passwords_with(hasher) as passwords:
        assert passwords.usual_duration == 0
        await passwords.check("gated$x", "y")
        assert 0 < passwords.usual_duration < 1


async def test_a_refusal_takes_no_place_in_the_queue() -> None:
    hasher = GatedHasher()
    async with passwords_with(hasher, threads=1, max_waiting=3) as passwords:
        crowd = [asyncio.create_task(hash_for(passwords, client, client)) for client in "abcde"]
        await started(hasher, 1)
        for _ in range(5):
            with pytest.raises(HashingBusy):
                await passwords.hash("without a client")
        hasher.gate.set()
        await asyncio.gather(*crowd)
        assert len(await asyncio.gather(*[passwords.hash(f"{n}") for n in range(4)])) == 4

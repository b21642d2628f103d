"""A cancelled task ends, whatever a library makes of the cancellation."""

import asyncio

import pytest

from starlette_auth.core.concurrency import keep_cancelled


@pytest.mark.parametrize("fails", [False, True], ids=["a result", "an exception"])
async def test_a_cancellation_is_kept_that_a_library_swallows(fails: bool) -> None:
    """`asyncio.wait_for` of Python 3.11 swallows it if a result or an exception comes at the same time."""

    async def swallow() -> str:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            if fails:
                raise ConnectionError("closed") from None
        return "a reply"

    async def repeat() -> None:
        while True:
            try:
                await keep_cancelled(swallow())
            except ConnectionError:
                continue

    task = asyncio.create_task(repeat())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(task, 5)
    assert task.cancelled()


async def test_without_a_cancellation_the_result_and_the_exception_arrive() -> None:
    async def result() -> str:
        return "a reply"

    async def fail() -> str:
        raise ConnectionError("closed")

    assert await keep_cancelled(result()) == "a reply"
    with pytest.raises(ConnectionError, match="closed"):
        await keep_cancelled(fail())

"""The tests of session stores run again here, with `DatabaseStore` and `DjangoSessionStore` on engines."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from starlette_auth import SessionStore
from starlette_auth.testing import FrozenClock

from ..sessions.test_stores import *  # noqa: F403
from ..support.databases import name_of, with_store
from ..support.matrix import ENGINES


@pytest.fixture(  # type: ignore[no-redef]
    params=[*ENGINES, *(f"django {engine}" for engine in ENGINES[:2])], ids=name_of
)
async def store(request: pytest.FixtureRequest, clock: FrozenClock, tmp_path: Path) -> AsyncIterator[SessionStore]:
    async with with_store(request.param, tmp_path, clock) as auth:
        yield auth.sessions


@pytest.fixture  # type: ignore[no-redef]
def server_side(store: SessionStore) -> SessionStore:
    return store

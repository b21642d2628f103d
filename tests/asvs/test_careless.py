"""What an application has written itself is assessed too."""

import logging
from pathlib import Path

import pytest
from starlette.routing import BaseRoute

from ..conftest import any_database
from .careless import CARELESS_PAGES, PAGES_FAIL, STALE_FAILS, STORE_FAILS, OneSession, Pin, Stale
from .site import PAGES, assess, failures, make_app, make_auth

pytestmark = any_database


async def test_careless_account_pages_fail(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "starlette_auth.security")
    auth = make_auth(tmp_path, reset_tokens=Pin(), features=[])
    pages: list[BaseRoute] = [*PAGES, *CARELESS_PAGES]
    results = await assess(make_app(auth, pages=pages, has_accounts=False), auth)
    assert PAGES_FAIL - failures(results) == set()


async def test_a_careless_store_fails(tmp_path: Path) -> None:
    auth = make_auth(tmp_path, sessions=OneSession(), features=[])
    assert STORE_FAILS - failures(await assess(make_app(auth), auth)) == set()


async def test_a_backend_that_caches_users_fails(tmp_path: Path) -> None:
    backend = Stale()
    auth = make_auth(tmp_path, backends=[backend])
    backend.auth = auth
    assert STALE_FAILS - failures(await assess(make_app(auth), auth)) == set()

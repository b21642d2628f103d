"""Tests in this folder run with `Auth(engine)`: on an AsyncEngine of SQLAlchemy with each of the drivers."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from ..support.databases import database_with_tables, empty_database, name_of
from ..support.matrix import ENGINES

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leaves out tests of other folders that use no engine here: they have run there already."""
    items[:] = [item for item in items if item.path.parent != HERE or _is_of_this_folder(item) or _has_engine(item)]


def _is_of_this_folder(item: pytest.Item) -> bool:
    return isinstance(item, pytest.Function) and item.function.__module__.startswith(f"{__package__}.")


def _has_engine(item: pytest.Item) -> bool:
    params = item.callspec.params if hasattr(item, "callspec") else {}
    return str(params.get("database_url", params.get("store", ""))).removeprefix("django ").startswith("engine+")


@pytest.fixture(params=ENGINES, ids=name_of)
async def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[str]:
    """A new database on each server, as a URL for `connected`, which makes an engine of it."""
    make = database_with_tables if request.node.get_closest_marker("with_tables") else empty_database
    async with make(str(request.param), tmp_path) as url:
        yield url

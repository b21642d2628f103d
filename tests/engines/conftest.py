"""Tests in this folder run with `Auth(engine)`: on an AsyncEngine of SQLAlchemy with each of the drivers."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from ..conftest import some_cases
from ..support.databases import database_with_tables, empty_database, name_of
from ..support.matrix import ENGINES, FEW

HERE = Path(__file__).parent
#: Tests of other folders that run here on both drivers of a database, because they ask much of the driver.
ON_EACH_DRIVER = ("test_gateway",) if FEW else ("test_gateway", "test_stores", "test_users")
SECOND_DRIVERS = ("psycopg", "aiomysql")
ALL_CASES = "test_gateway"  # drivers differ in the values that they take


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leaves tests of other folders out that tell nothing new here, where they run a second time.

    That is what uses no engine, what asks little of the driver on the second driver of a database, and more than three
    cases of a test, or two on the second driver.
    """
    repeated = [item for item in items if item.path.parent == HERE and not _is_of_this_folder(item)]
    useful = [item for item in repeated if _has_engine(item) and (item.path.stem in ON_EACH_DRIVER or _is_first(item))]
    kept = {item for item in useful if item.path.stem == ALL_CASES}
    for number, is_first in ((1 if FEW else 3, True), (2, False)):
        kept.update(some_cases([item for item in useful if _is_first(item) == is_first], number, _server_of))
    left_out = set(repeated) - kept
    items[:] = [item for item in items if item not in left_out]


def _is_of_this_folder(item: pytest.Item) -> bool:
    return isinstance(item, pytest.Function) and item.function.__module__.startswith(f"{__package__}.")


def _has_engine(item: pytest.Item) -> bool:
    return _server_of(item).removeprefix("django ").startswith("engine+")


def _is_first(item: pytest.Item) -> bool:
    return not any(f"+{driver}" in _server_of(item) for driver in SECOND_DRIVERS)


def _server_of(item: pytest.Item) -> str:
    params = item.callspec.params if hasattr(item, "callspec") else {}
    return str(params.get("database_url", params.get("store", "")))


@pytest.fixture(params=ENGINES, ids=name_of)
async def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[str]:
    """A new database on each server, as a URL for `connected`, which makes an engine of it."""
    make = database_with_tables if request.node.get_closest_marker("with_tables") else empty_database
    async with make(str(request.param), tmp_path) as url:
        yield url

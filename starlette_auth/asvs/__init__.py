"""A pytest plugin that assesses an application against OWASP ASVS 5.0: `pytest --asvs app:app`.

pytest imports this module at the start of each run. The assessment itself is imported for `--asvs` only.
"""

import importlib
from collections.abc import Generator

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("asvs", "assessment of an application against OWASP ASVS 5.0 (starlette_auth)")
    group.addoption("--asvs", metavar="MODULE:APP", help="assess this application in place of running tests")
    group.addoption(
        "--asvs-level", type=int, choices=(1, 2, 3), default=2, help="up to which level a failure counts (default: 2)"
    )


@pytest.hookimpl(wrapper=True)
def pytest_cmdline_main(config: pytest.Config) -> Generator[None, object, object]:
    """Registers the assessment. All its checks use one running application, so pytest-xdist must not distribute them."""
    if config.getoption("asvs"):
        if hasattr(config.option, "numprocesses"):
            config.option.numprocesses, config.option.dist = 0, "no"
        plugin = importlib.import_module("starlette_auth.asvs.plugin")
        config.pluginmanager.register(plugin.Assessment(config), "starlette_auth assessment")
    return (yield)

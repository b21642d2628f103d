"""Pages, made of templates that an application can replace one by one."""

import hashlib
from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any

from jinja2 import ChoiceLoader, Environment, FileSystemLoader
from starlette.concurrency import run_in_threadpool

HERE = Path(__file__).parent
# In a wheel the templates lie inside the package; in a checkout, beside it.
BUILT_IN = HERE / "templates" if (HERE / "templates").is_dir() else HERE.parent / "templates"


class Templates:
    """Jinja templates: the application's directories are looked through first, then our own."""

    def __init__(self, directories: Sequence[str | PathLike[str]] = ()) -> None:
        self.environment = Environment(
            loader=ChoiceLoader([FileSystemLoader([*directories]), FileSystemLoader(BUILT_IN)]),
            autoescape=True,
            auto_reload=False,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._loaded: set[str] = set()

    async def render(self, name: str, context: dict[str, Any]) -> str:
        """The page. The first time, a thread reads and compiles its template; after that nothing waits for the disk."""
        if name in self._loaded:
            return self._render(name, context)
        page = await run_in_threadpool(self._render, name, context)
        self._loaded.add(name)
        return page

    def _render(self, name: str, context: dict[str, Any]) -> str:
        return self.environment.get_template(name).render(context)


STYLE = (BUILT_IN / "auth.css").read_bytes()
STYLE_VERSION = hashlib.sha256(STYLE).hexdigest()[:12]

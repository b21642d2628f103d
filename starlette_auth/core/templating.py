"""Renders pages from Jinja2 templates. An application can replace each template."""

import functools
import hashlib
import importlib
from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any

from starlette.concurrency import run_in_threadpool

from .arguments import as_folders, require_folders
from .translation import gettext, ngettext

PACKAGE = Path(__file__).parent.parent
# In a wheel the templates are inside the package; in a checkout they are next to it.
BUILT_IN = PACKAGE / "templates" if (PACKAGE / "templates").is_dir() else PACKAGE.parent / "templates"


class Templates:
    """Finds and renders Jinja templates: first in the application's directories, then in the built-in one."""

    def __init__(self, directories: Sequence[str | PathLike[str]] = ()) -> None:
        self._directories = as_folders(directories, "templates", 'Pass templates=["templates"].')
        self._loaded: set[str] = set()

    @functools.cached_property
    def environment(self) -> Any:
        """The jinja2.Environment. Jinja2 is imported on first use, so an application without pages does not need it."""
        require_folders(self._directories, "templates")
        environment = importlib.import_module(f"{__package__}.template_environment").Environment(
            self._directories, BUILT_IN
        )
        # Jinja calls these at each rendering, because the language depends on the request.
        environment.install_gettext_callables(gettext, ngettext, newstyle=True)
        return environment

    async def render(self, name: str, context: dict[str, Any]) -> str:
        """Returns the rendered page. The first use of a template loads and compiles it in a thread."""
        if name in self._loaded:
            return self._render(name, context)
        page = await run_in_threadpool(self._load_and_render, name, context)
        self._loaded.add(name)
        return page

    def _load_and_render(self, name: str, context: dict[str, Any]) -> str:
        # A later rendering may need a template that this one leaves out, and must not read files in the event loop.
        self.environment.load_references(name)
        return self._render(name, context)

    def _render(self, name: str, context: dict[str, Any]) -> str:
        page: str = self.environment.get_template(name).render(context)
        return page


ASSETS = {name: (BUILT_IN / name).read_bytes() for name in ("auth.css", "auth.js", "auth_passkeys.js")}
ASSET_HASHES = {name: hashlib.sha256(content).hexdigest()[:12] for name, content in ASSETS.items()}

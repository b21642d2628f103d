"""Pages rendered from Jinja2 templates, which an application can replace one by one."""

import functools
import hashlib
import importlib
from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any

from starlette.concurrency import run_in_threadpool

from .exceptions import ImproperlyConfigured
from .translation import gettext, ngettext

PACKAGE = Path(__file__).parent.parent
# In a wheel the templates lie inside the package; in a checkout, beside it.
BUILT_IN = PACKAGE / "templates" if (PACKAGE / "templates").is_dir() else PACKAGE.parent / "templates"


class Templates:
    """Jinja templates: the application's directories are looked through first, then our own."""

    def __init__(self, directories: Sequence[str | PathLike[str]] = ()) -> None:
        if isinstance(directories, str):
            raise ImproperlyConfigured('templates is a list. Pass templates=["templates"].')
        self._directories = [*directories]
        self._loaded: set[str] = set()

    @functools.cached_property
    def environment(self) -> Any:
        """A jinja2.Environment, imported with the first page: who has no pages does without."""
        jinja2 = importlib.import_module("jinja2")
        built_in = jinja2.FileSystemLoader(BUILT_IN)
        environment = jinja2.Environment(
            loader=jinja2.ChoiceLoader(
                [
                    jinja2.FileSystemLoader(self._directories),
                    built_in,
                    # For one that replaces ours and wants to keep most of it: {% extends "starlette_auth/auth_base.html" %}
                    jinja2.PrefixLoader({"starlette_auth": built_in}),
                ]
            ),
            autoescape=jinja2.select_autoescape(("html", "htm", "xml"), default=False, default_for_string=True),
            extensions=["jinja2.ext.i18n"],
            auto_reload=False,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        environment.policies["ext.i18n.trimmed"] = True
        # Asked at each rendering: the language is the visitor's, not the environment's.
        environment.install_gettext_callables(gettext, ngettext, newstyle=True)
        return environment

    async def render(self, name: str, context: dict[str, Any]) -> str:
        """The page. The first time, a thread reads and compiles its template; after that nothing waits for the disk."""
        if name in self._loaded:
            return self._render(name, context)
        page = await run_in_threadpool(self._render, name, context)
        self._loaded.add(name)
        return page

    def _render(self, name: str, context: dict[str, Any]) -> str:
        page: str = self.environment.get_template(name).render(context)
        return page


ASSETS = {name: (BUILT_IN / name).read_bytes() for name in ("auth.css", "auth.js")}
ASSET_HASHES = {name: hashlib.sha256(content).hexdigest()[:12] for name, content in ASSETS.items()}

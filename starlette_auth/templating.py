"""Pages, made of templates that an application can replace one by one."""

import hashlib
from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any

from jinja2 import ChoiceLoader, Environment, FileSystemLoader, PrefixLoader, select_autoescape
from starlette.concurrency import run_in_threadpool

from .translation import gettext, ngettext

HERE = Path(__file__).parent
# In a wheel the templates lie inside the package; in a checkout, beside it.
BUILT_IN = HERE / "templates" if (HERE / "templates").is_dir() else HERE.parent / "templates"


class Templates:
    """Jinja templates: the application's directories are looked through first, then our own."""

    def __init__(self, directories: Sequence[str | PathLike[str]] = ()) -> None:
        self.environment = Environment(
            loader=ChoiceLoader(
                [
                    FileSystemLoader([*directories]),
                    FileSystemLoader(BUILT_IN),
                    # For one that replaces ours and wants to keep most of it: {% extends "starlette_auth/auth_base.html" %}
                    PrefixLoader({"starlette_auth": FileSystemLoader(BUILT_IN)}),
                ]
            ),
            autoescape=select_autoescape(("html", "htm", "xml"), default=False, default_for_string=True),
            extensions=["jinja2.ext.i18n"],
            auto_reload=False,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self.environment.policies["ext.i18n.trimmed"] = True
        # Asked at each rendering: the language is the visitor's, not the environment's.
        self.environment.install_gettext_callables(gettext, ngettext, newstyle=True)  # type: ignore[attr-defined]
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


ASSETS = {name: (BUILT_IN / name).read_bytes() for name in ("auth.css", "auth.js")}
VERSIONS = {name: hashlib.sha256(content).hexdigest()[:12] for name, content in ASSETS.items()}

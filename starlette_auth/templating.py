"""Pages, made of templates that an application can replace one by one."""

import hashlib
from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any

from jinja2 import ChoiceLoader, Environment, FileSystemLoader

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

    def render(self, name: str, context: dict[str, Any]) -> str:
        return self.environment.get_template(name).render(context)

    def preload(self) -> None:
        """Reads and compiles every page, so that no request waits for the disk."""
        for name in FileSystemLoader(BUILT_IN).list_templates():
            if name.endswith(".html"):
                self.environment.get_template(name)


STYLE = (BUILT_IN / "auth.css").read_bytes()
STYLE_VERSION = hashlib.sha256(STYLE).hexdigest()[:12]

"""The Jinja environment of the templates. It is imported when the first page is rendered."""

import contextlib
from collections.abc import MutableMapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import jinja2
from jinja2.meta import find_referenced_templates
from jinja2.utils import missing

from .exceptions import ImproperlyConfigured

#: Variables that `auth_context` adds.
FROM_AUTH_CONTEXT = frozenset(("auth_link", "auth_url", "csrf_input", "csrf_token", "perms", "user"))


class TemplateMissing(ImproperlyConfigured, jinja2.TemplateNotFound):
    """No folder contains a template. The message names the folders."""

    def __init__(self, name: str, folders: Sequence[str | PathLike[str]]) -> None:
        places = ", ".join([*map(str, folders), "the templates of starlette_auth"])
        text = (
            f"There is no template {name!r} in {places}. Create it in a folder of yours, and pass the folder: "
            "Auth(templates=[…])."
        )
        jinja2.TemplateNotFound.__init__(self, name, text)


class AuthUndefined(jinja2.Undefined):
    """Represents an unknown variable. For a variable of `auth_context`, the error says what to pass."""

    __slots__ = ()

    @property
    def _undefined_message(self) -> str:
        message: str = super()._undefined_message
        if self._undefined_obj is missing and self._undefined_name in FROM_AUTH_CONTEXT:
            message += ". Pass context_processors=[auth_context] to Jinja2Templates."
        return message

    def __str__(self) -> str:
        if self._undefined_obj is missing and self._undefined_name in FROM_AUTH_CONTEXT:
            # Jinja would write nothing, and the form would be sent without its token.
            self._fail_with_undefined_error()
        return super().__str__()


class Environment(jinja2.Environment):
    """Finds templates in the application's folders first, then among the built-in ones."""

    def __init__(self, folders: Sequence[str | PathLike[str]], built_in: Path) -> None:
        self.folders = folders
        loader = jinja2.FileSystemLoader(built_in)
        super().__init__(
            loader=jinja2.ChoiceLoader(
                [
                    jinja2.FileSystemLoader(folders),
                    loader,
                    # A replacement can extend the original: {% extends "starlette_auth/auth_base.html" %}
                    jinja2.PrefixLoader({"starlette_auth": loader}),
                ]
            ),
            undefined=AuthUndefined,
            autoescape=jinja2.select_autoescape(("html", "htm", "xml"), default=False, default_for_string=True),
            extensions=["jinja2.ext.i18n"],
            auto_reload=False,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self.policies["ext.i18n.trimmed"] = True

    def load_references(self, name: str) -> None:
        """Loads the templates that a template includes, imports or extends, and those that these do."""
        assert self.loader is not None  # noqa: S101  it was passed to the constructor
        references, loaded = [name], set[str]()
        while references:
            current = references.pop()
            if current in loaded:
                continue
            loaded.add(current)
            with contextlib.suppress(jinja2.TemplateError):  # the rendering raises it, if it needs the template
                source, *_ = self.loader.get_source(self, current)
                self.get_template(current)
                references += filter(None, find_referenced_templates(self.parse(source)))

    def _load_template(self, name: str, globals: MutableMapping[str, Any] | None) -> jinja2.Template:
        try:
            return super()._load_template(name, globals)
        except TemplateMissing:
            raise
        except jinja2.TemplateNotFound as error:
            raise TemplateMissing(str(error.name), self.folders) from None

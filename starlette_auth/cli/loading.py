"""Where are the Auth and the application of a command?"""

import argparse
import contextlib
import importlib
import os
import secrets
import sys
from typing import Any

from starlette.routing import NoMatchFound

from ..auth import Auth
from ..database.urls import open_database
from ..django.project import DjangoProject
from .terminal import CommandError

RESET_PAGE = "password_reset_confirm"


def load_auth(options: argparse.Namespace) -> Auth:
    """Returns the Auth of `--app`, or one for the database of `--database`."""
    if options.app:
        return load_app(options.app)
    django = DjangoProject() if options.django else None
    return Auth(open_database(options.database), secret_key=secrets.token_urlsafe(50), django=django)


def load_app(name: str) -> Auth:
    """Returns the Auth that MODULE:ATTRIBUTE names. Raises CommandError if there is none."""
    module, _, attribute = name.partition(":")
    sys.path.insert(0, os.getcwd())
    try:
        auth = getattr(importlib.import_module(module), attribute or "auth")
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise CommandError(f"{name} cannot be loaded: {error}. Pass --app module:attribute.") from error
    if not isinstance(auth, Auth):
        raise CommandError(f"{name} is a {type(auth).__name__}, not an Auth. Pass the Auth, as in --app {module}:auth.")
    return auth


def find_application(name: str) -> Any:
    """Returns the application with the account pages, from the module of MODULE:ATTRIBUTE."""
    module = name.partition(":")[0]
    for application in _applications(module):
        with contextlib.suppress(NoMatchFound):
            application.url_path_for(RESET_PAGE, uidb64="a", token="b")  # noqa: S106  no secret
            return application
    raise CommandError(
        f"The module {module} has no application with the page {RESET_PAGE}. Pass --app with the module that has both "
        "the application and the Auth."
    )


def find_page(name: str, page: str) -> str | None:
    """Returns the path of an account page in the application of MODULE:ATTRIBUTE; None if the module has none."""
    for application in _applications(name.partition(":")[0]):
        with contextlib.suppress(NoMatchFound):
            return str(application.url_path_for(page))
    return None


def _applications(module: str) -> list[Any]:
    """Returns the objects of a loaded module that have routes."""
    values = list(vars(sys.modules[module]).values())
    return [value for value in values if not isinstance(value, type) and callable(getattr(value, "url_path_for", None))]

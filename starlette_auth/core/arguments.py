"""Is an argument of the right type? The messages of these checks end with the fix."""

import asyncio
import math
from collections.abc import Iterable, Mapping
from os import PathLike
from pathlib import Path
from typing import Any

from .exceptions import ImproperlyConfigured


def describe(value: object) -> str:
    """Returns the type of a value, which may be secret, as text: "the class Registration", "a str"."""
    if value is None:
        return "None"
    if isinstance(value, type):
        return f"the class {value.__name__}"
    name = type(value).__name__
    return f"{'an' if name[0].lower() in 'aeiou' else 'a'} {name}"


def require_instance(value: object, kind: type | tuple[type, ...], name: str, fix: str) -> None:
    """Raises ImproperlyConfigured unless a value is an instance of `kind`. `fix` says what to pass."""
    if not isinstance(value, kind):
        raise ImproperlyConfigured(f"{name} is {describe(value)}. {fix}")


def require_methods(value: object, names: Iterable[str], name: str, fix: str) -> None:
    """Raises ImproperlyConfigured unless a value has these methods. A class is refused."""
    if isinstance(value, type) or not all(callable(getattr(value, method, None)) for method in names):
        raise ImproperlyConfigured(f"{name} is {describe(value)}. {fix}")


def require_bool(value: object, name: str) -> None:
    """Raises ImproperlyConfigured unless a value is a bool. The text "off" would count as True."""
    require_instance(value, bool, name, f"Pass {name}=True or {name}=False.")


def require_text(value: object, name: str, fix: str, *, may_be_empty: bool = True) -> None:
    """Raises ImproperlyConfigured unless a value is text."""
    require_instance(value, str, name, fix)
    if not value and not may_be_empty:
        raise ImproperlyConfigured(f"{name} is empty. {fix}")


def require_integer(value: object, name: str, *, minimum: int = 1, maximum: int | None = None) -> None:
    """Raises ImproperlyConfigured unless a value is an int within the limits. A bool is refused."""
    fix = f"Pass a whole number, {minimum} or greater." if maximum is None else f"Pass {minimum} to {maximum}."
    if isinstance(value, bool) or not isinstance(value, int):
        raise ImproperlyConfigured(f"{name} is {describe(value)}. {fix}")
    if value < minimum or (maximum is not None and value > maximum):
        raise ImproperlyConfigured(f"{name} is {value}. {fix}")


def require_integers(**numbers: object) -> None:
    """Raises ImproperlyConfigured unless all of these arguments are whole numbers of at least 1."""
    for name, number in numbers.items():
        require_integer(number, name)


def require_number(value: object, name: str, *, above: float = 0.0) -> None:
    """Raises ImproperlyConfigured unless a value is a finite number above a limit."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not math.isfinite(value) or value <= above:  # type: ignore[arg-type, operator]
        what = str(value) if is_number else describe(value)
        raise ImproperlyConfigured(f"{name} is {what}. Pass a number above {above:g}.")


def require_callable(value: object, name: str, fix: str) -> None:
    """Raises ImproperlyConfigured unless a value can be called."""
    if not callable(value):
        raise ImproperlyConfigured(f"{name} is {describe(value)}. {fix}")


def require_function(value: object, name: str, fix: str) -> None:
    """Raises ImproperlyConfigured unless a value is a function or another callable object.

    A class is refused, because calling it would only create an object.
    """
    require_callable(None if isinstance(value, type) else value, name, fix)


def require_clock(clock: Any) -> None:
    """Raises ImproperlyConfigured unless a value is a function that returns a number. Calls it once."""
    fix = "Pass a function that returns seconds since 1970, such as time.time."
    require_function(clock, "clock", fix)
    require_instance(clock(), (int, float), "What clock() returned", fix)


def require_application(app: object, middleware: str) -> None:
    """Raises ImproperlyConfigured unless the application that a middleware wraps is callable."""
    fix = f"Write Middleware({middleware}, …), and Starlette passes the application; elsewhere pass it first."
    require_function(app, f"The application of {middleware}", fix)


def as_list(values: Any, name: str, fix: str) -> list[Any]:
    """Returns the items of an iterable as a list.

    Raises ImproperlyConfigured for anything but a list, tuple, set or generator. A text is refused, because its items
    would be its letters.
    """
    if isinstance(values, str | bytes | Mapping | type) or not isinstance(values, Iterable):
        raise ImproperlyConfigured(f"{name} is a list, and this is {describe(values)}. {fix}")
    return list(values)


def as_texts(values: Any, name: str, fix: str) -> list[str]:
    """Returns the texts of a list. Raises ImproperlyConfigured for an item that is not text or is blank."""
    texts = as_list(values, name, fix)
    for text in texts:
        if not isinstance(text, str) or not text.strip():
            raise ImproperlyConfigured(f"{name} contains {describe(text) if text else repr(text)}. {fix}")
    return texts


def as_folders(values: Any, name: str, fix: str) -> list[Any]:
    """Returns the folders of a list. Raises ImproperlyConfigured for an item of another type.

    A folder that does not exist is refused, too, unless an event loop is running, which must not wait for the disk.
    """
    folders = as_list(None if isinstance(values, PathLike) else values, name, fix)
    for folder in folders:
        require_instance(folder, (str, PathLike), f"An item of {name}", fix)
    if asyncio._get_running_loop() is None:
        require_folders(folders, name)
    return folders


def require_folders(folders: Iterable[Any], name: str) -> None:
    """Raises ImproperlyConfigured for a folder that does not exist. Jinja and gettext would ignore it."""
    for folder in folders:
        if not Path(folder).is_dir():
            raise ImproperlyConfigured(
                f"The folder {folder} in {name} does not exist, seen from {Path.cwd()}. Create it, or pass an absolute "
                'path, such as Path(__file__).parent / "templates".'
            )


def as_instances(values: Any, kind: type, name: str, fix: str) -> list[Any]:
    """Returns the objects of a list. Raises ImproperlyConfigured unless all are of the class `kind`."""
    items = as_list(values, name, fix)
    for item in items:
        require_instance(item, kind, f"An item of {name}", fix)
    return items


def as_permissions(value: object, name: str) -> list[str]:
    """Returns a permission, or several, as a list. Raises ImproperlyConfigured for a name that is not app.codename."""
    fix = 'Pass "polls.add_vote", or a list of such names.'
    perms = [value] if isinstance(value, str) else list(as_texts(value, name, fix))
    for perm in perms:
        app_label, _, codename = perm.partition(".")
        if not app_label or not codename:
            raise ImproperlyConfigured(
                f"{perm!r} is not a permission. Write it as app.codename, as in 'polls.add_vote'."
            )
        if "*" in perm:
            raise ImproperlyConfigured(
                f"{perm!r} has a wildcard, and a permission is asked for by its name. Name each one, as in 'polls.add_vote'."
            )
    return perms

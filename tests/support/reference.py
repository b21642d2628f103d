"""Prints the reference: `python -m tests.support.reference > example_app/guides/reference.md`."""

import inspect
import re
from collections.abc import Iterator, Mapping, Sequence
from types import ModuleType
from typing import Annotated, Any, get_args, get_origin

import starlette_auth
import starlette_auth.device
import starlette_auth.fastapi
import starlette_auth.testing

HEAD = """# Reference

Every public name, with its docstring. A name that is not here may change without notice. This file is made by
`python -m tests.support.reference > example_app/guides/reference.md`, and a test compares the two.
"""
#: The titles of the parts, and the modules from which the names of each part come.
PARTS: Mapping[str, Sequence[str]] = {
    "Setting up": ("auth", "application", "settings", "context_processors"),
    "Logging in and out": ("authentication", "answers"),
    "Guards": ("decorators", "guards", "pages.factors.reauthentication", "http.endpoints"),
    "Users, groups and permissions": ("users", "database.tables", "database.table_definitions"),
    "Backends": ("backends",),
    "Sessions": ("sessions", "http.cookies"),
    "Middlewares": ("middlewares",),
    "Pages, forms and features": ("pages", "features"),
    "Passwords": ("passwords",),
    "Mail": ("mail",),
    "Events": ("core.events", "core.feature_events"),
    "Exceptions": ("core.exceptions",),
    "Databases": ("database",),
    "Beside Django": ("django",),
}


def main() -> None:
    print(render(), end="")  # noqa: T201


def render() -> str:
    parts = {title: [name for name in starlette_auth.__all__ if part_of(name) == title] for title in PARTS}
    text = [
        HEAD,
        *(f"* [{title}](#{anchor(title)}): {', '.join(f'`{n}`' for n in names)}" for title, names in parts.items()),
    ]
    modules = (starlette_auth.fastapi, starlette_auth.testing, starlette_auth.device)
    text += [f"* [`{module.__name__}`](#{anchor(module.__name__)})" for module in modules]
    for title, names in parts.items():
        text += [f"\n## {title}", *(entry(name, getattr(starlette_auth, name)) for name in names)]
    for module in modules:
        text += [f"\n## `{module.__name__}`", f"\n{module.__doc__}"]
        text += [entry(name, getattr(module, name)) for name in names_of(module)]
    return "\n".join(text) + "\n"


def anchor(title: str) -> str:
    return re.sub(r"[^\w-]", "", title.lower().replace(" ", "-"))


def names_of(module: ModuleType) -> list[str]:
    """Returns the names in `__all__`; without it, those that the module itself defines."""
    own = [name for name, value in vars(module).items() if getattr(value, "__module__", "") == module.__name__]
    names = getattr(module, "__all__", sorted(name for name in own if not name.startswith("_")))
    return [name for name in names if name not in starlette_auth.__all__]


def part_of(name: str) -> str:
    """Returns the part whose modules are named most exactly by the module of a public name."""
    module = getattr(starlette_auth, name).__module__.removeprefix("starlette_auth.")
    fitting = {
        prefix: title
        for title, prefixes in PARTS.items()
        for prefix in prefixes
        if f"{module}.".startswith(f"{prefix}.")
    }
    return fitting[max(fitting, key=len)]


def entry(name: str, value: Any) -> str:
    if inspect.isclass(value):
        bases = [
            base.__name__ for base in value.__bases__ if base is not object and base.__name__ in starlette_auth.__all__
        ]
        title = f"\n### `{name}`" + (f" ({', '.join(bases)})" if bases else "")
        return "\n".join([title, *signature_lines(name, value), docstring(value), *members(value)])
    if get_origin(value) is Annotated:
        user, depends = get_args(value)
        return f"\n### `{name}`\n\n`Annotated[{readable(user)}, Depends({name_of(depends.dependency)})]`"
    if callable(value):
        lines = signature_lines(name, value) if inspect.isfunction(value) else ()
        return "\n".join([f"\n### `{name}`", *lines, docstring(value)])
    return f"\n### `{name}`\n\n```text\n{readable(value)}\n```"


def name_of(dependency: Any) -> str:
    return str(getattr(dependency, "name", None) or dependency.__name__)


def docstring(value: Any) -> str:
    text = inspect.getdoc(value) or ""
    if text.startswith(f"{getattr(value, '__name__', '')}("):  # of a dataclass without one
        text = ""
    return f"\n{text}"


def signature_lines(name: str, value: Any) -> Iterator[str]:
    text = signature(value)
    if text:
        yield f"\n```text\n{name}{text}\n```"


def signature(value: Any) -> str:
    """Returns the parameters with their defaults; the types stand in the source, and editors show them."""
    try:
        parameters = inspect.signature(value).parameters.values()
    except (TypeError, ValueError):
        return ""
    plain = [p.replace(annotation=inspect.Parameter.empty) for p in parameters if p.name not in ("self", "cls")]
    shown = [p.replace(default=Default(p.default)) if p.default is not p.empty else p for p in plain]
    if any(parameter.name.startswith("_") for parameter in plain):
        return ""
    return str(inspect.Signature(shown))


class Default:
    """The default of a parameter, as it is written in the reference."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __repr__(self) -> str:
        return readable(self.value)


def readable(value: Any) -> str:
    """Returns a short text without addresses in memory, which differ between runs."""
    if isinstance(value, (str, int, float, bool, type(None), tuple, list, dict, frozenset)):
        return repr(value)
    if inspect.isclass(value) or inspect.isfunction(value) or inspect.isbuiltin(value):
        return str(value.__name__)
    text = re.sub(r"typing\.|starlette_auth\.[\w.]*\.", "", repr(value))
    return "…" if " at 0x" in text or "<" in text else text


def members(cls: type) -> Iterator[str]:
    """Yields a line for each public method and property that the class or a base class of this package documents."""
    seen: set[str] = set()
    for owner in cls.__mro__:
        if not owner.__module__.startswith("starlette_auth"):
            continue
        for name, value in vars(owner).items():
            function = value.fget if isinstance(value, property) else getattr(value, "__func__", value)
            if name.startswith("_") or name in seen or not (inspect.isfunction(function) and function.__doc__):
                continue
            seen.add(name)
            prefix = "async " if inspect.iscoroutinefunction(inspect.unwrap(function)) else ""
            call = "" if isinstance(value, property) else signature(function)
            first = inspect.cleandoc(function.__doc__).split("\n\n")[0].replace("\n", " ")
            yield f"{'' if len(seen) > 1 else chr(10)}* `{prefix}{name}{call}`: {first}"


if __name__ == "__main__":
    main()

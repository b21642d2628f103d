"""Which language does a request get? Translated texts and durations."""

import contextlib
import copy
import functools
import gettext as catalogs
from collections.abc import Iterator, Mapping, Sequence
from contextvars import ContextVar
from os import PathLike
from pathlib import Path

from .arguments import as_folders, as_texts
from .clock import DAY, HOUR, MINUTE
from .exceptions import ImproperlyConfigured

DOMAIN = "starlette_auth"
LANGUAGES = 'Pass languages=["en", "de"].'
BUILT_IN = Path(__file__).parent / "locale"
RIGHT_TO_LEFT = frozenset(("ar", "ckb", "dv", "fa", "he", "ks", "nqo", "ps", "sd", "syr", "ug", "ur", "yi"))


class Language:
    """A language of the site: its tag (BCP 47), text direction and message catalog."""

    def __init__(self, tag: str, catalog: catalogs.NullTranslations) -> None:
        self.tag = tag
        self.catalog = catalog
        self.direction = "rtl" if tag.split("-")[0].lower() in RIGHT_TO_LEFT else "ltr"


ENGLISH = Language("en", catalogs.NullTranslations())
_current: ContextVar[Language] = ContextVar("starlette_auth.language", default=ENGLISH)


class Languages:
    """Holds the languages of a site. The first is the default, for visitors who accept none of them.

    `directories` contain the application's catalogs (`de/LC_MESSAGES/starlette_auth.mo`). Their texts take precedence
    over the built-in ones.
    """

    def __init__(self, tags: Sequence[str] = ("en",), directories: Sequence[str | PathLike[str]] = ()) -> None:
        names = as_texts(tags if tags and not isinstance(tags, str) else (), "languages", fix := LANGUAGES)
        if not names:
            raise ImproperlyConfigured(f"languages is a list, the default first. {fix}")
        folders = as_folders(directories, "locale_dirs", 'Pass locale_dirs=["locale"].')
        self.all: Mapping[str, Language] = {tag.lower(): _load(tag, folders) for tag in names}
        self.default = next(iter(self.all.values()))

    def negotiate(self, accept: str) -> Language:
        """Returns the best language for an `Accept-Language` header (RFC 9110 §12.5.4, lookup of RFC 4647 §3.4)."""
        if len(self.all) == 1:
            return self.default
        for tag in _parse_accept_language(accept[:500]):
            while tag:
                if tag in self.all:
                    return self.all[tag]
                tag = tag.rpartition("-")[0]
        return self.default


@contextlib.contextmanager
def override_language(language: Language) -> Iterator[None]:
    """Sets the language for the block, and for tasks that are started in it."""
    token = _current.set(language)
    try:
        yield
    finally:
        _current.reset(token)


def current_language() -> Language:
    return _current.get()


def gettext(message: str) -> str:
    return _current.get().catalog.gettext(message)


def ngettext(singular: str, plural: str, number: int) -> str:
    return _current.get().catalog.ngettext(singular, plural, number)


def _load(tag: str, directories: Sequence[str | PathLike[str]]) -> Language:
    merged: catalogs.NullTranslations | None = None
    for directory in (*directories, *([] if tag == "en" else [BUILT_IN])):
        catalog = _catalog(str(directory), tag.replace("-", "_"))
        if merged is None:
            merged = catalog
        elif catalog is not None:
            merged.add_fallback(catalog)
    if merged is None and tag.split("-")[0].lower() != "en":
        raise ImproperlyConfigured(
            f"There is no catalog for the language {tag!r}. Remove it from languages, or pass locale_dirs=[…] with "
            f"a folder that contains {tag.replace('-', '_')}/LC_MESSAGES/{DOMAIN}.mo."
        )
    return Language(tag, merged or ENGLISH.catalog)


def _catalog(directory: str, name: str) -> catalogs.NullTranslations | None:
    """Returns a copy of the cached catalog, because `add_fallback` changes the catalog."""
    return copy.copy(_read(directory, name))


@functools.cache
def _read(directory: str, name: str) -> catalogs.NullTranslations | None:
    try:
        return catalogs.translation(DOMAIN, directory, [name])
    except FileNotFoundError:
        return None


def _parse_accept_language(accept: str) -> list[str]:
    weighted: list[tuple[float, str]] = []
    for part in accept.lower().split(","):
        tag, _, weight = part.partition(";")
        quality = weight.strip().removeprefix("q=") if weight else "1"
        with contextlib.suppress(ValueError):
            if float(quality) > 0:
                weighted.append((float(quality), tag.strip()))
    return [tag for _, tag in sorted(weighted, key=lambda pair: -pair[0])]


def format_duration(seconds: int) -> str:
    """Returns a duration as text ("30 minutes", "2 days"), in the largest unit that divides it exactly.

    Otherwise the number of minutes is rounded up.
    """
    if seconds % DAY == 0:
        days = seconds // DAY
        return ngettext("%(number)d day", "%(number)d days", days) % {"number": days}
    if seconds % HOUR == 0:
        hours = seconds // HOUR
        return ngettext("%(number)d hour", "%(number)d hours", hours) % {"number": hours}
    minutes = -(-seconds // MINUTE)
    return ngettext("%(number)d minute", "%(number)d minutes", minutes) % {"number": minutes}


def format_time_since(seconds: int) -> str:
    """Returns how long ago something happened, as text ("3 hours ago").

    The unit is the largest of which at least two have passed, or else minutes. Below one minute: "just now".
    """
    if seconds < MINUTE:
        return gettext("just now")
    if seconds < 2 * HOUR:
        minutes = seconds // MINUTE
        return ngettext("%(number)d minute ago", "%(number)d minutes ago", minutes) % {"number": minutes}
    if seconds < 2 * DAY:
        hours = seconds // HOUR
        return ngettext("%(number)d hour ago", "%(number)d hours ago", hours) % {"number": hours}
    days = seconds // DAY
    return ngettext("%(number)d day ago", "%(number)d days ago", days) % {"number": days}

"""Which language does this request get? Translations and durations in words."""

import contextlib
import copy
import functools
import gettext as catalogs
from collections.abc import Iterator, Mapping, Sequence
from contextvars import ContextVar
from os import PathLike
from pathlib import Path

from .clock import DAY, HOUR, MINUTE
from .exceptions import ImproperlyConfigured

DOMAIN = "starlette_auth"
BUILT_IN = Path(__file__).parent / "locale"
RIGHT_TO_LEFT = frozenset(("ar", "ckb", "dv", "fa", "he", "ks", "nqo", "ps", "sd", "syr", "ug", "ur", "yi"))


class Language:
    """A language that pages can be in: its tag (BCP 47), and what it says for each English text."""

    def __init__(self, tag: str, catalog: catalogs.NullTranslations) -> None:
        self.tag = tag
        self.catalog = catalog
        self.direction = "rtl" if tag.split("-")[0].lower() in RIGHT_TO_LEFT else "ltr"


ENGLISH = Language("en", catalogs.NullTranslations())
_current: ContextVar[Language] = ContextVar("starlette_auth.language", default=ENGLISH)


class Languages:
    """The languages of a site, the first of which is spoken to whoever understands none of them.

    `directories` hold catalogs of your own, as `de/LC_MESSAGES/starlette_auth.mo`; they are asked before ours.
    """

    def __init__(self, tags: Sequence[str] = ("en",), directories: Sequence[str | PathLike[str]] = ()) -> None:
        if isinstance(tags, str) or not tags:
            raise ImproperlyConfigured('languages is a list, the default first. Pass languages=["en", "de"].')
        self.all: Mapping[str, Language] = {tag.lower(): _load(tag, directories) for tag in tags}
        self.default = next(iter(self.all.values()))

    def negotiate(self, accept: str) -> Language:
        """The one that a header `Accept-Language` asks for first (RFC 9110 §12.5.4, RFC 4647 §3.4: lookup)."""
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
    """Whatever is said in this block, and in tasks that are started in it, is said in `language`."""
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
    found: catalogs.NullTranslations | None = None
    for directory in (*directories, *([] if tag == "en" else [BUILT_IN])):
        catalog = _catalog(str(directory), tag.replace("-", "_"))
        if found is None:
            found = catalog
        elif catalog is not None:
            found.add_fallback(catalog)
    if found is None and tag.split("-")[0].lower() != "en":
        raise ImproperlyConfigured(
            f"There is no catalog for the language {tag!r}. Remove it from languages, or pass locale_dirs=[…] with "
            f"a folder that holds {tag.replace('-', '_')}/LC_MESSAGES/{DOMAIN}.mo."
        )
    return Language(tag, found or ENGLISH.catalog)


def _catalog(directory: str, name: str) -> catalogs.NullTranslations | None:
    """Its own copy: whoever adds a fallback to it changes no other's."""
    return copy.copy(_read(directory, name))


@functools.cache
def _read(directory: str, name: str) -> catalogs.NullTranslations | None:
    try:
        return catalogs.translation(DOMAIN, directory, [name])
    except FileNotFoundError:
        return None


def _parse_accept_language(accept: str) -> list[str]:
    weighed: list[tuple[float, str]] = []
    for part in accept.lower().split(","):
        tag, _, weight = part.partition(";")
        quality = weight.strip().removeprefix("q=") if weight else "1"
        with contextlib.suppress(ValueError):
            if float(quality) > 0:
                weighed.append((float(quality), tag.strip()))
    return [tag for _, tag in sorted(weighed, key=lambda pair: -pair[0])]


def format_duration(seconds: int) -> str:
    """ "30 minutes", "2 days": the largest unit that says it in whole numbers."""
    if seconds % DAY == 0:
        days = seconds // DAY
        return ngettext("%(number)d day", "%(number)d days", days) % {"number": days}
    if seconds % HOUR == 0:
        hours = seconds // HOUR
        return ngettext("%(number)d hour", "%(number)d hours", hours) % {"number": hours}
    minutes = -(-seconds // MINUTE)
    return ngettext("%(number)d minute", "%(number)d minutes", minutes) % {"number": minutes}


def format_time_since(seconds: int) -> str:
    """ "3 hours ago": in the largest unit of which there are two, or in minutes."""
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

"""Languages: which one is spoken, and that nothing is left out in any of them."""

import contextlib
import io
import re
import tomllib
import unicodedata
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest
from babel.messages.catalog import Catalog, Message
from babel.messages.extract import extract_from_dir
from babel.messages.mofile import read_mo, write_mo
from babel.messages.pofile import read_po

from starlette_auth.core.exceptions import ImproperlyConfigured
from starlette_auth.core.templating import Templates
from starlette_auth.core.translation import (
    BUILT_IN,
    DOMAIN,
    Languages,
    current_language,
    gettext,
    ngettext,
    override_language,
)

from ..support.server import ROOT
from ..support.template_cases import DATA, Case, mails, pages, render

GERMAN = BUILT_IN / "de" / "LC_MESSAGES" / f"{DOMAIN}.po"
PLACEHOLDER = re.compile(r"%\(\w+\)[sd]|%%|</?[a-z]+>")
SHOWN = ("alt", "aria-label", "placeholder", "title", "data-show", "data-visible", "data-hidden")
OPEN, CLOSED = "⟦", "⟧"


@pytest.fixture(scope="module")
def messages() -> list[Message]:
    """All that the package and its templates say."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["babel"]["mappings"]
    template = Catalog()
    for entry in settings:
        folder, _, pattern = entry.pop("pattern").partition("/")
        methods = [(pattern, entry.pop("method"))]
        for file, line, text, comments, context in extract_from_dir(str(ROOT / folder), methods, {pattern: entry}):
            template.add(text, locations=[(f"{folder}/{file}", line)], auto_comments=comments, context=context)
    return [message for message in template if message.id]


@pytest.fixture(scope="module")
def german() -> Catalog:
    return read_po(io.BytesIO(GERMAN.read_bytes()), locale="de")


def forms(text: str | list[str] | tuple[str, ...] | None) -> tuple[str, ...]:
    """A message, or its singular and plural."""
    return (text,) if isinstance(text, str) else tuple(text or ("",))


def ids(catalog: Catalog | list[Message]) -> set[tuple[str, ...]]:
    return {forms(message.id) for message in catalog if message.id}


# The catalogs


def test_much_is_found_that_needs_translation(messages: list[Message]) -> None:
    found = ids(messages)
    assert ("Forgot your password?",) in found
    assert ("This field is required.",) in found
    assert ("%(number)d minute", "%(number)d minutes") in found


def test_german_says_everything_and_nothing_besides(messages: list[Message], german: Catalog) -> None:
    assert ids(messages) - ids(german) == set(), "translate these, see the head of the catalog"
    assert ids(german) - ids(messages) == set(), "nobody says this any more"
    assert not german.obsolete
    for message in german:
        if message.id:
            assert not message.fuzzy, message.id
            assert all(forms(message.string)), message.id
            assert not list(message.check(german)), message.id


def test_german_keeps_placeholders_and_elements(german: Catalog) -> None:
    for message in german:
        if message.id:
            wanted = sorted(PLACEHOLDER.findall(forms(message.id)[-1]))
            for said in forms(message.string):
                assert sorted(PLACEHOLDER.findall(said)) == wanted, said


def test_what_is_shipped_is_what_was_translated(german: Catalog) -> None:
    shipped = read_mo(io.BytesIO(GERMAN.with_suffix(".mo").read_bytes()))
    compiled = io.BytesIO()
    write_mo(compiled, german)
    expected = read_mo(io.BytesIO(compiled.getvalue()))
    said = [{forms(message.id): message.string for message in catalog if message.id} for catalog in (shipped, expected)]
    assert said[0] == said[1], "run pybabel compile, see the head of the catalog"
    assert shipped.plural_expr == expected.plural_expr


def test_german_is_spoken() -> None:
    with override_language(Languages(["de"]).default):
        assert gettext("Log in") == "Anmelden"
        assert ngettext("%(number)d day", "%(number)d days", 1) % {"number": 1} == "1 Tag"
        assert ngettext("%(number)d day", "%(number)d days", 3) % {"number": 3} == "3 Tage"
        assert gettext("Said nowhere.") == "Said nowhere."
        assert '<html lang="de" dir="ltr">' in render("registration/logged_out.html", {})
    assert gettext("Log in") == "Log in"


# A language that nobody speaks, in which all that was not translated stands out


def accented(text: str) -> str:
    """Ŝőmēthing that is read easily, and was certainly translated; placeholders and elements stay."""
    parts = re.split(f"({PLACEHOLDER.pattern})", text)
    marks = "".join(
        part if number % 2 else "".join(unicodedata.normalize("NFC", c + "\u0308") for c in part)
        for number, part in enumerate(parts)
    )
    return f"{OPEN}{marks}{CLOSED}"


@pytest.fixture(scope="module")
def pseudo(messages: list[Message], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a catalog of it."""
    folder = tmp_path_factory.mktemp("locale")
    catalog = Catalog()
    for message in messages:
        texts = tuple(accented(text) for text in forms(message.id))
        catalog.add(message.id, texts[0] if isinstance(message.id, str) else texts)
    path = folder / "qps" / "LC_MESSAGES"
    path.mkdir(parents=True)
    with (path / f"{DOMAIN}.mo").open("wb") as file:
        write_mo(file, catalog)
    return folder


class Visible(HTMLParser):
    """What people see of a page, or hear: its text, and the attributes that are shown or read out."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.text = ""
        self.attributes: list[str] = []
        self._hidden = False
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._hidden = tag in ("style", "script")
        self.attributes += [value for name, value in attrs if name in SHOWN and value]

    def handle_endtag(self, tag: str) -> None:
        self._hidden = False

    def handle_data(self, data: str) -> None:
        if not self._hidden:
            self.text += data


def untranslated(text: str) -> str:
    """What stands outside of all brackets, and is no data."""
    depth, rest = 0, ""
    for character in text:
        depth += (character == OPEN) - (character == CLOSED)
        rest += character if not depth and character != CLOSED else ""
    for data in sorted(DATA, key=len, reverse=True):
        rest = rest.replace(data, "")
    return re.sub(r"[\W_]+", " ", rest).strip()


def said(case: Case, templates: Templates) -> Iterator[str]:
    text = render(case.template, case.context, templates)
    if case.template.endswith(".txt"):
        yield text
    else:
        page = Visible(text)
        yield from (page.text, *page.attributes)


@pytest.mark.parametrize("cases", [pages, mails])
def test_nothing_is_said_in_english_to_people_who_asked_for_another_language(
    cases: Callable[..., list[Case]], pseudo: Path
) -> None:
    templates = Templates()
    with override_language(Languages(["qps"], [pseudo]).default):
        found = {
            (case.template, rest)
            for case in cases(lambda text: f"{OPEN}{text}{CLOSED}")
            for text in said(case, templates)
            if (rest := untranslated(text))
        }
    assert not found


def test_text_that_was_not_translated_stands_out() -> None:
    page = f'<p title="Why">{OPEN}Ä <b>{DATA[2]}</b>{OPEN}b{CLOSED}{CLOSED} Log in {DATA[1]} <style>a</style></p>'
    assert [untranslated(text) for text in (Visible(page).text, *Visible(page).attributes)] == ["Log in", "Why"]


# Which language


@pytest.fixture
def languages(tmp_path: Path) -> Languages:
    for name in ("fr", "pt_BR", "ar"):
        write_catalog(tmp_path, name, {"Log in": f"Log in, in {name}"})
    return Languages(["en", "de", "fr", "pt-BR", "ar"], [tmp_path])


def write_catalog(folder: Path, name: str, texts: dict[str, str]) -> None:
    catalog = Catalog()
    for text, translation in texts.items():
        catalog.add(text, translation)
    path = folder / name / "LC_MESSAGES"
    path.mkdir(parents=True)
    with (path / f"{DOMAIN}.mo").open("wb") as file:
        write_mo(file, catalog)


@pytest.mark.parametrize(
    ("accept", "tag"),
    [
        ("", "en"),
        ("de", "de"),
        ("DE", "de"),
        ("de-AT", "de"),
        ("de-Latn-AT-1996", "de"),
        ("fr;q=0.5, de;q=0.8", "de"),
        ("fr , de", "fr"),
        ("fr; q=0.7, de ; q=0.7", "fr"),
        ("nl, de;q=0.1", "de"),
        ("nl", "en"),
        ("pt", "en"),
        ("pt-br", "pt-BR"),
        ("pt-BR-x-private", "pt-BR"),
        ("de;q=0, fr;q=0.1", "fr"),
        ("de;q=0", "en"),
        ("en;q=0.2, de;q=0.9", "de"),
        ("*", "en"),
        ("*, de;q=0.5", "de"),
        ("de;q=much, fr;q=0.1", "fr"),
        ("de;level=1, fr", "fr"),
        (",,;;q=,=", "en"),
        ("de;q=-1, fr;q=0.001", "fr"),
        ("-", "en"),
        ("../../de", "en"),
        ("\x00\xff", "en"),
        ("x" * 100_000, "en"),
        ("nl," * 10_000 + "de", "en"),
    ],
)
def test_the_language_that_a_visitor_likes_best_is_spoken(languages: Languages, accept: str, tag: str) -> None:
    assert languages.negotiate(accept).tag == tag


def test_the_first_language_is_the_default(languages: Languages) -> None:
    assert languages.default.tag == "en"
    assert Languages(["de", "en"]).negotiate("nl").tag == "de"
    assert Languages(["de"]).negotiate("en").tag == "de"


def test_arabic_is_written_from_right_to_left(languages: Languages) -> None:
    assert {tag: language.direction for tag, language in languages.all.items()} == {
        "en": "ltr",
        "de": "ltr",
        "fr": "ltr",
        "pt-br": "ltr",
        "ar": "rtl",
    }


def test_a_language_without_a_catalog_is_named_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(ImproperlyConfigured, match=r"no catalog for the language 'pt-BR'.*pt_BR/LC_MESSAGES"):
        Languages(["en", "pt-BR"], [tmp_path])
    for wrong in ("de", ()):
        with pytest.raises(ImproperlyConfigured, match="languages is a list"):
            Languages(wrong)
    assert Languages(["en-GB"]).default.tag == "en-GB"  # what the texts are written in needs none


def test_catalogs_of_ones_own_are_asked_first_and_the_others_after_them(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    write_catalog(first, "de", {"Log in": "Einloggen"})
    write_catalog(second, "de", {"Log in": "Hinein", "Log out": "Ausloggen"})
    write_catalog(first, "en", {"Log in": "Sign in"})
    ours = Languages(["de", "en"], [first, second])
    for language, texts in (("de", ["Einloggen", "Ausloggen", "Konto"]), ("en", ["Sign in", "Log out", "Account"])):
        with override_language(ours.negotiate(language)):
            assert [gettext(text) for text in ("Log in", "Log out", "Account")] == texts
    with override_language(Languages(["de"]).default):
        assert gettext("Log in") == "Anmelden", "another site's own words were kept"


def test_a_language_is_spoken_until_the_end_of_the_block(languages: Languages) -> None:
    with override_language(languages.negotiate("de")):
        assert current_language().tag == "de"
        with contextlib.suppress(KeyError), override_language(languages.negotiate("fr")):
            assert gettext("Log in") == "Log in, in fr"
            raise KeyError
        assert gettext("Log in") == "Anmelden"
    assert current_language().tag == "en"
    assert gettext("Log in") == "Log in"

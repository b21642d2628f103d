"""Tests of translation: language negotiation, complete catalogs, no untranslated text in templates."""

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
SHOWN = (
    "alt",
    "aria-label",
    "placeholder",
    "title",
    "data-show",
    "data-visible",
    "data-hidden",
    "data-copy",
    "data-copied",
)
OPEN, CLOSED = "⟦", "⟧"


@pytest.fixture(scope="module")
def messages() -> list[Message]:
    """Returns all translatable messages of the package and its templates."""
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
    """Returns a message as a tuple: one text, or its singular and plural."""
    return (text,) if isinstance(text, str) else tuple(text or ("",))


def ids(catalog: Catalog | list[Message]) -> set[tuple[str, ...]]:
    return {forms(message.id) for message in catalog if message.id}


# Catalogs


def test_messages_are_extracted_from_code_and_templates(messages: list[Message]) -> None:
    message_ids = ids(messages)
    assert ("Forgot your password?",) in message_ids
    assert ("This field is required.",) in message_ids
    assert ("%(number)d minute", "%(number)d minutes") in message_ids


def test_the_german_catalog_has_exactly_the_messages_in_use(messages: list[Message], german: Catalog) -> None:
    assert ids(messages) - ids(german) == set(), "translate these, see the header of the catalog"
    assert ids(german) - ids(messages) == set(), "remove these, they are not used any more"
    assert not german.obsolete
    for message in german:
        if message.id:
            assert not message.fuzzy, message.id
            assert all(forms(message.string)), message.id
            assert not list(message.check(german)), message.id


def test_german_translations_keep_placeholders_and_html_elements(german: Catalog) -> None:
    for message in german:
        if message.id:
            placeholders = sorted(PLACEHOLDER.findall(forms(message.id)[-1]))
            for text in forms(message.string):
                assert sorted(PLACEHOLDER.findall(text)) == placeholders, text


def test_the_compiled_catalog_is_up_to_date(german: Catalog) -> None:
    shipped = read_mo(io.BytesIO(GERMAN.with_suffix(".mo").read_bytes()))
    compiled = io.BytesIO()
    write_mo(compiled, german)
    expected = read_mo(io.BytesIO(compiled.getvalue()))
    texts = [
        {forms(message.id): message.string for message in catalog if message.id} for catalog in (shipped, expected)
    ]
    assert texts[0] == texts[1], "run pybabel compile, see the header of the catalog"
    assert shipped.plural_expr == expected.plural_expr


def test_texts_are_translated_into_german() -> None:
    with override_language(Languages(["de"]).default):
        assert gettext("Log in") == "Anmelden"
        assert ngettext("%(number)d day", "%(number)d days", 1) % {"number": 1} == "1 Tag"
        assert ngettext("%(number)d day", "%(number)d days", 3) % {"number": 3} == "3 Tage"
        assert gettext("Not in the catalog.") == "Not in the catalog."
        assert '<html lang="de" dir="ltr">' in render("registration/logged_out.html", {})
    assert gettext("Log in") == "Log in"


# A pseudo-language, which makes untranslated text visible


def accented(text: str) -> str:
    """Returns a text with accents and in brackets. Placeholders and HTML elements stay as they are."""
    parts = re.split(f"({PLACEHOLDER.pattern})", text)
    accented_text = "".join(
        part if number % 2 else "".join(unicodedata.normalize("NFC", c + "\u0308") for c in part)
        for number, part in enumerate(parts)
    )
    return f"{OPEN}{accented_text}{CLOSED}"


@pytest.fixture(scope="module")
def pseudo(messages: list[Message], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns a folder with a catalog of the pseudo-language."""
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


class VisibleText(HTMLParser):
    """Collects the text of a page, and the attributes that browsers or screen readers present."""

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
    """Returns the text outside of all brackets, without the test data."""
    depth, rest = 0, ""
    for character in text:
        depth += (character == OPEN) - (character == CLOSED)
        rest += character if not depth and character != CLOSED else ""
    for data in sorted(DATA, key=len, reverse=True):
        rest = rest.replace(data, "")
    return re.sub(r"[\W_]+", " ", rest).strip()


def visible_texts(case: Case, templates: Templates) -> Iterator[str]:
    """Yields the texts that a recipient or visitor can read in a rendered template."""
    text = render(case.template, case.context, templates)
    if case.template.endswith(".txt"):
        yield text
    else:
        page = VisibleText(text)
        yield from (page.text, *page.attributes)


@pytest.mark.parametrize("cases", [pages, mails])
def test_templates_contain_no_untranslated_text(cases: Callable[..., list[Case]], pseudo: Path) -> None:
    templates = Templates()
    with override_language(Languages(["qps"], [pseudo]).default):
        remaining_english = {
            (case.template, rest)
            for case in cases(lambda text: f"{OPEN}{text}{CLOSED}")
            for text in visible_texts(case, templates)
            if (rest := untranslated(text))
        }
    assert not remaining_english


def test_untranslated_text_is_detected() -> None:
    page = f'<p title="Why">{OPEN}Ä <b>{DATA[2]}</b>{OPEN}b{CLOSED}{CLOSED} Log in {DATA[1]} <style>a</style></p>'
    assert [untranslated(text) for text in (VisibleText(page).text, *VisibleText(page).attributes)] == ["Log in", "Why"]


# Negotiation


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
def test_accept_language_selects_the_preferred_language(languages: Languages, accept: str, tag: str) -> None:
    assert languages.negotiate(accept).tag == tag


def test_the_first_language_is_the_default(languages: Languages) -> None:
    assert languages.default.tag == "en"
    assert Languages(["de", "en"]).negotiate("nl").tag == "de"
    assert Languages(["de"]).negotiate("en").tag == "de"


def test_the_text_direction_follows_the_language(languages: Languages) -> None:
    assert {tag: language.direction for tag, language in languages.all.items()} == {
        "en": "ltr",
        "de": "ltr",
        "fr": "ltr",
        "pt-br": "ltr",
        "ar": "rtl",
    }


def test_a_language_without_a_catalog_is_rejected_at_startup(tmp_path: Path) -> None:
    with pytest.raises(ImproperlyConfigured, match=r"no catalog for the language 'pt-BR'.*pt_BR/LC_MESSAGES"):
        Languages(["en", "pt-BR"], [tmp_path])
    for invalid in ("de", ()):
        with pytest.raises(ImproperlyConfigured, match="languages is a list"):
            Languages(invalid)
    assert Languages(["en-GB"]).default.tag == "en-GB"  # English needs no catalog


def test_application_catalogs_take_precedence_and_built_in_ones_are_fallbacks(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    write_catalog(first, "de", {"Log in": "Einloggen"})
    write_catalog(second, "de", {"Log in": "Hinein", "Log out": "Ausloggen"})
    write_catalog(first, "en", {"Log in": "Sign in"})
    languages = Languages(["de", "en"], [first, second])
    for language, texts in (("de", ["Einloggen", "Ausloggen", "Konto"]), ("en", ["Sign in", "Log out", "Account"])):
        with override_language(languages.negotiate(language)):
            assert [gettext(text) for text in ("Log in", "Log out", "Account")] == texts
    with override_language(Languages(["de"]).default):
        assert gettext("Log in") == "Anmelden", "the catalog of another site was modified"


def test_override_language_ends_with_the_block(languages: Languages) -> None:
    with override_language(languages.negotiate("de")):
        assert current_language().tag == "de"
        with contextlib.suppress(KeyError), override_language(languages.negotiate("fr")):
            assert gettext("Log in") == "Log in, in fr"
            raise KeyError
        assert gettext("Log in") == "Anmelden"
    assert current_language().tag == "en"
    assert gettext("Log in") == "Log in"

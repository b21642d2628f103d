"""The colours of auth.css: contrast in both schemes (WCAG 2.2, 1.4.3 and 1.4.11), and how a site changes them."""

import re

import pytest

from starlette_auth.core.templating import ASSETS

from ..support.server import ROOT

STYLE = ASSETS["auth.css"].decode()
LIGHT, DARK = re.findall(r":where\(:root\) \{(.*?)\}", STYLE, re.DOTALL)
GUIDE = ROOT / "example_app" / "guides" / "pages.md"
TEXTS = [
    ("text", "page"),
    ("text", "card"),
    ("text", "error-page"),
    ("quiet", "card"),
    ("accent", "card"),
    ("accent", "error-page"),
    ("on-accent", "accent"),
    ("error", "card"),
    ("error", "error-page"),
]
CONTROLS = [("line", "card"), ("accent", "card"), ("accent", "page"), ("error", "card"), ("quiet", "card")]


def properties(block: str) -> dict[str, str]:
    return dict(re.findall(r"--auth-([\w-]+): ([^;]+);", block))


def luminance(color: str) -> float:
    """Returns the relative luminance of WCAG 2.2."""
    digits = color.removeprefix("#")
    digits = "".join(2 * digit for digit in digits) if len(digits) == 3 else digits
    channels = [int(digits[start : start + 2], 16) / 255 for start in (0, 2, 4)]
    linear = [value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in channels]
    return sum(weight * value for weight, value in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(first: str, second: str) -> float:
    darker, brighter = sorted([luminance(first), luminance(second)])
    return (brighter + 0.05) / (darker + 0.05)


def test_the_contrast_is_computed_as_wcag_defines_it() -> None:
    assert contrast("#fff", "#000000") == pytest.approx(21)
    assert contrast("#777", "#fff") == pytest.approx(4.48, abs=0.01)


@pytest.mark.parametrize("block", [LIGHT, DARK], ids=["light", "dark"])
def test_both_colour_schemes_have_enough_contrast(block: str) -> None:
    colors = properties(LIGHT) | properties(block)
    weak = {pair: contrast(*(colors[name] for name in pair)) for pair in TEXTS}
    assert {pair: ratio for pair, ratio in weak.items() if ratio < 4.5} == {}
    weak = {pair: contrast(*(colors[name] for name in pair)) for pair in CONTROLS}
    assert {pair: ratio for pair, ratio in weak.items() if ratio < 3} == {}


def test_dark_mode_has_each_colour() -> None:
    colors = {name for name, value in properties(LIGHT).items() if value.startswith("#")}
    assert colors == set(properties(DARK))
    assert {name for pair in (*TEXTS, *CONTROLS) for name in pair} == colors


def test_all_colours_and_only_known_properties_are_used() -> None:
    rules = STYLE.replace(LIGHT, "").replace(DARK, "")
    assert re.findall(r"#[0-9a-fA-F]{3,8}\b", rules) == []
    assert set(re.findall(r"var\(--auth-([\w-]+)\)", rules)) == set(properties(LIGHT))
    assert set(re.findall(r"var\((--[\w-]+)\)", rules)) == {f"--auth-{name}" for name in properties(LIGHT)}


def test_the_guide_has_a_table_of_all_properties() -> None:
    shown = re.findall(r"(?m)^\| `--auth-([\w-]+)` \|", GUIDE.read_text())
    assert shown == list(properties(LIGHT))

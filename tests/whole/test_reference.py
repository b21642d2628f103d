"""Tests of the reference, which `python -m tests.support.reference` makes."""

import pytest

import starlette_auth

from ..support.reference import PARTS, docstring, part_of, render
from ..support.server import ROOT


def test_the_reference_is_up_to_date() -> None:
    """If this fails: python -m tests.support.reference > example_app/guides/reference.md"""
    assert (ROOT / "example_app" / "guides" / "reference.md").read_text() == render()


@pytest.mark.parametrize("name", starlette_auth.__all__)
def test_every_public_name_has_a_place_and_a_docstring(name: str) -> None:
    assert part_of(name) in PARTS
    assert docstring(getattr(starlette_auth, name)).strip()
    assert f"\n### `{name}`" in render()

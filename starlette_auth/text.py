"""What a text is made of."""

import re

_find_surrogate = re.compile("[\ud800-\udfff]").search


def has_surrogate(text: str) -> bool:
    """Whether half of a surrogate pair stands in it, as JSON may bring: that has no bytes, and cannot be stored."""
    return not text.isascii() and _find_surrogate(text) is not None

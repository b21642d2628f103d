"""Reduces passwords to their variants, and recognizes passwords that are patterns."""

import re
from collections.abc import Iterator

# Limits on the number of variants, which keep the work small. More variants find no further common passwords.
MAX_FORMS = 48
MAX_FORMS_OF_LONG = 4
LONG = 128
SHORTEST_PATTERN = 8
KEYBOARDS = (
    ("1234567890-=", "qwertyuiop[]", "asdfghjkl;'", "zxcvbnm,./"),
    ("1234567890", "qwertzuiopü", "asdfghjklöä", "yxcvbnm,.-"),
    ("1234567890", "azertyuiop", "qsdfghjklm", "wxcvbn,;:!"),
    ("abcdefghijklmnopqrstuvwxyz",),
)
KEYPAD = ("789", "456", "123", "0")
SHIFTED = str.maketrans("!@#$%^&*()_+{}:<>?", "1234567890-=[];,./")
TWO_DIGITS = r"(?:0[1-9]|[12]\d|3[01])"
FOUR_DIGITS = r"(?:19|20)\d\d"
YEAR = re.compile(FOUR_DIGITS)
DATES = [
    re.compile(date + "[-./ ,]?")
    for date in (
        FOUR_DIGITS,
        rf"{FOUR_DIGITS}[-./ ]?{TWO_DIGITS}[-./ ]?{TWO_DIGITS}",
        rf"{TWO_DIGITS}[-./ ]?{TWO_DIGITS}[-./ ]?{FOUR_DIGITS}",
        rf"\d\d?[-./ ]\d\d?[-./ ]{FOUR_DIGITS}",
    )
]


def variants(password: str) -> list[str]:
    """Returns the password in lower case, and its variants without decoration: "Summer-2024-2024" contains "summer".

    White space, punctuation, years, dates and numbers are removed from both ends, and a repetition is reduced to one
    unit, until nothing changes. A variant has at least 4 characters, or 6 if all are digits: shorter ones are contained
    in too many passwords.
    """
    forms = [password.lower().strip()]
    max_forms = MAX_FORMS if len(password) <= LONG else MAX_FORMS_OF_LONG
    for form in forms:
        for shorter in (*_stripped(form), *(tail[::-1] for tail in _stripped(form[::-1], -1)), *_repeated_unit(form)):
            min_length = 6 if shorter.isdecimal() else 4
            if len(shorter) >= min_length and shorter not in forms and len(forms) < max_forms:
                forms.append(shorter)
    return forms


def is_pattern(text: str) -> bool:
    """Returns whether a text is a keyboard walk, an alphabet, dates, or a repetition."""
    if len(text) < SHORTEST_PATTERN:
        return False
    if len(text) <= 24 and len(set(text)) <= min(3, len(text) // 4):
        return True
    unit = next(_repeated_unit(text), text)
    if len(unit) <= len(text) / 2 and (len(unit) <= 4 or unit.isdigit()):
        return True
    # "1q2w3e4r" is two keyboard walks, "1234" and "qwer", with their characters interleaved.
    return (
        _is_dates(text) or _is_keyboard_walk(text) or (_is_keyboard_walk(text[::2]) and _is_keyboard_walk(text[1::2]))
    )


def _stripped(text: str, direction: int = 1) -> Iterator[str]:
    """Yields the text without decoration at its start. `direction` is -1 if the text is reversed."""
    for is_removable in (_is_decoration, str.isdecimal, _is_mark):
        length = next((index for index, character in enumerate(text) if not is_removable(character)), len(text))
        if length and _is_weak(text[:length]):
            yield text[length:]
    if YEAR.fullmatch(text[:4][::direction]):
        yield text[4:]


def _repeated_unit(text: str) -> Iterator[str]:
    """Yields the shortest unit that the text repeats, if any. The last repetition may be cut to three characters."""
    for length in range(1, len(text)):
        rest = len(text) - length
        if (rest >= 3 or rest == length) and text.startswith(text[length:]):
            yield text[:length]
            return


def _is_weak(decoration: str) -> bool:
    """Returns whether decoration adds little strength: few characters, or a pattern.

    A long number without a pattern can be a password by itself.
    """
    digits = "".join(filter(str.isdecimal, decoration))
    marks = "".join(filter(_is_mark, decoration))
    return (len(digits) <= 8 or is_pattern(digits)) and (
        len(marks) <= 4 or len(set(marks)) <= 2 or _is_keyboard_walk(marks)
    )


def _is_decoration(character: str) -> bool:
    return not character.isalpha()


def _is_mark(character: str) -> bool:
    return not character.isalnum()


def _is_dates(text: str) -> bool:
    ends = {0}
    for start in range(len(text)):
        if start in ends:
            ends.update(date.end() for pattern in DATES if (date := pattern.match(text, start)))
    return len(text) in ends


def _is_keyboard_walk(text: str) -> bool:
    """Returns whether the text consists of straight runs of keys, on average three or longer."""
    runs, index = 0, 0
    keys = text.translate(SHIFTED)
    while index < len(text):
        index += max(_run_length(text, index), _run_length(keys, index))
        runs += 1
    return len(text) >= 3 * runs


def _run_length(text: str, start: int) -> int:
    """Returns the length of the longest straight run of keys that begins at `start`."""
    longest = 1
    for steps in LINES:
        end = start + 1
        step = steps.get(text[start : start + 2])
        while step is not None and steps.get(text[end - 1 : end + 1]) == step:
            end += 1
        longest = max(longest, end - start)
    return longest


def _lines(board: tuple[str, ...], directions: tuple[tuple[int, int], ...]) -> dict[str, tuple[int, int]]:
    """Maps each pair of neighbouring keys to the direction between them."""
    keys = {(row, column): key for row, keys in enumerate(board) for column, key in enumerate(keys)}
    steps = {key + key: (0, 0) for key in keys.values()}
    for (row, column), key in keys.items():
        for down, right in directions:
            if (row + down, column + right) in keys:
                steps[key + keys[row + down, column + right]] = (down, right)
    return steps


# Keyboard rows are offset by half a key, so a key has two neighbours above and two below.
HEXAGONAL = ((0, 1), (0, -1), (1, 0), (-1, 0), (1, -1), (-1, 1))
LINES = [_lines(board, HEXAGONAL) for board in KEYBOARDS]
LINES.append(_lines(KEYPAD, (*HEXAGONAL, (1, 1), (-1, -1))))

"""Variants of a password, and passwords that are patterns."""

import re
from collections.abc import Iterator

# With more forms nobody's habit is found any more; the work stays small.
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
    """The password in lower case, and what is left of it without decoration: "Summer-2024-2024" is "summer" as well.

    White space, punctuation, years, dates and numbers are taken from both ends, and of a repetition one part is kept,
    again and again. What is left has four characters at least, six if they are digits: fewer are in everything.
    """
    found = [password.lower().strip()]
    most = MAX_FORMS if len(password) <= LONG else MAX_FORMS_OF_LONG
    for form in found:
        for shorter in (*_stripped(form), *(tail[::-1] for tail in _stripped(form[::-1], -1)), *_repeated_unit(form)):
            enough = 6 if shorter.isdecimal() else 4
            if len(shorter) >= enough and shorter not in found and len(found) < most:
                found.append(shorter)
    return found


def is_pattern(text: str) -> bool:
    """Whether it can be told in a few words: a walk over the keyboard, an alphabet, dates, few characters."""
    if len(text) < SHORTEST_PATTERN:
        return False
    if len(text) <= 24 and len(set(text)) <= min(3, len(text) // 4):
        return True
    part = next(_repeated_unit(text), text)
    if len(part) <= len(text) / 2 and (len(part) <= 4 or part.isdigit()):
        return True
    # "1q2w3e4r" is two walks, woven.
    return (
        _is_dates(text) or _is_keyboard_walk(text) or (_is_keyboard_walk(text[::2]) and _is_keyboard_walk(text[1::2]))
    )


def _stripped(text: str, direction: int = 1) -> Iterator[str]:
    """Without what stands in front. `direction` is -1 if the text is read backwards."""
    for belongs in (_is_decoration, str.isdecimal, _is_mark):
        length = next((index for index, character in enumerate(text) if not belongs(character)), len(text))
        if length and _is_weak(text[:length]):
            yield text[length:]
    if YEAR.fullmatch(text[:4][::direction]):
        yield text[4:]


def _repeated_unit(text: str) -> Iterator[str]:
    """What it repeats, whether or not the last time is whole: three characters of it are enough to tell."""
    for length in range(1, len(text)):
        left = len(text) - length
        if (left >= 3 or left == length) and text.startswith(text[length:]):
            yield text[:length]
            return


def _is_weak(decoration: str) -> bool:
    """A number that a person would remember, or sees on the keyboard; a long one can be a password by itself."""
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
    reached = {0}
    for start in range(len(text)):
        if start in reached:
            reached.update(date.end() for pattern in DATES if (date := pattern.match(text, start)))
    return len(text) in reached


def _is_keyboard_walk(text: str) -> bool:
    """Whether straight runs of three keys on the average make it up, wherever each begins."""
    runs, index = 0, 0
    keys = text.translate(SHIFTED)
    while index < len(text):
        index += max(_run_length(text, index), _run_length(keys, index))
        runs += 1
    return len(text) >= 3 * runs


def _run_length(text: str, start: int) -> int:
    """How many characters from `start` on lie in a line on some board."""
    longest = 1
    for steps in LINES:
        end = start + 1
        step = steps.get(text[start : start + 2])
        while step is not None and steps.get(text[end - 1 : end + 1]) == step:
            end += 1
        longest = max(longest, end - start)
    return longest


def _lines(board: tuple[str, ...], directions: tuple[tuple[int, int], ...]) -> dict[str, tuple[int, int]]:
    """In which direction the second of two keys lies from the first, if they are neighbours."""
    keys = {(row, column): key for row, keys in enumerate(board) for column, key in enumerate(keys)}
    steps = {key + key: (0, 0) for key in keys.values()}
    for (row, column), key in keys.items():
        for down, right in directions:
            if (row + down, column + right) in keys:
                steps[key + keys[row + down, column + right]] = (down, right)
    return steps


# Rows are shifted by half a key, so a key has two neighbours above and two below.
HEXAGONAL = ((0, 1), (0, -1), (1, 0), (-1, 0), (1, -1), (-1, 1))
LINES = [_lines(board, HEXAGONAL) for board in KEYBOARDS]
LINES.append(_lines(KEYPAD, (*HEXAGONAL, (1, 1), (-1, -1))))

"""Recognizes passwords that are one common password, spelled with digits or joined by small words."""

import unicodedata
from collections.abc import Callable, Iterator

MAX_LENGTH = 128  # longer passwords are not split into words, which keeps the work small
MIN_WORD, MAX_WORD = 3, 24  # characters
MAX_PIECES = 8  # more digits and marks than that can be a password by themselves
MAX_WORDS_OF_SENTENCE = 4
MIN_DISGUISED = 5  # characters of a word that is spelled with digits
# An attacker reads digits and marks as the letters that they resemble. Some resemble two letters.
DIGITS_AS_LETTERS = [
    str.maketrans("4@8(3€69!1|0$57+2", letters) for letters in ("aabceeggiiiossttz", "aabceebglllossttz")
]
# These words add no strength: function words, and the words that most common passwords are made of.
SMALL_WORDS = frozenset(
    """
    a i u r an am as at be by do go he hi if in is it me my no of oh ok on or so to up us we ya yo
    the and are all any but can for get got had has her him his how its let may not now one our out own put say she too
    two was way who why you yes yet mr ms im ur isnt dont cant this that these those with from your have just like very
    also only here some will what when then than
    ich du er es wir ihr sie ist bin bist sind hat ein eine einen der die das den dem des mein meine dein deine sein und
    oder auch nicht zu im am an auf von mit mir mich dir dich
    el la los las un una mi tu su de del que y si lo le les mon ma mes ton ta sa et je te il est les o os as eu meu minha
    io mio mia il di e ed che
    pass password passwd passwords passwort passwörter kennwort contraseña senha motdepasse pwd pw word key login logon
    admin administrator root user username test guest welcome willkommen hello hallo hola bonjour letmein changeme change
    please default secret geheim access account master god love loves loved loveyou iloveyou lovely qwerty qwertz azerty
    asdf abc xyz monkey dragon football baseball basketball soccer hockey shadow sunshine princess superman batman ninja
    summer winter spring autumn sommer herbst angel baby michael jordan starwars trustno freedom whatever hunter killer
    """.split()  # noqa: SIM905
)


def spellings(text: str) -> list[str]:
    """Returns a text and its readings without accents and with letters for digits: p4$$w0rd is also password.

    A text of fewer than `MIN_DISGUISED` characters is read as it is: with so many readings each would be a word.
    """
    return _readings(text) if len(text) >= MIN_DISGUISED or text.isalpha() else [text]


def _readings(text: str) -> list[str]:
    plain = "".join(
        character for character in unicodedata.normalize("NFKD", text) if not unicodedata.combining(character)
    )
    return list(dict.fromkeys((text, plain, *(plain.translate(letters) for letters in DIGITS_AS_LETTERS))))


def is_joined_words(text: str, is_common: Callable[[str], bool]) -> bool:
    """Returns whether a text in lower case consists of small words and at most one common password, also repeated.

    Digits, marks and blanks may stand between the words. They and very short words may take two fifths of the text: of
    such pieces alone, a random text can be made.
    """
    length, has_blanks = len(text), len(text.split()) > 1
    # A sentence of many words is a good password, even if most of them are small.
    if length > MAX_LENGTH or len(text.split()) > MAX_WORDS_OF_SENTENCE:
        return False
    # For each position: the common words with which the text up to there can be read ("" for none), and how many
    # characters of each reading are such pieces.
    readings: list[dict[str, int]] = [{} for _ in range(length + 1)]
    readings[0][""] = 0
    for start in range(length):
        if not readings[start]:
            continue
        for end, word, pieces in _steps(text, start, is_common):
            if has_blanks and not text[start].isspace() and pieces < end - start and _splits_word(text, start, end):
                continue
            for known, used in readings[start].items():
                if not known or not word or known == word:
                    reading = known or word
                    readings[end][reading] = min(used + pieces, readings[end].get(reading, length))
    limit = min(MAX_PIECES, length * 2 // 5)
    return any(pieces <= limit for pieces in readings[length].values())


def _splits_word(text: str, start: int, end: int) -> bool:
    """Returns whether a part begins or ends inside a word. Blanks show where the words of a sentence end."""
    return text[max(start - 1, 0) : start].isalpha() or text[end : end + 1].isalpha()


def _steps(text: str, start: int, is_common: Callable[[str], bool]) -> Iterator[tuple[int, str, int]]:
    """Yields what may stand at `start`: its end, the common password ("" for other text), and its pieces."""
    if not text[start].isalpha():
        yield start + 1, "", 0 if text[start].isspace() else 1
    for end in range(start + 1, min(len(text), start + MAX_WORD) + 1):
        part = text[start:end]
        if part[-1].isspace():
            return
        letters = sum(map(str.isalpha, part))
        if letters * 2 < len(part):
            continue
        if any(form in SMALL_WORDS for form in _readings(part)):
            yield end, "", 1 if len(part) <= 2 else 0
        elif len(part) >= MIN_WORD:
            for form in spellings(part):
                if form.isalpha() and is_common(form):
                    yield end, form, 0

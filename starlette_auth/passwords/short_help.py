"""Which one line tells visitors the rules for a new password?"""

from collections.abc import Iterable

from ..core.translation import gettext, ngettext
from .password_changes import PasswordValidator
from .pwned import PwnedPasswordsValidator
from .validators import (
    CommonPasswordValidator,
    ContextWordsValidator,
    MaximumLengthValidator,
    MinimumLengthValidator,
    NumericPasswordValidator,
    UserAttributeSimilarityValidator,
)

AGAINST_GUESSING = (
    UserAttributeSimilarityValidator,
    CommonPasswordValidator,
    ContextWordsValidator,
    NumericPasswordValidator,
    PwnedPasswordsValidator,
)


def short_help(validators: Iterable[PasswordValidator]) -> list[str]:
    """Returns the rules of validators as few short sentences; `Auth.password_help` returns one for each rule.

    The first sentence is about the length, and about all rules of this package against guessing. An error names the
    rule that a password breaks. Other validators add their help text. So do subclasses, which may have another rule.
    """
    min_length, is_guarded, others = 0, False, []
    for validator in validators:
        if type(validator) is MinimumLengthValidator:
            min_length = max(min_length, validator.min_length)
        elif type(validator) in AGAINST_GUESSING:
            is_guarded = True
        elif type(validator) is not MaximumLengthValidator or validator.get_help_text():
            others.append(validator.get_help_text())
    return [text for text in (_first(min_length, is_guarded), *others) if text]


def _first(min_length: int, is_guarded: bool) -> str:
    if not min_length:
        return gettext("Hard to guess.") if is_guarded else ""
    if is_guarded:
        text = ngettext(
            "At least %(number)d character, hard to guess.",
            "At least %(number)d characters, hard to guess.",
            min_length,
        )
    else:
        text = ngettext("At least %(number)d character.", "At least %(number)d characters.", min_length)
    return text % {"number": min_length}

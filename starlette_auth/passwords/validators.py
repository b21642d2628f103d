"""Password validators: which passwords may be chosen?"""

import copy
import inspect
import logging
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

from starlette.concurrency import run_in_threadpool

from ..core.arguments import as_list, as_texts, require_instance, require_integer, require_methods, require_number
from ..core.exceptions import ImproperlyConfigured, ValidationError
from ..core.text import require_text, visible_characters
from ..core.translation import gettext, ngettext
from .bloom_filter import DEFAULT_FILTER, open_filter
from .password_changes import PasswordValidator
from .passwords import MAX_PASSWORD_LENGTH
from .patterns import is_pattern, variants
from .pwned import OnFailure, PwnedPasswordsValidator
from .words import is_joined_words, spellings

logger = logging.getLogger("starlette_auth")
# An attacker fills in a very long name, which would be compared with each password. Therefore the rest is ignored.
MAX_ATTRIBUTE_LENGTH = 4096
MIN_VISIBLE_CHARACTERS = 4
VALIDATORS = "Pass objects, as in password_validators=[MinimumLengthValidator(12), CommonPasswordValidator()]."


def _verbose_names() -> dict[str, str]:
    """Returns Django's verbose names of the user's attributes."""
    return {
        "username": gettext("username"),
        "first_name": gettext("first name"),
        "last_name": gettext("last name"),
        "email": gettext("email address"),
    }


async def validate_password(
    password: str, validators: Iterable[PasswordValidator], user: Any = None
) -> list[ValidationError]:
    """Returns the errors of all validators for a password. The list is empty if the password is valid.

    The password is normalized to NFC first. Raises TypeError if it is not a str.
    """
    require_text(password, "password")
    errors: list[ValidationError] = []
    if len(password) > MAX_PASSWORD_LENGTH:  # before validators that are slow on long input
        validators = [MaximumLengthValidator(MAX_PASSWORD_LENGTH)]
    else:
        password = unicodedata.normalize("NFC", password)
    for validator in validators:
        try:
            result = validator.validate(password, user)
            if inspect.isawaitable(result):
                await result
        except ValidationError as error:
            errors.append(error)
    return errors


def default_validators(context_words: Sequence[str] = ()) -> list[PasswordValidator]:
    """Returns the validators of `Auth(password_validators=None)`, to be extended: `[*default_validators(), MyRule()]`."""
    validators: list[PasswordValidator] = [
        MinimumLengthValidator(),
        MaximumLengthValidator(),
        UserAttributeSimilarityValidator(),
        CommonPasswordValidator(),
    ]
    if context_words := _word_list(context_words):
        validators.append(ContextWordsValidator(context_words))
    return validators


def build_validators(
    validators: Sequence[PasswordValidator] | None,
    context_words: Sequence[str],
    site_name: str = "",
    on_failure: OnFailure | None = None,
) -> list[PasswordValidator]:
    """Returns the given or default validators, and one for the site's own words.

    `on_failure` is called by a PwnedPasswordsValidator that has no such function. Raises ImproperlyConfigured if
    `context_words` is a single string.
    """
    context_words = _word_list(context_words)
    if validators is not None:
        validators = as_list(validators, "password_validators", VALIDATORS)
    for validator in validators or ():
        require_methods(validator, ("validate", "get_help_text"), "An item of password_validators", VALIDATORS)
        if isinstance(validator, PwnedPasswordsValidator):
            validator.on_failure = validator.on_failure or on_failure
    words = [*context_words, *filter(None, [site_name])]
    if validators is None:
        return default_validators(words)
    return [*validators, *([ContextWordsValidator(words)] if validators and context_words else [])]


class MinimumLengthValidator:
    """Requires at least `min_length` characters (NIST SP 800-63B-4, 3.1.1.2).

    For a user whose attribute `has_second_factor` is true, `with_second_factor` characters are enough.
    """

    def __init__(self, min_length: int = 15, *, with_second_factor: int = 8) -> None:
        require_integer(min_length, "min_length")
        require_integer(with_second_factor, "with_second_factor")
        self.min_length = min_length
        self.with_second_factor = min(min_length, with_second_factor)

    def validate(self, password: str, user: Any = None) -> None:
        min_length = self.with_second_factor if getattr(user, "has_second_factor", False) else self.min_length
        if len(password) < min_length:
            rule = copy.copy(self)  # `get_error_message` may be overridden, and takes no arguments in Django
            rule.min_length = min_length
            raise ValidationError(rule.get_error_message(), "password_too_short", {"min_length": min_length})

    def get_error_message(self) -> str:
        message = ngettext(
            "This password is too short. It must contain at least %(min_length)d character.",
            "This password is too short. It must contain at least %(min_length)d characters.",
            self.min_length,
        )
        return message % {"min_length": self.min_length}

    def get_help_text(self) -> str:
        message = ngettext(
            "Your password must contain at least %(min_length)d character.",
            "Your password must contain at least %(min_length)d characters.",
            self.min_length,
        )
        return message % {"min_length": self.min_length}


class MaximumLengthValidator:
    """Allows at most `max_length` characters.

    An attacker sends very long passwords, which would keep the hasher busy. Therefore they are rejected.
    """

    def __init__(self, max_length: int = MAX_PASSWORD_LENGTH) -> None:
        require_integer(max_length, "max_length")
        self.max_length = max_length

    def validate(self, password: str, user: Any = None) -> None:
        if len(password) > self.max_length:
            raise ValidationError(self.get_error_message(), "password_too_long", {"max_length": self.max_length})

    def get_error_message(self) -> str:
        message = ngettext(
            "This password is too long. It must contain at most %(max_length)d character.",
            "This password is too long. It must contain at most %(max_length)d characters.",
            self.max_length,
        )
        return message % {"max_length": self.max_length}

    def get_help_text(self) -> str:
        if self.max_length >= MAX_PASSWORD_LENGTH:
            return ""  # the limit is far above the length of any real password
        message = ngettext(
            "Your password must contain at most %(max_length)d character.",
            "Your password must contain at most %(max_length)d characters.",
            self.max_length,
        )
        return message % {"max_length": self.max_length}


class UserAttributeSimilarityValidator:
    """Rejects passwords that are similar to an attribute of the user. Decides exactly as Django's validator.

    Its time grows linearly with the length of the compared texts.
    Raises ImproperlyConfigured unless `max_similarity` is from 0.1 to 1.
    """

    def __init__(
        self,
        user_attributes: Sequence[str] = ("username", "first_name", "last_name", "email"),
        max_similarity: float = 0.7,
    ) -> None:
        require_number(max_similarity, "max_similarity")
        if not 0.1 <= max_similarity <= 1:
            raise ImproperlyConfigured("max_similarity must be from 0.1 to 1. Pass another one, such as 0.7.")
        self.user_attributes = as_texts(user_attributes, "user_attributes", 'Pass ("username", "email").')
        self.max_similarity = max_similarity

    def validate(self, password: str, user: Any = None) -> None:
        characters = Counter(password.lower())
        for attribute in self.user_attributes if user else ():
            value = getattr(user, attribute, None)
            if value and isinstance(value, str) and self._is_similar(characters, value.lower()):
                name = _verbose_names().get(attribute, attribute)
                raise ValidationError(self.get_error_message(), "password_too_similar", {"verbose_name": name})

    def get_error_message(self) -> str:
        return gettext("The password is too similar to the %(verbose_name)s.")

    def _is_similar(self, characters: Counter[str], value: str) -> bool:
        value = value[:MAX_ATTRIBUTE_LENGTH]
        return any(self._ratio(characters, part) >= self.max_similarity for part in {value, *re.split(r"\W+", value)})

    def _ratio(self, characters: Counter[str], part: str) -> float:
        """Returns the share of common characters, 0 to 1, as `quick_ratio` of `difflib`."""
        total = characters.total() + len(part)
        if not total:
            return 1.0
        upper_bound = 2.0 * min(characters.total(), len(part)) / total
        if upper_bound < self.max_similarity:
            return upper_bound
        return 2.0 * (characters & Counter(part)).total() / total

    def get_help_text(self) -> str:
        return gettext("Your password can’t be too similar to your other personal information.")


class CommonPasswordValidator:
    """Rejects common and breached passwords, their variants, keyboard walks, and blanks.

    Variants are: repeated, dated, decorated, spelled with digits (p4$$w0rd), or joined by small words (mypasswordis…).

    `filter_path` replaces the shipped Bloom filter. Build a filter with `starlette-auth buildfilter`.
    """

    def __init__(self, filter_path: str | PathLike[str] | None = None) -> None:
        if filter_path is not None:
            fix = 'Pass the path of a filter, as in CommonPasswordValidator(filter_path="own.bloom").'
            require_instance(filter_path, (str, PathLike), "filter_path", fix)
        self.filter_path = DEFAULT_FILTER if filter_path is None else Path(filter_path)

    async def validate(self, password: str, user: Any = None) -> None:
        # In a thread: opening the filter reads a file, and so may access to a mapped page.
        if await run_in_threadpool(self._is_common, password):
            raise ValidationError(self.get_error_message(), "password_too_common")

    def get_error_message(self) -> str:
        return gettext("This password is too common.")

    def _is_common(self, password: str) -> bool:
        common = open_filter(self.filter_path)
        if len(password) > MAX_PASSWORD_LENGTH:
            return password in common or password.lower().strip() in common
        # An attacker tries blanks and invisible characters alone. Therefore a password needs visible ones.
        visible = visible_characters(password)
        if password in common or len(visible) < MIN_VISIBLE_CHARACTERS:
            return True
        # Blanks are kept: they separate words. Invisible characters would only hide a common password.
        plain = "".join(character for character in password if character.isspace() or visible_characters(character))
        for form in variants(plain):
            if is_pattern(form) or any(spelling in common for spelling in spellings(form)):
                return True
        return visible.lower() in common or is_joined_words(plain.lower(), lambda word: word in common)

    def get_help_text(self) -> str:
        return gettext("Your password can’t be a commonly used password.")


class NumericPasswordValidator:
    """Rejects passwords of digits only, as Django's validator. With a minimum of 15 characters it rejects few."""

    def validate(self, password: str, user: Any = None) -> None:
        if password.isdigit():
            raise ValidationError(self.get_error_message(), "password_entirely_numeric")

    def get_error_message(self) -> str:
        return gettext("This password is entirely numeric.")

    def get_help_text(self) -> str:
        return gettext("Your password can’t be entirely numeric.")


class ContextWordsValidator:
    """Rejects passwords made of the site's own words: its name, its domain, its product.

    A password may contain these words if it has at least 8 letters besides them.
    Raises ImproperlyConfigured if `context_words` is a single string.
    """

    def __init__(self, context_words: Sequence[str]) -> None:
        context_words = _word_list(context_words)
        words = {part for word in context_words for part in (word.lower(), *re.split(r"[\W_]+", word.lower()))}
        # Words of one or two letters occur in most passwords.
        self.words = sorted((word for word in words if len(word) >= 3), key=len, reverse=True)

    def validate(self, password: str, user: Any = None) -> None:
        rest = password.lower()
        for word in self.words:
            rest = rest.replace(word, " ")
        if rest != password.lower() and sum(map(str.isalpha, rest)) < 8:
            raise ValidationError(self.get_error_message(), "password_context_word")

    def get_error_message(self) -> str:
        return gettext("This password is made of this site’s own words. Choose one that has nothing to do with it.")

    def get_help_text(self) -> str:
        return gettext("Your password can’t be made of this site’s own words.")


def _word_list(context_words: Sequence[str]) -> list[str]:
    fix = 'Pass context_words=["Acme Shop", "acme.example"].'
    if isinstance(context_words, str):
        raise ImproperlyConfigured(f"context_words must be a list. {fix}")
    return as_texts(context_words, "context_words", fix)

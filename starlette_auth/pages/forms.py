"""Forms: fields, filling them in from a request, and errors."""

from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

from starlette.exceptions import HTTPException
from starlette.requests import Request

from ..core.arguments import require_bool, require_instance, require_integer, require_text
from ..core.exceptions import ImproperlyConfigured, ValidationError
from ..core.text import has_lone_surrogate, is_email_address
from ..core.translation import gettext, ngettext
from ..http.content import read_fields
from ..http.scope import IS_STALE
from ..users.models import User

MAX_EMAIL_LENGTH = 254
TYPES = ("text", "email", "password", "hidden", "checkbox")


@dataclass(frozen=True, kw_only=True)
class Field:
    """One form field. `autocomplete` and `inputmode` are tokens of the HTML standard, for browsers and keyboards."""

    label: str = ""
    type: Literal["text", "email", "password", "hidden", "checkbox"] = "text"
    required: bool = True
    max_length: int | None = None
    autocomplete: str = "off"
    help_text: str = ""
    passwordrules: str = ""
    inputmode: str = ""

    def __post_init__(self) -> None:
        for name in ("label", "autocomplete", "help_text", "passwordrules", "inputmode"):
            require_text(getattr(self, name), name, "Pass text.")
        if not isinstance(self.type, str) or self.type not in TYPES:
            raise ImproperlyConfigured(f"Field(type={self.type!r}) is not known. Use one of {', '.join(TYPES)}.")
        require_bool(self.required, "required")
        if self.max_length is not None:
            require_integer(self.max_length, "max_length")

    def clean(self, value: str) -> str:
        """Returns the value, stripped unless it is a password. Raises ValidationError with Django's codes."""
        if self.type == "checkbox" and value.lower() in ("false", "off", "0"):
            value = ""
        if self.type == "hidden":  # the visitor cannot correct it, so the view that uses it checks it
            return value
        value = value if self.type == "password" else value.strip()
        if not value and self.required:
            raise ValidationError(gettext("This field is required."), "required")
        if "\x00" in value:
            raise ValidationError(gettext("Null characters are not allowed."), "null_characters_not_allowed")
        if has_lone_surrogate(value):
            raise ValidationError(gettext("This contains a character that cannot be saved. Type it again."), "invalid")
        if self.max_length is not None and len(value) > self.max_length:
            message = ngettext(
                "Ensure this value has at most %(limit_value)d character (it has %(show_value)d).",
                "Ensure this value has at most %(limit_value)d characters (it has %(show_value)d).",
                self.max_length,
            )
            raise ValidationError(message % {"limit_value": self.max_length, "show_value": len(value)}, "max_length")
        if value and self.type == "email" and not is_email_address(value):
            raise ValidationError(gettext("Enter a valid email address."), "invalid")
        return value


class Form:
    """Holds the form fields, the submitted `data` and the `errors`, by field name; "" for the whole form."""

    def __init__(self, **fields: Field) -> None:
        for name, field in fields.items():
            require_instance(field, Field, name, 'Pass fields, as in Form(name=Field(label="Name")).')
        self.fields = fields
        self.data = dict.fromkeys(fields, "")
        self.errors: dict[str, list[ValidationError]] = {}

    def add_error(self, name: str, error: ValidationError) -> None:
        self.errors.setdefault(name, []).append(error)

    @property
    def is_valid(self) -> bool:
        return not self.errors

    async def fill_in(self, request: Request) -> bool:
        """Reads the submitted form or JSON object and checks each field. Returns `is_valid`.

        Raises HTTPException: 413 for more than 64 KiB, 415 for another media type, 400 for a field that was sent twice
        or is not text.
        """
        submitted = await read_fields(request)
        if request.scope.pop(IS_STALE, False):
            self.add_error("", ValidationError(gettext("This form was too old. Please send it again."), "csrf"))
        for name, field in self.fields.items():
            values = submitted.get(name, [""])
            if field.type == "checkbox" and isinstance(values[0], bool):
                values = ["on" if values[0] else "", *values[1:]]
            if len(values) > 1 or not isinstance(values[0], str):
                # An attacker sends a field twice, and two parsers (a firewall and this one) could use different values.
                raise HTTPException(400, gettext("A field was sent twice or is not text. Submit the form again."))
            self.data[name] = values[0]
            try:
                self.data[name] = field.clean(values[0])
            except ValidationError as error:
                self.add_error(name, error)
        return self.is_valid


@runtime_checkable
class PasswordChangeChoice(Protocol):
    """A feature with a checkbox on the page on which users change their password."""

    choice_name: str

    async def choice_field(self, user: User) -> Field | None:
        """Returns the checkbox; None if there is nothing that this user could choose."""
        ...

    async def choose(self, user: User, request: Request) -> None:
        """Does what the user has ticked, in the transaction that sets the new password."""
        ...


def email_field(label: str = "", *, autocomplete: str = "email") -> Field:
    return Field(
        label=label or gettext("E-mail address"),
        type="email",
        autocomplete=autocomplete,
        max_length=MAX_EMAIL_LENGTH,
    )


def password_field(help_text: str) -> Field:
    """Returns the field for a password that the visitor has chosen before."""
    return Field(label=gettext("Password"), type="password", autocomplete="current-password", help_text=help_text)

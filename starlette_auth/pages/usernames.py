"""The form field for a new username, and its check."""

from ..auth import Auth
from ..core.exceptions import ValidationError
from ..core.text import normalize_username
from ..core.translation import gettext
from ..users.usernames import username_help, validate_username
from .forms import Field, Form

MAX_USERNAME_LENGTH = 150


def username_field(auth: Auth) -> Field:
    return Field(
        label=gettext("Username"),
        autocomplete="username",
        max_length=MAX_USERNAME_LENGTH,
        help_text=username_help(auth.users.username_validator),
    )


async def check_new_username(auth: Auth, form: Form) -> None:
    """Normalizes the field "username". Adds an error to the form if the validator refuses it."""
    form.data["username"] = normalize_username(form.data["username"])
    try:
        await validate_username(form.data["username"], auth.users.username_validator)
    except ValidationError as error:
        form.add_error("username", error)

"""What the JSON API takes and returns."""

import unicodedata
from typing import Annotated

from fastapi import Path
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints

from starlette_auth import Field as FormField
from starlette_auth import UnicodeUsernameValidator

validate_username = UnicodeUsernameValidator()


def visible(text: str) -> str:
    """Raises ValueError for a text that looks empty, such as a zero-width space."""
    if not any(character.isprintable() and not character.isspace() for character in text):
        raise ValueError("Enter at least one visible character.")
    return text


def valid_username(text: str) -> str:
    """Raises ValueError for a name with which a visitor could not register. It is stored in Unicode form NFKC."""
    validate_username(unicodedata.normalize("NFKC", text))
    return text


# PostgreSQL stores no NUL in a text.
Text = Annotated[str, StringConstraints(strip_whitespace=True, max_length=100, pattern=r"^[^\x00]*$")]
Name = Annotated[Text, AfterValidator(visible)]
Username = Annotated[
    str, StringConstraints(strip_whitespace=True, min_length=1, max_length=150), AfterValidator(valid_username)
]
# The field of the registration form. Pydantic's EmailStr would need the package email-validator.
Email = Annotated[str, AfterValidator(FormField(type="email", max_length=254).clean)]
OrderId = Annotated[int, Path(ge=1, le=2**31 - 1)]  # what the column of the primary key can hold
Voucher = Annotated[str, StringConstraints(pattern=r"^[A-Z0-9]{1,20}$")]


class OrderIn(BaseModel):
    item: Name
    quantity: Annotated[int, Field(ge=1, le=99)] = 1
    voucher: Annotated[Voucher | None, BeforeValidator(lambda value: value or None)] = None  # a form sends ""


class OrderOut(BaseModel):
    model_config = ConfigDict(from_attributes=True)
    id: int
    item: str  # without the rules for new orders: a row may be older than a rule
    quantity: int
    voucher: str | None


class MemberIn(BaseModel):
    city: Text


class MemberOut(BaseModel):
    model_config = ConfigDict(from_attributes=True)
    username: str
    email: str
    city: str


class CustomerIn(BaseModel):
    username: Username
    email: Email
    order: OrderIn

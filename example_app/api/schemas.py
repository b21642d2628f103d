"""What the JSON API takes and returns."""

from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints

# PostgreSQL stores no NUL in a text.
Text = Annotated[str, StringConstraints(strip_whitespace=True, max_length=100, pattern=r"^[^\x00]*$")]
Name = Annotated[Text, Field(min_length=1)]
Voucher = Annotated[str, StringConstraints(pattern=r"^[A-Z0-9]{1,20}$")]


class OrderIn(BaseModel):
    item: Name
    quantity: Annotated[int, Field(ge=1, le=99)] = 1
    voucher: Annotated[Voucher | None, BeforeValidator(lambda value: value or None)] = None  # a form sends ""


class OrderOut(OrderIn):
    model_config = ConfigDict(from_attributes=True)
    id: int


class MemberIn(BaseModel):
    city: Text


class MemberOut(MemberIn):
    model_config = ConfigDict(from_attributes=True)
    username: str
    email: str


class CustomerIn(BaseModel):
    username: Name
    email: Text
    order: OrderIn

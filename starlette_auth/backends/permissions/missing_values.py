"""Values that a user does not have, in SQL conditions: they equal nothing, not even an empty column."""

import copy
from collections.abc import Iterable
from typing import Any, Final, TypeVar

import sqlalchemy as sa
from sqlalchemy.sql import operators, visitors

from ...users.models import AnonymousUser, User

C = TypeVar("C", bound=sa.ClauseElement)
#: The attributes of a visitor that stand for a row of the user table.
OF_VISITORS = ("id", "username", "email", "first_name", "last_name", "display_name", "identity")
#: IS, IS NOT, IS DISTINCT FROM and IS NOT DISTINCT FROM are the comparisons that NULL takes part in.
MATCH_NULL = (operators.is_, operators.is_not, operators.is_distinct_from, operators.is_not_distinct_from)
KEPT = ("backend_answers", "backend", "group_json", "permission_json", "_parsed_permissions")


class Missing:
    """Stands for None in a condition. It is false and equals None; only `is None` does not hold."""

    def __bool__(self) -> bool:
        return False

    def __eq__(self, other: object) -> bool:
        # Also `user.id == Order.owner_id` becomes an SQL expression: the column compares itself.
        return True if other is None or isinstance(other, Missing) else NotImplemented

    def __hash__(self) -> int:
        return hash(None)

    def __repr__(self) -> str:
        return "None"


class MissingText(str):
    """Stands for an empty text in a condition, and is the result of its methods.

    `user.email.lower()` would otherwise be an empty text again, which equals an empty column. So would the prefix that
    SQLAlchemy makes for `startswith(user.email, autoescape=True)`. Only an f-string loses the mark.
    """

    __slots__ = ()

    def __add__(self, other: str) -> "MissingText":
        return self

    def __radd__(self, other: str) -> "MissingText":
        return self

    def __getitem__(self, key: Any) -> str:
        return self if isinstance(key, slice) else super().__getitem__(key)

    def partition(self, sep: str) -> tuple[str, str, str]:
        return self, self, self

    def rpartition(self, sep: str) -> tuple[str, str, str]:
        return self, self, self

    def split(self, sep: Any = None, maxsplit: Any = -1) -> list[str]:
        return [self] if sep is not None else []

    def rsplit(self, sep: Any = None, maxsplit: Any = -1) -> list[str]:
        return self.split(sep)


def _same(text: MissingText, *args: Any, **options: Any) -> MissingText:
    return text


for _method in (
    *("lower", "upper", "casefold", "title", "capitalize", "swapcase"),
    *("strip", "lstrip", "rstrip", "removeprefix", "removesuffix", "replace", "translate"),
):
    setattr(MissingText, _method, _same)

MISSING: Final = Missing()
MISSING_TEXT: Final = MissingText()


def without_missing_values(user: User | AnonymousUser, fields: Iterable[str]) -> Any:
    """Returns a copy of a user for a rule. Its values of None and its empty texts equal nothing in SQL.

    SQLAlchemy makes `Order.owner_id == None` an IS NULL. A visitor, whose `id` is None, would see all orders that have no
    owner, and a user without a company those of no company. An order without an address would belong to each user
    without one. `fields` are those of the user class, which a visitor does not have.
    """
    values: dict[str, Any] = {name: value for name, value in vars(user).items() if name not in KEPT}
    if isinstance(user, AnonymousUser):
        values = {**{name: getattr(user, name, None) for name in (*OF_VISITORS, *fields)}, **values}
    copied = copy.copy(user)
    for name, value in values.items():
        if value is None:
            vars(copied)[name] = MISSING
        elif isinstance(value, str) and not value:
            vars(copied)[name] = MISSING_TEXT
    return copied


def with_nulls(condition: C) -> C:
    """Replaces the values that a user does not have by NULL bind parameters, which no comparison matches."""
    for element in visitors.iterate(condition):
        if isinstance(element, sa.BinaryExpression) and element.operator in MATCH_NULL:
            sides = [getattr(side, "value", None) for side in (element.left, element.right)]
            element.operator = operators.eq if any(map(_is_missing, sides)) else element.operator
    for element in visitors.iterate(condition):
        if isinstance(element, sa.BindParameter):
            value = element.value
            if _is_missing(value):
                element.value = None
            elif isinstance(value, list | tuple | set) and any(map(_is_missing, value)):
                element.value = [None if _is_missing(item) else item for item in value]
    return condition


def _is_missing(value: object) -> bool:
    return isinstance(value, Missing | MissingText)

"""Rules on objects: which rows may a user see or change, as conditions in SQL?"""

import contextlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar, cast

import sqlalchemy as sa

from ...core.arguments import describe, require_function
from ...core.exceptions import ImproperlyConfigured
from ...core.functions import describe_function, is_async
from ...database.statements import ConditionQuery
from ...users.models import AnonymousUser, User
from ...users.permissions import suggest
from .missing_values import with_nulls, without_missing_values

R = TypeVar("R", bound=Callable[..., Any])
Model = Any  # a mapped class of SQLAlchemy, or a Table
MODEL = 'Pass a mapped class of SQLAlchemy or a Table, as in @auth.rule("shop.view_order", Order).'
RESULT = "Return a condition as in `Order.owner_id == user.id`, or True, False, or None if the rule says nothing."


class Rule(NamedTuple):
    model: Model
    function: Callable[[Any], Any]


class ObjectKey(NamedTuple):
    """An object as a row: its model, and the values of its primary key. There are none before it is stored."""

    model: Model
    values: Sequence[Any] | None


class Rules:
    """The rules of an `Auth`, by permission."""

    def __init__(self) -> None:
        self._by_perm: dict[str, list[Rule]] = {}

    def add(self, perm: str, model: Model, function: Callable[[Any], Any]) -> None:
        require_function(function, "The rule", f"Write @auth.rule(…) above a function that takes the user. {RESULT}")
        if is_async(function):
            raise ImproperlyConfigured(
                f"{describe_function(function)} is async, and a rule makes an SQL condition without waiting. Write it with "
                "`def`, and the query for what it depends on as a subquery in the condition."
            )
        try:
            inspect.signature(function).bind(None)
        except TypeError as error:
            raise ImproperlyConfigured(
                f"{describe_function(function)} must take one argument, the user. Write `def own(user): …`."
            ) from error
        self._by_perm.setdefault(perm, []).append(Rule(model, function))

    def about(self, perm: str, model: Model) -> list[Rule]:
        """Returns the rules on a model and the classes that it inherits. Raises ImproperlyConfigured if there is none."""
        rules = [rule for rule in self._by_perm.get(perm, ()) if _covers(rule.model, model)]
        if not rules:
            names = sorted(
                f"{known}, {_name(rule.model)}" for known, all_of in self._by_perm.items() for rule in all_of
            )
            asked = f"{perm}, {_name(model)}"
            raise ImproperlyConfigured(
                f"There is no rule for ({asked}).{suggest(asked, names)} Write one with "
                f'@auth.rule("{perm}", {_name(model)}) above `def own(user): …`.'
            )
        return rules

    def find(self, perm: str, obj: object) -> ObjectKey | None:
        """Returns the key of an object for whose model there are rules; None if the rules are not about it.

        A row of a Table does not tell its table: it is of the one Table that the permission has rules for.
        """
        models = {rule.model for rule in self._by_perm.get(perm, ())}
        if any(_covers(model, type(obj)) for model in models):
            return ObjectKey(type(obj), sa.inspect(obj, raiseerr=True).identity)
        row = obj if isinstance(obj, Mapping) else getattr(obj, "_mapping", None)
        tables = [model for model in models if isinstance(model, sa.Table)]
        if not tables or row is None:
            return None
        if len(tables) > 1:
            raise ImproperlyConfigured(
                f"There are rules for {perm!r} on several tables ({', '.join(sorted(map(_name, tables)))}), and a row does "
                "not tell its table. Give each table a separate permission, or use mapped classes."
            )
        return ObjectKey(tables[0], [_value_in(row, column) for column in tables[0].primary_key])

    def condition(
        self, user: User | AnonymousUser, perm: str, model: Model, fields: Sequence[str]
    ) -> sa.ColumnElement[bool]:
        """Returns the conditions of all rules, joined by OR: false() if no rule lets the user in."""
        copied = without_missing_values(user, fields)
        results = [_checked(rule.function, rule.function(copied)) for rule in self.about(perm, model)]
        return sa.or_(sa.false(), *(with_nulls(result) for result in results if result is not None))


def key_query(key: ObjectKey, condition: sa.ColumnElement[bool]) -> ConditionQuery:
    """Returns the query for the row with this key, if it fulfils the condition."""
    model, values = key
    columns = model.primary_key if isinstance(model, sa.Table) else model.__mapper__.primary_key
    is_row = [column == sa.literal(value, column.type) for column, value in zip(columns, values or (), strict=True)]
    found: sa.Label[int] = sa.literal_column("1", sa.Integer).label("found")
    return ConditionQuery(sa.select(found).select_from(model).where(*is_row, condition))


def require_model(model: object) -> None:
    """Raises ImproperlyConfigured unless a value is a mapped class or a Table."""
    is_mapped = isinstance(model, type) and hasattr(model, "__mapper__")
    if not is_mapped and not isinstance(model, sa.Table):
        raise ImproperlyConfigured(f"The model of a rule is {describe(model)}. {MODEL}")


def _checked(function: Callable[..., Any], result: Any) -> sa.ColumnElement[bool] | None:
    if result is None or result is False:
        return None
    if result is True:
        return sa.true()
    if hasattr(result, "__clause_element__"):
        result = result.__clause_element__()
    if isinstance(result, sa.ColumnElement | sa.TextClause):
        return cast("sa.ColumnElement[bool]", result)
    raise ImproperlyConfigured(f"The rule {describe_function(function)} returned {describe(result)}. {RESULT}")


def _covers(of_rule: Model, model: Model) -> bool:
    """Returns whether a rule on one model counts for another: the same, or a class that inherits it."""
    if isinstance(of_rule, type) and isinstance(model, type):
        return issubclass(model, of_rule)
    return of_rule is model


def _value_in(row: Any, column: sa.Column[Any]) -> Any:
    """Returns the value of a column. A row of SQLAlchemy knows its columns, and those of another table do not count."""
    names: tuple[Any, ...] = (column,) if isinstance(row, sa.RowMapping) else (column.key, column.name)
    for name in names:
        with contextlib.suppress(KeyError):
            return row[name]
    raise ValueError(
        f"The row has no {column.table.name}.{column.name}, by which it would be found. Select the primary key of the table "
        "with it, or pass a dict."
    )


def _name(model: Model) -> str:
    """Returns the name of a model for a message. The attribute `name` of a mapped class may be a column."""
    return str(model.name if isinstance(model, sa.Table) else model.__name__)

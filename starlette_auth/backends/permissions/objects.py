"""May a user do this to an object, and which objects may the user see?"""

import logging
from collections.abc import Callable
from typing import Any, Protocol

import sqlalchemy as sa

from ...core.arguments import as_permissions, require_text
from ...core.awaiting import must_be_awaited
from ...database.gateway import Gateway
from ...users.models import AnonymousUser, User, require_person
from ...users.permission_checks import require_perm
from ...users.users import Users
from .rules import Model, ObjectKey, R, Rules, key_query, require_model

logger = logging.getLogger("starlette_auth")


class GeneralPermissions(Protocol):
    """The `BackendPermissions` of an `Auth`."""

    async def has_perm(self, user: User | AnonymousUser, perm: str, obj: object = None) -> bool: ...

    async def verdict(self, user: User | AnonymousUser, perm: str, obj: object = None) -> bool | None: ...

    def verdict_now(self, user: User | AnonymousUser, perm: str) -> bool | None: ...

    def overriders_of_has_perm(self) -> list[str]: ...


class ChecksPermissions:
    """Provides the methods of `Auth` about the permissions of a user, in general and on objects."""

    users: Users[Any]
    gateway: Gateway
    backend_permissions: GeneralPermissions
    _has_warned = False

    @property
    def _rules(self) -> Rules:
        rules: Rules = vars(self).setdefault("_rules_on_objects", Rules())
        return rules

    def rule(self, perm: str, of: Model) -> Callable[[R], R]:
        """Registers a rule: `@auth.rule("shop.view_order", Order)` above `def own(user): return Order.owner_id == user.id`.

        `of` is a mapped class of SQLAlchemy or a Table, in the database of this Auth. The function takes the user, or an
        AnonymousUser, and returns a condition on the rows for which it grants the permission, or True for all rows, False
        or None for none. Several rules are joined by OR. They count in `visible_to`, in `has_perm` with an object and in
        guards with `obj=`.

        A user who has the permission in general has it on all objects. A denial of a backend counts more than a rule. Active
        superusers have it on all objects. Inactive users are not asked about.

        A value that the user does not have (None, or an empty text) equals nothing in the condition: SQLAlchemy would
        otherwise make `Order.owner_id == user.id` an IS NULL for a visitor. Raises ImproperlyConfigured for a wrong
        argument or function.
        """
        require_text(perm, "perm", 'Pass the name of a permission, as in "shop.view_order".')
        as_permissions(perm, "perm")
        require_model(of)

        def register(function: R) -> R:
            self._rules.add(perm, of, function)
            return function

        return register

    def visible_to(self, user: User | AnonymousUser, perm: str, of: Model) -> sa.ColumnElement[bool]:
        """Returns the condition on the rows on which a user has a permission: `select(Order).where(auth.visible_to(…))`.

        It is what `has_perm` with an object answers for each of them, except for backends that override `has_perm`:
        Python cannot be part of a query, so an object that only they grant is missing, and one that only they deny is
        there. Raises ImproperlyConfigured if there is no rule for the permission and the model, or if a backend would
        have to wait for its answer.
        """
        require_person(user)
        require_perm(perm)
        require_model(of)
        self._rules.about(perm, of)
        self._warn_about_backends()
        if user.is_active and user.is_superuser:
            return sa.true()
        is_granted = self.backend_permissions.verdict_now(user, perm) if _counts(user) else None
        if is_granted is None:
            return sa.false()
        return sa.true() if is_granted else self._condition(user, perm, of)

    @must_be_awaited
    async def has_perm(self, user: User | AnonymousUser, perm: str, obj: object = None) -> bool:
        """Returns whether a user has a permission, on one object if `obj` is given. Asks the backends, and waits.

        `obj` may be any object that a backend knows, or one for whose class there is a rule: an instance, or the row of a
        Table as a mapping. If no backend decides, one statement asks for its primary key and the conditions of the rules.
        An object that is not stored, or was deleted, fulfils none.
        """
        key = None if obj is None or not isinstance(perm, str) else self._rules.find(perm, obj)
        if key is None:
            return await self.backend_permissions.has_perm(user, perm, obj)
        require_person(user)
        if user.is_active and user.is_superuser:
            return True
        in_general = await self.backend_permissions.verdict(user, perm)
        on_object = await self.backend_permissions.verdict(user, perm, obj)
        if in_general is None or on_object is None:
            return False
        return on_object or (_counts(user) and (in_general or await self._is_visible(user, perm, key)))

    async def _is_visible(self, user: User | AnonymousUser, perm: str, key: ObjectKey) -> bool:
        if key.values is None or None in key.values:
            return False
        condition = self._condition(user, perm, key.model)
        if isinstance(condition, sa.False_):
            return False
        return await self.gateway.fetch_one(key_query(key, condition)) is not None

    def _condition(self, user: User | AnonymousUser, perm: str, of: Model) -> sa.ColumnElement[bool]:
        return self._rules.condition(user, perm, of, list(self.users.user_class.__dataclass_fields__))

    def _warn_about_backends(self) -> None:
        overriders = self.backend_permissions.overriders_of_has_perm()
        if overriders and not self._has_warned:
            self._has_warned = True
            logger.warning(
                "visible_to() does not know what %s.has_perm() decides about single objects. Write a rule with @auth.rule "
                "for what queries have to know.",
                ".has_perm() and ".join(overriders),
            )


def _counts(user: User | AnonymousUser) -> bool:
    """Returns whether rules are asked about a user: not about an inactive one, or one who is not stored."""
    return isinstance(user, AnonymousUser) or (user.is_active and user.id is not None)

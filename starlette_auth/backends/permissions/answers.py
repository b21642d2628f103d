"""What backends say about the permissions of one user object."""

from collections.abc import Callable, Coroutine
from typing import Any, Protocol

from ...core.exceptions import ImproperlyConfigured
from .contributions import AnyUser, Contributions


class AnswersQuestions(Protocol):
    """The `BackendPermissions` of an `Auth`. Its coroutine methods ask the backends."""

    async def has_perm(self, user: AnyUser, perm: str) -> bool: ...

    async def has_module_perms(self, user: AnyUser, app_label: str) -> bool: ...

    async def get_all_permissions(self, user: AnyUser) -> frozenset[str]: ...

    async def without_denied(self, user: AnyUser, perms: frozenset[str]) -> frozenset[str]: ...

    def run(self, answers: "Answers", function: Callable[..., Coroutine[Any, Any, Any]], *args: Any) -> Any: ...


class Answers:
    """What the backends say about one user. It is kept with the user object, which asks it."""

    __slots__ = ("backends", "contributions", "is_active", "loaded")

    def __init__(self, backends: AnswersQuestions) -> None:
        self.backends = backends
        self.loaded: tuple[bool, frozenset[str]] | None = None  # for a user who was active, or not
        self.contributions: Contributions | None = None
        self.is_active = False  # of the user, when `contributions` were made

    def __deepcopy__(self, memo: object) -> "Answers":
        return self

    def __reduce__(self) -> tuple[type["LostAnswers"], tuple[()]]:
        return LostAnswers, ()

    def has_perm(self, user: AnyUser, perm: str) -> bool:
        return bool(self.backends.run(self, self.backends.has_perm, user, perm))

    def has_module_perms(self, user: AnyUser, app_label: str) -> bool:
        return bool(self.backends.run(self, self.backends.has_module_perms, user, app_label))

    def get_all_permissions(self, user: AnyUser) -> frozenset[str]:
        perms_left: frozenset[str] = self.backends.run(self, self.backends.get_all_permissions, user)
        return perms_left

    def without_denied(self, user: AnyUser, perms: frozenset[str]) -> frozenset[str]:
        perms_left: frozenset[str] = self.backends.run(self, self.backends.without_denied, user, perms)
        return perms_left

    def forget(self) -> None:
        """Asks `permissions` and `denies` again: a field of the user has changed."""
        self.contributions = None


class LostAnswers:
    """Stands for the answers of the backends in a user that was pickled: backends cannot be pickled."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        raise ImproperlyConfigured(
            "This user was pickled, and what the backends say about permissions was lost. Keep the user's id instead, "
            "and read the user with `await auth.users.get(id)`."
        )

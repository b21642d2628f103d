"""How the methods of a backend that are about permissions are called, and what they may return."""

import contextlib
import inspect
from collections.abc import Callable, Collection, Iterable, Iterator
from contextvars import ContextVar
from typing import Any, NamedTuple

from ...core.concurrency import WouldWait
from ...core.exceptions import ImproperlyConfigured
from ...users.models import AnonymousUser, User
from ...users.queries import Question
from ..base import AuthenticationBackend, has_stored_perm

AnyUser = User | AnonymousUser
_in_progress: ContextVar[frozenset[tuple[object, ...]]] = ContextVar("questions_in_progress", default=frozenset())


class Contributions(NamedTuple):
    granted: frozenset[str]
    denied: frozenset[str]


class Attempt:
    """A question that must be answered without waiting."""

    question: tuple[int, str] = (0, "")


attempt_in_progress: ContextVar[Attempt | None] = ContextVar("attempt", default=None)


async def ask(
    waited: Collection[tuple[int, str]],
    backend: AuthenticationBackend,
    about: str,
    method: Callable[..., Any],
    *args: Any,
) -> Any:
    """Returns the answer of a method that may be async or not.

    Raises WouldWait if the answer is needed at once, and `waited` says that the backend waited before. It is not tried
    again, because a query whose result is dropped still takes a connection to the database.
    """
    attempt = attempt_in_progress.get()
    if attempt is not None:
        attempt.question = (id(backend), about)
        if attempt.question in waited:
            raise WouldWait
    answer = method(*args)
    return await answer if inspect.isawaitable(answer) else answer


def overrides(backend: AuthenticationBackend, *names: str) -> bool:
    """Returns whether a backend says more than the base class and what is stored in the database."""
    return any(
        getattr(type(backend), name) not in (getattr(AuthenticationBackend, name), has_stored_perm) for name in names
    )


def require_sync(backend: AuthenticationBackend, *names: str) -> None:
    for name in names:
        method = getattr(backend, name)
        if not callable(method) or inspect.iscoroutinefunction(method):
            raise ImproperlyConfigured(
                f"{type(backend).__name__}.{name}() is called, without await. Write it as a method with `def`, and "
                "override load_permissions() for what has to be awaited."
            )


def permission_names(backend: AuthenticationBackend, method: str, names: Any) -> frozenset[str]:
    place = f"{type(backend).__name__}.{method}()"
    if isinstance(names, (str, bytes)) or not isinstance(names, Iterable):
        raise ImproperlyConfigured(f'{place} returned {names!r}. Return a list, as in ["polls.add_vote"].')
    perms: frozenset[str] = frozenset(names)
    for name in perms:
        # A denial of "polls.*" would deny nothing, because permissions are compared as they are.
        if not isinstance(name, str) or "." not in name or name.endswith("*"):
            raise ImproperlyConfigured(
                f"{place} returned {name!r}, which is not a permission. Write app.codename, as in 'polls.add_vote', "
                "and each permission by its name."
            )
    return perms


@contextlib.contextmanager
def asking(asked: object, user: AnyUser, *question: object) -> Iterator[bool]:
    """Yields whether the question is not being asked already, while the block asks it.

    A backend may call `user.has_perm()` in its methods. The same question is then not put to that backend again.
    """
    questions = _in_progress.get()
    key = (id(asked), id(user), *(part if isinstance(part, str) else id(part) for part in question))
    token = _in_progress.set(questions | {key})
    try:
        yield key not in questions
    finally:
        _in_progress.reset(token)


def arguments_of(question: Question) -> tuple[Any, ...]:
    """Returns the arguments of `with_perm`: a permission, and the object if there is one."""
    return (question.perm,) if question.obj is None else (question.perm, question.obj)


def lists_holders(backend: AuthenticationBackend, question: Question) -> bool:
    """Returns whether a backend lists the users who have a permission."""
    return overrides(backend, "with_perm") and backend.lists_holders(*arguments_of(question))

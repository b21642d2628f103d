"""What the backends of an `Auth` say about permissions, beside those in the database."""

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Sequence
from typing import Any, Protocol, TypeVar

from starlette.requests import HTTPConnection

from ..core.concurrency import WouldWait, is_in_loop, run_now, run_without_waiting
from ..core.exceptions import ImproperlyConfigured, PermissionDenied
from ..core.text import require_text
from ..users.models import User, require_person
from ..users.permission_checks import require_perm, require_several
from ..users.queries import Question
from .base import AuthenticationBackend, has_stored_perm
from .contributions import (
    AnyUser,
    Attempt,
    Contributions,
    arguments_of,
    ask,
    asking,
    attempt_in_progress,
    lists_holders,
    overrides,
    permission_names,
    require_sync,
)

T = TypeVar("T")


class HasBackends(Protocol):
    """An `Auth`."""

    @property
    def backends(self) -> Sequence[AuthenticationBackend]: ...


class BackendPermissions:
    """Asks the backends about permissions.

    A permission counts if the database or any backend grants it, and no backend denies it. Active superusers have all.
    Only backends that override a method for permissions are asked. If there are none, `are_asked` is False, and a
    request does no more than read it. `known` are the backends for which that is so; the list of an `Auth` may change.
    """

    def __init__(self, owner: HasBackends) -> None:
        self.owner = owner
        self.known: Sequence[AuthenticationBackend] = ()
        self._waited: set[tuple[int, str]] = set()  # questions for which a backend had to wait in the event loop
        self.update()

    def update(self) -> None:
        """Finds the backends to ask, if the backends of the `Auth` have changed."""
        backends = self.owner.backends
        if backends == self.known:
            return
        self._contributors = [backend for backend in backends if overrides(backend, "permissions", "denies")]
        self._loaders = [backend for backend in backends if overrides(backend, "load_permissions")]
        self._judges = [backend for backend in backends if overrides(backend, "has_perm")]
        self._module_judges = [backend for backend in backends if overrides(backend, "has_module_perms")]
        self._granters = [
            backend for backend in backends if overrides(backend, "permissions", "load_permissions", "has_perm")
        ]
        self.are_asked = bool(self._contributors or self._loaders or self._judges or self._module_judges)
        # What a backend contributes or denies without waiting may depend on what it has loaded for the user.
        self._loads_first = any(backend in self._contributors for backend in self._loaders)
        for backend in self._contributors:
            require_sync(backend, "permissions", "denies")
        for backend in self._module_judges:
            require_sync(backend, "has_module_perms")
        self.known = backends[:]
        self._waited.clear()

    @property
    def may_grant(self) -> bool:
        """Whether a backend may grant permissions that are not in the database."""
        return bool(self._granters)

    def bind(self, user: AnyUser) -> None:
        """Makes the methods of `user` ask the backends."""
        self.update()
        user.backend_answers = Answers(self) if self.are_asked else None

    async def load(self, conn: HTTPConnection | None, user: AnyUser) -> None:
        """Makes the methods of `user` ask the backends, and awaits `load_permissions`. Call it once per request."""
        self.bind(user)
        if isinstance(user.backend_answers, Answers):
            await self._load(conn, user, user.backend_answers)

    async def has_perm(self, user: AnyUser, perm: str, obj: object = None) -> bool:
        """Returns whether a user has a permission, on one object if `obj` is given."""
        require_person(user)
        require_perm(perm)
        self.update()
        if user.is_active and user.is_superuser:
            return True
        is_stored = obj is None and user.has_stored_perm(perm)
        return await self._decide(user, perm, obj, is_granted=is_stored) if self.are_asked else is_stored

    async def has_perms(self, user: AnyUser, perms: Iterable[str]) -> bool:
        """Returns whether a user has all of `perms`. Raises ValueError unless `perms` is an iterable."""
        require_several(perms)
        for perm in perms:
            if not await self.has_perm(user, perm):
                return False
        return True

    async def get_all_permissions(self, user: AnyUser) -> frozenset[str]:
        """Returns the permissions that are stored or contributed, and not denied."""
        loaded = await self._loaded(user)
        granted = (await self._contributions(user)).granted
        return await self.without_denied(user, user.stored_permissions | granted | loaded)

    async def has_module_perms(self, user: AnyUser, app_label: str) -> bool:
        """Returns whether a user has any permission of an application."""
        if user.is_active and user.is_superuser:
            return True
        perms = await self.get_all_permissions(user)
        return any(perm.startswith(f"{app_label}.") for perm in perms) or any(
            backend.has_module_perms(user, app_label) for backend in self._module_judges
        )

    async def without_denied(self, user: AnyUser, perms: frozenset[str]) -> frozenset[str]:
        """Returns `perms` without those that a backend denies."""
        if user.is_active and user.is_superuser:
            return perms
        perms -= (await self._contributions(user)).denied
        if not self._judges:
            return perms
        return frozenset([perm for perm in perms if await self._decide(user, perm, None, is_granted=True)])

    def asks_database(self, path: str | None) -> bool:
        """Returns whether permissions in the database count for the backend with this path, or for all.

        Raises ValueError if no backend has the path, and TypeError if it is not text.
        """
        if path is None:
            return True
        require_text(path, "backend")
        paths = {backend.path: backend for backend in self.known}
        if path not in paths:
            raise ValueError(f"There is no backend {path!r}. Pass one of these: {', '.join(sorted(paths))}.")
        return type(paths[path]).has_perm is has_stored_perm

    async def find_users(
        self, question: Question, stored: Sequence[User], all_users: Callable[[], AsyncIterator[User]]
    ) -> list[User]:
        """Returns the users who have a permission: those of `stored`, to whom the database grants it, and others."""
        users, (perm, is_active, path, obj) = list(stored), question
        if self._contributors or self._judges:
            users = [
                user for user in stored if user.is_superuser or await self._decide(user, perm, None, is_granted=True)
            ]
        found = {user.id for user in stored}
        granters, is_listed = self._granters, False
        if path is not None:
            granters = [backend for backend in self.known if backend.path == path]
            is_listed = all(lists_holders(backend, question) for backend in granters)
        async for user in self._candidates(granters, question, all_users):
            if user.id in found or is_active not in (None, user.is_active):
                continue
            found.add(user.id)
            is_granted = is_listed or (path is not None and await self._grants(granters, user, perm, obj))
            if (is_granted or path is None) and await self._decide(user, perm, obj, is_granted=is_granted):
                users.append(user)
        return sorted(users, key=lambda user: user.id)

    async def _candidates(
        self,
        granters: Sequence[AuthenticationBackend],
        question: Question,
        all_users: Callable[[], AsyncIterator[User]],
    ) -> AsyncIterator[User]:
        if not all(lists_holders(backend, question) for backend in granters):
            async for user in all_users():
                yield user
            return
        for backend in granters:
            with_perm: Callable[..., Awaitable[Iterable[User]]] = backend.with_perm
            for user in await with_perm(*arguments_of(question)):
                yield user

    async def _grants(self, backends: Sequence[AuthenticationBackend], user: AnyUser, perm: str, obj: object) -> bool:
        """Returns whether one of these backends grants a permission. Other backends are not asked."""
        for backend in backends:
            with contextlib.suppress(PermissionDenied):
                if await ask(self._waited, backend, perm, backend.has_perm, user, perm, obj):
                    return True
            if obj is not None:
                continue
            loaded = await ask(self._waited, backend, "", backend.load_permissions, None, user)
            if perm in permission_names(backend, "load_permissions", loaded):
                return True
            if perm in permission_names(backend, "permissions", backend.permissions(user)):
                return True
        return False

    async def _decide(self, user: AnyUser, perm: str, obj: object, *, is_granted: bool) -> bool:
        contributions = await self._contributions(user)
        if perm in contributions.denied:
            return False
        is_granted = is_granted or (obj is None and perm in contributions.granted)
        try:
            for backend in self._judges:
                with asking(backend, user, perm, obj) as is_first:
                    # Every backend is asked, because a later one may deny what an earlier one grants.
                    if is_first and await ask(self._waited, backend, perm, backend.has_perm, user, perm, obj):
                        is_granted = True
        except PermissionDenied:
            return False
        return is_granted or (obj is None and perm in await self._loaded(user))

    async def _contributions(self, user: AnyUser) -> Contributions:
        answers = self._answers(user)
        if self._loads_first:
            await self._loaded(user)
        if answers.contributions is not None and answers.is_active == user.is_active:
            return answers.contributions
        granted, denied, is_complete = set[str](), set[str](), True
        for backend in self._contributors:
            with asking(backend, user) as is_first:
                is_complete = is_complete and is_first
                if is_first:
                    granted |= permission_names(backend, "permissions", backend.permissions(user))
                    denied |= permission_names(backend, "denies", backend.denies(user))
        contributions = Contributions(frozenset(granted), frozenset(denied))
        if is_complete:
            answers.is_active, answers.contributions = user.is_active, contributions
        return contributions

    async def _loaded(self, user: AnyUser) -> frozenset[str]:
        answers = self._answers(user)
        if self._loaders and answers.loaded is None:
            await self._load(None, user, answers)
        # What was loaded for an active user does not count when the account was deactivated meanwhile.
        was_active, names = answers.loaded or (user.is_active, frozenset())
        return names if was_active == user.is_active else frozenset()

    async def _load(self, conn: HTTPConnection | None, user: AnyUser, answers: "Answers") -> None:
        names: set[str] = set()
        with asking(self, user) as is_first:
            if not is_first:
                return
            for backend in self._loaders:
                loaded = await ask(self._waited, backend, "", backend.load_permissions, conn, user)
                names |= permission_names(backend, "load_permissions", loaded)
        answers.loaded, answers.contributions = (user.is_active, frozenset(names)), None

    def _answers(self, user: AnyUser) -> "Answers":
        answers = user.backend_answers
        if isinstance(answers, Answers):
            # A user of another `Auth` keeps the answers of its backends.
            return answers if answers.backends is self else Answers(self)
        user.backend_answers = answers = Answers(self)
        return answers

    def run(self, answers: "Answers", function: Callable[..., Coroutine[Any, Any, T]], *args: Any) -> T:
        """Returns the result of one of the methods above at once. Raises ImproperlyConfigured if a backend waits."""
        self.update()
        if not self._judges and (answers.loaded is not None or not self._loaders):
            return run_without_waiting(function(*args))
        attempt = Attempt() if is_in_loop() else None
        token = attempt_in_progress.set(attempt)
        try:
            return run_now(function, *args)
        except WouldWait:
            if attempt is not None:
                self._waited.add(attempt.question)
        finally:
            attempt_in_progress.reset(token)
        paths = sorted({backend.path for backend in (*self._judges, *self._loaders)})
        raise ImproperlyConfigured(
            f"A backend waits before it answers about a permission ({', '.join(paths)}), and this method of the user "
            "cannot wait. Ask `await auth.has_perm(user, perm)`, or let the backend override load_permissions() for "
            "what it grants and denies() for what it denies; an override of has_perm() for single objects begins with "
            "`if obj is None: return False`. A user who was not identified in this request has to be asked about with "
            "`await auth.has_perm(…)` first."
        )


class Answers:
    """What the backends say about one user. It is kept with the user object, which asks it."""

    __slots__ = ("backends", "contributions", "is_active", "loaded")

    def __init__(self, backends: BackendPermissions) -> None:
        self.backends = backends
        self.loaded: tuple[bool, frozenset[str]] | None = None  # for a user who was active, or not
        self.contributions: Contributions | None = None
        self.is_active = False  # of the user, when `contributions` were made

    def __deepcopy__(self, memo: object) -> "Answers":
        return self

    def __reduce__(self) -> tuple[type["LostAnswers"], tuple[()]]:
        return LostAnswers, ()

    def has_perm(self, user: AnyUser, perm: str) -> bool:
        return self.backends.run(self, self.backends.has_perm, user, perm)

    def has_module_perms(self, user: AnyUser, app_label: str) -> bool:
        return self.backends.run(self, self.backends.has_module_perms, user, app_label)

    def get_all_permissions(self, user: AnyUser) -> frozenset[str]:
        return self.backends.run(self, self.backends.get_all_permissions, user)

    def without_denied(self, user: AnyUser, perms: frozenset[str]) -> frozenset[str]:
        return self.backends.run(self, self.backends.without_denied, user, perms)

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

"""What the backends of an `Auth` say about permissions, beside those in the database."""

from collections.abc import Callable, Coroutine, Iterable, Sequence
from typing import Any, Protocol, TypeVar

from starlette.requests import HTTPConnection

from ...core.clock import Clock
from ...core.concurrency import WouldWait, is_in_loop, run_now, run_without_waiting
from ...core.exceptions import ImproperlyConfigured, PermissionDenied
from ...sessions.store import SessionStore
from ...users.models import require_person
from ...users.permission_checks import require_perm, require_several
from ...users.users import Users
from ..base import AuthenticationBackend
from .answers import Answers
from .cache import find_cached, keep, require_seconds
from .contributions import (
    AnyUser,
    Attempt,
    Contributions,
    ask,
    asking,
    attempt_in_progress,
    overrides,
    permission_names,
    require_sync,
)
from .holders import FindsHolders
from .roles import Roles

T = TypeVar("T")


class HasBackends(Protocol):
    """An `Auth`."""

    @property
    def backends(self) -> Sequence[AuthenticationBackend]: ...

    @property
    def users(self) -> Users[Any]: ...

    @property
    def sessions(self) -> SessionStore: ...

    @property
    def clock(self) -> Clock: ...


class BackendPermissions(FindsHolders):
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
        self._perm_checkers = [backend for backend in backends if overrides(backend, "has_perm")]
        self._module_checkers = [backend for backend in backends if overrides(backend, "has_module_perms")]
        self._granters = [
            backend for backend in backends if overrides(backend, "permissions", "load_permissions", "has_perm")
        ]
        self.are_asked = bool(self._contributors or self._loaders or self._perm_checkers or self._module_checkers)
        # What a backend contributes or denies without waiting may depend on what it has loaded for the user.
        self._loads_first = any(backend in self._contributors for backend in self._loaders)
        for backend in self._contributors:
            require_sync(backend, "permissions", "denies")
        for backend in self._module_checkers:
            require_sync(backend, "has_module_perms")
        for backend in self._loaders:
            require_seconds(backend)
        all_roles = [backend for backend in backends if isinstance(backend, Roles)]
        for roles in all_roles:
            roles.require_attached(self.owner.users)
        self._unprepared = [roles for roles in all_roles if not roles.is_prepared]
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

    async def prepare(self) -> None:
        """Reads which permissions there are, if `Roles` need it. `lifespan` calls this at the start."""
        self.update()
        for roles in self._unprepared:
            await ask(self._waited, roles, "", roles.prepare)
        self._unprepared = [roles for roles in self._unprepared if not roles.is_prepared]

    async def load(self, conn: HTTPConnection | None, user: AnyUser) -> None:
        """Makes the methods of `user` ask the backends, and awaits `load_permissions`. Call it once per request."""
        self.bind(user)
        if self._unprepared:
            await self.prepare()
        if isinstance(user.backend_answers, Answers):
            await self._load(conn, user, user.backend_answers)

    async def has_perm(self, user: AnyUser, perm: str, obj: object = None) -> bool:
        """Returns whether a user has a permission, on one object if `obj` is given."""
        require_person(user)
        require_perm(perm)
        self.update()
        if user.is_out_of_scope(perm):
            return False
        if user.is_active and user.is_superuser:
            return True
        is_stored = obj is None and user.has_stored_perm(perm)
        return await self._decide(user, perm, obj, is_granted=is_stored) if self.are_asked else is_stored

    async def verdict(self, user: AnyUser, perm: str, obj: object = None) -> bool | None:
        """Returns whether a permission is granted, on one object if `obj` is given; None if a backend or a token denies it.

        The caller must not ask about active superusers, who have all permissions.
        """
        self.update()
        if user.is_out_of_scope(perm):
            return None
        is_stored = obj is None and user.has_stored_perm(perm)
        return await self._find_verdict(user, perm, obj, is_granted=is_stored) if self.are_asked else is_stored

    def verdict_now(self, user: AnyUser, perm: str) -> bool | None:
        """Returns what `verdict` returns, at once. Raises ImproperlyConfigured if a backend waits."""
        self.update()
        if user.is_out_of_scope(perm):
            return None
        if not self.are_asked:
            return user.has_stored_perm(perm)
        verdict: bool | None = self.run(self._answers(user), self.verdict, user, perm)
        return verdict

    def overriders_of_has_perm(self) -> list[str]:
        """Returns the names of the classes of backends that override `has_perm`, which may decide about single objects."""
        self.update()
        return [type(backend).__name__ for backend in self._perm_checkers]

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
        return await self.without_denied(user, user.within_scopes(user.stored_permissions | granted | loaded))

    async def has_module_perms(self, user: AnyUser, app_label: str) -> bool:
        """Returns whether a user has any permission of an application."""
        if user.is_active and user.is_superuser:
            return True
        perms = await self.get_all_permissions(user)
        module_checkers = self._module_checkers if user.token_scopes is None else []
        return any(perm.startswith(f"{app_label}.") for perm in perms) or any(
            backend.has_module_perms(user, app_label) for backend in module_checkers
        )

    async def without_denied(self, user: AnyUser, perms: frozenset[str]) -> frozenset[str]:
        """Returns `perms` without those that a backend denies."""
        if user.is_active and user.is_superuser:
            return perms
        perms -= (await self._contributions(user)).denied
        if not self._perm_checkers:
            return perms
        return frozenset([perm for perm in perms if await self._decide(user, perm, None, is_granted=True)])

    async def _decide(self, user: AnyUser, perm: str, obj: object, *, is_granted: bool) -> bool:
        return bool(await self._find_verdict(user, perm, obj, is_granted=is_granted))

    async def _find_verdict(self, user: AnyUser, perm: str, obj: object, *, is_granted: bool) -> bool | None:
        contributions = await self._contributions(user)
        if perm in contributions.denied:
            return None
        is_granted = is_granted or (obj is None and perm in contributions.granted)
        try:
            for backend in self._perm_checkers:
                with asking(backend, user, perm, obj) as is_first:
                    # Every backend is asked, because a later one may deny what an earlier one grants.
                    if is_first and await ask(self._waited, backend, perm, backend.has_perm, user, perm, obj):
                        is_granted = True
        except PermissionDenied:
            return None
        return is_granted or (obj is None and perm in await self._loaded(user))

    async def _contributions(self, user: AnyUser) -> Contributions:
        if self._unprepared:
            await self.prepare()
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
                cached = find_cached(self.owner, backend, conn, user)
                if cached is None:
                    loaded = await ask(self._waited, backend, "", backend.load_permissions, conn, user)
                    cached = permission_names(backend, "load_permissions", loaded)
                    keep(self.owner, backend, conn, user, cached)
                names |= cached
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
        if not (self._perm_checkers or self._unprepared) and (answers.loaded is not None or not self._loaders):
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
        paths = sorted({backend.path for backend in (*self._perm_checkers, *self._loaders, *self._unprepared)})
        raise ImproperlyConfigured(
            f"A backend waits before it answers about a permission ({', '.join(paths)}), and this method of the user "
            "cannot wait. Ask `await auth.has_perm(user, perm)`, or let the backend override load_permissions() for "
            "what it grants and denies() for what it denies; an override of has_perm() for single objects begins with "
            "`if obj is None: return False`. A user who was not identified in this request has to be asked about with "
            "`await auth.has_perm(…)` first."
        )

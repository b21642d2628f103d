"""Which users have a permission, by what backends say?"""

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence

from ...core.exceptions import PermissionDenied
from ...core.text import require_text
from ...users.models import User
from ...users.queries import Question
from ..base import AuthenticationBackend, has_stored_perm
from .contributions import AnyUser, arguments_of, ask, lists_holders, overrides, permission_names


class FindsHolders:
    """Provides the methods of `BackendPermissions` for `Users.with_perm`."""

    known: Sequence[AuthenticationBackend]
    _contributors: Sequence[AuthenticationBackend]
    _perm_checkers: Sequence[AuthenticationBackend]
    _granters: Sequence[AuthenticationBackend]
    _waited: set[tuple[int, str]]

    async def _decide(self, user: AnyUser, perm: str, obj: object, *, is_granted: bool) -> bool:
        raise NotImplementedError

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
        if self._contributors or self._perm_checkers:
            users = [
                user for user in stored if user.is_superuser or await self._decide(user, perm, None, is_granted=True)
            ]
        found = {user.id for user in stored}
        granters, is_listed = self._granters, False
        if path is not None:
            methods = ("permissions", "load_permissions", "has_perm", "with_perm")
            granters = [backend for backend in self.known if backend.path == path and overrides(backend, *methods)]
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

"""Questions about the permissions of one user."""

import json
from collections.abc import Iterable
from typing import Any, Protocol

from ..core.arguments import describe
from ..core.text import require_text


class BackendAnswers(Protocol):
    """What authentication backends say about the permissions of one user. The methods cannot wait."""

    def has_perm(self, user: Any, perm: str) -> bool: ...

    def has_module_perms(self, user: Any, app_label: str) -> bool: ...

    def get_all_permissions(self, user: Any) -> frozenset[str]: ...

    def without_denied(self, user: Any, perms: frozenset[str]) -> frozenset[str]: ...

    def forget(self) -> None: ...


class PermissionsMixin:
    """Answers questions about permissions in memory, from what was read with the user and what backends say."""

    is_active: bool
    is_superuser: bool
    permission_json: tuple[str | None, str | None] = (None, None)
    group_json: str | None = None
    backend_answers: BackendAnswers | None = None  # None where no backend says anything about permissions
    token_scopes: frozenset[str] | None = None  # the permissions to which an API token limits its user

    _parsed_permissions: tuple[frozenset[str], frozenset[str]] | None = None

    @property
    def _permission_sets(self) -> tuple[frozenset[str], frozenset[str]]:
        """Returns the direct permissions and those of groups. For a superuser both are all existing permissions."""
        parsed = self._parsed_permissions
        if parsed is None:
            direct_json, group_json = self.permission_json
            direct = _parse_names(direct_json)
            parsed = direct, direct if self.is_superuser else _parse_names(group_json)
            self._parsed_permissions = parsed
        return parsed

    @property
    def stored_permissions(self) -> frozenset[str]:
        """The permissions of an active user in the database, without regard to backends."""
        direct, through_groups = self._permission_sets
        return self.within_scopes(direct | through_groups) if self.is_active else frozenset()

    @property
    def stored_groups(self) -> frozenset[str]:
        """The names of the user's groups in the database. They are read only for an `Auth` with `Roles`."""
        return _parse_names(self.group_json)

    def is_out_of_scope(self, perm: str) -> bool:
        """Returns whether the request of this user has a token whose scopes do not contain a permission."""
        return self.token_scopes is not None and perm not in self.token_scopes

    def within_scopes(self, perms: frozenset[str]) -> frozenset[str]:
        """Returns those of `perms` that the token of the request allows; all of them without a token."""
        return perms if self.token_scopes is None else perms & self.token_scopes

    def has_stored_perm(self, perm: str) -> bool:
        """Returns what `has_perm` returns where no backend says anything about permissions."""
        require_perm(perm)
        if self.is_out_of_scope(perm):
            return False
        if not self.is_active or self.is_superuser:
            return self.is_active
        direct, through_groups = self._permission_sets
        return perm in through_groups or perm in direct

    def get_user_permissions(self) -> frozenset[str]:
        """Returns the permissions granted directly to the user; for a superuser, all existing permissions."""
        direct = self.within_scopes(self._permission_sets[0]) if self.is_active else frozenset()
        return direct if self.backend_answers is None else self.backend_answers.without_denied(self, direct)

    def get_group_permissions(self) -> frozenset[str]:
        """Returns the permissions of the user's groups; for a superuser, all existing permissions."""
        of_groups = self.within_scopes(self._permission_sets[1]) if self.is_active else frozenset()
        return of_groups if self.backend_answers is None else self.backend_answers.without_denied(self, of_groups)

    def get_all_permissions(self) -> frozenset[str]:
        """Returns the permissions of the user, of the user's groups, and those that backends contribute."""
        if self.backend_answers is not None:
            return self.within_scopes(self.backend_answers.get_all_permissions(self))
        return self.stored_permissions

    def has_perm(self, perm: str) -> bool:
        """Returns whether the user has the permission `"app.codename"`.

        An active superuser has every permission, even one that does not exist. Inactive users and visitors have those
        that a backend gives them. Raises ImproperlyConfigured if a backend would have to wait for its answer.
        """
        if self.backend_answers is not None:
            require_perm(perm)
            return not self.is_out_of_scope(perm) and self.backend_answers.has_perm(self, perm)
        return self.has_stored_perm(perm)

    def has_perms(self, perms: Iterable[str]) -> bool:
        """Returns whether the user has all of `perms`. Raises ValueError unless `perms` is an iterable."""
        require_several(perms)
        return all(map(self.has_perm, perms))

    def has_module_perms(self, app_label: str) -> bool:
        """Returns whether the user has any permission of the application `app_label`."""
        require_text(app_label, "app_label")
        if self.token_scopes is not None:
            return any(perm.startswith(f"{app_label}.") for perm in self.get_all_permissions())
        if self.backend_answers is not None:
            return self.backend_answers.has_module_perms(self, app_label)
        if not self.is_active:
            return False
        return self.is_superuser or any(perm.startswith(f"{app_label}.") for perm in self.stored_permissions)


def require_perm(perm: object) -> None:
    """Raises TypeError unless the name of a permission is text."""
    if not isinstance(perm, str):
        raise TypeError(
            f"The name of a permission is text, and this is {describe(perm)}. Pass 'polls.add_vote', or "
            "permission.user_perm_str; for several permissions, call has_perms()."
        )


def require_several(perms: object) -> None:
    """Raises ValueError unless `perms` is an iterable other than a text, as Django does."""
    if isinstance(perms, (str, bytes)) or not isinstance(perms, Iterable):
        raise ValueError("has_perms() takes several permissions. Pass a list, or use has_perm().")


def _parse_names(names_json: str | None) -> frozenset[str]:
    return frozenset(json.loads(names_json)) if names_json and names_json != "[]" else frozenset()

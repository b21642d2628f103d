"""Questions about the permissions of one user."""

import json
from collections.abc import Iterable


class PermissionsMixin:
    """Answers questions about permissions in memory, from what was read with the user."""

    is_active: bool
    is_superuser: bool
    permission_json: tuple[str | None, str | None] = (None, None)

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

    def get_user_permissions(self) -> frozenset[str]:
        """Returns the permissions granted directly to the user; for a superuser, all existing permissions."""
        return self._permission_sets[0] if self.is_active else frozenset()

    def get_group_permissions(self) -> frozenset[str]:
        """Returns the permissions of the user's groups; for a superuser, all existing permissions."""
        return self._permission_sets[1] if self.is_active else frozenset()

    def get_all_permissions(self) -> frozenset[str]:
        return self.get_user_permissions() | self.get_group_permissions()

    def has_perm(self, perm: str) -> bool:
        """Returns whether an active user has the permission `"app.codename"`.

        An active superuser has every permission, even one that does not exist. An inactive user has none.
        """
        if not self.is_active or self.is_superuser:
            return self.is_active
        direct, through_groups = self._permission_sets
        return perm in through_groups or perm in direct

    def has_perms(self, perms: Iterable[str]) -> bool:
        """Returns whether the user has all of `perms`. Raises ValueError for a single string."""
        if isinstance(perms, str):
            raise ValueError("has_perms() takes several permissions. Pass a list, or use has_perm().")
        return all(map(self.has_perm, perms))

    def has_module_perms(self, app_label: str) -> bool:
        """Returns whether the user has any permission of the application `app_label`."""
        if not self.is_active:
            return False
        return self.is_superuser or any(perm.startswith(f"{app_label}.") for perm in self.get_all_permissions())


def _parse_names(names_json: str | None) -> frozenset[str]:
    return frozenset(json.loads(names_json)) if names_json and names_json != "[]" else frozenset()

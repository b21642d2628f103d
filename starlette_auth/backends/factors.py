"""What users can prove besides their password: the factors and the ways to log in that features add."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from starlette.requests import HTTPConnection

from ..core.text import is_usable
from ..security.throttle import Throttle
from ..security.throttling.descriptions import describe_rates
from ..users.models import User
from .login_methods import EMAIL, PASSWORD
from .ways import Way


class Factor:
    """A kind of proof besides the password, such as the codes of an authenticator app.

    `Feature.factors` returns those of a feature. The login step `second_factor`, the step-up and the page
    `reauthenticate` offer the factors that the user has.
    """

    #: The names of the login methods that `check` returns.
    methods: tuple[str, ...] = ()
    #: The form fields whose content `check` takes.
    fields: tuple[str, ...] = ()
    #: Whether a login with a password asks each user who has the factor for a second step.
    is_asked = True
    #: Whether it proves alone who the user is. `reauthenticate` takes it in place of the password, and second steps do not.
    is_way_in = False
    #: The name of the page on which a user adds this factor; "" if there is none.
    page = ""

    async def is_set_up(self, user: User) -> bool:
        """Returns whether the user has this factor."""
        raise NotImplementedError

    async def offer(self, request: HTTPConnection, user: User) -> Mapping[str, Any]:
        """Returns the login methods that the user can prove now, the preferred one first; none without the factor.

        The values are what the page and JSON clients need for the method, such as the options of a passkey, or None.
        """
        raise NotImplementedError

    async def check(self, request: HTTPConnection, user: User, field: str, value: str) -> str | None:
        """Returns the method that the content of the form field proves, and uses it up; None if it is wrong.

        Raises ValidationError, with a message for the visitor, if the content cannot be checked at all.
        """
        raise NotImplementedError

    def error(self, field: str) -> str:
        """Returns the message for a wrong value, in the visitor's language."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class StoredFactor:
    """A factor of a user as the database has it. Times are in seconds since 1970, UTC.

    `method` is the login method, such as "totp", and `label` the name that the user gave, or "".
    """

    method: str
    label: str
    created: int
    last_used: int | None


class ProvidesLogins:
    """The part of a feature that adds ways to log in. `Feature` inherits it."""

    def factors(self) -> Sequence[Factor]:
        """Returns the factors that the feature adds."""
        return ()

    async def ways_in(self, user: User) -> Sequence[str]:
        """Returns the ways of this feature by which the user can log in now, such as "passkey"."""
        return ()

    def describe(self) -> Sequence[Way]:
        """Returns the ways to log in and the second factors of this feature, for `auth.describe()`."""
        return ()

    async def list_factors(self, user: User) -> Sequence[StoredFactor]:
        """Returns what the database has of the user's factors, for the command line and the page `security`."""
        return ()

    async def remove_factors(self, user: User, *, since: int = 0, method: str | None = None) -> Sequence[StoredFactor]:
        """Deletes the factors of a user that were made at `since` or later, and returns them.

        `method` limits it to the factors of one login method. It runs in the transaction of the caller, who emits the
        events and ends sessions.
        """
        return ()

    def awaits_address(self, user: User) -> bool:
        """Returns whether the user has to confirm the e-mail address before adding a factor."""
        return False

    async def reseal(self) -> tuple[int, int]:
        """Seals stored secrets with the newest key. Returns their number, and that of those whose key is lost."""
        return 0, 0

    def login_context(self, request: HTTPConnection) -> Mapping[str, Any]:
        """Returns variables for the template of the login page, such as the options of a passkey."""
        return {}

    async def security_section(self, request: HTTPConnection, user: User) -> tuple[str, Mapping[str, Any]] | None:
        """Returns the template of the feature's section in the page `security`, and its variables; None without one.

        The template begins with a heading <h2>. It also has the variables of `auth_context` and `format_time_since`, a
        function of a time in seconds since 1970.
        """
        return None


class Describes(Protocol):
    """What has a part in `auth.describe()`: each backend and each feature."""

    def describe(self) -> Sequence[Way]: ...


class KnowsFactors:
    """The part of `Auth` that asks all features for the factors of users, and for their ways to log in."""

    backends: Sequence[Describes]
    features: Sequence[ProvidesLogins]
    login_after_reset: bool
    throttle: Throttle

    @property
    def stores_factors(self) -> bool:
        """Returns whether a feature lists factors of users."""
        return any(type(feature).list_factors is not ProvidesLogins.list_factors for feature in self.features)

    def factors(self) -> list[Factor]:
        """Returns the factors of all features."""
        return [factor for feature in self.features for factor in feature.factors()]

    async def has_factor(self, user: User) -> bool:
        """Returns whether the user has a factor that each login asks for."""
        return await self._has_one(user, [factor for factor in self.factors() if factor.is_asked])

    async def has_any_factor(self, user: User) -> bool:
        """Returns whether the user has a factor at all. A passkey is one that no login asks for."""
        return await self._has_one(user, self.factors())

    def awaits_address(self, user: User) -> bool:
        """Returns whether the user has to confirm the e-mail address before adding a factor.

        An attacker registers with the address of another person, and adds a factor. The owner of the address, who resets
        the password by mail, would still be kept out.
        """
        return any(feature.awaits_address(user) for feature in self.features)

    async def ways_in(self, user: User) -> list[str]:
        """Returns the ways by which the user can log in now: "password", and those that features add.

        A login elsewhere, such as that of a reverse proxy, is none of them: this site does not know whether it still works.
        """
        ways = [PASSWORD] if is_usable(user.password) else []
        for feature in self.features:
            ways.extend(await feature.ways_in(user))
        return ways

    async def list_factors(self, user: User) -> list[StoredFactor]:
        """Returns what the database has of the user's factors, of all features."""
        return [factor for feature in self.features for factor in await feature.list_factors(user)]

    async def remove_factors(self, user: User, *, since: int = 0, method: str | None = None) -> list[StoredFactor]:
        """Deletes the factors of a user that were made at `since` or later, of all features, and returns them.

        Call it in a transaction, emit `FactorRemoved` for each, and end the user's sessions.
        """
        removed: list[StoredFactor] = []
        for feature in self.features:
            removed.extend(await feature.remove_factors(user, since=since, method=method))
        return removed

    def describe(self) -> list[Way]:
        """Returns all ways to log in and all second factors of this installation, with their strength and limits.

        It is the list that OWASP ASVS 5.0 §6.1.3 asks for. Login pages of the application are not in it, nor backends
        without `describe`.
        """
        ways = [way for backend in self.backends for way in backend.describe()]
        if self.login_after_reset:
            limits = f"The link works once. {describe_rates(self.throttle, 'password_reset', 'password_reset_mail')}"
            ways.append(Way(name=EMAIL, is_second_factor=False, level=1, phishing_resistant=False, limits=limits))
        return [*ways, *(way for feature in self.features for way in feature.describe())]

    @staticmethod
    async def _has_one(user: User, factors: Sequence[Factor]) -> bool:
        for factor in factors:
            if await factor.is_set_up(user):
                return True
        return False

"""How long does a login last?"""

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from ..core.clock import DAY, HOUR, MINUTE
from ..core.exceptions import ImproperlyConfigured
from ..users.models import User

Preset = Literal["aal1", "aal2", "aal3"]


@dataclass(frozen=True, kw_only=True)
class SessionLimit:
    """How long one login lasts, in seconds: `absolute` in all, `idle` without a request.

    `outlives_browser`: whether the browser keeps the cookie when it closes.
    """

    absolute: int
    idle: int
    persistent: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.idle <= self.absolute:
            raise ImproperlyConfigured(
                f"A login cannot last {self.absolute} seconds in all and {self.idle} idle. "
                "Pass SessionLimit(absolute=…, idle=…), in seconds, the second no longer than the first."
            )

    def at_most(self, other: "SessionLimit") -> "SessionLimit":
        """The stricter of the two, in each respect."""
        return SessionLimit(
            absolute=min(self.absolute, other.absolute),
            idle=min(self.idle, other.idle),
            persistent=self.persistent and other.persistent,
        )


@dataclass(frozen=True, kw_only=True)
class SessionLimits:
    """How long logins last: of who wants to be remembered, of who does not, and of staff, whatever they want."""

    remembered: SessionLimit
    default: SessionLimit
    staff: SessionLimit

    @property
    def offers_remember_me(self) -> bool:
        """Whether it makes a difference to be remembered: the login page asks then."""
        return self.remembered != self.default

    def of(self, user: User, *, is_remembered: bool) -> SessionLimit:
        if user.is_staff or user.is_superuser:
            return self._of_staff[is_remembered]
        return self.remembered if is_remembered else self.default

    @functools.cached_property
    def _of_staff(self) -> tuple[SessionLimit, SessionLimit]:
        return self.default.at_most(self.staff), self.remembered.at_most(self.staff)


AAL2 = SessionLimit(absolute=DAY, idle=HOUR)
AAL3 = SessionLimit(absolute=12 * HOUR, idle=15 * MINUTE)
#: NIST SP 800-63B-4: §2.1.3 wants an end after 30 days at AAL1, and leaves idleness open; §2.2.3 after a day, or an
#: hour idle, at AAL2; §2.3.3 after 12 hours, or a quarter of one idle, at AAL3. We are stricter: idleness counts at AAL1
#: too, who does not want to be remembered is not for long, and after an hour idle a password alone does not bring an
#: AAL2 session back (§2.2.3 allows that): whoever is logged out logs in as at first.
PRESETS: Mapping[Preset, SessionLimits] = {
    "aal1": SessionLimits(
        remembered=SessionLimit(absolute=30 * DAY, idle=14 * DAY, persistent=True),
        default=SessionLimit(absolute=12 * HOUR, idle=2 * HOUR),
        staff=AAL2,
    ),
    "aal2": SessionLimits(remembered=AAL2, default=AAL2, staff=AAL2),
    "aal3": SessionLimits(remembered=AAL3, default=AAL3, staff=AAL3),
}


def session_limits(limits: SessionLimits | Preset) -> SessionLimits:
    """Those that are given, or those of a level of NIST's."""
    if isinstance(limits, SessionLimits):
        return limits
    if limits not in PRESETS:
        raise ImproperlyConfigured(
            f"session_limits={limits!r} is not known. Use {', '.join(PRESETS)} or SessionLimits(…)."
        )
    return PRESETS[limits]

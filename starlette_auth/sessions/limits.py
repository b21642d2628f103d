"""Session timeouts: how long does a login last?"""

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from ..core.arguments import require_bool, require_instance, require_integer, require_text
from ..core.clock import DAY, HOUR, MINUTE
from ..core.exceptions import ImproperlyConfigured
from ..users.models import User

Preset = Literal["aal1", "aal2", "aal3"]


@dataclass(frozen=True, kw_only=True)
class SessionLimit:
    """The timeouts of one login, in seconds.

    `absolute` is the time after the login at which it ends. `idle` is the time without a request after which it ends.
    `persistent`: whether the browser keeps the cookie when it is closed. Raises ImproperlyConfigured unless
    0 < idle <= absolute.
    """

    absolute: int
    idle: int
    persistent: bool = False

    def __post_init__(self) -> None:
        require_integer(self.absolute, "absolute of SessionLimit")
        require_integer(self.idle, "idle of SessionLimit")
        require_bool(self.persistent, "persistent")
        if not 0 < self.idle <= self.absolute:
            raise ImproperlyConfigured(
                f"SessionLimit(absolute={self.absolute}, idle={self.idle}) is not possible. "
                "Pass both in seconds, with 0 < idle <= absolute."
            )

    def at_most(self, other: "SessionLimit") -> "SessionLimit":
        """Returns the stricter limit: the shorter timeouts, and persistent only if both limits are."""
        return SessionLimit(
            absolute=min(self.absolute, other.absolute),
            idle=min(self.idle, other.idle),
            persistent=self.persistent and other.persistent,
        )


@dataclass(frozen=True, kw_only=True)
class SessionLimits:
    """The limits of remembered logins, of other logins, and of staff.

    `staff` applies to users with `is_staff` or `is_superuser`. The stricter value of both limits counts.
    """

    remembered: SessionLimit
    default: SessionLimit
    staff: SessionLimit

    def __post_init__(self) -> None:
        for name in ("remembered", "default", "staff"):
            fix = f"Pass {name}=SessionLimit(absolute=…, idle=…)."
            require_instance(getattr(self, name), SessionLimit, name, fix)

    @property
    def offers_remember_me(self) -> bool:
        """Returns whether the login page shows "remember me": only if it makes a difference."""
        return self.remembered != self.default

    def of(self, user: User, *, is_remembered: bool) -> SessionLimit:
        if user.is_staff or user.is_superuser:
            return self._staff_limits[is_remembered]
        return self.remembered if is_remembered else self.default

    @functools.cached_property
    def _staff_limits(self) -> tuple[SessionLimit, SessionLimit]:
        return self.default.at_most(self.staff), self.remembered.at_most(self.staff)


AAL2 = SessionLimit(absolute=DAY, idle=HOUR)
AAL3 = SessionLimit(absolute=12 * HOUR, idle=15 * MINUTE)
#: The timeouts of NIST SP 800-63B-4. AAL1 (§2.1.3): absolute 30 days, no rule for the idle timeout. AAL2 (§2.2.3):
#: absolute 24 hours, idle 1 hour. AAL3 (§2.3.3): absolute 12 hours, idle 15 minutes. These presets are stricter: AAL1
#: has an idle timeout too, and logins that are not remembered are shorter. §2.2.3 allows an AAL2 session to continue
#: after the idle timeout with only a password; here a full login is required.
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
    """Returns the given limits, or the preset of a NIST level. Raises ImproperlyConfigured for an unknown level."""
    if isinstance(limits, SessionLimits):
        return limits
    fix = f"Use {', '.join(PRESETS)} or SessionLimits(…)."
    require_text(limits, "session_limits", fix)
    if limits not in PRESETS:
        raise ImproperlyConfigured(f"session_limits={limits!r} is not known. {fix}")
    return PRESETS[limits]

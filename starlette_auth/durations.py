"""Spans of time, in words."""

from .translation import gettext, ngettext

MINUTE, HOUR, DAY = 60, 60 * 60, 24 * 60 * 60
TWO_WEEKS = 14 * DAY


def in_words(seconds: int) -> str:
    """ "30 minutes", "2 days": the largest unit that says it in whole numbers."""
    if seconds % DAY == 0:
        days = seconds // DAY
        return ngettext("%(number)d day", "%(number)d days", days) % {"number": days}
    if seconds % HOUR == 0:
        hours = seconds // HOUR
        return ngettext("%(number)d hour", "%(number)d hours", hours) % {"number": hours}
    minutes = -(-seconds // MINUTE)
    return ngettext("%(number)d minute", "%(number)d minutes", minutes) % {"number": minutes}


def ago(seconds: int) -> str:
    """ "3 hours ago": in the largest unit of which there are two, or in minutes."""
    if seconds < MINUTE:
        return gettext("just now")
    if seconds < 2 * HOUR:
        minutes = seconds // MINUTE
        return ngettext("%(number)d minute ago", "%(number)d minutes ago", minutes) % {"number": minutes}
    if seconds < 2 * DAY:
        hours = seconds // HOUR
        return ngettext("%(number)d hour ago", "%(number)d hours ago", hours) % {"number": hours}
    days = seconds // DAY
    return ngettext("%(number)d day ago", "%(number)d days ago", days) % {"number": days}

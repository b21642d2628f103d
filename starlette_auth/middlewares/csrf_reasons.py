"""Why does CSRFMiddleware reject a request?"""

from enum import Enum, auto

from ..core.translation import gettext


class Reason(Enum):
    """Names the reasons for which CSRFMiddleware rejects a request."""

    CROSS_SITE = auto()
    NO_PAGE = auto()
    NO_TOKEN = auto()
    NO_TOKEN_OF_PROGRAM = auto()
    TOKEN_BEHIND_FILE = auto()
    TOO_OLD = auto()

    @property
    def message(self) -> str:
        """Returns the text in the current language: the visitor's, or English for the log."""
        match self:
            case Reason.CROSS_SITE:
                return gettext("This request came from another site.")
            case Reason.NO_PAGE:
                return gettext(
                    "This request does not say which page sent it. Allow the browser to send the header Referer, or send the "
                    "header Origin."
                )
            case Reason.NO_TOKEN:
                return gettext(
                    "This form was sent without its token. Go back, load the page again, and send it once more."
                )
            case Reason.NO_TOKEN_OF_PROGRAM:
                return gettext("The CSRF token is missing. Send the header Origin or X-CSRFToken.")
            case Reason.TOKEN_BEHIND_FILE:
                return gettext(
                    "The CSRF token of this form is missing, or stands behind a file. Put it in front of all other fields, or "
                    "send it in the header X-CSRFToken."
                )
            case Reason.TOO_OLD:
                return gettext("This form is too old. Go back, load the page again, and send it once more.")

    @property
    def hint(self) -> str:
        """Returns further advice for the log, or ""."""
        if self is Reason.NO_TOKEN:
            return " The form needs {{ csrf_input }}, and its Jinja2Templates context_processors=[auth_context]."
        return ""

"""The session of a request with a token, which is never stored."""

from collections.abc import Awaitable, Callable

from .base import SessionBase


class DetachedSession(SessionBase):
    """The empty session of a request with a token. What an application puts into it is not stored.

    A request with a token may come from any program, and has no cookie that could open a stored session later.
    """

    is_in_header = True
    #: Called after the response, for example to record the use of the token; set by a backend.
    after_response: Callable[[], Awaitable[None]] | None = None

    @property
    def modified(self) -> bool:
        return False

    @modified.setter
    def modified(self, value: bool) -> None:
        pass

    @property
    def needs_touch(self) -> bool:
        return self.after_response is not None

    def flush(self) -> None:
        self.clear()

    async def save(self) -> None:
        """Raises RuntimeError: there is no stored session."""
        raise RuntimeError(
            "A request with a token has no session that could be saved. Store its data in a table of the application."
        )

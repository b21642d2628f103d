"""What a login asks for after the first proof, such as a second factor."""

from collections.abc import Awaitable, Callable, Sequence

from starlette.requests import Request
from starlette.responses import Response

from ..users.models import User
from .pending_login import PendingLogin

StepFunction = Callable[[Request, User], Awaitable[Response | None]]


class LoginStep:
    """A step between the first proof of a login and its end: `auth.login_steps.append(…)`.

    Each login asks all steps in their order, and again after each further proof. Its page begins with `pending_login`,
    and ends with `advance`.
    """

    #: The name for programs, and for `pending_login`.
    name = ""

    async def is_needed(self, request: Request, login: PendingLogin) -> bool:
        """Returns whether the login has to pass this step. Decide by `login.methods` and the database only.

        An attacker sends requests in any order, and several at once; therefore no counter may decide.
        """
        raise NotImplementedError

    def url(self, request: Request) -> str:
        """Returns the path of the step's page."""
        raise NotImplementedError

    async def proofs(self, request: Request, login: PendingLogin) -> Sequence[str]:
        """Returns the methods that a whole login notes besides the user's proofs, such as "device".

        A step that was not needed for another reason than the proofs tells that reason so.
        """
        return ()


AnyStep = LoginStep | StepFunction

"""A response that is made when it is sent."""

from collections.abc import Awaitable, Callable

from starlette.responses import Response
from starlette.types import Receive, Scope, Send


class DeferredResponse(Response):
    """Calls `make` when it is sent, and sends what that returns.

    A function that is not async returns it where a response needs the database, a template or the body of the request.
    `status_code` is the expected status.
    """

    def __init__(self, make: Callable[[], Awaitable[Response]], status_code: int = 200) -> None:
        super().__init__(status_code=status_code)
        self.make = make

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        response = await self.make()
        await response(scope, receive, send)

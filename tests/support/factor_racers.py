"""A process that uses one code or challenge many times at the same moment: `python -m tests.support.factor_racers JOB`.

JOB is JSON: the URL of the database, the time, which of RACES runs, its arguments, and the number of uses. The process
writes "ready", waits for a line, runs all uses at once, and writes how many of them succeeded.
"""

import asyncio
import json
import sys
from typing import Any

from starlette_auth import Auth, TwoFactor, User
from starlette_auth.security.webauthn.challenges import Challenges
from starlette_auth.testing import FrozenClock

from .databases import SECRET_KEY, connected, weak_passwords


async def use_totp(auth: Auth, user: User, code: str) -> bool:
    return await _feature(auth).store.use_totp(user, code)


async def use_recovery_code(auth: Auth, user: User, code: str) -> bool:
    return await _feature(auth).store.use_recovery_code(user, code)


async def use_challenge(auth: Auth, user: User, challenge: str) -> bool:
    return await Challenges(auth.tokens).use(bytes.fromhex(challenge), "login", browsers=["a browser"])


RACES = {race.__name__: race for race in (use_totp, use_recovery_code, use_challenge)}


def _feature(auth: Auth) -> TwoFactor:
    (feature,) = auth.features
    assert isinstance(feature, TwoFactor)
    return feature


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


async def main(job: dict[str, Any]) -> None:
    async with connected(job["url"]) as database:
        clock = FrozenClock(job["now"])
        auth = Auth(database, secret_key=SECRET_KEY, passwords=weak_passwords(), features=[TwoFactor()], clock=clock)
        user = await auth.users.get_by_username("ann")
        assert user is not None
        _say("ready")
        await asyncio.to_thread(sys.stdin.readline)
        uses = [RACES[job["race"]](auth, user, job["argument"]) for _ in range(job["number"])]
        _say(str(sum(await asyncio.gather(*uses))))
        await auth.close()


if __name__ == "__main__":
    asyncio.run(main(json.loads(sys.argv[1])))

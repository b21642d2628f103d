"""Concurrent requests in any order, on every server-side store, compared with a model (stateful property test)."""

import asyncio
import contextlib
import itertools
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar, cast

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    rule,
    run_state_machine_as_test,
)

from starlette_auth import SessionBase, SessionInterrupted, SessionStore
from starlette_auth.testing import FrozenClock

from ..conftest import ON_MANY_REDIS, ON_SERVER, name_of, with_store
from ..support.matrix import FEW

pytestmark = pytest.mark.long

R = TypeVar("R")
MAX_AGE, GRACE = 1000, 60
USER = "_auth_user_id"
names = st.sampled_from(["a", "b", "c", "é☃"])
values = st.none() | st.integers(0, 3) | st.text(max_size=3) | st.lists(st.integers(0, 1), max_size=2)
_users = itertools.count(1)


class Stored:
    """A stored session in the model."""

    def __init__(self, data: dict[str, Any], expires: float) -> None:
        self.data = data
        self.expires = expires


class Request:
    """A request in progress: its session, and the data that it loaded."""

    def __init__(self, session: SessionBase, key: str | None) -> None:
        self.session = session
        self.key = key  # the key that must still be stored when the request saves
        self.key_to_delete: str | None = None  # deleted when the request responds
        self.loaded = dict(session)

    def changed(self, stored: dict[str, Any]) -> dict[str, Any]:
        now = dict(self.session)
        removed = [name for name in self.loaded if name not in now]
        changed = {name: value for name, value in now.items() if self.loaded.get(name, self) != value}
        return {name: value for name, value in {**stored, **changed}.items() if name not in removed}


class Sessions(RuleBasedStateMachine):
    keys: Bundle[str] = Bundle("keys")
    requests: Bundle[Request] = Bundle("requests")

    def __init__(self, store: SessionStore, clock: FrozenClock, runner: asyncio.Runner) -> None:
        super().__init__()
        self.store = store
        self.clock = clock
        self.runner = runner
        self.stored: dict[str, Stored] = {}
        self.user = str(next(_users))

    def run(self, coroutine: Coroutine[Any, Any, R]) -> R:
        return self.runner.run(coroutine)

    def unexpired(self, key: str | None) -> Stored | None:
        stored = self.stored.get(key or "")
        return stored if stored is not None and stored.expires > self.clock.now else None

    @initialize(target=keys)
    def store_a_first_session(self) -> str:
        request = self.load("")
        request.session.update(a=0, b=1)
        return self.respond(request)

    @rule(target=requests)
    def start_an_anonymous_request(self) -> Request:
        return self.load("")

    @rule(target=requests, key=keys, number=st.integers(2, 3))
    def start_several_requests(self, key: str, number: int) -> Any:
        return multiple(*(self.load(key) for _ in range(number)))

    @rule(target=requests, key=keys)
    def start_a_request(self, key: str) -> Request:
        return self.load(key)

    def load(self, key: str) -> Request:
        session, stored = self.run(self.store.load(key)), self.unexpired(key)
        assert dict(session) == (stored.data if stored else {})
        assert session.session_key == (key if stored else None)
        assert not session.modified
        return Request(session, session.session_key)

    @rule(request=requests, name=names, value=values)
    def set_entry(self, request: Request, name: str, value: Any) -> None:
        request.session[name] = value

    @rule(target=keys, request=requests, name=names, value=values)
    def set_entry_and_respond(self, request: Request, name: str, value: Any) -> str:
        request.session[name] = value
        return self.respond(request)

    @rule(request=requests)
    def log_in(self, request: Request) -> None:
        request.session[USER] = self.user

    @rule(request=requests, name=names | st.just(USER))
    def remove_entry(self, request: Request, name: str) -> None:
        request.session.pop(name, None)

    @rule(request=requests)
    def cycle_key(self, request: Request) -> None:
        request.session.cycle_key()

    @rule(request=requests)
    def flush(self, request: Request) -> None:
        request.session.flush()
        request.key, request.key_to_delete, request.loaded = None, request.key_to_delete or request.key, {}

    @rule(target=keys, request=requests)
    def respond_now(self, request: Request) -> str:
        return self.respond(request)

    def respond(self, request: Request) -> str:
        session = request.session
        key = self.save(request) if session.modified else session.session_key
        if session.key_to_delete is not None:
            self.run(self.store.delete(session.key_to_delete))
            session.keep_stored()
        if request.key_to_delete is not None:
            self.stored.pop(request.key_to_delete, None)
            request.key_to_delete = None
        return key or "A" * 43

    def save(self, request: Request) -> str | None:
        session, stored = request.session, self.unexpired(request.key)
        if request.key is not None and stored is None:
            with pytest.raises(SessionInterrupted):
                self.run(self.store.save(session, MAX_AGE))
            return None
        data = request.changed(stored.data if stored else {})
        cookie = self.run(self.store.save(session, MAX_AGE))
        if request.key is not None:
            del self.stored[request.key]
        key = str(session.session_key)
        assert cookie == (key if data else "")
        assert not session.modified
        self.stored[key] = Stored(data, self.clock.now + (MAX_AGE if data else GRACE))
        request.key, request.loaded = key, dict(session)
        return key

    @rule(key=consumes(keys))
    def delete_session(self, key: str) -> None:
        self.run(self.store.delete(key))
        self.stored.pop(key, None)

    @rule()
    def revoke_all(self) -> None:
        user_keys = [key for key in self.stored if self.unexpired(key) and self.stored[key].data.get(USER) == self.user]
        assert self.run(self.store.revoke_all(self.user)) == len(user_keys)
        for key in user_keys:
            del self.stored[key]

    @rule(seconds=st.sampled_from([1, 30, GRACE, 400, MAX_AGE]))
    def advance_clock(self, seconds: int) -> None:
        self.clock.tick(seconds)

    @rule()
    def clear_expired(self) -> None:
        self.run(self.store.clear_expired())

    @invariant()
    def the_list_of_sessions_matches_the_model(self) -> None:
        listed = [dict(session) for session in self.run(self.store.list_sessions(self.user))]
        expected = [self.stored[key].data for key in self.stored if self.unexpired(key)]
        expected = [data for data in expected if data.get(USER) == self.user]
        assert sorted(map(repr, map(sorted_items, listed))) == sorted(map(repr, map(sorted_items, expected)))


def sorted_items(data: dict[str, Any]) -> list[tuple[str, Any]]:
    return sorted(data.items())


@pytest.mark.parametrize("kind", [*ON_SERVER, *ON_MANY_REDIS], ids=name_of)
def test_the_store_behaves_like_the_model_in_any_order_of_requests(kind: str, tmp_path: Path) -> None:
    clock = FrozenClock()
    with asyncio.Runner() as runner:
        stack = contextlib.AsyncExitStack()
        auth = runner.run(stack.enter_async_context(with_store(kind, tmp_path, clock)))
        try:
            run_state_machine_as_test(
                cast(Any, lambda: Sessions(auth.sessions, clock, runner)),
                settings=settings(
                    max_examples=20 if FEW else 150,
                    stateful_step_count=40,
                    deadline=None,
                    suppress_health_check=list(HealthCheck),
                    derandomize=True,
                    database=None,
                ),
            )
        finally:
            runner.run(stack.aclose())

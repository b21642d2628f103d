"""Sessions in Redis or Valkey."""

import base64
import hashlib
import json
import logging
import re
import time
from collections.abc import Mapping, Sequence
from typing import Any

from ..core.arguments import require_clock, require_text
from ..core.clock import Clock
from ..core.exceptions import ImproperlyConfigured
from ..core.signing import hash_key, is_key
from ..database.redis import RedisClient, RedisClients
from ..database.tables import Tables
from ..database.urls import database_location
from .base import SessionBase
from .records import USER_ID, SessionRecord, decode, encode_value, touched_record
from .redis_scripts import DELETE, LIST, LOAD, RECORD_FIELDS, REVOKE, SAVE, TAKE, TOUCH
from .store import SessionStore, first_record, interrupted

logger = logging.getLogger("starlette_auth")
DELETE_BATCH = 1000  # names in one batch
TAG_LENGTH = 2  # characters


class ClusterSession(SessionBase):
    """Represents a session in a Redis Cluster. Its key begins with the hash tag of its user.

    The cluster thus keeps all sessions of a user, and their index, in one slot, where a script can change them in one
    step. The rest of the key has 246 random bits.
    """

    @property
    def next_key(self) -> str:
        old_key = self.stored_key or ""
        tag = hash_tag(self.user_id) if self.user_id is not None else old_key[:TAG_LENGTH]
        for key in (self.session_key, self._next_key):
            if key is not None and key.startswith(tag):
                return key
        self._next_key = tag + self.new_key()[len(tag) :]
        return self._next_key


def hash_tag(user_id: str) -> str:
    """Returns the hash tag of a user, with which the keys of their sessions begin: one of 4096."""
    return base64.urlsafe_b64encode(hashlib.sha256(user_id.encode()).digest())[:TAG_LENGTH].decode()


class RedisStore(SessionStore):
    """Keeps sessions in Redis or Valkey, under a hash of the session key. Redis deletes expired sessions.

    `url` names a single Redis (redis://user:password@host:6379/0, rediss://… for TLS, unix:///path), Sentinels
    (redis+sentinel://user:password@host:26379,host:26379/service/0, where `sentinel_username` and `sentinel_password`
    in the query are for the Sentinels) or nodes of a Redis Cluster (redis+cluster://user:password@host:6379,host:6379);
    with rediss+ they use TLS. Or `url` is a client of redis.asyncio. The application closes the client, and uses the
    store in one event loop only.

    Without persistence (`appendonly yes`), a restart of Redis deletes all sessions and logs all users out. If Redis
    evicts keys, the list of a user's sessions may lack some until they are used again; they can be ended nevertheless.

    All names in Redis begin with `prefix`, and with the name of a custom user table after it. The default differs for each
    database and user table: two sites with the same prefix would list and end each other's sessions. Pass a prefix if the
    processes of one site connect to its database under different hosts, or if the sessions shall survive a move of the
    database.
    """

    supports_user_lookup = True

    def __init__(self, url: str | RedisClient, *, prefix: str | None = None, clock: Clock = time.time) -> None:
        if prefix is not None:
            require_text(prefix, "prefix", 'Pass text, as in prefix="shop:".')
        require_clock(clock)
        self.redis = RedisClients(url)
        self._session_class = ClusterSession if self.redis.is_cluster else SessionBase
        self._clock = clock
        self._given_prefix = prefix
        self._set_prefix("starlette_auth:" if prefix is None else prefix)

    def attach(self, database_url: str, tables: Tables) -> None:
        super().attach(database_url, tables)
        if self._given_prefix is None:
            site = f"{database_location(database_url)} {tables.user.fullname}"
            self._set_prefix(f"starlette_auth:{hash_key(site)[:16]}:")
        elif tables.namespace:
            self._set_prefix(f"{self._given_prefix}{tables.namespace}:")

    def _set_prefix(self, prefix: str) -> None:
        if self.redis.is_cluster and "{" in prefix and not re.match(r"[^{]*\{[^}]+\}", prefix):
            raise ImproperlyConfigured(
                f"prefix={prefix!r} would place a user's sessions in different slots of the cluster. Use a prefix without braces."
            )
        self._session, self._user = f"{prefix}session:", f"{prefix}user:"

    def new_session(self, clock: Clock = time.time) -> SessionBase:
        return self._session_class(clock=clock)

    async def load(self, cookie: str) -> SessionBase:
        if is_key(cookie):
            session = self._read(_pairs(await self._run(LOAD, [self._name(cookie)], cookie)), cookie)
            if session is not None:
                return session
        return self.new_session(self._clock)

    async def save(self, session: SessionBase, max_age: int) -> str:
        saved, key, stored_key = session.encode(), session.next_key, session.stored_key
        values, removed = session.changes()
        record = first_record(session, saved, max_age=max_age, now=self._now())
        fields = {name: getattr(record, name) for name in RECORD_FIELDS} | {"user_id": record.user_id or ""}
        if stored_key is not None:
            record = (session.record or record)._replace(data=saved, last_seen=record.last_seen, expires=record.expires)
            fields = {"user_id": fields["user_id"]} if USER_ID in values or USER_ID in removed else {}
            if fields.get("user_id") == "":
                fields |= {"address": "", "user_agent": ""}  # are not kept for anonymous visitors
        if stored_key is not None and self._tag(stored_key) != self._tag(key):
            fields, stored_key = await self._take(stored_key, key) | fields, None
        pairs = fields | {_field(name): encode_value(value) for name, value in values.items()}
        flat_pairs = [part for pair in pairs.items() for part in pair]
        names = [self._name(each) for each in dict.fromkeys((stored_key or key, key))]
        has_old_key = int(stored_key is not None)
        arguments = (max_age, len(pairs), has_old_key, *flat_pairs, *map(_field, removed))
        entry_count = int(await self._run(SAVE, names, key, *arguments))
        if entry_count < 0:
            raise interrupted()
        session.mark_saved(key, record, saved)
        return key if entry_count else ""

    async def _take(self, old_key: str, new_key: str) -> dict[str, str]:
        """Removes and returns the fields of a session whose user has changed.

        The session moves to another slot of the cluster, which no script can do. It ends under its old key, and is then
        saved under the new one.
        """
        name = self._name(old_key)
        fields = _pairs(await self._run(TAKE, [name, f"{name}:{hash_key(new_key)}"], old_key))
        if not fields:
            raise interrupted()
        return fields

    async def delete(self, session_key: str) -> None:
        await self._run(DELETE, [self._name(session_key)], session_key)

    async def touch(self, session: SessionBase, max_age: int) -> None:
        key = session.session_key
        if key is not None and session.record is not None:
            touched = touched_record(session.record, session.address, max_age=max_age, now=self._now())
            await self._run(TOUCH, [self._name(key)], key, max_age, touched.address)

    async def list_sessions(self, user_id: str) -> list[SessionBase]:
        listed = [self._read(fields) for fields in map(_pairs, await self._run_for(user_id, LIST))]
        sessions = [session for session in listed if session and session.record and session.record.user_id == user_id]
        return sorted(sessions, key=lambda session: session.last_seen, reverse=True)

    async def revoke(self, user_id: str, public_id: str) -> bool:
        return int(await self._run_for(user_id, REVOKE, user_id, public_id, 1)) == 1

    async def revoke_all(self, user_id: str, *, keep: str = "") -> int:
        return int(await self._run_for(user_id, REVOKE, user_id, keep, 0))

    async def revoke_everybody(self) -> int:
        """Deletes all sessions, and then the indexes of their users. Other data in Redis stays."""
        # A second pass, because the first one may miss a session that gets a new key meanwhile. Not more, because
        # visitors may start sessions all the time.
        number = await self._delete_below(self._session) + await self._delete_below(self._session)
        await self._delete_below(self._user)
        return number

    async def _delete_below(self, prefix: str) -> int:
        pattern, number = re.sub(r"([*?\[\]\\^-])", r"\\\1", prefix) + "*", 0

        names = self.redis.client.scan_iter(pattern, count=DELETE_BATCH)

        async def next_names() -> list[Any]:
            """Returns the next names as text. A client of the application may return bytes."""
            batch = []
            async for name in names:
                batch.append(name)
                if len(batch) == DELETE_BATCH:
                    break
            return batch

        while found := await self.redis.execute(next_names()):
            pipeline = self.redis.client.pipeline(transaction=False)
            for name in found:
                pipeline.unlink(name)
            number += sum(await self.redis.execute(pipeline.execute()))
        return number

    async def close(self) -> None:
        await self.redis.close()

    async def _run(self, script: str, names: Sequence[str], session_key: str, *arguments: Any) -> Any:
        """Runs a script for a session and the index in its slot. Returns the result."""
        return await self.redis.run_script(script, names, self._user + self._tag(session_key), self._now(), *arguments)

    async def _run_for(self, user_id: str, script: str, *arguments: Any) -> Any:
        """Runs a script for the index of a user. Returns the result."""
        prefix = self._user + self._tag(hash_tag(user_id))
        return await self.redis.run_script(script, [prefix + user_id], prefix, self._now(), *arguments)

    def _read(self, fields: Mapping[str, str], session_key: str | None = None) -> SessionBase | None:
        """Returns the session in a hash; None if it is missing, expired or damaged."""
        try:
            is_live = bool(fields) and int(fields["expires"]) > self._now()
            return self._session_of(fields, session_key) if is_live else None
        except (LookupError, ValueError):
            logger.warning("A hash in Redis is not a valid session record and is ignored.")
            return None

    def _session_of(self, fields: Mapping[str, str], session_key: str | None = None) -> SessionBase:
        entries = (f"{name[1:]}:{value}" for name, value in fields.items() if name[0] == ".")
        record = SessionRecord(
            data=f"{{{','.join(entries)}}}",
            public_id=fields["public_id"],
            user_id=fields["user_id"] or None,
            created=int(fields["created"]),
            last_seen=int(fields["last_seen"]),
            expires=int(fields["expires"]),
            address=fields["address"],
            user_agent=fields["user_agent"],
        )
        return self._session_class(decode(record.data), session_key=session_key, record=record, clock=self._clock)

    def _name(self, session_key: str) -> str:
        return self._session + self._tag(session_key) + hash_key(session_key)

    def _tag(self, session_key: str) -> str:
        """Returns the hash tag of a session key, which selects the slot; "" without a cluster."""
        return f"{{{session_key[:TAG_LENGTH]}}}" if self.redis.is_cluster else ""

    def _now(self) -> int:
        return int(self._clock())


def _pairs(reply: Sequence[str]) -> dict[str, str]:
    """Returns the fields of a hash from the list that a script returned."""
    return dict(zip(reply[::2], reply[1::2], strict=True))


def _field(name: str) -> str:
    return f".{json.dumps(name)}"

"""The Redis cache in which a Django project keeps its sessions."""

from ..database.redis import RedisClients


class DjangoCache:
    """Takes sessions of the engine `cached_db` out of `django.core.cache.backends.redis.RedisCache`.

    For `DjangoProject(forget_session=…)`: `url` is the cache's LOCATION, `key_prefix` and `version` are its KEY_PREFIX
    and VERSION. Unavailable when Redis is away, as Django itself cannot end a session then.
    """

    def __init__(self, url: str, *, key_prefix: str = "", version: int = 1) -> None:
        self.redis = RedisClients(url)
        self._prefix = f"{key_prefix}:{version}:django.contrib.sessions.cached_db"

    async def __call__(self, session_key: str) -> None:
        await self.redis.execute(self.redis.client.delete(self._prefix + session_key))

    async def close(self) -> None:
        """Gives back the connections of this event loop."""
        await self.redis.close()

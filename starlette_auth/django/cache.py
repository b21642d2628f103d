"""The Redis cache in which a Django project stores its sessions."""

from ..core.arguments import require_integer, require_text
from ..database.redis import RedisClient, RedisClients


class DjangoCache:
    """Deletes sessions of Django's engine `cached_db` from `django.core.cache.backends.redis.RedisCache`.

    Pass it to `DjangoProject(invalidate_session=…)`. `url` is the cache's LOCATION, or a URL or a client as for
    `RedisStore`; `key_prefix` and `version` are its KEY_PREFIX and VERSION. If Redis does not answer, ending a session
    fails here, as it does in Django.
    """

    def __init__(self, url: str | RedisClient, *, key_prefix: str = "", version: int = 1) -> None:
        require_text(key_prefix, "key_prefix", "Pass KEY_PREFIX of the cache, or leave it out.")
        require_integer(version, "version", minimum=0)
        self.redis = RedisClients(url)
        self._prefix = f"{key_prefix}:{version}:django.contrib.sessions.cached_db"

    async def __call__(self, session_key: str) -> None:
        await self.redis.run("DEL", self._prefix + session_key)

    async def close(self) -> None:
        """Closes the connections of the running event loop."""
        await self.redis.close()

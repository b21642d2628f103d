"""The servers that a Redis URL names."""

from collections.abc import Callable
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

DEFAULT_PORTS = {"sentinel": 26379, "cluster": 6379}


class RedisServers(NamedTuple):
    """The servers of a URL, and the options of a connection to them.

    `kind` is "sentinel", "cluster" or "" for a single Redis, which has neither `nodes` nor `options`. `service` is the
    name under which the Sentinels know the primary.
    """

    kind: str
    nodes: tuple[tuple[str, int], ...] = ()
    service: str = ""
    options: dict[str, Any] = {}  # noqa: RUF012  it is not changed
    sentinel_options: dict[str, Any] = {}  # noqa: RUF012


def parse_servers(url: str, parse_url: Callable[[str], dict[str, Any]]) -> RedisServers:
    """Returns the servers of a URL. `parse_url` is that of redis-py. Raises ValueError for an invalid URL."""
    parts = urlsplit(url)
    base, _, kind = parts.scheme.partition("+")
    if not kind:
        parse_url(url)
        return RedisServers("")
    if base not in ("redis", "rediss") or kind not in DEFAULT_PORTS:
        raise ValueError
    credentials, at, hosts = parts.netloc.rpartition("@")
    nodes = tuple(_node(host, DEFAULT_PORTS[kind]) for host in hosts.split(","))
    service, _, database = parts.path.removeprefix("/").partition("/")
    if kind == "cluster":
        service, database = "", service  # it has the database 0 only
    is_valid = database in ("", "0") if kind == "cluster" else service and (database or "0").isdecimal()
    if not is_valid:
        raise ValueError
    options = parse_url(f"{base}://{credentials}{at}host/{database or 0}?{parts.query}")
    sentinel_options = {
        name: options.pop(f"sentinel_{name}") for name in ("username", "password") if f"sentinel_{name}" in options
    }
    for name in ("host", "port", "connection_class"):
        options.pop(name, None)
    if base == "rediss":
        options["ssl"] = True
        sentinel_options |= {name: value for name, value in options.items() if name.startswith("ssl")}
    return RedisServers(kind, nodes, unquote(service), options, sentinel_options)


def _node(text: str, default_port: int) -> tuple[str, int]:
    parts = urlsplit(f"//{text}")
    if not parts.hostname or parts.path or parts.username is not None:
        raise ValueError
    return parts.hostname, parts.port or default_port

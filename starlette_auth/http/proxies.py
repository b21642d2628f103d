"""Which address does a request come from? Trusted proxies and client networks."""

import functools
import ipaddress
import logging
import re
from collections.abc import Sequence

from starlette.requests import HTTPConnection

from ..core.arguments import as_list, as_texts
from ..core.exceptions import ImproperlyConfigured

logger = logging.getLogger("starlette_auth")
Address = ipaddress.IPv4Address | ipaddress.IPv6Address
PROXIES = 'Pass addresses ("10.0.0.1"), networks ("10.0.0.0/8") or "unix".'
MAX_LENGTH = 45  # characters of an IPv6 address in its longest form
NAT64 = int(ipaddress.IPv6Address("64:ff9b::")) >> 32


class TrustedProxies:
    """Knows the trusted reverse proxies, whose `X-Forwarded-For` header is believed.

    `trusted` contains addresses, networks, and "unix" for clients that connect through a Unix socket.
    """

    def __init__(self, trusted: Sequence[str]) -> None:
        trusted = as_list(trusted, "trusted_proxies", 'Pass trusted_proxies=["10.0.0.0/8"].')
        trusted = as_texts(trusted, "trusted_proxies", PROXIES)
        self.trusts_socket = "unix" in trusted
        self.networks = [_network(proxy) for proxy in trusted if proxy != "unix"]
        self._has_warned = False

    def is_trusted(self, conn: HTTPConnection) -> bool:
        """Tells whether the connection comes from a trusted proxy."""
        if conn.client is None or not conn.client.host:
            return self.trusts_socket
        address = _address(conn.client.host)
        return address is not None and self._includes(address)

    def client_address(self, conn: HTTPConnection) -> str:
        """Returns the address of the client; empty if it is unknown, as on a Unix socket.

        Behind a trusted proxy this is the rightmost address in `X-Forwarded-For` that is not a trusted proxy. An
        attacker can write anything to the left of it. Therefore the rest of the header is ignored. Logs the first request
        with an unknown address, to which no limit by address applies.
        """
        address = self._find_address(conn)
        if not address and not self._has_warned:
            self._has_warned = True
            logger.warning(
                "A request has no client address, as on a Unix socket (uvicorn --uds). Limits by IP address are off. "
                'Let the reverse proxy set X-Forwarded-For, and pass Auth(trusted_proxies=["unix"]).'
            )
        return address

    def _find_address(self, conn: HTTPConnection) -> str:
        last_address = str(_address(conn.client.host) or conn.client.host) if conn.client else ""
        if not self.is_trusted(conn):
            return last_address
        for part in reversed(",".join(conn.headers.getlist("x-forwarded-for")).split(",")):
            address = _address(_without_port(part.strip()))
            if address is None:
                return last_address
            last_address = str(address)
            if not self._includes(address):
                return last_address
        return last_address

    def _includes(self, address: Address) -> bool:
        return any(address in network for network in self.networks)


class ProxyDetector:
    """Watches the first 200 client addresses that it is given, to find a missing proxy.

    If all have the same private address, that is probably a proxy missing from `trusted_proxies`.
    """

    size = 200

    def __init__(self) -> None:
        self._address = ""
        self._requests = 0

    def looks_like_proxy(self, address: str) -> bool:
        """Counts an address. Returns True once: for the 200th address, if all were the same private address."""
        if not address or self._requests >= self.size:
            return False
        self._address = self._address or address
        self._requests = self._requests + 1 if address == self._address else self.size + 1
        ip = _address(address)
        # Clients on the internet have global addresses. On a developer's machine all requests come from loopback.
        return self._requests == self.size and ip is not None and not ip.is_global and not ip.is_loopback


def client_network(address: str) -> str:
    """Returns the network that counts as one client: an IPv4 address, or the /64 of an IPv6 address.

    A household owns a whole /64. An attacker could otherwise use a new address for each attempt. An IPv6 address that
    embeds an IPv4 address (IPv4-mapped, NAT64, 6to4) counts as that IPv4 address.
    """
    ip = _address(address)
    if ip is None:
        return address[:64]
    if isinstance(ip, ipaddress.IPv4Address):
        return str(ip)
    if int(ip) >> 32 == NAT64:
        return str(ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF))
    return str(ip.sixtofour or ipaddress.IPv6Network((ip, 64), strict=False))


def _network(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    try:
        return ipaddress.ip_network(text)
    except ValueError as error:
        raise ImproperlyConfigured(f"trusted_proxies: {error}. {PROXIES}") from None


def _address(text: str) -> Address | None:
    """Parses an address without its zone (fe80::1%eth0), which has no meaning on other hosts.

    An IPv4-mapped IPv6 address becomes the IPv4 address. Returns None for invalid text.
    """
    text, _, _ = text.partition("%")
    return _parsed(text) if len(text) <= MAX_LENGTH else None


@functools.lru_cache(maxsize=1024)  # each request parses its address several times
def _parsed(text: str) -> Address | None:
    try:
        ip = ipaddress.ip_address(text)
    except ValueError:
        return None
    return (ip.ipv4_mapped or ip) if isinstance(ip, ipaddress.IPv6Address) else ip


def _without_port(text: str) -> str:
    """Removes the port, which some proxies add: "192.0.2.1:5678" or "[2001:db8::1]:5678"."""
    match = re.fullmatch(r"\[([^]]+)\](?::[0-9]+)?|([^:]+):[0-9]+", text)
    return (match[1] or match[2]) if match else text

"""Which address does a request come from? Trusted proxies and client networks."""

import functools
import ipaddress
import re
from collections.abc import Sequence

from starlette.requests import HTTPConnection

from ..core.exceptions import ImproperlyConfigured

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
LONGEST = 45  # characters of an address
NAT64 = int(ipaddress.IPv6Address("64:ff9b::")) >> 32


class TrustedProxies:
    """The proxies in front of us: what they say of a visitor's address is believed, and nobody else.

    `trusted` holds addresses or networks, and "unix" for whoever speaks through a socket.
    """

    def __init__(self, trusted: Sequence[str]) -> None:
        if isinstance(trusted, str):
            raise ImproperlyConfigured('trusted_proxies is a list. Pass trusted_proxies=["10.0.0.0/8"].')
        self.trusts_socket = "unix" in trusted
        self.networks = [_network(proxy) for proxy in trusted if proxy != "unix"]

    def is_trusted(self, conn: HTTPConnection) -> bool:
        """Whether it is one of them who speaks to us."""
        if conn.client is None:
            return self.trusts_socket
        address = _address(conn.client.host)
        return address is not None and self._includes(address)

    def client_address(self, conn: HTTPConnection) -> str:
        """The visitor's address: in X-Forwarded-For, from the right, the first that is not a proxy of ours.

        What stands left of it, the visitor may have written. Empty when there is none, as on a socket.
        """
        seen = str(_address(conn.client.host) or conn.client.host) if conn.client else ""
        if not self.is_trusted(conn):
            return seen
        for part in reversed(",".join(conn.headers.getlist("x-forwarded-for")).split(",")):
            address = _address(_without_port(part.strip()))
            if address is None:
                return seen
            seen = str(address)
            if not self._includes(address):
                return seen
        return seen

    def _includes(self, address: Address) -> bool:
        return any(address in network for network in self.networks)


class ProxyDetector:
    """The first visitors. When they all come from one place, it is a proxy that was not named."""

    size = 200

    def __init__(self) -> None:
        self._address = ""
        self._requests = 0

    def looks_like_proxy(self, address: str) -> bool:
        """Counts this visitor. True once: when the last of them comes from the same private address as all before."""
        if not address or self._requests >= self.size:
            return False
        self._address = self._address or address
        self._requests = self._requests + 1 if address == self._address else self.size + 1
        ip = _address(address)
        # What is not global is no visitor's from the internet; on a developer's own machine all come from one address.
        return self._requests == self.size and ip is not None and not ip.is_global and not ip.is_loopback


def client_network(address: str) -> str:
    """What counts as one visitor: an IPv4 address, or the /64 of an IPv6 address, all of which one household has.

    An IPv4 address in the clothes of IPv6 (mapped, NAT64, 6to4) is that IPv4 address.
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
        raise ImproperlyConfigured(
            f'trusted_proxies: {error}. Name addresses ("10.0.0.1"), networks ("10.0.0.0/8") or "unix".'
        ) from None


def _address(text: str) -> Address | None:
    """Without the zone of a link, which says nothing elsewhere. An IPv4 address mapped into IPv6 is that address."""
    text, _, _ = text.partition("%")
    return _parsed(text) if len(text) <= LONGEST else None


@functools.lru_cache(maxsize=1024)  # each request's address is looked at several times
def _parsed(text: str) -> Address | None:
    try:
        ip = ipaddress.ip_address(text)
    except ValueError:
        return None
    return (ip.ipv4_mapped or ip) if isinstance(ip, ipaddress.IPv6Address) else ip


def _without_port(text: str) -> str:
    """Some proxies write "192.0.2.1:5678", or "[2001:db8::1]:5678"."""
    found = re.fullmatch(r"\[([^]]+)\](?::[0-9]+)?|([^:]+):[0-9]+", text)
    return (found[1] or found[2]) if found else text

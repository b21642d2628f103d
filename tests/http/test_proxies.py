"""Tests of client addresses behind proxies, and of what an attacker can forge about them."""

import pytest
from starlette.requests import HTTPConnection

from starlette_auth import ImproperlyConfigured
from starlette_auth.http.proxies import ProxyDetector, TrustedProxies, client_network
from starlette_auth.http.user_agents import describe_user_agent


def request_from(peer: str | None, *forwarded: str) -> HTTPConnection:
    headers = [(b"x-forwarded-for", value.encode("latin-1")) for value in forwarded]
    return HTTPConnection({"type": "http", "headers": headers, "client": None if peer is None else (peer, 5000)})


BEHIND_TWO = TrustedProxies(["10.0.0.0/8", "2001:db8:ffff::/48"])


@pytest.mark.parametrize(
    ("peer", "forwarded", "address"),
    [
        # The header of a client that is no trusted proxy is ignored.
        ("203.0.113.9", ["198.51.100.1"], "203.0.113.9"),
        ("203.0.113.9", ["10.0.0.1"], "203.0.113.9"),
        ("testclient", ["198.51.100.1"], "testclient"),
        # The proxy appends the address of its client to what the client sent.
        ("10.0.0.1", ["198.51.100.1"], "198.51.100.1"),
        ("10.0.0.1", ["1.1.1.1, 198.51.100.1"], "198.51.100.1"),
        ("10.0.0.1", ["1.1.1.1, 198.51.100.1, 10.0.0.2"], "198.51.100.1"),
        ("10.0.0.1", ["10.9.9.9,198.51.100.1,10.0.0.3,10.0.0.2"], "198.51.100.1"),
        ("2001:db8:ffff::1", ["2001:db8::7, 10.0.0.1"], "2001:db8::7"),
        # Several headers form one list, in their order.
        ("10.0.0.1", ["1.1.1.1", "198.51.100.1"], "198.51.100.1"),
        ("10.0.0.1", ["198.51.100.1", "10.0.0.2"], "198.51.100.1"),
        # An unreadable entry ends the search: the last readable address counts.
        ("10.0.0.1", [], "10.0.0.1"),
        ("10.0.0.1", [""], "10.0.0.1"),
        ("10.0.0.1", ["unknown"], "10.0.0.1"),
        ("10.0.0.1", ["1.1.1.1, , 10.0.0.2"], "10.0.0.2"),
        ("10.0.0.1", ["1.1.1.1, nonsense\xff, 10.0.0.2"], "10.0.0.2"),
        ("10.0.0.1", ["198.51.100.1,"], "10.0.0.1"),
        ("10.0.0.1", ["1.1.1.1, 198.51.100.1:http"], "10.0.0.1"),
        ("10.0.0.1", ["[2001:db8::7"], "10.0.0.1"),
        ("10.0.0.1", ["[2001:db8::7]443"], "10.0.0.1"),
        ("10.0.0.1", ["[]"], "10.0.0.1"),
        ("10.0.0.1", ["%"], "10.0.0.1"),
        # A client inside the trusted network: all addresses are trusted.
        ("10.0.0.1", ["10.0.0.3, 10.0.0.2"], "10.0.0.3"),
        # Ports, brackets, zones, and IPv4-mapped IPv6 addresses.
        ("10.0.0.1", ["198.51.100.1:4711"], "198.51.100.1"),
        ("10.0.0.1", ["[2001:DB8::7]:443"], "2001:db8::7"),
        ("10.0.0.1", ["[2001:db8::7]"], "2001:db8::7"),
        ("10.0.0.1", ["198.51.100.1, 10.0.0.2:80"], "198.51.100.1"),
        ("10.0.0.1", ["fe80::1%eth0"], "fe80::1"),
        ("::ffff:10.0.0.1", ["198.51.100.1, ::ffff:10.0.0.2"], "198.51.100.1"),
        ("::ffff:203.0.113.9", ["198.51.100.1"], "203.0.113.9"),
        (None, ["198.51.100.1"], ""),
    ],
)
def test_a_client_cannot_forge_its_address(peer: str | None, forwarded: list[str], address: str) -> None:
    assert BEHIND_TWO.client_address(request_from(peer, *forwarded)) == address


def test_without_trusted_proxies_the_header_is_ignored() -> None:
    assert TrustedProxies([]).client_address(request_from("203.0.113.9", "198.51.100.1")) == "203.0.113.9"
    assert not TrustedProxies([]).is_trusted(request_from(None))


def test_a_unix_socket_is_trusted_only_when_configured() -> None:
    assert TrustedProxies(["unix"]).is_trusted(request_from(None))
    assert TrustedProxies(["unix"]).client_address(request_from(None, "1.1.1.1, 198.51.100.1")) == "198.51.100.1"
    assert TrustedProxies(["unix"]).client_address(request_from(None)) == ""
    assert not TrustedProxies(["unix"]).is_trusted(request_from("/run/app.sock"))


@pytest.mark.parametrize(
    ("proxies", "advice"),
    [
        ("10.0.0.0/8", r"Pass trusted_proxies=\[\"10.0.0.0/8\"\]"),
        (["localhost"], "Pass addresses"),
        (["10.0.0.1/8"], "Pass addresses"),
        (["*"], "Pass addresses"),
        ([""], "Pass addresses"),
    ],
)
def test_invalid_trusted_proxies_are_rejected(proxies: list[str], advice: str) -> None:
    with pytest.raises(ImproperlyConfigured, match=advice):
        TrustedProxies(proxies)


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:0DB8:0001:0002::", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("::ffff:c000:201", "192.0.2.1"),
        ("64:ff9b::192.0.2.1", "192.0.2.1"),
        ("64:ff9b:1::192.0.2.1", "64:ff9b:1::/64"),
        ("2002:c000:0201:7::1", "192.0.2.1"),
        ("testclient", "testclient"),
        ("x" * 500, "x" * 64),
        ("", ""),
    ],
)
def test_addresses_of_one_household_count_as_one_client(address: str, network: str) -> None:
    assert client_network(address) == network


MOZILLA = "Mozilla/5.0"
WEBKIT = "AppleWebKit/537.36 (KHTML, like Gecko)"


@pytest.mark.parametrize(
    ("user_agent", "description"),
    [
        (f"{MOZILLA} (Windows NT 10.0; Win64; x64; rv:140.0) Gecko/20100101 Firefox/140.0", "Firefox on Windows"),
        (f"{MOZILLA} (X11; Linux x86_64) {WEBKIT} Chrome/140.0.0.0 Safari/537.36", "Chrome on Linux"),
        (f"{MOZILLA} (Windows NT 10.0) {WEBKIT} Chrome/140.0 Safari/537.36 Edg/140.0", "Edge on Windows"),
        (f"{MOZILLA} (Windows NT 10.0) {WEBKIT} Chrome/140.0 Safari/537.36 OPR/120.0", "Opera on Windows"),
        (f"{MOZILLA} (Macintosh; Intel Mac OS X 10_15_7) {WEBKIT} Version/18.0 Safari/605.1.15", "Safari on macOS"),
        (f"{MOZILLA} (Linux; Android 15) {WEBKIT} Chrome/140.0 Mobile Safari/537.36", "Chrome on Android"),
        (f"{MOZILLA} (iPhone; CPU iPhone OS 18_0 like Mac OS X) {WEBKIT} Mobile Safari/604.1", "Safari on iPhone"),
        (f"{MOZILLA} (iPad; CPU OS 18_0 like Mac OS X) {WEBKIT} CriOS/140.0 Mobile Safari/604.1", "Chrome on iPad"),
        ("Firefox/140.0", "Firefox"),
        ("Something (Windows)", "Windows"),
        ("curl/8.0", ""),
        ('<a href="https://evil.example">Click here</a>', ""),
        ("x" * 500 + "Firefox/140.0", ""),
        ("", ""),
    ],
)
def test_only_known_browsers_and_systems_are_described(user_agent: str, description: str) -> None:
    assert describe_user_agent(user_agent) == description


@pytest.mark.parametrize(
    ("address", "looks_like_proxy"),
    [
        ("10.0.0.1", True),
        ("::ffff:10.0.0.1", True),
        ("100.64.0.1", True),
        ("fd00::1", True),
        ("8.8.8.8", False),
        ("127.0.0.1", False),
        ("::1", False),
        ("testclient", False),
        ("", False),
    ],
)
def test_200_requests_from_one_private_address_are_reported_once(address: str, looks_like_proxy: bool) -> None:
    detector = ProxyDetector()
    assert not any(detector.looks_like_proxy(address) for _ in range(199))
    assert detector.looks_like_proxy(address) is looks_like_proxy
    assert not any(detector.looks_like_proxy(address) for _ in range(300))


def test_a_second_client_address_rules_out_a_proxy() -> None:
    detector = ProxyDetector()
    assert not any(detector.looks_like_proxy("10.0.0.1") for _ in range(150))
    assert not detector.looks_like_proxy("8.8.8.8")
    assert not any(detector.looks_like_proxy("10.0.0.1") for _ in range(500))

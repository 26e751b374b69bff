"""IP addresses as 16-byte keys, so that a CIDR block is a range: IPv4 becomes IPv4-mapped IPv6 (RFC 4291)."""

from __future__ import annotations

import ipaddress
from functools import lru_cache

from klyra_collector.store.searching import AddressRange

_MAPPED = bytes(10) + b"\xff\xff"


@lru_cache(maxsize=65536)
def key_of(text: str) -> bytes | None:
    """Return the key of an address, None for a text that is none."""
    try:
        return _key(ipaddress.ip_address(text))
    except ValueError:
        return None


def range_of(text: str) -> AddressRange:
    """Return the addresses that a text names: one address, or a CIDR block with or without host bits.

    Raises:
        ValueError: it is neither.
    """
    network = ipaddress.ip_network(text, strict=False)
    return AddressRange(_key(network.network_address), _key(network.broadcast_address))


def text_of(addresses: AddressRange) -> str:
    """Return the one notation of a range made by `range_of`: an address, or a block in CIDR notation."""
    mapped = addresses.low.startswith(_MAPPED) and addresses.high.startswith(_MAPPED)
    low, high = (_address(key, mapped=mapped) for key in (addresses.low, addresses.high))
    if low == high:
        return str(low)
    (network,) = ipaddress.summarize_address_range(low, high)
    return str(network)


def _key(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bytes:
    return address.packed if address.version == 6 else _MAPPED + address.packed  # noqa: PLR2004 - IP version


def _address(key: bytes, *, mapped: bool) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    return ipaddress.IPv4Address(key[-4:]) if mapped else ipaddress.IPv6Address(key)

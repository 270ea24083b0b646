"""How often a route may be called, and by whom a call is counted: a user, or an address.

Guessing gift codes is what this stands against. The database counts, so that the limits hold over
all processes; it sees users and addresses as keyed hashes only.
"""

import hashlib
import hmac
import ipaddress
import math
from collections.abc import Sequence
from typing import Final

from aiohttp import web

from service.errors import rate_limited
from service.keys import CALLER, DB, SETTINGS
from service.queries import limits
from service.settings import Network, Settings
from service.wire import Limit

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

LIMIT_SECONDS: Final = 60
_IPV6_SITE_BITS: Final = 64
"""A site gets at least this much of IPv6, and could call from any address in it."""


async def require_turn(request: web.Request, declared: Sequence[Limit]) -> None:
    """Count a call under its route's limits; ApiError 429 with Retry-After, counting nothing."""
    settings = request.app[SETTINGS]
    address = client_address(
        request.remote, request.headers.getall("X-Forwarded-For", ()), settings.trusted_proxies
    )
    allowed = {}
    for limit in declared:
        who = request[CALLER].user_id if limit.by == "user" else site_of(address)
        allowed[f"{limit.name}:{limit.by}:{_hash(settings, who)}"] = limit.allowed
    wait = await limits.take_turn(request.app[DB], allowed, seconds=LIMIT_SECONDS)
    if wait > 0:
        raise rate_limited(math.ceil(wait))


def client_address(
    peer: str | None, forwarded: Sequence[str], trusted: Sequence[Network]
) -> Address | None:
    """The address a request came from: the peer's, or what proxies that are trusted say.

    Every proxy adds the address it was called from at the end of X-Forwarded-For, so the list is
    read from there as long as whoever said it is trusted. What a client wrote itself stands before
    that, and is never believed. None where there is no address.
    """
    address = _parse(peer or "")
    for said in reversed([entry for header in forwarded for entry in header.split(",")]):
        if address is None or not any(address in network for network in trusted):
            break
        before = _parse(said)
        if before is None:
            break  # a trusted proxy says something that is no address: the proxy is all we know
        address = before
    return address


def site_of(address: Address | None) -> str:
    """What is counted as one caller: an IPv4 address, or a /64 of IPv6."""
    if isinstance(address, ipaddress.IPv6Address):
        return str(ipaddress.ip_network((address, _IPV6_SITE_BITS), strict=False))
    return str(address)


def _parse(text: str) -> Address | None:
    text = text.strip()
    if text.startswith("["):  # [2001:db8::1]:443
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:  # 192.0.2.1:443
        text = text.partition(":")[0]
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


def _hash(settings: Settings, who: str) -> str:
    return hmac.new(settings.service_keys[0].encode(), who.encode(), hashlib.sha256).hexdigest()

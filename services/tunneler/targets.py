"""Which address a server may announce: pure judgement on host and port. Resolves no name and opens nothing.

A job chooses only a host and a port within its system's networks: never an SSH target, an option or a command.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence

_HOST_NAME = re.compile(
    r"(?=.{1,253}$)[a-zA-Z0-9]([a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?(\.[a-zA-Z0-9]([a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?)*"
)


class RefusedTargetError(Exception):
    """The announced address is not one a tunnel may lead to, and why."""


def check_target(
    host: str, port: int, *, networks: Sequence[str], ports: tuple[int, int], hosts: Sequence[str]
) -> None:
    """Returns if a tunnel may lead there. Raises RefusedTargetError.

    An address must lie in one of the configured `networks` (CIDR); loopback, link-local, multicast and unspecified
    addresses only where a network that is itself of that kind names them. A name must match one of the configured
    `hosts` (regular expressions, whole name) and is resolved by the login node, never here.
    """
    low, high = ports
    if not low <= port <= high:
        raise RefusedTargetError(f"port {port} is outside the system's range {low}-{high}")
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        if not _HOST_NAME.fullmatch(host) or not any(re.fullmatch(each, host) for each in hosts):
            raise RefusedTargetError(f"host {host[:80]!r} is not a compute node of the system") from None
        return
    if not any(_covers(ipaddress.ip_network(network), address) for network in networks):
        raise RefusedTargetError(f"address {address} is outside the system's networks")


_Network = ipaddress.IPv4Network | ipaddress.IPv6Network
_Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def _covers(network: _Network, address: _Address) -> bool:
    if address not in network:
        return False
    special = address.is_loopback or address.is_link_local or address.is_multicast or address.is_unspecified
    return not special or network.is_loopback or network.is_link_local

"""Keeps a process off the network: `only()` lets it reach loopback and nothing else. Knows nothing of interlock.

An audit hook sees every connection and look-up of its process, whoever makes it, and can't be removed again.
"""

from __future__ import annotations

import ipaddress
import sys
from typing import Any


def is_loopback(host: str) -> bool:
    if host in ("", "localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def refuse(event: str, args: tuple[Any, ...]) -> None:
    if event == "socket.connect" and isinstance(args[1], tuple):  # a path is a local socket
        host = args[1][0]
    elif event == "socket.getaddrinfo":
        host = args[0] or ""
    else:
        return
    name = host.decode("ascii", "replace") if isinstance(host, bytes) else str(host)
    if not is_loopback(name):
        raise PermissionError(f"a test reached for {name}: tests use loopback only")


def only() -> None:
    sys.addaudithook(refuse)

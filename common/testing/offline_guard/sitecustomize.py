"""Imported by every Python process of an offline command: connections leave loopback no more.

An audit hook sees what any library does with a socket, and cannot be taken back.
"""

import ipaddress
import sys
from typing import Any

_ADDRESS = {"socket.connect": 1, "socket.sendto": 1, "socket.getaddrinfo": 0}


def _guard(event: str, arguments: tuple[Any, ...]) -> None:
    if event not in _ADDRESS:
        return
    address = arguments[_ADDRESS[event]]
    host = address[0] if isinstance(address, tuple) else address
    if event != "socket.getaddrinfo" and not isinstance(address, tuple):
        return  # a socket of this machine
    if host and not _is_loopback(host):
        raise OSError(f"{host} is not on this machine, and the network is cut off")


def _is_loopback(host: str | bytes) -> bool:
    text = host.decode() if isinstance(host, bytes) else host
    try:
        return ipaddress.ip_address(text).is_loopback
    except ValueError:
        return text == "localhost"


sys.addaudithook(_guard)

"""A guard: whatever reaches for another machine than this one fails, and is remembered."""

from __future__ import annotations

import ipaddress
import socket
from typing import Any

ATTEMPTS: list[str] = []

_connect, _connect_ex, _getaddrinfo = socket.socket.connect, socket.socket.connect_ex, socket.getaddrinfo


def _refuse(host: str) -> None:
    ATTEMPTS.append(host)
    raise ConnectionRefusedError(f"tests must not reach {host}")


def _check(place: Any) -> None:
    if isinstance(place, tuple) and not ipaddress.ip_address(place[0].partition("%")[0]).is_loopback:
        _refuse(str(place[0]))


def _guarded_connect(self: socket.socket, place: Any) -> None:
    _check(place)
    return _connect(self, place)


def _guarded_connect_ex(self: socket.socket, place: Any) -> int:
    _check(place)
    return _connect_ex(self, place)


def _guarded_getaddrinfo(host: Any, *arguments: Any, **options: Any) -> Any:
    name = host.decode() if isinstance(host, bytes) else host
    try:
        near = name in (None, "", "localhost") or ipaddress.ip_address(name).is_loopback
    except ValueError:
        near = False
    if not near:
        ATTEMPTS.append(str(name))
        raise socket.gaierror(f"tests must not look up {name}")
    return _getaddrinfo(host, *arguments, **options)


def install() -> None:
    """Guard this process, and those that are forked from it."""
    socket.socket.connect = _guarded_connect  # type: ignore[method-assign]
    socket.socket.connect_ex = _guarded_connect_ex  # type: ignore[method-assign]
    socket.getaddrinfo = _guarded_getaddrinfo

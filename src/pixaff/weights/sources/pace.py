"""A least speed for answers over HTTP: the time limits of a socket restart with every byte that drips from it."""

from __future__ import annotations

import io
import socket
import time
from typing import Any

from requests.adapters import HTTPAdapter
from urllib3 import PoolManager

MOST_HEADERS = 1 << 20


class TooSlow(TimeoutError):
    """A server sends less than it must, or headers without end."""


class _Reader(io.RawIOBase):
    """What comes from a socket, with a look at the clock.

    Args:
        raw: What is read from.
        window: Seconds of waiting after which the speed is looked at.
        least: Bytes that must have come in that time.
    """

    def __init__(self, raw: io.RawIOBase, window: float, least: float) -> None:
        self.raw, self.window, self.least = raw, window, least
        self.waited, self.came, self.all = 0.0, 0, 0
        self.most: int | None = None

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int | None:
        began = time.monotonic()
        count: int | None = self.raw.readinto(buffer)
        self.waited += time.monotonic() - began
        self.came += count or 0
        self.all += count or 0
        if self.waited > self.window:
            if count and self.came < self.least:
                raise TooSlow
            self.waited, self.came = 0.0, 0
        if self.most is not None and self.all > self.most:
            raise TooSlow
        return count

    def close(self) -> None:
        try:
            self.raw.close()
        finally:
            super().close()


class PacedAdapter(HTTPAdapter):
    """For `requests.Session.mount`: gives up a server that sends less than so many bytes a second.

    Args:
        window: Seconds over which the speed is taken; waiting for the own disk does not count.
        slowest: Bytes a second.
    """

    def __init__(self, window: float, slowest: float) -> None:
        self.window, self.least = window, window * slowest
        super().__init__()

    def init_poolmanager(self, *arguments: Any, **options: Any) -> None:
        super().init_poolmanager(*arguments, **options)
        self._pace(self.poolmanager)

    def proxy_manager_for(self, proxy: str, **options: Any) -> Any:
        known = proxy in self.proxy_manager
        manager = super().proxy_manager_for(proxy, **options)
        if not known:
            self._pace(manager)
        return manager

    def _pace(self, manager: PoolManager) -> None:
        window, least = self.window, self.least
        manager.pool_classes_by_scheme = dict(manager.pool_classes_by_scheme)
        for scheme, pool in manager.pool_classes_by_scheme.items():
            kind: Any = pool.ConnectionCls  # type: ignore[attr-defined]

            class Response(kind.response_class):
                fp: io.BufferedReader

                def __init__(self, sock: socket.socket, *arguments: Any, **options: Any) -> None:
                    super().__init__(sock, *arguments, **options)
                    self.reader = _Reader(self.fp.detach(), window, least)
                    self.fp = io.BufferedReader(self.reader)

                def begin(self) -> None:
                    self.reader.most = MOST_HEADERS  # "100 Continue" may be said without end
                    super().begin()
                    self.reader.most = None

            connection = type("Connection", (kind,), {"response_class": Response})
            paced: Any = type("Pool", (pool,), {"ConnectionCls": connection})
            manager.pool_classes_by_scheme[scheme] = paced

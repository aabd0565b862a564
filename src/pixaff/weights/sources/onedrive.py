"""OneDrive's share links, without an account: the ways in, one after the other.

None of it is documented. The web pages of OneDrive do the same: a token that anybody gets, then the item behind the
share, whose download address is valid for a while. Tokens and download addresses are never shown.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import parse_qs, quote, urlencode, urlsplit

from pixaff.errors import DownloadError
from pixaff.weights.sources import resuming, web
from pixaff.weights.sources.base import Found, Source
from pixaff.weights.sources.connection import Connection
from pixaff.weights.sources.web import StatusError, get_json, patiently, request

APP_ID, APP_UUID = "1141147648", "5cbed6ac-a083-4e14-b191-b4ba07653de2"
"""What OneDrive's own pages call themselves when they ask for a token."""

_DOWNLOAD = ("@content.downloadUrl", "@microsoft.graph.downloadUrl")

_HOSTS = ("1drv.ms", "onedrive.live.com")

Way = tuple[str, Callable[[], dict[str, Any]]]
"""The name of a way, and what finds the item by it."""


class OneDrive(Source):
    """A file behind a share link of OneDrive.

    Attributes:
        token_url, shares_url, drives_url: Where it gives out tokens, shared items, and items by their id.
    """

    kind: ClassVar[str] = "onedrive"
    token_url: ClassVar[str] = "https://api-badgerp.svc.ms/v1.0/token"
    shares_url: ClassVar[str] = "https://my.microsoftpersonalcontent.com/_api/v2.0/shares"
    drives_url: ClassVar[str] = "https://api.onedrive.com/v1.0/drives"

    @classmethod
    def parse(cls, value: str) -> Source:
        if not web.is_address(value):
            raise cls.unknown(f"{cls.kind}:{web.shown(value)}", "an http or https address after the colon")
        return cls(value)

    @classmethod
    def recognise(cls, address: str) -> Source | None:
        return cls(address) if urlsplit(address).hostname in _HOSTS else None

    def download(self, folder: Path, file: str, connection: Connection, *, label: str, size: int | None = None) -> Path:
        def fetch(item: dict[str, Any]) -> Path:
            address = _download_address(item)
            return resuming.download(address, folder, file, connection, label=label, origin=self.value, size=size)

        def take(find: Callable[[], dict[str, Any]]) -> Path:
            item = find()
            try:
                return fetch(item)
            except StatusError as error:
                if error.status not in (401, 403, 410):
                    raise
            # The download address expires; what is there already is continued from a new one.
            return fetch(find())

        failures = []
        for name, find in _ways(self.value, connection):
            try:
                return take(find)
            except DownloadError as error:
                failures.append(f"{name}: {error.message}")
                connection.say(f"{label}: OneDrive, {failures[-1]}")
        raise DownloadError(f"OneDrive: {'; '.join(failures)}")

    def ways(self, file: str, connection: Connection) -> Iterator[tuple[str, Found | DownloadError]]:
        for name, find in _ways(self.value, connection):
            try:
                yield name, web.probe(_download_address(find()), connection)
            except DownloadError as error:
                yield name, error

    @property
    def browser(self) -> str:
        # The short link is no secret beyond its path, and opens with its ?e= only; longer addresses hold keys.
        parts = urlsplit(self.value)
        short = parts.hostname == parts.netloc and [*parse_qs(parts.query)] in ([], ["e"])
        return self.value if short else web.shown(self.value)

    def __str__(self) -> str:
        return f"{self.kind}:{self.browser}"


def _ways(link: str, connection: Connection) -> Iterator[Way]:
    """The ways to the item behind a link, in the order in which they are tried.

    The link's redirect is only asked for when the first way has failed.
    """
    yield "by the share address", lambda: _shared(share_id(link), connection)
    try:
        found = _redirected(link, connection)
    except DownloadError as error:
        message = error.message

        def fail() -> dict[str, Any]:
            raise DownloadError(message)

        yield "by the link's redirect", fail
        return
    if "redeem" in found:
        yield "by the redirect's redeem value", lambda: _shared(found["redeem"].rstrip("="), connection)
    if {"resid", "authkey", "cid"} <= found.keys():
        yield "by the redirect's resid and authkey", lambda: _item(found, connection)


def share_id(link: str) -> str:
    """The share address, ``?e=`` included, in base64url without padding."""
    return base64.urlsafe_b64encode(link.encode()).decode().rstrip("=")


def _shared(identity: str, connection: Connection) -> dict[str, Any]:
    address = f"{OneDrive.shares_url}/u!{quote(identity, safe='')}/driveitem"

    def ask() -> dict[str, Any]:
        headers = {"Authorization": f"Badger {_token(connection)}", "Prefer": "autoredeem"}
        return get_json(address, connection, "the shared item", headers)

    try:
        return ask()
    except StatusError as error:
        if error.status != 401:
            raise
    connection.say("OneDrive: the token has expired; asking for a new one")
    return ask()


def _token(connection: Connection) -> str:
    found = get_json(OneDrive.token_url, connection, "the token", {"AppId": APP_ID}, body={"appId": APP_UUID})
    token = found.get("token")
    # It goes into a header, where a line break would begin another one.
    if not isinstance(token, str) or not token.isascii() or not token.isprintable() or not token:
        raise DownloadError("the token: found none in the answer")
    return token


def _redirected(link: str, connection: Connection) -> dict[str, str]:
    """What the addresses that the short link leads to say about the item."""
    hops: list[str] = []

    def once() -> None:
        hops.clear()
        with request(link, connection, hops=hops) as response:
            if len(hops) < 2:
                web.judge(response, "the short link")

    patiently(once, connection, "the short link")
    found = {}
    for hop in hops[1:]:
        for key, values in parse_qs(urlsplit(hop).query).items():
            found[key.lower()] = values[0]
    if "resid" not in found and "!" in found.get("id", ""):
        found["resid"] = found["id"]
    if "redeem" not in found and not {"resid", "authkey", "cid"} <= found.keys():
        raise DownloadError("found neither a redeem value nor resid, authkey and cid")
    return found


def _item(found: dict[str, str], connection: Connection) -> dict[str, Any]:
    drive, item = quote(found["cid"], safe=""), quote(found["resid"], safe="!")
    query = urlencode({"authkey": found["authkey"]})
    return get_json(f"{OneDrive.drives_url}/{drive}/items/{item}?{query}", connection, "the item")


def _download_address(item: dict[str, Any]) -> str:
    address = next((item[key] for key in _DOWNLOAD if isinstance(item.get(key), str)), "")
    if urlsplit(address).scheme not in ("http", "https"):
        kind = "a folder" if "folder" in item else "an item"
        raise DownloadError(f"found {kind} without a download address")
    return str(address)

"""OneDrive's share links, without an account: the ways in, one after the other.

None of it is documented. The web pages of OneDrive do the same: a token that anybody gets, then the item behind the
share, whose download address is valid for a while. Tokens and download addresses are never shown.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, urlencode, urlsplit

from pixaff.errors import DownloadError
from pixaff.weights import http, resuming
from pixaff.weights.http import StatusError, get_json, patiently, request
from pixaff.weights.network import Found, Network

APP_ID, APP_UUID = "1141147648", "5cbed6ac-a083-4e14-b191-b4ba07653de2"
"""What OneDrive's own pages call themselves when they ask for a token."""

_DOWNLOAD = ("@content.downloadUrl", "@microsoft.graph.downloadUrl")

Way = tuple[str, Callable[[], dict[str, Any]]]
"""The name of a way, and what finds the item by it."""


def download(link: str, folder: Path, file: str, network: Network, *, label: str, size: int | None = None) -> Path:
    """Fetch the file behind a share link, or the rest of it; see `pixaff.weights.resuming.download`.

    Raises:
        DownloadError: No way leads to it; says of each how it failed.
        OutputError: The disk is full.
    """

    def fetch(item: dict[str, Any]) -> Path:
        address = _download_address(item)
        return resuming.download(address, folder, file, network, label=label, origin=link, size=size)

    def take(find: Callable[[], dict[str, Any]]) -> Path:
        item = find()
        try:
            return fetch(item)
        except StatusError as error:
            if error.status not in (401, 403, 410):
                raise
        # The download address expires; what is there already is gone on with from a new one.
        return fetch(find())

    failures = []
    for name, find in ways(link, network):
        try:
            return take(find)
        except DownloadError as error:
            failures.append(f"{name}: {error.message}")
            network.say(f"{label}: OneDrive, {failures[-1]}")
    raise DownloadError(f"OneDrive: {'; '.join(failures)}")


def probe(link: str, network: Network) -> Iterator[tuple[str, Found | DownloadError]]:
    """What each way finds: its name, and the file or what is wrong."""
    for name, find in ways(link, network):
        try:
            yield name, http.probe(_download_address(find()), network)
        except DownloadError as error:
            yield name, error


def ways(link: str, network: Network) -> Iterator[Way]:
    """The ways to the item behind a link, in the order in which they are tried.

    The link's redirect is only asked for when the first way has failed.
    """
    yield "by the share address", lambda: _shared(share_id(link), network)
    try:
        found = _redirected(link, network)
    except DownloadError as error:
        message = error.message

        def fail() -> dict[str, Any]:
            raise DownloadError(message)

        yield "by the link's redirect", fail
        return
    if "redeem" in found:
        yield "by the redirect's redeem value", lambda: _shared(found["redeem"].rstrip("="), network)
    if {"resid", "authkey", "cid"} <= found.keys():
        yield "by the redirect's resid and authkey", lambda: _item(found, network)


def share_id(link: str) -> str:
    """The share address, ``?e=`` included, in base64url without padding."""
    return base64.urlsafe_b64encode(link.encode()).decode().rstrip("=")


def _shared(identity: str, network: Network) -> dict[str, Any]:
    address = f"{network.shares_url}/u!{quote(identity, safe='')}/driveitem"

    def ask() -> dict[str, Any]:
        headers = {"Authorization": f"Badger {_token(network)}", "Prefer": "autoredeem"}
        return get_json(address, network, "the shared item", headers)

    try:
        return ask()
    except StatusError as error:
        if error.status != 401:
            raise
    network.say("OneDrive: the token has expired; asking for a new one")
    return ask()


def _token(network: Network) -> str:
    found = get_json(network.token_url, network, "the token", {"AppId": APP_ID}, body={"appId": APP_UUID})
    token = found.get("token")
    # It goes into a header, where a line break would begin another one.
    if not isinstance(token, str) or not token.isascii() or not token.isprintable() or not token:
        raise DownloadError("the token: found none in the answer")
    return token


def _redirected(link: str, network: Network) -> dict[str, str]:
    """What the addresses that the short link leads to say about the item."""
    hops: list[str] = []

    def once() -> None:
        hops.clear()
        with request(link, network, hops=hops) as response:
            if len(hops) < 2:
                http.judge(response, "the short link")

    patiently(once, network, "the short link")
    found = {}
    for hop in hops[1:]:
        for key, values in parse_qs(urlsplit(hop).query).items():
            found[key.lower()] = values[0]
    if "resid" not in found and "!" in found.get("id", ""):
        found["resid"] = found["id"]
    if "redeem" not in found and not {"resid", "authkey", "cid"} <= found.keys():
        raise DownloadError("found neither a redeem value nor resid, authkey and cid")
    return found


def _item(found: dict[str, str], network: Network) -> dict[str, Any]:
    drive, item = quote(found["cid"], safe=""), quote(found["resid"], safe="!")
    query = urlencode({"authkey": found["authkey"]})
    return get_json(f"{network.drives_url}/{drive}/items/{item}?{query}", network, "the item")


def _download_address(item: dict[str, Any]) -> str:
    address = next((item[key] for key in _DOWNLOAD if isinstance(item.get(key), str)), "")
    if urlsplit(address).scheme not in ("http", "https"):
        kind = "a folder" if "folder" in item else "an item"
        raise DownloadError(f"found {kind} without a download address")
    return str(address)

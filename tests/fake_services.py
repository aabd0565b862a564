"""Servers on 127.0.0.1 that behave as Google Drive, as OneDrive, and badly."""

from __future__ import annotations

import hashlib
import io
import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import requests

from pixaff.weights.sources import Connection, OneDrive

DRIVE_HOSTS = ("drive.google.com", "drive.usercontent.google.com", "docs.google.com")

PAGE = b"<!DOCTYPE html><html><head><title>Sign in</title></head><body>no file here</body></html>"
QUOTA = (
    b"<!DOCTYPE html><html><head><title>Google Drive - Quota exceeded</title></head><body>"
    b'<p class="uc-error-caption">Sorry, you can\'t view or download this file at this time.</p>\n'
    b'<p class="uc-error-subcaption">Too many users have viewed or downloaded this file recently.</p></body></html>'
)


def weights_bytes(seed: int = 0, size: int = 1000) -> bytes:
    """A file of weights as torch writes it, of about 4 * size bytes."""
    import torch  # not at the top: processes that only fetch do without

    file = io.BytesIO()
    torch.save({"conv.weight": torch.rand(size, generator=torch.Generator().manual_seed(seed))}, file)
    return file.getvalue()


def impatient(**options: Any) -> Connection:
    """For servers that answer at once."""
    return Connection(**{"timeout": 5.0, "slowest": 1e6, "retries": 3, "backoff": 0.01, "longest_wait": 1.0, **options})


@dataclass
class Call:
    """A request, and the means to answer it."""

    handler: BaseHTTPRequestHandler
    method: str
    path: str
    query: dict[str, str]
    headers: Any
    body: bytes

    def answer(self, status: int, body: bytes = b"", claim: int | None = None, **headers: str) -> None:
        """Send an answer, whose length may be claimed to be another than it is."""
        handler = self.handler
        handler.send_response(status)
        handler.send_header("Content-Length", str(len(body) if claim is None else claim))
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.send_header("Connection", "close")
        handler.end_headers()
        handler.wfile.write(body)
        handler.wfile.flush()
        handler.close_connection = True

    def json(self, content: Any, status: int = 200) -> None:
        self.answer(status, json.dumps(content).encode(), Content_Type="application/json")

    def redirect(self, location: str, status: int = 302) -> None:
        self.answer(status, Location=location)


@dataclass
class Fake:
    """A server; ``routes`` maps paths to what answers, ``calls`` remembers what was asked."""

    routes: dict[str, Callable[[Call], None]] = field(default_factory=dict)
    calls: list[Call] = field(default_factory=list)
    url: str = ""

    def asked(self, path: str) -> list[Call]:
        return [call for call in self.calls if call.path == path]


@contextmanager
def serving() -> Iterator[Fake]:
    fake = Fake()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_one(self) -> None:
            parts = urlsplit(self.path)
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            query = {key: values[0] for key, values in parse_qs(parts.query).items()}
            call = Call(self, self.command, parts.path, query, self.headers, body)
            fake.calls.append(call)
            route = fake.routes.get(parts.path)
            try:
                if route is None:
                    call.answer(404, b"nothing")
                else:
                    route(call)
            except (BrokenPipeError, ConnectionResetError):
                self.close_connection = True

        do_GET = do_POST = handle_one

        def log_message(self, *arguments: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    fake.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield fake
    finally:
        server.shutdown()
        server.server_close()


@dataclass
class File:
    """A file as a good server gives it: with an ETag, and in parts.

    Attributes:
        body: The content.
        cuts: For the first calls, the share of the answer after which the connection ends.
        tag: "" sends none.
        ranges: Whether parts are given.
        stall: Seconds to stall in the middle of the first answer.
        fails: Status of the first calls.
    """

    body: bytes
    cuts: list[float] = field(default_factory=list)
    tag: str | None = None
    ranges: bool = True
    stall: float = 0.0
    fails: list[tuple[int, dict[str, str]]] = field(default_factory=list)
    headers: dict[str, str] = field(default_factory=dict)

    def __call__(self, call: Call) -> None:
        if self.fails:
            status, headers = self.fails.pop(0)
            call.answer(status, b"busy", **headers)
            return
        body, status, headers = self.body, 200, dict(self.headers)
        tag = f'"{hashlib.md5(self.body).hexdigest()}"' if self.tag is None else self.tag
        if tag:
            headers["ETag"] = tag
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", call.headers.get("Range", ""))
        if asked and self.ranges and call.headers.get("If-Range", tag) == tag:
            start, end = int(asked[1]), min(int(asked[2] or len(body)), len(body) - 1)
            if start >= len(body):
                call.answer(416, Content_Range=f"bytes */{len(body)}")
                return
            headers["Content-Range"] = f"bytes {start}-{end}/{len(body)}"
            body, status = body[start : end + 1], 206
        if self.cuts:
            call.answer(status, body[: int(len(body) * self.cuts.pop(0))], claim=len(body), **headers)
        elif self.stall:
            pause, self.stall = self.stall, 0.0
            call.answer(status, body[: len(body) // 2], claim=len(body), **headers)
            time.sleep(pause)
        else:
            call.answer(status, body, **headers)


def drive_file(fake: Fake, file: File, confirm: bool = False, name: str = "published.pth") -> None:
    """Give ``file`` for every id, as Drive does; large ones after a page that asks to confirm."""
    file.headers |= {
        "Content-Disposition": f'attachment; filename="{name}"',
        "Content-Type": "application/octet-stream",
    }
    form = (
        "<!DOCTYPE html><html><head><title>Google Drive - Virus scan warning</title></head><body>"
        '<form id="download-form" action="https://drive.usercontent.google.com/download" method="get">'
        '<input type="hidden" name="id" value="{id}"><input type="hidden" name="export" value="download">'
        '<input type="hidden" name="confirm" value="t"><input type="hidden" name="uuid" value="u-1">'
        "</form></body></html>"
    )

    def first(call: Call) -> None:
        if confirm:
            page = form.format(id=call.query["id"]).encode()
            call.answer(200, page, Content_Type="text/html; charset=utf-8")
        else:
            file(call)

    fake.routes["/uc"] = first
    fake.routes["/download"] = lambda call: file(call) if call.query.get("confirm") == "t" else call.answer(400)


def drive_folder(fake: Fake, files: dict[str, bytes], title: str = "Hybrid Pascal VOC") -> dict[str, str]:
    """Give a folder view and its files; returns the ids by name."""
    ids = {name: f"file{index:02}-{'x' * 26}" for index, name in enumerate(files)}
    links = "".join(
        f'<div class="flip-entry"><a href="https://drive.google.com/file/d/{key}/view?usp=drive_web">'
        f'<div class="flip-entry-title">{name}</div></a></div>'
        for name, key in ids.items()
    )
    page = f"<html><head><title>{title}</title></head><body>{links}</body></html>".encode()
    fake.routes["/embeddedfolderview"] = lambda call: call.answer(200, page, Content_Type="text/html")
    served = {
        ids[name]: File(body, headers={"Content-Disposition": f'attachment; filename="{name}"', "Content-Type": "a/b"})
        for name, body in files.items()
    }
    fake.routes["/uc"] = lambda call: served[call.query["id"]](call)
    return ids


def route_drive(fake: Fake, patch: Callable[[Any, str, Any], None] = setattr) -> None:
    """Send what is meant for Google to the fake: gdown has the addresses built in."""
    send = requests.adapters.HTTPAdapter.send

    def routed(self: Any, request: requests.PreparedRequest, **options: Any) -> requests.Response:
        asked = request.url or ""
        parts = urlsplit(asked)
        if parts.hostname not in DRIVE_HOSTS:
            return send(self, request, **options)
        copy = request.copy()
        copy.url = fake.url + parts._replace(scheme="", netloc="").geturl()
        response = send(self, copy, **options)
        response.url, response.request = asked, request
        return response

    patch(requests.adapters.HTTPAdapter, "send", routed)


def route_onedrive(fake: Fake, patch: Callable[[Any, str, Any], None] = setattr) -> None:
    """Send what is meant for OneDrive's services to the fake."""
    for part in ("token", "shares", "drives"):
        patch(OneDrive, f"{part}_url", f"{fake.url}/{part}")

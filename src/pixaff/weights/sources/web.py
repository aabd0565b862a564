"""Questions over HTTP: redirects checked one by one, faults that may pass tried again.

No message here shows the query of an address: it may hold a token.
"""

from __future__ import annotations

import contextlib
import logging
import re
import time
from collections.abc import Callable, Iterator, Mapping
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urljoin, urlsplit

from pixaff._version import __version__
from pixaff.errors import DownloadError, quoted, shortened
from pixaff.io.heads import is_page, page_words
from pixaff.io.records import parse_json
from pixaff.weights.sources.base import Found
from pixaff.weights.sources.connection import Connection

if TYPE_CHECKING:
    import requests

CHUNK = 1 << 16
GOOD_PIECE = 1 << 20
HEAD = 1 << 10
MOST_REDIRECTS = 10
_REDIRECTS = (301, 302, 303, 307, 308)
_MEANING = {401: "asks for a login", 403: "is not public", 404: "is not there", 410: "is gone"}

T = TypeVar("T")


class StatusError(DownloadError):
    """A server answered with an error that waiting does not mend; ``status`` is its number."""

    def __init__(self, message: str, hint: str = "", status: int = 0) -> None:
        super().__init__(message, hint)
        self.status = status


class Passing(Exception):
    """A fault that may pass.

    Args:
        words: What happened.
        wait: Seconds that the server asks to wait; None leaves it to the caller.
        reached: Bytes that the file has had before it.
    """

    def __init__(self, words: str, wait: float | None = None, reached: int = 0) -> None:
        super().__init__(words)
        self.words, self.wait, self.reached = words, wait, reached


def is_address(text: str) -> bool:
    """Whether a text is an http(s) address that can be asked."""
    try:
        parts = urlsplit(text)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port beyond 65535, brackets without an end
        return False


def shown(address: str) -> str:
    """An address without the parts that may be secret: user, password, query."""
    scheme, mark, rest = address.partition("://")
    if not mark:
        scheme, rest = "", address
    if not is_address(address):
        rest = rest.rpartition("@")[2]  # where the host begins is anybody's guess
    host, slash, path = re.split(r"[?#;]", rest, maxsplit=1)[0].partition("/")
    return shortened(scheme + mark + host.rpartition("@")[2] + slash + path, 200)


def patiently(action: Callable[[], T], connection: Connection, what: str, longest: int = 0) -> T:
    """Do something until it does not fail in passing.

    Args:
        action: What to do.
        connection: Patience.
        what: What it is in words.
        longest: Bytes that are there of a file. An attempt that made it longer than ever by a good piece is progress,
            and the attempts are counted anew.

    Raises:
        DownloadError: It failed ``connection.retries + 1`` times, or the server asks for too long a wait.
    """
    attempt = 0
    while True:
        try:
            return action()
        except Passing as fault:
            attempt += 1
            if fault.reached >= longest + GOOD_PIECE:
                attempt, longest = 0, fault.reached
            if attempt > connection.retries:
                times = "" if attempt == 1 else f", {attempt} times"
                raise DownloadError(f"{what}: {fault.words}{times}", "try again later") from None
            wait = connection.backoff * 2 ** max(attempt - 1, 0) if fault.wait is None else fault.wait
            if wait > connection.longest_wait and fault.wait is not None:
                raise DownloadError(f"{what}: {fault.words}, and asks to wait {wait:.0f} s", "try again then") from None
            wait = min(wait, connection.longest_wait)
            connection.say(f"{what}: {fault.words}; trying again in {wait:.0f} s")
        time.sleep(wait)


@contextlib.contextmanager
def request(
    address: str,
    connection: Connection,
    *,
    headers: Mapping[str, str] | None = None,
    body: Any = None,
    hops: list[str] | None = None,
) -> Iterator[requests.Response]:
    """Ask once, with redirects followed; yields the answer, whose body is not read yet.

    Args:
        address: http or https.
        connection: Patience.
        headers: Sent along; Authorization goes to the first host only.
        body: Sent by POST as JSON, where given.
        hops: Gets every address on the way.

    Raises:
        Passing: The connection fails.
        DownloadError: A redirect leads in a circle, to another kind of address or from https to http.
    """
    import requests  # here, because naming an address, as a network's file does, must not take so long

    from pixaff.weights.sources.pace import PacedAdapter

    sent = {"User-Agent": f"pixaff/{__version__}", "Accept-Encoding": "identity", **(headers or {})}
    with requests.Session() as session:
        for scheme in ("http://", "https://"):
            session.mount(scheme, PacedAdapter(2 * connection.timeout, connection.slowest))
        for _ in range(MOST_REDIRECTS + 1):
            if hops is not None:
                hops.append(address)
            try:
                response = session.request(
                    "GET" if body is None else "POST",
                    address,
                    headers=sent,
                    json=body,
                    stream=True,
                    allow_redirects=False,
                    timeout=connection.timeout,
                )
            except (requests.exceptions.SSLError, requests.exceptions.InvalidSchema, ValueError) as error:
                raise DownloadError(f"{shown(address)}: {fault_words(error)}") from None
            except Exception as error:  # what an answer that is no HTTP leads to; it may quote the whole address
                raise Passing(fault_words(error)) from None
            location = response.headers.get("Location")
            if response.status_code not in _REDIRECTS or location is None:
                break
            response.close()
            target = next_address(address, location)
            if urlsplit(target).netloc != urlsplit(address).netloc:
                sent.pop("Authorization", None)
            address, body = target, None if response.status_code == 303 else body
        else:
            raise DownloadError(f"{shown(address)}: more than {MOST_REDIRECTS} redirects, perhaps in a circle")
        with contextlib.closing(response):
            yield response


def next_address(address: str, location: str) -> str:
    """Where a redirect leads.

    Raises:
        DownloadError: Anywhere but to http or https, or from https to http.
    """
    try:
        target = urljoin(address, location)
    except ValueError:
        target = ""
    if not is_address(target):
        scheme = re.match(r"(?!https?:)[a-zA-Z][\w+.-]{0,20}:", location)
        raise DownloadError(
            f"{shown(address)}: redirected to {scheme[0] if scheme else 'no valid'} address, expected http or https"
        )
    if urlsplit(address).scheme == "https" and urlsplit(target).scheme == "http":
        raise DownloadError(f"{shown(address)}: redirected from https to http, which anybody on the way can change")
    return target


def judge(response: requests.Response, what: str) -> None:
    """Let good answers through.

    Raises:
        Passing: The server is busy or broken at the moment.
        StatusError: It will answer the same tomorrow.
    """
    status = response.status_code
    if status in (200, 206):
        return
    if status in (408, 425, 429) or status >= 500:
        raise Passing(f"HTTP {status}", retry_after(response.headers.get("Retry-After")))
    raise StatusError(f"{what}: HTTP {status}, {_MEANING.get(status, response.reason or 'refused')}", status=status)


def retry_after(value: str | None) -> float | None:
    """Seconds in a Retry-After header, which holds a number or a date."""
    if not value:
        return None
    if re.fullmatch(r"\d{1,9}", value.strip()):
        return float(value)
    with contextlib.suppress(ValueError, TypeError):
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    return None


def get_json(
    address: str, connection: Connection, what: str, headers: Mapping[str, str] | None = None, body: Any = None
) -> dict[str, Any]:
    """Ask a service for a JSON object; the answer is never quoted in errors, as it may hold a token.

    Raises:
        DownloadError: No such answer.
    """

    def once() -> dict[str, Any]:
        with request(
            address, connection, headers={"Accept": "application/json", **(headers or {})}, body=body
        ) as answer:
            judge(answer, what)
            text = _piece(answer, GOOD_PIECE)
        try:
            found = parse_json(text)
        except ValueError:
            found = None
        if not isinstance(found, dict):
            words = page_words(text) if is_page(text) else "found none"
            raise DownloadError(f"{what}: {words}, expected a JSON object")
        return found

    return patiently(once, connection, what)


def probe(address: str, connection: Connection) -> Found:
    """Ask for the first bytes of a file only.

    Raises:
        DownloadError: There is none.
    """
    what = shown(address)

    def once() -> Found:
        with request(address, connection, headers={"Range": f"bytes=0-{HEAD - 1}"}) as response:
            judge(response, what)
            head = _piece(response, HEAD)
            if is_page(head):
                raise DownloadError(f"{what}: {page_words(head)}, expected a file")
            total = content_range(response)[1] if response.status_code == 206 else body_length(response)
            return Found(total, head)

    return patiently(once, connection, what)


def content_range(response: requests.Response) -> tuple[int, int | None]:
    """Where a part begins (-1: not told), and the bytes in all."""
    match = re.fullmatch(r"bytes (\d{1,18})-\d{1,18}/(\d{1,18}|\*)", response.headers.get("Content-Range", ""))
    if response.status_code != 206 or match is None:
        return -1, None
    return int(match[1]), None if match[2] == "*" else int(match[2])


def body_length(response: requests.Response) -> int | None:
    """Bytes of the body, where the server tells.

    Raises:
        DownloadError: What it tells is no number of bytes.
    """
    value = response.headers.get("Content-Length")
    if value is None or "Transfer-Encoding" in response.headers:
        return None
    if not re.fullmatch(r"[0-9]{1,18}", value):
        raise DownloadError(f"the server claims a length of {quoted(value)} bytes")
    return int(value)


def pieces(response: requests.Response) -> Iterator[bytes]:
    """The body as it comes.

    Raises:
        Passing: It is cut, too slow, or no HTTP.
    """
    try:
        yield from response.raw.stream(CHUNK, decode_content=False)
    except Exception as error:  # http.client and urllib3 raise ValueError and others where a server is careless
        raise Passing(fault_words(error)) from None


def _piece(response: requests.Response, most: int) -> bytes:
    """The first bytes of a body, whose rest stays unread."""
    found = b""
    for piece in pieces(response):
        found += piece
        if len(found) >= most:
            break
    return found[:most]


def fault_words(error: BaseException) -> str:
    """What failed on the way, in words of our own: those of the libraries quote whole addresses."""
    names = {type(error).__name__, *(type(link).__name__ for link in _links(error))}
    if names & {"TooSlow"}:
        return "the server is too slow"
    if names & {"ReadTimeout", "ConnectTimeout", "ReadTimeoutError", "ConnectTimeoutError", "TimeoutError"}:
        return "no answer in time"
    if names & {"NameResolutionError", "gaierror"}:
        return "no such host, or no network"
    if names & {"ConnectionRefusedError"}:
        return "connection refused"
    if names & {"SSLError", "SSLCertVerificationError"}:
        return "the certificate or encryption is not in order"
    if names & {"ProtocolError", "IncompleteRead", "ConnectionResetError", "BrokenPipeError"}:
        return "connection lost"
    if isinstance(error, OSError):  # every exception of requests is one
        return f"no connection: {type(error).__name__}"
    return f"no valid answer: {type(error).__name__}"


def _links(error: BaseException) -> Iterator[BaseException]:
    """The exceptions behind an exception, some of which the libraries keep in ``args`` or ``reason``."""
    for _ in range(6):
        inner = [item for item in (*error.args, getattr(error, "reason", None)) if isinstance(item, BaseException)]
        following = inner[0] if inner else error.__cause__ or error.__context__
        if following is None:
            return
        error = following
        yield error


class _WithoutQuery(logging.Filter):
    """Cuts the query off addresses in urllib3's debug lines: that of a OneDrive download is a token."""

    def filter(self, record: logging.LogRecord) -> bool:
        if isinstance(record.args, tuple):
            record.args = tuple(arg.partition("?")[0] if isinstance(arg, str) else arg for arg in record.args)
        return True


logging.getLogger("urllib3.connectionpool").addFilter(_WithoutQuery())

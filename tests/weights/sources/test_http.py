from __future__ import annotations

import io
import logging
import random
import time
import traceback
from email.utils import formatdate

import pytest
from fake_services import PAGE, File, impatient, serving, weights_bytes

from pixaff.errors import DownloadError, OutputError, UsageError
from pixaff.weights import disk
from pixaff.weights.sources import Http, parse_source, web

BODY = weights_bytes(size=60_000)


@pytest.fixture
def fake():
    with serving() as server:
        yield server


def fetch(fake, folder, path="/w.pth", **options):
    connection = impatient(
        **{key: options.pop(key) for key in ("timeout", "retries", "say", "progress") if key in options}
    )
    return Http(f"{fake.url}{path}").download(folder, "w.pth", connection, label="w", **options).read_bytes()


def ranges(fake, path="/w.pth"):
    return [call.headers.get("Range") for call in fake.asked(path)]


def test_a_file_comes_whole_with_progress(fake, tmp_path):
    fake.routes["/w.pth"] = File(BODY)
    seen = []
    assert fetch(fake, tmp_path, progress=lambda *facts: seen.append(facts)) == BODY
    assert seen[-1] == ("w", len(BODY), len(BODY))
    assert fake.calls[0].headers["Accept-Encoding"] == "identity"


def test_cut_at_40_percent_is_gone_on_with_in_the_same_run(fake, tmp_path):
    fake.routes["/w.pth"] = File(BODY, cuts=[0.4])
    words = []
    assert fetch(fake, tmp_path, say=words.append) == BODY
    cut = int(len(BODY) * 0.4)
    assert ranges(fake) == [None, f"bytes={cut}-"]
    assert fake.calls[1].headers["If-Range"].startswith('"')
    assert f"cut at {cut} of {len(BODY)} bytes" in words[0]


def test_cut_at_40_percent_is_gone_on_with_in_the_next_run(fake, tmp_path):
    fake.routes["/w.pth"] = File(BODY, cuts=[0.4])
    with pytest.raises(DownloadError, match=r"w: cut at \d+ of \d+ bytes"):
        fetch(fake, tmp_path, retries=0)
    assert fetch(fake, tmp_path) == BODY
    assert ranges(fake) == [None, f"bytes={int(len(BODY) * 0.4)}-"]


def test_a_changed_file_is_not_spliced(fake, tmp_path):
    other = weights_bytes(seed=1, size=60_000)
    assert len(other) == len(BODY)
    fake.routes["/w.pth"] = File(BODY, cuts=[0.4])
    with pytest.raises(DownloadError):
        fetch(fake, tmp_path, retries=0)
    fake.routes["/w.pth"] = File(other)
    assert fetch(fake, tmp_path) == other


def test_a_changed_file_is_not_spliced_by_a_server_that_ignores_if_range(fake, tmp_path):
    other = weights_bytes(seed=1, size=60_000)
    fake.routes["/w.pth"] = File(BODY, cuts=[0.4])
    with pytest.raises(DownloadError):
        fetch(fake, tmp_path, retries=0)
    careless = File(other)

    def answer(call):
        del call.headers["If-Range"]
        careless(call)

    fake.routes["/w.pth"] = answer
    assert fetch(fake, tmp_path) == other


@pytest.mark.parametrize("tag", ["", 'W/"weak"'])
def test_without_a_strong_validator_nothing_is_gone_on_with(fake, tmp_path, tag):
    fake.routes["/w.pth"] = File(BODY, cuts=[0.4], tag=tag)
    assert fetch(fake, tmp_path) == BODY
    assert ranges(fake) == [None, None]


def test_the_date_serves_where_there_is_no_tag(fake, tmp_path):
    date = formatdate(1e9, usegmt=True)
    fake.routes["/w.pth"] = File(BODY, cuts=[0.4], tag="", headers={"Last-Modified": date})
    fake.routes["/w.pth"].tag = ""
    with pytest.raises(DownloadError):
        fetch(fake, tmp_path, retries=0)
    fake.routes["/w.pth"].ranges = False
    assert fetch(fake, tmp_path) == BODY
    assert fake.calls[-1].headers["If-Range"] == date


def test_another_source_does_not_go_on_with_the_file_of_the_first(fake, tmp_path):
    other = weights_bytes(seed=1, size=60_000)
    fake.routes["/w.pth"] = File(BODY, cuts=[0.4], tag='"1"')
    fake.routes["/mirror.pth"] = File(other, tag='"1"')
    with pytest.raises(DownloadError):
        fetch(fake, tmp_path, retries=0)
    assert fetch(fake, tmp_path, "/mirror.pth") == other
    assert ranges(fake, "/mirror.pth") == [None]


def test_a_whole_file_that_was_not_looked_at_yet_is_not_fetched_again(fake, tmp_path):
    fake.routes["/w.pth"] = File(BODY)
    assert fetch(fake, tmp_path) == BODY
    assert fetch(fake, tmp_path) == BODY
    assert ranges(fake) == [None, f"bytes={len(BODY)}-"]


def test_a_server_without_ranges_sends_it_all_again(fake, tmp_path):
    fake.routes["/w.pth"] = File(BODY, cuts=[0.4], ranges=False)
    assert fetch(fake, tmp_path) == BODY


def test_a_wrong_length_is_refused(fake, tmp_path):
    fake.routes["/w.pth"] = lambda call: call.answer(200, BODY[:1000], claim=5000)
    with pytest.raises(DownloadError, match=r"cut at 1000 of 5000 bytes.*, 3 times"):
        fetch(fake, tmp_path, retries=2)
    fake.routes["/w.pth"] = File(BODY)
    with pytest.raises(DownloadError, match=f"found {len(BODY)} bytes, expected 7"):
        fetch(fake, tmp_path, size=7)


def test_a_stalling_server_is_given_up_and_gone_on_with(fake, tmp_path):
    fake.routes["/w.pth"] = File(BODY, stall=1.5)
    began = time.monotonic()
    assert fetch(fake, tmp_path, timeout=0.3) == BODY
    assert ranges(fake) == [None, f"bytes={web.CHUNK}-"]
    assert time.monotonic() - began < 60


def test_500_twice_then_good(fake, tmp_path):
    fake.routes["/w.pth"] = File(BODY, fails=[(500, {}), (500, {})])
    assert fetch(fake, tmp_path) == BODY
    fake.routes["/w.pth"] = File(BODY, fails=[(503, {})] * 9)
    with pytest.raises(DownloadError, match="HTTP 503, 3 times"):
        fetch(fake, tmp_path / "..", retries=2)


def test_429_waits_as_long_as_asked(fake, tmp_path, monkeypatch):
    waits = []
    monkeypatch.setattr(web.time, "sleep", waits.append)
    fake.routes["/w.pth"] = File(BODY, fails=[(429, {"Retry-After": "1"})])
    assert fetch(fake, tmp_path) == BODY
    assert waits == [1.0]
    fake.routes["/w.pth"] = File(BODY, fails=[(429, {"Retry-After": "3600"})])
    with pytest.raises(DownloadError, match="HTTP 429, and asks to wait 3600 s"):
        fetch(fake, tmp_path / "..")


def test_retry_after_is_a_number_or_a_date():
    assert web.retry_after("7") == 7
    assert web.retry_after(None) is web.retry_after("soon") is None
    assert 50 < web.retry_after(formatdate(time.time() + 60, usegmt=True)) <= 60


def test_a_page_in_place_of_a_file_is_named_and_not_kept(fake, tmp_path):
    fake.routes["/w.pth"] = lambda call: call.answer(200, PAGE, Content_Type="text/html")
    with pytest.raises(DownloadError, match=r'found a web page .HTML., "Sign in", expected a file'):
        fetch(fake, tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("location", "words"),
    [
        ("file:///etc/passwd", "redirected to file: address"),
        ("ftp://127.0.0.1/w", "redirected to ftp: address"),
        ("data:,x", "redirected to data: address"),
        ("/w.pth", "more than 10 redirects"),
    ],
)
def test_redirects_that_are_not_followed(fake, tmp_path, location, words):
    fake.routes["/w.pth"] = lambda call: call.redirect(location)
    with pytest.raises(DownloadError, match=words):
        fetch(fake, tmp_path)
    assert len(fake.calls) <= 11


def test_https_does_not_lead_to_http():
    with pytest.raises(DownloadError, match="from https to http"):
        web.next_address("https://a/x", "http://b/x")
    assert web.next_address("https://a/x", "//b/y") == "https://b/y"


def test_a_good_redirect_is_followed_without_the_authorization(fake, tmp_path):
    with serving() as other:
        other.routes["/real"] = File(BODY)
        fake.routes["/w.pth"] = lambda call: call.redirect(f"{other.url}/real")
        headers = {"Authorization": "Badger x"}
        with web.request(f"{fake.url}/w.pth", impatient(), headers=headers) as response:
            assert response.status_code == 200
        assert fake.calls[0].headers["Authorization"] == "Badger x"
        assert other.calls[0].headers["Authorization"] is None


@pytest.mark.parametrize(
    ("status", "words"), [(401, "asks for a login"), (403, "is not public"), (404, "is not there")]
)
def test_final_answers_are_not_asked_again(fake, tmp_path, status, words):
    fake.routes["/w.pth"] = lambda call: call.answer(status, b"no")
    with pytest.raises(DownloadError, match=f"HTTP {status}, {words}"):
        fetch(fake, tmp_path)
    assert len(fake.calls) == 1


def test_nobody_there(tmp_path):
    with serving() as fake:
        pass
    with pytest.raises(DownloadError, match="connection refused, 2 times"):
        fetch(fake, tmp_path, retries=1)


def test_no_secret_of_an_address_is_shown(fake, tmp_path, caplog):
    caplog.set_level(logging.DEBUG)
    host = fake.url.removeprefix("http://")
    for path, answer in {"/a": lambda call: call.answer(404), "/b": File(BODY, cuts=[0.1] * 9)}.items():
        fake.routes[path] = answer
        words = []
        source = parse_source(f"http://me:SECRET@{host}{path}?tempauth=SECRET")
        with pytest.raises(DownloadError) as caught:
            source.download(tmp_path, "w", impatient(say=words.append), label="w")
        trace = io.StringIO()
        traceback.print_exception(caught.value, file=trace)
        everything = [trace.getvalue(), caplog.text, *words, *(p.read_text("latin1") for p in tmp_path.glob(".*.json"))]
        assert not any("SECRET" in text for text in everything)
    assert "GET /b" in caplog.text  # or the log would prove nothing
    nobody = "http://me:SECRET@127.0.0.1:1/x?tempauth=SECRET"
    with pytest.raises(DownloadError) as caught:
        web.probe(nobody, impatient(retries=0))
    assert "SECRET" not in "".join(traceback.format_exception(caught.value))


def test_a_full_disk_is_told_before(fake, tmp_path, monkeypatch):
    fake.routes["/w.pth"] = File(BODY)
    monkeypatch.setattr(disk.shutil, "disk_usage", lambda path: disk.shutil._ntuple_diskusage(9, 8, 50_000_000))
    with pytest.raises(OutputError, match=r"50\.0 MB are free, 67\.4 MB are needed .*PIXAFF_CACHE"):
        fetch(fake, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_probe_asks_for_the_first_bytes_only(fake):
    fake.routes["/w.pth"] = File(BODY)
    found = web.probe(f"{fake.url}/w.pth", impatient())
    assert (found.size, found.head) == (len(BODY), BODY[: web.HEAD])
    fake.routes["/w.pth"] = File(BODY, ranges=False)
    assert web.probe(f"{fake.url}/w.pth", impatient()).size == len(BODY)


def test_sizes_in_words():
    sizes = (None, 999, 1000, 999_949, 999_950, 4_200_000, 5 * 10**13)
    words = ["unknown size", "999 bytes", "1.0 kB", "999.9 kB", "1.0 MB", "4.2 MB", "50.0 TB"]
    assert [disk.size_words(size) for size in sizes] == words


# Cases of servers that people met, and such as could be met.

LARGE = random.Random(0).randbytes(3 << 20)


def raw(*pieces, pause=0.0, endless=False):
    """An answer byte by byte as it goes over the wire, with a pause after each piece."""

    def answer(call):
        call.handler.close_connection = True
        while True:
            for piece in pieces:
                call.handler.wfile.write(piece)
                call.handler.wfile.flush()
                time.sleep(pause)
            if not endless:
                return

    return answer


def head(*lines):
    return "\r\n".join(("HTTP/1.1 200 OK", "Connection: close", *lines, "", "")).encode()


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (raw(head(f"Content-Length: {len(LARGE)}"), LARGE[: 2 << 20]), r"cut at 2097152 of 3145728 bytes"),
        (raw(head(f"Content-Length: {len(LARGE) + 999}"), LARGE), r"cut at 3145728 of 3146727 bytes"),
        (
            raw(head("Transfer-Encoding: chunked"), b"%x\r\n" % len(LARGE) + LARGE[: 2 << 20]),
            r"cut at 2097152 bytes \(connection lost\)",
        ),
    ],
)
def test_case_servers_that_never_end(fake, tmp_path, answer, words):
    fake.routes["/w.pth"] = answer
    with pytest.raises(DownloadError, match=rf"{words}.*, 4 times"):
        fetch(fake, tmp_path)
    assert len(fake.calls) == 5  # the first one was progress: the file was longer than ever


def test_case_servers_that_never_end_but_get_on(fake, tmp_path, monkeypatch):
    """A proxy that cuts every transfer, before a server that gives parts: no attempt is wasted, however many."""
    monkeypatch.setattr(web, "GOOD_PIECE", 1 << 18)
    fake.routes["/w.pth"] = File(LARGE, cuts=[1 / left for left in range(10, 1, -1)])
    assert fetch(fake, tmp_path, retries=0) == LARGE
    assert len(fake.calls) == 10


@pytest.mark.parametrize(
    "answer",
    [
        raw(head("Content-Length: 99999") + b"x" * 50, *[b"x"] * 200, pause=0.05),
        raw(head("Transfer-Encoding: chunked"), *[b"1\r\nx\r\n"] * 200, pause=0.05),
        raw(b"HTTP/1.1 200 OK\r\n", *[b"X: y\r\n"] * 90, pause=0.05),
        raw(b"HTTP/1.1 100 Continue\r\n\r\n" * 2000, endless=True),
    ],
)
def test_case_servers_that_never_end_for_they_drip(fake, tmp_path, answer):
    fake.routes["/w.pth"] = answer
    began = time.monotonic()
    with pytest.raises(DownloadError, match=r"w: .*the server is too slow.*, 2 times"):
        fetch(fake, tmp_path, timeout=0.4, retries=1)
    assert time.monotonic() - began < 10


def test_a_server_that_is_slow_and_steady_is_let_finish(fake, tmp_path):
    pieces = [BODY[place : place + 1000] for place in range(0, 30_000, 1000)]
    fake.routes["/w.pth"] = raw(head("Content-Length: 30000"), *pieces, pause=0.05)
    source = Http(f"{fake.url}/w.pth")
    found = source.download(tmp_path, "w.pth", impatient(timeout=0.3, slowest=2000), label="w")
    assert found.read_bytes() == BODY[:30_000]


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (lambda call: call.redirect("http://127.0.0.1:99999/x?tempauth=SECRET"), "redirected to no valid address"),
        (lambda call: call.redirect("http://[::1/x?tempauth=SECRET"), "no valid a"),
        (raw(head("Transfer-Encoding: chunked"), b"-5\r\nabc\r\n"), "no valid answer"),
        (raw(head("Transfer-Encoding: chunked"), b"zz\r\nabc\r\n"), r"cut at 0 bytes"),
        (raw(head("Content-Length: " + "9" * 5000), BODY), 'the server claims a length of "9+...9+" bytes'),
        (raw(head("Content-Length: -5"), BODY), 'the server claims a length of "-5" bytes'),
        (raw(head(f"Content-Length: {10**16}"), BODY), r"the server claims 10000\.0 TB, more than 107\.4 GB"),
        (raw(b"HTTP/1.1 206 Partial Content\r\nContent-Length: 3\r\n\r\nabc"), "gives a part of the file"),
        (raw(b"hello\r\n\r\n"), "connection lost|no valid answer"),
        (raw(b"HTTP/1.1 999999999999999999 OK\r\n\r\n"), "connection lost|no valid answer"),
    ],
)
def test_case_servers_with_odd_numbers(fake, tmp_path, answer, words):
    fake.routes["/w.pth"] = answer
    with pytest.raises(DownloadError, match=words) as caught:
        fetch(fake, tmp_path, retries=1)
    assert len(str(caught.value)) < 300
    assert "SECRET" not in "".join(traceback.format_exception(caught.value))


def test_more_than_was_asked_for_is_not_kept(fake, tmp_path):
    fake.routes["/w.pth"] = raw(head("Transfer-Encoding: chunked"), b"%x\r\n" % len(BODY) + BODY + b"\r\n0\r\n\r\n")
    with pytest.raises(DownloadError, match=r"w: found more than 1\.0 kB"):
        fetch(fake, tmp_path, size=1000)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("first", [{"ETag": '"two"'}, {"Last_Modified": formatdate(1e9, usegmt=True)}])
def test_case_server_that_joins_two_files(fake, tmp_path, first):
    """A server that looks at Range alone, and says of a part neither what it is a part of nor of when."""
    old, new = weights_bytes(size=60_000), weights_bytes(seed=1, size=60_000)
    assert len(old) == len(new)

    def careless(call):
        start = int(call.headers.get("Range", "bytes=0-")[6:-1])
        if len(fake.calls) == 1:
            call.answer(
                200, old[:50_000], claim=len(old), **{name.replace("-", "_"): tag for name, tag in first.items()}
            )
        elif start:
            call.answer(206, new[start:], Content_Range=f"bytes {start}-{len(new) - 1}/{len(new)}")
        else:
            call.answer(200, new, ETag='"one"')

    fake.routes["/w.pth"] = careless
    words = []
    assert fetch(fake, tmp_path, say=words.append) == new
    assert any("the file has changed since the download began" in line for line in words)


@pytest.mark.parametrize(
    "address",
    [
        "http://127.0.0.1:99999/x?token=SECRET",
        "http://[::1/x?token=SECRET",
        "http://me:SE/SECRET@127.0.0.1/x",
        "http:///x?token=SECRET",
        "onedrive:http://127.0.0.1:99999/x?token=SECRET",
        "https://drive.google.com/nothing?token=SECRET",
        "ftp://me:SECRET@a/b",
    ],
)
def test_addresses_that_cannot_be_asked_are_refused_without_their_secrets(address):
    with pytest.raises(UsageError, match="expected") as caught:
        parse_source(address)
    assert "SECRET" not in "".join(traceback.format_exception(caught.value))

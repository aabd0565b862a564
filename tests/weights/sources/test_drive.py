from __future__ import annotations

import random
import time

import gdown
import pytest
from fake_services import (
    PAGE,
    QUOTA,
    File,
    drive_file,
    drive_folder,
    impatient,
    route_drive,
    serving,
    weights_bytes,
)

from pixaff.errors import DownloadError
from pixaff.weights.sources import DriveFile, drive

ID = "1xESB7017zlZHqxEWuh1Rb89UhjTGIKOA"
BODY = weights_bytes(size=700_000)


@pytest.fixture
def fake(monkeypatch):
    monkeypatch.setattr(random, "uniform", lambda low, high: 0.0)  # gdown's pauses
    with serving() as server:
        route_drive(server, monkeypatch.setattr)
        yield server


def fetch(folder, **options):
    connection = impatient(
        **{key: options.pop(key) for key in ("timeout", "retries", "say", "progress") if key in options}
    )
    return DriveFile(ID).download(folder, "w.pth", connection, label="w", **options).read_bytes()


@pytest.mark.parametrize("confirm", [False, True])
def test_a_file_comes_whole_with_and_without_the_confirmation_page(fake, tmp_path, confirm):
    drive_file(fake, File(BODY), confirm)
    seen = []
    assert fetch(tmp_path, progress=lambda *facts: seen.append(facts)) == BODY
    assert seen[-1] == ("w", len(BODY), len(BODY))
    assert bool(fake.asked("/download")) == confirm
    assert [path.name for path in tmp_path.iterdir()] == [".w.pth.drive"]


def test_nothing_is_written_outside_the_cache(fake, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr("gdown.download.home", str(tmp_path / "home"), raising=False)
    drive_file(fake, File(BODY))
    (tmp_path / "cache").mkdir()
    fetch(tmp_path / "cache")
    assert [path.name for path in tmp_path.iterdir()] == ["cache"]


@pytest.mark.parametrize("confirm", [False, True])
def test_cut_at_40_percent_is_gone_on_with_in_the_same_run(fake, tmp_path, confirm):
    drive_file(fake, File(BODY, cuts=[0.4]), confirm)
    assert fetch(tmp_path) == BODY
    assert fake.calls[-1].headers["Range"].startswith("bytes=")


def cut(fake, folder):
    drive_file(fake, File(BODY, cuts=[0.4]))
    with pytest.raises(DownloadError, match="Download is incomplete"):
        fetch(folder, retries=0)
    parts = list(folder.iterdir())
    assert [path.suffix for path in parts] == [".part"]
    return parts[0].stat().st_size


def test_cut_at_40_percent_is_gone_on_with_in_the_next_run(fake, tmp_path):
    begun = cut(fake, tmp_path)
    drive_file(fake, File(BODY))
    assert fetch(tmp_path) == BODY
    assert fake.calls[-1].headers["Range"] == f"bytes={begun}-"


def test_a_changed_file_is_not_spliced(fake, tmp_path):
    cut(fake, tmp_path)
    other = weights_bytes(seed=1, size=700_000)
    assert len(other) == len(BODY)
    drive_file(fake, File(other))
    words = []
    assert fetch(tmp_path, say=words.append) == other
    assert "no part of today's file" in words[0]


def test_a_server_that_gives_no_parts_is_asked_for_all(fake, tmp_path):
    cut(fake, tmp_path)
    drive_file(fake, File(BODY, ranges=False))
    assert fetch(tmp_path) == BODY


def test_a_whole_file_that_was_not_looked_at_yet_is_not_fetched_again(fake, tmp_path):
    drive_file(fake, File(BODY))
    fetch(tmp_path)
    asked = len(fake.calls)
    assert fetch(tmp_path) == BODY
    assert len(fake.calls) == asked


@pytest.mark.parametrize(
    ("page", "words"),
    [(QUOTA, "Too many users have viewed or downloaded this file recently"), (PAGE, "Cannot retrieve the public link")],
)
def test_a_page_in_place_of_the_file_is_worded(fake, tmp_path, page, words):
    fake.routes["/uc"] = lambda call: call.answer(200, page, Content_Type="text/html; charset=utf-8")
    with pytest.raises(DownloadError, match=words) as caught:
        fetch(tmp_path)
    assert "<" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_page_that_comes_as_an_attachment_is_named(fake, tmp_path):
    drive_file(fake, File(PAGE))
    with pytest.raises(DownloadError, match=r"web page .*Sign in.* from Google Drive"):
        fetch(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_pages_without_end_are_given_up(fake, tmp_path):
    drive_file(fake, File(BODY), confirm=True)
    fake.routes["/download"] = fake.routes["/uc"]
    with pytest.raises(DownloadError, match="only to further pages"):
        fetch(tmp_path, timeout=0.2, retries=1)


def test_429_is_tried_again_and_404_is_not(fake, tmp_path):
    drive_file(fake, File(BODY, fails=[(429, {"Content-Type": "a/b", "Content-Disposition": "a"})]))
    assert fetch(tmp_path) == BODY
    fake.calls.clear()
    fake.routes["/uc"] = lambda call: call.answer(404, b"", Content_Type="a/b", Content_Disposition="attachment")
    with pytest.raises(DownloadError, match="HTTP 404 from Google Drive"):
        drive.probe(ID, impatient())
    assert len(fake.calls) == 1


def test_an_answer_that_gdown_does_not_foresee_is_one_line(fake, tmp_path):
    fake.routes["/uc"] = lambda call: call.answer(200, b"x")  # without a content type
    with pytest.raises(DownloadError, match=r"an answer that gdown cannot read \(KeyError\)"):
        fetch(tmp_path)


def test_a_wrong_size_is_refused_at_once(fake, tmp_path):
    drive_file(fake, File(BODY))
    with pytest.raises(DownloadError, match=f"found {len(BODY)} bytes, expected 7"):
        fetch(tmp_path, size=7)


def test_probe_reads_the_beginning(fake):
    drive_file(fake, File(BODY), confirm=True)
    found = drive.probe(ID, impatient(), 1000)
    assert found.size == len(BODY)
    assert 1000 <= len(found.head) < len(BODY)
    assert BODY.startswith(found.head)


def test_a_folder_is_listed(fake):
    ids = drive_folder(fake, {"cam.pth": b"1", "affinity.pth": b"2"})
    assert drive.list_folder("f" * 33, impatient()) == [
        (ids["cam.pth"], "cam.pth"),
        (ids["affinity.pth"], "affinity.pth"),
    ]


def test_a_folder_is_listed_again_after_a_fault(fake, monkeypatch):
    drive_folder(fake, {"cam.pth": b"1"})
    page, fails = fake.routes["/embeddedfolderview"], [500, 500]
    fake.routes["/embeddedfolderview"] = lambda call: call.answer(fails.pop()) if fails else page(call)
    assert len(drive.list_folder("f" * 33, impatient())) == 1
    timeouts, listing = [], gdown.download_folder
    monkeypatch.setattr(gdown, "download_folder", lambda **o: (timeouts.append(o["timeout"]), listing(**o))[1])
    drive.list_folder("f" * 33, impatient(timeout=4.0))
    assert timeouts == [4.0]


def test_a_folder_that_is_not_public(fake):
    drive_folder(fake, {}, title="Google Drive: Sign-in")
    with pytest.raises(DownloadError, match="the folder is empty or not public"):
        drive.list_folder("f" * 33, impatient())
    fake.routes["/embeddedfolderview"] = lambda call: call.answer(403)
    with pytest.raises(DownloadError, match="status code 403"):
        drive.list_folder("f" * 33, impatient(retries=1))


def test_case_servers_that_never_end_for_they_drip(fake, tmp_path):
    def drip(call):
        call.handler.wfile.write(
            b"HTTP/1.1 200 OK\r\nContent-Length: 9999999\r\nContent-Type: a/b\r\n"
            b'Content-Disposition: attachment; filename="w.pth"\r\n\r\n'
        )
        for _ in range(400):
            call.handler.wfile.write(b"x")
            call.handler.wfile.flush()
            time.sleep(0.05)

    fake.routes["/uc"] = drip
    began = time.monotonic()
    with pytest.raises(DownloadError, match="Google Drive does not come to the file"):
        fetch(tmp_path, timeout=0.3, retries=0)
    assert time.monotonic() - began < 10

"""Real processes: one that is killed in the middle of a download, two that want the same thing.

They fetch archives, which need no torch to be checked: importing it would be most of the time.
"""

from __future__ import annotations

import io
import os
import random
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest
from fake_services import File, drive_file, serving

MAP = random.Random(0).randbytes(1_600_000)


def archive() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as packed:
        packed.writestr("2007_000032.npy", MAP)
    return file.getvalue()


BODY = archive()
PROGRAM = """
import sys
import no_network
from fake_services import Fake, impatient, route_drive

no_network.install()
route_drive(Fake(url=sys.argv[1]))
from pixaff.weights import fetch
from pixaff.weights.catalogue import load_catalogue

connection = impatient(timeout=30.0, say=lambda words: print(words, file=sys.stderr))
print(fetch(load_catalogue()[sys.argv[2]], connection=connection))
"""


class Slow:
    """A file that comes bit by bit: the first answer stops at a half until the test lets it go on."""

    def __init__(self, file):
        self.file, self.release, self.half = file, False, False

    def __call__(self, call):
        if self.half:
            self.file(call)
            return
        self.half = True
        write, body = call.handler.wfile.write, self.file.body

        def slowly(piece):
            if len(piece) < len(body) // 2:
                return write(piece)
            write(piece[: len(piece) // 2])
            while not self.release:
                time.sleep(0.02)
            return write(piece[len(piece) // 2 :])

        call.handler.wfile.write = slowly
        self.file(call)


@pytest.fixture
def start(tmp_path):
    running = []

    def begin(fake, name):
        (tmp_path / "own.toml").write_text(
            f'[web]\nkind = "archive"\nsource = "{fake.url}/a.zip"\n'
            f'[drive]\nkind = "archive"\nsource = "drive-file:{"x" * 33}"\n'
        )
        paths = [str(Path(__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
        process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, fake.url, name],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join(paths),
                "PIXAFF_CACHE": str(tmp_path / "cache"),
                "PIXAFF_CATALOGUE": str(tmp_path / "own.toml"),
            },
        )
        running.append(process)
        return process

    yield begin
    for process in running:
        if process.poll() is None:
            process.kill()
            process.wait()


def wait_for(condition):
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize("name", ["web", "drive"])
def test_killed_in_the_middle_the_next_run_finishes(tmp_path, start, name):
    with serving() as fake:
        slow = Slow(File(BODY))
        drive_file(fake, slow.file)
        fake.routes["/a.zip"] = fake.routes["/uc"] = slow
        folder = tmp_path / "cache" / name
        process = start(fake, name)
        wait_for(lambda: any(path.stat().st_size > 200_000 for path in folder.glob(".*.part")))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        slow.release = True
        assert not (folder / "files").exists()
        assert not (tmp_path / "cache" / "lock.json").exists()

        path, words = start(fake, name).communicate(timeout=120)
        assert (Path(path.strip()) / "2007_000032.npy").read_bytes() == MAP, words
        assert fake.calls[-1].headers["Range"].startswith("bytes=")
        assert int(fake.calls[-1].headers["Range"][6:-1]) > 200_000
        assert sorted(each.name for each in folder.iterdir()) == ["files", "record.json"]


def test_two_processes_download_once(tmp_path, start):
    with serving() as fake:
        slow = fake.routes["/a.zip"] = Slow(File(BODY))
        first = start(fake, "web")
        wait_for(lambda: slow.half)
        second = start(fake, "web")
        assert "another process is at it; waiting" in second.stderr.readline()
        slow.release = True
        paths = [process.communicate(timeout=120)[0] for process in (first, second)]
        assert paths[0] == paths[1]
        assert (Path(paths[0].strip()) / "2007_000032.npy").read_bytes() == MAP
        assert len(fake.calls) == 1

"""Standard streams: names as bytes, NUL, what is no path on standard input, readers that leave, -q, -v, --log-file."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

PROGRAM = (sys.executable, "-m", "pixaff", "propagate")
FAST = ("--size", "64", "--scales", "1", "--no-flip", "--no-final-crf", "--steps", "4")
STRICT = {"PYTHONIOENCODING": "utf-8:strict", "PIXAFF_DEBUG": ""}


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    (tmp_path / "photos").mkdir()
    for name, colour in (("a.jpg", "red"), ("b.jpg", "blue")):
        Image.new("RGB", (40, 30), colour).save(tmp_path / "photos" / name)
    return tmp_path / "photos"


def call(folder: Path, *arguments: str | bytes, **options: Any) -> subprocess.CompletedProcess[bytes]:
    options = {"capture_output": True, **options}
    return subprocess.run(
        [*PROGRAM, *arguments, *FAST], cwd=folder, env={**os.environ, **STRICT}, check=False, **options
    )


def start(folder: Path, *arguments: str, **options: Any) -> subprocess.Popen[bytes]:
    """A run beside others."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen([*PROGRAM, *arguments, *FAST], cwd=folder, env={**os.environ, **STRICT}, **pipes, **options)


def masks(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("*.png"))


@pytest.mark.skipif(sys.platform == "darwin", reason="its file names are always UTF-8")
def test_case_file_name_that_is_no_utf8(photos: Path, tmp_path: Path) -> None:
    raw = os.path.join(os.fsencode(photos), b"caf\xe9.jpg")
    (photos / "a.jpg").rename(os.fsdecode(raw))
    (photos / "new\nline.jpg").write_bytes(b"no picture")
    done = call(tmp_path, "photos", "--out", "masks")
    assert done.returncode == 1
    assert b"masks/caf\xe9.png\n" in done.stdout
    assert b"new\\nline.jpg" in done.stderr
    assert b"Error" not in done.stderr
    assert os.path.exists(os.fsencode(tmp_path) + b"/masks/caf\xe9.png")
    again = call(tmp_path, "-", "--out", "masks2", input=raw + b"\nphotos/b.jpg\n")
    assert (again.returncode, again.stdout.count(b"\n")) == (0, 2)


def test_paths_may_be_separated_by_nul(photos: Path, tmp_path: Path) -> None:
    (photos / "a.jpg").rename(photos / "new\nline.jpg")
    words = {"given": ["-0", "-"], "seen": ["-"]}
    both = {out: start(tmp_path, *given, "--out", out, stdin=subprocess.PIPE) for out, given in words.items()}
    for out, process in both.items():
        _, said = process.communicate(b"photos/new\nline.jpg\0photos/b.jpg\0")
        assert process.returncode == 0, said
        assert masks(tmp_path / out) == ["b.png", "new\nline.png"]


def test_nothing_on_standard_input_is_an_empty_run(tmp_path: Path) -> None:
    done = call(tmp_path, "-", "--out", "masks", input=b"")
    assert done.returncode == 0
    assert b"no paths on standard input" in done.stderr
    assert not (tmp_path / "masks").exists()


def test_a_picture_on_standard_input_is_refused(photos: Path, tmp_path: Path) -> None:
    done = call(tmp_path, "-", "--out", "masks", input=(photos / "a.jpg").read_bytes())
    assert done.returncode == 2
    assert b"found an image on standard input" in done.stderr


def test_closed_streams_cost_no_masks(photos: Path, tmp_path: Path) -> None:
    command = shlex.join([*PROGRAM, "photos", *FAST])
    ways = {"out": ">&-", "err": "2>&-", "both": ">&- 2>&-", "pipe": "| true"}
    shells = [
        subprocess.Popen(["sh", "-c", f"{command} --out {way} {closing}"], cwd=tmp_path, stderr=subprocess.DEVNULL)
        for way, closing in ways.items()
    ]
    for shell, way in zip(shells, ways, strict=True):
        shell.wait()
        for _ in range(600):  # of the pipe, only the reader has been waited for
            if (tmp_path / way / "run.json").exists():
                break
            time.sleep(0.1)
        assert masks(tmp_path / way) == ["a.png", "b.png"], way


def test_quiet_verbose_and_a_log(photos: Path, tmp_path: Path) -> None:
    (photos / "broken.jpg").write_bytes(b"no picture")
    wrong = start(tmp_path, "photos", "--out", "elsewhere", "--log-file", "no/such/folder/log.txt")
    done = call(tmp_path, "photos", "--out", "masks", "--quiet", "--log-file", "log.txt")
    assert {line.split(b":")[0] for line in done.stderr.splitlines()} <= {b"failed", b"warning"}
    assert b"failed: photos/broken.jpg" in done.stderr
    log = (tmp_path / "log.txt").read_text()
    assert all(words in log for words in ("propagate: model lite", "done: photos/a.jpg", "failed: photos/broken.jpg"))
    done = call(tmp_path, "photos", "--out", "masks", "--verbose")
    assert b"skipped: photos/a.jpg" in done.stderr
    _, said = wrong.communicate()
    assert wrong.returncode == 1
    assert b"no/such/folder/log.txt: cannot be written" in said

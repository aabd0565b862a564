"""Ctrl-C and kill, in a real process: no half file, and the next call finishes the rest."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from toy_bundle import RED, draw, use_toy
from typer.testing import CliRunner

from pixaff.cli.app import app
from pixaff.io.masks import read_mask

COUNT = 60
PROGRAM = """
import sys, time
from pixaff import loaders, predictor
from pixaff.cli.app import main
from toy_bundle import toy_bundle

walked = predictor.random_walk

def slowly(*arguments, **options):
    time.sleep(0.05)
    return walked(*arguments, **options)

loaders.load_model = lambda *args, **kwargs: toy_bundle()
predictor.random_walk = slowly
main()
"""


def start(photos: Path) -> subprocess.Popen[str]:
    paths = [str(Path(__file__).parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])]
    call = [sys.executable, "-c", PROGRAM, "propagate", str(photos), "-b", "1"]
    return subprocess.Popen(
        call,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A test run started in the background of a shell ignores Ctrl-C, and so would its children.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
    )


@pytest.mark.parametrize(("stop", "code"), [(signal.SIGINT, 130), (signal.SIGKILL, -signal.SIGKILL)])
def test_a_stopped_run_leaves_whole_masks_and_goes_on(tmp_path, stop, code, monkeypatch):
    photos, masks = tmp_path / "photos", tmp_path / "photos-masks"
    for number in range(COUNT):
        draw(photos / f"p{number:02}.png", (RED, 8, 8))
    process = start(photos)
    deadline = time.monotonic() + 120
    while not any(masks.glob("[!.]*.png")) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(stop)
    _, words = process.communicate(timeout=60)
    assert process.returncode == code, words
    assert "Traceback" not in words
    written = sorted(masks.glob("[!.]*.png"))  # what was not renamed yet is no mask
    assert 0 < len(written) < COUNT
    assert all(read_mask(mask).shape == (64, 96) for mask in written)
    if stop == signal.SIGINT:
        assert sorted(path.name for path in masks.iterdir()) == [
            *(path.name for path in written),
            "run.json",
            "run.jsonl",
        ]

    # A mask whose line the stop prevented is made again: nobody knows that it is of the same settings.
    lines = map(json.loads, (masks / "run.jsonl").read_text().splitlines())
    kept = {line["image"] for line in lines if line.get("status") == "done"}
    assert {Path(name).stem for name in kept} <= {path.stem for path in written}
    use_toy(monkeypatch)
    again = CliRunner().invoke(app, ["propagate", str(photos), "-b", "1"])
    assert again.exit_code == 0, again.stderr
    assert f"{COUNT - len(kept)} done" in again.stderr
    assert (f", {len(kept)} skipped" in again.stderr) == bool(kept)
    assert len(again.stdout.splitlines()) == COUNT
    # What the killed process had begun is swept up too.
    assert sorted(path.suffix for path in masks.iterdir()) == [".json", ".jsonl"] + [".png"] * COUNT

"""The commands, each in a process that is forked from the test's, where torch is imported already."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import random
import signal
import sys
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fake_services import Call, File, serving, weights_bytes

from pixaff.cli.app import app
from pixaff.io.checkpoints import read_state_dict

TOO_LONG = 180.0
"""Seconds after which a command hangs: the longest takes some ten on a busy machine."""
COMMANDS = ("propagate", "cam", "crf", "train-cam", "train-affinity", "fit", "download-weights")
RECIPE = "--batch-size 4 --optimizer adamw --precision fp32 --crop 96"
WALK = "--alpha 3 --beta 8 --steps 16 --no-final-crf --size 96 --crf-low 2 --crf-high 6"


@dataclass
class World:
    """Inputs of all commands in one folder."""

    folder: Path

    @property
    def fit(self) -> Path:
        return self.folder / "fit"

    def command(self, name: str, out: Path) -> list[str]:
        """A command line; the same one continues what a kill stopped."""
        labels, classes, crf = f"--labels {self.folder / 'labels.csv'}", self.fit / "classes.txt", self.fit / "crf"
        training = f"{RECIPE} --device cpu --workers 1 --save-every 0.05"
        options = {
            "propagate": f"{labels} --model {self.fit} --overlay --save-scores --batch-size 1 --device cpu",
            "cam": f"{labels} --model {self.fit} --batch-size 1 --device cpu",
            "crf": f"--cams {self.fit / 'cams'} --size 96 --device cpu --workers 1",
            "train-cam": f"{labels} --classes {classes} --init random --lr 5e-3 --epochs 20 --resize 60:110"
            f" {training} --resume",
            "train-affinity": f"--crf-low-dir {crf / 'low'} --crf-high-dir {crf / 'high'} --size 96 --init random"
            f" --lr 5e-3 --epochs 10 {training} --resume",
            "fit": f"{labels} {WALK} --scales 1 --cam-epochs 20 --cam-lr 5e-3 --affinity-epochs 6 --affinity-lr 5e-3"
            f" --cam-init random --resize 60:110 --affinity-init random --yes {training}",
        }
        if name == "download-weights":
            return [name, "single", "packed", "--catalogue", str(self.folder / "own.toml"), "--cache-dir", str(out)]
        return [name, str(self.folder / "photos"), "--out", str(out), *options[name].split()]


def start(arguments: list[str], log: Path) -> int:
    """Fork a process that runs a command and leads a group of its own; its output goes to ``log``."""
    process = os.fork()
    if process:
        return process
    status = 70
    try:
        os.setsid()
        file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        for number, name in ((1, "stdout"), (2, "stderr")):
            os.dup2(file, number)
            setattr(sys, name, open(number, "w", closefd=False))  # noqa: SIM115
        app(arguments, prog_name="pixaff")
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 70
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        multiprocessing.active_children()
        os._exit(status)


def wait(process: int, seconds: float) -> int | None:
    """The exit status of a process, minus the signal if one ended it; None where it still runs after a time."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        ended, status = os.waitpid(process, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    return None


def kill(process: int, group: bool = True) -> None:
    """Kill -9; with its workers, or alone."""
    with suppress(ProcessLookupError):
        (os.killpg if group else os.kill)(process, signal.SIGKILL)


def run(arguments: list[str], log: Path) -> int:
    """The exit status of a command that is left alone."""
    process = start(arguments, log)
    status = wait(process, TOO_LONG)
    kill(process)
    assert status is not None, f"{arguments[0]} hangs: {log}"
    return status


def outputs(folder: Path) -> dict[str, Any]:
    """What a command wrote, by path, in a form that is the same for every run: no times, no speeds, no notes."""
    found: dict[str, Any] = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = str(path.relative_to(folder))
        if path.name == "run.json":
            record = json.loads(path.read_text())
            found[name] = [record.get(key) for key in ("command", "images", "done", "failed", "classes")]
        elif path.name == "run.jsonl":
            found[name] = _last_words(path)
        elif path.name == "lock.json":
            found[name] = {one: entry["files"] for one, entry in json.loads(path.read_text())["weights"].items()}
        elif path.name == "metrics.jsonl":
            records = [json.loads(line) for line in path.read_text().splitlines()]
            found[name] = [[item for item in each.items() if item[0] != "images_per_second"] for each in records]
        elif path.suffix in (".safetensors", ".pth"):
            found[name] = {key: tensor.numpy().tobytes() for key, tensor in read_state_dict(path).items()}
        elif ".locks" not in path.parts:
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def _last_words(path: Path) -> dict[str, Any]:
    """The last line about each image."""
    last = {}
    for line in path.read_text().splitlines():
        with suppress(ValueError):  # half a line, of a process that was killed
            entry = json.loads(line)
            if "image" in entry:
                last[entry["image"]] = [entry["status"], (entry.get("photo") or [None])[-1], entry.get("labels")]
    return last


@contextmanager
def run_server(folder: Path) -> Iterator[None]:
    """Serve weights and an archive slowly, from a process of its own; ``own.toml`` in the folder names them."""
    files = {"/single.pth": weights_bytes(size=400_000), "/packed.zip": _archive(folder / "packed.zip")}

    def serve(pipe: Any) -> None:
        with serving() as fake:
            fake.routes = {path: _Slow(body) for path, body in files.items()}
            pipe.send(fake.url)
            pipe.recv()

    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("fork").Process(target=serve, args=(theirs,), daemon=True)
    process.start()
    url = ours.recv()
    (folder / "own.toml").write_text(
        f'[single]\nsource = "{url}/single.pth"\n[packed]\nkind = "archive"\nsource = "{url}/packed.zip"\n'
    )
    yield
    ours.send("end")
    process.join(10)


def _archive(path: Path) -> bytes:
    chance = random.Random(0)
    with zipfile.ZipFile(path, "w") as packed:
        for number in range(20):
            packed.writestr(f"{number}.npy", chance.randbytes(50_000))
    return path.read_bytes()


class _Slow(File):
    """Takes about half a second for a file."""

    def __call__(self, call: Call) -> None:
        write = call.handler.wfile.write

        def slowly(data: bytes) -> int:
            for begin in range(0, len(data), 1 << 15):
                write(data[begin : begin + (1 << 15)])
                time.sleep(0.01)
            return len(data)

        call.handler.wfile.write = slowly  # type: ignore[method-assign]
        super().__call__(call)

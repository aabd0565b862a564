"""Damaged files of every kind: read, or refused by an error that names the file; soon, and in little memory."""

from __future__ import annotations

import gzip
import io
import os
import pickle
import random
import resource
import signal
import tarfile
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from faults.commands import World, kill, run, wait
from foreign_cams import box, maps
from PIL import Image

from pixaff.errors import PixaffError
from pixaff.io.cams import read_cams
from pixaff.io.checkpoints import load_training, read_state_dict, save_training
from pixaff.io.images import read_image
from pixaff.io.labels import read_entries
from pixaff.io.labels.classes import read_class_list
from pixaff.io.labels.image_list import read_list
from pixaff.io.masks import read_mask
from pixaff.io.scores import read_scores
from pixaff.models.model_folder import check_record
from pixaff.stages.batch.ledger import read_ledger
from pixaff.stages.batch.record import read_record
from pixaff.stages.training.metrics import read_records
from pixaff.weights.archives import extract

pytestmark = pytest.mark.slow
SECONDS, MEGABYTES = 20, 700
"""For one input, of processor time and beyond what the process had."""


def _photo(form: str) -> bytes:
    stream, chance = io.BytesIO(), np.random.default_rng(0)
    Image.fromarray(chance.integers(0, 255, (40, 50, 3)).astype(np.uint8)).save(stream, form)
    return stream.getvalue()


def _npy(content: Any) -> bytes:
    stream = io.BytesIO()
    np.save(stream, box(content), allow_pickle=True)
    return stream.getvalue()


def _torch(content: Any) -> bytes:
    stream = io.BytesIO()
    torch.save(content, stream)
    return stream.getvalue()


def _tar(mode: str) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode=mode) as packed:  # type: ignore[call-overload]
        for number in range(3):
            member = tarfile.TarInfo(f"maps/{number}.npy")
            member.size = 3000
            packed.addfile(member, io.BytesIO(bytes(3000)))
    return stream.getvalue()


def _zip() -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as packed:
        for number in range(3):
            packed.writestr(f"maps/{number}.npy", bytes(3000))
    return stream.getvalue()


def _unpack(path: Path) -> None:
    (path.parent / "unpacked").mkdir()
    extract(path, path.parent / "unpacked")


XML = b"<annotation><filename>a.jpg</filename><object><name>disc</name></object></annotation>"
CSV = b"image,labels\ntoy00,disc\ntoy01,disc;square\n"
ROWS = maps()
IRN = {"keys": torch.tensor([7, 14]), "cam": torch.from_numpy(ROWS.copy()), "high_res": ROWS}
PUZZLE = {"keys": np.array([0, 8, 15]), "hr_cam": ROWS}
CLIP_ES = {"keys": np.array([14, 7]), "attn_highres": ROWS.astype(np.float16)}
STATE = {"conv.weight": torch.ones(8, 3, 3, 3), "conv.bias": torch.zeros(8)}
MADE: dict[str, tuple[str, Callable[[], bytes], Callable[[Path], Any]]] = {
    **{f"photo {form}": (f"a.{form.lower()}", lambda form=form: _photo(form), read_image)
       for form in ("JPEG", "PNG", "TIFF", "WebP")},
    "cams psa": ("a.npy", lambda: _npy({7: ROWS[0], 14: ROWS[1]}), read_cams),
    "cams irn": ("a.npy", lambda: _npy(IRN), read_cams),
    "cams puzzle-cam": ("a.npy", lambda: _npy(PUZZLE), read_cams),
    "cams clip-es": ("a.npy", lambda: _npy(CLIP_ES), read_cams),
    "weights pth": ("a.pth", lambda: _torch(STATE), read_state_dict),
    "cls_labels": ("cls_labels.npy", lambda: _npy({"a": np.array([0.0, 1.0]), "b": np.ones(2)}), read_entries),
    "labels csv": ("labels.csv", lambda: CSV, read_entries),
    "labels xml": ("xml/a.xml", lambda: XML, lambda path: read_entries(path.parent)),
    "class list": ("classes.txt", lambda: b"disc\nsquare\n", read_class_list),
    "image list": ("list.txt", lambda: b"/JPEGImages/toy00.jpg /x/toy00.png\ntoy01\n", read_list),
    "archive zip": ("a.zip", _zip, _unpack),
    "archive tar": ("a.tar", lambda: _tar("w"), _unpack),
    "archive tar.gz": ("a.tar.gz", lambda: gzip.compress(_tar("w")), _unpack),
}  # fmt: skip
WRITTEN: dict[str, tuple[str, Callable[[Path], Any]]] = {
    "mask": ("masks/toy00.png", read_mask),
    "cams npz": ("cams/toy00.npz", read_cams),
    "scores": ("propagated/scores/toy00.npz", read_scores),
    "weights safetensors": ("cam.safetensors", read_state_dict),
    "model.json": ("model.json", check_record),
    "run.json": ("masks/run.json", lambda path: read_record(path.parent)),
    "run.jsonl": ("masks/run.jsonl", lambda path: read_ledger(path.parent)),
    "metrics.jsonl": ("train-cam/metrics.jsonl", lambda path: read_records(path.parent)),
    "training.pt": ("training.pt", load_training),
}
"""Files of a run, and how they are read."""


@pytest.fixture(scope="module")
def run_folder(world: World) -> Path:
    """The folder of the world's run of fit, with saved scores and a checkpoint as well."""
    out = world.fit / "propagated"
    assert run(world.command("propagate", out), world.folder / "scores.log") == 0
    save_training(world.fit / "training.pt", {"model": STATE, "position": {"step": 3}, "config": {"lr": 0.1}})
    return world.fit


@pytest.mark.parametrize("kind", [*MADE, *WRITTEN])
def test_damaged_file_is_read_or_named(
    kind: str, run_folder: Path, tmp_path: Path, rounds: int, seed: int, counts: Counter[str]
) -> None:
    if kind in MADE:
        name, make, read = MADE[kind]
        whole = make()
    else:
        place, read = WRITTEN[kind]
        name, whole = place.rpartition("/")[2], (run_folder / place).read_bytes()
    chance, canary, faults = random.Random(f"{kind} {seed}"), tmp_path / "canary", []
    attack = pickle.dumps(_Touch(str(canary)), 2)
    for number in range(-1, 20 * rounds):  # the first is the file itself, which has to be read
        path = tmp_path / f"{number}" / name
        path.parent.mkdir(parents=True)
        path.write_bytes(whole if number < 0 else mutated(whole, chance, attack))
        outcome = _judge(read, path)
        counts[outcome.partition(":")[0]] += 1
        if outcome not in ("read", "refused") or (number < 0 and outcome != "read"):
            faults.append(f"{path}: {outcome}")
    assert not canary.exists()
    assert not faults, "\n".join(faults)


class _Touch:
    """A pickle of it makes a file when a reader runs what it is told to."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (self.path,)


def mutated(data: bytes, chance: random.Random, attack: bytes) -> bytes:
    """A file with bits turned, parts cut, doubled or left out, numbers made extreme, or a pickle put in."""
    changed = bytearray(data)
    for _ in range(chance.choice((1, 1, 2, 8))):
        size = len(changed)
        # The head decides the most.
        at = chance.randrange(min(size, 64) if chance.random() < 0.3 else size) if size else 0
        end, way = min(size, at + chance.choice((1, 4, 64, 1024))), chance.randrange(8)
        if way == 0 and size:
            changed[at] ^= 1 << chance.randrange(8)
        elif way == 1:
            changed[at:end] = chance.randbytes(end - at)
        elif way == 2:
            del changed[at:]
        elif way == 3:
            del changed[at:end]
        elif way == 4:
            changed[at:at] = changed[at:end] * chance.choice((1, 3, 200))
        elif way == 5:
            changed[at : at + 4] = chance.choice((b"\xff" * 4, b"\x00" * 4, b"\xff\xff\xff\x7f", b"9999"))
        elif way == 6:
            changed[at : at + len(attack)] = attack
        else:
            changed[at:at] = chance.choice((b"\x00", b"\n" * 9, b'[{"' * 2000, b"\xff\xfe", b"NaN", b"1e999", b"\x80"))
    return bytes(changed)


def _judge(read: Callable[[Path], Any], path: Path) -> str:
    """What comes of reading a file in a process of its own: "read", "refused", or what is wrong."""
    ours, theirs = os.pipe()
    process = os.fork()
    if not process:
        answer = "ends: without a word"
        try:
            os.setsid()
            resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            answer = _read(read, path)
            used = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) >> 10
            answer = f"swells: to {used} MB" if used > MEGABYTES else answer
        finally:
            os.write(theirs, answer.encode("utf-8", "replace")[:2000])
            os._exit(0)
    os.close(theirs)
    status = wait(process, 3 * SECONDS)
    kill(process)
    with open(ours, "rb") as stream:
        answer = stream.read().decode()
    if status is None or status == -signal.SIGXCPU:
        return "hangs"
    return answer or f"ends: status {status}"


def _read(read: Callable[[Path], Any], path: Path) -> str:
    try:
        read(path)
    except PixaffError as error:
        if len(str(error)) > 1000:
            return f"rambles: {error}"
        return "refused" if path.name in str(error) else f"unnamed: {error}"
    except BaseException as error:
        return f"raises: {type(error).__name__}: {error}"
    return "read"

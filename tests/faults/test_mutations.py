"""Mutations of every input format: read within bounds of time and memory, or refused by an error naming the file."""

from __future__ import annotations

import random
import resource
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from pixaff.errors import PixaffError
from pixaff.io.cams import read_cams, write_maps
from pixaff.io.checkpoints import load_training, read_state_dict, save_training, write_state_dict
from pixaff.io.images import load_image
from pixaff.io.labels import read_classes, read_labels, read_list
from pixaff.io.masks import read_mask, write_mask
from pixaff.io.scores import ScoreFile, read_scores, write_scores
from pixaff.models.bundle import check_record, embedded_folder
from pixaff.stages.batch.ledger import read_ledger
from pixaff.stages.batch.record import read_record

pytestmark = pytest.mark.slow
SECONDS = 10.0
"""For one input: many times what any takes."""
MEGABYTES = 1500
"""By which the peak of this process may grow over all mutations of a format."""
ENDS = (b"\xff\xff\xff\xff", b"\0\0\0\0", b"\x7f\xff\xff\xff", b"[[[[", b"9999")
CLASSES = ("cat", "dog", "person")


def _picture(path: Path) -> None:
    chance = np.random.default_rng(0)
    Image.fromarray(chance.integers(0, 255, (60, 80, 3), dtype=np.uint8)).save(path)


def _scores(path: Path) -> None:
    rows = np.full((2, 5, 6), 0.5, np.float32)
    write_scores(path, ScoreFile(np.array([1, 3]), rows, np.array([0.25, 64.0]), rows, 1.0, (40, 48), (40, 48)))


def _cams(form: str) -> Callable[[Path], None]:
    return lambda path: write_maps(path, form, [1, 3], np.full((2, 20, 24), 0.5, np.float32), (20, 24))


def _text(words: str) -> Callable[[Path], None]:
    return lambda path: path.write_text(words) and None


def _training(path: Path) -> None:
    save_training(path, {"model": {"a": torch.ones(50)}, "config": {"lr": 0.1}, "position": {"step": 3}})


XML = "<annotation><object><name>cat</name></object><object><name>dog</name></object></annotation>"
LEDGER = '{"made": "a", "request": "b", "settings": {}}\n{"image": "x.jpg", "status": "done", "made": "a"}\n'
FORMATS: dict[str, tuple[Callable[[Path], Any], Callable[[Path], Any]]] = {
    **{f"photo.{suffix}": (_picture, lambda path: load_image(path, 64)) for suffix in ("jpg", "png", "webp", "tif")},
    "mask.png": (lambda path: write_mask(path, np.ones((20, 30), np.uint8)), lambda path: read_mask(path, 20)),
    "ours.npz": (_cams("npz"), read_cams),
    "psa.npy": (_cams("psa"), read_cams),
    "irn.npy": (_cams("irn"), read_cams),
    "scores.npz": (_scores, read_scores),
    "weights.pth": (lambda path: torch.save({"a": torch.ones(3, 4), "b": torch.zeros(5)}, path), read_state_dict),
    "weights.safetensors": (lambda path: write_state_dict(path, {"a": torch.ones(3, 4)}), read_state_dict),
    "training.pt": (_training, load_training),
    "labels.csv": (_text("image,labels\na,cat;dog\nb,person\nc,\n"), lambda path: read_labels(path, CLASSES)),
    "xml/a.xml": (_text(XML), lambda path: read_labels(path.parent, CLASSES)),
    "classes.txt": (_text("cat\ndog\nperson\n"), read_classes),
    "list.txt": (_text("a\nb\nc\n"), read_list),
    "model.json": (_text((embedded_folder() / "model.json").read_text()), check_record),
    "run.json": (
        _text('{"settings": {"alpha": 1}, "classes": ["a"]}'),
        lambda path: read_record(path.parent),
    ),
    "run.jsonl": (_text(LEDGER), lambda path: read_ledger(path.parent)),
}


def mutations(data: bytes, chance: random.Random) -> Iterator[bytes]:
    """Flipped bits, cut and doubled parts, noise, and numbers at the ends of their range, without end."""
    while True:
        found = bytearray(data)
        for _ in range(chance.choice((1, 1, 2, 8, 40))):
            if not found:
                break
            at, kind = chance.randrange(len(found)), chance.randrange(6)
            if kind == 0:
                found[at] ^= 1 << chance.randrange(8)
            elif kind == 1:
                del found[at : at + chance.randrange(1, 64)]
            elif kind == 2:
                found[at:at] = found[at : at + chance.randrange(1, 64)] * chance.choice((1, 1, 50))
            elif kind == 3:
                found[at : at + 4] = chance.choice(
                    (b"\xff\xff\xff\xff", b"\0\0\0\0", b"\x7f\xff\xff\xff", b"[[[[", b"9999")
                )
            elif kind == 4:
                found[at : at + 8] = chance.randbytes(8)
            else:
                del found[at:]
        yield bytes(found)


@pytest.mark.parametrize("name", FORMATS)
def test_mutated_inputs_are_read_or_refused_by_name(
    name: str, tmp_path: Path, rounds: int, seed: int, counts: Counter[str]
) -> None:
    write, read = FORMATS[name]
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    write(path)
    read(path)
    data, before = path.read_bytes(), _peak()
    for _, mutated in zip(range(20 * rounds), mutations(data, random.Random(f"{name} {seed}")), strict=False):
        path.write_bytes(mutated)
        began = time.monotonic()
        try:
            read(path)
            counts["read"] += 1
        except PixaffError as error:
            words = str(error)
            counts["refused"] += 1
        else:
            words = str(path.parent)
        assert str(path.parent) in words
        assert len(words) < 1000
        assert time.monotonic() - began < SECONDS, mutated[:200]
    assert _peak() - before < MEGABYTES << 20


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

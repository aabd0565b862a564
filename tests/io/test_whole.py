"""Which outputs count as there."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pixaff.io.atomic import write_text
from pixaff.io.cams import write_cams, write_maps
from pixaff.io.checkpoints import save_training, write_state_dict
from pixaff.io.images import write_picture
from pixaff.io.masks import write_mask
from pixaff.io.whole import looks_whole

NOISE = np.random.default_rng(0).integers(0, 255, (40, 50, 3)).astype(np.uint8)
MAPS = np.random.default_rng(0).random((2, 9, 12), dtype=np.float32)
WRITERS: dict[str, Callable[[Path], None]] = {
    "mask.png": lambda path: write_mask(path, NOISE[..., 0]),
    "overlay.jpg": lambda path: write_picture(path, Image.fromarray(NOISE), quality=90),
    "cams.npz": lambda path: write_cams(path, [1, 2], MAPS, (9, 12)),
    "psa.npy": lambda path: write_maps(path, "psa", [1, 2], MAPS, (9, 12)),
    "irn.npy": lambda path: write_maps(path, "irn", [1, 2], MAPS, (9, 12)),
    "none.npy": lambda path: write_maps(path, "psa", [], MAPS[:0], (9, 12)),
    "cam.safetensors": lambda path: write_state_dict(path, {"a": torch.rand(30), "b": torch.rand(2, 7)}, metadata={}),
    "training.pt": lambda path: save_training(path, {"a": torch.rand(30)}),
    "run.json": lambda path: write_text(path, '{\n  "command": "cam"\n}\n'),
}


@pytest.mark.parametrize("name", WRITERS)
def test_case_outputs_that_no_longer_fit(tmp_path: Path, name: str) -> None:
    """After a power cut, or `: > a.png`, an output of no bytes is none; nor is one cut anywhere."""
    path = tmp_path / name
    assert not looks_whole(path)
    WRITERS[name](path)
    assert looks_whole(path)
    whole = path.read_bytes()
    lengths = {0, 1, 7, 20, len(whole) // 3, len(whole) // 2, len(whole) - 3, len(whole) - 2}
    for length in sorted(lengths):
        path.write_bytes(whole[:length])
        assert not looks_whole(path), length
    # What a file system may leave of a file that was never flushed.
    path.write_bytes(bytes(len(whole)))
    assert not looks_whole(path)


def test_other_files_need_not_be_empty(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("")
    assert not looks_whole(tmp_path / "a.txt")
    (tmp_path / "a.txt").write_text("a")
    assert looks_whole(tmp_path / "a.txt")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_what_is_no_file_is_no_output(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.png")
    (tmp_path / "b.png").symlink_to("c.png")
    (tmp_path / "d.png").mkdir()
    assert not any(looks_whole(tmp_path / name) for name in ("a.png", "b.png", "d.png"))
    write_mask(tmp_path / "c.png", NOISE[..., 0])
    assert looks_whole(tmp_path / "b.png")


@pytest.mark.parametrize("header", [b"[]", b'{"a": 1}', b'{"a": {"data_offsets": []}}', b"{"])
def test_a_strange_header_is_no_output(tmp_path: Path, header: bytes) -> None:
    (tmp_path / "a.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    assert not looks_whole(tmp_path / "a.safetensors")


def test_a_file_that_is_not_what_its_suffix_says_is_no_output(tmp_path: Path) -> None:
    write_picture(tmp_path / "a.jpg", Image.fromarray(NOISE))
    (tmp_path / "a.jpg").rename(tmp_path / "a.png")
    assert not looks_whole(tmp_path / "a.png")

"""Photos that show no class, from their labels to masks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pixaff.errors import FormatError
from pixaff.io.cams import CamFile
from pixaff.samples import Sample, fitted_cams

GREY = np.full((16, 24, 3), 128, np.uint8)
CPU = torch.device("cpu")


def cams(*values: int) -> CamFile:
    return CamFile(np.array(values, np.int64), np.ones((len(values), 16, 24), np.float32), (16, 24))


def test_cams_of_an_image_that_shows_no_class() -> None:
    for sample, file in ((Sample(GREY, (16, 24), labels=()), cams(1)), (Sample(GREY, (16, 24)), cams())):
        present, maps = fitted_cams(file, sample, CPU)
        assert (present, maps.shape) == ((), (0, 16, 24))
    with pytest.raises(FormatError, match="found CAMs of none of the photo's labels"):
        fitted_cams(cams(), Sample(GREY, (16, 24), labels=(0,)), CPU)
    assert Sample(GREY, (16, 24), cams=cams()).shows_none
    assert Sample(GREY, (16, 24), labels=(), cams=cams(1)).shows_none
    assert not Sample(GREY, (16, 24), labels=(0,), cams=cams()).shows_none
    assert not Sample(GREY, (16, 24)).shows_none


def test_case_xml_without_object_gets_a_mask_of_background(tmp_path: Path) -> None:
    from pixaff import propagate

    (tmp_path / "photos").mkdir()
    (tmp_path / "maps").mkdir()  # holds none for the meadow
    for name in ("meadow", "unknown"):
        Image.fromarray(GREY).save(tmp_path / "photos" / f"{name}.png")
    (tmp_path / "labels.csv").write_text("image,labels\nmeadow,\n")
    done = propagate(
        tmp_path / "photos",
        tmp_path / "masks",
        labels=tmp_path / "labels.csv",
        cams=tmp_path / "maps",
        save_scores=True,
        overlay=True,
    )
    assert done.done == ["meadow.png"]
    ((name, why),) = done.failed
    assert (name, 'no entry for "unknown"' in why) == ("unknown.png", True)
    assert not np.asarray(Image.open(tmp_path / "masks" / "meadow.png")).any()
    assert (tmp_path / "masks" / "scores" / "meadow.npz").is_file()

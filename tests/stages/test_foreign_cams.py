"""Folders of other programs' files through the commands, and the commands' files through other programs."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from foreign_cams import box, save, write_npy
from PIL import Image
from torch.nn import functional as F
from toy_bundle import BLUE, CLASSES, RED, draw, use_toy
from toy_set import use_tiny, write_set
from typer.testing import CliRunner

from pixaff.cli.app import app
from pixaff.errors import UsageError
from pixaff.io.cams import read_cams, write_cams
from pixaff.io.masks import read_mask, write_mask
from pixaff.recipe import Recipe
from pixaff.stages.cam import cam
from pixaff.stages.crf import crf
from pixaff.stages.evaluate import evaluate
from pixaff.stages.propagate import propagate
from pixaff.stages.train_affinity import train_affinity
from pixaff.stages.training.posteriors import read_label_maps

SIZE = (64, 96)
DATA = Path(__file__).parents[1] / "data"
GOLDEN = np.load(DATA / "reference_golden.npz")
WRITERS = {
    "psa": lambda path, maps: save(path, {0: maps[0], 1: maps[1]}),
    "irn": lambda path, maps: save(
        path, {"keys": torch.tensor([0, 1]), "cam": torch.from_numpy(maps[:, ::4, ::4].copy()), "high_res": maps}
    ),
    "puzzle": lambda path, maps: save(path, {"keys": np.array([0, 1, 2]), "hr_cam": maps}, 4),
    "walk": lambda path, maps: save(path, {"keys": np.array([0, 1, 2]), "rw": maps}, 2),
    "clipes": lambda path, maps: save(path, {"keys": np.array([1, 0]), "attn_highres": maps[::-1].astype(np.float16)}),
    "ours": lambda path, maps: write_cams(path.with_suffix(".npz"), [1, 2], maps, SIZE, "float32"),
}


@pytest.fixture(autouse=True)
def bundle(monkeypatch):
    return use_toy(monkeypatch)


@pytest.fixture
def mixed(tmp_path):
    """Photos whose maps lie in one folder, each in the format of another program, and the same ones all in ours."""
    rng = np.random.default_rng(0)
    for number, (stem, write) in enumerate(WRITERS.items()):
        draw(tmp_path / "photos" / f"{stem}.png", (RED, 8, 4 * number), (BLUE, 32, 60), size=SIZE)
        maps = 0.4 * rng.random((2, *SIZE), dtype=np.float32)
        maps[0, 8:32, 4 * number : 4 * number + 24] += 0.6
        maps[1, 32:56, 60:84] += 0.6
        write(tmp_path / "cams" / f"{stem}.npy", maps)
        write_cams(tmp_path / "same" / f"{stem}.npz", [1, 2], maps, SIZE, "float32")
        truth = np.zeros(SIZE, np.uint8)
        truth[8:32, 4 * number : 4 * number + 24], truth[32:56, 60:84] = 1, 2
        write_mask(tmp_path / "gt" / f"{stem}.png", truth)
    (tmp_path / "classes.txt").write_text("\n".join(CLASSES))
    return tmp_path


def add_a_bad_one(folder: Path) -> Path:
    """A photo whose maps are a pickle that would make a file; the path of that file."""
    mark = folder / "ran"

    class Touch:
        def __reduce__(self):
            return os.system, (f'echo ran > "{mark}"',)

    draw(folder / "photos" / "middle.png", (RED, 8, 8), size=SIZE)
    write_mask(folder / "gt" / "middle.png", np.ones(SIZE, np.uint8))
    write_npy(folder / "cams" / "middle.npy", pickle.dumps(box({0: Touch()})))
    return mark


def test_one_folder_of_all_formats_gives_the_masks_of_ours(mixed):
    assert propagate(mixed / "photos", mixed / "masks", cams=mixed / "cams").failed == []
    assert propagate(mixed / "photos", mixed / "expected", cams=mixed / "same").ok
    for stem in WRITERS:
        found = read_mask(mixed / "masks" / f"{stem}.png")
        assert set(np.unique(found)) == {0, 1, 2}
        # float16 may turn a pixel or two.
        assert (found != read_mask(mixed / "expected" / f"{stem}.png")).sum() <= (3 if stem == "clipes" else 0)


def test_a_bad_file_is_named_and_the_others_go_on(mixed):
    mark = add_a_bad_one(mixed)
    call = [f"{mixed}/photos", "--cams", f"{mixed}/cams", "--out"]
    for command, out, written in (("propagate", "masks", "masks/*.png"), ("crf", "crf", "crf/low/*.npz")):
        done = CliRunner().invoke(app, [command, *call, f"{mixed}/{out}"])
        assert done.exit_code == 1, done.output
        assert len(list(mixed.glob(written))) == len(WRITERS)
        lines = [line for line in done.stderr.splitlines() if "middle" in line]
        assert len(lines) == 1
        assert f"asks for {os.name}.system" in lines[0]
    call = ["evaluate", "--cams", f"{mixed}/cams", f"{mixed}/gt", "--threshold", "0.5", "--classes"]
    done = CliRunner().invoke(app, [*call, f"{mixed}/classes.txt"])
    assert done.exit_code == 1, done.output
    assert f"on {len(WRITERS)} images" in done.stdout
    assert not mark.exists()


def test_all_formats_are_scored_alike(mixed):
    given = {"cams": True, "alphas": [1, 2, 4], "classes": mixed / "classes.txt"}
    found, expected = (evaluate(mixed / name, mixed / "gt", **given) for name in ("cams", "same"))
    assert (found.images, found.failed) == (len(WRITERS), ())
    assert [score.miou for score in found.scores] == pytest.approx([score.miou for score in expected.scores], abs=1e-3)
    assert found.best.miou > 0.9


def test_maps_of_a_photo_lying_on_its_side_are_refused(mixed):
    exif = Image.Exif()
    exif[0x0112] = 6
    photo = mixed / "photos" / "psa.png"
    Image.open(photo).transpose(Image.Transpose.ROTATE_90).save(mixed / "psa.jpg", exif=exif, quality=95)
    assert propagate(mixed / "psa.jpg", mixed / "masks", cams=mixed / "cams").ok
    save(mixed / "cams" / "psa.npy", {0: np.ones((96, 64), np.float32)})
    failed = propagate(mixed / "psa.jpg", mixed / "masks", cams=mixed / "cams", overwrite=True).failed
    assert "of 96 x 64 pixels, expected 64 x 96: they lie on their side" in failed[0][1]


@pytest.fixture
def photos(tmp_path):
    draw(tmp_path / "photos" / "both.png", (RED, 8, 8), (BLUE, 32, 60), size=(61, 90))
    draw(tmp_path / "photos" / "red.png", (RED, 8, 8), size=(80, 201))
    return tmp_path / "photos"


def enlarged(maps: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    return F.interpolate(torch.from_numpy(maps)[None], size, mode="bilinear", align_corners=False)[0].numpy()


def test_maps_for_psa_are_dicts_of_the_photos_size(photos, tmp_path):
    cam(photos, tmp_path / "ours")
    assert cam(photos, tmp_path / "psa", format="psa").ok
    names = sorted(path.name for path in (tmp_path / "psa").iterdir())
    assert names == ["both.npy", "red.npy", "run.json", "run.jsonl"]
    theirs = np.load(tmp_path / "psa" / "both.npy", allow_pickle=True).item()
    ours = read_cams(tmp_path / "ours" / "both.npz")
    assert list(theirs) == [0, 1]
    np.testing.assert_allclose(np.stack(list(theirs.values())), enlarged(ours.cams, (61, 90)), atol=1e-3)
    # What was shrunk to the working size is brought back to the photo's.
    theirs = np.load(tmp_path / "psa" / "red.npy", allow_pickle=True).item()
    expected = enlarged(read_cams(tmp_path / "ours" / "red.npz").cams, (80, 201))
    np.testing.assert_allclose(theirs[0], expected[0], atol=1e-3)


def test_maps_for_irn_have_a_quarter_of_the_size_as_well(photos, tmp_path):
    cam(photos, tmp_path / "ours")
    assert cam(photos, tmp_path / "irn", format="irn").ok
    for stem, size, small in (("both", (61, 90), (16, 23)), ("red", (80, 201), (20, 51))):
        theirs = np.load(tmp_path / "irn" / f"{stem}.npy", allow_pickle=True).item()
        ours = read_cams(tmp_path / "ours" / f"{stem}.npz")
        assert (theirs["keys"] + 1).tolist() == ours.classes.tolist()
        assert theirs["high_res"].shape == (len(ours.classes), *size)
        np.testing.assert_allclose(theirs["high_res"], enlarged(ours.cams, size), atol=1e-3)
        assert theirs["cam"].shape == (len(ours.classes), *small)
        assert theirs["cam"].amax((1, 2)).tolist() == pytest.approx([1] * len(ours.classes), abs=1e-4)
        reduced = enlarged(ours.cams, small)
        np.testing.assert_allclose(theirs["cam"], reduced / reduced.max((1, 2), keepdims=True), atol=2e-3)


@pytest.mark.parametrize("form", ["psa", "irn"])
def test_written_maps_lead_to_the_masks_of_ours(photos, tmp_path, form):
    cam(photos, tmp_path / "cams", format=form)
    assert propagate(photos, tmp_path / "chained", cams=tmp_path / "cams").ok
    assert propagate(photos, tmp_path / "whole").ok
    for stem in ("both", "red"):
        found, expected = (read_mask(tmp_path / folder / f"{stem}.png") for folder in ("chained", "whole"))
        assert (found != expected).mean() < 0.01


def test_what_is_there_in_the_same_format_is_skipped(photos, tmp_path):
    for form in ("npz", "psa"):
        assert len(cam(photos, tmp_path / "cams", format=form).done) == 2
        assert len(cam(photos, tmp_path / "cams", format=form).skipped) == 2
        options = {"engine": "torch", "workers": 1, "format": form}
        assert len(crf(photos, tmp_path / "cams", tmp_path / "crf", **options).done) == 2
        assert len(crf(photos, tmp_path / "cams", tmp_path / "crf", **options).skipped) == 2


def test_unknown_formats_are_usage_errors(photos, tmp_path):
    with pytest.raises(UsageError, match="format is png, expected npz, psa, irn"):
        cam(photos, tmp_path / "cams", format="png")
    (tmp_path / "cams").mkdir()
    with pytest.raises(UsageError, match="format is irn, expected npz, psa"):
        crf(photos, tmp_path / "cams", tmp_path / "crf", format="irn")


def test_posteriors_for_psa_are_of_the_photos_size(photos, tmp_path):
    cam(photos, tmp_path / "cams")
    for form in ("npz", "psa"):
        assert crf(photos, tmp_path / "cams", tmp_path / form, engine="torch", format=form).ok
    for side in ("low", "high"):
        theirs = np.load(tmp_path / "psa" / side / "red.npy", allow_pickle=True).item()
        ours = read_cams(tmp_path / "npz" / side / "red.npz")
        assert list(theirs) == ours.classes.tolist()
        np.testing.assert_allclose(np.stack(list(theirs.values())), enlarged(ours.cams, (80, 201)), atol=1e-3)
        file = read_cams(tmp_path / "psa" / side / "red.npy")
        assert (file.classes.tolist(), file.size) == (ours.classes.tolist(), (80, 201))


def test_affinities_are_trained_on_folders_of_psa(tmp_path, monkeypatch):
    photos, _, masks = write_set(tmp_path, 4)
    for stem, mask in masks.items():
        classes = np.unique(np.append(mask, 0))
        for side, doubt in (("low", 0.1), ("high", 0.0)):
            rows = 0.9 * (mask == classes[:, None, None]).astype(np.float32) + 0.05
            rows[0] += doubt
            rows /= rows.sum(0)
            write_cams(tmp_path / "ours" / side / f"{stem}.npz", classes, rows, mask.shape, "float32")
            save(tmp_path / "psa" / side / f"{stem}.npy", dict(zip(classes.tolist(), rows, strict=True)))
    paths = sorted(photos.iterdir())
    found, expected = (
        read_label_maps(paths, tmp_path / name / "low", tmp_path / name / "high", 512, 1) for name in ("psa", "ours")
    )
    for theirs, ours in zip(found, expected, strict=True):
        assert theirs[0] == ours[0]
        assert theirs[1].tolist() == ours[1].tolist()
        assert len(np.unique(theirs[1])) > 1
    use_tiny(monkeypatch)
    (tmp_path / "psa" / "low" / "toy00.npy").write_bytes(b"")
    save(tmp_path / "psa" / "low" / "toy01.npy", {3: np.ones((5, 5), np.float32)})
    result = train_affinity(
        photos,
        tmp_path / "psa" / "low",
        tmp_path / "psa" / "high",
        tmp_path / "run",
        recipe=Recipe(epochs=1, batch_size=2, lr=5e-3, optimizer="adamw", precision="fp32", crop=96),
        device="cpu",
        workers=1,
    )
    assert result.path.is_file()
    assert result.done == ["toy02.png", "toy03.png"]
    assert [name for name, _ in result.failed] == ["toy00.png", "toy01.png"]


def test_golden_maps_of_psa_lead_to_the_published_posteriors_and_labels(tmp_path):
    """Their file in, their posteriors and affinity labels out; cat and person are shown."""
    (tmp_path / "image.png").write_bytes((DATA / "crf_image.png").read_bytes())
    save(tmp_path / "cams" / "image.npy", dict(zip((7, 14), GOLDEN["cam"].astype(np.float32), strict=True)))
    powers = {"crf_low": 4, "crf_high": 32, "size": 0}
    assert crf(tmp_path / "image.png", tmp_path / "cams", tmp_path, engine="torch", format="psa", **powers).ok
    for side, alpha in (("low", 4), ("high", 32)):
        rows = np.load(tmp_path / side / "image.npy", allow_pickle=True).item()
        assert list(rows) == [0, 8, 15]
        found, expected = np.stack(list(rows.values())), GOLDEN[f"crf_alpha{alpha}"]
        assert (found.argmax(0) == expected.argmax(0)).mean() >= 0.999
        assert np.abs(found - expected).mean() <= 1e-4
    ((size, cells),) = read_label_maps([tmp_path / "image.png"], tmp_path / "low", tmp_path / "high", 0, 1)
    assert size == (98, 131)
    # The reference's crop is 128 x 128; its classes are rows of the posteriors.
    values = np.full(256, 255, np.uint8)
    values[:3] = 0, 8, 15
    assert np.array_equal(cells[:, :16], values[GOLDEN["labels.map"]][:13])

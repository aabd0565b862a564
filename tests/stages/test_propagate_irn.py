"""The walk within class boundaries and instances, from photos to files: by a toy model, and by weights as published."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from filled import filled_state
from irn_figures import DATA, IMAGE, PRESENT
from PIL import Image
from toy_bundle import BLUE, RED, draw, toy_bundle, toy_predictor, use_toy
from typer.testing import CliRunner

from pixaff.cli.app import app
from pixaff.errors import CheckpointError, FormatError, UsageError
from pixaff.io.images import read_image
from pixaff.io.instances import read_instances, write_instances
from pixaff.io.masks import read_mask
from pixaff.io.scores import read_scores
from pixaff.models import create_boundary_network, create_cam_network, load_checkpoint
from pixaff.models.bundle import Bundle, load_model
from pixaff.models.model_folder import write_bundle
from pixaff.ops.boundary import boundary_affinity, boundary_walk, semantic_scores, strided_cams
from pixaff.ops.instances import detect_instances, displacement_centroids, instance_map, instance_scores
from pixaff.ops.walk import random_walk
from pixaff.prediction import margin_at, masks_at
from pixaff.predictor import TOLERANCE
from pixaff.stages.propagate import propagate

OTHER = (210, 20, 40)
"""Another red: of the same class, and yet another object."""


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    draw(folder / "one.jpg", (RED, 20, 36))
    draw(folder / "apart.png", (RED, 8, 8), (RED, 32, 64))
    draw(folder / "touching.png", (RED, 20, 24), (OTHER, 20, 48))
    draw(folder / "twice.png", (RED, 4, 4), (BLUE, 32, 36), (RED, 8, 68))
    return folder


def pixels(folder: Path, name: str) -> np.ndarray:
    return read_image(next(path for path in folder.iterdir() if path.stem == name))


@pytest.mark.parametrize("background", [0.25, 0.0])
def test_irn_walk_is_that_of_the_ops(photos: Path, background: float) -> None:
    model = toy_predictor(walk="irn", background=background, boundary_beta=6.0, steps=32, borders="full")
    image = pixels(photos, "twice")
    found = model(image)
    maps = torch.from_numpy(model.cams(image).cams)
    edge = model.boundaries(image).edge
    assert edge.shape == (16, 24)
    if background:
        expected = semantic_scores(boundary_walk(strided_cams(maps), edge, 6.0, 32), (64, 96), background)
    else:
        from pixaff.ops.cam import background_score
        from pixaff.ops.walk import cell_scores, upsample_scores

        start = torch.cat([cell_scores(background_score(maps, 3.0), 4), strided_cams(maps)]) * (1 - edge)
        walked = random_walk(start, boundary_affinity(edge), 6.0, 32, borders="full")
        expected = upsample_scores(walked, (64, 96), 4)
    assert np.allclose(found.scores, (expected / expected.sum(0)).numpy(), atol=TOLERANCE)
    assert found.classes == ("red", "blue")
    assert found.walked.shape == (3, 16, 24)
    assert found.mask[16, 16] == 1
    assert found.mask[44, 48] == 2


def test_irn_and_psa_affinities_are_multiplied(photos: Path) -> None:
    from pixaff.ops.affinity import pair_affinity

    settings = {"beta": 3.0, "boundary_beta": 2.0, "steps": 8, "borders": "full"}
    image = pixels(photos, "one")
    model = toy_predictor(walk="both", **settings)
    maps = torch.from_numpy(model.cams(image).cams)
    edge = model.boundaries(image).edge
    coarse = edge.unflatten(0, (8, 2)).unflatten(2, (12, 2)).amax((1, 3))
    features = toy_bundle().affinity.features(model.affinity_network.preprocess(image)[None])
    both = pair_affinity(features, 5, "full")[0] ** 3 * boundary_affinity(coarse) ** 2
    psa = toy_predictor(**settings)
    assert not np.allclose(psa(image).walked, model(image).walked, atol=1e-3)
    from pixaff.ops.cam import with_background
    from pixaff.ops.walk import cell_scores

    start = cell_scores(with_background(maps, 3.0))
    expected = random_walk(start, both, 1.0, 8, borders="full")
    assert np.allclose(model(image).walked, expected.numpy(), atol=1e-5)


@pytest.mark.parametrize("settings", [{"walk": "irn", "background": 0.25}, {"walk": "psa", "alpha": 1.0}])
@pytest.mark.parametrize(
    ("name", "expected"),
    [("one", ["red"]), ("apart", ["red"] * 2), ("touching", ["red"] * 2), ("twice", ["red", "red", "blue"])],
)
def test_irn_tells_instances_apart(photos: Path, settings: dict, name: str, expected: list[str]) -> None:
    image = pixels(photos, name)
    found = toy_predictor(borders="full", steps=16, **settings)(image, instances=True).instances.without_fragments()
    assert sorted(found.classes, reverse=True) == sorted(expected, reverse=True)
    assert len(found) == len(expected) == int(found.map.max())
    assert found.scores.min() > 0.2
    assert found.scores.max() == pytest.approx(1)
    for colour in {tuple(pixel) for pixel in image.reshape(-1, 3).tolist()} & {RED, OTHER, BLUE}:
        square = (image == colour).all(-1)
        numbers, counts = np.unique(found.map[square], return_counts=True)
        if name != "apart" and not (name == "twice" and colour == RED):
            assert counts.max() > 0.7 * square.sum()
            assert found.classes[numbers[counts.argmax()] - 1] == ("blue" if colour == BLUE else "red")


def test_irn_instances_of_a_mask_cover_it(photos: Path) -> None:
    found = toy_predictor(alpha=1.0)(pixels(photos, "twice"), instances=True)
    assert np.array_equal(found.instances.map > 0, found.mask > 0)
    values = np.append(0, found.instances.values)
    assert np.array_equal(values[found.instances.map], found.mask)


def test_irn_of_a_photo_without_an_object(photos: Path) -> None:
    model = toy_predictor(walk="irn", background=0.25)
    found = model(pixels(photos, "one"), labels=[], instances=True)
    assert (len(found.instances), found.instances.map.shape, found.mask.max()) == (0, (64, 96), 0)
    model.cam_network.gain.data.zero_()  # a class, and nothing of it to be seen
    found = model(pixels(photos, "one"), labels=["red"], instances=True)
    assert (len(found.instances), found.mask.max()) == (0, 0)


def test_irn_instances_of_a_photo_that_was_shrunk_have_its_size(tmp_path: Path) -> None:
    draw(tmp_path / "large.png", (RED, 40, 80), (RED, 140, 220), size=(250, 333), side=70)
    found = toy_predictor(size=108, alpha=1.0)(tmp_path / "large.png", instances=True)
    assert found.instances.map.shape == (250, 333)
    assert len(found.instances.without_fragments()) == 2
    assert found.instances.map[75, 115] != found.instances.map[175, 255]


def test_propagate_writes_irn_instances(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_toy(monkeypatch)
    out = tmp_path / "out"
    assert propagate(photos, out, walk="irn", background=0.25, instances=True).ok
    found = read_instances(out / "instances", "twice")
    assert sorted(found.values.tolist()) == [1, 1, 2]
    with Image.open(out / "instances" / "twice.png") as picture:
        assert picture.mode == "I;16"
    whole = json.loads((out / "instances.json").read_text())
    assert [image["file_name"] for image in whole["images"]] == ["apart.png", "one.jpg", "touching.png", "twice.png"]
    assert len(whole["annotations"]) == 8
    assert [category["name"] for category in whole["categories"]] == ["red", "blue"]
    assert {each["id"] for each in whole["annotations"]} == set(range(1, 9))
    (out / "instances" / "one.json").unlink()
    (out / "instances.json").unlink()
    again = propagate(photos, out, walk="irn", background=0.25, instances=True)
    assert (again.done, len(again.skipped)) == (["one.jpg"], 3)
    assert json.loads((out / "instances.json").read_text()) == whole
    (out / "instances.json").unlink()
    propagate(photos, out, walk="irn", background=0.25, instances=True)
    assert json.loads((out / "instances.json").read_text()) == whole


def test_irn_run_lengths_are_those_of_pycocotools(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mask = pytest.importorskip("pycocotools.mask")
    use_toy(monkeypatch)
    propagate(photos, tmp_path / "out", instances=True)
    found = read_instances(tmp_path / "out" / "instances", "twice")
    written = json.loads((tmp_path / "out" / "instances" / "twice.json").read_text())["annotations"]
    assert len(written) == len(found.values) > 1
    for each in written:
        seen = mask.decode({**each["segmentation"], "counts": each["segmentation"]["counts"].encode()})
        assert np.array_equal(seen, found.map == each["id"])
        assert each["area"] == seen.sum()
        assert (
            each["bbox"]
            == mask.toBbox({**each["segmentation"], "counts": each["segmentation"]["counts"].encode()}).tolist()
        )


def test_damaged_irn_instances_are_named(tmp_path: Path) -> None:
    write_instances(tmp_path, "photo.jpg", np.array([[0, 1], [2, 2]]), [3, 4], [0.5, 1.0])
    assert read_instances(tmp_path, "photo").values.tolist() == [3, 4]
    Image.fromarray(np.full((2, 2), 9, np.uint16)).save(tmp_path / "photo.png")
    with pytest.raises(FormatError, match="found instance 9, expected at most 2"):
        read_instances(tmp_path, "photo")
    (tmp_path / "photo.json").write_text("{")
    with pytest.raises(FormatError, match=r"photo\.json"):
        read_instances(tmp_path, "photo")
    (tmp_path / "photo.json").unlink()
    with pytest.raises(FormatError, match="no such file"):
        read_instances(tmp_path, "photo")


def test_irn_networks_that_are_missing_are_named_before_the_run(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = toy_bundle()
    use_toy(monkeypatch, Bundle(bundle.cam, bundle.affinity, bundle.classes, bundle.settings, bundle.path))
    for options in ({"walk": "irn"}, {"walk": "both"}, {"instances": True}):
        with pytest.raises(CheckpointError, match="no network of class boundaries"):
            propagate(photos, tmp_path / "out", **options)
    use_toy(monkeypatch, Bundle(bundle.cam, None, bundle.classes, bundle.settings, bundle.path, irn=bundle.irn))
    assert propagate(photos, tmp_path / "out", walk="irn").ok
    with pytest.raises(CheckpointError, match="no AffinityNet"):
        propagate(photos, tmp_path / "both", walk="both")
    with pytest.raises(UsageError, match="save_scores needs a walk that propagates the background"):
        propagate(photos, tmp_path / "scores", walk="irn", background=0.25, save_scores=True)
    with pytest.raises(UsageError, match="instances are several files"):
        propagate(photos / "one.jpg", tmp_path / "one.png", instances=True)


def test_saved_scores_of_the_irn_walk_make_its_masks(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_toy(monkeypatch)
    assert propagate(photos, tmp_path / "out", walk="irn", save_scores=True).ok
    assert propagate(photos, tmp_path / "more", walk="irn", alpha=0.5).ok
    for path in (tmp_path / "out").glob("*.png"):
        file = read_scores(tmp_path / "out" / "scores" / f"{path.stem}.npz")
        assert (file.cell, file.scores.shape[1:]) == (4, (16, 24))
        for mask, folder in zip(masks_at(file, [file.alpha, 0.5]), ("out", "more"), strict=True):
            assert np.mean(mask != read_mask(tmp_path / folder / path.name)) < 0.002  # float16
        assert (margin_at(file) >= 0).all()


def names(part: str) -> dict[str, dict[str, Any]]:
    """Shapes by name, and for every further name the one whose tensor it repeats."""
    found: dict[str, dict[str, Any]] = json.loads(gzip.decompress((DATA / f"irn_{part}.shapes.json.gz").read_bytes()))
    return found


def published(part: str, state: dict[str, torch.Tensor], path: Path) -> None:
    """Write tensors under all the names that a published file has."""
    torch.save({**state, **{name: state[own] for name, own in names(part)["aliases"].items()}}, path)


def test_irn_preset_with_weights_as_published(tmp_path: Path) -> None:
    """Commands with files as IRN's code writes them give what its steps give, one after the other."""
    cam_state = filled_state(names("cam")["shapes"])
    irn_state = filled_state(names("irn")["shapes"], cam_state)
    published("cam", cam_state, tmp_path / "res50_cam.pth")
    published("irn", irn_state, tmp_path / "res50_irn.pth")
    (tmp_path / "labels.csv").write_text("image,labels\ncrf_image,cat;person\n")
    weights = ["--cam-weights", str(tmp_path / "res50_cam.pth"), "--irn-weights", str(tmp_path / "res50_irn.pth")]
    common = ["--preset", "irn", "--labels", str(tmp_path / "labels.csv"), "--device", "cpu", "--scales", "1,0.5"]
    out = tmp_path / "out"
    done = CliRunner().invoke(app, ["propagate", str(IMAGE), *common, *weights, "--instances", "--out", str(out)])
    assert done.exit_code == 0, done.output

    cam_model = load_checkpoint(create_cam_network("resnet50_cam"), tmp_path / "res50_cam.pth")
    irn_model = load_checkpoint(create_boundary_network("resnet50_irn"), tmp_path / "res50_irn.pth")
    image = read_image(IMAGE)
    size = image.shape[:2]
    cam, _ = cam_model.irn_cams(image, PRESENT, (1.0, 0.5))
    edge, displacement = irn_model.boundaries(image)
    mask = semantic_scores(boundary_walk(cam, edge), size).argmax(0).numpy()
    expected = np.array([0, PRESENT[0] + 1, PRESENT[1] + 1])[mask]
    assert (read_mask(out / "crf_image.png") == expected).mean() > 0.999
    places = instance_map(displacement_centroids(displacement), displacement)
    found = detect_instances(boundary_walk(instance_scores(cam, places), edge), size)
    kept = found.scores > 0
    written = read_instances(out / "instances", "crf_image")
    assert len(written.values) == int(kept.sum())
    assert np.allclose(written.scores, found.scores[kept].numpy(), atol=1e-4)
    values = [PRESENT[row // (int(places.max()) + 1)] + 1 for row in found.rows[kept].tolist()]
    assert written.values.tolist() == values


def test_a_backbone_that_irn_shares_is_stored_once(tmp_path: Path) -> None:
    lite = load_model("lite", parts=("cam", "affinity"))
    irn = create_boundary_network("lite_irn")
    irn.backbone.load_state_dict(lite.affinity.backbone.state_dict())
    write_bundle(
        tmp_path, "lite_cam", "lite_affinity", lite.cam, lite.affinity, lite.classes, lite.settings, True,
        irn="lite_irn", irn_model=irn,
    )  # fmt: skip
    assert (tmp_path / "irn.safetensors").stat().st_size < 1_500_000
    again = load_model(tmp_path)
    half = irn.edge_merge.weight.half().float()
    assert torch.equal(again.irn.edge_merge.weight, half)
    known = lite.affinity.state_dict()
    assert all(torch.equal(t, known[n]) for n, t in again.irn.state_dict().items() if n.startswith("backbone."))
    assert again.settings.irn == "lite_irn"
    (tmp_path / "affinity.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"affinity\.safetensors"):
        load_model(tmp_path, parts=("cam", "irn"))
    with torch.no_grad():
        irn.backbone.net.conv_stem.weight += 1
    write_bundle(
        tmp_path, "lite_cam", "lite_affinity", lite.cam, lite.affinity, lite.classes, lite.settings, True,
        irn="lite_irn", irn_model=irn,
    )  # fmt: skip
    assert (tmp_path / "irn.safetensors").stat().st_size > 9_000_000

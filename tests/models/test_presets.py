"""Presets that bring their own networks: which files are theirs, and what is said when something is missing."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from toy_set import TinyAffinity, TinyCam, use_tiny, write_set
from typer.testing import CliRunner

from pixaff.cli.app import app
from pixaff.errors import CheckpointError, UsageError
from pixaff.events import Event
from pixaff.io.checkpoints import write_state_dict
from pixaff.io.labels import VOC_CLASSES
from pixaff.models.bundle import Bundle, Weights, load_model
from pixaff.models.model_folder import write_bundle
from pixaff.models.recognise import recognised
from pixaff.models.registry import PRESETS, create_model
from pixaff.stages.cam import cam
from pixaff.stages.propagate import propagate

VGG = PRESETS["psa-vgg16"]
PUBLISHED = ("vgg16_cam", "vgg16_affinity", "resnet38_cam", "resnet38_affinity")


class TinyMerged(TinyAffinity):
    """With a layer that tells it from a classifier, as the published AffinityNets have."""

    def __init__(self) -> None:
        super().__init__(24)
        self.f9 = nn.Conv2d(24, 24, 1)


def load_vgg(weights: Weights, **options: Any) -> Bundle:
    return load_model(preset="psa-vgg16", weights=weights, **options)


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """The published networks at a thousandth of their size."""
    use_tiny(monkeypatch, affinity=TinyMerged)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Weights of both networks, 20 classes, under names that say nothing, among other files."""
    weights = tmp_path / "weights"
    weights.mkdir()
    torch.manual_seed(0)
    prefixed = {f"module.{name}": tensor for name, tensor in TinyCam(20).state_dict().items()}
    torch.save({"state_dict": prefixed}, weights / "drive-download-1")
    write_state_dict(weights / "drive-download-2.bin", TinyMerged().state_dict())
    (weights / "README.txt").write_text("from the authors")
    (weights / "page.pth").write_text("<html>")
    (weights / "sub").mkdir()
    return weights


@pytest.mark.parametrize("network", PUBLISHED)
@pytest.mark.parametrize("classes", [20, 5])
def test_published_weights_are_known_by_their_tensors(network: str, classes: int) -> None:
    with torch.device("meta"):
        state = create_model(network, classes).state_dict()
    published = {name: tensor for name, tensor in state.items() if not name.endswith("num_batches_tracked")}
    assert recognised(published, PUBLISHED) == network
    assert recognised(published, [other for other in PUBLISHED if other != network]) is None
    published.popitem()
    assert recognised(published, PUBLISHED) is None


@pytest.mark.usefixtures("tiny")
@pytest.mark.parametrize(
    ("model", "preset", "network"),
    [(None, "psa-vgg16", "vgg16_cam"), (None, "psa-resnet38-cvpr", "resnet38_cam"), ("run", "psa-vgg16", "lite_cam")],
)
def test_a_preset_brings_its_networks_unless_a_model_is_named(
    folder: Path, monkeypatch: pytest.MonkeyPatch, model: str | None, preset: str, network: str
) -> None:
    monkeypatch.chdir(folder.parent)
    write_bundle("run", "lite_cam", None, TinyCam(2), None, ["a", "b"], PRESETS["lite"])
    weights = Weights(folder=folder) if model is None else None
    found = load_model(model, preset, weights=weights, parts=("cam",))
    assert (found.settings.cam, found.settings.preset) == (network, preset)
    assert found.settings.beta == PRESETS[preset].beta


@pytest.mark.parametrize(("model", "preset"), [(None, None), (None, "lite"), ("lite", "psa-vgg16"), ("run", None)])
def test_weights_belong_to_a_preset_that_needs_them(model: str | None, preset: str | None) -> None:
    with pytest.raises(UsageError, match="found weights of networks and"):
        load_model(model, preset, weights=Weights(cam="a.pth"))


def test_the_embedded_model_takes_a_preset_s_hyper_parameters_and_the_parts_that_are_asked_for() -> None:
    plain, lent = load_model(parts=("cam",)), load_model("lite", "psa-vgg16", parts=("affinity",))
    assert plain.settings == PRESETS["lite"]
    assert lent.settings == PRESETS["lite"].with_hyper_parameters_of(VGG)
    assert (plain.affinity, lent.cam) == (None, None)
    assert plain.classes == lent.classes == VOC_CLASSES
    assert plain.sources == {"model": "lite"}
    assert {part: path.name for part, path in lent.files.items()} == {"affinity": "affinity.safetensors"}


def test_the_page_about_presets_has_their_numbers() -> None:
    page = (Path(__file__).parents[2] / "docs" / "presets.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `([\w-]+)` \| (.+) \|$", page, re.MULTILINE))
    assert list(rows) == list(PRESETS)
    for name, settings in PRESETS.items():
        if settings.cam == "resnet50_cam":
            numbers = [float(number) for number in rows[name].split(" | ")[:3]]
            assert numbers == [settings.conf_fg, settings.conf_bg, settings.background]
            assert (settings.cam, settings.affinity, settings.irn) == ("resnet50_cam", "", "resnet50_irn")
            continue
        networks, alphas, walk, scales, side = rows[name].split(" | ")
        walks, beta = {"psa": (settings.affinity, settings.beta), "irn": (settings.irn, settings.boundary_beta)}[
            settings.walk
        ]
        assert networks == "the same" or networks.startswith(f"`{settings.cam}`, `{walks}`")
        assert [float(number) for number in alphas.split(" / ")] == [
            settings.crf_low,
            settings.alpha,
            settings.crf_high,
        ]
        assert [float(number) for number in walk.split(", ")] == [beta, settings.radius, settings.steps]
        assert [float(number) for number in scales.split(", ")] == list(settings.scales)
        assert side.startswith(str(settings.size) if settings.size else "the photo's own")
    assert PRESETS["psa-resnet38-cvpr"].cam == PRESETS["psa-resnet38"].cam


def test_the_embedded_model_has_the_numbers_of_its_preset() -> None:
    assert load_model("lite").settings == PRESETS["lite"]


def test_unknown_presets_list_the_known_ones() -> None:
    with pytest.raises(UsageError, match=r'no preset is called "vgg" \(presets: lite, lite-psa, psa-vgg16'):
        load_model(preset="vgg")


def test_without_weights_the_options_are_named() -> None:
    with pytest.raises(UsageError, match=r"vgg16_cam and vgg16_affinity \(give --cam-weights FILE and --affinity-w"):
        load_vgg(Weights())
    with pytest.raises(UsageError, match=r"weights of vgg16_affinity \(give --affinity-weights FILE, or --weights-dir"):
        load_vgg(Weights(cam="a.pth"), parts=("affinity",))


@pytest.mark.usefixtures("tiny")
def test_a_folder_of_weights(folder: Path) -> None:
    bundle = load_vgg(Weights(folder=folder))
    assert isinstance(bundle.cam, TinyCam)
    assert isinstance(bundle.affinity, TinyMerged)
    assert not bundle.cam.training
    assert bundle.classes == VOC_CLASSES
    assert bundle.settings == VGG
    assert bundle.sources == {
        "cam_weights": str(folder / "drive-download-1"),
        "affinity_weights": str(folder / "drive-download-2.bin"),
    }
    alone = load_vgg(Weights(folder=folder), parts=("affinity",))
    assert alone.cam is None
    assert list(alone.sources) == ["affinity_weights"]
    # A file that is named goes before the folder's.
    os.rename(folder / "drive-download-1", folder.parent / "mine.pth")
    mixed = load_vgg(Weights(cam=folder.parent / "mine.pth", folder=folder))
    assert mixed.sources["cam_weights"].endswith("mine.pth")
    with pytest.raises(
        CheckpointError, match=r"no file contains the weights of vgg16_cam; other files: README\.txt, drive"
    ):
        load_vgg(Weights(folder=folder), parts=("cam",))
    with pytest.raises(CheckpointError, match="no such folder"):
        load_vgg(Weights(folder=folder / "gone"))


@pytest.mark.usefixtures("tiny")
def test_two_files_of_one_network_are_not_chosen_between(folder: Path) -> None:
    write_state_dict(folder / "old" / "other.safetensors", TinyMerged().state_dict())
    both = re.escape(f"drive-download-2.bin and {Path('old', 'other.safetensors')}")
    with pytest.raises(CheckpointError, match=f"two files of vgg16_affinity, {both}"):
        load_vgg(Weights(folder=folder))


class Touch:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f'echo ran > "{self.path}"',)


@pytest.mark.usefixtures("tiny")
def test_hostile_files_in_the_folder_do_not_run(folder: Path) -> None:
    torch.save({"head.weight": Touch(folder / "ran")}, folder / "a.pth")
    load_vgg(Weights(folder=folder))
    with pytest.raises(CheckpointError, match="nothing in it was run"):
        load_vgg(Weights(cam=folder / "a.pth"), parts=("cam",))
    assert not (folder / "ran").exists()


@pytest.mark.usefixtures("tiny")
def test_class_names_belong_to_the_weights(tmp_path: Path) -> None:
    write_state_dict(tmp_path / "two.safetensors", TinyCam(2).state_dict())
    names = {"classes": json.dumps(["cup", "pan"])}
    write_state_dict(tmp_path / "ours.safetensors", TinyCam(2).state_dict(), metadata=names)
    (tmp_path / "classes.txt").write_text("tea\ncoffee\n")
    (tmp_path / "three.txt").write_text("a\nb\nc\n")

    def classes(file: str, given: str | None) -> tuple[str, ...]:
        path = None if given is None else tmp_path / given
        bundle = load_vgg(Weights(cam=tmp_path / file), classes=path, parts=("cam",))
        assert bundle.cam is not None
        assert bundle.cam(torch.zeros(1, 3, 32, 32)).shape == (1, 2)
        return bundle.classes

    assert classes("ours.safetensors", None) == ("cup", "pan")
    assert classes("two.safetensors", "classes.txt") == ("tea", "coffee")
    with pytest.raises(UsageError, match=r"is for 2 classes and does not name them \(give --classes"):
        classes("two.safetensors", None)
    with pytest.raises(UsageError, match=r"names 3 classes, .*two\.safetensors is for 2"):
        classes("two.safetensors", "three.txt")


@pytest.mark.usefixtures("tiny")
def test_swapped_weights_are_told_by_their_tensors(folder: Path) -> None:
    swapped = Weights(cam=folder / "drive-download-2.bin", affinity=folder / "drive-download-1")
    with pytest.raises(CheckpointError, match=r"load-2\.bin: found the weights of vgg16_affinity, expected .*\(swap"):
        load_vgg(swapped)
    with pytest.raises(
        CheckpointError, match=r"drive-download-1: found the weights of vgg16_cam, expected those of vg"
    ):
        load_vgg(swapped, parts=("affinity",))


@pytest.mark.usefixtures("tiny")
def test_weights_that_no_option_names_are_fetched(folder: Path) -> None:
    files = {"vgg16-cam": folder / "drive-download-1", "vgg16-affinity": folder}
    asked: list[str] = []

    def fetch(name: str) -> Path:
        asked.append(name)
        return files[name]

    bundle = load_vgg(Weights(), fetch=fetch)
    assert asked == ["vgg16-cam", "vgg16-affinity"]
    assert bundle.sources["affinity_weights"] == str(folder / "drive-download-2.bin")
    load_vgg(Weights(cam=folder / "drive-download-1"), parts=("cam",), fetch=fetch)
    assert asked == ["vgg16-cam", "vgg16-affinity"]
    with pytest.raises(
        UsageError, match=r"psa-vgg16 needs weights of vgg16_cam and vgg16_affinity \(give --cam-weights"
    ):
        load_vgg(Weights())


@pytest.mark.usefixtures("tiny")
def test_runs_say_and_record_what_they_took(folder: Path, tmp_path: Path) -> None:
    photos, _, _ = write_set(tmp_path / "set", 3)
    (tmp_path / "two.txt").write_text("toy00\ntoy02\n")
    said: list[Event] = []
    options: dict[str, Any] = {"preset": "psa-resnet38", "weights_dir": folder, "device": "cpu", "size": 64}
    report = propagate(
        photos, tmp_path / "masks", **options, listing=tmp_path / "two.txt", alpha=24, scales=[1], report=said.append
    )
    assert report.ok
    assert sorted(report.done) == ["toy00.png", "toy02.png"]
    record = json.loads((tmp_path / "masks" / "run.json").read_text())
    settings = record["settings"]
    given = {"preset": "psa-resnet38", "cam": "resnet38_cam", "affinity": "resnet38_affinity", "alpha": 24, "size": 64}
    given |= {"scales": [1], "flip": True, "beta": 8, "radius": 5, "steps": 256, "final_crf": False}
    assert {name: settings[name] for name in given} == given
    assert settings["cam_weights"] == str(folder / "drive-download-1")
    assert (record["images"], record["done"]) == (2, 2)
    assert record["last_run"]["list"] == str(tmp_path / "two.txt")
    assert record["device"].startswith("cpu")
    assert {"pixaff", "torch", "timm", "numpy"} <= record["versions"].keys()
    assert record["classes"] == list(VOC_CLASSES)
    printed = next(event.data for event in said if event.kind == "settings")
    assert {name: printed[name] for name in given} == given | {"scales": [1]}

    maps = cam(photos, tmp_path / "cams", **options, scales=[1.0])
    assert len(maps.done) == 3
    settings = json.loads((tmp_path / "cams" / "run.json").read_text())["settings"]
    assert (settings["preset"], settings["cam"], settings["size"]) == ("psa-resnet38", "resnet38_cam", 64)
    # With maps at hand the AffinityNet is enough.
    (folder / "drive-download-1").unlink()
    assert propagate(photos, tmp_path / "refined", cams=tmp_path / "cams", **options).ok


def test_the_command_line_says_which_weights_are_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIXAFF_OFFLINE", "1")
    monkeypatch.setenv("PIXAFF_CACHE", str(tmp_path / "cache"))
    photos, _, _ = write_set(tmp_path, 1)
    for command in ("cam", "propagate"):
        done = CliRunner().invoke(app, [command, str(photos), "--out", str(tmp_path / "o"), "--preset", "psa-vgg16"])
        assert done.exit_code == 1
        assert "vgg16-cam is not in the cache" in done.stderr
        assert "pixaff download-weights vgg16-cam --from-file FILE" in done.stderr

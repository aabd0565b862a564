"""Models in folders: written, read back, and named where they are damaged."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from toy_set import TinyCam, use_tiny

from pixaff.errors import CheckpointError
from pixaff.io.checkpoints import read_metadata, write_state_dict
from pixaff.models import create_affinity_network, create_cam_network
from pixaff.models.base import AffinityNetwork, CamNetwork
from pixaff.models.bundle import load_model, parts_of_walk
from pixaff.models.model_folder import write_bundle
from pixaff.models.registry import PRESETS, create_boundary_network
from pixaff.settings import Settings


@pytest.fixture(scope="module")
def cam() -> CamNetwork:
    torch.manual_seed(0)
    return create_cam_network("lite_cam", 3)


@pytest.fixture(scope="module")
def affinity() -> AffinityNetwork:
    torch.manual_seed(0)
    return create_affinity_network("lite_affinity")


def test_a_model_folder_comes_back_as_it_was(cam: CamNetwork, affinity: AffinityNetwork, tmp_path: Path) -> None:
    settings = Settings(alpha=2.5, scales=(1.0, 0.5), irn="", walk="psa")
    write_bundle(tmp_path, "lite_cam", "lite_affinity", cam, affinity, ["a", "b", "c"], settings)
    bundle = load_model(tmp_path)
    assert bundle.classes == ("a", "b", "c")
    assert bundle.settings == settings
    for network, loaded in ((cam, bundle.cam), (affinity, bundle.affinity)):
        assert loaded is not None
        assert not loaded.training
        expected = network.state_dict()
        assert all(torch.equal(tensor, expected[name]) for name, tensor in loaded.state_dict().items())


def test_a_folder_without_a_model_and_a_damaged_one(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"contains neither model\.json nor cam\.safetensors"):
        load_model(tmp_path)
    (tmp_path / "model.json").write_text("{")
    with pytest.raises(CheckpointError, match="no valid JSON"):
        load_model(tmp_path)
    (tmp_path / "model.json").write_text(json.dumps({"format": 1, "classes": ["a"], "settings": {"alhpa": 1}}))
    with pytest.raises(CheckpointError, match="alhpa"):
        load_model(tmp_path)


def test_the_folder_of_a_training_is_a_model_without_affinities(cam: CamNetwork, tmp_path: Path) -> None:
    names = ["a", "b", "c"]
    weights = tmp_path / "cam.safetensors"
    write_state_dict(weights, cam.state_dict(), metadata={"network": "lite_cam", "classes": json.dumps(names)})
    bundle = load_model(tmp_path)
    assert bundle.classes == tuple(names)
    assert bundle.affinity is None
    write_state_dict(weights, cam.state_dict())
    with pytest.raises(CheckpointError, match="does not say which network"):
        load_model(tmp_path)


def test_a_training_of_a_published_network_takes_its_preset_s_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_tiny(monkeypatch)
    names = {"network": "resnet38_cam", "classes": json.dumps(["a", "b"])}
    write_state_dict(tmp_path / "cam.safetensors", TinyCam(2).state_dict(), metadata=names)
    assert load_model(tmp_path).settings == PRESETS["psa-resnet38"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"classes": ["a", "a", "b"]}, r'model\.json: found the class "a", expected names, each once'),
        ({"classes": ["a", " ", "b"]}, 'found the class " ", expected names'),
        ({"classes": [str(number) for number in range(255)]}, "found 255 classes, expected 1 to 254"),
        (
            {"cam": "lite_cma"},
            r'model\.json: no network is called "lite_cma" \(did you mean lite_cam\?; or update pixaff',
        ),
        ({"cam": "x" * 100_000}, r"no network is called \"x+\.\.\.x+\""),
        ({"affinity": "vgg16_cam"}, 'found vgg16_cam as the network "affinity", which it is not'),
        ({"cam": "timm:resnt50"}, r"cam\.safetensors: timm \S+ has no network called .* \(did you mean timm:resnet50"),
        ({"classes": ["a", "b"]}, r"cam\.safetensors: found a classifier for 3 classes .*, expected 2"),
    ],
)
def test_records_that_are_odd_are_named(cam: CamNetwork, tmp_path: Path, changes: dict, words: str) -> None:
    write_bundle(tmp_path, "lite_cam", None, cam, None, ["a", "b", "c"], Settings())
    record = json.loads((tmp_path / "model.json").read_text())
    if "classes" in changes:
        record |= changes
    else:
        record["settings"] |= changes
    (tmp_path / "model.json").write_text(json.dumps(record))
    with pytest.raises(CheckpointError, match=words) as caught:
        load_model(tmp_path, parts=("cam",))
    assert len(str(caught.value)) < 600


def test_weights_of_an_unknown_network_name_the_file(cam: CamNetwork, tmp_path: Path) -> None:
    weights = tmp_path / "cam.safetensors"
    for network, words in (("best_cam", 'no network is called "best_cam"'), ("lite_affinity", 'as the network "cam"')):
        names = {"network": network, "classes": json.dumps(["a", "b", "c"])}
        write_state_dict(weights, cam.state_dict(), metadata=names)
        with pytest.raises(CheckpointError, match=rf"cam\.safetensors: .*{words}"):
            load_model(tmp_path)


def test_swapped_files_of_a_folder_are_told(cam: CamNetwork, affinity: AffinityNetwork, tmp_path: Path) -> None:
    write_bundle(tmp_path, "lite_cam", "lite_affinity", cam, affinity, ["a", "b", "c"], Settings())
    (tmp_path / "cam.safetensors").rename(tmp_path / "kept")
    (tmp_path / "affinity.safetensors").rename(tmp_path / "cam.safetensors")
    (tmp_path / "kept").rename(tmp_path / "affinity.safetensors")
    swap = r"\(swap cam\.safetensors and affinity\.safetensors\)"
    with pytest.raises(CheckpointError, match=rf"cam\.safetensors: found the weights of lite_affinity, .*{swap}"):
        load_model(tmp_path)


def test_a_boundary_network_takes_the_backbone_of_the_network_that_has_the_same(
    cam: CamNetwork, tmp_path: Path
) -> None:
    irn, affinity = create_boundary_network("lite_irn"), create_affinity_network("lite_affinity")
    for name, other, file in (("a", cam, "cam.safetensors"), ("b", affinity, "affinity.safetensors")):
        irn.backbone.load_state_dict(other.backbone.state_dict())
        settings, folder = Settings(), tmp_path / name
        write_bundle(
            folder, "lite_cam", "lite_affinity", cam, affinity, ["a", "b", "c"], settings, irn="lite_irn", irn_model=irn
        )
        assert read_metadata(folder / "irn.safetensors")["shares"] == file
        bundle = load_model(folder)
        assert bundle.settings == settings
        assert bundle.irn is not None
        assert all(torch.equal(tensor, bundle.irn.state_dict()[key]) for key, tensor in irn.state_dict().items())


def test_a_record_from_before_the_walk_was_a_choice_means_that_of_psa(
    cam: CamNetwork, affinity: AffinityNetwork, tmp_path: Path
) -> None:
    write_bundle(tmp_path, "lite_cam", "lite_affinity", cam, affinity, ["a", "b", "c"], Settings(steps=256))
    record = json.loads((tmp_path / "model.json").read_text())
    del record["settings"]["walk"], record["settings"]["irn"]
    (tmp_path / "model.json").write_text(json.dumps(record))
    settings = load_model(tmp_path).settings
    assert (settings.walk, settings.irn, settings.steps) == ("psa", "", 256)


def test_a_preset_that_is_lent_decides_which_networks_are_loaded() -> None:
    assert load_model("lite", parts=parts_of_walk).affinity is None
    lent = load_model("lite", "lite-psa", parts=parts_of_walk)
    assert lent.affinity is not None
    assert lent.irn is None

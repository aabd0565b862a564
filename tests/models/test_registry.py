"""The networks by name, and what goes with each."""

from __future__ import annotations

import pytest
import torch

from pixaff.errors import UsageError
from pixaff.models import create_affinity_network, create_cam_network, create_model, list_models
from pixaff.models.base import AffinityNetwork, BoundaryNetwork, CamNetwork, SegNetwork
from pixaff.models.registry import (
    FAMILIES,
    PRESETS,
    affinity_recipe,
    cam_recipe,
    head_recipe,
    part_of,
    preset_settings,
    published_entries,
    published_weights,
    settings_of_network,
)

KINDS = {"cam": CamNetwork, "affinity": AffinityNetwork, "irn": BoundaryNetwork, "seg": SegNetwork}
PROMISES = {CamNetwork: "cam", AffinityNetwork: "features", BoundaryNetwork: "forward", SegNetwork: "forward"}


def test_names() -> None:
    assert {"lite_cam", "vgg16_cam", "resnet38_cam", "lite_affinity", "vgg16_affinity"} <= set(list_models())
    with pytest.raises(UsageError, match="did you mean lite_cam"):
        create_model("lite_cma")
    with pytest.raises(UsageError, match="expected at least 1"):
        create_model("lite_cam", 0)


def test_every_name_is_one_network_of_the_kind_that_it_says() -> None:
    assert len(set(list_models())) == len(list_models()) == sum(len(family.names) for family in FAMILIES)
    with torch.device("meta"):
        for name in list_models():
            network, kind = create_model(name, 3), KINDS[part_of(name)]
            assert isinstance(network, kind), name
            assert not network.training
            assert getattr(network, PROMISES[kind]) is not getattr(kind, PROMISES[kind])
            # What a network promises without saying so itself: some side, and initial weights under their own names.
            side = network.image_size
            assert network.seen_size((30, 50)) in ((30, 50), (side, side), (32, 48)), name
            assert network.own_names({"a": torch.zeros(1)}).keys() == {"a"}
            assert all(network.parameter_groups().values())


def test_a_network_of_the_other_kind_is_named_with_one_of_the_right_kind() -> None:
    with pytest.raises(UsageError, match=r"vgg16_affinity makes no CAMs \(choose a CAM network, such as vgg16_cam\)"):
        create_cam_network("vgg16_affinity")
    with pytest.raises(UsageError, match=r"vgg16_cam is not an AffinityNet \(choose one, such as vgg16_affinity\)"):
        create_affinity_network("vgg16_cam")
    for name in ("vgg16_cam", "lite_affinity", "timm:test_resnet"):
        with pytest.raises(UsageError, match=f"found the image size 448 for {name}, which accepts any"):
            create_model(name, image_size=448)
    for create in (create_model, create_cam_network, create_affinity_network, cam_recipe, affinity_recipe, head_recipe):
        with pytest.raises(UsageError, match=r'no network is called "vgg_cam" \(did you mean vgg16_cam\?\)'):
            create("vgg_cam")


def test_a_segmentation_head_has_a_recipe_and_a_switch() -> None:
    for family in FAMILIES:
        assert (family.head_recipe is not None) == (family.cam is not None and family.cam.has_segmentation_head)
    assert head_recipe("vgg16_cam") is None
    network = create_cam_network("lite_cam", 2)
    x = torch.rand(1, 3, 32, 32)
    before = network.cam(x)
    network.use_segmentation_head(True)
    assert not torch.equal(network.cam(x), before)
    network.use_segmentation_head(False)
    assert torch.equal(network.cam(x), before)
    with torch.device("meta"):
        headless = create_cam_network("vgg16_cam")
    headless.use_segmentation_head(False)
    for call in (lambda: headless.use_segmentation_head(True), lambda: headless.segmentation_logits(x)):
        with pytest.raises(NotImplementedError):
            call()


def test_published_weights_go_with_their_networks() -> None:
    names = [entry.name for entry in published_entries()]
    assert len(names) == len(set(names))
    found = {name: entry for name in list_models() if (entry := published_weights(name)) is not None}
    assert set(found.values()) == set(names)
    assert (found["resnet38_cam"], found["hybrid_cam"], found["hybrid_affinity"]) == (
        "resnet38-cam",
        "hybrid",
        "hybrid",
    )
    assert published_weights("lite_cam") is None
    assert published_weights("timm:resnet50") is None


def test_presets_carry_their_own_names_and_the_published_numbers():
    assert all(name == settings.preset for name, settings in PRESETS.items())
    published = {
        name: (s.crf_low, s.alpha, s.crf_high, s.beta, s.steps) for name, s in PRESETS.items() if name.startswith("psa")
    }
    assert published == {
        "psa-vgg16": (4, 16, 32, 8, 256),
        "psa-resnet38": (4, 16, 32, 8, 256),
        "psa-resnet38-cvpr": (4, 16, 24, 8, 256),
    }


def test_a_preset_gives_all_and_a_network_finds_its_preset():
    assert preset_settings("psa-resnet38-cvpr") is PRESETS["psa-resnet38-cvpr"]
    assert settings_of_network("resnet38_cam") is PRESETS["psa-resnet38"]
    assert settings_of_network("other_cam") == PRESETS["lite-psa"].replace(cam="other_cam")
    assert settings_of_network("lite_cam", "irn") is PRESETS["lite"]
    assert settings_of_network("vgg16_cam", "irn") is PRESETS["psa-vgg16"]
    with pytest.raises(UsageError, match="psa-vgg16"):
        preset_settings("vgg")

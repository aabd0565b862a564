from __future__ import annotations

import json

import pytest

from pixaff.errors import UsageError
from pixaff.models.registry import PRESETS, preset_settings, settings_of_network
from pixaff.settings import NUMBERS, Settings


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


def test_replace_keeps_what_is_not_given():
    settings = Settings(alpha=5.0, steps=7).replace(alpha=None, steps=9)
    assert (settings.alpha, settings.steps) == (5.0, 9)


def test_a_preset_lends_its_numbers_and_not_its_networks():
    settings = Settings(size=300).with_hyper_parameters_of(PRESETS["psa-vgg16"])
    assert {name: getattr(settings, name) for name in NUMBERS} == {
        name: getattr(PRESETS["psa-vgg16"], name) for name in NUMBERS
    }
    assert (settings.preset, settings.cam, settings.size) == ("psa-vgg16", "lite_cam", 300)


def test_a_preset_gives_all_and_a_network_finds_its_preset():
    assert preset_settings("psa-resnet38-cvpr") is PRESETS["psa-resnet38-cvpr"]
    assert settings_of_network("resnet38_cam") is PRESETS["psa-resnet38"]
    assert settings_of_network("other_cam") == Settings(cam="other_cam")
    with pytest.raises(UsageError, match="psa-vgg16"):
        preset_settings("vgg")


def test_settings_survive_json():
    settings = Settings(scales=(1, 0.5), final_crf=False, radius=3)
    assert Settings.from_dict(json.loads(json.dumps(settings.to_dict()))) == settings


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("alpha", 0),
        ("beta", float("nan")),
        ("crf_low", -1),
        ("radius", 1),
        ("steps", -1),
        ("size", 5),
        ("scales", ()),
        ("scales", (0,)),
        ("label_threshold", 0),
        ("label_threshold", 1.5),
    ],
)
def test_values_out_of_range_are_named(name, value):
    with pytest.raises(UsageError, match=name):
        Settings().replace(**{name: value})


def test_unknown_names_list_the_known_ones():
    with pytest.raises(UsageError, match="alpha"):
        Settings().replace(alfa=3)


def test_borders_belong_to_the_method():
    assert {s.borders for name, s in PRESETS.items() if name.startswith("psa")} == {"published"}
    assert Settings(borders="full").with_hyper_parameters_of(PRESETS["psa-vgg16"]).borders == "published"
    with pytest.raises(UsageError, match="borders is 'open', expected full or published"):
        Settings().replace(borders="open")

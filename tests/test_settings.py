from __future__ import annotations

import json

import pytest

from pixaff.errors import UsageError
from pixaff.models.registry import PRESETS
from pixaff.settings import HYPER_PARAMETERS, Settings


def test_replace_keeps_what_is_not_given():
    settings = Settings(alpha=5.0, steps=7).replace(alpha=None, steps=9)
    assert (settings.alpha, settings.steps) == (5.0, 9)


def test_a_preset_lends_its_numbers_and_not_its_networks():
    settings = Settings(size=300).with_hyper_parameters_of(PRESETS["psa-vgg16"])
    assert {name: getattr(settings, name) for name in HYPER_PARAMETERS} == {
        name: getattr(PRESETS["psa-vgg16"], name) for name in HYPER_PARAMETERS
    }
    assert (settings.preset, settings.cam, settings.size) == ("psa-vgg16", "lite_cam", 300)


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

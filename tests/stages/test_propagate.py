from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from toy_bundle import BLUE, CLASSES, RED, draw, toy_bundle, use_toy

from pixaff import prediction, predictor
from pixaff.errors import CheckpointError, LabelsError, UsageError
from pixaff.io.cams import read_cams, write_cams
from pixaff.io.masks import read_mask, voc_palette
from pixaff.models.base import Network
from pixaff.options import options_of
from pixaff.predictor import Predictor
from pixaff.settings import Settings
from pixaff.stages.cam import cam
from pixaff.stages.propagate import propagate


@pytest.fixture(autouse=True)
def bundle(monkeypatch):
    """Every model name leads to the toy."""
    return use_toy(monkeypatch)


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    draw(folder / "red.png", (RED, 16, 16))
    draw(folder / "both.jpg", (RED, 8, 8), (BLUE, 32, 60))
    draw(folder / "blue.png", (BLUE, 8, 8), size=(50, 70))
    return folder


def test_colours_come_out_as_masks_beside_the_folder(photos):
    report = propagate(photos)
    assert (sorted(report.done), report.failed) == (["blue.png", "both.jpg", "red.png"], [])
    out = photos.parent / "photos-masks"
    both = read_mask(out / "both.png")
    assert both.shape == (64, 96)
    assert both[20, 20] == 1
    assert both[44, 72] == 2
    assert both[4, 90] == both[60, 4] == 0
    assert set(np.unique(read_mask(out / "red.png"))) == {0, 1}
    assert read_mask(out / "blue.png").shape == (50, 70)
    with Image.open(out / "both.png") as picture:
        assert picture.getpalette()[:9] == voc_palette()[:3].ravel().tolist()


def test_given_labels_decide_the_classes(photos):
    labels = photos.parent / "labels.csv"
    labels.write_text("image,labels\nred,red\nboth,blue\nblue,red;blue\n")
    report = propagate(photos, labels=labels, overlay=True)
    assert report.ok
    assert set(np.unique(read_mask(photos.parent / "photos-masks" / "both.png"))) == {0, 2}


def test_labels_that_do_not_fit_the_photos_are_told_in_words(photos):
    labels = photos.parent / "labels.csv"
    labels.write_text("image,labels\nred,red\nboth,red;blue\nelsewhere,red\n")
    events = []
    report = propagate(photos, labels=labels, report=events.append)
    assert [name for name, _ in report.failed] == ["blue.png"]
    assert 'no entry for "blue"' in report.failed[0][1]
    assert sorted(report.done) == ["both.jpg", "red.png"]
    warning = next(event.text for event in events if event.kind == "warning")
    assert warning == f"{labels}: no photo for 1 labelled image: elsewhere"
    labels.write_text("image,labels\nred,rde\n")
    with pytest.raises(LabelsError, match='did you mean "red"'):
        propagate(photos, labels=labels)
    labels.write_text("image,labels\nelsewhere,red\n")
    with pytest.raises(LabelsError, match="none of them"):
        propagate(photos, labels=labels)


def test_a_list_takes_some_and_names_those_that_are_absent(photos):
    listing = photos.parent / "some.txt"
    listing.write_text("red\nabsent\n")
    report = propagate(photos, listing=listing)
    assert report.done == ["red.png"]
    assert [name for name, _ in report.failed] == ["absent"]


def test_cams_of_another_method_are_refined(photos, tmp_path):
    """The mask follows the given maps, half the photo's size, and not what the model sees."""
    maps = np.zeros((2, 32, 48), np.float32)
    maps[1, 4:16, 4:16] = 1
    write_cams(tmp_path / "cams" / "red.npz", [1, 7], maps, (64, 96))
    report = propagate(photos / "red.png", tmp_path / "out", cams=tmp_path / "cams")
    assert report.ok
    mask = read_mask(tmp_path / "out" / "red.png")
    assert mask[20, 20] == 7
    assert set(np.unique(mask)) <= {0, 7}
    write_cams(tmp_path / "cams" / "red.npz", [0, 1], maps, (64, 96))
    report = propagate(photos / "red.png", tmp_path / "out", cams=tmp_path / "cams", overwrite=True)
    assert "posteriors" in report.failed[0][1]


def test_what_exists_stays_and_other_settings_are_warned_about(photos):
    propagate(photos)
    mask = photos.parent / "photos-masks" / "red.png"
    before = mask.stat().st_mtime_ns
    events = []
    assert propagate(photos, report=events.append).skipped == ["blue.png", "both.jpg", "red.png"]
    assert not [event for event in events if event.kind == "warning"]
    propagate(photos, alpha=9, report=events.append)
    assert mask.stat().st_mtime_ns == before
    assert "alpha 3 -> 9" in next(event.text for event in events if event.kind == "warning")
    assert len(propagate(photos, alpha=9, overwrite=True).done) == 3
    assert mask.stat().st_mtime_ns != before


def warnings_of(*arguments, **options):
    events = []
    propagate(*arguments, **options, report=events.append)
    return [event.text for event in events if event.kind == "warning"]


def test_the_record_stays_with_the_masks_that_a_run_skipped(photos):
    out = photos.parent / "photos-masks"
    propagate(photos)
    for _ in range(2):  # the second time as well
        assert "alpha 3 -> 9" in warnings_of(photos, alpha=9)[0]
        record = json.loads((out / "run.json").read_text())
        assert (record["settings"]["alpha"], record["last_run"]["skipped"]) == (3.0, 3)
    (out / "red.png").unlink()
    assert "alpha 3 -> 9" in warnings_of(photos, alpha=9)[0]
    record = json.loads((out / "run.json").read_text())
    assert record["settings"]["alpha"] == 9.0
    assert [other["alpha"] for other in record["other_settings"]] == [3.0]
    assert "alpha 3 -> 9" in warnings_of(photos, alpha=9)[0]
    assert "alpha 9 -> 3" in warnings_of(photos)[0]
    propagate(photos, alpha=9, overwrite=True)
    assert warnings_of(photos, alpha=9) == []
    assert "other_settings" not in json.loads((out / "run.json").read_text())


def test_cams_that_are_given_or_left_out_make_other_masks(photos, tmp_path):
    cam(photos, tmp_path / "cams")
    propagate(photos)
    words = "{}: 3 existing outputs no longer fit: 3 with other CAMs (blue.png, both.jpg, red.png) (kept: "
    (warning,) = warnings_of(photos, cams=tmp_path / "cams")
    assert warning.startswith(words.format(photos.parent / "photos-masks"))
    assert warnings_of(photos, cams=tmp_path / "cams", keep=True) == []
    assert propagate(photos, cams=tmp_path / "cams", overwrite=True).failed == []
    assert warnings_of(photos, cams=tmp_path / "cams") == []
    (warning,) = warnings_of(photos)
    assert warning.startswith(words.format(photos.parent / "photos-masks"))


def test_memory_is_estimated_before_there_are_threads(photos, monkeypatch):
    """An estimate runs the layers, which threads that compute must not meet."""
    order = []
    estimate, decode = Network.memory_per_pixel, prediction.load_image
    monkeypatch.setattr(Network, "memory_per_pixel", lambda self: order.append("memory") or estimate(self))
    monkeypatch.setattr(prediction, "load_image", lambda *given: order.append("photo") or decode(*given))
    assert propagate(photos, workers=2).failed == []
    assert order[:2] == ["memory", "memory"]
    assert "photo" in order


def test_the_masks_of_a_stopped_run_are_known_by_their_settings(photos):
    events = []

    def stop(event):
        events.append(event)
        if event.kind == "done":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        propagate(photos, batch_size=1, workers=1, report=stop)
    assert events[-1].text == "stopped after 1 of 3; the same command continues with the rest"
    done = next(event.photo.name for event in events if event.kind == "done")
    (warning,) = warnings_of(photos, alpha=9)
    assert f"1 with other settings: alpha 3 -> 9 ({done})" in warning


def test_the_record_tells_what_made_the_masks(photos):
    (photos / "bad.jpg").write_bytes(b"nothing")
    propagate(photos, alpha=5, final_crf=True)
    record = json.loads((photos.parent / "photos-masks" / "run.json").read_text())
    assert record["command"] == "propagate"
    assert (record["settings"]["alpha"], record["settings"]["final_crf"]) == (5.0, True)
    assert (record["images"], record["done"], list(record["failed"])) == (4, 3, ["bad.jpg"])
    assert record["last_run"] == {"list": None, "images": 4, "done": 3, "skipped": 0, "failed": 1}
    assert record["classes"] == list(CLASSES)
    assert {"pixaff", "torch", "python"} <= record["versions"].keys()


@pytest.mark.parametrize(("width", "shown"), [(96, 96), (900, 900), (2400, 2000)])
def test_overlays_are_as_large_as_their_photos_up_to_2000_pixels(photos, width, shown):
    with Image.open(photos / "both.jpg") as picture:
        picture.resize((width, width * 2 // 3)).save(photos / "wide.jpg")
    propagate(photos / "wide.jpg", photos.parent / "out", overlay=True)
    with Image.open(photos.parent / "out" / "overlays" / "wide.jpg") as picture:
        assert (picture.format, picture.width) == ("JPEG", shown)
        red, grey = (picture.getpixel((shown * x // 96, shown * y // 96)) for x, y in ((14, 12), (90, 4)))
    assert red[0] > red[2] + 50
    assert max(grey) - min(grey) < 20


OVERRIDES = {
    "scales": (0.5,), "flip": False, "size": 64, "label_threshold": 0.25, "alpha": 9.0, "beta": 2.0, "radius": 3,
    "steps": 3, "borders": "full", "final_crf": True,
}  # fmt: skip


@pytest.mark.parametrize("name", OVERRIDES)
def test_every_setting_that_decides_masks_can_be_replaced(photos, monkeypatch, name):
    """What the CAMs, the affinities and the walk get is what was asked for, and so is what is recorded."""
    got = {}

    def spy(called, module=predictor):
        function = getattr(module, called)

        def spied(*arguments, **options):
            got[called] = (arguments, options)
            return function(*arguments, **options)

        monkeypatch.setattr(module, called, spied)

    spy("load_image", prediction)
    for called in ("normalized_cams", "_scores_to_walk", "pair_affinity", "random_walk", "refine_labels"):
        spy(called)
    present = Predictor._present
    monkeypatch.setattr(
        Predictor, "_present", lambda self, *given: got.update(labels=self.settings) or present(self, *given)
    )
    of_irn = {"walk", "background", "boundary_beta"}  # see test_propagate_irn.py
    assert set(OVERRIDES) | of_irn == set(options_of(Settings, "propagate"))
    assert propagate(photos / "both.jpg", photos.parent / "out", **{name: OVERRIDES[name]}).ok
    own = toy_bundle().settings
    settings = own.replace(**{name: OVERRIDES[name]})
    assert getattr(settings, name) != getattr(own, name)
    assert got["load_image"][0][1] == settings.size
    assert max(got["normalized_cams"][0][1].shape) == min(settings.size, 96)
    assert got["normalized_cams"][1] == {"scales": settings.scales, "flip": settings.flip}
    assert got["labels"].label_threshold == settings.label_threshold
    assert got["_scores_to_walk"][0][1] == settings.alpha
    assert got["pair_affinity"][0][1:] == (settings.radius, settings.borders)
    assert got["random_walk"][0][2:] == (settings.beta, settings.steps, settings.radius)
    assert got["random_walk"][1]["borders"] == settings.borders
    assert ("refine_labels" in got) == settings.final_crf
    record = json.loads((photos.parent / "out" / "run.json").read_text())["settings"]
    assert record == record | settings.of("propagate")


def test_of_given_maps_the_labelled_classes_are_taken(photos, tmp_path):
    cam(photos / "both.jpg", tmp_path / "cams")
    (tmp_path / "labels.csv").write_text("both,blue\n")
    options = {"cams": tmp_path / "cams", "labels": tmp_path / "labels.csv"}
    assert propagate(photos / "both.jpg", tmp_path / "out", **options).ok
    assert np.unique(read_mask(tmp_path / "out" / "both.png")).tolist() == [0, 2]


def test_the_final_crf_follows_the_edges_of_the_photo(photos):
    """With the CRF the red square comes out whole; the walk alone leaves cells of 8 pixels."""
    truth = np.zeros((64, 96), bool)
    truth[16:40, 16:40] = True
    wrong = {}
    for crf in (False, True):
        propagate(photos / "red.png", photos.parent / "out", final_crf=crf, engine="torch", overwrite=True)
        wrong[crf] = int(((read_mask(photos.parent / "out" / "red.png") == 1) != truth).sum())
    assert wrong[True] < wrong[False]


def test_larger_photos_are_worked_on_small_and_masked_large(photos, bundle, monkeypatch):
    draw(photos / "large.png", (RED, 100, 200), size=(300, 500), side=120)
    seen = []
    cam = bundle.cam.cam
    monkeypatch.setattr(bundle.cam, "cam", lambda x: seen.append(x.shape) or cam(x))
    assert propagate(photos / "large.png", photos.parent / "out", scales=[1.0], flip=False, inference="torch").ok
    assert {max(shape) for shape in seen} == {108}
    mask = read_mask(photos.parent / "out" / "large.png")
    assert mask.shape == (300, 500)
    assert mask[160, 260] == 1
    assert mask[20, 480] == 0


def test_batches_and_workers_change_nothing(photos, tmp_path):
    propagate(photos, tmp_path / "one", batch_size=1, workers=1)
    propagate(photos, tmp_path / "three", batch_size=3, workers=3)
    for mask in (tmp_path / "one").glob("*.png"):
        np.testing.assert_array_equal(read_mask(mask), read_mask(tmp_path / "three" / mask.name))


def test_calls_that_cannot_work_say_so(photos):
    for wrong in ({"alpha": 0}, {"engine": "best"}, {"precision": "fp16"}, {"workers": 0}, {"cams": "nowhere"}):
        with pytest.raises(UsageError):
            propagate(photos, **wrong)
    with pytest.raises(UsageError, match=r"propagate has no option called 'alhpa' \(did you mean 'alpha'\?\)"):
        propagate(photos, alhpa=3)


def test_a_model_without_affinity_net_is_named_before_the_run(photos, monkeypatch, bundle):
    use_toy(monkeypatch, replace(bundle, affinity=None))
    with pytest.raises(CheckpointError, match="AffinityNet"):
        propagate(photos)
    assert not (photos.parent / "photos-masks").exists()


def test_presets_and_classes_are_checked_where_a_model_is_loaded(photos, monkeypatch):
    monkeypatch.undo()
    with pytest.raises(UsageError, match='no preset is called "psa"'):
        propagate(photos, preset="psa")
    classes = photos.parent / "classes.txt"
    classes.write_text("cat\ndog\n")
    with pytest.raises(UsageError, match=r"cat, dog.*aeroplane, bicycle"):
        propagate(photos, classes=classes)


def test_a_preset_lends_its_hyper_parameters(photos, monkeypatch):
    monkeypatch.undo()
    events = []
    propagate(photos, model="lite", preset="psa-vgg16", steps=3, report=events.append)
    shown = next(event.data for event in events if event.kind == "settings")
    assert (shown["preset"], shown["alpha"], shown["beta"], shown["steps"]) == ("psa-vgg16", 16.0, 8.0, 3)
    assert shown["cam"] == "lite_cam"


def test_cam_and_propagate_chained_give_what_propagate_gives(photos, tmp_path):
    assert cam(photos, tmp_path / "cams").failed == []
    assert propagate(photos, tmp_path / "chained", cams=tmp_path / "cams").failed == []
    assert propagate(photos, tmp_path / "direct").failed == []
    for mask in (tmp_path / "direct").glob("*.png"):
        different = read_mask(mask) != read_mask(tmp_path / "chained" / mask.name)
        assert different.mean() < 0.01
    assert read_cams(tmp_path / "cams" / "both.npz").size == (64, 96)


def test_full_borders_mask_a_turned_photo_as_the_turned_mask(tmp_path):
    """The published graph does not: the cells of its last rows have no pairs with each other."""
    draw(tmp_path / "photos" / "a.png", (RED, 40, 32))
    maps = np.full((1, 64, 96), 0.1, np.float32)
    maps[0, 40:56, 32:40] = 1  # a part of the red square, from which the walk has to find the rest
    write_cams(tmp_path / "cams" / "a.npz", [1], maps, (64, 96))
    with Image.open(tmp_path / "photos" / "a.png") as picture:
        picture.transpose(Image.Transpose.ROTATE_180).save(tmp_path / "photos" / "b.png")
    write_cams(tmp_path / "cams" / "b.npz", [1], maps[:, ::-1, ::-1], (64, 96))
    wrong = {}
    for borders in ("published", "full"):
        out = tmp_path / borders
        assert propagate(tmp_path / "photos", out, cams=tmp_path / "cams", borders=borders, alpha=16).ok
        wrong[borders] = (read_mask(out / "a.png") != read_mask(out / "b.png")[::-1, ::-1]).mean()
    assert wrong["full"] < 1e-3
    assert (read_mask(tmp_path / "full" / "a.png")[44:60, 36:52] == 1).all()
    assert wrong["published"] > 0.01


def test_a_photo_of_one_cell_is_masked_with_full_borders(tmp_path):
    draw(tmp_path / "tiny.png", (RED, 0, 0), size=(8, 8))
    assert propagate(tmp_path / "tiny.png", tmp_path / "out", borders="full").ok
    assert set(np.unique(read_mask(tmp_path / "out" / "tiny.png"))) == {1}

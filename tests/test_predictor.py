"""The method on images in memory: every kind of image, labels and CAMs, and the same masks as the commands write."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from toy_bundle import BLUE, CLASSES, GREY, RED, ToyAffinity, ToyCam, draw, toy_bundle, toy_predictor, use_toy

import pixaff
from pixaff import predictor as module
from pixaff.device import choose_precision
from pixaff.errors import CheckpointError, FormatError, ImageError, LabelsError, UsageError
from pixaff.io.cams import CamFile, read_cams, write_cams
from pixaff.io.images import read_image
from pixaff.io.masks import read_mask
from pixaff.io.scores import read_scores, write_scores
from pixaff.models import create_affinity_network, create_cam_network
from pixaff.ops.affinity import pair_affinity
from pixaff.ops.neighbours import offsets
from pixaff.ops.powers import background_powers
from pixaff.prediction import masks_at, probabilities
from pixaff.predictor import Predictor, _scores_to_walk
from pixaff.samples import Sample, fitted_cams
from pixaff.settings import Settings
from pixaff.stages.cam import cam
from pixaff.stages.propagate import propagate

PHOTOS = Path(__file__).parents[1] / "examples" / "photos"
CPU = torch.device("cpu")


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    """A red and a blue square on grey, 64 x 96 pixels."""
    draw(tmp_path / "photos" / "both.png", (RED, 8, 8), (BLUE, 32, 60))
    return tmp_path / "photos" / "both.png"


@pytest.fixture
def model() -> Predictor:
    return toy_predictor()


@pytest.fixture(scope="module")
def lite() -> Predictor:
    return pixaff.load("lite", device="cpu")


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Let torch compute on so many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@pytest.fixture(scope="module")
def lite_masks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What `pixaff propagate` writes of the example photos, computed side by side, by file name."""
    out = tmp_path_factory.mktemp("lite")
    with threads(3):
        assert propagate(PHOTOS, out, device="cpu").ok
    return {path.stem: path.read_bytes() for path in sorted(out.glob("*.png"))}


def kinds_of(path: Path) -> dict[str, Any]:
    """One colour image in every form in which it may be given."""
    array = read_image(path)
    tensor = torch.from_numpy(array).permute(2, 0, 1)
    return {
        "path": path,
        "path as text": str(path),
        "PIL image": Image.open(path),
        "decoded PIL image": Image.fromarray(array),
        "array": array,
        "array that is not contiguous": np.asfortranarray(array),
        "read-only array": np.frombuffer(array.tobytes(), np.uint8).reshape(array.shape),
        "uint8 tensor": tensor.clone(),
        "float tensor": tensor / 255,
        "double tensor": tensor.double() / 255,
        "tensor with a gradient": (tensor / 255).requires_grad_(),
    }


def test_every_kind_of_image_gives_the_mask_that_propagate_writes(
    photo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_toy(monkeypatch)
    assert propagate(photo, tmp_path / "masks").ok
    expected = (tmp_path / "masks" / "both.png").read_bytes()
    assert set(np.unique(read_mask(tmp_path / "masks" / "both.png"))) == {0, 1, 2}
    model = toy_predictor()
    for kind, image in kinds_of(photo).items():
        result = model(image)
        assert result.mask.dtype == np.uint8
        result.save(tmp_path / "out.png")
        assert (tmp_path / "out.png").read_bytes() == expected, kind
        assert result.size == (64, 96)


def test_lite_gives_the_masks_that_propagate_writes(
    lite: Predictor, lite_masks: dict[str, bytes], tmp_path: Path
) -> None:
    """Whatever form a photo is given in, and whatever is computed beside it."""
    assert lite_masks.keys() == {"astronaut", "chelsea", "grace_hopper"}
    kinds = kinds_of(PHOTOS / "chelsea.jpg")
    for count, kind in enumerate(("path", "PIL image", "array", "uint8 tensor", "float tensor"), start=1):
        with threads(count):
            lite(kinds[kind]).save(tmp_path / "out.png")
        assert (tmp_path / "out.png").read_bytes() == lite_masks["chelsea"], kind
    for stem, result in zip(lite_masks, lite([PHOTOS / f"{stem}.jpg" for stem in lite_masks]), strict=True):
        result.save(tmp_path / "out.png")
        assert (tmp_path / "out.png").read_bytes() == lite_masks[stem], stem
        assert result.mask.any()


def test_four_threads_that_call_one_predictor_at_once_get_the_same_masks(
    lite: Predictor, lite_masks: dict[str, bytes], tmp_path: Path
) -> None:
    stems = [*lite_masks, *lite_masks]

    def call(number: int) -> bytes:
        lite(PHOTOS / f"{stems[number]}.jpg").save(tmp_path / f"{number}.png")
        return (tmp_path / f"{number}.png").read_bytes()

    with threads(2), ThreadPoolExecutor(4) as pool:
        found = list(pool.map(call, range(len(stems))))
        assert torch.get_num_threads() == 2
    assert found == [lite_masks[stem] for stem in stems]


def test_grey_images_are_those_of_three_equal_colours(model: Predictor, tmp_path: Path) -> None:
    grey = np.random.default_rng(0).integers(0, 256, (40, 96), dtype=np.uint8)
    Image.fromarray(grey).save(tmp_path / "grey.png")
    colours = np.repeat(grey[..., None], 3, 2)
    expected = model(colours, labels=["red"]).scores
    for image in (grey, Image.fromarray(grey), tmp_path / "grey.png", torch.from_numpy(colours).permute(2, 0, 1)):
        np.testing.assert_array_equal(model(image, labels=["red"]).scores, expected)


def test_images_are_turned_upright_and_masked_at_their_own_size(model: Predictor, tmp_path: Path) -> None:
    draw(tmp_path / "large.png", (RED, 40, 40), size=(150, 300), side=80)
    result = model(tmp_path / "large.png")
    assert result.image.shape == (54, 108, 3)
    assert result.scores.shape == (2, 54, 108)
    assert (result.mask.shape, result.size) == ((150, 300), (150, 300))
    assert result.mask[80, 80] == 1
    exif = Image.Exif()
    exif[0x0112] = 6  # stored lying on its side
    picture = Image.open(tmp_path / "large.png").transpose(Image.Transpose.ROTATE_90)
    picture.save(tmp_path / "turned.jpg", exif=exif, quality=98)
    for image in (tmp_path / "turned.jpg", Image.open(tmp_path / "turned.jpg")):
        turned = model(image)
        assert turned.size == (150, 300)
        assert (turned.mask != result.mask).mean() < 0.01


def test_labels_are_names_indices_or_predicted(model: Predictor, photo: Path) -> None:
    named = model(photo, labels=["blue"])
    assert (named.classes, named.indices, named.probabilities) == (("blue",), (1,), {})
    assert set(np.unique(named.mask)) == {0, 2}
    for labels in ([1], (1,), np.array([1]), [np.int64(1)], ["blue", 1], ["blue", "blue"]):
        np.testing.assert_array_equal(model(photo, labels=labels).scores, named.scores)
    both = model(photo, labels=["blue", "red"])
    assert both.classes == CLASSES  # in the order of the mask values
    np.testing.assert_array_equal(model(photo, labels=[0, 1]).scores, both.scores)
    predicted = model(photo)
    np.testing.assert_array_equal(predicted.scores, both.scores)
    assert predicted.probabilities.keys() == set(CLASSES)
    assert all(0.5 <= probability <= 1 for probability in predicted.probabilities.values())


def test_empty_labels_mean_background(model: Predictor, photo: Path) -> None:
    result = model(photo, labels=[])
    assert (result.classes, result.probabilities, result.cams.shape) == ((), {}, (0, 64, 96))
    assert result.mask.shape == (64, 96)
    assert not result.mask.any()
    assert (result.scores == 1).all()
    assert result.to_dict() == {"classes": [], "size": [64, 96], "probabilities": {}, "shares": {"background": 1.0}}
    file = model.cams(photo, labels=[])
    assert (file.classes.tolist(), file.cams.shape, file.size) == ([], (0, 64, 96), (64, 96))
    assert not model(photo, cams=file).mask.any()


def test_classes_from_the_threshold_on_are_predicted_and_one_at_least(model: Predictor) -> None:
    image = np.full((32, 32, 3), 100, np.uint8)
    image[:16, :16] = RED
    image[16:, 16:] = BLUE
    assert model(image).classes == ("red", "blue")
    image[16:, 16:] = 100
    assert model(image).classes == ("red",)
    assert len(model(np.full((32, 32, 3), 100, np.uint8)).classes) == 1
    image = np.full((32, 32, 3), (150, 60, 60), np.uint8)  # red exceeds half the sum of all by 15
    unscaled = toy_predictor(size=0)
    probability = float(torch.sigmoid(torch.tensor(100 * 15 / 255 - 5)))
    assert unscaled(image).probabilities == {"red": pytest.approx(probability, abs=1e-5)}
    assert unscaled.replace(label_threshold=probability + 0.01)(image).classes == ("red",)  # for want of others


def test_cams_in_memory_are_refined_as_those_in_files_are(
    model: Predictor, photo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_toy(monkeypatch)
    rng = np.random.default_rng(0)
    maps = rng.random((2, 30, 50), dtype=np.float32) * 0.5  # of a size of their own
    maps[0, 3:16, 3:17] = maps[1, 15:28, 31:44] = 1
    write_cams(tmp_path / "cams" / "both.npz", [1, 2], maps, (64, 96), dtype="float32")
    assert propagate(photo, tmp_path / "masks", cams=tmp_path / "cams").ok
    expected = read_mask(tmp_path / "masks" / "both.png")
    assert set(np.unique(expected)) == {0, 1, 2}
    file = read_cams(tmp_path / "cams" / "both.npz")
    forms: list[Any] = [
        file,
        CamFile(np.array([2, 1]), maps[::-1].copy(), (64, 96)),
        {"red": maps[0], "blue": maps[1]},
        {1: torch.from_numpy(maps[1]), 0: torch.from_numpy(maps[0])},
        {"blue": maps[1].tolist(), 0: maps[0].astype(np.float64)},
    ]
    for cams in forms:
        result = model(photo, cams=cams)
        np.testing.assert_array_equal(result.mask, expected)
        assert (result.classes, result.cams.shape, result.probabilities) == (CLASSES, (2, 64, 96), {})
    # Of a labelled image those of its labels are taken.
    assert model(photo, labels=["blue"], cams=file).classes == ("blue",)
    # The CAM network has no part in it, and need not be there.
    alone = Predictor(None, model.affinity_network, model.classes, model.settings)
    np.testing.assert_array_equal(alone(photo, cams=file).mask, expected)
    with pytest.raises(UsageError, match="loaded without its CAM network"):
        alone(photo)


def test_cams_of_the_model_are_those_of_the_command_and_refine_to_the_same_mask(
    model: Predictor, photo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_toy(monkeypatch)
    file = model.cams(photo)
    assert (file.classes.tolist(), file.cams.dtype, file.cams.shape, file.size) == (
        [1, 2], np.float32, (2, 64, 96), (64, 96),
    )  # fmt: skip
    assert cam(photo, tmp_path / "cams").ok
    written = read_cams(tmp_path / "cams" / "both.npz")
    np.testing.assert_allclose(written.cams, file.cams, atol=1e-3)  # of float16
    np.testing.assert_array_equal(model(photo, cams=file).scores, model(photo).scores)
    np.testing.assert_array_equal(model(photo).cams, file.cams)


def test_the_steps_of_the_method_lead_to_its_scores(model: Predictor, photo: Path) -> None:
    file, affinity = model.cams(photo), model.affinity(photo)
    x = torch.from_numpy(read_image(photo)).permute(2, 0, 1).float() / 255
    expected = pair_affinity(model.affinity_network.features(x[None]), 5, "published")[0]
    assert affinity.shape == (len(offsets(5)), expected.shape[1])
    torch.testing.assert_close(affinity, expected)
    walked = model.walk(file.cams, affinity)
    assert walked.shape == (3, 8, 12)
    result = model(photo)
    torch.testing.assert_close(torch.from_numpy(result.walked), walked)
    torch.testing.assert_close(torch.from_numpy(result.scores), probabilities(walked, (64, 96)))
    np.testing.assert_allclose(result.scores.sum(0), 1, atol=1e-5)


def test_a_list_of_images_has_labels_and_cams_of_each(model: Predictor, photo: Path, tmp_path: Path) -> None:
    draw(tmp_path / "red.png", (RED, 8, 8), size=(80, 64))
    maps = np.zeros((16, 16), np.float32)
    maps[4:12, 4:12] = 1
    results = model(
        [photo, tmp_path / "red.png", photo, read_image(photo)],
        labels=[["blue"], None, [], None],
        cams=[None, None, None, {"red": maps}],
    )
    assert [result.classes for result in results] == [("blue",), ("red",), (), ("red",)]
    assert [result.size for result in results] == [(64, 96), (80, 64), (64, 96), (64, 96)]
    alone = [
        model(photo, labels=["blue"]),
        model(tmp_path / "red.png"),
        model(photo, labels=[]),
        model(photo, cams={"red": maps}),
    ]
    for one, other in zip(results, alone, strict=True):
        np.testing.assert_allclose(one.scores, other.scores, atol=1e-5)
        np.testing.assert_array_equal(one.mask, other.mask)
    assert model([]) == []
    assert [result.classes for result in model((photo, photo))] == [CLASSES] * 2


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (np.zeros((3, 8, 8, 3), np.uint8), r"found an image of uint8 \(3, 8, 8, 3\), expected uint8 \(H, W, 3\)"),
        (np.zeros((8, 8, 4), np.uint8), r"uint8 \(8, 8, 4\)"),
        (np.zeros((8, 8, 3), np.float32), r"found an image of float32 \(8, 8, 3\), expected uint8"),
        (np.zeros((8, 8), np.int64), "int64"),
        (np.zeros((0, 8, 3), np.uint8), r"\(0, 8, 3\)"),
        (torch.zeros(8, 8, 3, dtype=torch.uint8), r"found a tensor of shape \(8, 8, 3\), expected \(3, H, W\)"),
        (torch.zeros(1, 3, 8, 8), r"\(1, 3, 8, 8\)"),
        (torch.zeros(3, 0, 8), r"\(3, 0, 8\)"),
        (torch.zeros(3, 8, 8, dtype=torch.int64), "int64"),
        (torch.full((3, 8, 8), 255.0), "found a tensor of values 255 to 255, expected 0 to 1"),
        (torch.full((3, 8, 8), -0.1), "values -0.1 to -0.1"),
        (torch.full((3, 8, 8), float("nan")), "values nan to nan"),
        ("nowhere.jpg", "nowhere.jpg: no such file"),
        (None, "found an image of object"),
    ],
)
def test_what_is_no_image_is_named(model: Predictor, image: Any, words: str) -> None:
    with pytest.raises(ImageError, match=words) as caught:
        model(image, labels=["red"])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (["rde"], r'found unknown class "rde" \(did you mean "red"\?\)'),
        ([2], r"found the index 2, expected 0\.\.1"),
        ([-1], r"found the index -1, expected 0\.\.1"),
        ("red", r"labels: found 'red', expected a list such as \['red'\]"),
        (1, r"labels: found 1, expected a list such as \[1\]"),
    ],
)
def test_what_is_no_label_is_named(model: Predictor, photo: Path, labels: Any, words: str) -> None:
    with pytest.raises(LabelsError, match=words):
        model(photo, labels=labels)
    with pytest.raises(LabelsError, match=words):
        model([photo, photo], labels=[["red"], labels])


@pytest.mark.parametrize(
    ("cams", "error", "words"),
    [
        ({}, FormatError, "found no class"),
        ({"rde": np.zeros((8, 8))}, LabelsError, "did you mean"),
        ({"red": np.zeros((2, 8, 8))}, FormatError, r"found shapes \(2, 8, 8\), expected one \(h, w\)"),
        ({"red": np.zeros((8, 8)), "blue": np.zeros((8, 9))}, FormatError, r"found shapes \(8, 8\), \(8, 9\)"),
        ({"red": np.full((8, 8), 3.0)}, FormatError, r"found values 3 to 3, expected 0 to 1 \(divide each CAM"),
        ({"red": np.full((8, 8), np.nan)}, FormatError, "found values nan to nan"),
        ({"red": np.zeros((8, 8)), 0: np.zeros((8, 8))}, FormatError, r'found the class "red" twice'),
        (CamFile(np.array([0, 1]), np.zeros((2, 8, 8), np.float32), (64, 96)), FormatError, "CRF posteriors"),
        (CamFile(np.array([1]), np.zeros((1, 12, 8), np.float32), (96, 64)), FormatError, "lie on their side"),
    ],
)
def test_cams_that_do_not_fit_are_named(model: Predictor, photo: Path, cams: Any, error: type, words: str) -> None:
    with pytest.raises(error, match=words):
        model(photo, cams=cams)


def test_other_calls_that_cannot_work_are_named(model: Predictor, photo: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="found 2 images and labels of 1"):
        model([photo, photo], labels=[["red"]])
    with pytest.raises(UsageError, match="found 1 images and cams of 2"):
        model([photo], cams=[None, None])
    with pytest.raises(FormatError, match="none of the photo's labels"):
        model(photo, labels=["blue"], cams={"red": np.ones((8, 8))})
    without = Predictor(model.cam_network, None, model.classes, model.settings)
    with pytest.raises(CheckpointError, match="the model has no AffinityNet"):
        without(photo)
    assert without.cams(photo).classes.tolist() == [1, 2]
    result = model(photo)
    for name in ("mask.jpg", "mask"):
        with pytest.raises(UsageError, match=r"expected a path that ends in \.png"):
            result.save(tmp_path / name)
        assert not (tmp_path / name).exists()
    result.save(tmp_path / "new" / "folder" / "mask.PNG")
    np.testing.assert_array_equal(read_mask(tmp_path / "new" / "folder" / "mask.PNG"), result.mask)


def test_a_prediction_as_plain_values(model: Predictor, photo: Path) -> None:
    result = model(photo)
    facts = json.loads(json.dumps(result.to_dict()))
    assert (facts["classes"], facts["size"]) == (["red", "blue"], [64, 96])
    assert facts["probabilities"] == {name: round(value, 6) for name, value in result.probabilities.items()}
    assert facts["shares"] == {
        name: pytest.approx((result.mask == value).mean()) for value, name in enumerate(("background", "red", "blue"))
    }
    assert sum(facts["shares"].values()) == pytest.approx(1)
    assert repr(result) == "Prediction(64 x 96, classes: red, blue)"
    assert repr(model(photo, labels=[])) == "Prediction(64 x 96, classes: none)"
    # A class that no pixel has is told of, too.
    nowhere = model(np.full((64, 96, 3), GREY, np.uint8), labels=["blue"])
    assert nowhere.to_dict()["shares"] == {"background": 1.0, "blue": 0.0}


def test_a_notebook_shows_the_image_under_its_mask(model: Predictor, tmp_path: Path) -> None:
    draw(tmp_path / "large.png", (RED, 40, 40), size=(150, 300), side=80)
    result = model(tmp_path / "large.png")
    overlay = result.overlay()
    assert (overlay.mode, overlay.size) == ("RGB", (108, 54))  # of the working size
    pixels = np.asarray(overlay).astype(int)
    assert np.abs(pixels[2, 2] - result.image[2, 2]).max() <= 2  # background is left as it is
    assert np.abs(pixels[34, 34] - result.image[34, 34]).max() > 10
    png = result._repr_png_()
    assert png.startswith(b"\x89PNG")
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(png))), np.asarray(overlay))
    assert result.overlay(tmp_path / "large.png").size == (300, 150)
    with pytest.raises(ImageError, match="expected 300 x 150"):
        result.overlay(np.zeros((20, 20, 3), np.uint8))


def test_replaced_settings_make_another_predictor_of_the_same_networks(model: Predictor, photo: Path) -> None:
    other = model.replace(alpha=40, steps=3)
    assert (other.settings.alpha, other.settings.steps, other.settings.beta) == (40.0, 3, model.settings.beta)
    assert model.settings.alpha == 3
    assert other.cam_network is model.cam_network
    assert other.affinity_network is model.affinity_network
    assert (other(photo).mask == 0).mean() < (model(photo).mask == 0).mean()
    assert other(photo).alpha == 40
    with pytest.raises(UsageError, match="alhpa"):
        model.replace(alhpa=4)
    with pytest.raises(UsageError, match="alpha is 0, expected a number above 0"):
        model.replace(alpha=0)


def test_load_takes_settings_by_name_and_names_what_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = use_toy(monkeypatch)
    loaded = pixaff.load("toy", device="cpu", alpha=4, scales=[1], engine="torch", classes=None)
    assert (loaded.settings.alpha, loaded.settings.scales, loaded.engine) == (4.0, (1.0,), "torch")
    assert (loaded.classes, loaded.device, loaded.precision) == (CLASSES, CPU, "fp32")
    assert (loaded.cam_network, loaded.affinity_network) == (bundle.cam, bundle.affinity)
    assert pixaff.load("toy", device="cpu", parts=["cam"]).affinity_network is None
    with pytest.raises(UsageError, match=r"load has no option called 'alhpa' \(did you mean 'alpha'\?\)"):
        pixaff.load("toy", alhpa=4)
    with pytest.raises(UsageError, match="load has no option called 'cam'"):  # its name would change, not the network
        pixaff.load("toy", cam="vgg16_cam")
    with pytest.raises(UsageError, match="precision is 'fp16'"):
        pixaff.load("toy", precision="fp16")
    events: list[pixaff.events.Event] = []
    assert pixaff.load("toy", device="cpu", precision="auto", report=events.append).precision in ("fp32", "bf16")
    pixaff.load(
        "toy", device="cpu", precision="auto", progress=True, report=events.append
    )  # the bar takes no events away
    assert [event.text.startswith("computing in ") for event in events] == [True, True]


def test_saved_scores_give_the_masks_of_other_alphas(model: Predictor, photo: Path, tmp_path: Path) -> None:
    powers = background_powers()
    (result,) = model.predict([model.sample(photo)], powers=powers)
    np.testing.assert_array_equal(result.mask, model(photo).mask)
    file = result.scores_file()
    assert (file.classes.tolist(), file.alpha, file.size, file.walked_size) == ([1, 2], 3.0, (64, 96), (64, 96))
    assert file.scores.shape == (2, 8, 12)
    assert file.background.shape == (len(powers), 8, 12)
    write_scores(tmp_path / "scores.npz", file)
    alphas = (0.5, 3.0, 30.0)
    for scores in (file, read_scores(tmp_path / "scores.npz")):
        for alpha, mask in zip(alphas, masks_at(scores, alphas), strict=True):
            expected = model.replace(alpha=alpha)(photo).mask
            assert (mask.dtype, mask.shape) == (np.uint8, expected.shape)
            assert (mask != expected).sum() <= 2  # saved scores have 11 bits
    with pytest.raises(UsageError, match="alpha is 100"):
        masks_at(file, [100])
    (nothing,) = model.predict([model.sample(photo, labels=[])], powers=powers)
    assert not masks_at(nothing.scores_file(), [3.0])[0].any()


def test_a_walk_of_no_steps_gives_back_the_scores_as_probabilities() -> None:
    maps = torch.rand(2, 45, 92, generator=torch.Generator().manual_seed(0))
    cells = _scores_to_walk(maps, 3.0)
    assert cells.shape == (3, 6, 12)
    found = probabilities(cells, (45, 92))
    assert found.shape == (3, 45, 92)
    torch.testing.assert_close(found.sum(0), torch.ones(45, 92))
    flat = probabilities(_scores_to_walk(torch.full((1, 16, 16), 0.5), 3.0), (16, 16))
    torch.testing.assert_close(flat[1], torch.full((16, 16), 0.5 / (0.5 + 0.5**3)))
    more = _scores_to_walk(maps, 3.0, (1.0, 9.0))
    assert torch.equal(more[:3], cells)
    assert torch.equal(more[4], _scores_to_walk(maps, 9.0)[0])


def test_given_cams_are_brought_to_the_working_size_in_the_order_of_the_classes() -> None:
    sample = Sample(np.zeros((16, 24, 3), np.uint8), (32, 48))
    maps = np.random.default_rng(0).random((2, 8, 12), dtype=np.float32)
    present, found = fitted_cams(CamFile(np.array([5, 2]), maps, (32, 48)), sample, CPU)
    assert present == (1, 4)
    expected = torch.nn.functional.interpolate(torch.from_numpy(maps[::-1].copy())[None], (16, 24), mode="bilinear")
    torch.testing.assert_close(found, expected[0])


class Clock:
    """Sets the seconds that a network takes in each precision; time itself stands still."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        monkeypatch.setattr(module.time, "perf_counter", lambda: self.now)

    def takes(self, network: torch.nn.Module, fp32: float, bf16: float, method: str = "cam") -> None:
        plain = getattr(network, method)

        def slow(x: torch.Tensor) -> torch.Tensor:
            self.now += bf16 if torch.is_autocast_enabled("cpu") else fp32
            return plain(x)

        setattr(network, method, slow)


@pytest.mark.parametrize(("fp32", "bf16", "chosen"), [(3.0, 1.0, "bf16"), (1.1, 1.0, "fp32"), (1.0, 2.0, "fp32")])
def test_auto_takes_the_precision_that_is_faster(
    model: Predictor, monkeypatch: pytest.MonkeyPatch, fp32: float, bf16: float, chosen: str
) -> None:
    Clock(monkeypatch).takes(model.cam_network, fp32, bf16)
    found, why = choose_precision("auto", CPU, model.seconds)
    assert (found, model.precision) == (chosen, "fp32")
    assert why == f"a trial took {fp32:.2g} s in fp32, {bf16:.2g} s in bf16"


def test_auto_counts_both_networks(model: Predictor, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    clock.takes(model.cam_network, 1.0, 2.0)
    clock.takes(model.affinity_network, 9.0, 1.0, "features")
    assert choose_precision("auto", CPU, model.seconds)[0] == "bf16"
    cam_alone = Predictor(model.cam_network, None, CLASSES, model.settings)
    assert choose_precision("auto", CPU, cam_alone.seconds)[0] == "fp32"
    affinity_alone = Predictor(None, model.affinity_network, CLASSES, model.settings)
    assert choose_precision("auto", CPU, affinity_alone.seconds)[0] == "bf16"


@torch.inference_mode()
def test_bfloat16_moves_cams_and_affinities_a_little() -> None:
    torch.manual_seed(0)
    image = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    networks = create_cam_network("timm:test_resnet", 3), create_affinity_network("timm:test_resnet:affinity")
    settings = Settings(scales=(1.0, 0.5), size=96)
    exact, rounded = (Predictor(*networks, ("a", "b", "c"), settings, precision=name) for name in ("fp32", "bf16"))
    one, other = (model.cams(image, labels=[0, 2]) for model in (exact, rounded))
    assert one.cams.dtype == other.cams.dtype == np.float32
    assert 0 < np.abs(one.cams - other.cams).max() < 0.02
    ones, others = exact.affinity(image), rounded.affinity(image)
    assert ones.dtype == others.dtype == torch.float32
    assert 0 < (ones - others).abs().max() < 0.02


def test_a_network_of_one_scale_refuses_others() -> None:
    class Single(ToyCam):
        single_scale = True

    settings = toy_bundle().settings
    with pytest.raises(UsageError, match=r"found the scales 1, 0\.5, but lite_cam works at one scale"):
        Predictor(Single(), ToyAffinity(), CLASSES, settings)
    assert Predictor(Single(), ToyAffinity(), CLASSES, settings.replace(scales=(1.0,))).settings.scales == (1.0,)


def test_case_small_photos_black_masks() -> None:
    """A thumbnail is walked at the working size: its mask is that of the photo enlarged beforehand, not a flat one."""
    photo = Image.open(PHOTOS / "chelsea.jpg").convert("RGB").resize((160, 106))
    model = pixaff.load("lite", final_crf=False)
    found = model(photo, ["cat"])
    assert found.mask.shape == (106, 160)
    assert found.image.shape[:2] == (339, 512)
    assert 0.2 < (found.mask == 8).mean() < 0.95
    assert (model.replace(size=160)(photo, ["cat"]).mask != found.mask).any()

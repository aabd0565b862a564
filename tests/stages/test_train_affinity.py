"""Training the AffinityNet: posteriors to label maps, pairs to losses, and what happens when they do not fit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from toy_set import TinyAffinity, quick_trainings, use_tiny, write_set

from pixaff.errors import TrainingError, UsageError
from pixaff.io.cams import CamFile, write_cams
from pixaff.io.checkpoints import read_metadata, read_state_dict
from pixaff.models.base import AffinityNetwork
from pixaff.ops.labels import affinity_label_map
from pixaff.recipe import Recipe
from pixaff.stages.train_affinity import pair_loss, train_affinity
from pixaff.stages.training.metrics import read_records
from pixaff.stages.training.posteriors import label_photo

GOLDEN = np.load(Path(__file__).parents[1] / "data" / "reference_golden.npz")
RECIPE = Recipe(epochs=2, batch_size=4, lr=5e-3, optimizer="adamw", precision="fp32", crop=96)
FAST = {"recipe": RECIPE, "device": "cpu", "workers": 1}


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    use_tiny(monkeypatch)
    quick_trainings(monkeypatch)


def posteriors(mask: np.ndarray, doubt: float) -> tuple[np.ndarray, np.ndarray]:
    """Classes and probabilities (C,H,W) that follow a mask, the background's with some doubt."""
    classes = np.unique(np.append(mask, 0))
    scores = (mask == classes[:, None, None]).astype(np.float32) * 0.9 + 0.05
    scores[0] += doubt
    return classes, scores / scores.sum(0)


def write_posteriors(folder: Path, masks: dict[str, np.ndarray]) -> tuple[Path, Path]:
    for stem, mask in masks.items():
        for side, doubt in (("low", 0.1), ("high", 0.0)):
            write_cams(folder / side / f"{stem}.npz", *posteriors(mask, doubt), mask.shape)
    return folder / "low", folder / "high"


def test_network_learns_which_cells_belong_together(tmp_path: Path) -> None:
    photos, _, masks = write_set(tmp_path, 12)
    low, high = write_posteriors(tmp_path, masks)
    result = train_affinity(photos, low, high, tmp_path / "run", **{**FAST, "recipe": RECIPE.replace(epochs=14)})
    assert result.path == tmp_path / "run" / "affinity.safetensors"
    assert len(result.done) == 12
    epochs = [record for record in read_records(tmp_path / "run") if record["kind"] == "epoch"]
    assert epochs[-1]["loss"] < 0.6 * epochs[0]["loss"]
    for record in epochs:
        assert record["loss"] == pytest.approx(record["bg"] / 4 + record["fg"] / 4 + record["neg"] / 2, abs=1e-6)
    assert read_metadata(result.path)["network"] == "lite_affinity"
    TinyAffinity(24).load_state_dict(read_state_dict(result.path))


def test_golden_label_map_of_a_photo() -> None:
    """The reference cuts 128 x 128 from the padded 98 x 131 photo; inside, its cells are those of the whole photo."""
    classes = np.array([0, 8, 15])
    low, high = (CamFile(classes, GOLDEN[f"crf_alpha{alpha}"].astype(np.float32), (98, 131)) for alpha in (4, 32))
    size, cells = label_photo(Path("image.png"), (98, 131), low, high, max_side=0)
    assert size == (98, 131)
    assert cells.shape == (13, 17)
    published = np.full(256, 255, np.uint8)
    published[: len(classes)] = classes
    published = published[GOLDEN["labels.map"]]
    assert np.array_equal(cells[:, :16], published[:13])
    assert (published[13:] == 255).all()
    assert set(np.unique(cells)) >= {0, 8, 255}


def test_posteriors_of_a_shrunken_photo_are_brought_to_its_working_size(tmp_path: Path) -> None:
    mask = np.zeros((120, 200), np.uint8)
    mask[24:72, 40:120] = 7
    classes, scores = posteriors(mask[::2, ::2], 0.0)
    small = CamFile(classes, scores, (120, 200))
    # Worked on at 60 x 100, as they were made; at full size, twice as many cells with the same labels.
    size, cells = label_photo(tmp_path, (120, 200), small, small, max_side=100)
    assert size == (60, 100)
    padded = torch.nn.functional.pad(torch.from_numpy(scores), (0, 4, 0, 4))
    rows = affinity_label_map(padded, padded).numpy()
    assert np.array_equal(cells, np.where(rows == 1, 7, rows))
    size, cells = label_photo(tmp_path, (120, 200), small, small, max_side=0)
    assert size == (120, 200)
    expected = np.where(mask.reshape(15, 8, 25, 8).transpose(0, 2, 1, 3).reshape(15, 25, 64).mean(-1) > 3.5, 7, 255)
    expected[mask[::8, ::8] == 0] = 0
    assert np.array_equal(cells, expected)


def test_pair_loss_reads_labels_and_features_in_one_order() -> None:
    """Features that repeat the labels make every pair certain, so the loss vanishes; shuffled ones do not."""
    labels = torch.full((1, 12, 14), 0)
    labels[:, 3:8, 5:10] = 1
    labels[:, 6:, 11:] = 255
    sure = torch.nn.functional.one_hot(labels.clamp(max=2), 3).permute(0, 3, 1, 2).float() * 1e3

    class Features(AffinityNetwork):
        def __init__(self, values: torch.Tensor) -> None:
            super().__init__()
            self.values = values

        def features(self, image: torch.Tensor) -> torch.Tensor:
            return self.values

    batch = {"image": torch.zeros(1), "labels": labels}
    terms = pair_loss(5)(Features(sure), batch)
    assert list(terms) == ["loss", "bg", "fg", "neg"]
    assert all(abs(float(term)) < 1e-4 for term in terms.values())
    assert float(pair_loss(5)(Features(sure.roll(1, -1)), batch)["loss"]) > 0.5


def test_photos_whose_posteriors_do_not_fit_are_named_and_left_out(tmp_path: Path) -> None:
    photos, _, masks = write_set(tmp_path, 7)
    low, high = write_posteriors(tmp_path, masks)
    (low / "toy00.npz").unlink()
    (high / "toy01.npz").write_bytes(b"PK no archive")
    classes, scores = posteriors(masks["toy02"], 0.0)
    write_cams(high / "toy02.npz", classes + 1, scores, masks["toy02"].shape)
    Image.new("RGB", (90, 80)).save(photos / "toy03.png")
    (photos / "toy04.png").write_bytes(b"no image")
    result = train_affinity(photos, low, high, tmp_path / "run", **FAST)
    failed = dict(result.failed)
    assert set(failed) == {f"toy0{number}.png" for number in range(5)}
    assert "neither toy00.npz nor toy00.npy" in failed["toy00.png"]
    assert "expected the same ones, starting with background" in failed["toy02.png"]
    assert "80 x 90 pixels, its posteriors are of" in failed["toy03.png"]
    assert result.done == ["toy05.png", "toy06.png"]


@pytest.mark.parametrize(("crop", "radius"), [(64, 5), (100, 5), (128, 9), (448, 1)])
def test_crop_without_a_single_pair_is_refused(tmp_path: Path, crop: int, radius: int) -> None:
    photos, _, masks = write_set(tmp_path, 2)
    low, high = write_posteriors(tmp_path, masks)
    with pytest.raises(UsageError, match=f"radius is {radius}" if radius == 1 else f"crop is {crop}"):
        train_affinity(photos, low, high, tmp_path / "run", recipe={"crop": crop}, radius=radius, device="cpu")


def test_nothing_labelled_is_an_error(tmp_path: Path) -> None:
    photos, _, masks = write_set(tmp_path, 2)
    low, high = write_posteriors(tmp_path, masks)
    for stem, mask in masks.items():  # foreground everywhere for the one, nowhere for the other: no cell is sure
        for folder, level in ((low, 1.0), (high, 0.0)):
            write_cams(
                folder / f"{stem}.npz", [0, 1], np.stack([mask * 0.0 + level, mask * 0.0 + 1 - level]), mask.shape
            )
    with pytest.raises(TrainingError, match="no photo with labels is left"):
        train_affinity(photos, low, high, tmp_path / "run", **FAST)
    with pytest.raises(TrainingError, match="no photo with labels is left"):
        train_affinity(photos, tmp_path / "none", high, tmp_path / "run", **FAST)

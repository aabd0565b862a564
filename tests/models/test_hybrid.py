"""The hybrid networks against figures of the published implementation, and at a small size through every stage."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
import pytest
import torch
from filled import filled_state
from numpy.typing import NDArray
from PIL import Image
from timm.layers import resample_abs_pos_embed
from torch import Tensor
from toy_set import CLASSES, write_set

from pixaff.device import choose_precision
from pixaff.errors import CheckpointError, UsageError
from pixaff.io.cams import read_cams, write_cams
from pixaff.io.checkpoints import read_state_dict, write_state_dict
from pixaff.io.labels import VOC_CLASSES
from pixaff.io.masks import read_mask
from pixaff.models import create_model, hybrid, load_checkpoint, recognise
from pixaff.models.bundle import Weights, load_model
from pixaff.models.hybrid import HybridCam, as_cams
from pixaff.models.recognise import recognised
from pixaff.models.registry import PRESETS
from pixaff.ops.affinity import pair_affinity
from pixaff.ops.cam import normalized_cams
from pixaff.predictor import Predictor
from pixaff.stages.cam import cam
from pixaff.stages.propagate import propagate
from pixaff.stages.train_affinity import train_affinity
from pixaff.stages.train_cam import train_cam
from pixaff.stages.training.starting import load_fitting

DATA = Path(__file__).parents[1] / "data"
PRESENT = (7, 14)
NETWORKS = ("hybrid_cam", "hybrid_affinity")


def shapes(kind: str) -> dict[str, list[int]]:
    loaded: dict[str, list[int]] = json.loads((DATA / f"hybrid_{kind}.shapes.json").read_text())
    return loaded


@pytest.fixture(scope="module")
def golden() -> dict[str, NDArray]:
    with np.load(DATA / "reference_hybrid.npz") as data:
        return dict(data)


@pytest.fixture(scope="module")
def filled() -> dict[str, Tensor]:
    """The weights of the figures, at image size 96."""
    return filled_state(shapes("cls"))


@pytest.fixture
def small() -> Iterator[None]:
    """The networks with a transformer of two narrow blocks, and photos seen at 64 x 64."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (("WIDTH", 48), ("DEPTH", 2), ("HEADS", 3), ("IMAGE_SIZE", 64)):
            patch.setattr(hybrid, name, value)
        patch.setattr(hybrid.HybridAffinity, "image_size", 64)
        torch.manual_seed(0)
        yield


def busy(classes: int = 20, image_size: int | None = None) -> HybridCam:
    """A small classifier that attends to something, in float64."""
    model = HybridCam(classes, image_size).eval()
    for name, parameter in model.named_parameters():
        if name.endswith(("qkv.weight", "head.weight")):
            torch.nn.init.normal_(parameter, std=0.3)
    return model.double()


def far(found: Tensor, expected: NDArray | Tensor) -> float:
    """Largest difference relative to the maximum."""
    expected = torch.as_tensor(expected)
    return float((found - expected).abs().max() / expected.abs().max())


def test_classifier_gives_the_published_figures(golden: dict[str, NDArray], filled: dict[str, Tensor]) -> None:
    with torch.device("meta"):
        model = create_model("hybrid_cam", image_size=96)
    assert {name: list(tensor.shape) for name, tensor in model.state_dict().items()} == shapes("cls")
    model.load_state_dict(filled, assign=True)
    model.double()
    assert (model.norm.eps, model.blocks[0].norm1.eps) == (1e-5, 1e-6)
    image = np.asarray(Image.open(DATA / "hybrid_image.png").convert("RGB"))
    x = model.preprocess(image)
    assert far(x, golden["normalized"]) < 1e-6
    x = torch.from_numpy(golden["normalized"])[None].double()
    with torch.inference_mode():
        assert far(model.resnet_backbone(x)[0].mean(0), golden["backbone"]) < 1e-6
        assert far(model(x), golden["logits"]) < 1e-6
        maps = model.cam(x, PRESENT, steady=0)
    cams = as_cams(maps, (96, 96))
    for row, index in enumerate(PRESENT):
        assert far(maps[0, row], golden[f"relevance_{index}"]) < 1e-3
        assert far(cams[0, row], golden[f"cue_{index}"]) < 1e-3


def test_affinity_net_gives_the_published_figures(golden: dict[str, NDArray], filled: dict[str, Tensor]) -> None:
    with torch.device("meta"):
        model = create_model("hybrid_affinity")
    assert {name: list(tensor.shape) for name, tensor in model.state_dict().items()} == shapes("aff")
    model.load_state_dict(filled_state(shapes("aff"), filled), assign=True)
    with torch.inference_mode():
        x = torch.from_numpy(golden["normalized"])[None]
        assert far(pair_affinity(model.features(x, (20, 20)))[0], golden["affinity"]) < 1e-4
        assert model.features(x).shape == (1, 512, 12, 12)
        assert model.features(x[..., :50, :70]).shape == (1, 512, 7, 9)
    new = {id(parameter) for parameter in model.parameter_groups()["head"]}
    names = {name.partition(".")[0] for name, parameter in model.named_parameters() if id(parameter) in new}
    assert names == {"feat_conv", "gn", "affinity_conv"}


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("method", hybrid.METHODS)
@pytest.mark.parametrize("steady", [0.0, 0.1])
def test_images_and_classes_of_a_batch_do_not_mix(method: str, steady: float) -> None:
    model = busy()
    x = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    maps = model.cam(x, [4, 0, 19], method, steady)
    assert maps.shape == (2, 3, 4, 4)
    assert maps.min() >= 0
    for image in range(2):
        for row, index in enumerate((4, 0, 19)):
            alone = model.cam(x[image : image + 1], [index], method, steady)[0, 0]
            assert far(maps[image, row], alone) < 1e-6
    assert far(model.cam(x, method=method, steady=steady)[:, [4, 0, 19]], maps) < 1e-6


@pytest.mark.usefixtures("small")
def test_a_call_leaves_no_trace() -> None:
    model = busy()
    x = torch.randn(1, 3, 64, 64, dtype=torch.float64)

    def traces() -> list[object]:
        held = [(name, sorted(vars(module))) for name, module in model.named_modules()]
        hooks = [[len(getattr(module, kind)) for kind in vars(module) if "hooks" in kind] for module in model.modules()]
        return [held, hooks, [parameter.grad for parameter in model.parameters()]]

    before = traces()
    normal = model.cam(x, [1])
    with torch.inference_mode():
        assert torch.equal(model.cam(x, [1]), normal)
    with torch.enable_grad():
        assert not model.cam(x.requires_grad_(), [1]).requires_grad
    block = model.blocks[0]
    norm, block.norm1 = block.norm1, torch.nn.LayerNorm(7)
    with pytest.raises(RuntimeError):
        model.cam(x, [1])
    block.norm1 = norm
    for classes in ([], [20], [-1]):
        with pytest.raises(ValueError, match=r"expected some of 0\.\.19"):
            model.cam(x, classes)
    with pytest.raises(ValueError, match="expected relevance or gradient-rollout"):
        model.cam(x, [1], method="lrp")
    with pytest.raises(ValueError, match="expected 0 or more"):
        model.cam(x, [1], steady=-1)
    assert traces() == before


@pytest.mark.usefixtures("small")
def test_the_default_does_not_hang_on_the_last_bit() -> None:
    model = busy()
    x = torch.randn(4, 3, 64, 64, dtype=torch.float64)
    exact, exact_published = model.cam(x), model.cam(x, steady=0)
    model.float()
    assert far(model.cam(x.float()), exact) < 1e-3
    assert far(model.cam(x.float(), steady=0), exact_published) > far(model.cam(x.float()), exact)
    with torch.autocast("cpu", torch.bfloat16):
        half = model.cam(x.float())
    assert half.dtype == torch.float32
    assert half.isfinite().all()
    assert not torch.equal(half, model.cam(x.float()))


@pytest.mark.usefixtures("small")
def test_positions_fit_the_image_size(tmp_path: Path) -> None:
    source = busy(image_size=96)
    write_state_dict(tmp_path / "96.safetensors", source.float().state_dict())
    x = torch.randn(1, 3, 96, 96)
    as_written = load_checkpoint(create_model("hybrid_cam"), tmp_path / "96.safetensors")
    assert as_written.image_size == 96
    assert torch.equal(as_written(x), source(x))
    resized = load_checkpoint(create_model("hybrid_cam", image_size=64), tmp_path / "96.safetensors")
    assert resized.image_size == 64
    assert resized.pos_embed.shape == (1, 17, 48)
    assert torch.equal(resized.pos_embed[:, 0], source.pos_embed[:, 0])
    assert torch.allclose(resized.pos_embed, resample_abs_pos_embed(source.pos_embed, [4, 4], [6, 6]))
    # An even field stays even, a slope stays a slope.
    field = torch.linspace(0, 1, 6).expand(6, 6).reshape(1, 36, 1).expand(1, 36, 48)
    state = {**source.state_dict(), "pos_embed": torch.cat([torch.zeros(1, 1, 48), field], 1)}
    slope = resized.adapted_state(state)["pos_embed"][0, 1:, 0].view(4, 4)
    assert torch.allclose(slope, slope[:1].expand(4, 4), atol=1e-6)
    assert torch.all(slope.diff(dim=1) > 0.1)
    # An image of another size is seen with positions made to fit it.
    assert torch.allclose(source(x[..., :64, :64]), resized(x[..., :64, :64]), atol=1e-5)
    with pytest.raises(CheckpointError, match=r"shape \(1, 36, 48\), expected \(1, 1 \+ side\^2, 48\)"):
        resized.adapted_state({"pos_embed": torch.zeros(1, 36, 48)})
    write_state_dict(tmp_path / "36.safetensors", {**state, "pos_embed": torch.zeros(1, 36, 48)})
    for load in (load_checkpoint, partial(load_fitting, reset_head=False)):
        with pytest.raises(
            CheckpointError, match=r"36\.safetensors: found a position embedding of shape \(1, 36, 48\)"
        ):
            load(create_model("hybrid_cam"), tmp_path / "36.safetensors")
    with pytest.raises(UsageError, match="a multiple of 16"):
        create_model("hybrid_cam", image_size=100)
    with pytest.raises(UsageError, match="image size 96 for lite_cam, which accepts any"):
        create_model("lite_cam", image_size=96)


@pytest.mark.usefixtures("small")
def test_cams_are_at_the_photo_s_size_and_know_no_left_or_right() -> None:
    model = busy().float()
    image = np.random.default_rng(0).integers(0, 255, (50, 90, 3)).astype(np.uint8)
    found = normalized_cams(model, image, [2, 5])
    assert found.shape == (2, 50, 90)
    assert found.min() >= 0
    assert found.max() <= 1
    mirrored = normalized_cams(model, np.ascontiguousarray(image[:, ::-1]), [2, 5])
    assert torch.allclose(mirrored.flip(2), found, atol=0.02)  # but for rounding in the resized image
    single = normalized_cams(model, image, [2, 5], flip=False)
    assert not torch.allclose(single, found, atol=0.05)
    x = model.preprocess(Image.fromarray(image).resize((64, 64), Image.Resampling.BICUBIC))[None]
    wide = torch.nn.functional.interpolate(as_cams(model.cam(x, [2, 5]), (64, 64)), (50, 90), mode="bilinear")
    assert torch.allclose(single, wide[0])
    assert torch.equal(as_cams(torch.full((1, 1, 3, 3), 0.2), (6, 6)), torch.zeros(1, 1, 6, 6))


def test_published_files_are_known_by_their_tensors() -> None:
    for network, kind in zip(NETWORKS, ("cls", "aff"), strict=True):
        state = {name: torch.empty(shape, device="meta") for name, shape in shapes(kind).items()}
        assert recognised(state, ["vgg16_cam", *NETWORKS]) == network
        if kind == "cls":  # whatever the image size
            state["pos_embed"] = torch.empty(1, 785, 768, device="meta")
            assert recognised(state, NETWORKS) == network
            state["pos_embed"] = torch.empty(1, 780, 768, device="meta")
            assert recognised(state, NETWORKS) is None


@pytest.fixture
def folder(small: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Weights in a folder as it is published: names that say nothing, the start and a hidden copy among them."""
    monkeypatch.setattr(recognise, "_shape_of", lru_cache(recognise._shape_of))  # the networks are always the same
    weights = tmp_path / "weights"
    weights.mkdir()
    torch.save({"state_dict": busy(image_size=96).float().state_dict()}, weights / "a.pth")
    torch.save(create_model("hybrid_affinity").state_dict(), weights / "b.pth")
    torch.save(create_model("hybrid_cam", 1000).state_dict(), weights / "c.pth")
    (weights / ".cache").mkdir()
    (weights / ".cache" / "a.pth").write_bytes((weights / "a.pth").read_bytes())
    return weights


def test_photos_become_masks(folder: Path, tmp_path: Path) -> None:
    photos, _, _ = write_set(tmp_path / "set", 2)
    options = {"preset": "hybrid", "weights_dir": folder, "device": "cpu"}
    report = propagate(photos, tmp_path / "masks", **options, overlay=True)
    assert report.ok
    assert len(report.done) == 2
    for photo in photos.iterdir():
        with Image.open(photo) as picture:
            assert read_mask(tmp_path / "masks" / photo.name, 20).shape == picture.size[::-1]
    record = json.loads((tmp_path / "masks" / "run.json").read_text())
    settings = record["settings"]
    given = {"preset": "hybrid", "cam": "hybrid_cam", "affinity": "hybrid_affinity", "scales": [1], "size": 0}
    given |= {"alpha": 4, "beta": 16, "steps": 256, "flip": True, "final_crf": False}
    assert {name: settings[name] for name in given} == given
    assert (PRESETS["hybrid"].crf_low, PRESETS["hybrid"].crf_high) == (4, 32)
    assert Path(settings["cam_weights"]).name == "a.pth"
    assert record["classes"] == list(VOC_CLASSES)

    assert cam(photos, tmp_path / "cams", **options, listing=None).ok
    maps = read_cams(tmp_path / "cams" / "toy00.npz")
    assert maps.cams.shape[1:] == maps.size
    assert propagate(photos, tmp_path / "refined", cams=tmp_path / "cams", **options, final_crf=True).ok
    for command in (cam, propagate):
        with pytest.raises(UsageError, match=r"scales 1, 0\.5, but hybrid_cam works at one scale"):
            command(photos, tmp_path / "none", **options, scales=[1, 0.5])
    assert not (tmp_path / "none").exists()


def test_wrong_files_are_named(folder: Path) -> None:
    pair = Weights(folder / "b.pth", folder / "a.pth")
    with pytest.raises(CheckpointError, match=r"b\.pth: found the weights of hybrid_affinity, expected .*\(swap"):
        load_model(preset="hybrid", weights=pair)
    start = r"c\.pth: found a classifier of ImageNet's 1000 classes, from which .*train-cam --network hybrid_cam --init"
    with pytest.raises(CheckpointError, match=start):
        load_model(preset="hybrid", weights=Weights(folder / "c.pth"), parts=("cam",))
    (folder / "a.pth").unlink()
    with pytest.raises(CheckpointError, match=start):
        load_model(preset="hybrid", weights=Weights(folder=folder))
    (folder / "again").mkdir()
    (folder / "again" / "b.pth").write_bytes((folder / "b.pth").read_bytes())
    with pytest.raises(
        CheckpointError, match=r"two files of hybrid_affinity, again.b\.pth and b\.pth .choose .*--affinity-"
    ):
        load_model(preset="hybrid", weights=Weights(folder=folder), parts=("affinity",))
    (folder / "again" / "b.pth").unlink()
    (folder / "b.pth").rename(folder / "again" / "lacking.pth")
    state = read_state_dict(folder / "again" / "lacking.pth")
    torch.save({name: tensor for name, tensor in state.items() if name != "gn.bias"}, folder / "again" / "lacking.pth")
    lacking = (
        r"no file contains the weights of hybrid_affinity; other files: again.lacking\.pth,.* --affinity-weights FILE"
    )
    with pytest.raises(CheckpointError, match=lacking):
        load_model(preset="hybrid", weights=Weights(folder=folder), parts=("affinity",))
    with pytest.raises(CheckpointError, match=r"lacking\.pth: .* 1 missing \(gn\.bias\)"):
        load_model(preset="hybrid", weights=Weights(affinity=folder / "again" / "lacking.pth"), parts=("affinity",))


@pytest.mark.usefixtures("small")
def test_the_trial_of_a_precision_takes_one_class(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = []
    model = busy().float()
    cam = model.cam
    monkeypatch.setattr(model, "cam", lambda x, classes: taken.append(tuple(classes)) or cam(x, classes))
    predictor = Predictor(model, None, VOC_CLASSES, PRESETS["hybrid"])
    assert choose_precision("auto", torch.device("cpu"), predictor.seconds)[0] in ("fp32", "bf16")
    assert taken == [(0,)] * len(taken) != []


@pytest.mark.usefixtures("small")
def test_both_networks_train(tmp_path: Path) -> None:
    photos, labels, masks = write_set(tmp_path, 4)
    start = busy(1000, image_size=96).float()
    write_state_dict(tmp_path / "start.safetensors", start.state_dict())
    options = {"device": "cpu", "workers": 1, "init": tmp_path / "start.safetensors"}
    short = {"epochs": 1, "batch_size": 2}
    recipe = {**short, "backbone_lr_scale": 1.0, "resize": (64, 90), "crop": 64}
    how = {"network": "hybrid_cam", "recipe": recipe, "reset_head": True}
    trained = train_cam(photos, labels, CLASSES, tmp_path / "cam", **how, **options)
    after = read_state_dict(trained.path)
    assert after["head.weight"].shape == (2, 48)
    assert after["pos_embed"].shape == start.pos_embed.shape
    for name, moved in (("blocks.1.attn.qkv.weight", True), ("resnet_backbone.stages.0.blocks.0.conv1.weight", False)):
        assert torch.equal(after[name], start.state_dict()[name]) != moved

    for stem, mask in masks.items():
        classes = np.unique(np.append(mask, 0))
        scores = np.where(mask == classes[:, None, None], 0.9, 0.05).astype(np.float32)
        for side in ("low", "high"):
            write_cams(tmp_path / side / f"{stem}.npz", classes, scores / scores.sum(0), mask.shape)
    how = {"network": "hybrid_affinity", "recipe": {**short, "crop": 96, "precision": "fp32"}}
    trained = train_affinity(photos, tmp_path / "low", tmp_path / "high", tmp_path / "affinity", **how, **options)
    after = read_state_dict(trained.path)
    name = "resnet_backbone.stages.2.blocks.8.conv3.weight"
    assert not torch.equal(after[name], start.state_dict()[name])
    assert all(tensor.isfinite().all() for tensor in after.values())

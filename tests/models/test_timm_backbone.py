"""Networks on backbones of timm: shapes, training, weights of timm's own, and what cannot serve."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from torch.nn import functional as F
from toy_set import CLASSES, write_set

from pixaff.errors import UsageError
from pixaff.events import Event
from pixaff.io.cams import write_cams
from pixaff.io.masks import read_mask
from pixaff.models import create_model
from pixaff.models.bundle import load_model
from pixaff.recipe import Recipe
from pixaff.stages.propagate import propagate
from pixaff.stages.train_affinity import train_affinity
from pixaff.stages.train_cam import train_cam
from pixaff.stages.training.starting import load_fitting

DILATED = ("test_resnet", "test_efficientnet", "test_convnext")
# Strides 2 to 32; 4 to 32 with the channels last; 16 with a position for each cell of 160 x 160 pixels.
COARSE = ("repghostnet_050", "test_mambaout", "test_vit")
RECIPE = Recipe(epochs=2, batch_size=3, lr=1e-3, optimizer="adamw", backbone_lr_scale=1, crop=96, precision="fp32")
FAST = {"recipe": RECIPE, "device": "cpu", "workers": 1}


def pair(name: str) -> tuple[torch.nn.Module, torch.nn.Module]:
    torch.manual_seed(0)
    return create_model(f"timm:{name}", 3), create_model(f"timm:{name}:affinity")


@torch.inference_mode()
@pytest.mark.parametrize("name", [*DILATED, *COARSE])
def test_maps_and_features_lie_at_stride_8(name: str) -> None:
    if not timm.is_model(name):
        pytest.skip("this timm has no such network")
    cam, affinity = pair(name)
    for height, width in ((71, 101), (8, 16), (1, 1)):
        x = cam.preprocess(np.zeros((height, width, 3), np.uint8))[None]
        assert x.shape == (1, 3, height, width)
        expected = -(-height // 8), -(-width // 8)
        maps = cam.cam(x)
        assert maps.shape == (1, 3, *expected)
        assert maps.min() >= 0
        assert cam(x).shape == (1, 3)
        assert affinity.features(x).shape == (1, 448, *expected)


@torch.inference_mode()
def test_maps_are_the_class_rows_of_timm_s_own_features() -> None:
    """Dilated at the sizes that fit; enlarged for a transformer, whose features lie at stride 16."""
    x = torch.randn(2, 3, 64, 96)
    for name, options in (("test_resnet", {"output_stride": 8}), ("test_vit", {"dynamic_img_size": True})):
        cam, _ = pair(name)
        net = timm.create_model(name, features_only=True, **options).eval()
        net.load_state_dict(cam.backbone.net.state_dict())
        features = F.interpolate(net(x)[-1], (8, 12), mode="bilinear", align_corners=False)
        rows = cam.classifier(features)
        assert torch.allclose(cam.cam(x), rows.relu(), atol=1e-5)
        assert torch.allclose(cam(x), rows.mean((2, 3)), atol=1e-5)


@torch.inference_mode()
@pytest.mark.parametrize(("name", "size"), [("test_convnext", (56, 72)), ("repghostnet_050", (64, 96))])
def test_an_odd_size_is_that_of_the_padded_image(name: str, size: tuple[int, int]) -> None:
    cam, affinity = pair(name)
    x = torch.randn(1, 3, 50, 70)
    padded = F.pad(x, (0, size[1] - 70, 0, size[0] - 50))
    assert torch.allclose(cam.cam(x), cam.cam(padded)[:, :, :7, :9], atol=1e-5)
    assert torch.allclose(affinity.features(x), affinity.features(padded)[:, :, :7, :9], atol=1e-4)


def test_colours_are_normalised_as_the_backbone_wants_them() -> None:
    for name in ("test_resnet", "test_efficientnet"):
        cam, config = create_model(f"timm:{name}", 1), timm.get_pretrained_cfg(name)
        assert (cam.mean, cam.std) == (tuple(config.mean), tuple(config.std))
        white = cam.preprocess(np.full((1, 1, 3), 255, np.uint8)).flatten()
        assert torch.allclose(white, (1 - torch.tensor(config.mean)) / torch.tensor(config.std))


def test_training_leaves_batch_norm_alone_and_knows_what_is_new() -> None:
    for model, new in zip(pair("test_resnet"), ({"classifier"}, {"reduce", "norms", "merge"}), strict=True):
        model.train()
        assert not any(module.training for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d))
        groups = model.parameter_groups()
        assert sum(map(len, groups.values())) == len(list(model.parameters()))
        head = {id(parameter) for parameter in groups["head"]}
        assert {name.partition(".")[0] for name, p in model.named_parameters() if id(p) in head} == new


def posteriors(folder: Path, masks: dict[str, np.ndarray]) -> tuple[Path, Path]:
    for stem, mask in masks.items():
        classes = np.unique(np.append(mask, 0))
        scores = (mask == classes[:, None, None]) * 0.9 + 0.05
        for side in ("low", "high"):
            write_cams(folder / side / f"{stem}.npz", classes, scores.astype(np.float32), mask.shape)
    return folder / "low", folder / "high"


@pytest.mark.parametrize("name", DILATED)
def test_a_trained_pair_makes_masks(name: str, tmp_path: Path) -> None:
    photos, labels, masks = write_set(tmp_path, 3)
    run = tmp_path / "run"
    cam = train_cam(photos, labels, CLASSES, run, network=f"timm:{name}", **FAST)
    low, high = posteriors(tmp_path, masks)
    trained = train_affinity(photos, low, high, tmp_path / "affinity", network=f"timm:{name}:affinity", **FAST)
    assert len(cam.done) == len(trained.done) == 3
    before = dict(pair(name)[0].named_parameters())
    bundle = load_model(run)
    assert (bundle.settings.cam, bundle.classes, bundle.affinity) == (f"timm:{name}", CLASSES, None)
    changed = [key for key, p in bundle.cam.named_parameters() if not torch.equal(p, before[key])]
    assert any(key.startswith("backbone.") for key in changed)

    shutil.copy(trained.path, run)
    assert load_model(run).settings.affinity == f"timm:{name}:affinity"
    report = propagate(photos, tmp_path / "masks", model=run, labels=labels, size=96, final_crf=False)
    assert (len(report.done), report.failed) == (3, [])
    assert read_mask(tmp_path / "masks" / "toy00.png").shape == masks["toy00"].shape


@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet", "test_convnext", "test_vit"])
@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_timm_s_own_weights_start_the_backbone(name: str, suffix: str, tmp_path: Path) -> None:
    torch.manual_seed(1)
    source = timm.create_model(name).eval()
    path = tmp_path / f"weights{suffix}"
    save_file(source.state_dict(), path) if suffix == ".safetensors" else torch.save(source.state_dict(), path)
    for model in pair(name):
        new, unused = load_fitting(model, path, reset_head=False)
        assert all(key.startswith("timm.") for key in unused)
        assert not any(key.startswith("backbone.") for key in new)
        # timm's own way to the same features, and the same image size as it was made for
        size = source.default_cfg["input_size"]
        x = torch.randn(1, *size)
        with torch.inference_mode():
            found = model.backbone(x)[-1]
            if name == "test_vit":
                expected = source.forward_intermediates(x, indices=1, intermediates_only=True, norm=False)[-1]
            else:
                plain = timm.create_model(name, output_stride=8).eval()
                plain.load_state_dict(source.state_dict())
                expected = plain.forward_intermediates(x, indices=1, intermediates_only=True)[-1]
        assert torch.allclose(found, expected, atol=1e-4)


def test_own_weights_start_a_network_too(tmp_path: Path) -> None:
    cam, _ = pair("test_convnext")
    save_file({name: tensor.contiguous() for name, tensor in cam.state_dict().items()}, tmp_path / "cam.safetensors")
    torch.manual_seed(5)
    fresh = create_model("timm:test_convnext:affinity")
    new, unused = load_fitting(fresh, tmp_path / "cam.safetensors", reset_head=False)
    assert unused == ["classifier.weight"]
    assert {name.partition(".")[0] for name in new} == {"reduce", "norms", "merge"}
    assert all(torch.equal(p, cam.state_dict()[name]) for name, p in fresh.state_dict().items() if "backbone" in name)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("timm:resnt50", r'timm \S+ has no network called "resnt50" \(did you mean timm:resnet50 or '),
        ("timm:", 'has no network called ""'),
        ("timm:hf-hub:somebody/something", "expected timm:NAME or timm:NAME:affinity"),
        ("timm:hf-hub:affinity", 'no network called "hf-hub"'),
        ("timm:test_resnet:cam", "expected timm:NAME or timm:NAME:affinity"),
        ("timm:test_resnet.no_such_tag", "gives no feature maps: Invalid pretrained tag"),
        ("timm:mixer_s32_224", r"does not accept images of any size: Input height .* doesn't match model \(224\)"),
        ("timm:test_maxvit", "does not accept images of any size"),
    ],
)
def test_names_that_cannot_serve(name: str, words: str) -> None:
    with pytest.raises(UsageError, match=words) as caught:
        create_model(name)
    assert "\n" not in str(caught.value)


def test_a_network_without_maps_of_cells_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    net = timm.create_model("test_resnet", features_only=True, output_stride=8)
    net.forward = lambda x: [torch.zeros(1, count) for count in net.feature_info.channels()]
    monkeypatch.setattr("pixaff.models.timm_backbone.timm_model", lambda name, **options: net)
    with pytest.raises(UsageError, match=r"gives no feature maps: found shapes \[\(1, 32\)"):
        create_model("timm:test_resnet")


def test_the_wrong_kind_of_network_is_named_before_training(tmp_path: Path) -> None:
    photos, labels, masks = write_set(tmp_path, 2)
    with pytest.raises(UsageError, match="timm:test_resnet:affinity makes no CAMs"):
        train_cam(photos, labels, CLASSES, tmp_path / "run", network="timm:test_resnet:affinity", **FAST)
    low, high = posteriors(tmp_path, masks)
    with pytest.raises(UsageError, match=r"not an AffinityNet \(choose one, such as timm:test_resnet:affin"):
        train_affinity(photos, low, high, tmp_path / "run", network="timm:test_resnet", **FAST)


def test_a_random_backbone_that_stays_so_is_warned_of(tmp_path: Path) -> None:
    photos, labels, _ = write_set(tmp_path, 2)
    events: list[Event] = []
    frozen = {**FAST, "recipe": Recipe(**{**RECIPE.to_dict(), "epochs": 1, "backbone_lr_scale": 0})}
    train_cam(photos, labels, CLASSES, tmp_path / "a", network="timm:test_resnet", **frozen, report=events.append)
    assert any("is random and frozen" in event.text for event in events if event.kind == "warning")

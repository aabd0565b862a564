"""Train the classifier weights of `lite` on features that its frozen backbone computed once.

    python examples/train_lite_classifier.py INIT OUT VOC [VOC ...]

INIT is weights of lite_cam (its backbone stays as it is), OUT the same with new classifier weights. Each VOC folder
holds JPEGImages and labels.csv; the first also classes.txt. The images are those of --list (one for each VOC folder).

The mean feature of every image is computed once; a training on these takes seconds, so that five-fold cross-validation
chooses the threshold and several seeds can be averaged. The image-level labels alone are used.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from pixaff.io.checkpoints import read_state_dict, write_state_dict
from pixaff.io.labels import read_classes, read_labels, read_list
from pixaff.models import create_model, load_checkpoint

LONG = 500
"""Long side in pixels at which the images are seen: most VOC photos have it."""
EPOCHS, BATCH, LR, DECAY, DROPOUT, BALANCE = 20, 64, 1e-2, 1e-2, 0.3, 0.25


@torch.inference_mode()
def mean_features(model: torch.nn.Module, paths: list[Path]) -> Tensor:
    """What the classifier weights are multiplied with: float32 (N, 1280)."""
    rows = []
    for done, path in enumerate(paths):
        image = Image.open(path).convert("RGB")
        factor = LONG / max(image.size)
        columns, lines = (max(1, round(side * factor / 16)) * 16 for side in image.size)
        x = model.preprocess(image.resize((columns, lines), Image.Resampling.BICUBIC))[None]
        with torch.autocast("cpu", torch.bfloat16):
            coarse = model.backbone(x.contiguous(memory_format=torch.channels_last))[2]
        rows.append(model.top(coarse.float()).mean((2, 3)))
        if done % 500 == 0:
            print(f"features of {done} of {len(paths)} images", flush=True)
    return torch.cat(rows)


def train(features: Tensor, targets: Tensor, seed: int) -> Tensor:
    """Classifier weights (K, 1280); images of rare classes are drawn more often."""
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)  # of the dropout
    weights = torch.randn(targets.shape[1], features.shape[1], generator=generator).mul_(1e-3).requires_grad_(True)
    optimizer = torch.optim.AdamW([weights], LR, weight_decay=DECAY)
    steps = EPOCHS * (len(targets) // BATCH)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: (1 - step / steps) ** 0.9)
    chance = (targets / targets.mean(0).clamp(min=1e-4) ** BALANCE).amax(1)
    for _ in range(steps):
        drawn = torch.multinomial(chance, BATCH, replacement=True, generator=generator)
        logits = F.dropout(features[drawn], DROPOUT) @ weights.t()
        optimizer.zero_grad()
        F.binary_cross_entropy_with_logits(logits, targets[drawn]).backward()
        optimizer.step()
        schedule.step()
    return weights.detach()


def cross_validated(features: Tensor, targets: Tensor, folds: int, seeds: int) -> Tensor:
    """Logits (N, K) of each image by weights that were trained without it."""
    logits = torch.zeros_like(targets)
    fold = torch.arange(len(targets)) % folds
    for k in range(folds):
        for seed in range(seeds):
            logits[fold == k] += features[fold == k] @ train(features[fold != k], targets[fold != k], seed).t() / seeds
    return logits


def scores(logits: Tensor, targets: Tensor) -> Iterator[str]:
    """Lines of figures: mean average precision, then micro and macro F1 by threshold."""
    order = logits.argsort(0, descending=True)
    hits = targets.gather(0, order)
    precision = hits.cumsum(0) / torch.arange(1, len(hits) + 1)[:, None]
    yield f"mAP {100 * ((precision * hits).sum(0) / hits.sum(0)).mean():.1f}"
    for threshold in (0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6):
        found = torch.sigmoid(logits) >= threshold
        found[torch.arange(len(found)), logits.argmax(1)] |= ~found.any(1)
        right, either = (found * targets).sum(0), found.sum(0) + targets.sum(0)
        micro, macro = 2 * right.sum() / either.sum(), (2 * right / either.clamp(min=1)).mean()
        yield f"threshold {threshold:<4g} F1 micro {100 * micro:.1f} macro {100 * macro:.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("init", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("voc", type=Path, nargs="+")
    parser.add_argument("--list", type=Path, action="append", required=True, help="one for each VOC folder")
    parser.add_argument("--seeds", type=int, default=8, help="trainings whose mean is kept")
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--score-list", type=Path, help="print the cross-validation of these images too")
    options = parser.parse_args()
    classes = read_classes(options.voc[0] / "classes.txt")
    model = load_checkpoint(create_model("lite_cam", len(classes)), options.init).eval()
    names, paths, targets = [], [], []
    for voc, listing in zip(options.voc, options.list, strict=True):
        labels = read_labels(voc / "labels.csv", classes)
        for name in read_list(listing):
            names.append(name)
            paths.append(voc / "JPEGImages" / f"{name}.jpg")
            targets.append(F.one_hot(torch.tensor(labels[name]), len(classes)).sum(0).float())
    truth, features = torch.stack(targets), mean_features(model, paths)
    logits = cross_validated(features, truth, options.folds, options.seeds)
    print(f"{len(names)} images, {options.folds} folds", *scores(logits, truth), sep="\n")
    if options.score_list is not None:
        chosen = set(read_list(options.score_list))
        some = torch.tensor([name in chosen for name in names])
        print(f"{int(some.sum())} of them", *scores(logits[some], truth[some]), sep="\n")
    state = read_state_dict(options.init)
    weights = torch.stack([train(features, truth, seed) for seed in range(options.seeds)]).mean(0)
    state["classifier.weight"] = weights[:, :, None, None].contiguous()
    write_state_dict(options.out, state, metadata={"network": "lite_cam", "classes": json.dumps(classes)})


if __name__ == "__main__":
    main()

"""Train the last two stages of `lite_cam` and its heads on walked cells.

    python examples/train_lite_stages.py --help

The labels are what the walk made of a first model's CAMs (lite_walked_cells.py) and the image-level labels. Everything
before the last two stages stays frozen and is read from views (lite_views.py). The same command goes on from its
checkpoint, OUT/state.pt. OUT becomes a model's folder.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from lite_views import View
from torch import Tensor

from pixaff.io.checkpoints import read_state_dict
from pixaff.io.labels import read_classes, read_labels, read_list
from pixaff.models.bundle import load_model
from pixaff.models.model_folder import write_bundle

VIEWS = ("s1", "s1", "s1", "s5", "s5f")
"""A view is drawn for each image and epoch; those ending in f are mirrored."""
MARGIN = 0.6
"""A cell whose best two scores differ by this much (relative to their sum) counts fully, others less in proportion."""
LABEL_WEIGHT = 4.0
BATCH, DECAY, WARM_UP, SAVE_EVERY = 8, 1e-2, 20, 240.0


def cell_targets(present: Sequence[int], walked: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Mask values and weights (h, w) of walked cells (1 + C, h', w')."""
    scores = F.interpolate(walked.float()[None], size, mode="bilinear", align_corners=False)[0]
    best = scores.topk(2, 0)
    values = torch.tensor([0, *[index + 1 for index in present]])[best.indices[0]]
    margin = (best.values[0] - best.values[1]) / (best.values[0] + best.values[1]).clamp(min=1e-5)
    return values, (margin / MARGIN).clamp(max=1)


def cell_loss(logits: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Cross-entropy: background counts a half, the classes of the image the other half and equally among themselves."""
    logits = F.interpolate(logits, target.shape, mode="bilinear", align_corners=False)
    losses = F.cross_entropy(logits, target[None], reduction="none")[0] * weight
    means = {
        value: losses[target == value].sum() / weight[target == value].sum().clamp(min=1)
        for value in target.unique().tolist()
    }
    background = means.pop(0, torch.zeros(()))
    return (background + (torch.stack(list(means.values())).mean() if means else 0)) / 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("voc", type=Path, nargs="+", help="folders with labels.csv; the first with classes.txt too")
    parser.add_argument("--cells", type=Path, required=True, help="file of lite_walked_cells.py")
    parser.add_argument("--views", type=Path, required=True, help="folder of s1.bin, s5.bin and s5f.bin")
    parser.add_argument("--model", default="lite")
    parser.add_argument("--cam-weights", type=Path, help="of lite_cam, where they are not the model's")
    parser.add_argument("--without", type=Path, help="list of which every fourth image is left out: those to tune on")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--lr", type=float, default=1e-3, help="of the heads")
    parser.add_argument("--backbone-lr", type=float, default=2e-4)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    chance = random.Random(options.seed)
    options.out.mkdir(parents=True, exist_ok=True)
    bundle, classes = load_model(options.model), read_classes(options.voc[0] / "classes.txt")
    model = bundle.cam.to(memory_format=torch.channels_last)
    if options.cam_weights is not None:
        model.load_state_dict({**read_state_dict(options.cam_weights), "seeded": torch.tensor(True)})
    labels = {name: shown for voc in options.voc for name, shown in read_labels(voc / "labels.csv", classes).items()}
    cells = torch.load(options.cells)
    left_out = set(read_list(options.without)[::4]) if options.without is not None else set()
    names = sorted(set(cells) - left_out)
    views = {name: View(options.views / f"{name}.bin") for name in set(VIEWS)}

    stages = model.backbone.net.blocks[5:7]
    model.requires_grad_(False)
    heads = [*model.pixel.parameters(), *model.classifier.parameters()]
    body = [p for module in (*stages, model.top) for p in module.parameters() if p.ndim == 4]  # no batch norm
    for parameter in heads + body:
        parameter.requires_grad_(True)
    groups = [{"params": heads, "lr": options.lr}, {"params": body, "lr": options.backbone_lr}]
    optimizer = torch.optim.AdamW(groups, weight_decay=DECAY)
    steps = options.epochs * len(names) // BATCH
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: max(1e-3, min(1, (step + 1) / WARM_UP) * max(0, 1 - step / steps) ** 0.9)
    )
    order = [name for _ in range(options.epochs) for name in chance.sample(names, len(names))]
    drawn = [(name, chance.choice(VIEWS)) for name in order]
    checkpoint, first = options.out / "state.pt", 0
    if checkpoint.is_file():
        state = torch.load(checkpoint)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        schedule.load_state_dict(state["schedule"])
        first = state["step"]
    # One image at a time has no batch statistics worth having: the normalisation of the head stays as it was.
    model.eval().pixel.get_submodule("dropout").train()
    saved = time.monotonic()
    for step in range(first, steps):
        total = torch.zeros(2)
        for name, view in drawn[step * BATCH : (step + 1) * BATCH]:
            middle = views[view][name][:, :120].contiguous(memory_format=torch.channels_last)
            features = model.top(stages(middle))
            logits = model.pixel(torch.cat([features, middle], 1))
            present, walked = cells[name]
            walked = walked.flip(2) if view.endswith("f") else walked
            size = (2 * logits.shape[2], 2 * logits.shape[3])
            seen = model.classifier(features.mean((2, 3), keepdim=True)).flatten(1)
            shown = F.one_hot(torch.tensor(labels[name]), len(classes)).sum(0, keepdim=True).float()
            terms = (
                cell_loss(logits, *cell_targets(present, walked, size)),
                F.binary_cross_entropy_with_logits(seen, shown),
            )
            ((terms[0] + LABEL_WEIGHT * terms[1]) / BATCH).backward()
            total += torch.stack([term.detach() for term in terms]) / BATCH
        torch.nn.utils.clip_grad_norm_(heads + body, 5.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        if step % 25 == 0:
            print(f"step {step} of {steps}: cells {total[0]:.3f}, labels {total[1]:.4f}", flush=True)
        if time.monotonic() - saved > SAVE_EVERY:
            state = {
                "model": model.state_dict(),
                "optimizer": optimizer.state_dict(),
                "schedule": schedule.state_dict(),
            }
            torch.save({**state, "step": step + 1}, checkpoint)
            saved = time.monotonic()
    write_bundle(options.out, "lite_cam", "lite_affinity", model, bundle.affinity, bundle.classes, bundle.settings)


if __name__ == "__main__":
    main()

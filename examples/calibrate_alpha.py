"""Compare rules that choose the walk's alpha without ground truth, on many small sets of VOC photos.

    python examples/imagenet_start.py imagenet.safetensors
    python examples/calibrate_alpha.py trials FOLDER imagenet.safetensors VOC [VOC ...]
    python examples/calibrate_alpha.py table FOLDER

The first command runs a small `pixaff fit` on each set: the frozen ImageNet backbone at a long side of 384 pixels, its
features kept in FOLDER; classifier weights on averaged features; CAMs; CRF seeds at a quarter of the size; a
segmentation head on them; CAMs of that; CRF posteriors; and an AffinityNet, whose layers alone are trained. A second
walk takes the AffinityNet of `lite`, which has seen the classes. Each trial keeps the propagated scores of 24 photos at
every alpha. The second command applies the rules to them, and measures with the masks, which nothing else sees.
"""

from __future__ import annotations

import argparse
import random
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from renamed_sets import draw_photos, own_mask, training_photos
from torch import Tensor

from pixaff.io.labels import VOC_CLASSES
from pixaff.models import create_model
from pixaff.models.bundle import load_model
from pixaff.ops.affinity import pair_affinity
from pixaff.ops.cam import background_score, with_background
from pixaff.ops.crf import dense_crf
from pixaff.ops.labels import pair_labels
from pixaff.ops.losses import affinity_loss
from pixaff.ops.mask_measures import cautious_alpha, foreground, normalized_cuts, overlaps
from pixaff.ops.metrics import ConfusionMatrix
from pixaff.ops.walk import random_walk
from pixaff.stages.training.starting import load_fitting

LONG, CRF_STRIDE = 384, 4
SETS = ((3, 30), (3, 100), (5, 60), (5, 150), (10, 100), (10, 300))
"""Numbers of classes and photos."""
DRAWS = 5
MEASURED = 24
ALPHAS = tuple(0.1 * 1.5**k for k in range(12))
BETAS = (10.0, 20.0)
POOL = 40
"""Photos of each class from which the sets are drawn, at most."""


class Photos:
    """Features of the frozen backbone, computed once and kept in a folder."""

    def __init__(self, folder: Path, start: Path, sources: list[Path]) -> None:
        self.folder, self.found = folder / "features", training_photos(sources)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.model = create_model("lite_cam", num_classes=1)
        load_fitting(self.model, start, reset_head=True)
        self.model.eval().to(memory_format=torch.channels_last)

    def image(self, name: str) -> Image.Image:
        picture = Image.open(self.found[name][0] / "JPEGImages" / f"{name}.jpg").convert("RGB")
        factor = LONG / max(picture.size)
        size = [max(2, round(side * factor / 16)) * 16 for side in picture.size]
        return picture.resize((size[0], size[1]), Image.Resampling.BICUBIC)

    @torch.inference_mode()
    def levels(self, name: str) -> list[list[Tensor]]:
        """Levels of stride 8, 16 and 16 of the photo, of half of it, and of that mirrored: float16 (C, h, w)."""
        path = self.folder / f"{name}.pt"
        if not path.is_file():
            image, views = self.image(name), []
            half = image.resize((max(16, image.width // 2), max(16, image.height // 2)), Image.Resampling.BICUBIC)
            for picture, flip in ((image, False), (half, False), (half, True)):
                x = self.model.preprocess(picture)[None]
                x = (x.flip(3) if flip else x).contiguous(memory_format=torch.channels_last)
                with torch.autocast("cpu", torch.bfloat16):
                    views.append([level[0].half().contiguous() for level in self.model.backbone(x)])
            torch.save(views, path)
        return torch.load(path)

    @torch.inference_mode()
    def top(self, coarse: Tensor) -> Tensor:
        """The last 1,280 features of the coarse level (352, h, w)."""
        x = coarse[None].float().contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16):
            return self.model.top(x)[0].float()

    def mask(self, name: str, wanted: list[int]) -> np.ndarray:
        path = self.found[name][0] / "SegmentationClassAug" / f"{name}.png"
        size = self.image(name).size
        mask = Image.fromarray(own_mask(path, wanted)).resize(size, Image.Resampling.NEAREST)
        return np.asarray(mask)[CRF_STRIDE // 2 :: CRF_STRIDE, CRF_STRIDE // 2 :: CRF_STRIDE]


def fit_classifier(pooled: Tensor, targets: Tensor, steps: int = 300) -> Tensor:
    """Classifier weights (K, 1280) on averaged features."""
    weights = torch.zeros(targets.shape[1], pooled.shape[1], requires_grad=True)
    optimizer = torch.optim.AdamW([weights], 1e-2, weight_decay=1e-2)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 1e-2 * (1 - step / steps) ** 0.9
        batch = torch.randperm(len(pooled))[:32]
        loss = F.multilabel_soft_margin_loss(pooled[batch] @ weights.t(), targets[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return weights.detach()


def normalized(maps: Tensor) -> Tensor:
    return maps / (maps.flatten(1).amax(1)[:, None, None] + 1e-5)


def enlarged(maps: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(maps[None], size, mode="bilinear", align_corners=False)[0]


def posteriors(image: np.ndarray, cams: Tensor, alphas: tuple[float, ...]) -> Tensor:
    """CRF posteriors (A, C + 1, h, w) at a quarter of the size, with kernels of a quarter of the size."""
    maps = enlarged(cams, image.shape[:2])
    sets = torch.stack([with_background(maps, alpha) for alpha in alphas])
    return dense_crf(image, sets, sxy_gaussian=3 / CRF_STRIDE, sxy_bilateral=80 / CRF_STRIDE)


def cells(posterior: Tensor) -> Tensor:
    """Row of the largest posterior on the cells of 8 pixels: uint8 (A, h, w)."""
    return F.avg_pool2d(posterior, 8 // CRF_STRIDE).argmax(1).to(torch.uint8)


def sure_cells(low: Tensor, high: Tensor) -> Tensor:
    """As `pixaff.ops.labels.affinity_label_map`, from `cells`."""
    return low.masked_fill(low == 0, 255).masked_fill(high == 0, 0)


def in_values(rows: Tensor, present: list[int]) -> Tensor:
    """Rows 0, 1, ... of background and present classes as values 0 to K; 255 stays."""
    values = torch.full((256,), 255, dtype=torch.uint8)
    values[: len(present) + 1] = torch.tensor([0, *(one + 1 for one in present)], dtype=torch.uint8)
    return values[rows.long()]


def fit_head(inputs: Tensor, labels: Tensor, classes: int, steps: int = 120) -> torch.nn.Sequential:
    """The segmentation head of `lite` on sampled cells (N, 1400), labels 0 to K; half of the loss is background's."""
    head = torch.nn.Sequential(
        torch.nn.BatchNorm1d(inputs.shape[1], affine=False), torch.nn.Linear(inputs.shape[1], 256), torch.nn.ReLU(),
        torch.nn.Dropout(0.3), torch.nn.Linear(256, classes + 1),
    )  # fmt: skip
    optimizer = torch.optim.AdamW(head.parameters(), 1e-3, weight_decay=1e-2)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 1e-3 * (1 - step / steps) ** 0.9
        batch = torch.randint(len(inputs), (1024,))
        losses = F.cross_entropy(head(inputs[batch].float()), labels[batch], reduction="none")
        shown = labels[batch] > 0
        loss = (losses[shown].sum() / shown.sum().clamp(min=1) + losses[~shown].sum() / (~shown).sum().clamp(min=1)) / 2
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return head.eval()


def affinity_features(network: torch.nn.Module, levels: list[Tensor]) -> Tensor:
    """Features (B, 448, h, w) of an AffinityNet's own layers on cached levels (B, C, h, w)."""
    convs = (network.level1, network.level2, network.level3)
    parts = [F.elu(conv(level)) for conv, level in zip(convs, levels, strict=True)]
    size = parts[0].shape[2:]
    parts[1:] = [F.interpolate(part, size, mode="bilinear", align_corners=False) for part in parts[1:]]
    return F.elu(network.merge(torch.cat(parts, 1)))


def fit_affinity(photos: Photos, names: list[str], labels: dict[str, Tensor], steps: int = 40) -> torch.nn.Module:
    """An AffinityNet whose own layers are trained on sure cells, the backbone frozen."""
    network = create_model("lite_affinity").train()
    own = [p for part in network.new for p in network.get_submodule(part).parameters()]
    optimizer = torch.optim.AdamW(own, 2e-3, weight_decay=5e-4)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 2e-3 * (1 - step / steps) ** 0.9
        total = 0
        for name in random.sample(names, min(2, len(names))):
            levels = [level[None].float() for level in photos.levels(name)[0]]
            affinity = pair_affinity(affinity_features(network, levels).contiguous())
            total = total + affinity_loss(affinity, *pair_labels(labels[name][None])).total
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
    return network.eval()


def trial(photos: Photos, lite: torch.nn.Module, classes: int, count: int, draw: int) -> dict:
    """One small fit; the propagated scores of some of its photos and what the rules may look at."""
    seed = 10000 * classes + 10 * count + draw
    rng = random.Random(seed)
    random.seed(seed)
    torch.manual_seed(seed)
    wanted = sorted(rng.sample(range(len(VOC_CLASSES)), classes))
    labels = {name: shown for name, (_, shown) in photos.found.items()}
    names = draw_photos(labels, wanted, count, 0, seed)
    present = {name: [at for at, one in enumerate(wanted) if one in labels[name]] for name in names}
    targets = torch.zeros(len(names), classes)
    tops = {}
    for row, name in zip(targets, names, strict=True):
        row[present[name]] = 1
        tops[name] = photos.top(photos.levels(name)[0][2])
    weights = fit_classifier(torch.stack([tops[name].mean((1, 2)) for name in names]), targets)
    small = {}
    inputs, wishes = [], []
    for name in names:
        image = photos.image(name)
        small[name] = np.asarray(image.resize((image.width // CRF_STRIDE, image.height // CRF_STRIDE)))
        maps = torch.einsum("kc,chw->khw", weights[present[name]], tops[name]).relu()
        low, high = cells(posteriors(small[name], normalized(maps), (8.0, 16.0)))
        sure = sure_cells(low, high)
        values = in_values(sure, present[name])
        features = torch.cat([tops[name], photos.levels(name)[0][1].float()])
        features = enlarged(features, (values.shape[0], values.shape[1]))
        known = torch.nonzero(values.flatten() != 255).flatten()
        known = known[torch.randperm(len(known))[: max(40, 20000 // len(names))]]
        inputs.append(features.flatten(1).t()[known].half())
        wishes.append(values.flatten()[known])
    head = fit_head(torch.cat(inputs), torch.cat(wishes).long(), classes)
    del inputs
    views, argmax, sums = {}, {}, {}
    measured = rng.sample(names, min(MEASURED, len(names)))
    used = list(dict.fromkeys([*measured, *rng.sample(names, min(60, len(names)))]))
    for name in used:
        maps = []
        for at, (_, middle, coarse) in enumerate(photos.levels(name)):
            features = torch.cat([photos.top(coarse), middle.float()])
            with torch.no_grad():
                rows = head(features.flatten(1).t()).t().unflatten(1, tuple(coarse.shape[1:]))
            if at == 0:
                argmax[name] = rows[[0, *(one + 1 for one in present[name])]].argmax(0).to(torch.uint8)
            one = torch.sigmoid(rows[1:] - rows[:1])[present[name]]
            maps.append(enlarged(one.flip(2) if at == 2 else one, tuple(photos.levels(name)[0][0].shape[1:])))
        views[name] = [normalized(one) for one in maps]
        sums[name] = normalized(sum(maps))
    sure = {}
    for name in used:
        low, high = cells(posteriors(small[name], sums[name], (0.5, 3.0)))
        sure[name] = in_values(sure_cells(low, high), present[name])
    own = fit_affinity(photos, used, sure)
    result = {"classes": wanted, "photos": len(names), "draw": draw, "each": []}
    for name in measured:
        image = photos.image(name)
        nets = {}
        with torch.inference_mode():
            levels = [level[None].float() for level in photos.levels(name)[0]]
            with torch.autocast("cpu", torch.bfloat16):
                x = lite.preprocess(image)[None].contiguous(memory_format=torch.channels_last)
                shipped = lite.features(x).float().contiguous()
            kinds = {"own": affinity_features(own, levels).contiguous(), "lite": shipped}
            maps = sums[name]
            start = torch.cat([maps, *(background_score(maps, alpha) for alpha in ALPHAS)])
            flipped = views[name][2]
            other = torch.cat([flipped, *(background_score(flipped, alpha) for alpha in ALPHAS)])
            for kind, features in kinds.items():
                affinity = pair_affinity(features, borders="full")[0]
                walks = {beta: random_walk(start, affinity, beta, borders="full").half() for beta in BETAS}
                mirrored = random_walk(other, affinity, BETAS[-1], borders="full").half()
                nets[kind] = {"walked": walks, "mirrored": mirrored, "affinity": affinity.half()}
        crf = cells(posteriors(small[name], sums[name], ALPHAS))
        result["each"].append(
            {
                "name": name, "present": present[name], "cams": sums[name].half(), "crf": crf, "argmax": argmax[name],
                "nets": nets, "mask": torch.from_numpy(photos.mask(name, wanted).copy()), "image": small[name],
            }
        )  # fmt: skip
    return result


def trials(options: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    photos = Photos(options.folder, options.start, options.sources)
    rng, counts = random.Random(0), dict.fromkeys(range(len(VOC_CLASSES)), 0)
    pool = {}
    for name in rng.sample(sorted(photos.found), len(photos.found)):
        shown = photos.found[name][1]
        if shown and min(counts[one] for one in shown) < POOL:
            pool[name] = photos.found[name]
            for one in shown:
                counts[one] += 1
    photos.found = pool
    lite = load_model("lite", parts=("affinity",)).affinity.eval().to(memory_format=torch.channels_last)
    for draw in range(DRAWS):
        for classes, count in SETS:
            path = options.folder / f"trial-{classes}-{count}-{draw}.pt"
            if path.is_file():
                continue
            began = time.time()
            result = trial(photos, lite, classes, count, draw)
            torch.save(result, path)
            print(f"{path.name}: {result['photos']} photos, {time.time() - began:.0f} s", flush=True)


def threshold(alpha: float) -> float:
    """The CAM at which background and foreground are equal: (1 - t)^alpha = t."""
    low, high = 0.0, 1.0
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if (1 - middle) ** alpha > middle else (low, middle)
    return low


def otsu(values: np.ndarray) -> float:
    """The threshold with the largest variance between the two sides (Otsu 1979)."""
    counts, edges = np.histogram(values, 64, (0, 1))
    share, mean = counts.cumsum() / counts.sum(), (counts * (edges[1:] - 1 / 128)).cumsum() / counts.sum()
    between = (mean[-1] * share - mean) ** 2 / np.maximum(share * (1 - share), 1e-9)
    return float(edges[1 + between[:-1].argmax()])


def kappa(one: Tensor, other: Tensor) -> Tensor:
    """Agreement beyond chance of masks (A, h, w): (A,)."""
    same = (one == other).float().mean((1, 2))
    first, second = one.float().mean((1, 2)), other.float().mean((1, 2))
    chance = first * second + (1 - first) * (1 - second)
    return (same - chance) / (1 - chance).clamp(min=1e-3)


def measure(found: dict, kind: str, beta: float = BETAS[-1]) -> tuple[np.ndarray, dict[str, float]]:
    """mIoU at each alpha, and the alpha of each rule, of one trial with one AffinityNet."""
    classes, count = len(found["classes"]), len(found["each"])
    tables = [ConfusionMatrix(classes + 1) for _ in ALPHAS]
    agreement, cuts, same = torch.zeros(len(ALPHAS), 2), torch.zeros(len(ALPHAS)), torch.zeros(len(ALPHAS))
    shares, sure, thresholds = torch.zeros(len(ALPHAS)), {}, []
    for each in found["each"]:
        number, net = len(each["present"]), each["nets"][kind]
        walked = net["walked"][beta].float()
        shown = foreground(walked[:number], walked[number:])
        large = enlarged(walked, (2 * walked.shape[1], 2 * walked.shape[2]))
        values = torch.tensor([one + 1 for one in each["present"]], dtype=torch.uint8)
        best = values[large[:number].argmax(0)]
        for table, background in zip(tables, large[number:], strict=True):
            mask = torch.where(background < large[:number].amax(0), best, 0).numpy()
            truth = each["mask"].numpy()[: mask.shape[0], : mask.shape[1]]
            table.update(mask[: truth.shape[0], : truth.shape[1]], truth)
        head = F.interpolate(each["argmax"][None, None].float(), shown.shape[1:])[0, 0] > 0
        agreement += overlaps(shown, head)
        cuts += normalized_cuts(shown, net["affinity"].float() ** (2 * beta))
        mirrored = net["mirrored"].float()
        same += kappa(shown, foreground(mirrored[:number], mirrored[number:]))
        shares += shown.float().mean((1, 2)) / count
        thresholds.append(otsu(each["cams"].float().amax(0).numpy()))
        for low, high in ((0.5, 3.0), (0.1, 0.76)):
            rows = [int(np.abs(np.log(np.array(ALPHAS) / alpha)).argmin()) for alpha in (low, high)]
            front, back = each["crf"][rows[0]] > 0, (each["crf"][rows[1]] == 0) & (each["crf"][rows[0]] == 0)
            sums = sure.setdefault(f"share of sure pixels, {low:g} / {high:g}", np.zeros(2))
            sums += [float(front.float().mean()), float((front | back).float().mean())]
    near = agreement[:, 0] / agreement[:, 1]
    steps = np.log(ALPHAS)
    rising = np.maximum.accumulate(shares.numpy()) + 1e-9 * np.arange(len(ALPHAS))
    rules = {name: float(np.exp(np.interp(part / whole, rising, steps))) for name, (part, whole) in sure.items()}
    rules["mirrored and half the size"] = ALPHAS[int(same.argmax())]
    levels = [threshold(alpha) for alpha in ALPHAS]
    rules["threshold of the CAMs (Otsu)"] = float(np.exp(np.interp(-np.mean(thresholds), -np.array(levels), steps)))
    rules["agreement with the head, best"] = cautious_alpha(ALPHAS, near, tolerance=0)
    rules["agreement with the head, smallest within 5 %"] = cautious_alpha(ALPHAS, near)
    rules["normalized cut"] = cautious_alpha(ALPHAS, None, cuts)
    rules["the smaller of the last two"] = cautious_alpha(ALPHAS, near, cuts)
    rules |= {f"always {alpha:g}": alpha for alpha in (0.15, 0.25, 0.5, 1.5)}
    return np.array([100 * table.miou() for table in tables]), rules


def table(options: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    for kind in ("own", "lite"):
        losses: dict[str, list[float]] = {}
        for path in sorted(options.folder.glob("trial-*.pt")):
            curve, rules = measure(torch.load(path, weights_only=False), kind)
            for name, alpha in rules.items():
                reached = np.interp(np.log(alpha), np.log(ALPHAS), curve)
                losses.setdefault(name, []).append(float(curve.max() - reached))
            losses.setdefault("mIoU of the best alpha", []).append(float(curve.max()))
        print(f"AffinityNet {kind}: points of mIoU below the best alpha, mean and largest")
        for name, values in losses.items():
            print(f"| {name} | {np.mean(values):.1f} | {np.max(values):.1f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    first = commands.add_parser("trials")
    first.add_argument("folder", type=Path)
    first.add_argument("start", type=Path)
    first.add_argument("sources", type=Path, nargs="+")
    first.set_defaults(run=trials)
    second = commands.add_parser("table")
    second.add_argument("folder", type=Path)
    second.set_defaults(run=table)
    options = parser.parse_args()
    options.run(options)


if __name__ == "__main__":
    main()

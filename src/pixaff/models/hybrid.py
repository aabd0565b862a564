"""The hybrid networks: a ViT-B/16 on a ResNet stem as classifier, and an AffinityNet on the same stem.

Dosovitskiy et al., *An Image is Worth 16x16 Words*, ICLR 2021 (the R50 hybrid, with three stages of the ResNet). Its
relevance maps (Chefer et al., CVPR 2021; `pixaff.models.relevance`) take the place of CAMs. The names of the parameters
are those of the published "Hybrid Pascal VOC" weights.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from pixaff.errors import CheckpointError, UsageError
from pixaff.models import psa
from pixaff.models.base import AffinityNetwork, CamNetwork, Family, Network
from pixaff.models.relevance import STEADY, Rules, class_rows, trace_blocks
from pixaff.models.timm_backbone import import_timm
from pixaff.ops.cam import Picture
from pixaff.weights.catalogue import published

STRIDE = 16
CHANNELS = 1024
WIDTH = 768
DEPTH = 12
HEADS = 12
FEATURES = 512
IMAGE_SIZE = 448
METHODS = ("relevance", "gradient-rollout")
CLASSES_AT_ONCE = 8
"""Number of classes in one backward pass; each takes some 170 MB with a mirror image at 448 x 448."""


def _resnet() -> nn.Module:
    """The stem and three stages of a ResNet-50 with weight standardisation: (B,3,H,W) -> (B,1024,H/16,W/16)."""
    timm = import_timm()
    network: nn.Module = timm.models.resnetv2.ResNetV2(
        layers=(3, 4, 9),
        num_classes=0,
        global_pool="",
        preact=False,
        stem_type="same",
        conv_layer=partial(timm.layers.StdConv2dSame, eps=1e-6),
    )
    return network


class _Hybrid(Network):
    """What the two hybrid networks share."""

    mean = (0.5, 0.5, 0.5)
    std = (0.5, 0.5, 0.5)
    frozen = ("resnet_backbone.stem", "resnet_backbone.stages.0")
    image_size: int


class HybridCam(_Hybrid, CamNetwork):
    """ViT-B/16 classifier on a ResNet stem, with relevance maps.

    Args:
        num_classes: Foreground classes K.
        image_size: Side of the images in pixels, a multiple of 16. None means 448, or the size of the weights that are
            loaded; with a number, the position embedding of such weights is interpolated.

    Raises:
        UsageError: The size is not a multiple of 16.
    """

    new = ("head",)
    single_scale = True
    exported = ()  # its maps are made in a backward pass
    sized = True

    def __init__(self, num_classes: int = 20, image_size: int | None = None) -> None:
        super().__init__()
        if image_size is not None and (image_size < STRIDE or image_size % STRIDE):
            raise UsageError(f"image size is {image_size}, expected a multiple of {STRIDE} pixels")
        timm = import_timm()
        self._fixed_size = image_size is not None
        self.image_size = image_size or IMAGE_SIZE
        self.resnet_backbone = _resnet()
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(CHANNELS, WIDTH, 1)})
        self.cls_token = nn.Parameter(torch.zeros(1, 1, WIDTH))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + (self.image_size // STRIDE) ** 2, WIDTH))
        norm = partial(nn.LayerNorm, eps=1e-6)
        block = timm.models.vision_transformer.Block
        self.blocks = nn.ModuleList(block(WIDTH, HEADS, qkv_bias=True, norm_layer=norm) for _ in range(DEPTH))
        self.norm = nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, num_classes)
        for part in (self.blocks, self.head):
            for module in part.modules():
                if isinstance(module, nn.Linear):
                    nn.init.normal_(module.weight, std=0.02)
                    nn.init.zeros_(module.bias)
        nn.init.normal_(self.cls_token, std=0.02)
        nn.init.normal_(self.pos_embed, std=0.02)
        self.freeze()

    def forward(self, x: Tensor) -> Tensor:
        """Normalised images (B,3,H,W) -> logits (B,K)."""
        tokens = self._tokens(x)
        for block in self.blocks:
            tokens = block(tokens)
        return self.head(self.norm(tokens[:, 0]))

    @torch.no_grad()
    def cam(
        self,
        x: Tensor,
        classes: Sequence[int] | None = None,
        method: str = "relevance",
        steady: float = STEADY,
    ) -> Tensor:
        """Normalised images (B,3,H,W) -> relevance maps (B,C,h,w) >= 0, h = ceil(H / 16).

        All classes of all images share one forward pass. Under autocast the matrix products of the backward pass have
        its dtype too.

        Args:
            x: The images.
            classes: 0-based classes C; None means all.
            method: "relevance", or "gradient-rollout", which is cheaper: the gradient times the attention itself.
            steady: See `pixaff.models.relevance`; 0 means the published constant, for which float32 is too coarse (use
                ``model.double()``).

        Raises:
            ValueError: No class, a class that the network lacks, an unknown method or a negative ``steady``.
        """
        wanted = list(range(self.head.out_features)) if classes is None else [int(index) for index in classes]
        if not wanted or min(wanted) < 0 or max(wanted) >= self.head.out_features:
            raise ValueError(f"found classes {wanted}, expected some of 0..{self.head.out_features - 1}")
        if method not in METHODS:
            raise ValueError(f"found the method {method!r}, expected {' or '.join(METHODS)}")
        if not steady >= 0:
            raise ValueError(f"found steady {steady}, expected 0 or more")
        tokens = self._tokens(x).to(self.head.weight.dtype)
        kind = x.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else tokens.dtype
        rules = Rules(method == "relevance", steady, dtype)
        with torch.autocast(kind, enabled=False):
            blocks = list(self.blocks)
            traces = trace_blocks(blocks, tokens, dtype)
            groups = torch.tensor(wanted, device=x.device).split(CLASSES_AT_ONCE)
            rows = [class_rows(blocks, self.norm, self.head, traces, group, rules) for group in groups]
        return torch.cat(rows, 1).unflatten(2, (-(-x.shape[2] // STRIDE), -(-x.shape[3] // STRIDE)))

    def normalized_cams(
        self, image: Picture, classes: Sequence[int], scales: Sequence[float] = (1.0,), flip: bool = True
    ) -> Tensor:
        """Relevance maps of one image as CAMs: float32 (C,H,W) in 0..1 at the image's size, whatever ``scales``.

        The image is resized to the network's square (bicubic). Each map is enlarged to the square (bilinear), its cube
        root is taken and scaled to 0..1, and it is averaged with that of the mirror image.
        """
        picture = image if isinstance(image, Image.Image) else Image.fromarray(image)
        square = picture.resize((self.image_size, self.image_size), Image.Resampling.BICUBIC)
        x = self.preprocess(square)[None].to(self.head.weight)
        maps = self.cam(torch.cat([x, x.flip(3)]) if flip else x, classes)
        cams = as_cams(maps, (self.image_size, self.image_size)).float()
        both = (cams[:1] + cams[1:].flip(3)) / 2 if flip else cams
        return F.interpolate(both, picture.size[::-1], mode="bilinear", align_corners=False)[0]

    def adapted_state(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Weights with a position embedding of this network's size, or this network adapted to theirs.

        Raises:
            CheckpointError: The position embedding does not belong to a square.
        """
        found = state.get("pos_embed")
        if found is None or found.shape == self.pos_embed.shape:
            return dict(state)
        side = round(max(0, found.shape[1] - 1) ** 0.5) if found.ndim == 3 else 0
        if side < 1 or found.shape != (1, 1 + side * side, WIDTH):
            raise CheckpointError(
                f"found a position embedding of shape {tuple(found.shape)}, expected (1, 1 + side^2, {WIDTH})",
                "give the weights of a hybrid classifier",
            )
        if self._fixed_size:
            grid = self.image_size // STRIDE
            return {**state, "pos_embed": _resized(found.float(), (side, side), (grid, grid))}
        self.image_size = side * STRIDE
        self.pos_embed = nn.Parameter(torch.zeros_like(found, dtype=self.pos_embed.dtype))
        return dict(state)

    def _tokens(self, x: Tensor) -> Tensor:
        """Class token and patches (B, 1 + h w, D), with their positions."""
        cells = self.patch_embed["proj"](self.resnet_backbone(x))
        size = (cells.shape[2], cells.shape[3])
        tokens = torch.cat([self.cls_token.expand(len(x), -1, -1), cells.flatten(2).mT], 1)
        side = self.image_size // STRIDE
        return tokens + (self.pos_embed if size == (side, side) else _resized(self.pos_embed, (side, side), size))


class HybridAffinity(_Hybrid, AffinityNetwork):
    """AffinityNet on the ResNet stem: 1x1 convolutions to 512 and 512 channels at twice the stem's resolution."""

    image_size = IMAGE_SIZE
    new = ("feat_conv", "gn", "affinity_conv")

    def __init__(self) -> None:
        super().__init__()
        self.resnet_backbone = _resnet()
        self.feat_conv = nn.Conv2d(CHANNELS, FEATURES, 1, bias=False)
        self.gn = nn.GroupNorm(32, FEATURES)
        self.affinity_conv = nn.Conv2d(FEATURES, FEATURES, 1, bias=False)
        nn.init.kaiming_normal_(self.feat_conv.weight)
        nn.init.xavier_uniform_(self.affinity_conv.weight, gain=4)
        self.freeze()

    def features(self, x: Tensor, grid: tuple[int, int] | None = None) -> Tensor:
        """Normalised images (B,3,H,W) -> features (B,512,h,w).

        Args:
            x: The images.
            grid: (h, w); None means stride 8, which for 448 x 448 is the published 56 x 56.
        """
        grid = grid or ((x.shape[2] + 7) // 8, (x.shape[3] + 7) // 8)
        cells = F.interpolate(self.resnet_backbone(x), grid, mode="bilinear", align_corners=False)
        return F.elu(self.affinity_conv(F.elu(self.gn(self.feat_conv(cells)))))


def as_cams(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Relevance maps (B,C,h,w) -> (B,C,H,W) in 0..1: enlarged (bilinear), cube root, min-max of each."""
    wide = F.interpolate(maps, size, mode="bilinear", align_corners=False).pow(1 / 3)
    low, high = wide.amin((2, 3), keepdim=True), wide.amax((2, 3), keepdim=True)
    return (wide - low) / (high - low).clamp(min=torch.finfo(wide.dtype).tiny)


def _resized(positions: Tensor, old: tuple[int, int], new: tuple[int, int]) -> Tensor:
    """A position embedding (1, 1 + h w, D) for another grid of patches (bicubic); the class token's row stays."""
    token, patches = positions[:, :1], positions[:, 1:]
    patches = patches.mT.unflatten(2, old)
    wide = F.interpolate(patches, new, mode="bicubic", align_corners=False, antialias=True)
    return torch.cat([token, wide.flatten(2).mT], 1)


FAMILY = Family(
    "hybrid",
    cam=HybridCam,
    affinity=HybridAffinity,
    presets={"hybrid": psa.SETTINGS.replace(scales=(1.0,), alpha=4.0, beta=16.0)},
    weights=dict.fromkeys(
        ("cam", "affinity"),
        published(
            "hybrid",
            what="Hybrid Pascal VOC weights: ViT hybrid classifier and its AffinityNet",
            kind="folder",
            source="drive-folder:1bPtIrgnwQaOhCjBuQjL4S1lMBQDBmEjE",
            mirrors=("drive-folder:1lCjPjO3_BUnk-utY9-taCTQKoq2Pm43s",),  # the same authors' folder of all weights
        ),
    ),
)

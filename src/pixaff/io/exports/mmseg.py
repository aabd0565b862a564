"""MMSegmentation: folders of images and masks, and the configuration of the data set."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pixaff.io.atomic import write_text
from pixaff.io.exports.base import Item, Writer
from pixaff.io.exports.photos import write_photo
from pixaff.io.masks import voc_palette, write_mask

_CONFIG = '''"""Data set of masks that pixaff made, for a configuration's `_base_`. 255 is ignored."""

dataset_type = "BaseSegDataset"
data_root = {root!r}
metainfo = dict(
    classes={classes!r},
    palette={palette!r},
)
train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadAnnotations"),
    dict(type="RandomResize", scale=(2048, 512), ratio_range=(0.5, 2.0), keep_ratio=True),
    dict(type="RandomCrop", crop_size=(512, 512), cat_max_ratio=0.75),
    dict(type="RandomFlip", prob=0.5),
    dict(type="PackSegInputs"),
]
train_dataloader = dict(
    batch_size=4,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type="InfiniteSampler", shuffle=True),
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        metainfo=metainfo,
        data_prefix=dict(img_path="img_dir/train", seg_map_path="ann_dir/train"),
        img_suffix=".jpg",
        seg_map_suffix=".png",
        reduce_zero_label=False,
        pipeline=train_pipeline,
    ),
)
'''
_OTHER_PART = """{part}_dataloader = dict(
    batch_size=1,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        metainfo=metainfo,
        data_prefix=dict(img_path="img_dir/{part}", seg_map_path="ann_dir/{part}"),
        img_suffix=".jpg",
        seg_map_suffix=".png",
        reduce_zero_label=False,
        pipeline=[
            dict(type="LoadImageFromFile"),
            dict(type="Resize", scale=(2048, 512), keep_ratio=True),
            dict(type="LoadAnnotations"),
            dict(type="PackSegInputs"),
        ],
    ),
)
{part}_evaluator = dict(type="IoUMetric", iou_metrics=["mIoU"])
"""


class Mmseg(Writer):
    """``ann_dir/PART/NAME.png``, ``dataset.py``, and ``img_dir/PART/NAME.jpg`` where there are photos."""

    name = "mmseg"
    splits = True

    def files(self, name: str) -> tuple[Path, ...]:
        part = self.part_of(name)
        photos = (self.out / "img_dir" / part / f"{name}.jpg",) if self.photos else ()
        return (self.out / "ann_dir" / part / f"{name}.png", *photos)

    def shared(self) -> tuple[Path, ...]:
        return (self.out / "dataset.py",)

    def convert(self, item: Item) -> Any:
        mask, *photo = self.files(item.name)
        if item.photo is not None:
            write_photo(photo[0], item.photo)
        write_mask(mask, item.mask)

    def finish(self) -> None:
        palette = voc_palette()[: len(self.classes) + 1].tolist()
        text = _CONFIG.format(root=str(self.out.absolute()), classes=("background", *self.classes), palette=palette)
        for part in self.parts[1:]:
            text += _OTHER_PART.format(part=part)
        write_text(self.shared()[0], text)

"""Sets of masks in the formats of trainers and labelling tools, a module each; `FORMATS` lists them."""

from __future__ import annotations

from pixaff.errors import UsageError, quoted
from pixaff.io.exports.base import Item, Writer
from pixaff.io.exports.coco import Coco
from pixaff.io.exports.cvat import Cvat
from pixaff.io.exports.hf import HuggingFace
from pixaff.io.exports.imagefolder import ImageFolder
from pixaff.io.exports.index import Index
from pixaff.io.exports.labelstudio import LabelStudio
from pixaff.io.exports.mmseg import Mmseg
from pixaff.io.exports.photos import check_photo
from pixaff.io.exports.splits import parse_split
from pixaff.io.exports.voc import Voc
from pixaff.io.exports.yolo import Yolo

__all__ = ["FORMATS", "Item", "Writer", "check_photo", "parse_split", "writer_of"]

FORMATS: dict[str, type[Writer]] = {
    each.name: each for each in (Coco, Yolo, Voc, Mmseg, Index, Cvat, HuggingFace, ImageFolder, LabelStudio)
}


def writer_of(name: str) -> type[Writer]:
    """The writer of a format.

    Raises:
        UsageError: There is none of that name.
    """
    if name not in FORMATS:
        raise UsageError(f"--to: found {quoted(name)}, expected {', '.join(FORMATS)}")
    return FORMATS[name]

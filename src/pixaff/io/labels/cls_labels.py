"""PSA's `cls_labels.npy`, which the programs of this field share: a pickled dict from image to a vector of 0 and 1.

Keys are names ("2007_000032", with or without a suffix), or numbers, as IRN (2007000032) and the programs for COCO
(139) write them. The classes have no names: their order is that of the class list.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from pickle import UnpicklingError

from pixaff.errors import LabelsError, shortened
from pixaff.io.cams.pickled_dict import MAGIC, read_dict
from pixaff.io.labels.entry import Entries
from pixaff.io.labels.text import read_bytes
from pixaff.io.labels.wanted import Wanted
from pixaff.io.pickled_arrays import Array
from pixaff.io.unpickle import Budget

NAME = "PSA's cls_labels.npy"
_EXPECTED = "expected a dict from image names to vectors of 0 and 1, as PSA's cls_labels.npy has"
_IMAGES, _INSTRUCTIONS = 200_000, 5_000_000  # the 123,000 images of COCO take 2.8 million


def detect(path: Path) -> bool:
    """A file that numpy wrote, whatever its name."""
    if not path.is_file():  # a pipe can be read once only
        return False
    try:
        with open(path, "rb") as stream:
            return stream.read(len(MAGIC)) == MAGIC
    except OSError:
        return False


def read(path: Path, wanted: Wanted | None = None) -> Entries:
    """The entries of the file. Nothing in it is run.

    Raises:
        LabelsError: It holds, or asks for, something else, or is damaged.
    """
    data = read_bytes(path)
    try:
        content = read_dict(data, Budget(len(data), instructions=_INSTRUCTIONS, keys=_IMAGES))
    except UnpicklingError as error:
        raise LabelsError(f"{path}: {error}; nothing in it was run", _EXPECTED) from None
    except UnicodeError as error:  # a ValueError that says nothing about labels
        raise LabelsError(f"{path}: damaged: {error}", _EXPECTED) from None
    except ValueError as error:
        raise LabelsError(f"{path}: {error}", _EXPECTED) from None
    except Exception as error:  # damaged pickles raise nearly anything
        raise LabelsError(f"{path}: damaged: {error or type(error).__name__}", _EXPECTED) from None
    if not content:
        raise LabelsError(f"{path}: found an empty dict", _EXPECTED)
    entries = Entries(wanted)
    stems = (image.rsplit("/", 1)[-1] for image in wanted or ())
    named = {_number(stem): stem for stem in stems}
    for key, value in content.items():
        image = named.get(key, _image(key)) if type(key) is int else str(key)
        where = f"{path}, {shortened(image)}"
        vector = value.values.tolist() if isinstance(value, Array) and value.values is not None else value
        if type(vector) is not list or not all(type(shown) in (int, float, bool) for shown in vector):
            found = "an array of more dimensions" if isinstance(value, Array) else f"a {type(value).__name__}"
            raise LabelsError(f"{where}: found {found}", _EXPECTED)
        entries.num_classes = entries.num_classes or len(vector)
        if entries.wants(image):
            problem = _problem(vector, entries.num_classes)
            entries.add(
                image,
                () if problem else [index for index, shown in enumerate(vector) if shown],
                where,
                f"{where}: {problem}" if problem else "",
            )
    return entries


def _problem(vector: Sequence[float], num_classes: int) -> str:
    if len(vector) != num_classes:
        return f"found a vector of {len(vector)} numbers, expected {num_classes}, as the first image has"
    strange = [value for value in vector if value not in (0, 1)]
    return f"found {strange[0]:g}, expected 0 or 1" if strange else ""


def _image(key: int) -> str:
    """The name behind a number: IRN's of Pascal VOC, else COCO's twelve digits."""
    year, number = divmod(key, 10**6)
    return f"{year}_{number:06d}" if 2005 <= year <= 2012 else f"{key:012d}"


def _number(stem: str) -> int | None:
    """The number that an image's name stands for: "2007_000032", "000000000139", "COCO_train2014_000000000139"."""
    match = re.fullmatch(r"(?:COCO_\w+_)?(\d{12})", stem) or re.fullmatch(r"(20\d\d)_(\d{6})", stem)
    return int("".join(match.groups())) if match else None

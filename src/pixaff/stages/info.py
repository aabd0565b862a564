"""Describe the installation, or a file or folder."""

from __future__ import annotations

import importlib.util
import os
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pixaff.errors import CheckpointError, FormatError, PixaffError, UsageError, shortened
from pixaff.io.addresses import address_of, is_address
from pixaff.io.atomic import scratch_folder
from pixaff.io.cams import read_cams
from pixaff.io.checkpoints import read_metadata, read_state_dict
from pixaff.io.images import IMAGE_SUFFIXES, image_size
from pixaff.io.labels import Wanted, format_of, nfc, read_entries, voc_xml
from pixaff.io.masks import VOID, read_mask, voc_palette
from pixaff.io.records import read_json
from pixaff.settings import HYPER_PARAMETERS
from pixaff.stages.batch.destination import records_behind
from pixaff.stages.batch.executors import default_workers
from pixaff.stages.batch.inputs import find_images
from pixaff.stages.batch.naming import Photos
from pixaff.stages.batch.packs import KEY, add_up_packs
from pixaff.stages.batch.record import NAME, holds_outputs, read_own_record, read_record, versions
from pixaff.stages.batch.shards import add_up, without_output

_LABEL_SUFFIXES = frozenset((".csv", ".tsv", ".json", ".jsonl", ".xml", ".parquet", ".yaml", ".yml"))
PRESET_FACTS = ("cam", "affinity", "irn", "scales", "size", *HYPER_PARAMETERS)
"""The facts about a preset that are listed."""


def info(
    path: str | Path | None = None, photos: str | Path | None = None, *, recursive: bool = False
) -> dict[str, Any]:
    """Facts about the installation, or about a file or folder, as plain values.

    Args:
        path: A photo, mask, CAM file, weights or image-level labels, or a folder; or the address of outputs. None
            describes the installation: versions, devices, CRF engines, networks, presets.
        photos: The photos that labels belong to: what has only one of the two is counted. Or those that outputs are
            of: the photos without output are named.
        recursive: Equal names in different folders are different images; count the photos in subfolders, too.

    Raises:
        UsageError: There is no such file or folder.
        PixaffError: The file is damaged.
    """
    if path is None:
        if photos is not None:
            raise UsageError("found photos without labels", "give the path of the labels, too")
        return _installation()
    if is_address(path):
        with scratch_folder() as scratch:
            records_behind(address_of(path), Path(scratch))
            return {**info(scratch, photos, recursive=recursive), "path": address_of(path)}
    path = Path(path)
    if photos is not None:
        if path.is_dir() and holds_outputs(path):
            found = find_images(photos, recursive=recursive, addresses=True)
            return {"path": str(path), **_folder(path, recursive), **without_output(path, found)}
        found = find_images(photos, labels=path, recursive=recursive)
        return {"path": str(path), **_labels(path, found, recursive)}
    if path.is_dir():
        return {"path": str(path), **_folder(path, recursive)}
    if not path.is_file():
        raise UsageError(f"{path}: no such file or folder", "check the path")
    return {"path": str(path), **_file(path, recursive)}


def _installation() -> dict[str, Any]:
    import torch

    from pixaff.models import list_models
    from pixaff.models.bundle import load_model
    from pixaff.models.registry import PRESETS

    cuda = (
        [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    )
    facts: dict[str, Any] = {
        "versions": versions(),
        "device": "cuda" if cuda else "cpu",
        "cuda": cuda,
        "processors": default_workers(),
        "threads": torch.get_num_threads(),
        "crf_engines": ["torch", *(["pydensecrf"] if importlib.util.find_spec("pydensecrf") else [])],
        "models": list_models(),
        "presets": {name: settings.pick(PRESET_FACTS) for name, settings in PRESETS.items()},
    }
    try:
        bundle = load_model("lite")
    except PixaffError as error:
        facts["embedded_model"] = {"error": str(error)}
    else:
        facts["embedded_model"] = {
            "path": str(bundle.path),
            "megabytes": _megabytes(bundle.path),
            "classes": list(bundle.classes),
            "settings": bundle.settings.to_dict(),
        }
    if os.environ.get("PIXAFF_DEBUG"):
        facts["debug"] = True
    return facts


def _file(path: Path, recursive: bool) -> dict[str, Any]:
    suffix = path.suffix.lower()
    if suffix in _LABEL_SUFFIXES:
        return _labels(path, recursive=recursive)
    if suffix in (".npz", ".npy"):
        file = read_cams(path)
        classes = [int(value) for value in file.classes]
        kind = "CRF posterior" if 0 in classes else "CAMs"
        return {"kind": kind, "classes": classes, "shape": list(file.cams.shape), "photo_size": list(file.size)}
    if suffix in (".safetensors", ".pth", ".pt"):
        state = read_state_dict(path)
        numbers = sum(tensor.numel() for tensor in state.values())
        metadata = read_metadata(path) if suffix == ".safetensors" else {}
        return {"kind": "weights", "tensors": len(state), "parameters": numbers, "metadata": metadata}
    if suffix in IMAGE_SUFFIXES:
        height, width = image_size(path)
        values = _mask_values(path)
        if values is None:
            return {"kind": "photo", "size": [height, width]}
        return {"kind": "mask", "size": [height, width], "values": values, "void": VOID in values}
    found = f"a {suffix} file" if suffix else "a file without suffix"
    raise FormatError(f"{path}: found {found}", "expected a photo, mask, CAM file, weights, labels or a folder")


def _labels(path: Path, photos: Photos | None = None, recursive: bool = False) -> dict[str, Any]:
    """What image-level labels say; with photos, also which of the two lack the other."""
    entries = read_entries(path)
    if recursive and len(entries.paths) > len(entries.by_image):  # equal stems in different folders
        entries = read_entries(path, entries.paths)
    usable = [entry for entry in entries.by_image.values() if not entry.problem]
    counts = Counter(str(label) for entry in usable for label in set(entry.labels))
    facts: dict[str, Any] = {
        "kind": "labels",
        "format": format_of(path).NAME,
        "images": len(entries.by_image),
        "images_without_class": sum(not entry.labels for entry in usable),
        "classes": dict(sorted(counts.items())),
    }
    keys = [] if photos is None else sorted({nfc(photos.names.key(photo)) for photo in photos})
    found = format_of(path).read(path, Wanted(keys))
    both = (*entries.by_image.values(), *found.by_image.values())  # a name may fit several photos
    problems = list(dict.fromkeys(entry.problem for entry in both if entry.problem))
    if problems:
        facts |= {"unusable_entries": len(problems), "first_problem": problems[0]}
    if entries.strays:
        facts["notes"] = entries.strays[:3]
    if photos is not None:
        facts |= {
            "photos": len(photos),
            "labels_without_image": _counted(found.others),
            "images_without_label": _counted(key for key in keys if key not in found.by_image),
        }
    return facts


def _counted(names: Iterable[str]) -> dict[str, Any]:
    found = list(names)
    return {"count": len(found), "first": [shortened(name) for name in found[:3]]}


def _mask_values(path: Path) -> list[int] | None:
    """The values of a mask, or None for another image: masks have the VOC palette, others never do."""
    with Image.open(path) as picture:
        palette = picture.getpalette() if picture.mode == "P" else None
    if palette is None or palette[:63] != voc_palette()[:21].ravel().tolist():
        return None
    return [int(value) for value in np.unique(read_mask(path))]


def _folder(path: Path, recursive: bool) -> dict[str, Any]:
    counts: dict[str, int] = {}
    for entry in path.iterdir():
        if entry.is_file() and not entry.name.startswith("."):
            counts[entry.suffix.lower()] = counts.get(entry.suffix.lower(), 0) + 1
    facts: dict[str, Any] = {"kind": "folder", "files": dict(sorted(counts.items()))}
    record = read_record(path)
    if record is None and not (path / "model.json").is_file() and _holds_labels(path, counts):
        facts |= _labels(path, recursive=recursive)
    if record is not None:
        facts["kind"] = f"outputs of pixaff {record.get('command')}"
        if read_own_record(path, None) is not None:
            facts[NAME] = {name: value for name, value in record.items() if name != KEY}
        if KEY in record:
            facts["all_shards"] = add_up_packs(path, record)
        elif (together := add_up(path)) is not None:
            common = {name: record.get(name) for name in ("settings", "versions", "device", "classes")}
            facts |= {**({} if NAME in facts else common), "all_shards": together}
    model = path / "model.json"
    if model.is_file():
        from pixaff.models.model_folder import check_record

        check_record(model)
        facts |= {"kind": "model", "model.json": read_json(model, "the record of a model", CheckpointError)}
    return facts


def _holds_labels(path: Path, counts: Mapping[str, int]) -> bool:
    return ".xml" in counts or format_of(path) is not voc_xml


def _megabytes(folder: Path) -> float:
    return round(sum(file.stat().st_size for file in folder.iterdir() if file.is_file()) / 1e6, 1)

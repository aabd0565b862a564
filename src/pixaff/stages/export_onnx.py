"""A trained network as an ONNX file, for programs that have no PyTorch."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pixaff.errors import CheckpointError, UsageError
from pixaff.events import Callback, Event, silent
from pixaff.stages.batch.plan import check_files

COMMAND = "export-onnx"
OUTPUTS = {"seg": ("logits",), "cam": ("cams", "logits")}
"""Outputs of the file, by the part of the model that it has."""


@dataclass(frozen=True)
class Exported:
    """What was exported.

    Attributes:
        path: The file.
        network: Registry name of the network.
        outputs: Names of the outputs.
        opset: Version of the operators.
        classes: Names of the classes.
    """

    path: Path
    network: str
    outputs: tuple[str, ...]
    opset: int
    classes: tuple[str, ...]


def export_onnx(
    model: str | Path,
    out: str | Path,
    *,
    part: Literal["seg", "cam"] | None = None,
    opset: int | None = None,
    overwrite: bool = False,
    report: Callback = silent,
) -> Exported:
    """Write the segmentation network, or the CAM network, of a model as an ONNX file, and compare it with the network.

    The input "image" is float32 (B,3,H,W), any number of images of any size, ``(pixels / 255 - mean) / std``. "logits"
    of a segmentation network are float32 (B,K + 1,H,W), background first; a CAM network has "cams", float32 (B,K,h,w),
    and "logits", (B,K). The metadata of the file are ``network``; as JSON ``classes``, ``mean``, ``std``, in the order
    red, green, blue, and ``bgr``, whether the network takes the normalised colours in the reverse order; and ``size``,
    the long side in pixels that suits a segmentation network.

    Args:
        model: "lite", or the folder of a run.
        out: The file to write, NAME.onnx.
        part: "seg" or "cam"; None takes the segmentation network if the model has one.
        opset: Version of the ONNX operators; None means 17.
        overwrite: Replace an existing file.
        report: Receives an `Event` for each note.

    Raises:
        UsageError: The file exists, or its name does not end in .onnx.
        CheckpointError: The model lacks the network, or it cannot be loaded.
        PixaffError: ``onnx`` or ``onnxruntime`` is not installed, the network cannot be exported, or the file makes
            something else of an image.
        OutputError: The file cannot be written.
    """
    path = Path(out)
    if path.suffix.lower() != ".onnx":
        raise UsageError(f"{path}: expected a path that ends in .onnx")
    if path.exists() and not overwrite:
        raise UsageError(f"{path} exists already", "--overwrite replaces it")
    if part not in (None, *OUTPUTS):
        raise UsageError(f"part is {part!r}, expected seg or cam")

    from pixaff.models.base import Network
    from pixaff.models.bundle import load_model
    from pixaff.models.onnx import OPSET
    from pixaff.models.onnx import export_onnx as write_onnx
    from pixaff.models.segmentation import load_segmentation, segmentation_file

    if part is None:
        try:
            part = "seg" if segmentation_file(model) else "cam"
        except CheckpointError:
            part = "cam"
    network: Network
    facts: dict[str, str] = {}
    methods: tuple[str, ...] = ("forward",)
    if part == "seg":
        seg = load_segmentation(model)
        network, name, classes, weights = seg.network, seg.name, seg.classes, seg.file
        facts = {"size": str(seg.settings.size)}
    else:
        bundle = load_model(model, parts=("cam",))
        assert bundle.cam is not None
        network, name, classes, weights = bundle.cam, bundle.settings.cam, bundle.classes, bundle.files["cam"]
        methods = ("cam", "forward")
    check_files([path], [weights])
    facts |= {"network": name, "classes": json.dumps(classes)}
    facts |= {"mean": json.dumps(network.mean), "std": json.dumps(network.std), "bgr": json.dumps(network.bgr)}
    version = OPSET if opset is None else opset
    write_onnx(network, path, methods=methods, outputs=OUTPUTS[part], metadata=facts, opset=version)
    words = f"{name}: input image (B,3,H,W) of any size, outputs {' and '.join(OUTPUTS[part])}, opset {version}"
    report(Event("note", COMMAND, words))
    return Exported(path, name, OUTPUTS[part], version, classes)

"""pixaff: from image-level labels to pixel masks (CAM, class boundaries or AffinityNet, random walk, CRF).

`load` gives the method on images in memory; the other functions are the commands, with the same names and options.
They are imported on first use, so that ``import pixaff`` stays fast.

>>> import pixaff
>>> model = pixaff.load("lite")  # doctest: +SKIP
>>> model("photo.jpg", labels=["cat"]).save("cat.png")  # doctest: +SKIP
>>> report = pixaff.propagate("photos", "photos-masks")  # doctest: +SKIP
>>> report.failed  # doctest: +SKIP
[]
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from pixaff._version import __version__ as __version__

if TYPE_CHECKING:
    from pixaff.errors import PixaffError as PixaffError
    from pixaff.loaders import load as load
    from pixaff.loaders import load_segmenter as load_segmenter
    from pixaff.models import create_model as create_model
    from pixaff.models import load_checkpoint as load_checkpoint
    from pixaff.models.registry import PRESETS as PRESETS
    from pixaff.prediction import Prediction as Prediction
    from pixaff.prediction import Segmentation as Segmentation
    from pixaff.predictor import Predictor as Predictor
    from pixaff.published import fetch_weights as fetch_weights
    from pixaff.recipe import Recipe as Recipe
    from pixaff.segmenter import Segmenter as Segmenter
    from pixaff.settings import SegSettings as SegSettings
    from pixaff.settings import Settings as Settings
    from pixaff.stages.batch.instance_evaluation import evaluate_instances as evaluate_instances
    from pixaff.stages.cam import cam as cam
    from pixaff.stages.crf import crf as crf
    from pixaff.stages.download_weights import download_weights as download_weights
    from pixaff.stages.evaluate import evaluate as evaluate
    from pixaff.stages.export import export as export
    from pixaff.stages.export_onnx import export_onnx as export_onnx
    from pixaff.stages.fit import fit as fit
    from pixaff.stages.import_masks import import_masks as import_masks
    from pixaff.stages.info import info as info
    from pixaff.stages.propagate import propagate as propagate
    from pixaff.stages.report import report as report
    from pixaff.stages.segment import segment as segment
    from pixaff.stages.train_affinity import train_affinity as train_affinity
    from pixaff.stages.train_cam import train_cam as train_cam
    from pixaff.stages.train_irn import train_irn as train_irn
    from pixaff.stages.train_seg import train_seg as train_seg

_HOMES = {
    "PRESETS": "pixaff.models.registry",
    "Prediction": "pixaff.prediction",
    "Predictor": "pixaff.predictor",
    "Recipe": "pixaff.recipe",
    "PixaffError": "pixaff.errors",
    "SegSettings": "pixaff.settings",
    "Segmentation": "pixaff.prediction",
    "Segmenter": "pixaff.segmenter",
    "Settings": "pixaff.settings",
    "cam": "pixaff.stages.cam",
    "create_model": "pixaff.models",
    "crf": "pixaff.stages.crf",
    "download_weights": "pixaff.stages.download_weights",
    "evaluate": "pixaff.stages.evaluate",
    "evaluate_instances": "pixaff.stages.batch.instance_evaluation",
    "export": "pixaff.stages.export",
    "export_onnx": "pixaff.stages.export_onnx",
    "fetch_weights": "pixaff.published",
    "fit": "pixaff.stages.fit",
    "import_masks": "pixaff.stages.import_masks",
    "info": "pixaff.stages.info",
    "load": "pixaff.loaders",
    "load_checkpoint": "pixaff.models",
    "load_segmenter": "pixaff.loaders",
    "propagate": "pixaff.stages.propagate",
    "report": "pixaff.stages.report",
    "segment": "pixaff.stages.segment",
    "train_affinity": "pixaff.stages.train_affinity",
    "train_cam": "pixaff.stages.train_cam",
    "train_irn": "pixaff.stages.train_irn",
    "train_seg": "pixaff.stages.train_seg",
}
_PACKAGES = ("errors", "io", "models", "ops", "ray", "settings", "stages", "viz", "weights")

__all__ = [*_HOMES, "__version__"]


def __getattr__(name: str) -> Any:
    if name in _PACKAGES:
        return importlib.import_module(f"pixaff.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module 'pixaff' has no attribute {name!r}")
    try:
        return getattr(importlib.import_module(_HOMES[name]), name)
    except (ImportError, RuntimeError) as error:
        # torchvision's compiled part fits one build of torch only; what it raises then, such as "operator
        # torchvision::nms does not exist", does not say so.
        if "torchvision" not in str(error):
            raise
        from pixaff.errors import PixaffError

        raise PixaffError(
            f"torchvision cannot be imported: {error}",
            "torch and torchvision must come from one source: pip install --force-reinstall torch torchvision",
        ) from error


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES, *_PACKAGES})

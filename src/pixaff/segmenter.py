"""A segmentation network on an image, or on a batch of images: images in memory in, masks in memory out.

`pixaff.load_segmenter` returns a `Segmenter`, which makes a `Segmentation` of each image: one forward pass, no labels.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from pixaff.device import autocast, check_memory, device_words, steady_threads
from pixaff.errors import LabelsError, UsageError
from pixaff.io.labels import class_indices
from pixaff.models.base import SegNetwork
from pixaff.models.inference import TRIAL_SIZE, onnx_networks, torch_network
from pixaff.ops.crf import refine_labels
from pixaff.ops.resize import best_value, enlarged_cells, resize_scores, rows_that_may_show
from pixaff.prediction import ImageLike, Segmentation, image_within
from pixaff.samples import LabelsLike, Sample
from pixaff.settings import SegSettings


class Segmenter:
    """Makes masks of images with a segmentation network. It may be called from several threads.

    The network is taken as it is at the first call, batch norm folded into the convolutions.

    Attributes:
        inference: What computes the network, "torch", "onnx" or "int8"; see `settle_inference`.

    Args:
        network: The network.
        classes: Names of the mask values 1, 2, ...
        settings: Scales, mirror image, working size, CRF refinement.
        precision: "fp32", or "bf16" for autocast to bfloat16.
        engine: Implementation of the dense CRF; see `pixaff.ops.crf.dense_crf`.
        sources: What the model was loaded from, for the record of a run.
        files: The weights that were loaded, by part.
    """

    def __init__(
        self,
        network: SegNetwork,
        classes: Sequence[str],
        settings: SegSettings | None = None,
        *,
        precision: str = "fp32",
        engine: str = "auto",
        sources: Mapping[str, str] | None = None,
        files: Mapping[str, Path] | None = None,
    ) -> None:
        self.network, self.classes, self.settings = network, tuple(classes), settings or SegSettings()
        self.precision, self.engine = precision, engine
        self.sources, self.files = dict(sources or {}), dict(files or {})
        self.inference = "torch"
        self._made: SegNetwork | None = None

    @property
    def device(self) -> torch.device:
        """The device of the network."""
        return next(self.network.parameters()).device

    @property
    def device_words(self) -> str:
        """The device in words."""
        return device_words(self.device)

    @property
    def networks(self) -> tuple[SegNetwork]:
        """The network."""
        return (self.network,)

    def move(self, device: torch.device) -> None:
        """Move the network to a device, and compute it there as ``inference`` says; needed after unpickling.

        Raises:
            UsageError: ONNX Runtime was used before, and cannot be used there.
        """
        self.network.to(device)
        self.settle_inference(self.inference)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_made": None}  # a session of ONNX Runtime cannot be pickled

    def replace(self, **settings: Any) -> Segmenter:
        """The same network with other settings, such as ``size=512``.

        Raises:
            UsageError: A name is no setting, or a value is out of range.
        """
        other = Segmenter(
            self.network,
            self.classes,
            self.settings.replace(**settings),
            precision=self.precision,
            engine=self.engine,
            sources=self.sources,
            files=self.files,
        )
        other.inference, other._made = self.inference, self._made
        return other

    @overload
    def __call__(self, images: ImageLike, labels: LabelsLike | None = None) -> Segmentation: ...

    @overload
    def __call__(
        self, images: list[ImageLike] | tuple[ImageLike, ...], labels: Sequence[LabelsLike | None] | None = None
    ) -> list[Segmentation]: ...

    def __call__(self, images: Any, labels: Any = None) -> Segmentation | list[Segmentation]:
        """Make the mask of an image, or of each image in a list.

        Args:
            images: Each a path, a PIL image, a uint8 array (H,W,3) or (H,W), or a tensor (3,H,W) of uint8 or of floats
                in 0..1.
            labels: Classes to which the mask is restricted, by name or 0-based index; for a list of images a list of
                these. None allows all classes; an empty list says that the image shows none.

        Raises:
            ImageError: An image cannot be read, is not one of these kinds, or is too large for the network.
            LabelsError: A label is not a class of the model.
            UsageError: The lists have different lengths.
        """
        if not isinstance(images, (list, tuple)):
            return self.predict([self.sample(images, labels)])[0]
        each = [None] * len(images) if labels is None else list(labels)
        if len(each) != len(images):
            raise UsageError(f"found {len(images)} images and labels of {len(each)}", "give one entry per image")
        return self.predict([self.sample(*one) for one in zip(images, each, strict=True)])

    def sample(self, image: ImageLike, labels: LabelsLike | None = None) -> Sample:
        """Decode an image at the working size and check its labels; the first half of a call."""
        if isinstance(labels, (str, int)):
            raise LabelsError(f"labels: found {labels!r}, expected a list such as [{labels!r}]")
        pixels, size = image_within(image, self.settings.size, self.settings.enlarge_below)
        return Sample(pixels, size, None if labels is None else class_indices(labels, self.classes))

    @torch.inference_mode()
    def predict(self, samples: Sequence[Sample], *, spread: Callable[..., Iterable[Any]] = map) -> list[Segmentation]:
        """Make masks of samples; the second half of a call.

        Args:
            samples: Results of `sample`.
            spread: Maps a function over samples, like the built-in ``map``; that of a pool computes several at a time.
        """
        with steady_threads(self.device, self.network):
            return list(spread(self._segmentation, samples))

    def _segmentation(self, sample: Sample) -> Segmentation:
        size = (sample.image.shape[0], sample.image.shape[1])
        if sample.labels == ():
            return Segmentation(sample.image, sample.size, (), self.classes, np.ones((1, *size), np.float32))
        given = None if sample.labels is None else [0, *(index + 1 for index in sample.labels)]
        logits, values = self._logits(sample.image, size, given)
        if given is None:
            # Only the classes that some pixel shows: few rows instead of all.
            shown = torch.bincount(best_value(logits, range(len(values))).flatten(), minlength=len(values)).tolist()
            rows = [row for row, value in enumerate(values) if shown[row] or value == 0]
            logits, values = logits[rows], [values[row] for row in rows]
        scores, indices = logits.softmax(0), tuple(value - 1 for value in values[1:])
        if self.settings.crf and indices:
            scores = refine_labels(sample.image, scores, self.engine)
        return Segmentation(sample.image, sample.size, indices, self.classes, scores.cpu().numpy())

    def _logits(
        self, image: NDArray[np.uint8], size: tuple[int, int], given: list[int] | None = None
    ) -> tuple[Tensor, list[int]]:
        """Logits, float32 (R,h,w), and the mask values of their rows: those given, or all that some pixel may show.

        They are the network's, or the logarithm of the mean probabilities of several passes.
        """
        settings, total, count = self.settings, torch.zeros(()), 0
        if self._made is None:  # once, or by each of the threads that come first
            self._made = torch_network(self.network, self.precision)
        network = self._made
        if self.device.type == "cpu":
            largest = max(settings.scales)
            pixels = (round(size[0] * largest), round(size[1] * largest))
            check_memory(type(self.network).__name__, self.network.memory_per_pixel(), pixels, 1 + settings.flip)
        for scale in settings.scales:
            seen = (max(1, round(size[0] * scale)), max(1, round(size[1] * scale)))
            x = network.preprocess(image if scale == 1 else _resized(image, seen))[None].to(self.device)
            if settings.flip:
                x = torch.cat([x, x.flip(3)])
            if self.inference == "torch":
                x = x.contiguous(memory_format=torch.channels_last)
            with autocast(self.precision, self.device):
                cells = network.cell_logits(x).float()
            if len(settings.scales) == 1 and not settings.flip:
                values = sorted({0, *rows_that_may_show(cells[0])}) if given is None else given
                return resize_scores(enlarged_cells(cells[:, values], network.cell, seen)[0], size), values
            probabilities = enlarged_cells(cells, network.cell, seen).softmax(1)
            mean = (probabilities[0] + probabilities[1].flip(2)) / 2 if settings.flip else probabilities[0]
            total, count = total.to(mean.device) + resize_scores(mean, size), count + 1
        values = list(range(len(total))) if given is None else given
        return (total[values] / count).clamp(min=1e-7).log(), values

    def settle_inference(self, requested: str) -> str:
        """Choose what computes the network: see `pixaff.models.inference.onnx_networks`.

        Raises:
            UsageError: "onnx" or "int8" cannot be followed.
        """
        networks = {"seg": self.network}
        found, self.inference, refused = onnx_networks(requested, networks, self.device, self.precision)
        self._made = found.get("seg")
        return refused

    @torch.inference_mode()
    def seconds(self, precision: str) -> float:
        """Time of a forward pass of a small image in a precision; bf16 is computed by PyTorch."""
        trial = self.replace(scales=(1.0,), flip=False)
        trial.precision = precision
        if precision != self.precision:
            trial._made = None
        tries = []
        for _ in range(3):  # the first one warms up
            began = time.perf_counter()
            trial._logits(np.full((*TRIAL_SIZE, 3), 128, np.uint8), TRIAL_SIZE)
            tries.append(time.perf_counter() - began)
        return min(tries[1:])


def _resized(image: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    return np.asarray(Image.fromarray(image).resize(size[::-1], Image.Resampling.BICUBIC))

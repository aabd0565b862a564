"""The whole method on an image, or on a batch of images: images in memory in, masks in memory out.

CAMs, random walk over learned affinities, CRF refinement (Ahn & Kwak, CVPR 2018), or a walk within class boundaries and
instances (IRN, Ahn, Cho & Kwak, CVPR 2019). `load` returns a `Predictor`, which
makes a `Prediction` of each image. Every command that makes CAMs or masks uses it.
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar, cast, overload

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from pixaff.device import autocast, check_memory, choose_precision, device_words, pick_device, steady_threads
from pixaff.errors import CheckpointError, FormatError, ImageError, LabelsError, UsageError, quoted
from pixaff.events import Callback, Event, silent
from pixaff.io.cams import CamFile
from pixaff.io.images import image_array, load_image
from pixaff.io.labels import class_indices
from pixaff.io.masks import write_mask
from pixaff.io.scores import ScoreFile, check_saved
from pixaff.model_options import ModelOptions
from pixaff.models.base import AffinityNetwork, Boundaries, BoundaryNetwork, CamNetwork, Network
from pixaff.models.bundle import Parts, Weights, load_model
from pixaff.models.folding import folded
from pixaff.models.inference import onnx_network
from pixaff.models.onnx import ExportError
from pixaff.ops.affinity import pair_affinity
from pixaff.ops.boundary import boundary_affinity, boundary_walk, product_affinity, semantic_scores, strided_cams
from pixaff.ops.cam import background_score, normalized_cams, with_background
from pixaff.ops.crf import refine_labels
from pixaff.ops.instances import (
    detect_instances,
    displacement_centroids,
    divide_mask,
    instance_map,
    instance_scores,
)
from pixaff.ops.powers import power_weights
from pixaff.ops.resize import best_value, mask_at_size, resize_scores
from pixaff.ops.walk import cell_scores, random_walk, upsample_scores
from pixaff.options import divide
from pixaff.progress import ProgressBar
from pixaff.published import fetcher
from pixaff.settings import Settings
from pixaff.viz.overlay import overlay as draw_overlay

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from pixaff.keywords import LoadKeywords

STRIDE = 8
"""Side in pixels of a cell of the walk."""
FINE = 4
"""The same of the walk by class boundaries alone."""
TRIAL_SIZE = (128, 128)
"""Size of the image on which both precisions are timed."""
OVERLAY_SIDE = 2000
"""Pixels of the long side up to which an overlay is as large as its photo."""

ImageLike = str | Path | Image.Image | NDArray[Any] | Tensor
"""A path, a PIL image, uint8 (H,W,3) or (H,W), or a tensor (3,H,W) of uint8 or of floats in 0..1."""
LabelsLike = Sequence[str | int]
"""Classes of one image, by name or 0-based index; an empty sequence says that it shows none."""
CamsLike = CamFile | Mapping[str | int, Any]
"""CAMs of one image: as `Predictor.cams` returns them, or floats (h,w) in 0..1 by class name or 0-based index."""

Result = TypeVar("Result")
N = TypeVar("N", bound=Network)


def load(
    model: str | Path | None = None,
    *,
    device: str = "auto",
    progress: bool = False,
    parts: Sequence[str] | None = None,
    report: Callback = silent,
    **options: Unpack[LoadKeywords],
) -> Predictor:
    """Load a model.

    Args:
        model: "lite", the embedded model, or the folder of a `pixaff.fit` run. None means the networks of ``preset``,
            or "lite" without a preset.
        device: "auto", "cpu", "cuda" or "cuda:n".
        progress: Show a bar while published weights are downloaded.
        parts: The networks to load, among "cam", "affinity" (for the walks psa and both) and "irn" (for the walks irn
            and both, and for instances). None means all that the model has.
        report: Receives an `Event` for each note, and for the progress of downloads.
        **options: ``preset``, ``cam_weights``, ``affinity_weights``, ``irn_weights``, ``weights_dir``, ``classes``,
            ``precision``, ``inference`` and ``engine``, see `pixaff.model_options.ModelOptions`; and any field of
            `pixaff.Settings`, such as ``alpha=4``, to replace the model's own.

    Raises:
        UsageError: An option is unknown or out of range, or ``classes`` are not the model's.
        CheckpointError: The model cannot be loaded.
        DownloadError: Published weights are not cached and cannot be downloaded.
        DeviceError: The device does not exist.

    Example:
        >>> import pixaff
        >>> model = pixaff.load("lite", alpha=2)  # doctest: +SKIP
        >>> model("photo.jpg", labels=["cat"]).save("cat.png")  # doctest: +SKIP
    """
    named, given = divide(options, "load", ModelOptions, Settings, every=True)
    chosen = ModelOptions(model=model, **named)
    bar = ProgressBar() if progress else None
    tell: Callback = report if bar is None else bar
    try:
        return load_predictor(chosen, given, device=device, parts=parts, command="load", report=tell)
    finally:
        if bar is not None:
            bar.close()


def load_predictor(
    options: ModelOptions,
    settings: Mapping[str, Any],
    *,
    device: str,
    parts: Parts | None = None,
    command: str,
    report: Callback,
) -> Predictor:
    """`load` for a command, whose name appears in the events."""
    where = pick_device(device)
    bundle = load_model(
        options.model,
        options.preset,
        weights=Weights(options.cam_weights, options.affinity_weights, options.weights_dir, options.irn_weights),
        classes=options.classes,
        parts=parts,
        device=where,
        fetch=fetcher(command, report),
    )
    predictor = Predictor(
        bundle.cam,
        bundle.affinity,
        bundle.classes,
        bundle.settings.replace(**settings),
        engine=options.engine,
        sources=bundle.sources,
        files=bundle.files,
        boundary_network=bundle.irn,
    )
    predictor.precision, why = settle_precision(options.precision, predictor, where)
    if options.precision == "auto":
        report(Event("note", command, f"computing in {predictor.precision}: {why}"))
    if refused := settle_inference(options.inference, predictor):
        report(Event("note", command, f"computing the networks in PyTorch: {refused}"))
    return predictor


class Predictor:
    """Makes masks of images with a loaded model. It may be called from several threads.

    The networks are taken as they are at the first call, with batch norm folded into the convolutions.

    Attributes:
        inference: What computes the networks, "torch" or "onnx": see `settle_inference`.

    Args:
        cam_network: Makes the CAMs and predicts labels; None if CAMs are always given.
        affinity_network: Makes the affinities for the walk; None if only CAMs are wanted.
        classes: Names of the mask values 1, 2, ...
        settings: The hyper-parameters.
        precision: "fp32", or "bf16" for autocast to bfloat16.
        engine: Implementation of the dense CRF; see `pixaff.ops.crf.dense_crf`.
        sources: What the model was loaded from, for the record of a run.
        files: The weights that were loaded, by part.
        boundary_network: Makes class boundaries and displacements; None if neither the walk nor instances need them.

    Raises:
        UsageError: The CAM network works at one scale only, and ``settings.scales`` has others.
    """

    def __init__(
        self,
        cam_network: CamNetwork | None,
        affinity_network: AffinityNetwork | None,
        classes: Sequence[str],
        settings: Settings,
        *,
        precision: str = "fp32",
        engine: str = "auto",
        sources: Mapping[str, str] | None = None,
        files: Mapping[str, Path] | None = None,
        boundary_network: BoundaryNetwork | None = None,
    ) -> None:
        self.cam_network = cam_network
        self.affinity_network = affinity_network
        self.boundary_network = boundary_network
        self.classes = tuple(classes)
        self.settings = settings
        self.precision = precision
        self.engine = engine
        self.sources = dict(sources or {})
        self.files = dict(files or {})
        self.inference = "torch"
        self._engines: dict[str, Network] = {}
        if cam_network is not None and cam_network.single_scale and settings.scales != (1.0,):
            words = ", ".join(f"{scale:g}" for scale in settings.scales)
            raise UsageError(f"found the scales {words}, but {settings.cam} works at one scale", "omit --scales")

    @property
    def device(self) -> torch.device:
        """The device of the networks."""
        return next(self._any_network().parameters()).device

    @property
    def device_words(self) -> str:
        """The device in words."""
        return device_words(self.device)

    def replace(self, **settings: Any) -> Predictor:
        """The same networks with other hyper-parameters, such as ``alpha=4``.

        Raises:
            UsageError: A name is no setting, or a value is out of range.
        """
        other = Predictor(
            self.cam_network,
            self.affinity_network,
            self.classes,
            self.settings.replace(**settings),
            precision=self.precision,
            engine=self.engine,
            sources=self.sources,
            files=self.files,
            boundary_network=self.boundary_network,
        )
        other.inference, other._engines = self.inference, self._engines
        return other

    def _engine(self, part: str, network: N) -> N:
        """The copy of a network for inference; made once, or by each of the threads that come first."""
        if part not in self._engines:
            self._engines[part] = folded(network)
        return cast(N, self._engines[part])

    @overload
    def __call__(
        self,
        images: ImageLike,
        labels: LabelsLike | None = None,
        cams: CamsLike | None = None,
        *,
        instances: bool = ...,
    ) -> Prediction: ...

    @overload
    def __call__(
        self,
        images: list[ImageLike] | tuple[ImageLike, ...],
        labels: Sequence[LabelsLike | None] | None = None,
        cams: Sequence[CamsLike | None] | None = None,
        *,
        instances: bool = ...,
    ) -> list[Prediction]: ...

    def __call__(
        self, images: Any, labels: Any = None, cams: Any = None, *, instances: bool = False
    ) -> Prediction | list[Prediction]:
        """Make the mask of an image, or of each image in a list; the walks of a list are computed as one batch.

        Args:
            images: Each a path, a PIL image, a uint8 array (H,W,3) or (H,W), or a tensor (3,H,W) of uint8 or of floats
                in 0..1.
            labels: Classes of the image, by name or 0-based index; for a list of images a list of these. None has them
                predicted. An empty list says that the image shows no class: its mask is background.
            cams: CAMs to refine instead of the model's own: floats (h,w) in 0..1 by class name or index, or a `CamFile`
                from `cams` or `pixaff.io.cams.read_cams`. With ``labels``, only those of the labelled classes are used.
            instances: Also find the instances; see `Prediction.instances`.

        Raises:
            ImageError: An image cannot be read, is not one of these kinds, or is too large for the networks.
            LabelsError: A label is not a class of the model.
            FormatError: CAMs do not fit the image.
            CheckpointError: The model lacks a network that the walk or the instances need.
            UsageError: The lists have different lengths.
        """
        if not isinstance(images, (list, tuple)):
            return self.predict([self.sample(images, labels, cams)], instances=instances)[0]
        each_labels = [None] * len(images) if labels is None else list(labels)
        each_cams = [None] * len(images) if cams is None else list(cams)
        for name, found in (("labels", each_labels), ("cams", each_cams)):
            if len(found) != len(images):
                raise UsageError(f"found {len(images)} images and {name} of {len(found)}", "give one entry per image")
        samples = [self.sample(*one) for one in zip(images, each_labels, each_cams, strict=True)]
        return self.predict(samples, instances=instances)

    @torch.inference_mode()
    def cams(self, image: ImageLike, labels: LabelsLike | None = None) -> CamFile:
        """Make the CAMs of an image's classes (section 3.1), at the working size.

        Returns:
            The mask values ``classes`` (C,), ``cams`` float32 (C,h,w) in 0..1, and the ``size`` (H,W) of the image.
            `pixaff.io.cams.write_cams` writes them to a file.
        """
        return self.sample_cams(self.sample(image, labels))

    @torch.inference_mode()
    def affinity(self, image: ImageLike) -> Tensor:
        """Compute affinities of neighbouring cells (section 3.2): float32 (P,L), see `pixaff.ops.affinity`."""
        with self._steady():
            return self._affinity(_at_network_size(self.require_affinity_network(), self.sample(image).image))

    @torch.inference_mode()
    def boundaries(self, image: ImageLike) -> Boundaries:
        """Compute class boundaries and displacements (IRN, section 3) at stride 4, at the working size.

        Raises:
            CheckpointError: The model has no network for them.
        """
        network = self.require_boundary_network()
        with self._steady():
            return self._boundaries(network, self.sample(image).image)

    @torch.inference_mode()
    def walk(self, cams: Tensor | NDArray[np.floating[Any]], affinity: Tensor) -> Tensor:
        """Compute the propagated scores of background and classes over affinities of the AffinityNet (section 3.3).

        Args:
            cams: Floats (C,H,W) in 0..1, at the size of the image to which ``affinity`` belongs.
            affinity: float32 (P,L).

        Returns:
            float32 (C + 1, ceil(H / 8), ceil(W / 8)).
        """
        maps = torch.as_tensor(cams, dtype=torch.float32, device=affinity.device)
        return self._walk([_scores_to_walk(maps, self.settings.alpha)], [affinity], self.settings.beta)[0]

    def sample(self, image: ImageLike, labels: LabelsLike | None = None, cams: CamsLike | None = None) -> Sample:
        """Decode an image at the working size and check its labels and CAMs; the first half of a call."""
        pixels, size = _within(image, self.settings.size, self.settings.enlarge_below)
        indices = None if labels is None else self._indices(labels)
        return Sample(pixels, size, indices, None if cams is None else self._given_cams(cams, size))

    @torch.inference_mode()
    def sample_cams(self, sample: Sample) -> CamFile:
        """`cams` for a sample."""
        with self._steady():
            cams = self._cams(sample)
        return CamFile(np.array(cams.present, np.int64) + 1, cams.maps.cpu().numpy(), sample.size)

    @torch.inference_mode()
    def predict(
        self,
        samples: Sequence[Sample],
        *,
        powers: Sequence[float] = (),
        instances: bool = False,
        spread: Callable[..., Iterable[Any]] = map,
    ) -> list[Prediction]:
        """Make masks of samples, with one walk for all of them; the second half of a call.

        Args:
            samples: Results of `sample`.
            powers: Further alphas for which the background is propagated, too; see `Prediction.scores_file`.
            instances: Also find the instances.
            spread: Maps a function over samples, like the built-in ``map``; that of a pool computes several at a time.
        """
        settings = self.settings
        self.require_networks(instances)
        shown = [sample for sample in samples if not sample.shows_none]
        by_boundaries = settings.walk != "psa" or instances

        def begin(sample: Sample) -> _Begun:
            cams = self._cams(sample, small=by_boundaries)
            found = self._boundaries(self.require_boundary_network(), sample.image) if by_boundaries else None
            return _Begun(cams, found, *self._start(sample, cams, found, powers))

        def finish(sample: Sample, begun: _Begun, walked: Tensor) -> tuple[Tensor, Tensor, Instances | None]:
            size = sample.image.shape[:2]
            classes = walked[: len(walked) - len(powers)]
            if settings.background:
                scores = semantic_scores(classes, self._walked_size(size), settings.background, self.stride)
                scores = scores / scores.sum(0)
                walked = torch.cat([torch.full_like(walked[:1], settings.background * float(walked.max())), walked])
            else:
                scores = probabilities(classes, self._walked_size(size), self.stride)
            if settings.final_crf:
                scores = refine_labels(sample.image, resize_scores(scores, size), self.engine)
            found = self._instances(sample, begun, resize_scores(scores, size).argmax(0)) if instances else None
            return scores.cpu(), walked.cpu(), found

        with self._steady():
            begun = list(spread(begin, shown))
            beta = {"psa": settings.beta, "irn": settings.boundary_beta, "both": 1.0}[settings.walk]
            walked = self._walk([one.start for one in begun], [one.affinity for one in begun], beta, spread)
            ended = list(spread(finish, shown, begun, walked))
        made = {
            id(sample): Prediction(
                sample.image,
                sample.size,
                one.cams.present,
                self.classes,
                scores.numpy(),
                one.cams.maps.cpu().numpy(),
                one.cams.probabilities,
                self._walked_size(sample.image.shape[:2]),
                settings.alpha,
                tuple(powers),
                rows.numpy(),
                found,
            )
            for sample, one, (scores, rows, found) in zip(shown, begun, ended, strict=True)
        }
        return [
            made[id(sample)] if id(sample) in made else self._background(sample, powers, instances)
            for sample in samples
        ]

    @property
    def stride(self) -> int:
        """Side in pixels of a cell of the walk."""
        return FINE if self.settings.walk == "irn" else STRIDE

    def _walked_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """The size (h, w) at which an image of some size is walked."""
        return size if self.settings.walk == "irn" else self.require_affinity_network().seen_size(size)

    def _start(
        self, sample: Sample, cams: _Cams, found: Boundaries | None, powers: Sequence[float]
    ) -> tuple[Tensor, Tensor]:
        """The scores with which the walk starts, and its affinities."""
        settings = self.settings
        first = 1 if settings.background else 0  # a constant background is not walked
        if settings.walk == "irn":
            assert found is not None
            assert cams.small is not None
            background = _scores_to_walk(cams.maps, settings.alpha, powers, FINE)
            classes = 1 + len(cams.small)
            rows = torch.cat([background[:1], cams.small, background[classes:]])[first:]
            affinity = boundary_affinity(found.edge, settings.radius, settings.borders)
            return rows * (1 - found.edge), affinity
        seen = _at_network_size(self.require_affinity_network(), sample.image)
        start = _scores_to_walk(resize_scores(cams.maps, seen.shape[:2]), settings.alpha, powers)[first:]
        affinity = self._affinity(seen)
        if found is not None and settings.walk == "both":
            grid = tuple(-(-side // FINE) for side in seen.shape[:2])
            edge = found.edge if found.edge.shape == grid else resize_scores(found.edge[None], grid)[0]
            betas = settings.beta, settings.boundary_beta
            affinity = product_affinity(affinity, edge, betas, settings.radius, settings.borders)
        return start, affinity

    def _instances(self, sample: Sample, begun: _Begun, mask: Tensor) -> Instances:
        """The instances of an image, whose mask (h, w) has the numbers of its classes: 0, 1..C.

        With a constant background they compete with it and with each other, as published; otherwise they divide the
        mask.
        """
        settings, cams, found = self.settings, begun.cams, begun.found
        assert found is not None
        assert cams.small is not None
        places = instance_map(displacement_centroids(found.displacement), found.displacement)
        rows = instance_scores(cams.small, places)
        walked = boundary_walk(rows, found.edge, settings.boundary_beta, settings.steps, settings.radius)
        if settings.background:
            size = sample.image.shape[0], sample.image.shape[1]
            detected = detect_instances(walked, size, settings.background)
        else:
            detected = divide_mask(mask, walked, len(cams.small))
        count = int(places.max()) + 1
        indices = [cams.present[row // count] for row in detected.rows.tolist()]
        return Instances(
            enlarged_labels(detected.map.cpu().numpy(), sample.size),
            np.array(indices, np.int64) + 1,
            tuple(self.classes[i] if i < len(self.classes) else str(i + 1) for i in indices),
            detected.scores.float().cpu().numpy(),
        )

    def _background(self, sample: Sample, powers: Sequence[float], instances: bool) -> Prediction:
        """The prediction for an image that shows no class."""
        size = sample.image.shape[:2]
        seen = self._walked_size(size)
        grid = (-(-seen[0] // self.stride), -(-seen[1] // self.stride))
        return Prediction(
            sample.image,
            sample.size,
            (),
            self.classes,
            np.ones((1, *seen), np.float32),
            np.zeros((0, *size), np.float32),
            {},
            seen,
            self.settings.alpha,
            tuple(powers),
            np.ones((1 + len(powers), *grid), np.float32),
            Instances(np.zeros(sample.size, np.int64), np.zeros(0, np.int64), (), np.zeros(0, np.float32))
            if instances
            else None,
        )

    def _cams(self, sample: Sample, small: bool = False) -> _Cams:
        """The CAMs of an image; with ``small``, also at stride 4."""
        if sample.cams is not None:
            given, maps = fitted_cams(sample.cams, sample, self.device)
            return _Cams(given, maps, {}, strided_cams(maps) if small else None)
        network = self.cam_network
        if network is None:
            raise UsageError("the model was loaded without its CAM network", "give cams=, or load both networks")
        present, probabilities = sample.labels, {}
        if present == ():
            return _Cams((), torch.zeros(0, *sample.image.shape[:2]), {})
        self._check_memory(network, sample.image.shape[:2], max(self.settings.scales), 2 if self.settings.flip else 1)
        engine = self._engine("cam", network)
        with autocast(self.precision, self.device):
            if present is None:
                present, found = self._predicted(engine, sample.image)
                probabilities = {self.classes[index]: float(found[index]) for index in present}
            scales, flip = self.settings.scales, self.settings.flip
            if small:
                maps, strided = engine.two_cams(sample.image, present, scales, flip)
                return _Cams(present, maps, probabilities, strided)
            maps = normalized_cams(engine, sample.image, present, scales=scales, flip=flip)
        return _Cams(present, maps, probabilities)

    def _predicted(self, network: CamNetwork, image: NDArray[np.uint8]) -> tuple[tuple[int, ...], Tensor]:
        """Classes whose probability reaches the threshold, or the most probable one; and all probabilities."""
        x = network.preprocess(_at_network_size(network, image))[None].to(self.device)
        probabilities = torch.sigmoid(network(x)[0].float())
        present = torch.nonzero(probabilities >= self.settings.label_threshold).flatten().tolist()
        return tuple(present) or (int(probabilities.argmax()),), probabilities

    def _affinity(self, image: NDArray[np.uint8]) -> Tensor:
        """Pair affinities (P,L) of an image (h,w,3), zero-padded to whole cells at the right and bottom.

        In bf16 the network computes in bfloat16, the affinities of its features in float32.
        """
        network = self.require_affinity_network()
        self._check_memory(network, image.shape[:2])
        x = network.preprocess(image)[None].to(self.device)
        x = F.pad(x, (0, -x.shape[3] % STRIDE, 0, -x.shape[2] % STRIDE))
        engine = self._engine("affinity", network)
        with autocast(self.precision, x.device):
            features = engine.features(x.contiguous(memory_format=torch.channels_last))
        return pair_affinity(features.float().contiguous(), self.settings.radius, self.settings.borders)[0]

    def _boundaries(self, network: BoundaryNetwork, image: NDArray[np.uint8]) -> Boundaries:
        padded = network.padded_size((image.shape[0], image.shape[1]))
        self._check_memory(network, padded, images=2)
        with autocast(self.precision, self.device):
            return self._engine("irn", network).boundaries(image)

    def _walk(
        self,
        scores: list[Tensor],
        affinities: list[Tensor],
        beta: float,
        spread: Callable[..., Iterable[Any]] = map,
    ) -> list[Tensor]:
        if not scores:
            return []
        settings = self.settings
        return random_walk(
            scores,
            affinities,
            beta,
            settings.steps,
            settings.radius,
            borders=settings.borders,
            spread=spread,
        )

    def _indices(self, labels: LabelsLike) -> tuple[int, ...]:
        if isinstance(labels, (str, int)):
            raise LabelsError(f"labels: found {labels!r}, expected a list such as [{labels!r}]")
        return class_indices(labels, self.classes)

    def _given_cams(self, cams: CamsLike, size: tuple[int, int]) -> CamFile:
        """CAMs in memory as a `CamFile`."""
        if isinstance(cams, CamFile):
            return cams
        if not cams:
            raise FormatError("cams: found no class, expected CAMs by class name or index")
        indices = [class_indices([key], self.classes)[0] for key in cams]
        if len(set(indices)) < len(indices):
            twice = self.classes[max(indices, key=indices.count)]
            raise FormatError(f"cams: found the class {quoted(twice)} twice", "give it by name or by index")
        order = sorted(zip(indices, cams, strict=True))
        maps = [np.asarray(torch.as_tensor(cams[key]).detach().cpu(), np.float32) for _, key in order]
        if any(one.ndim != 2 or one.shape != maps[0].shape for one in maps):
            raise FormatError(f"cams: found shapes {', '.join(str(one.shape) for one in maps)}, expected one (h, w)")
        stacked = np.stack(maps)
        if not (stacked.min() >= 0 and stacked.max() <= 1 + 1e-3):
            raise FormatError(
                f"cams: found values {stacked.min():.4g} to {stacked.max():.4g}, expected 0 to 1",
                "divide each CAM by its maximum",
            )
        return CamFile(np.array([index + 1 for index, _ in order]), stacked, size)

    def _check_memory(self, network: Network, size: tuple[int, ...], scale: float = 1.0, images: int = 1) -> None:
        if self.device.type == "cpu":
            pixels = (round(size[0] * scale), round(size[1] * scale))
            check_memory(type(network).__name__, network.memory_per_pixel(), pixels, images)

    def _steady(self) -> AbstractContextManager[None]:
        return steady_threads(self.device, self.cam_network, self.affinity_network, self.boundary_network)

    def require_affinity_network(self) -> AffinityNetwork:
        """The AffinityNet, without which there are no masks.

        Raises:
            CheckpointError: The model has none.
        """
        if self.affinity_network is None:
            raise CheckpointError("the model has no AffinityNet", "train one: pixaff train-affinity, or pixaff fit")
        return self.affinity_network

    def require_boundary_network(self) -> BoundaryNetwork:
        """The network of class boundaries and displacements.

        Raises:
            CheckpointError: The model has none.
        """
        if self.boundary_network is None:
            raise CheckpointError(
                "the model has no network of class boundaries and displacements",
                "train one: pixaff train-irn; or choose --walk psa, without instances",
            )
        return self.boundary_network

    def require_networks(self, instances: bool = False) -> None:
        """Make sure that the networks for masks are there, and for instances if these are wanted.

        Raises:
            CheckpointError: One is missing.
        """
        if self.settings.walk != "irn":
            self.require_affinity_network()
        if self.settings.walk != "psa" or instances:
            self.require_boundary_network()

    def _any_network(self) -> Network:
        networks = (self.affinity_network, self.boundary_network, self.cam_network)
        return next(network for network in networks if network is not None)


@dataclass(frozen=True, eq=False)
class Sample:
    """A decoded image, with its labels or CAMs if they are given.

    Attributes:
        image: uint8 (h, w, 3), at the working size.
        size: (H, W) of the image as given, upright.
        labels: 0-based classes, ascending; () if it shows none, None to have them predicted.
        cams: CAMs to refine instead of the model's own.
    """

    image: NDArray[np.uint8]
    size: tuple[int, int]
    labels: tuple[int, ...] | None = None
    cams: CamFile | None = None

    @property
    def shows_none(self) -> bool:
        """Whether it is known that the image shows no class: its mask is background."""
        return self.labels == () or (self.labels is None and self.cams is not None and not len(self.cams.classes))


class _Cams(NamedTuple):
    """CAMs of an image: 0-based classes in ascending order, CAMs float32 (C,h,w) at the working size, the probabilities
    of predicted labels, and the CAMs at stride 4."""

    present: tuple[int, ...]
    maps: Tensor
    probabilities: dict[str, float]
    small: Tensor | None = None


class _Begun(NamedTuple):
    """An image before the walk."""

    cams: _Cams
    found: Boundaries | None
    start: Tensor
    affinity: Tensor


@dataclass(frozen=True, eq=False)
class Instances:
    """The instances of one image: D detections.

    Attributes:
        map: int64 (H, W), at the image's own size: 0 background, 1..D the detections.
        values: int64 (D,), their mask values.
        classes: Their names.
        scores: float32 (D,), in 0..1: the largest propagated score, of which the largest in the image is 1; 0 for
            detections with less than 1 % of the pixels.
    """

    map: NDArray[np.int64]
    values: NDArray[np.int64]
    classes: tuple[str, ...]
    scores: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.values)

    def without_fragments(self) -> Instances:
        """Those with a score above 0, renumbered."""
        kept = np.flatnonzero(self.scores > 0)
        numbers = np.zeros(len(self) + 1, np.int64)
        numbers[kept + 1] = np.arange(1, len(kept) + 1)
        classes = tuple(self.classes[place] for place in kept)
        return Instances(numbers[self.map], self.values[kept], classes, self.scores[kept])


@dataclass(frozen=True, eq=False)
class Segmentation:
    """Scores of the classes at every pixel of an image, and the mask that follows from them.

    In a notebook it displays itself as an overlay.

    Attributes:
        image: uint8 (h, w, 3), at the working size.
        size: (H, W) of the image as given.
        indices: 0-based classes of the image, ascending.
        names: Names of all classes of the model.
        scores: float32 (C + 1, h, w), at the working size: background and classes, summing to 1 at each pixel.
    """

    image: NDArray[np.uint8]
    size: tuple[int, int]
    indices: tuple[int, ...]
    names: tuple[str, ...]
    scores: NDArray[np.float32]

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the image's classes, in the order of ``cams`` and of ``scores`` after the background."""
        return tuple(self.names[i] if i < len(self.names) else str(i + 1) for i in self.indices)

    @cached_property
    def mask(self) -> NDArray[np.uint8]:
        """uint8 (H, W), at the image's own size: 0 background, 1..K classes."""
        return self._mask(self.size)

    def overlay(self, photo: ImageLike | None = None) -> Image.Image:
        """The image, tinted with its mask, with outlines, class names and a legend.

        Args:
            photo: The same image, to be drawn on at its own size, or at most at 2,000 pixels; None draws on the image
                at the working size.

        Raises:
            ImageError: The photo cannot be read, or is not of this image's size.
        """
        image, size = (self.image, self.size) if photo is None else _within(photo, OVERLAY_SIDE)
        if size != self.size:
            raise ImageError(
                f"found an image of {size[1]} x {size[0]} pixels, expected {self.size[1]} x {self.size[0]}",
                "give the image that the mask is of",
            )
        names = dict(zip((index + 1 for index in self.indices), self.classes, strict=True))
        return Image.fromarray(draw_overlay(image, self._mask((image.shape[0], image.shape[1])), names=names))

    def save(self, path: str | Path) -> None:
        """Write the mask as a palette PNG, atomically.

        Raises:
            UsageError: The path does not end in .png.
            OutputError: The file cannot be written.
        """
        if Path(path).suffix.lower() != ".png":
            raise UsageError(f"{path}: expected a path that ends in .png", "masks are palette PNGs")
        write_mask(path, self.mask)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON: classes, size, and each mask value's share of the pixels."""
        counts = np.bincount(self.mask.ravel(), minlength=1) / self.mask.size
        shares = {name: float(counts[i + 1]) if i + 1 < len(counts) else 0.0
                  for i, name in zip(self.indices, self.classes, strict=True)}  # fmt: skip
        return {
            "classes": list(self.classes),
            "size": list(self.size),
            "shares": {"background": float(counts[0]), **shares},
        }

    def _mask(self, size: tuple[int, int]) -> NDArray[np.uint8]:
        return mask_at_size(torch.from_numpy(self.scores), [0, *(index + 1 for index in self.indices)], size)

    def _repr_png_(self) -> bytes:
        png = io.BytesIO()
        self.overlay().save(png, format="PNG")
        return png.getvalue()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.size[0]} x {self.size[1]}, classes: {', '.join(self.classes) or 'none'})"


@dataclass(frozen=True, eq=False, repr=False)
class Prediction(Segmentation):
    """The result of the walk for one image.

    Attributes:
        cams: float32 (C, h, w), in 0..1: the CAMs from which the walk started.
        probabilities: Probabilities of the predicted labels, by name; empty if labels or CAMs were given.
        walked_size: (h, w) at which the image was walked.
        alpha: Alpha of the walk.
        powers: Further alphas for which the background was propagated.
        walked: float32 (C + 1 + len(powers), h / 8, w / 8), or h / 4, w / 4 in the walk irn: the propagated scores
            before CRF refinement.
        instances: The instances, if they were asked for.
    """

    cams: NDArray[np.float32]
    probabilities: Mapping[str, float]
    walked_size: tuple[int, int]
    alpha: float
    powers: tuple[float, ...]
    walked: NDArray[np.float32]
    instances: Instances | None = None

    def scores_file(self) -> ScoreFile:
        """The propagated scores, as ``propagate --save-scores`` writes them; see `masks_at`."""
        first = 1 + len(self.indices)
        values = np.array(self.indices, np.int64) + 1
        return ScoreFile(
            values,
            self.walked[1:first],
            np.array(self.powers),
            self.walked[first:],
            self.alpha,
            self.walked_size,
            self.size,
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON: classes, size, probabilities, and each mask value's share of the pixels."""
        probabilities = {name: round(float(value), 6) for name, value in self.probabilities.items()}
        return {**super().to_dict(), "probabilities": probabilities}


def masks_at(file: ScoreFile, alphas: Sequence[float]) -> list[NDArray[np.uint8]]:
    """Masks at the image's own size for several alphas, as `Predictor` makes them without CRF refinement.

    Raises:
        UsageError: An alpha is outside the range of the file.
    """
    check_saved(alphas, file.powers[0], file.powers[-1])
    weights = [power_weights(file.powers.tolist(), alpha) for alpha in alphas]
    classes = torch.from_numpy(file.scores)
    backgrounds = torch.einsum("ak,khw->ahw", torch.tensor(weights), torch.from_numpy(file.background))
    values = [0, *file.classes.tolist()]
    if file.size != file.walked_size:
        return [
            mask_at_size(probabilities(torch.cat([row[None], classes]), file.walked_size, file.cell), values, file.size)
            for row in backgrounds
        ]

    def large(rows: Tensor) -> Tensor:
        return upsample_scores(rows, file.walked_size, file.cell).clamp(min=0)

    if not len(file.classes):
        return [np.zeros(file.size, np.uint8) for _ in alphas]
    # Which class is best, and how good it is, is the same for all alphas.
    enlarged = large(classes)
    best, winner = enlarged.amax(0), best_value(enlarged, values[1:])
    return [winner.masked_fill(large(row[None])[0] >= best, 0).numpy() for row in backgrounds]


def margin_at(file: ScoreFile) -> NDArray[np.float32]:
    """How far the best propagated score is ahead of the second best, at the alpha of the run.

    Returns:
        float32 (H, W) of the image's size, in 0..1, of scores that sum to 1; 1 where the image shows no class.
    """
    if not len(file.classes):
        return np.ones(file.size, np.float32)
    weights = torch.tensor(power_weights(file.powers.tolist(), file.alpha))
    background = torch.einsum("k,khw->hw", weights, torch.from_numpy(file.background))
    scores = probabilities(torch.cat([background[None], torch.from_numpy(file.scores)]), file.walked_size, file.cell)
    best, second = scores.topk(2, dim=0).values
    margin: NDArray[np.float32] = resize_scores((best - second)[None], file.size)[0].numpy()
    return margin


def _within(image: ImageLike, max_side: int, enlarge_below: int = 0) -> tuple[NDArray[np.uint8], tuple[int, int]]:
    """An image of any kind as uint8 (h,w,3), resized as by `load_image`, and its own size (H, W)."""
    sizes = max_side, enlarge_below
    if isinstance(image, (str, Path)):
        return load_image(image, *sizes)
    if isinstance(image, Image.Image):
        return image_array(image, *sizes)
    if isinstance(image, Tensor):
        pixels = image.detach().cpu()
        if pixels.ndim != 3 or pixels.shape[0] != 3 or not pixels.numel():
            raise ImageError(f"found a tensor of shape {tuple(pixels.shape)}, expected (3, H, W)")
        if pixels.is_floating_point():
            low, high = (float(bound) for bound in pixels.aminmax())
            if not (low >= 0 and high <= 1):
                raise ImageError(f"found a tensor of values {low:.4g} to {high:.4g}, expected 0 to 1")
            pixels = (pixels.float() * 255).round().to(torch.uint8)
        image = pixels.permute(1, 2, 0).contiguous().numpy()
    array = np.asarray(image)
    if array.dtype != np.uint8 or not (array.ndim == 2 or (array.ndim == 3 and array.shape[2] == 3)) or not array.size:
        raise ImageError(f"found an image of {array.dtype} {array.shape}, expected uint8 (H, W, 3) or (H, W)")
    return image_array(Image.fromarray(array), *sizes)


def fitted_cams(file: CamFile, sample: Sample, device: torch.device) -> tuple[tuple[int, ...], Tensor]:
    """Given CAMs at the working size of the image; for a labelled image only those of its labels."""
    size = (sample.image.shape[0], sample.image.shape[1])
    if sample.labels == () or (sample.labels is None and not len(file.classes)):
        return (), torch.zeros(0, *size, device=device)
    if 0 in file.classes:
        raise FormatError("found a row for the background, expected CAMs", "these look like CRF posteriors")
    if file.lies_on_its_side(sample.size):
        raise FormatError(
            f"found CAMs of a photo of {file.size[0]} x {file.size[1]} pixels, expected {sample.size[0]} x "
            f"{sample.size[1]}: they lie on their side",
            "the program that made them ignored the EXIF orientation of the photo",
        )
    wanted = None if sample.labels is None else {index + 1 for index in sample.labels}
    rows = [i for i in np.argsort(file.classes) if wanted is None or file.classes[i] in wanted]
    if not rows:
        raise FormatError("found CAMs of none of the photo's labels")
    maps = torch.from_numpy(file.cams[rows]).to(device)
    return tuple(int(file.classes[i]) - 1 for i in rows), resize_scores(maps, size)


def _scores_to_walk(maps: Tensor, alpha: float, powers: Sequence[float] = (), stride: int = STRIDE) -> Tensor:
    """Background and class scores of the cells, with which the walk starts (section 3.3).

    Args:
        maps: CAMs, float32 (C, h, w).
        alpha: Alpha of the background.
        powers: Further alphas for which the background is propagated, too.
        stride: Side in pixels of a cell.

    Returns:
        float32 (1 + C + len(powers), ceil(h / stride), ceil(w / stride)): background, classes, background at each of
        ``powers``.
    """
    rows = [with_background(maps, alpha), *(background_score(maps, power) for power in powers)]
    return cell_scores(torch.cat(rows), stride)


def probabilities(walked: Tensor, size: tuple[int, int], stride: int = STRIDE) -> Tensor:
    """Propagated scores (C, h/stride, w/stride), enlarged to the size (h, w): float32, summing to 1 at each pixel."""
    scores = upsample_scores(walked, size, stride).float().clamp(min=0)
    return scores / scores.sum(0).clamp(min=1e-5)


def enlarged_labels(labels: NDArray[np.int64], size: tuple[int, int]) -> NDArray[np.int64]:
    """Whole numbers (h, w) at another size (H, W), by nearest neighbour."""
    rows, columns = (
        ((np.arange(side) + 0.5) * own / side).astype(np.int64) for side, own in zip(size, labels.shape, strict=True)
    )
    return labels[rows[:, None], columns]


def _at_network_size(network: Network, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """An image (h, w, 3) at the input size of a network (bicubic)."""
    height, width = network.seen_size(image.shape[:2])
    if image.shape[:2] == (height, width):
        return image
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC))


def settle_precision(requested: str, predictor: Predictor, device: torch.device) -> tuple[str, str]:
    """The precision of a predictor, and why: `choose_precision` with a trial of its networks on a small image."""

    grey = np.full((*TRIAL_SIZE, 3), 128, np.uint8)

    @torch.inference_mode()
    def seconds(precision: str) -> float:
        tries = []
        trial = predictor.replace(scales=(1.0,), flip=False)
        trial.precision = precision
        sample = Sample(grey, TRIAL_SIZE, labels=(0,))
        for _ in range(3):  # the first one warms up
            began = time.perf_counter()
            if trial.cam_network is not None:
                trial._cams(sample)
            if trial.affinity_network is not None:
                trial._affinity(_at_network_size(trial.affinity_network, grey))
            tries.append(time.perf_counter() - began)
        return min(tries[1:])

    return choose_precision(requested, device, seconds)


def settle_inference(requested: str, predictor: Predictor) -> str:
    """Choose what computes the networks of a predictor: ONNX Runtime on the CPU in fp32, if it computes all of them.

    Args:
        requested: "auto", "torch" or "onnx".
        predictor: Its ``inference`` is set, and used from the next call on.

    Returns:
        Why "auto" means PyTorch although ONNX Runtime might compute the networks; otherwise "".

    Raises:
        UsageError: "onnx" cannot be followed.
    """
    predictor.inference, predictor._engines = "torch", {}
    suits = predictor.device.type == "cpu" and predictor.precision == "fp32"
    if requested == "onnx" and not suits:
        raise UsageError(
            f"found {predictor.precision} on {predictor.device}, but ONNX Runtime computes in fp32 on the CPU",
            "use --inference torch",
        )
    if requested == "torch" or not suits:
        return ""
    networks = {"cam": predictor.cam_network, "affinity": predictor.affinity_network}
    try:
        predictor._engines = {part: onnx_network(network) for part, network in networks.items() if network is not None}
    except ExportError as error:
        if requested == "onnx":
            raise UsageError(error.message, error.hint or "use --inference torch") from None
        return error.message + (f" ({error.hint})" if error.hint else "")
    predictor.inference = "onnx"
    return ""

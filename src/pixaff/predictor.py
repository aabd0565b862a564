"""The whole method on an image, or on a batch of images: images in memory in, masks in memory out.

CAMs, random walk over learned affinities, CRF refinement (Ahn & Kwak, CVPR 2018). `load` returns a `Predictor`, which
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
from typing import TYPE_CHECKING, Any, TypeVar, cast, overload

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
from pixaff.models.base import AffinityNetwork, CamNetwork, Network
from pixaff.models.bundle import PARTS, Weights, load_model
from pixaff.models.folding import folded
from pixaff.models.inference import onnx_network
from pixaff.models.onnx import ExportError
from pixaff.ops.affinity import pair_affinity
from pixaff.ops.cam import background_score, normalized_cams, with_background
from pixaff.ops.crf import refine_labels
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
    parts: Sequence[str] = PARTS,
    report: Callback = silent,
    **options: Unpack[LoadKeywords],
) -> Predictor:
    """Load a model.

    Args:
        model: "lite", the embedded model, or the folder of a `pixaff.fit` run. None means the networks of ``preset``,
            or "lite" without a preset.
        device: "auto", "cpu", "cuda" or "cuda:n".
        progress: Show a bar while published weights are downloaded.
        parts: The networks to load: "cam", "affinity" or both. If CAMs are always given, "affinity" is enough.
        report: Receives an `Event` for each note, and for the progress of downloads.
        **options: ``preset``, ``cam_weights``, ``affinity_weights``, ``weights_dir``, ``classes``, ``precision``,
            ``inference`` and ``engine``, see `pixaff.model_options.ModelOptions`; and any field of `pixaff.Settings`,
            such as ``alpha=4``, to replace the model's own.

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
    parts: Sequence[str] = PARTS,
    command: str,
    report: Callback,
) -> Predictor:
    """`load` for a command, whose name appears in the events."""
    where = pick_device(device)
    bundle = load_model(
        options.model,
        options.preset,
        weights=Weights(options.cam_weights, options.affinity_weights, options.weights_dir),
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
    ) -> None:
        self.cam_network = cam_network
        self.affinity_network = affinity_network
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
        self, images: ImageLike, labels: LabelsLike | None = None, cams: CamsLike | None = None
    ) -> Prediction: ...

    @overload
    def __call__(
        self,
        images: list[ImageLike] | tuple[ImageLike, ...],
        labels: Sequence[LabelsLike | None] | None = None,
        cams: Sequence[CamsLike | None] | None = None,
    ) -> list[Prediction]: ...

    def __call__(self, images: Any, labels: Any = None, cams: Any = None) -> Prediction | list[Prediction]:
        """Make the mask of an image, or of each image in a list; the walks of a list are computed as one batch.

        Args:
            images: Each a path, a PIL image, a uint8 array (H,W,3) or (H,W), or a tensor (3,H,W) of uint8 or of floats
                in 0..1.
            labels: Classes of the image, by name or 0-based index; for a list of images a list of these. None has them
                predicted. An empty list says that the image shows no class: its mask is background.
            cams: CAMs to refine instead of the model's own: floats (h,w) in 0..1 by class name or index, or a `CamFile`
                from `cams` or `pixaff.io.cams.read_cams`. With ``labels``, only those of the labelled classes are used.

        Raises:
            ImageError: An image cannot be read, is not one of these kinds, or is too large for the networks.
            LabelsError: A label is not a class of the model.
            FormatError: CAMs do not fit the image.
            CheckpointError: The model has no AffinityNet.
            UsageError: The lists have different lengths.
        """
        if not isinstance(images, (list, tuple)):
            return self.predict([self.sample(images, labels, cams)])[0]
        each_labels = [None] * len(images) if labels is None else list(labels)
        each_cams = [None] * len(images) if cams is None else list(cams)
        for name, found in (("labels", each_labels), ("cams", each_cams)):
            if len(found) != len(images):
                raise UsageError(f"found {len(images)} images and {name} of {len(found)}", "give one entry per image")
        return self.predict([self.sample(*one) for one in zip(images, each_labels, each_cams, strict=True)])

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
    def walk(self, cams: Tensor | NDArray[np.floating[Any]], affinity: Tensor) -> Tensor:
        """Compute the propagated scores of background and classes (section 3.3).

        Args:
            cams: Floats (C,H,W) in 0..1, at the size of the image to which ``affinity`` belongs.
            affinity: float32 (P,L).

        Returns:
            float32 (C + 1, ceil(H / 8), ceil(W / 8)).
        """
        maps = torch.as_tensor(cams, dtype=torch.float32, device=affinity.device)
        return self._walk([_scores_to_walk(maps, self.settings.alpha)], [affinity])[0]

    def sample(self, image: ImageLike, labels: LabelsLike | None = None, cams: CamsLike | None = None) -> Sample:
        """Decode an image at the working size and check its labels and CAMs; the first half of a call."""
        pixels, size = _within(image, self.settings.size, self.settings.enlarge_below)
        indices = None if labels is None else self._indices(labels)
        return Sample(pixels, size, indices, None if cams is None else self._given_cams(cams, size))

    @torch.inference_mode()
    def sample_cams(self, sample: Sample) -> CamFile:
        """`cams` for a sample."""
        with self._steady():
            present, maps, _ = self._cams(sample)
        return CamFile(np.array(present, np.int64) + 1, maps.cpu().numpy(), sample.size)

    @torch.inference_mode()
    def predict(
        self,
        samples: Sequence[Sample],
        *,
        powers: Sequence[float] = (),
        spread: Callable[..., Iterable[Any]] = map,
    ) -> list[Prediction]:
        """Make masks of samples, with one walk for all of them; the second half of a call.

        Args:
            samples: Results of `sample`.
            powers: Further alphas for which the background is propagated, too; see `Prediction.scores_file`.
            spread: Maps a function over samples, like the built-in ``map``; that of a pool computes several at a time.
        """
        network, settings = self.require_affinity_network(), self.settings
        shown = [sample for sample in samples if not sample.shows_none]

        def begin(sample: Sample) -> tuple[tuple[int, ...], Tensor, dict[str, float], Tensor, Tensor]:
            present, maps, probabilities = self._cams(sample)
            seen = _at_network_size(network, sample.image)
            start = _scores_to_walk(resize_scores(maps, seen.shape[:2]), settings.alpha, powers)
            return present, maps, probabilities, start, self._affinity(seen)

        def finish(sample: Sample, walked: Tensor) -> Tensor:
            size = sample.image.shape[:2]
            scores = probabilities(walked[: len(walked) - len(powers)], network.seen_size(size))
            if settings.final_crf:
                scores = refine_labels(sample.image, resize_scores(scores, size), self.engine)
            return scores.cpu()

        with self._steady():
            begun = list(spread(begin, shown))
            walked = self._walk([one[3] for one in begun], [one[4] for one in begun], spread) if begun else []
            scores = list(spread(finish, shown, walked))
        made = {
            id(sample): Prediction(
                sample.image,
                sample.size,
                present,
                self.classes,
                one_scores.numpy(),
                maps.cpu().numpy(),
                probabilities,
                network.seen_size(sample.image.shape[:2]),
                settings.alpha,
                tuple(powers),
                rows.cpu().numpy(),
            )
            for sample, (present, maps, probabilities, _, _), one_scores, rows in zip(
                shown, begun, scores, walked, strict=True
            )
        }
        return [made[id(sample)] if id(sample) in made else self._background(sample, powers) for sample in samples]

    def _background(self, sample: Sample, powers: Sequence[float]) -> Prediction:
        """The prediction for an image that shows no class."""
        network, size = self.require_affinity_network(), sample.image.shape[:2]
        seen = network.seen_size(size)
        grid = (-(-seen[0] // STRIDE), -(-seen[1] // STRIDE))
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
        )

    def _cams(self, sample: Sample) -> tuple[tuple[int, ...], Tensor, dict[str, float]]:
        """0-based classes in ascending order, CAMs float32 (C,h,w), and the probabilities of predicted labels."""
        if sample.cams is not None:
            return (*fitted_cams(sample.cams, sample, self.device), {})
        network = self.cam_network
        if network is None:
            raise UsageError("the model was loaded without its CAM network", "give cams=, or load both networks")
        present, probabilities = sample.labels, {}
        if present == ():
            return (), torch.zeros(0, *sample.image.shape[:2]), {}
        self._check_memory(network, sample.image.shape[:2], max(self.settings.scales), 2 if self.settings.flip else 1)
        engine = self._engine("cam", network)
        with autocast(self.precision, self.device):
            if present is None:
                present, found = self._predicted(engine, sample.image)
                probabilities = {self.classes[index]: float(found[index]) for index in present}
            maps = normalized_cams(engine, sample.image, present, scales=self.settings.scales, flip=self.settings.flip)
        return present, maps, probabilities

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

    def _walk(
        self, scores: list[Tensor], affinities: list[Tensor], spread: Callable[..., Iterable[Any]] = map
    ) -> list[Tensor]:
        settings = self.settings
        return random_walk(
            scores,
            affinities,
            settings.beta,
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
        return steady_threads(self.device, self.cam_network, self.affinity_network)

    def require_affinity_network(self) -> AffinityNetwork:
        """The AffinityNet, without which there are no masks.

        Raises:
            CheckpointError: The model has none.
        """
        if self.affinity_network is None:
            raise CheckpointError("the model has no AffinityNet", "train one: pixaff train-affinity, or pixaff fit")
        return self.affinity_network

    def _any_network(self) -> Network:
        network = self.affinity_network if self.affinity_network is not None else self.cam_network
        assert network is not None
        return network


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


@dataclass(frozen=True, eq=False)
class Prediction:
    """The result for one image. In a notebook it displays itself as an overlay.

    Attributes:
        image: uint8 (h, w, 3), at the working size.
        size: (H, W) of the image as given.
        indices: 0-based classes of the image, ascending.
        names: Names of all classes of the model.
        scores: float32 (C + 1, h, w), at the working size: background and classes, summing to 1 at each pixel.
        cams: float32 (C, h, w), in 0..1: the CAMs from which the walk started.
        probabilities: Probabilities of the predicted labels, by name; empty if labels or CAMs were given.
        walked_size: (h, w) at which the image was walked.
        alpha: Alpha of the walk.
        powers: Further alphas for which the background was propagated.
        walked: float32 (C + 1 + len(powers), h / 8, w / 8): the propagated scores before CRF refinement.
    """

    image: NDArray[np.uint8]
    size: tuple[int, int]
    indices: tuple[int, ...]
    names: tuple[str, ...]
    scores: NDArray[np.float32]
    cams: NDArray[np.float32]
    probabilities: Mapping[str, float]
    walked_size: tuple[int, int]
    alpha: float
    powers: tuple[float, ...]
    walked: NDArray[np.float32]

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
        counts = np.bincount(self.mask.ravel(), minlength=1) / self.mask.size
        shares = {name: float(counts[i + 1]) if i + 1 < len(counts) else 0.0
                  for i, name in zip(self.indices, self.classes, strict=True)}  # fmt: skip
        return {
            "classes": list(self.classes),
            "size": list(self.size),
            "probabilities": {name: round(float(value), 6) for name, value in self.probabilities.items()},
            "shares": {"background": float(counts[0]), **shares},
        }

    def _mask(self, size: tuple[int, int]) -> NDArray[np.uint8]:
        return mask_at_size(torch.from_numpy(self.scores), [0, *(index + 1 for index in self.indices)], size)

    def _repr_png_(self) -> bytes:
        png = io.BytesIO()
        self.overlay().save(png, format="PNG")
        return png.getvalue()

    def __repr__(self) -> str:
        return f"Prediction({self.size[0]} x {self.size[1]}, classes: {', '.join(self.classes) or 'none'})"


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
            mask_at_size(probabilities(torch.cat([row[None], classes]), file.walked_size), values, file.size)
            for row in backgrounds
        ]

    def large(rows: Tensor) -> Tensor:
        return upsample_scores(rows, file.walked_size).clamp(min=0)

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
    scores = probabilities(torch.cat([background[None], torch.from_numpy(file.scores)]), file.walked_size)
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


def _scores_to_walk(maps: Tensor, alpha: float, powers: Sequence[float] = ()) -> Tensor:
    """Background and class scores of the cells, with which the walk starts (section 3.3).

    Args:
        maps: CAMs, float32 (C, h, w).
        alpha: Alpha of the background.
        powers: Further alphas for which the background is propagated, too.

    Returns:
        float32 (1 + C + len(powers), ceil(h / 8), ceil(w / 8)): background, classes, background at each of ``powers``.
    """
    rows = [with_background(maps, alpha), *(background_score(maps, power) for power in powers)]
    return cell_scores(torch.cat(rows), STRIDE)


def probabilities(walked: Tensor, size: tuple[int, int]) -> Tensor:
    """Propagated scores (C, h/8, w/8), enlarged to the size (h, w): float32, summing to 1 at each pixel."""
    scores = upsample_scores(walked, size, STRIDE).float().clamp(min=0)
    return scores / scores.sum(0).clamp(min=1e-5)


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

"""The whole method on an image, or on a batch of images: images in memory in, masks in memory out.

CAMs, random walk over learned affinities, CRF refinement (Ahn & Kwak, CVPR 2018), or a walk within class boundaries and
instances (IRN, Ahn, Cho & Kwak, CVPR 2019). `pixaff.load` returns a `Predictor`, which makes a `Prediction` of each
image. Every command that makes CAMs or masks uses it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, overload

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from pixaff.device import autocast, check_memory, device_words, steady_threads
from pixaff.errors import CheckpointError, FormatError, LabelsError, UsageError, quoted
from pixaff.io.cams import CamFile
from pixaff.io.labels import class_indices
from pixaff.io.masks import resize_mask
from pixaff.models.base import AffinityNetwork, Boundaries, BoundaryNetwork, CamNetwork, JointNetwork, Network
from pixaff.models.inference import TRIAL_SIZE, onnx_networks, torch_network
from pixaff.ops.affinity import pair_affinity
from pixaff.ops.boundary import STRIDE as FINE
from pixaff.ops.boundary import boundary_affinity, boundary_walk, product_affinity, semantic_scores, strided_cams
from pixaff.ops.cam import background_score, normalized_cams, sum_of_scales, with_background
from pixaff.ops.crf import refine_labels
from pixaff.ops.instances import (
    detect_instances,
    displacement_centroids,
    divide_mask,
    instance_map,
    instance_scores,
)
from pixaff.ops.resize import resize_scores
from pixaff.ops.walk import cell_scores, random_walk
from pixaff.prediction import STRIDE, ImageLike, Instances, Prediction, image_within, probabilities
from pixaff.samples import CamsLike, LabelsLike, Sample, fitted_cams
from pixaff.settings import Settings

TOLERANCE = 1e-4
"""Of the walk's scores. 5 of a million pixels get another label than with 1e-7 (40 training photos of VOC 2012), and
the walk takes a tenth less time than with 1e-5."""

Result = TypeVar("Result")
N = TypeVar("N", bound=Network)


class Predictor:
    """Makes masks of images with a loaded model. It may be called from several threads.

    The networks are taken as they are at the first call, with batch norm folded into the convolutions.

    Attributes:
        inference: What computes the networks, "torch", "onnx" or "int8": see `settle_inference`.

    Args:
        cam_network: Makes the CAMs and predicts labels; None if CAMs are always given.
        affinity_network: Makes the affinities for the walks psa and both; None if neither is wanted.
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
        self._networks = _by_part(cam_network, affinity_network, boundary_network)
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

    @property
    def networks(self) -> tuple[Network, ...]:
        """Those that were loaded."""
        networks = (self.cam_network, self.affinity_network, self.boundary_network)
        return tuple(network for network in networks if network is not None)

    def move(self, device: torch.device) -> None:
        """Move the networks to a device, and compute them there as ``inference`` says; needed after unpickling.

        Raises:
            UsageError: ONNX Runtime was used before, and cannot be used there.
        """
        for network in self.networks:
            network.to(device)
        self.settle_inference(self.inference)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_engines": {}}  # sessions of ONNX Runtime cannot be pickled

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

    def _engine(self, part: str, kind: type[N]) -> N:
        """The copy of a network for inference; made once, or by each of the threads that come first."""
        if part not in self._engines:
            network, made = self._networks[part], {}
            if self.inference != "torch":
                requested = "int8" if self.inference == "int8" else "auto"
                made = onnx_networks(requested, {part: network}, self.device, self.precision)[0]
            self._engines[part] = made.get(part) or torch_network(network, self.precision)
        engine = self._engines[part]
        assert isinstance(engine, kind)
        return engine

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

        The network of `lite` sees an image at the nearest size whose sides are multiples of 16.

        Raises:
            CheckpointError: The model has no network for them.
        """
        self.require_boundary_network()
        with self._steady():
            return self._boundaries(self.sample(image).image)

    def settle_inference(self, requested: str) -> str:
        """Choose what computes the networks: see `pixaff.models.inference.onnx_networks`.

        Raises:
            UsageError: "onnx" or "int8" cannot be followed.
        """
        found = {part: self._networks[part] for part in self._used_parts()}
        self._engines, self.inference, refused = onnx_networks(requested, found, self.device, self.precision)
        return refused

    def _used_parts(self) -> list[str]:
        """The networks that masks without instances need, as far as the model has them."""
        settings = self.settings
        walked = {"psa": ["affinity"], "irn": ["irn"], "both": ["affinity", "irn"]}[settings.walk]
        if self._in_one_pass(False) and settings.walk != "psa":
            walked = [*walked[:-1], "joint"]
        needless = "joint" in walked and settings.scales == (1.0,)
        return [part for part in (*([] if needless else ["cam"]), *walked) if part in self._networks]

    def _in_one_pass(self, displacement: bool) -> str:
        """Name of the network that makes CAMs and boundaries of the same pass; "" if they need one each."""
        part = "joint_displacement" if displacement else "joint"
        return part if part in self._networks and self.settings.flip and 1.0 in self.settings.scales else ""

    @torch.inference_mode()
    def seconds(self, precision: str) -> float:
        """Time of the networks in a precision, on a small image at one scale; bf16 is computed by PyTorch."""
        trial = self.replace(scales=(1.0,))
        trial.precision = precision
        if precision != self.precision:
            trial._engines, trial.inference = {}, "torch"
        sample = Sample(np.full((*TRIAL_SIZE, 3), 128, np.uint8), TRIAL_SIZE, labels=(0,))
        used = trial._used_parts()
        tries = []
        for _ in range(3):  # the first one warms up
            began = time.perf_counter()
            if "joint" in used:
                trial._seen(sample, displacement=False)
            elif "cam" in used:
                trial._cams(sample)
            if "irn" in used:
                trial._boundaries(sample.image)
            if "affinity" in used:
                trial._affinity(_at_network_size(trial.require_affinity_network(), sample.image))
            tries.append(time.perf_counter() - began)
        return min(tries[1:])

    @torch.inference_mode()
    def walk(self, cams: Tensor | NDArray[np.floating[Any]], affinity: Tensor | Boundaries) -> Tensor:
        """Compute the propagated scores of background and classes (PSA, section 3.3; IRN, section 5).

        Args:
            cams: Floats (C,H,W) in 0..1, at the size of the image to which ``affinity`` belongs.
            affinity: Result of `affinity`, float32 (P,L), or of `boundaries`.

        Returns:
            float32 (C + 1, ceil(H / 8), ceil(W / 8)); of boundaries (C + 1, h, w), as large as these.
        """
        if isinstance(affinity, Boundaries):
            edge = affinity.edge
            size = self.require_boundary_network().seen_size((cams.shape[1], cams.shape[2]))
            maps = resize_scores(torch.as_tensor(cams, dtype=torch.float32, device=edge.device), size)
            start = self._boundary_scores(maps, strided_cams(maps), edge)
            return self._walk([start], [self._boundary_affinity(edge)], self.settings.boundary_beta)[0]
        maps = torch.as_tensor(cams, dtype=torch.float32, device=affinity.device)
        return self._walk([_scores_to_walk(maps, self.settings.alpha)], [affinity], self.settings.beta)[0]

    def sample(self, image: ImageLike, labels: LabelsLike | None = None, cams: CamsLike | None = None) -> Sample:
        """Decode an image at the working size and check its labels and CAMs; the first half of a call."""
        pixels, size = image_within(image, self.settings.size, self.settings.enlarge_below)
        indices = None if labels is None else self._indices(labels)
        return Sample(pixels, size, indices, None if cams is None else self._given_cams(cams, size))

    @torch.inference_mode()
    def sample_cams(self, sample: Sample) -> CamFile:
        """`cams` for a sample."""
        with self._steady():
            cams = self._cams(sample)
        return CamFile(np.array(cams.present, np.int64) + 1, cams.maps.cpu().numpy(), sample.size)

    @torch.inference_mode()
    def sample_probabilities(self, sample: Sample) -> NDArray[np.float32]:
        """The classifier's probabilities of all classes, float32 (K,), whatever the labels of the sample are."""
        network = self.cam_network
        if network is None:
            raise UsageError("the model was loaded without its CAM network", "load both networks")
        with self._steady(), autocast(self.precision, self.device):
            found: NDArray[np.float32] = self._probabilities(network, sample.image).cpu().numpy()
        return found

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
            if by_boundaries:
                cams, found = self._seen(sample, instances)
            else:
                cams, found = self._cams(sample), None
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
            found = self._instances(sample, begun, scores) if instances else None
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
        irn = self.settings.walk == "irn"
        network: Network = self.require_boundary_network() if irn else self.require_affinity_network()
        return network.seen_size(size)

    def _start(
        self, sample: Sample, cams: _Cams, found: Boundaries | None, powers: Sequence[float]
    ) -> tuple[Tensor, Tensor]:
        """The scores with which the walk starts, and its affinities."""
        settings = self.settings
        first = 1 if settings.background else 0  # a constant background is not walked
        if settings.walk == "irn":
            assert found is not None
            assert cams.small is not None
            maps = resize_scores(cams.maps, self._walked_size(sample.image.shape[:2]))
            start = self._boundary_scores(maps, cams.small, found.edge, powers)[first:]
            return start, self._boundary_affinity(found.edge)
        seen = _at_network_size(self.require_affinity_network(), sample.image)
        start = _scores_to_walk(resize_scores(cams.maps, seen.shape[:2]), settings.alpha, powers)[first:]
        affinity = self._affinity(seen)
        if found is not None and settings.walk == "both":
            grid = tuple(-(-side // FINE) for side in seen.shape[:2])
            edge = found.edge if found.edge.shape == grid else resize_scores(found.edge[None], grid)[0]
            betas = settings.beta, settings.boundary_beta
            affinity = product_affinity(affinity, edge, betas, settings.radius, settings.borders)
        return start, affinity

    def _boundary_scores(self, maps: Tensor, small: Tensor, edge: Tensor, powers: Sequence[float] = ()) -> Tensor:
        """Scores with which a walk within boundaries starts: of CAMs at the walked size and of the same at stride 4."""
        background = _scores_to_walk(maps, self.settings.alpha, powers, FINE)
        return torch.cat([background[:1], small, background[1 + len(small) :]]) * (1 - edge)

    def _boundary_affinity(self, edge: Tensor) -> Tensor:
        return boundary_affinity(edge, self.settings.radius, self.settings.borders)

    def _instances(self, sample: Sample, begun: _Begun, scores: Tensor) -> Instances:
        """The instances of an image, of whose mask the scores (C + 1, h, w) are.

        With a constant background they compete with it and with each other, as published; otherwise they divide the
        mask.
        """
        settings, cams, found = self.settings, begun.cams, begun.found
        assert found is not None
        assert cams.small is not None
        places = instance_map(displacement_centroids(found.displacement), found.displacement)
        rows = instance_scores(cams.small, places)
        walked = boundary_walk(rows, found.edge, settings.boundary_beta, settings.steps, settings.radius)
        size = self.require_boundary_network().seen_size((sample.image.shape[0], sample.image.shape[1]))
        if settings.background:
            detected = detect_instances(walked, size, settings.background)
        else:
            mask = resize_scores(scores.to(walked.device), size).argmax(0)
            detected = divide_mask(mask, walked, len(cams.small))
        count = int(places.max()) + 1
        indices = [cams.present[row // count] for row in detected.rows.tolist()]
        return Instances(
            resize_mask(detected.map.cpu().numpy(), sample.size),
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

    def _seen(self, sample: Sample, displacement: bool) -> tuple[_Cams, Boundaries]:
        """CAMs, also at stride 4, and boundaries: of one pass of the networks if one is enough for both.

        The displacements are empty if they are not wanted and one pass is enough.
        """
        size = (sample.image.shape[0], sample.image.shape[1])
        part = self._in_one_pass(displacement) if sample.cams is None else ""
        if not part:
            cams, found = self._cams(sample, small=True), self._boundaries(sample.image)
        else:
            settings = self.settings
            joint = self._engine(part, JointNetwork)
            self._check_memory(self._networks[part], size, max(settings.scales), 2)
            others = self._engine("cam", CamNetwork) if len(settings.scales) > 1 else None
            with autocast(self.precision, self.device):
                seen = joint.see(sample.image, settings.scales, others)
            present, probabilities = self._present(sample, torch.sigmoid(seen.logits))
            maps = sum_of_scales((one[:, list(present)] for one in seen.maps), size)
            cams, found = _Cams(present, maps, probabilities), seen.boundaries
        walked = self.require_boundary_network().seen_size(size)
        if cams.small is None or walked != size:
            cams = cams._replace(small=strided_cams(resize_scores(cams.maps, walked)))
        return cams, found

    def _cams(self, sample: Sample, small: bool = False) -> _Cams:
        """The CAMs of an image; with ``small``, also at stride 4."""
        if sample.cams is not None:
            given, maps = fitted_cams(sample.cams, sample, self.device)
            return _Cams(given, maps, {}, strided_cams(maps) if small else None)
        network = self.cam_network
        if network is None:
            raise UsageError("the model was loaded without its CAM network", "give cams=, or load both networks")
        if sample.labels == ():
            return _Cams((), torch.zeros(0, *sample.image.shape[:2]), {})
        self._check_memory(network, sample.image.shape[:2], max(self.settings.scales), 2 if self.settings.flip else 1)
        engine = self._engine("cam", CamNetwork)
        with autocast(self.precision, self.device):
            predicted = self._probabilities(network, sample.image) if sample.labels is None else torch.zeros(0)
            present, probabilities = self._present(sample, predicted)
            scales, flip = self.settings.scales, self.settings.flip
            if small:
                maps, strided = engine.two_cams(sample.image, present, scales, flip)
                return _Cams(present, maps, probabilities, strided)
            maps = normalized_cams(engine, sample.image, present, scales=scales, flip=flip)
        return _Cams(present, maps, probabilities)

    def _present(self, sample: Sample, predicted: Tensor) -> tuple[tuple[int, ...], dict[str, float]]:
        """The classes of an image, and the probabilities by name if they are predicted.

        These are the classes whose probability (K,) reaches the threshold, or the most probable one.
        """
        if sample.labels is not None:
            return sample.labels, {}
        reached = torch.nonzero(predicted >= self.settings.label_threshold).flatten().tolist()
        present = tuple(reached) or (int(predicted.argmax()),)
        return present, {self.classes[index]: float(predicted[index]) for index in present}

    def _probabilities(self, network: CamNetwork, image: NDArray[np.uint8]) -> Tensor:
        """The classifier's probabilities (K,)."""
        x = network.preprocess(_at_network_size(network, image))[None].to(self.device)
        return torch.sigmoid(self._engine("cam", CamNetwork)(x)[0].float())

    def _affinity(self, image: NDArray[np.uint8]) -> Tensor:
        """Pair affinities (P,L) of an image (h,w,3), zero-padded to whole cells at the right and bottom.

        In bf16 the network computes in bfloat16, the affinities of its features in float32.
        """
        network = self.require_affinity_network()
        self._check_memory(network, image.shape[:2])
        x = network.preprocess(image)[None].to(self.device)
        x = F.pad(x, (0, -x.shape[3] % STRIDE, 0, -x.shape[2] % STRIDE))
        engine = self._engine("affinity", AffinityNetwork)
        with autocast(self.precision, x.device):
            features = engine.features(x.contiguous(memory_format=torch.channels_last))
        return pair_affinity(features.float().contiguous(), self.settings.radius, self.settings.borders)[0]

    def _boundaries(self, image: NDArray[np.uint8]) -> Boundaries:
        network = self.require_boundary_network()
        image = _at_network_size(network, image)
        self._check_memory(network, network.padded_size((image.shape[0], image.shape[1])), images=2)
        with autocast(self.precision, self.device):
            return self._engine("irn", BoundaryNetwork).boundaries(image)

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
            tol=TOLERANCE,
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
        """The AffinityNet, for the walks psa and both.

        Raises:
            CheckpointError: The model has none.
        """
        if self.affinity_network is None:
            other = "" if self.boundary_network is None else "; or choose --walk irn"
            raise CheckpointError(
                "the model has no AffinityNet", f"train one: pixaff train-affinity, or pixaff fit{other}"
            )
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


def _by_part(
    cam: CamNetwork | None, affinity: AffinityNetwork | None, irn: BoundaryNetwork | None
) -> dict[str, Network]:
    """The networks that there are, and those that do the work of two of them."""
    found: dict[str, Network | None] = {"cam": cam, "affinity": affinity, "irn": irn}
    if cam is not None and irn is not None:
        found |= {"joint": cam.joined(irn), "joint_displacement": cam.joined(irn, displacement=True)}
    return {part: network for part, network in found.items() if network is not None}


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


def _at_network_size(network: Network, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """An image (h, w, 3) at the input size of a network (bicubic)."""
    height, width = network.seen_size(image.shape[:2])
    if image.shape[:2] == (height, width):
        return image
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC))

"""The stages of a run of `pixaff fit`, by method: PSA, IRN, and the segmentation network that may follow."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from pixaff.models import load_checkpoint, registry
from pixaff.models.base import AffinityNetwork, CamNetwork
from pixaff.models.model_folder import AFFINITY, CAM, IRN, SEG, write_bundle
from pixaff.models.registry import create_affinity_network, create_boundary_network, create_cam_network
from pixaff.models.segmentation import add_segmentation
from pixaff.ops.powers import HIGHEST, LOWEST
from pixaff.settings import Settings
from pixaff.stages.batch.naming import naming_of
from pixaff.stages.batch.report import Report
from pixaff.stages.cam import cam
from pixaff.stages.crf import PHOTOS_PER_WORKER, crf
from pixaff.stages.propagate import propagate
from pixaff.stages.train_affinity import pair_loss, train_affinity
from pixaff.stages.train_cam import cam_loss, seed_loss, train_cam
from pixaff.stages.train_irn import boundary_terms, train_irn
from pixaff.stages.train_seg import train_seg
from pixaff.stages.training.calibration import calibrate_posteriors, calibrate_walk
from pixaff.stages.training.datasets import BOUNDARY_CELL
from pixaff.stages.training.stage import Stage, Work, of_recipe
from pixaff.stages.training.trials import cam_seconds, crf_seconds, mask_seconds, step_seconds

WALK = ("walk", "irn", "alpha", "background", "beta", "boundary_beta", "radius", "steps", "borders")
"""Settings that decide the propagated scores."""


def cam_stages(settings: Settings) -> list[Stage]:
    """The stages up to the CAMs, which both methods share."""
    head = registry.has_segmentation_head(settings.cam)
    return [
        Stage(
            "train-cam",
            "train the classifier",
            _train_classifier,
            options=("data", "classes", "cam", "cam init", *of_recipe("cam")),
            recipe="cam",
            weights=CAM,
            units=partial(_steps, "cam"),
            trial=_try_classifier,
        ),
        *(SEEDING if head else ()),
        Stage(
            "cams",
            "CAMs",
            _make_cams,
            options=("scales", "flip", "size"),
            trial=lambda work: cam_seconds(work, _new_cam_network(work), work.settings.scales, work.settings.flip),
            needs=("train-head" if head else "train-cam",),
        ),
    ]


def psa_stages(settings: Settings) -> list[Stage]:
    """The stages of PSA (Ahn & Kwak, CVPR 2018), in the order in which they run."""
    return [
        *cam_stages(settings),
        Stage(
            "crf",
            "CRF posteriors with much and with little background",
            _make_posteriors,
            options=("crf_low", "crf_high", "size", "engine"),
            trial=partial(crf_seconds, per_worker=PHOTOS_PER_WORKER),
            needs=("cams",),
        ),
        Stage(
            "train-affinity",
            "train the AffinityNet",
            _train_affinity,
            options=("affinity", "affinity init", "radius", "size", *of_recipe("affinity")),
            recipe="affinity",
            weights=AFFINITY,
            units=partial(_steps, "affinity"),
            trial=_try_affinity,
            needs=("crf",),
        ),
        Stage(
            "masks",
            "masks",
            _make_masks,
            options=(*WALK, "final_crf", "size", "engine"),
            trial=lambda work: mask_seconds(work, create_affinity_network(work.settings.affinity)),
            needs=("cams", "train-affinity"),
        ),
    ]


def irn_stages(settings: Settings) -> list[Stage]:
    """The stages of IRN (Ahn, Cho & Kwak, CVPR 2019), in the order in which they run."""
    walk = ("walk", "alpha", "background", "boundary_beta", "radius", "steps", "borders", "final_crf")
    return [
        *cam_stages(settings),
        Stage(
            "confident-labels",
            "confident labels",
            _make_labels,
            options=("conf_fg", "conf_bg", "size", "engine"),
            trial=partial(crf_seconds, per_worker=PHOTOS_PER_WORKER),
            needs=("cams",),
        ),
        Stage(
            "train-irn",
            "train the network of class boundaries",
            _train_irn,
            options=("irn", "irn init", *of_recipe("irn")),
            recipe="irn",
            weights=IRN,
            units=partial(_steps, "irn"),
            trial=_try_irn,
            needs=("confident-labels",),
        ),
        Stage(
            "masks",
            "masks",
            _make_irn_masks,
            options=(*walk, "size", "engine"),
            trial=lambda work: mask_seconds(work, None, create_boundary_network(work.settings.irn)),
            needs=("cams", "train-irn"),
        ),
    ]


def _steps(name: str, work: Work) -> int:
    recipe, photos = work.recipes[name], len(work.photos)
    return recipe.epochs_for(photos) * (photos // min(recipe.batch_size, photos))


def _new_cam_network(work: Work) -> CamNetwork:
    return create_cam_network(work.settings.cam, len(work.names))


def _try_classifier(work: Work) -> float:
    return step_seconds(work, _new_cam_network(work), cam_loss, work.recipes["cam"])


def _try_head(work: Work) -> float:
    network = _new_cam_network(work)
    network.use_segmentation_head(True)
    return step_seconds(work, network, seed_loss, work.recipes["head"])


def _try_affinity(work: Work) -> float:
    network = create_affinity_network(work.settings.affinity)
    return step_seconds(work, network, pair_loss(work.settings.radius), work.recipes["affinity"])


def _try_irn(work: Work) -> float:
    network = create_boundary_network(work.settings.irn)
    return step_seconds(work, network, boundary_terms(), work.recipes["irn"], BOUNDARY_CELL)


def _train_classifier(work: Work) -> Report:
    return train_cam(
        work.photos,
        work.labels,
        work.names,
        work.out / "train-cam",
        network=work.settings.cam,
        init=work.init["cam"],
        reset_head=work.reset_head,
        listing=work.listing,
        recipe=work.recipes["cam"],
        run=work.run,
    )


def _make_seed_cams(work: Work) -> Report:
    return cam(
        work.photos,
        work.out / "seed-cams",
        model=work.out / "train-cam",
        labels=work.labels,
        listing=work.listing,
        scales=(1.0,),
        flip=False,
        size=work.settings.size,
        run=work.run,
    )


def _make_seed_posteriors(work: Work) -> Report:
    return _posteriors(work, "seed-cams", "seed-crf", work.settings.seed_low, work.settings.seed_high)


def _posteriors(work: Work, cams: str, out: str, low: float, high: float) -> Report:
    return crf(
        work.photos,
        work.out / cams,
        work.out / out,
        crf_low=low,
        crf_high=high,
        size=work.settings.size,
        engine=work.engine,
        listing=work.listing,
        run=work.run,
    )


def _train_head(work: Work) -> Report:
    return train_cam(
        work.photos,
        work.labels,
        work.names,
        work.out / "train-head",
        network=work.settings.cam,
        init=work.out / "train-cam" / CAM,
        crf_low_dir=work.out / "seed-crf" / "low",
        crf_high_dir=work.out / "seed-crf" / "high",
        listing=work.listing,
        recipe=work.recipes["head"],
        run=work.run,
    )


SEEDING = (
    Stage(
        "seed-cams",
        "CAMs of the classifier",
        _make_seed_cams,
        options=("size",),
        trial=lambda work: cam_seconds(work, _new_cam_network(work), (1.0,), False),
        needs=("train-cam",),
    ),
    Stage(
        "seed-crf",
        "CRF posteriors of these",
        _make_seed_posteriors,
        options=("seed_low", "seed_high", "size", "engine"),
        trial=partial(crf_seconds, per_worker=PHOTOS_PER_WORKER),
        needs=("seed-cams",),
    ),
    Stage(
        "train-head",
        "train the segmentation head",
        _train_head,
        options=of_recipe("head"),
        recipe="head",
        weights=CAM,
        units=partial(_steps, "head"),
        trial=_try_head,
        needs=("train-cam", "seed-crf"),
    ),
)
"""Stages of a network with a segmentation head (`LiteCam`), which is trained on its own refined CAMs."""


def _make_cams(work: Work) -> Report:
    return cam(
        work.photos,
        work.out / "cams",
        model=_trained_cam(work).parent,
        labels=work.labels,
        listing=work.listing,
        scales=work.settings.scales,
        flip=work.settings.flip,
        size=work.settings.size,
        run=work.run,
    )


def _make_posteriors(work: Work) -> Report:
    work.settings = calibrate_posteriors(
        work.out,
        _trained_cam(work).parent,
        work.photos,
        work.settings,
        work.calibrate,
        work.run.device,
        work.run.report,
    )
    return _posteriors(work, "cams", "crf", work.settings.crf_low, work.settings.crf_high)


def _train_affinity(work: Work) -> Report:
    return train_affinity(
        work.photos,
        work.out / "crf" / "low",
        work.out / "crf" / "high",
        work.out / "train-affinity",
        network=work.settings.affinity,
        init=work.init["affinity"],
        listing=work.listing,
        size=work.settings.size,
        radius=work.settings.radius,
        recipe=work.recipes["affinity"],
        run=work.run,
    )


def _make_masks(work: Work) -> Report:
    """Complete the model, and make the masks with it."""
    affinity = create_affinity_network(work.settings.affinity)
    load_checkpoint(affinity, work.out / "train-affinity" / AFFINITY)
    _write_model(work, affinity)
    before = work.settings
    work.settings = calibrate_walk(
        work.out, work.photos, work.settings, work.calibrate, work.run.device, work.run.report
    )
    if work.settings != before:
        _write_model(work, affinity)
    (work.out / IRN).unlink(missing_ok=True)  # of a run of the other method
    return _write_masks(work)


def _make_labels(work: Work) -> Report:
    return crf(
        work.photos,
        work.out / "cams",
        work.out / "confident-labels",
        hard=True,
        conf_fg=work.settings.conf_fg,
        conf_bg=work.settings.conf_bg,
        size=work.settings.size,
        engine=work.engine,
        listing=work.listing,
        run=work.run,
    )


def _train_irn(work: Work) -> Report:
    return train_irn(
        work.photos,
        work.out / "confident-labels",
        work.out / "train-irn",
        network=work.settings.irn,
        init=work.init["irn"],
        listing=work.listing,
        recipe=work.recipes["irn"],
        run=work.run,
    )


def _make_irn_masks(work: Work) -> Report:
    """Complete the model, and make the masks with it."""
    settings = work.settings.replace(affinity="")
    network, irn = _new_cam_network(work), create_boundary_network(settings.irn)
    load_checkpoint(network, _trained_cam(work))
    load_checkpoint(irn, work.out / "train-irn" / IRN)
    write_bundle(work.out, settings.cam, None, network, None, work.names, settings, irn=settings.irn, irn_model=irn)
    (work.out / AFFINITY).unlink(missing_ok=True)  # of a run of the other method
    return _write_masks(work)


def _write_masks(work: Work) -> Report:
    settings = work.settings
    return propagate(
        work.photos,
        work.out / "masks",
        model=work.out,
        labels=work.labels,
        cams=work.out / "cams",
        listing=work.listing,
        overlay=True,
        save_scores=LOWEST <= settings.alpha <= HIGHEST and not settings.background,
        engine=work.engine,
        run=work.run,
    )


def _write_model(work: Work, affinity: AffinityNetwork) -> None:
    settings, network = work.settings, _new_cam_network(work)
    load_checkpoint(network, _trained_cam(work))
    write_bundle(work.out, settings.cam, settings.affinity, network, affinity, work.names, settings)


def seg_stage(network: str) -> Stage:
    """The training of a segmentation network on the masks, which the model then has, too."""

    def train(work: Work) -> Report:
        outcome = train_seg(
            work.photos,
            work.out / "masks",
            work.out / "train-seg",
            classes=work.names,
            network=network,
            init=work.init.get("seg"),
            listing=work.listing,
            recipe=work.recipes["seg"],
            run=work.run,
        )
        add_segmentation(work.out, outcome.path)
        # Those that are held out from the training are part of the run, too.
        called = naming_of(work.photos)
        names = [called.name(photo) for photo in work.photos]
        outcome.done, outcome.skipped = (names, []) if outcome.done else ([], names)
        return outcome

    return Stage(
        "train-seg",
        "train the segmentation network",
        train,
        options=("seg network", *of_recipe("seg")),
        recipe="seg",
        weights=SEG,
        units=partial(_steps, "seg"),
        needs=("masks",),
    )


def _trained_cam(work: Work) -> Path:
    """Weights of the CAM network, with its trained segmentation head if it has one."""
    return work.out / ("train-head" if registry.has_segmentation_head(work.settings.cam) else "train-cam") / CAM

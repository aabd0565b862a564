"""The list of stages: what depends on what, and how photos that fail leave it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from pixaff.errors import TrainingError
from pixaff.recipe import Recipe
from pixaff.run_options import TrainingOptions
from pixaff.settings import Settings
from pixaff.stages.batch.report import Report
from pixaff.stages.training.chains import irn_stages, psa_stages
from pixaff.stages.training.folder import Trained
from pixaff.stages.training.running import run_stages
from pixaff.stages.training.stage import Stage, Work, stale_stages

FREE = {"preset", "label_threshold"}
"""Settings that are stored in the model, and that no output of a run with given labels depends on."""

CHAINS = (psa_stages, irn_stages)


def names(stages: list[Stage]) -> list[str]:
    return [stage.name for stage in stages]


def a_work(folder: Path, *photos: str) -> Work:
    return Work(
        out=folder,
        labels=folder / "labels.csv",
        names=("cat",),
        settings=Settings(),
        recipes={},
        init={},
        reset_head=False,
        engine="auto",
        run=TrainingOptions(),
        photos=[folder / photo for photo in photos],
        result=Trained(path=folder),
    )


@pytest.mark.parametrize(
    ("option", "first"),
    [
        ("alpha", "masks"),
        ("beta", "masks"),
        ("steps", "masks"),
        ("final_crf", "masks"),
        ("affinity epochs", "train-affinity"),
        ("radius", "train-affinity"),
        ("crf_low", "crf"),
        ("scales", "cams"),
        ("head lr", "train-head"),
        ("seed_high", "seed-crf"),
        ("cam epochs", "train-cam"),
        ("data", "train-cam"),
    ],
)
def test_a_changed_option_makes_its_stage_stale_and_all_that_need_it(option: str, first: str) -> None:
    stages = psa_stages(Settings())
    order = names(stages)
    assert names(stale_stages(stages, [option])) == order[order.index(first) :]


def test_a_stage_that_needs_nothing_stale_stays() -> None:
    apart = Stage("apart", "", lambda work: Report(), options=("other",))
    last = Stage("last", "", lambda work: Report(), needs=("apart",))
    stages = [*psa_stages(Settings()), apart, last]
    assert names(stale_stages(stages, ["other"])) == ["apart", "last"]
    assert names(stale_stages(stages, ["alpha"])) == ["masks"]


def test_every_setting_belongs_to_a_stage() -> None:
    psa, irn = ({option for stage in stages(Settings()) for option in stage.options} for stages in CHAINS)
    assert set(Settings().to_dict()) - psa == FREE | {"conf_fg", "conf_bg"}
    assert set(Settings().to_dict()) - irn == FREE | {"affinity", "crf_low", "crf_high", "beta"}
    for known, recipes in ((psa, ("cam", "head", "affinity")), (irn, ("cam", "head", "irn"))):
        for recipe in recipes:
            assert {f"{recipe} {name}" for name in Recipe().to_dict()} <= known


@pytest.mark.parametrize("stages_of", CHAINS)
def test_needs_are_stages_before(stages_of: Callable[[Settings], list[Stage]]) -> None:
    for settings in (Settings(), Settings(cam="vgg16_cam", affinity="vgg16_affinity")):
        seen: set[str] = set()
        for stage in stages_of(settings):
            assert set(stage.needs) <= seen
            seen.add(stage.name)


def test_photos_that_fail_are_left_out_of_the_later_stages(tmp_path: Path) -> None:
    seen = []

    def first(work: Work) -> Report:
        return Report(done=["a.jpg", "c.jpg"], failed=[("b.jpg", "damaged")], seconds=2.0)

    def second(work: Work) -> Report:
        seen.append(([photo.name for photo in work.photos], work.listing.read_text()))
        return Report(done=["a.jpg", "c.jpg"], seconds=1.0)

    work = a_work(tmp_path, "a.jpg", "b.jpg", "c.jpg")
    outcome = run_stages([Stage("first", "", first), Stage("second", "", second)], work)
    assert seen == [(["a.jpg", "c.jpg"], "a\nc\n")]
    assert outcome.done == ["a.jpg", "c.jpg"]
    assert (work.result.failed, work.result.seconds) == ([("b.jpg", "damaged")], 3.0)


def test_a_stage_may_choose_settings_for_those_that_follow(tmp_path: Path) -> None:
    def choose(work: Work) -> Report:
        work.settings = work.settings.replace(alpha=0.25)
        return Report()

    used = []
    last = Stage("last", "", lambda work: used.append(work.settings.alpha) or Report(), needs=("choose",))
    run_stages([Stage("choose", "", choose), last], a_work(tmp_path, "a.jpg"))
    assert used == [0.25]


def test_no_photo_left_ends_the_run(tmp_path: Path) -> None:
    stage = Stage("first", "", lambda work: Report(failed=[("a.jpg", "damaged")]))
    with pytest.raises(TrainingError, match="no photo is left"):
        run_stages([stage], a_work(tmp_path, "a.jpg"))

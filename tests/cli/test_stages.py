"""What fit says while it runs, and at its end."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

import pixaff
from pixaff.cli.app import app
from pixaff.cli.console import Console
from pixaff.cli.durations import rough_words
from pixaff.cli.stage_table import StageTable
from pixaff.cli.training_table import TrainingTable
from pixaff.events import Event
from pixaff.io.atomic import write_text
from pixaff.models.model_folder import FORMAT, RECORD
from pixaff.settings import Settings
from pixaff.stages.training.folder import Trained

WORDS = ("train the classifier", "CAMs", "masks")


def stage(number: int, state: str, done: int = 0, left: float | None = None, figure: str = "") -> Event:
    facts = {
        "stage": number, "stages": 3, "name": f"s{number}", "state": state, "done": done, "total": 40, "unit": "photos",
        "seconds": 12.0, "figure": figure, "seconds_left": left,
    }  # fmt: skip
    return Event("stage", "fit", f"stage {number} of 3: {WORDS[number - 1]}", total=3, data=facts)


RUN = [
    *(stage(number, "waiting") for number in (1, 2, 3)),
    Event("settings", "fit", data={"alpha": 1.5}),
    stage(1, "begun"),
    stage(1, "kept"),
    stage(2, "begun", left=200),
    Event("settings", "cam", data={"size": 512}),
    Event("begin", "cam", total=40),
    stage(2, "running", 1, left=190),
    Event("done", "cam", photo=Path("a.jpg")),
    stage(2, "running", 20, left=110, figure="1.2 photos/s"),
    stage(2, "done", 40, left=70, figure="1.2 photos/s"),
]


def test_lines_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with Console(photos_of=("propagate",)) as console:
        for event in RUN:
            console(event)
    assert capsys.readouterr().err.splitlines() == [
        "stage 1 of 3: train the classifier: kept",
        "stage 2 of 3: CAMs: 1 of 40 photos; about 3 min left in all",
        "stage 2 of 3: CAMs: done in 12 s, 1.2 photos/s; about 1 min left in all",
    ]


def test_settings_of_the_run_are_told_before_its_stages(capsys: pytest.CaptureFixture[str]) -> None:
    with Console() as console:
        console(Event("settings", "fit", data={"alpha": 1.5}))
        for event in RUN:
            console(event)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "fit: alpha 1.5"
    assert not [line for line in lines if "512" in line]
    with Console(verbose=True) as console:
        for event in RUN:
            console(event)
    assert "cam: size 512" in capsys.readouterr().err.splitlines()


def test_json_says_how_far_the_run_is(capsys: pytest.CaptureFixture[str]) -> None:
    with Console(as_json=True, photos_of=("propagate",)) as console:
        for event in RUN:
            console(event)
    told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(each["stage_of"], each["stage"], each["state"], each["seconds_left"]) for each in told] == [
        ("fit", 1, "kept", None),
        ("fit", 2, "running", 190),
        ("fit", 2, "done", 70),
    ]


def test_a_table_on_a_terminal() -> None:
    from rich.console import Console as Terminal

    shown = StageTable()
    for event in RUN:
        if event.kind == "stage":
            shown.update(event)
    terminal = Terminal(width=100, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    terminal.print(shown._table())
    shown.close()
    text = terminal.export_text()
    rows = [" ".join(line.split()) for line in text.splitlines()]
    assert "1 train the classifier kept 0/40 photos" in rows
    assert "2 CAMs done 40/40 photos 12 s 1.2 photos/s" in rows
    assert "3 masks 0/40 photos" in rows
    assert "about 1 min left in all" in text


def step(number: int, **terms: float) -> Event:
    epoch = (number - 1) // 10 + 1
    facts = {"step": number, "steps": 80, "epoch": epoch, "epochs": 8, "lr": 2e-4, "images_per_second": 12.34}
    return Event("progress", "train-cam", "words", total=80, data={**facts, "seconds_left": 200.0, **terms})


def test_a_training_is_a_table_of_its_epochs() -> None:
    from rich.console import Console as Terminal

    shown = TrainingTable()
    for number in range(1, 76):
        shown.update(step(number, loss=1 / number, f1=0.5))
    terminal = Terminal(width=80, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    terminal.print(shown._table())
    shown.close()
    rows = [" ".join(line.split()) for line in terminal.export_text().splitlines()]
    assert rows[0] == "epoch loss f1"
    assert rows[1:-2] == [*(f"{epoch} {0.1 / epoch:.4f} 0.5000" for epoch in (3, 4, 5, 6, 7)), "8/8 0.0133 0.5000"]
    assert rows[-1] == "step 75/80, learning rate 0.0002, 12.3 images/s, 3 min 20 s left"


def test_the_table_of_a_training_is_for_terminals(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    events = [
        Event("begin", "train-cam", total=80),
        step(1, loss=0.25),
        step(80, loss=0.125),
        Event("end", "train-cam"),
    ]

    def told(**options: bool) -> str:
        with Console(**options) as console:
            for event in events:
                console(event)
        return capsys.readouterr().err

    assert told() == ""  # a pipe
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert "0.1250" in told()
    assert told(quiet=True) == ""


def test_estimates_are_rough() -> None:
    assert [rough_words(s) for s in (3, 44, 70, 200, 7500)] == ["10 s", "40 s", "1 min", "3 min", "2 h 0 min"]


def test_the_end_says_where_things_are_and_what_comes_next(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    out = tmp_path / "my run"

    def fit(photos: object, labels: object, out: Path, **options: object) -> Trained:
        model = {"format": FORMAT, "classes": ["cat"], "settings": Settings(alpha=0.25).to_dict()}
        write_text(out / RECORD, json.dumps(model))
        return Trained(path=Path(out), done=["a.jpg", "b.jpg"], doubtful=["b.jpg", "a.jpg"], seconds=2.0)

    monkeypatch.setattr(pixaff, "fit", fit, raising=False)
    arguments = ["fit", "photos", "--labels", "labels.csv", "--out", str(out), "--overwrite"]
    monkeypatch.setattr(sys, "argv", ["pixaff", *arguments, "--alpha", "9", "--alpha=1.5", "--cam-epochs", "3"])
    done = CliRunner().invoke(app, [*arguments, "--cam-epochs", "3", "--json"])
    assert done.exit_code == 0
    text = done.stderr
    assert f"model: {out}" in text
    assert "less background (alpha 0.25 now), no training" in text
    assert "mIoU is not known without ground truth" in text
    assert "the most doubtful ones first (b.jpg, a.jpg, ...: doubtful.csv)" in text
    lines = [line.strip() for line in text.splitlines() if line.startswith("  ")]
    assert lines == [
        f"pixaff propagate NEW-PHOTOS --model '{out}'",
        f"pixaff fit photos --labels labels.csv --out '{out}' --cam-epochs 3 --alpha 0.5",
        f"pixaff report '{out}/masks' --photos photos --out '{out}-report.html'",
        f"pixaff export '{out}/masks' --to coco --photos photos --out '{out}-dataset'",
    ]
    facts = json.loads(done.stdout)
    assert (facts["miou"], facts["doubtful"], facts["next"]) == (None, ["b.jpg", "a.jpg"], lines)

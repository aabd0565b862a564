"""`--config`: options from TOML files and run records; the command line wins, and nothing unknown passes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from typer.main import get_command
from typer.testing import CliRunner

import pixaff
from pixaff.cli.app import app

GROUP = get_command(app)
COMMANDS = GROUP.commands  # type: ignore[attr-defined]


@pytest.fixture
def got(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What `pixaff.propagate` and `pixaff.fit` are called with, instead of a run."""
    calls: list[dict[str, Any]] = []

    def call(*arguments: Any, report: Any = None, **options: Any) -> None:
        calls.append({"arguments": arguments, **options})
        raise pixaff.PixaffError("called")

    for name in ("propagate", "fit", "cam"):
        monkeypatch.setattr(pixaff, name, call, raising=False)
    return calls


def run(*arguments: object) -> Any:
    return CliRunner().invoke(app, [str(word) for word in arguments])


def written(folder: Path, text: str) -> Path:
    (folder / "pixaff.toml").write_text(text, encoding="utf-8")
    return folder / "pixaff.toml"


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_takes_a_file(command: str) -> None:
    assert any("--config" in one.opts for one in COMMANDS[command].params)
    assert "--config FILE" in run(command, "--help").stdout


def test_values_of_a_table_and_those_for_all(got: list[dict[str, Any]], tmp_path: Path) -> None:
    file = written(
        tmp_path,
        "# all commands\nsize = 256\nquiet = true\ncams = 'unused by cam'\n"
        "[propagate]\nalpha = 3\nscales = [1, 0.5, 2]\nflip = false\nsave-scores = true\nlabels = 'a.csv'\n"
        "photos = ['x', 'y']\nout = 'o'\n"
        "[fit]\nresize = [100, 200]\nphotos = 'z'\nlabels = 'b.csv'\nout = 'run'\ncam-epochs = 2\n",
    )
    run("propagate", "--config", file)
    run("propagate", "p", "--alpha", 5, "--flip", "--config", file, "--scales", 1)
    run("cam", "p", "--out", "o", "--config", file)
    run("fit", "--config", file)
    first, second, third, fourth = got
    assert first["arguments"][0] == ["x", "y"]
    assert {name: first[name] for name in ("alpha", "scales", "flip", "size", "save_scores", "labels")} == {
        "alpha": 3.0, "scales": (1.0, 0.5, 2.0), "flip": False, "size": 256, "save_scores": True, "labels": "a.csv",
    }  # fmt: skip
    assert (second["alpha"], second["flip"], second["scales"], second["size"]) == (5.0, True, (1.0,), 256)
    assert (third["size"], third["labels"]) == (256, "predict")
    assert fourth["arguments"] == (["z"], "b.csv", Path("run"))
    assert fourth["cam_recipe"] == {"epochs": 2, "resize": (100, 200)}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("alhpa = 3", "\"alhpa\", which is not an option of any command (did you mean 'alpha'?)"),
        ("[propagate]\nbatch = 3\nalpha = 1", '"batch", which is not an option of propagate'),
        ("[propagate]\ncam-epochs = 3", '"cam_epochs", which is not an option of propagate'),
        ("[fit]\nsave_scores = true", '"save_scores", which is not an option of fit'),
        ("[propagat]\nalpha = 3", 'the table "propagat", expected the name of a command'),
        ("config = 'x.toml'", '"config", which is not'),
        ("alpha = ", "no valid TOML"),
        ("[propagate.alpha]\nx = 1", 'found a table as "alpha"'),
    ],
)
def test_what_is_unknown_is_named(got: list[dict[str, Any]], tmp_path: Path, text: str, words: str) -> None:
    done = run("propagate", "p", "--config", written(tmp_path, text))
    assert (done.exit_code, got) == (2, [])
    assert words in done.stderr
    assert "pixaff.toml" in done.stderr


@pytest.mark.parametrize("text", ["alpha = 'much'", "steps = 1.5", "size = -3"])
def test_values_are_checked_as_those_of_the_command_line(tmp_path: Path, text: str) -> None:
    Image.new("RGB", (40, 30)).save(tmp_path / "a.png")
    assert run("propagate", tmp_path / "a.png", "--config", written(tmp_path, text)).exit_code == 2


def test_a_file_that_is_not_there_or_no_file(tmp_path: Path) -> None:
    for path in (tmp_path / "none.toml", tmp_path / "none.json", tmp_path):
        done = run("info", "--config", path)
        assert done.exit_code == 2
        assert str(path) in done.stderr


def record(folder: Path, command: str, **settings: Any) -> Path:
    (folder / "run.json").write_text(json.dumps({"command": command, "settings": settings}))
    return folder / "run.json"


def test_a_run_record_repeats_its_run(got: list[dict[str, Any]], tmp_path: Path) -> None:
    file = record(
        tmp_path, "propagate", model="lite", labels="l.csv", preset="lite", cam="lite_cam", affinity="lite_affinity",
        scales=[1.0, 0.5], flip=False, size=128, alpha=3.0, borders="full", final_crf=True, engine="auto",
    )  # fmt: skip
    run("propagate", "p", "--config", file, "--size", 64)
    (found,) = got
    assert "preset" not in found  # the values tell all that it would
    expected = {"model": "lite", "labels": "l.csv", "scales": (1.0, 0.5), "flip": False, "size": 64, "alpha": 3.0}
    assert {name: found[name] for name in expected} == expected


def test_the_record_of_a_fit(got: list[dict[str, Any]], tmp_path: Path) -> None:
    recipes = {
        f"{part} {name}": value for part in ("cam", "head", "affinity") for name, value in (("seed", 7), ("crop", 64))
    }
    recipes |= {"cam epochs": 3, "head epochs": 4, "affinity epochs": 5, "cam batch_size": 16, "head batch_size": 16}
    recipes |= {"affinity batch_size": 8, "cam init": None, "cam weight_decay": 0.1}
    file = record(
        tmp_path, "fit", preset="own", cam="lite_cam", affinity="lite_affinity", alpha=2.0, classes=["a"], data="x",
        **recipes,
    )  # fmt: skip
    run("fit", "p", "--labels", "l.csv", "--out", "o", "--config", file)
    (found,) = got
    shared = {"seed": 7, "crop": 64}
    assert found["cam_recipe"] == {**shared, "epochs": 3}
    assert found["affinity_recipe"] == {**shared, "epochs": 5}
    assert (found["settings"].alpha, found["settings"].cam, found["cam_init"]) == (2.0, "lite_cam", None)
    assert (found["seg"], found["irn_recipe"]) == (False, shared)


def test_the_record_of_a_fit_with_all_networks(got: list[dict[str, Any]], tmp_path: Path) -> None:
    recipes = {f"{part} seed": 7 for part in ("cam", "head", "affinity", "irn", "seg")}
    recipes |= {"irn epochs": 2, "seg epochs": 9, "seg network": "seg:fpn:tu-resnet18"}
    given = {"cam": "lite_cam", "affinity": "lite_affinity", "irn": "resnet50_irn", "walk": "irn"}
    file = record(tmp_path, "fit", alpha="calibrated", crf_low="calibrated", crf_high=5.0, **given, **recipes)
    run("fit", "p", "--labels", "l.csv", "--out", "o", "--config", file)
    (found,) = got
    assert (found["settings"].irn, found["settings"].walk, found["settings"].crf_high) == ("resnet50_irn", "irn", 5.0)
    assert found["calibrate"] == ["crf_low", "alpha"]
    assert (found["seg"], found["seg_network"]) == (True, "seg:fpn:tu-resnet18")
    assert (found["irn_recipe"], found["seg_recipe"]) == ({"seed": 7, "epochs": 2}, {"seed": 7, "epochs": 9})


@pytest.mark.parametrize(
    ("command", "settings", "words"),
    [
        ("cam", {}, "found a run of cam, expected one of propagate"),
        ("propagate", {"alhpa": 1}, 'found "alhpa", which is not an option of propagate'),
    ],
)
def test_another_record(tmp_path: Path, command: str, settings: dict[str, Any], words: str) -> None:
    done = run("propagate", "p", "--config", record(tmp_path, command, **settings))
    assert done.exit_code == 2
    assert words in done.stderr
    (tmp_path / "run.json").write_text("[]")
    assert run("propagate", "p", "--config", tmp_path / "run.json").exit_code == 2


def test_records_as_they_are_written_can_be_repeated(tmp_path: Path) -> None:
    Image.new("RGB", (40, 30), "red").save(tmp_path / "a.png")
    fast = ("--size", 64, "--scales", 1, "--no-flip")
    assert run("cam", tmp_path / "a.png", "--out", tmp_path / "cams", *fast).exit_code == 0
    assert (
        run("crf", tmp_path / "a.png", "--cams", tmp_path / "cams", "--out", tmp_path / "crf", "--size", 64).exit_code
        == 0
    )
    assert run("propagate", tmp_path / "a.png", "--out", tmp_path / "masks", *fast).exit_code == 0
    assert run("export", tmp_path / "masks", "--to", "voc", "--out", tmp_path / "voc").exit_code == 0
    for command, folder, inputs in (
        ("cam", "cams", [tmp_path / "a.png"]),
        ("crf", "crf", [tmp_path / "a.png"]),
        ("propagate", "masks", [tmp_path / "a.png"]),
        ("export", "voc", [tmp_path / "masks"]),
    ):
        again = tmp_path / f"{folder}-again"
        done = run(command, *inputs, "--out", again, "--config", tmp_path / folder / "run.json")
        assert done.exit_code == 0, done.stderr
        first, second = (json.loads((tmp_path / each / "run.json").read_text()) for each in (folder, again.name))
        assert second["settings"] == first["settings"]

"""The commands of docs/tutorial.md run one after the other, on the set that the first of them draws.

The networks are toys, which learn nothing in no time: the commands, files and words of the page are what is tested.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from toy_set import quick_trainings, use_tiny
from typer.testing import CliRunner

from pixaff.cli.app import app
from pixaff.recipe import Recipe
from pixaff.stages import crf

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(bash|python|toml)\n(.*?)```", PAGE, re.DOTALL)
COMMANDS = [line for kind, block in BLOCKS if kind == "bash" for line in block.splitlines()]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The current folder of the reader, when the page is through."""
    place = tmp_path_factory.mktemp("tutorial")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        patch.setenv("OMP_NUM_THREADS", "1")
        use_tiny(patch)
        quick_trainings(patch)
        patch.setattr(Recipe, "epochs_for", lambda self, images: 2)
        patch.setattr(crf, "PHOTOS_PER_WORKER", 1000)  # worker processes take seconds to start
        for line in COMMANDS:
            if line.startswith("pixaff "):
                done = CliRunner().invoke(app, shlex.split(line)[1:])
                assert done.exit_code == 0, f"{line}\n{done.output}"
            elif line.startswith("python examples/"):
                script = [sys.executable, str(ROOT / line.split()[1]), *line.split()[2:], "--side", "96"]
                subprocess.run(script, check=True)
            else:
                subprocess.run(["sh", "-c", line], check=True)
    return place


def test_every_command_runs_and_leaves_what_the_page_says(folder: Path) -> None:
    assert sum(line.startswith("pixaff ") for line in COMMANDS) >= 9
    masks = ["run/masks/ball1.png", "masks/overlays/ball1.jpg", "corrected/box8.png"]
    for path in (*masks, "run/classes.txt", "for-cvat/masks.zip", "yolo-set/data.yaml", "mmseg-set/dataset.py"):
        assert (folder / path).exists(), path
    assert len(list((folder / "alpha-4").glob("*.png"))) == 4
    assert (folder / "run" / "classes.txt").read_text().split() == ["ball", "box"]
    assert "val: images/val" in (folder / "yolo-set" / "data.yaml").read_text()


def test_the_python_of_the_page_runs(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    (code,) = [block for kind, block in BLOCKS if kind == "python"]
    names: dict[str, object] = {}
    exec(compile(code, "docs/tutorial.md", "exec"), names)
    assert set(np.unique(names["mask"])) <= {0, 1}  # type: ignore[type-var]


def test_the_configuration_of_the_page_is_one(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    use_tiny(monkeypatch)
    (text,) = [block for kind, block in BLOCKS if kind == "toml"]
    (folder / "pixaff.toml").write_text(text)
    done = CliRunner().invoke(app, ["propagate", "photos/ball/ball1.jpg", "--out", "one", "--config", "pixaff.toml"])
    assert done.exit_code == 0, done.output
    assert "alpha 1.5" in done.output


def test_the_pictures_are_there_and_small() -> None:
    pictures = re.findall(r"!\[[^\]]{20,}\]\((.+?)\)", PAGE)
    assert len(pictures) >= 4
    assert sum((ROOT / "docs" / picture).stat().st_size for picture in pictures) < 400_000

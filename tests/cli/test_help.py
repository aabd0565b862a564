"""What `--help` says is true of what a command does."""

from __future__ import annotations

import re

import pytest
from typer.testing import CliRunner

from pixaff.cli.app import app


def shown(command: str) -> str:
    return re.sub(r"\s+", " ", CliRunner().invoke(app, [command, "--help"]).stdout)


def test_defaults_are_shown_as_they_are_typed():
    assert "--scales S,S,... Image scales whose CAMs are summed. Default: 1,0.5." in shown("propagate")


@pytest.mark.parametrize("command", ["train-cam", "train-affinity", "fit"])
def test_no_default_of_a_recipe_passes_for_that_of_a_network(command):
    words = shown(command)
    assert "--optimizer sgd|adamw Optimizer. --momentum" in words
    assert "own recipe" in words


def test_options_of_one_training_say_whose_they_are():
    assert "--head-epochs N Segmentation head: number of passes" in shown("fit")


@pytest.mark.parametrize("command", ["cam", "crf"])
def test_a_format_is_checked_by_its_registry(command, tmp_path):
    (tmp_path / "a.jpg").touch()
    call = [command, str(tmp_path / "a.jpg"), "--out", str(tmp_path / "out"), "--format", "jpeg"]
    done = CliRunner().invoke(app, [*call, *(["--cams", str(tmp_path)] if command == "crf" else [])])
    assert done.exit_code == 2
    assert done.stderr.startswith("Error: format is jpeg, expected npz, psa")

"""What `--help` says is true of what a command does."""

from __future__ import annotations

import re

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from pixaff.cli.app import app
from pixaff.cli.lite_recipes import LITE_RECIPES
from pixaff.models import registry

COMMANDS = get_command(app).commands


def shown(command: str) -> str:
    return re.sub(r"\s+", " ", CliRunner().invoke(app, [command, "--help"]).stdout)


def test_defaults_are_shown_as_they_are_typed():
    words = shown("propagate")
    assert "--scales S,S,... Image scales whose CAMs are summed. Above 0 and at most 8. Default: 1,0.5." in words
    assert "--alpha A Larger: more foreground, smaller: more background." in words
    assert "0.25 to 32 is usual. Above 0. Default: 1.5." in words


@pytest.mark.parametrize("command", COMMANDS)
def test_every_value_has_its_default(command):
    """A flag that is not given is off; every other option that may be left out says what counts then."""
    untold = [
        one.name
        for one in COMMANDS[command].params
        if one.param_type_name == "option" and not one.required and not one.is_flag
        if "default" not in one.help.lower() and (one.default is None or not one.show_default)
    ]
    assert untold == []


@pytest.mark.parametrize("command", ["train-cam", "train-affinity", "fit"])
def test_no_default_of_a_recipe_passes_for_that_of_a_network(command):
    words = shown(command)
    assert "--optimizer sgd|adamw Optimizer. Default: the network's own" in words
    assert "own recipe" in words


def test_the_recipes_of_lite_are_told_as_they_are():
    recipes = {
        "cam": registry.cam_recipe("lite_cam"),
        "head": registry.head_recipe("lite_cam"),
        "affinity": registry.affinity_recipe("lite_affinity"),
        "irn": registry.irn_recipe("lite_irn"),
    }
    for training, told in LITE_RECIPES.items():
        assert {"epochs", "lr", "batch_size", "optimizer"} <= told.keys()
        assert {name: getattr(recipes[training], name) for name in told} == told
    assert (
        "--epochs N Number of passes over the training images. At least 1. Default: the network's own; of lite 8."
        in (shown("train-cam"))
    )


def test_options_of_one_training_say_whose_they_are():
    assert "--head-epochs N Segmentation head: number of passes" in shown("fit")


@pytest.mark.parametrize("command", ["cam", "crf"])
def test_a_format_is_checked_by_its_registry(command, tmp_path):
    (tmp_path / "a.jpg").touch()
    call = [command, str(tmp_path / "a.jpg"), "--out", str(tmp_path / "out"), "--format", "jpeg"]
    done = CliRunner().invoke(app, [*call, *(["--cams", str(tmp_path)] if command == "crf" else [])])
    assert done.exit_code == 2
    assert done.stderr.startswith("Error: format is jpeg, expected npz, psa")


def test_no_summary_of_a_command_is_cut():
    lines = CliRunner().invoke(app, ["--help"], env={"COLUMNS": "80"}, terminal_width=80).stdout.splitlines()
    summaries = [line for line in lines if line.split()[:1] and line.split()[0] in COMMANDS]
    assert len(summaries) == len(COMMANDS)
    assert not [line for line in summaries if line.endswith("...") or len(line) > 80]

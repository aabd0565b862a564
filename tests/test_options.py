"""Options are described once, at their fields: what follows from them must agree with them."""

from __future__ import annotations

import inspect
import math
import types
from collections.abc import Sequence
from dataclasses import dataclass, fields
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import pytest
import typer
from typer.testing import CliRunner

import pixaff
from pixaff import keywords
from pixaff.cli.app import app
from pixaff.cli.console import ConsoleOptions
from pixaff.cli.options import options_from
from pixaff.errors import UsageError
from pixaff.events import Callback
from pixaff.model_options import ModelOptions
from pixaff.options import check_options, choices_of, divide, option, options_of, types_of
from pixaff.recipe import MaskRecipe, Recipe, whole_recipe
from pixaff.run_options import BatchOptions, RunOptions, TrainingOptions
from pixaff.settings import SegSettings, Settings

KINDS = (
    Settings,
    SegSettings,
    Recipe,
    MaskRecipe,
    ModelOptions,
    RunOptions,
    BatchOptions,
    TrainingOptions,
    ConsoleOptions,
)
OPTIONS = [(kind, name) for kind in KINDS for name in options_of(kind)]
NO_OPTIONS = {
    Settings: {"preset", "cam", "affinity", "irn"},  # --preset and --network, whose meaning each command has for itself
    **{
        kind: {"report", "progress", "renew"} for kind in (RunOptions, BatchOptions, TrainingOptions)
    },  # of Python alone
}
COMMANDS = {command.name for command in app.registered_commands}
runner = CliRunner()


def numbers_of(kind: type, name: str) -> bool:
    """Whether an option is a number, or numbers."""
    members = {*get_args(types_of(kind)[name]), types_of(kind)[name]}
    return bool({int, float} & members)


@pytest.mark.parametrize(("kind", "name"), OPTIONS)
def test_every_option_is_described(kind: type, name: str) -> None:
    one, expected = options_of(kind)[name], types_of(kind)[name]
    assert one.help.endswith(".")
    assert one.help[0].isupper()
    if expected is bool:
        assert one.metavar == ""
    else:
        assert bool(one.metavar) != bool(choices_of(expected))
    assert set(one.commands) <= COMMANDS
    if numbers_of(kind, name):
        assert one.range
    assert all(flag.startswith("-") for flag in one.flags)


@pytest.mark.parametrize("kind", KINDS)
def test_every_field_is_an_option_or_known_to_be_none(kind: type) -> None:
    assert {each.name for each in fields(kind)} - set(options_of(kind)) == NO_OPTIONS.get(kind, set())


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind, name in OPTIONS if numbers_of(kind, name)])
def test_ranges_are_kept(kind: type, name: str) -> None:
    one, expected = options_of(kind)[name], types_of(kind)[name]
    many = get_origin(expected) is tuple

    def given(number: Any) -> dict[str, Any]:
        return {name: (number, number) if many else number}

    outside = [float("nan"), math.inf]
    inside = []
    for bound, step in ((one.at_least, -1), (one.at_most, 1)):
        outside += [] if bound is None else [bound + step]
        inside += [] if bound is None else [bound]
    outside += [] if one.above is None else [one.above]
    whole = int in (expected, *get_args(expected))
    for number in outside:
        if not whole or math.isfinite(number):
            with pytest.raises(UsageError, match=f"{name} is .*expected a number (of )?{one.range}"):
                kind(**given(number))
    for number in inside:
        found = getattr(kind(**given(number)), name)
        assert found == (given(number)[name])
    for wrong in ("3", "x", True):
        with pytest.raises(UsageError, match=name):
            kind(**given(wrong))
    if whole:
        with pytest.raises(UsageError, match=name):
            kind(**given(40.5))


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind, name in OPTIONS if choices_of(types_of(kind)[name])])
def test_choices_are_kept(kind: type, name: str) -> None:
    choices = choices_of(types_of(kind)[name])
    for choice in choices:
        if choice != "pydensecrf":
            assert getattr(kind(**{name: choice}), name) == choice
    with pytest.raises(UsageError, match=f"{name} is 'best', expected {' or '.join(choices)}"):
        kind(**{name: "best"})


@pytest.mark.skipif(find_spec("pydensecrf") is not None, reason="needs a machine without pydensecrf")
def test_an_engine_that_is_not_installed_is_refused_before_anything_is_read() -> None:
    with pytest.raises(UsageError, match=r"pydensecrf is not installed \(pip install 'pixaff\[pydensecrf\]'"):
        ModelOptions(engine="pydensecrf")


def test_whole_numbers_become_what_the_field_holds() -> None:
    settings = Settings(alpha=4, scales=[1, 0.5])  # type: ignore[arg-type]
    assert (type(settings.alpha), settings.scales) == (float, (1.0, 0.5))
    assert all(type(scale) is float for scale in settings.scales)
    assert Recipe(resize=[60, 90]).resize == (60, 90)  # type: ignore[arg-type]


def members(expected: Any) -> set[Any]:
    """The types that a value may have, besides None; any sequence stands for a tuple."""
    if get_origin(expected) in (Union, types.UnionType):
        return set().union(*(members(each) for each in get_args(expected)))
    if get_origin(expected) in (tuple, Sequence):
        return {("several", get_args(expected)[0])}
    return set() if expected is type(None) else {expected}


def fields_of(commands: Sequence[str], *kinds: type) -> dict[str, set[Any]]:
    """Names and types of what some commands take."""
    return {
        each.name: members(types_of(kind)[each.name])
        for command in commands
        for kind in kinds
        for each in fields(kind)
        if each.name in options_of(kind, command) or each.name in ("report", "progress")
    }


@pytest.mark.parametrize(
    ("given", "commands", "kinds", "without"),
    [
        (keywords.LoadKeywords, ["propagate"], (Settings, ModelOptions), {"model"}),  # which `load` names itself
        (keywords.CamKeywords, ["cam"], (Settings, ModelOptions, BatchOptions), set()),
        (keywords.CrfKeywords, ["crf"], (Settings, ModelOptions, RunOptions), set()),
        (keywords.PropagateKeywords, ["propagate"], (Settings, ModelOptions, BatchOptions), set()),
        (keywords.TrainingKeywords, ["train-cam", "train-affinity", "fit"], (TrainingOptions,), set()),
        (keywords.SegLoadKeywords, ["segment"], (SegSettings, ModelOptions), {"model"}),
        (keywords.SegmentKeywords, ["segment"], (SegSettings, ModelOptions, BatchOptions), set()),
        (keywords.SegTrainingKeywords, ["train-seg"], (TrainingOptions, MaskRecipe), set()),
    ],
)
def test_keywords_are_the_fields(given: type, commands: list[str], kinds: tuple[type, ...], without: set[str]) -> None:
    found = get_type_hints(given, localns={"Callback": Callback})
    expected = {name: kind for name, kind in fields_of(commands, *kinds).items() if name not in without}
    assert {name: members(kind) for name, kind in found.items()} == expected
    assert not given.__required_keys__  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("function", "given"),
    [
        (pixaff.load, "LoadKeywords"),
        (pixaff.cam, "CamKeywords"),
        (pixaff.crf, "CrfKeywords"),
        (pixaff.propagate, "PropagateKeywords"),
        (pixaff.train_cam, "TrainingKeywords"),
        (pixaff.train_affinity, "TrainingKeywords"),
        (pixaff.train_seg, "SegTrainingKeywords"),
        (pixaff.segment, "SegmentKeywords"),
        (pixaff.load_segmenter, "SegLoadKeywords"),
        (pixaff.fit, "TrainingKeywords"),
    ],
)
def test_functions_have_their_keywords(function: Any, given: str) -> None:
    assert inspect.signature(function).parameters["options"].annotation == f"Unpack[{given}]"
    assert inspect.getattr_static(keywords, given)


def test_divide_gives_each_its_own_and_leaves_out_what_is_not_given() -> None:
    model, settings, how = divide(
        {"alpha": 4, "flip": None, "preset": "lite", "workers": 2, "progress": True},
        "propagate", ModelOptions, Settings, BatchOptions,
    )  # fmt: skip
    assert (model, settings, how) == ({"preset": "lite"}, {"alpha": 4}, {"workers": 2, "progress": True})


def test_divide_names_a_near_miss_and_options_of_other_commands() -> None:
    with pytest.raises(UsageError, match=r"cam has no option called 'presett' \(did you mean 'preset'\?\)"):
        divide({"presett": "lite"}, "cam", ModelOptions, Settings, BatchOptions)
    with pytest.raises(UsageError, match=r"cam has no option called 'engine' \(options: .*batch_size, .*workers\)"):
        divide({"engine": "torch"}, "cam", ModelOptions, Settings, BatchOptions)
    with pytest.raises(UsageError, match="fit has no option called 'resume'"):
        divide({"resume": True}, "fit", TrainingOptions)
    # The networks are the model's; only their names are settings.
    with pytest.raises(UsageError, match="propagate has no option called 'affinity'"):
        divide({"affinity": "vgg16_affinity"}, "propagate", ModelOptions, Settings, BatchOptions)
    assert divide({"crf_low": 1}, "load", ModelOptions, Settings, every=True) == [{}, {"crf_low": 1}]


def test_single_options_take_precedence_over_a_whole_run() -> None:
    whole = TrainingOptions(device="cpu", workers=3, save_every=9)
    found = BatchOptions.of(whole, {"workers": 2})
    assert (found.device, found.workers, found.batch_size) == ("cpu", 2, None)
    assert TrainingOptions.of(whole, {}) == whole
    assert TrainingOptions.of(None, {"resume": True}) == TrainingOptions(resume=True)


def test_recipes_are_whole_or_values_in_place_of_the_networks_own() -> None:
    own = Recipe(epochs=3, lr=0.5)
    assert whole_recipe(None, own) == own
    assert whole_recipe({"epochs": 7}, own) == own.replace(epochs=7)
    assert whole_recipe(Recipe(epochs=1), own) == Recipe(epochs=1)
    with pytest.raises(UsageError, match=r"no hyper-parameter is called 'epoch' \(hyper-parameters: .*epochs"):
        whole_recipe({"epoch": 7}, own)
    with pytest.raises(UsageError, match="epochs is 0"):
        whole_recipe({"epochs": 0}, own)
    assert Recipe.from_dict(own.to_dict()) == own


@dataclass(frozen=True)
class Toy:
    """Options of every kind."""

    much: float = option(3.0, "How much of it.", "M", above=0)
    times: int = option(2, "How often.", "N", at_least=1, commands=("first",))
    flip: bool = option(True, "Mirror it.")
    again: bool = option(False, "Do it again.", flags=("--again", "-a"))
    kind: Literal["round", "square"] = option("round", "Its form.")
    place: str | Path | None = option(None, "Where it goes.", "DIR")
    count: int | None = option(None, "How many.", "N", at_least=1, flags=("--count", "-c"))
    scales: tuple[float, ...] = option((1.0, 0.5), "Sizes.", "S,S,...", above=0)
    span: tuple[int, int] = option((2, 5), "From and to.", "MIN:MAX", at_least=1)

    def __post_init__(self) -> None:
        check_options(self)


def run_toy(*arguments: str, command: str | None = "first", names: Any = None, prefix: str = "") -> Any:
    """What a command gets, or the result of a call that failed."""
    got: list[dict[str, Any]] = []
    toy = typer.Typer(rich_markup_mode=None)

    @toy.command()
    @options_from(Toy, names, command=command, into="given", prefix=prefix)
    def main(word: str, given: dict[str, Any], loud: bool = False) -> None:
        """A toy."""
        got.append({"word": word, "loud": loud, **given})

    done = runner.invoke(toy, ["hello", *arguments], terminal_width=200, catch_exceptions=True)
    return got[0] if got else done


def test_options_that_are_not_given_are_left_out() -> None:
    assert run_toy() == {"word": "hello", "loud": False}
    assert run_toy("--loud") == {"word": "hello", "loud": True}


def test_options_arrive_as_the_fields_want_them() -> None:
    given = ["--much", "4", "--times", "3", "--no-flip", "-a", "--kind", "square", "--place", "x", "-c", "5"]
    found = run_toy(*given, "--scales", "1,.5,2", "--span", "3:9")
    assert found == {
        "word": "hello", "loud": False, "much": 4.0, "times": 3, "flip": False, "again": True, "kind": "square",
        "place": "x", "count": 5, "scales": (1.0, 0.5, 2.0), "span": (3, 9),
    }  # fmt: skip
    assert type(found["much"]) is float
    assert Toy(**{name: value for name, value in found.items() if name not in ("word", "loud")}).span == (3, 9)
    assert run_toy("--flip")["flip"] is True
    assert run_toy("--span", "7")["span"] == (7, 7)


def test_help_says_what_the_fields_say() -> None:
    words = " ".join(run_toy("--help").output.split())
    assert "--much M How much of it. Above 0. Default: 3." in words
    assert "--flip / --no-flip Mirror it. Default: yes." in words
    assert "-a, --again Do it again. " in words
    assert "--no-again" not in words
    assert "--kind round|square Its form. Default: round." in words
    assert "--place DIR Where it goes. " in words
    assert "--scales S,S,... Sizes. Above 0. Default: 1,0.5." in words
    assert "--span MIN:MAX From and to. At least 1. Default: 2:5." in words
    assert "Default: None" not in words
    assert "A toy." in words


def test_a_command_has_its_own_options_only() -> None:
    assert "--times" not in run_toy("--help", command="second").output
    assert run_toy("--times", "3", command="second").exit_code == 2
    chosen = run_toy("--help", command=None, names=["much", "flip"], prefix="cam").output
    assert "--cam-much" in chosen
    assert "--cam-flip" in chosen
    assert "--no-cam-flip" in chosen
    assert "--kind" not in chosen
    assert run_toy("--cam-much", "7", command=None, names=["much"], prefix="cam") == {
        "word": "hello", "loud": False, "much": 7.0
    }  # fmt: skip


@pytest.mark.parametrize("wrong", [["--much", "x"], ["--times", "1.5"], ["--muhc", "3"], ["--count"]])
def test_values_of_another_kind_are_usage_errors(wrong: list[str]) -> None:
    assert run_toy(*wrong).exit_code == 2


@pytest.mark.parametrize("wrong", [["--scales", "1,x"], ["--span", "3-9"]])
def test_lists_and_ranges_of_another_kind_are_usage_errors(wrong: list[str]) -> None:
    error = run_toy(*wrong).exception
    assert isinstance(error, UsageError)
    assert wrong[0] in str(error)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--borders", "open"], "Error: borders is 'open', expected full or published"),
        (["--alpha", "0"], "Error: alpha is 0, expected a number above 0"),
        (["--precision", "fp16"], "Error: precision is 'fp16', expected fp32 or bf16 or auto"),
        (["--size", "5"], "Error: size is 5, expected 0 (the photo's own) or at least 32 pixels"),
    ],
)
def test_the_command_line_refuses_what_the_fields_refuse(tmp_path: Path, arguments: list[str], words: str) -> None:
    (tmp_path / "a.jpg").touch()
    done = runner.invoke(app, ["propagate", f"{tmp_path}/a.jpg", "--out", f"{tmp_path}/masks", *arguments])
    assert done.exit_code == 2
    assert done.stderr.splitlines()[-1] == words


@pytest.mark.parametrize(
    ("command", "kinds"),
    [
        ("propagate", (Settings, ModelOptions, BatchOptions, ConsoleOptions)),
        ("cam", (Settings, ModelOptions, BatchOptions, ConsoleOptions)),
        ("crf", (Settings, ModelOptions, RunOptions, ConsoleOptions)),
        ("train-cam", (Recipe, TrainingOptions, ConsoleOptions)),
        ("train-affinity", (Recipe, TrainingOptions, ConsoleOptions)),
        ("fit", (Settings, TrainingOptions, ConsoleOptions)),
    ],
)
def test_every_field_is_an_option_of_its_commands(command: str, kinds: tuple[type, ...]) -> None:
    shown = runner.invoke(app, [command, "--help"], terminal_width=200).output
    words = " ".join(shown.split())
    for kind in kinds:
        for name, one in options_of(kind, None if (command, kind) == ("fit", Settings) else command).items():
            flag = one.flags[0] if one.flags else f"--{name.replace('_', '-')}"
            assert f"{flag} " in words or f"{flag}," in words, name
            assert one.help in words, name

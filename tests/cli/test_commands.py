from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import pixaff
from pixaff.cli.app import app
from pixaff.cli.console import Console, seconds_words
from pixaff.cli.numbers import optional_numbers, sweep
from pixaff.errors import OutputError, UsageError
from pixaff.events import Event
from pixaff.io.masks import write_mask
from pixaff.models.registry import PRESETS

COMMANDS = [command.name for command in app.registered_commands]
runner = CliRunner()


@pytest.fixture
def masks(tmp_path):
    """A folder of masks and one of ground truth, of one class; the ground truth of b is of another size."""
    for stem, size in (("a", (4, 6)), ("b", (5, 5))):
        write_mask(tmp_path / "gt" / f"{stem}.png", np.ones(size, np.uint8))
        write_mask(tmp_path / "masks" / f"{stem}.png", np.ones((4, 6), np.uint8))
    (tmp_path / "classes.txt").write_text("cat")
    (tmp_path / "a.txt").write_text("a")
    return tmp_path


def run_script(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("arguments", [["--help"], ["propagate", "--help"], ["--version"]])
def test_help_loads_nothing_heavy(arguments):
    code = (
        "import sys, pixaff\n"
        "from pixaff.cli.app import app\n"
        f"app({arguments!r}, standalone_mode=False)\n"
        "print(sorted({'torch', 'numpy', 'PIL', 'timm', 'torchvision', 'rich'} & set(sys.modules)))"
    )
    done = run_script(code)
    assert done.stdout.splitlines()[-1] == "[]", done.stderr


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command):
    done = runner.invoke(app, [command, "--help"])
    assert done.exit_code == 0
    assert "Usage:" in done.output


@pytest.mark.parametrize("command", ["cam", "crf", "propagate", "segment", "train-cam", "train-affinity", "train-irn"])
def test_paths_on_standard_input_may_end_with_nul(monkeypatch, command):
    seen = []

    def called(photos, *others, **options):
        seen.extend(map(str, photos))
        raise OutputError("stopped")

    monkeypatch.setattr(pixaff, command.replace("-", "_"), called, raising=False)
    needed = {
        "crf": ["--cams", "cams"],
        "train-cam": ["--labels", "labels.csv", "--classes", "classes.txt"],
        "train-affinity": ["--crf-low-dir", "low", "--crf-high-dir", "high"],
        "train-irn": ["--labels-dir", "labels"],
    }
    arguments = [command, "-", "-0", "--out", "out", *needed.get(command, [])]
    done = runner.invoke(app, arguments, input=b"a\nb.jpg\0c.jpg\0")
    assert done.stderr.splitlines() == ["Error: stopped"]
    assert seen == ["a\nb.jpg", "c.jpg"]


@pytest.mark.parametrize(
    ("options", "cam", "affinity", "alpha"),
    [
        ([], "lite_cam", "lite_affinity", PRESETS["lite"].alpha),
        (["--network", "vgg16_cam"], "vgg16_cam", "vgg16_affinity", 16),
        (["--preset", "psa-resnet38", "--alpha", "5"], "resnet38_cam", "resnet38_affinity", 5),
        (["--preset", "psa-vgg16", "--affinity-network", "lite_affinity"], "vgg16_cam", "lite_affinity", 16),
    ],
)
def test_fit_takes_networks_settings_and_recipes_together(monkeypatch, options, cam, affinity, alpha):
    given = {}

    def fit(photos, labels, out, **options):
        given.update(options)
        raise OutputError("stopped")

    monkeypatch.setattr(pixaff, "fit", fit, raising=False)
    recipes = ["--cam-epochs", "3", "--head-epochs", "4", "--affinity-lr", "0.5", "--crop", "96", "--resize", "60:90"]
    done = runner.invoke(app, ["fit", "photos", "--labels", "labels.csv", "--out", "run", *recipes, *options])
    assert done.stderr.splitlines() == ["Error: stopped"]
    settings = given["settings"]
    assert (settings.cam, settings.affinity, settings.alpha) == (cam, affinity, alpha)
    shared = {"crop": 96, "resize": (60, 90)}
    assert given["cam_recipe"] == {**shared, "epochs": 3}
    assert given["head_recipe"] == {**shared, "epochs": 4}
    assert given["affinity_recipe"] == {**shared, "lr": 0.5}


def test_usage_errors_exit_with_2_and_one_line():
    done = runner.invoke(app, ["crf", "photos", "--cams", "nowhere", "--out", "x"])
    assert done.exit_code == 2
    assert done.stderr.splitlines() == ["Error: nowhere: no such folder (make CAMs first: pixaff cam)"]
    assert runner.invoke(app, ["crf"]).exit_code == 2
    assert runner.invoke(app, ["nope"]).exit_code == 2


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (OutputError("disk full", "free some space"), 1, "Error: disk full (free some space)"),
        (KeyError("x"), 1, "Error: KeyError: 'x' (PIXAFF_DEBUG=1 shows where)"),
    ],
)
def test_errors_become_one_line(monkeypatch, error, code, words):
    def fail(*args, **options):
        raise error

    monkeypatch.setattr("pixaff.info", fail, raising=False)
    done = runner.invoke(app, ["info"])
    assert done.exit_code == code
    assert done.stderr.splitlines() == [words]
    monkeypatch.setenv("PIXAFF_DEBUG", "1")
    assert runner.invoke(app, ["info"]).exception is error


def test_ctrl_c_exits_with_130(monkeypatch):
    def interrupt(*args, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("pixaff.info", interrupt, raising=False)
    assert runner.invoke(app, ["info"]).exit_code == 130


def test_evaluate_prints_a_table_and_exits_with_1_when_something_failed(masks):
    done = runner.invoke(app, ["evaluate", f"{masks}/masks", f"{masks}/gt", "--classes", f"{masks}/classes.txt"])
    assert done.exit_code == 1
    assert "cat" in done.stdout
    assert "mIoU 100.00 on 1 image (all of " in done.stdout
    assert "failed: b: found a mask of 6 x 4 pixels" in done.stderr


def test_evaluate_writes_one_json_object_a_setting(masks):
    from pixaff.io.cams import write_cams

    write_cams(masks / "cams" / "a.npz", [1], np.full((1, 4, 6), 0.5), (4, 6))
    call = ["evaluate", "--cams", f"{masks}/cams", f"{masks}/gt", "--threshold", "0.3:0.7:0.2"]
    done = runner.invoke(app, [*call, "--list", f"{masks}/a.txt", "--classes", f"{masks}/classes.txt", "--json"])
    assert done.exit_code == 0, done.output
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["setting"] for line in lines] == ["threshold 0.3", "threshold 0.5", "threshold 0.7"]
    assert [line["iou"]["cat"] for line in lines] == [1.0, 0.0, 0.0]
    assert lines[0] == {
        "list": "a.txt",
        "images": 1,
        "failed": 0,
        "setting": "threshold 0.3",
        "miou": 1.0,
        "iou": {"background": None, "cat": 1.0},
    }


def events(console: Console) -> None:
    with console:
        console(Event("settings", "cam", data={"scales": [1.0, 0.5], "flip": True, "size": 512}))
        console(Event("begin", "cam", total=2))
        console(Event("done", "cam", photo=Path("a.jpg"), outputs=("out/a.npz",), data={"classes": ["cat"]}))
        console(Event("failed", "cam", "b.jpg: broken", photo=Path("b.jpg")))
        console(Event("end", "cam"))


def test_a_pipe_gets_paths_and_standard_error_the_words(capsys):
    events(Console())
    out, err = capsys.readouterr()
    assert out == "out/a.npz\n"
    assert err.splitlines() == ["cam: scales 1 0.5, flip yes, size 512", "failed: b.jpg: broken"]


def test_a_failure_whose_words_lack_the_photo_is_said_with_it(capsys):
    with Console() as console:
        console(Event("failed", "cam", "RuntimeError: out of luck", photo=Path("photos/b.jpg")))
    assert capsys.readouterr().err == "failed: photos/b.jpg: RuntimeError: out of luck\n"


def test_json_is_one_object_a_photo(capsys):
    events(Console(as_json=True))
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == [
        {"photo": "a.jpg", "status": "done", "outputs": ["out/a.npz"], "classes": ["cat"]},
        {"photo": "b.jpg", "status": "failed", "error": "b.jpg: broken"},
    ]


def test_photos_of_a_part_of_a_larger_run_are_no_data(capsys):
    events(Console(photos_of=("propagate",)))
    events(Console(as_json=True, photos_of=()))
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("failed: b.jpg: broken") == 2


def test_a_terminal_gets_no_paths(capsys, monkeypatch):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    events(Console())
    assert capsys.readouterr().out == ""


def test_numbers_lists_and_ranges():
    assert optional_numbers(None, "--scales") is None
    assert optional_numbers("1,.5", "--scales") == (1.0, 0.5)
    assert sweep(None, "--alpha") == ()
    assert sweep("0.2", "--alpha") == (0.2,)
    assert sweep("0.1:0.6:0.1", "--alpha") == (0.1, 0.2, 0.3, 0.4, 0.5, 0.6)
    for wrong in ("x", "1:2", "2:1:1", "1:2:0", "1:2:nan", "0:1:1e-6", "inf"):
        with pytest.raises(UsageError, match="--alpha"):
            sweep(wrong, "--alpha")


def test_durations_in_words():
    assert [seconds_words(s) for s in (0.44, 12, 200, 7500)] == ["0.4 s", "12 s", "3 min 20 s", "2 h 5 min"]


def test_torchvision_of_another_build_is_explained_in_one_line(tmp_path):
    (tmp_path / "torchvision").mkdir()
    (tmp_path / "torchvision" / "__init__.py").write_text(
        "raise RuntimeError('operator torchvision::nms does not exist')"
    )
    write_mask(tmp_path / "photos" / "a.png", np.ones((40, 40), np.uint8))
    (tmp_path / "labels.csv").write_text("a,cat")
    (tmp_path / "classes.txt").write_text("cat")
    call = ["train-cam", "photos", "--labels", "labels.csv", "--classes", "classes.txt", "--out", "x"]
    code = (
        f"import sys, os; sys.path.insert(0, {str(tmp_path)!r}); os.chdir({str(tmp_path)!r})\n"
        f"from pixaff.cli.app import app\napp({call!r})"
    )
    done = run_script(code)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert "operator torchvision::nms does not exist" in done.stderr
    assert "pip install --force-reinstall torch torchvision" in done.stderr


def test_a_closed_pipe_is_no_error():
    code = "from pixaff.cli.app import app; app(['evaluate', '--help'])"
    done = subprocess.run(
        f'{sys.executable} -c "{code}" | true', shell=True, capture_output=True, text=True, check=False
    )
    assert "Traceback" not in done.stderr

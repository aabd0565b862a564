"""The order of the house: imports point one way, names have one meaning, and what is quick stays quick."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import pixaff
from pixaff.cli.app import app

SRC = Path(pixaff.__file__).parent
TESTS = Path(__file__).parent

LAYERS = (
    {"_version", "errors"},
    {"options", "events", "device", "shard", "allocation"},
    {"settings", "recipe", "model_options", "progress", "keywords"},
    {"run_options", "ops", "io"},
    {"viz", "weights"},
    {"models"},
    {"published"},
    {"prediction", "samples"},
    {"predictor"},
    {"segmenter"},
    {"loaders"},
    {"ray"},
    {"stages"},
    {"cli"},
    {"pixaff", "__main__"},
)
"""Modules and packages from below: each may import from the layers below its own."""
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
ALONE = {"ops": set(), "io": {"errors"}, "viz": {"io"}, "options": {"errors"}, "settings": {"errors", "options"}}
"""Those that may import these alone."""
UPWARDS = {("cli", "pixaff")}
"""Exception: a command calls the public function of its name, such as `pixaff.cam`, which is imported when called."""

ONE_NAME = {
    **dict.fromkeys(
        ("cam", "crf"), "a step of the method: its tensors in ops, its folders in stages, its words in cli"
    ),
    **dict.fromkeys(
        (
            "download_weights",
            "evaluate",
            "export",
            "fit",
            "import_masks",
            "info",
            "propagate",
            "train_affinity",
            "train_cam",
            "train_irn",
        ),
        "a command: its work in stages, its words in cli",
    ),
    "report": "what became of a run: its photos one by one in stages/batch, its masks to look at as a command",
    **dict.fromkeys(("export_onnx", "segment", "train_seg"), "a command, too"),
    "options": "options, and the command line that is made of them",
    "base": "what each network, and each source of photos or weights, promises",
    **dict.fromkeys(("coco", "cvat", "yolo"), "a format: the labels in it, and masks that are exported to it"),
    "sources": "where photos come from, and where weights do",
    "parquet": "a format: labels in it, and photos",
    "psa": "of PSA: its networks, and its CAM files",
    "instances": "of photos: how they are found in ops, their files in io",
    "labels": "the field's word for both: of images in io, of cells and their pairs in ops",
    "metrics": "the figures that say how good something is: of masks in ops, in metrics.jsonl of a training in stages",
}
"""Names that several modules share, with what they have in common."""

OF_COMMANDS = {"pixaff.stages.fit", "pixaff.stages.training.chains"}
"""What is made of other commands: fit, and the lists of its stages."""

PROBED = {("stages/batch/inputs.py", "sys.stdin")}
"""What is asked for an attribute that may be missing, where networks are used: the system, never a network."""


def module_name(path: Path) -> str:
    parts = path.relative_to(SRC).with_suffix("").parts
    return ".".join(("pixaff", *(part for part in parts if part != "__init__")))


MODULES = {module_name(path): path for path in sorted(SRC.rglob("*.py"))}


def tree(module: str) -> ast.Module:
    return ast.parse(MODULES[module].read_text(encoding="utf-8"))


def imports(module: str) -> Iterator[str]:
    """The modules of ours that a module imports anywhere, for type checkers alone included."""
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] == "pixaff")
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: relative import"
            if node.module is not None and node.module.split(".")[0] == "pixaff":
                for alias in node.names:
                    whole = f"{node.module}.{alias.name}"
                    yield whole if whole in MODULES else node.module


def unit(module: str) -> str:
    """The module or package below pixaff that a module belongs to."""
    return module.split(".")[1] if "." in module else "pixaff"


def test_every_module_has_its_layer() -> None:
    assert len(MODULES) > 100
    assert {unit(module) for module in MODULES} == set(LEVEL)


@pytest.mark.parametrize("name", sorted(LEVEL))
def test_imports_point_down(name: str) -> None:
    found = {(module, other) for module in MODULES if unit(module) == name for other in imports(module)}
    wrong = [
        f"{module} imports {other}"
        for module, other in sorted(found)
        if (below := unit(other)) != name
        and (name, below) not in UPWARDS
        and not (LEVEL[below] < LEVEL[name] and (name not in ALONE or below in ALONE[name]))
    ]
    assert wrong == []


def test_no_module_imports_itself_by_way_of_others() -> None:
    graph = {module: {other for other in imports(module) if other not in ("pixaff", module)} for module in MODULES}
    try:
        assert set(TopologicalSorter(graph).static_order()) >= set(MODULES) - {"pixaff"}
    except CycleError as error:
        pytest.fail(f"imports go round in a circle: {' <- '.join(error.args[1])}")


def test_stages_hold_a_file_a_command_above_what_they_share() -> None:
    commands = {command.name.replace("-", "_") for command in app.registered_commands if command.name}
    commands = commands - {"import"} | {"import_masks"}  # import is a word of Python's
    here = {module.split(".")[2] for module in MODULES if module.startswith("pixaff.stages.")}
    assert here == commands | {"batch", "training"}
    for module in MODULES:
        inner = module.split(".")
        if module in OF_COMMANDS:
            continue
        if inner[:2] == ["pixaff", "stages"] and len(inner) > 3:
            allowed = {"batch"} | ({"training"} if inner[2] == "training" else set())
            used = {other.split(".")[2] for other in imports(module) if other.startswith("pixaff.stages.")}
            assert used <= allowed, f"{module} imports {used - allowed}"
        elif inner[:2] == ["pixaff", "stages"] and inner[-1] != "stages":
            used = {other.split(".")[2] for other in imports(module) if other.startswith("pixaff.stages.")}
            assert used <= {"batch", "training"}, f"{module} is built on another command"


def test_a_name_means_one_thing() -> None:
    names = defaultdict(list)
    for module in MODULES:
        names[module.rpartition(".")[2]].append(module)
    assert {name for name, modules in names.items() if len(modules) > 1} == set(ONE_NAME)


def test_ops_and_the_predictor_start_no_threads_and_print_nothing() -> None:
    quiet = [module for module in MODULES if unit(module) in ("ops", "predictor", "models", "io", "weights", "viz")]
    for module in quiet:
        for node in ast.walk(tree(module)):
            assert not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print")
    for module in MODULES:
        if unit(module) in ("ops", "predictor", "models"):
            names = {
                name.split(".")[0]
                for node in ast.walk(tree(module))
                if isinstance(node, (ast.Import, ast.ImportFrom))
                for name in ([alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module])
            }
            assert not names & {"threading", "concurrent", "multiprocessing", "asyncio"}, module


def test_networks_are_not_asked_what_they_can_do() -> None:
    """`CamNetwork` and `AffinityNetwork` promise all that is used of a network; mypy tells what is missing."""
    found = set()
    for module in MODULES:
        if unit(module) in ("models", "ops", "predictor", "stages"):
            for node in ast.walk(tree(module)):
                call = isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
                if call and node.func.id in ("hasattr", "getattr", "setattr"):
                    found.add((MODULES[module].relative_to(SRC).as_posix(), ast.unparse(node.args[0])))
    assert found == PROBED


@pytest.mark.parametrize(
    ("code", "heavy"),
    [
        ("import pixaff; dir(pixaff)", {"torch", "torchvision", "timm", "numpy", "PIL", "typer", "rich", "matplotlib"}),
        ("import pixaff.cli.app", {"torch", "torchvision", "timm", "numpy", "PIL", "rich", "matplotlib", "requests"}),
        ("import pixaff; pixaff.PixaffError, pixaff.Settings, pixaff.Recipe", {"torch", "numpy", "PIL", "typer"}),
        ("import pixaff; pixaff.propagate, pixaff.cam, pixaff.crf, pixaff.evaluate", {"torch", "torchvision", "timm"}),
        ("import pixaff.weights, pixaff.io.labels, pixaff.io.cams", {"torch", "torchvision", "timm"}),
    ],
)
def test_what_need_not_wait_for_torch_does_not(code: str, heavy: set[str]) -> None:
    code += f"; import sys; print(sorted({heavy!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.splitlines()[-1:] == ["[]"], done.stdout + done.stderr


def test_public_names_are_the_same_for_type_checkers() -> None:
    declared = {
        alias.asname: node.module
        for block in tree("pixaff").body
        if isinstance(block, ast.If)
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert declared == pixaff._HOMES
    assert set(pixaff.__all__) == {*pixaff._HOMES, "__version__"} <= set(dir(pixaff))
    for name in pixaff.__all__:
        assert getattr(pixaff, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'propagat'"):
        _ = pixaff.propagat


def test_tests_lie_as_the_package_does() -> None:
    """A test file is found where its module is."""
    folders = {path.parent.relative_to(TESTS) for path in TESTS.rglob("test_*.py")}
    packages = {path.parent.relative_to(SRC) for path in MODULES.values()}
    assert folders - packages <= {Path("docs"), Path("faults")}

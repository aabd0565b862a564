"""Every option that the documentation and the examples mention exists, in the command that they give it to."""

from __future__ import annotations

import ast
import inspect
import re
from pathlib import Path

import pytest
from typer.main import get_command

import pixaff
from pixaff.cli.app import app
from pixaff.model_options import ModelOptions
from pixaff.options import options_of
from pixaff.run_options import BatchOptions, TrainingOptions
from pixaff.settings import Settings

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")), *sorted((ROOT / "examples").glob("*.sh"))]
IDS = [str(page.relative_to(ROOT)) for page in PAGES]
GROUP = get_command(app)
OPTIONS = {
    name: {word for one in command.params for word in (*one.opts, *one.secondary_opts)} | {"--help", "-h"}
    for name, command in GROUP.commands.items()  # type: ignore[attr-defined]
}
ALL = set().union(*OPTIONS.values(), (word for one in GROUP.params for word in one.opts))
NAMES = "|".join(sorted(OPTIONS, key=len, reverse=True))
COMMAND = re.compile(rf"(?:(?<![-\w/.])pixaff |(?<=`)(?:pixaff )?)({NAMES})(?![\w-])([^\n`|;>&#)]*)")
OPTION = re.compile(r"(?<![\w-])--?[a-z][a-z-]*(?![\w-])")
ELSEWHERE = {
    "--scale",
    "--busy", "--cold", "--large", "--masks", "--count", "--every",  # of benchmarks and of the Python examples
    # of a function in a script
    "--array", "--cpus-per-task", "--gpus-per-task", "--job-name", "--mem", "--requeue", "--time",  # of sbatch
    "--nproc-per-node", "--nnodes", "--rdzv-backend", "--rdzv-endpoint",  # of torchrun
    "--rounds",  # of the fault harness
    "--address", "--head", "--port",  # of ray start
    "--max-labels",  # the option that architecture.md adds
}  # fmt: skip


def text_of(page: Path) -> str:
    text = page.read_text(encoding="utf-8")
    return re.sub(r"\\\n\s*", " ", text)


def commands_in(text: str) -> list[tuple[str, set[str]]]:
    """The commands of a text, each with its options."""
    return [(found[1], set(OPTION.findall(found[2]))) for found in COMMAND.finditer(text)]


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_options_exist_in_their_command(page: Path) -> None:
    found = commands_in(text_of(page))
    assert [(name, sorted(unknown)) for name, given in found if (unknown := given - OPTIONS[name])] == []


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_options_exist_at_all(page: Path) -> None:
    """Those that stand alone, too: in running text, or in a variable of a script."""
    others = re.compile(r"\bpip |python -m benchmarks|python \"")
    lines = [line for line in text_of(page).splitlines() if not others.search(line)]
    given = {word for line in lines for word in OPTION.findall(line) if word.startswith("--") and len(word) > 3}
    assert sorted(given - ALL - ELSEWHERE) == []


def test_commands_are_found() -> None:
    """The patterns above see what they are meant to see."""
    text = (
        "Run `pixaff cam photos/ --out x -b 3`, then\n\n    pixaff evaluate --cams a --no-such | head\n`fit --preset P`"
    )
    assert commands_in(text) == [("cam", {"--out", "-b"}), ("evaluate", {"--cams", "--no-such"}), ("fit", {"--preset"})]
    assert sum(len(commands_in(text_of(page))) for page in PAGES) > 80


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_python_calls_take_their_keywords(page: Path) -> None:
    """`pixaff.NAME(...)` in the code blocks, which are not all run."""
    fields = {name for kind in (Settings, ModelOptions, BatchOptions, TrainingOptions) for name in options_of(kind)}
    known = fields | {"report", "progress"}
    wrong = []
    for code in re.findall(r"```python\n(.*?)```", page.read_text("utf-8"), re.DOTALL):
        for call in ast.walk(ast.parse(code)):
            if not (isinstance(call, ast.Call) and ast.unparse(call.func).startswith("pixaff.")):
                continue
            name = ast.unparse(call.func).removeprefix("pixaff.")
            function = getattr(pixaff, name) if "." not in name else None
            if function is not None and inspect.isfunction(function):
                parameters = inspect.signature(function).parameters
                takes = set(parameters) | (known if "options" in parameters else set())
                wrong += [f"{name}: {each.arg}" for each in call.keywords if each.arg not in takes]
    assert wrong == []

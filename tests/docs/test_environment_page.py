"""docs/environment.md names every environment variable that the code asks for, and no other of pixaff's."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pixaff
from pixaff.weights.cache import OFFLINE, VARIABLE

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "environment.md").read_text(encoding="utf-8")
NAMED = {
    name for line in PAGE.splitlines() if line.startswith("| `") for name in re.findall(r"`(\w+)`", line.split("|")[1])
}
OWN = re.compile(r"PIXAFF_[A-Z]+")
BY_TYPER = "_PIXAFF_COMPLETE"


def asked() -> set[str]:
    """What stands in `os.environ.get(...)`, `os.environ[...]`, `os.getenv(...)`: names, or constants."""
    found = set()
    for path in Path(pixaff.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if (
                isinstance(node, ast.Call)
                and node.args
                and re.match(r"os\.(environ\.\w+|getenv)$", ast.unparse(node.func))
            ):
                found.add(ast.unparse(node.args[0]).strip("'\""))
            elif isinstance(node, ast.Subscript) and ast.unparse(node.value) == "os.environ":
                found.add(ast.unparse(node.slice).strip("'\""))
    return found


def test_every_variable_of_the_code_is_on_the_page() -> None:
    constants = {"VARIABLE": {VARIABLE, "PIXAFF_CATALOGUE"}, "OFFLINE": {OFFLINE}}
    names = {name for found in asked() for name in constants.get(found, {found})}
    assert len(names) >= 5
    assert names <= NAMED


def test_every_variable_of_pixaff_on_the_page_is_one() -> None:
    sources = "\n".join(path.read_text(encoding="utf-8") for path in Path(pixaff.__file__).parent.rglob("*.py"))
    assert {name for name in NAMED if "PIXAFF" in name} - {BY_TYPER} == set(OWN.findall(sources))


def test_no_other_page_knows_more() -> None:
    pages = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
    assert {name for page in pages for name in OWN.findall(page.read_text("utf-8"))} - {"PIXAFF_COMPLETE"} <= NAMED

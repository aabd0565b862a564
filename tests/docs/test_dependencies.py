"""The minimum versions: without known holes, and said in the docs."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
SAFE = {
    "torch": "2.10",
    "pillow": "13",
    "requests": "2.33",
    "urllib3": "2.8",
    "filelock": "4.2.1",
    "gdown": "5.2.2",
}
"""The first version of a package without a hole that pixaff's use of it could reach; see docs/dependencies.md."""


def number(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))


def floors(marker: str) -> dict[str, str]:
    """Minimum versions by package; of those that depend on Python's, the ones with this marker."""
    found = {}
    for line in PROJECT["project"]["dependencies"]:
        requirement, _, condition = line.partition(";")
        if not condition or marker in condition:
            name, version = re.fullmatch(r"([a-z0-9]+)>=([\d.]+)", requirement.strip()).groups()
            assert name not in found
            found[name] = version
    return found


@pytest.mark.parametrize(("package", "first"), SAFE.items())
def test_case_floors_with_known_holes(package: str, first: str) -> None:
    assert number(floors(">=")[package]) >= number(first)
    assert package in floors("<")  # Python 3.10 has a floor too


def test_the_docs_name_the_minimum_of_every_package() -> None:
    text = (ROOT / "docs/dependencies.md").read_text(encoding="utf-8")
    said = {}
    for packages, versions in re.findall(r"^\| ([a-z0-9, ]+) \| [^|]+ \| (\d[^|]*) \|$", text, re.MULTILINE):
        new, old = [*versions.split("; on Python 3.10: "), versions][:2]
        said |= dict(zip(packages.split(", "), zip(new.split(", "), old.split(", "), strict=False), strict=False))
    for index, marker in enumerate((">=", "<")):
        for package, version in floors(marker).items():
            assert said[package][index] == version, package

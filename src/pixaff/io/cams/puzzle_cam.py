"""Puzzle-CAM and PNOC: `keys` with `hr_cam`, or with `rw` after their walk; read only."""

from __future__ import annotations

from pixaff.io.cams.camfile import CamFile, Opened
from pixaff.io.cams.keyed import read_keyed

NAME = "puzzle-cam"
HOLDS = "keys with hr_cam or rw"


def detect(file: Opened) -> bool:
    return "keys" in file.content and ("hr_cam" in file.content or "rw" in file.content)


def read(file: Opened) -> CamFile:
    return read_keyed(file, "hr_cam" if "hr_cam" in file.content else "rw")

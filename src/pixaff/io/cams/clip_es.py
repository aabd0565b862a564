"""CLIP-ES: `keys` in the order of the objects, with `attn_highres`; read only."""

from __future__ import annotations

from pixaff.io.cams.camfile import CamFile, Opened
from pixaff.io.cams.keyed import read_keyed

NAME = "clip-es"
HOLDS = "keys with attn_highres"


def detect(file: Opened) -> bool:
    return "keys" in file.content and "attn_highres" in file.content


def read(file: Opened) -> CamFile:
    return read_keyed(file, "attn_highres")

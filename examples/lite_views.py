"""Keep what the frozen part of `lite_cam` sees of all images, in one file a view.

    python examples/lite_views.py --help

A view is a scale, mirrored or not. Its file holds float16 (cells of all images, 120 + 352): the two levels at stride
16, cell by cell; the .json beside it each image's name, rows and columns. 4,287 VOC images take 2.8 GB at scale 1.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from pixaff.io.labels import read_list
from pixaff.models.bundle import load_model

LONG = 500
"""Long side in pixels at scale 1: most VOC photos have it."""
CHANNELS = 120 + 352


class View:
    """A view's file: ``view[name]`` reads float32 (1, 472, h, w) from the disk."""

    def __init__(self, path: Path) -> None:
        index = json.loads(path.with_suffix(".json").read_text())
        cells = np.memmap(path, np.float16, "r").reshape(-1, CHANNELS)
        ends = np.cumsum([rows * columns for _, rows, columns in index])
        self._images = {
            name: cells[end - rows * columns : end].reshape(rows, columns, CHANNELS)
            for (name, rows, columns), end in zip(index, ends, strict=True)
        }

    def __getitem__(self, name: str) -> Tensor:
        return torch.from_numpy(self._images[name].astype(np.float32)).permute(2, 0, 1)[None]


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="file of the view, .bin")
    parser.add_argument("voc", type=Path, nargs="+", help="folders with JPEGImages")
    parser.add_argument("--list", type=Path, action="append", required=True, help="one for each folder")
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--mirror", action="store_true")
    parser.add_argument("--model", default="lite")
    options = parser.parse_args()
    model = load_model(options.model).cam.to(memory_format=torch.channels_last)
    index = []
    with options.out.open("wb") as file:
        for voc, listing in zip(options.voc, options.list, strict=True):
            for name in read_list(listing):
                image = Image.open(voc / "JPEGImages" / f"{name}.jpg").convert("RGB")
                factor = LONG * options.scale / max(image.size)
                columns, rows = (max(1, round(side * factor / 16)) * 16 for side in image.size)
                x = model.preprocess(image.resize((columns, rows), Image.Resampling.BICUBIC))[None]
                x = x.flip(3) if options.mirror else x
                # bfloat16 takes 73 ms instead of 175 for 384 x 512 on a core that knows it.
                with torch.autocast("cpu", torch.bfloat16):
                    _, middle, coarse = model.backbone(x.contiguous(memory_format=torch.channels_last))
                cells = torch.cat([middle, coarse], 1)[0].permute(1, 2, 0).half().contiguous()
                file.write(cells.numpy().tobytes())
                index.append([name, *cells.shape[:2]])
                if len(index) % 500 == 0:
                    print(f"{len(index)} images", flush=True)
    options.out.with_suffix(".json").write_text(json.dumps(index))


if __name__ == "__main__":
    main()

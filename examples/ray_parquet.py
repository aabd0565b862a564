"""Masks as a step of a Ray Data pipeline: reads Parquet, writes Parquet.

    pip install 'pixaff[ray]' 'ray[data]'
    python examples/ray_parquet.py [IN] [OUT]

IN is a folder of Parquet files with the columns "image" (bytes of image files) and "labels" (lists of class names);
without it, three photos are used. OUT gets the columns "name", "mask" (bytes of a PNG), "classes" and "error".
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import ray

import pixaff.ray

PHOTOS = {"chelsea": ["cat"], "astronaut": ["person"], "grace_hopper": ["person"]}


def draw_input(folder: Path) -> Path:
    """Two Parquet files of photos that lie beside this file."""
    photos = Path(__file__).parent / "photos"
    rows = [
        {"name": name, "image": (photos / f"{name}.jpg").read_bytes(), "labels": labels}
        for name, labels in PHOTOS.items()
    ]
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows[:2]), folder / "0.parquet")
    pq.write_table(pa.Table.from_pylist(rows[2:]), folder / "1.parquet")
    return folder


def main(source: str | None = None, out: str = "masks-parquet", **options: object) -> None:
    """Make a mask of each row; options are those of `pixaff.load`, such as ``model="run"``."""
    with tempfile.TemporaryDirectory() as own:
        photos = ray.data.read_parquet(source or str(draw_input(Path(own) / "photos")))
        masks = photos.map_batches(
            pixaff.ray.Predict,
            fn_constructor_kwargs={"labels": "labels", **options},
            concurrency=1,  # processes that hold the model; with num_gpus=1, each has a GPU
            batch_size=32,
        )
        masks.drop_columns(["image", "labels"]).write_parquet(out)
    for row in pq.read_table(out).to_pylist():
        print(f"{row['name']}: {row['error'] or ', '.join(row['classes'])}")


if __name__ == "__main__":
    main(*sys.argv[1:])

"""Photos a second of `pixaff segment` against `pixaff propagate`, both with lite's networks, and what takes the time.

    python -m benchmarks.segment [PHOTOS] [--model RUN] [--images N] [--repeats N] [--json]

Labels are predicted, as a segmentation network needs none. The photos are taken again and again under new names until
there are enough.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pixaff
from benchmarks.measuring import arguments, show, take_turns
from benchmarks.propagate import PHOTOS, link_photos
from benchmarks.walk import Rows
from pixaff.stages.batch.report import Report

WAYS: Mapping[str, Mapping[str, Any]] = {
    "segment": {},
    "segment, size 448": {"size": 448},
    "segment, size 512": {"size": 512},
    "segment, scales 1 0.5, mirrored": {"scales": (1.0, 0.5), "flip": True},
    "segment, CRF": {"crf": True},
    "segment, int8": {"inference": "int8"},
}
"""Options of segment by name."""


def compare(source: Path, model: str | Path, images: int, repeats: int) -> tuple[Rows, dict[str, int | str]]:
    """Photos a second of each way."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        photos = link_photos(source, folder, images)

        def done(report: Report) -> None:
            assert report.ok, report.failed[:1]

        def segment(options: Mapping[str, Any]) -> Callable[[], None]:
            return lambda: done(pixaff.segment(photos, folder / "segment", model=model, overwrite=True, **options))

        ways = {way: given for way, given in WAYS.items() if "inference" not in given or model == "lite"}
        works: list[Callable[[], None]] = [
            lambda: done(pixaff.propagate(photos, folder / "propagate", overwrite=True)),
            *(segment(options) for options in ways.values()),
        ]
        for work in works:
            work()
        seconds = take_turns(works, repeats)
    rows: Rows = [
        {"way": way, "photos_per_second": images / taken, "times_propagate": seconds[0] / taken}
        for way, taken in zip(("propagate", *ways), seconds, strict=True)
    ]
    return rows, {"images": images, "model": str(model)}


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("photos", type=Path, nargs="?", default=PHOTOS, help="folder (default: %(default)s)")
    parser.add_argument(
        "--model", default="lite", help="folder of a run with a segmentation network (default: %(default)s)"
    )
    parser.add_argument("--images", type=int, default=24, help="of a timed run (default: %(default)s)")
    options = parser.parse_args()
    show("Segmentation", *compare(options.photos, options.model, options.images, options.repeats), options.json)


if __name__ == "__main__":
    main()

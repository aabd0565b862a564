"""Time what stands between a user and the first result: `pixaff --help` and a small `pixaff evaluate`.

    python -m benchmarks.startup [--repeats N] [--json]

Both are compared with ``python -c "import torch"``, in fresh processes that take turns; the first round is not counted.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks.measuring import Row, arguments, show, take_turns
from pixaff.io.masks import write_mask


def main() -> None:
    options = arguments(__doc__).parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        mask = np.zeros((375, 500), np.uint8)
        mask[100:200, 100:300] = 8
        for side in ("found", "truth"):
            write_mask(folder / side / "photo.png", mask)
        program = [sys.executable, "-m", "pixaff"]
        commands = {
            "import torch": [sys.executable, "-c", "import torch"],
            "pixaff --help": [*program, "--help"],
            "pixaff evaluate, one pair": [*program, "evaluate", str(folder / "found"), str(folder / "truth")],
        }
        works = [partial(subprocess.run, command, check=True, capture_output=True) for command in commands.values()]
        for work in works:
            work()
        seconds = take_turns(works, options.repeats)
    rows: list[Row] = [
        {"command": c, "seconds": s, "of_import_torch": s / seconds[0]} for c, s in zip(commands, seconds, strict=True)
    ]
    show("Start-up", rows, {"runs": options.repeats}, options.json)


if __name__ == "__main__":
    main()

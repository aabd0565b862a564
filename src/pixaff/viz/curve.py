"""The loss curve of a training run."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pixaff.io.atomic import write_bytes


def loss_curve(path: str | os.PathLike[str], records: Sequence[Mapping[str, Any]], keys: Sequence[str]) -> None:
    """Draw values of a training over the steps, as PNG, atomically.

    More than 100 values of a key are drawn faintly, under their running mean.

    Args:
        path: The PNG file; parent folders are made.
        records: The records of the training, in order; each may have any of the keys. The horizontal axis is `step` if
            every record has it, and the number of the record otherwise.
        keys: The values to draw, one line each.

    Raises:
        ValueError: No record has any of the keys.
        OutputError: The file cannot be written.
    """
    # Slow to import. Without pyplot, which would choose a backend for the whole process.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    by_step = all("step" in record for record in records)
    figure = Figure(figsize=(8, 4.5), dpi=110, layout="constrained")
    axes = figure.add_subplot()
    for number, key in enumerate(keys):
        points = [
            (record["step"] if by_step else index, record[key])
            for index, record in enumerate(records, 1)
            if record.get(key) is not None
        ]
        if not points:
            continue
        x, y = np.asarray(points, dtype=float).T
        colour = f"C{number % 10}"
        window = len(y) // 50
        if len(y) > 100:
            axes.plot(x, y, color=colour, alpha=0.25, linewidth=0.8)
            mean = np.convolve(y, np.full(window, 1 / window), mode="valid")
            start = window - 1
            axes.plot(x[start:], mean, color=colour, label=f"{key} (mean of {window})")
        else:
            axes.plot(x, y, color=colour, label=key, marker="o" if len(y) < 30 else "", markersize=3)
    if not axes.lines:
        raise ValueError(f"records: found {len(records)} without {', '.join(keys)}, expected one or more with them")
    axes.set_xlabel("step" if by_step else "record")
    axes.set_ylim(bottom=min(0.0, axes.get_ylim()[0]))
    axes.grid(alpha=0.3)
    axes.legend()
    png = io.BytesIO()
    FigureCanvasAgg(figure).print_png(png)
    write_bytes(path, png.getvalue())

"""Masks as a step of your own Ray Data pipeline.

>>> import ray, pixaff.ray  # doctest: +SKIP
>>> photos = ray.data.read_parquet("photos/")  # columns image and labels  # doctest: +SKIP
>>> masks = pixaff.ray.map_batches(photos, labels="labels", concurrency=4)  # doctest: +SKIP
>>> masks.drop_columns(["image"]).write_parquet("masks/")  # doctest: +SKIP

`map_batches` is short for ``dataset.map_batches(pixaff.ray.Predict, ...)``. A command on a cluster, with folders,
records and resuming, is ``pixaff propagate --cluster ray``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pixaff.allocation import settle_process
from pixaff.errors import ImageError, PixaffError, UsageError, shortened
from pixaff.io.blob import Blob

if TYPE_CHECKING:
    from pixaff.prediction import ImageLike

MASK, CLASSES, ERROR = "mask", "classes", "error"
"""Columns that `Predict` adds."""


def map_batches(
    dataset: Any,
    model: str | Path | None = None,
    *,
    image: str = "image",
    labels: str | None = None,
    concurrency: int | tuple[int, int] = 1,
    batch_size: int = 32,
    num_cpus: float | None = None,
    num_gpus: float | None = None,
    **options: Any,
) -> Any:
    """Add masks to a ``ray.data.Dataset``: ``dataset.map_batches(Predict, ...)`` with the arguments that suit it.

    Args:
        dataset: Has a column of images; see `Predict`.
        model: As for `pixaff.load`.
        image, labels: Names of the columns.
        concurrency: Number of processes that hold the model, or the fewest and the most.
        batch_size: Number of rows that a process gets at a time.
        num_cpus, num_gpus: What Ray reserves for each process; one with GPUs computes on them.
        **options: As for `pixaff.load`, such as ``alpha=4``.

    Returns:
        The dataset with the columns that `Predict` adds; Ray computes it when it is read or written.
    """
    known = {"model": model, "image": image, "labels": labels, "device": "cuda" if num_gpus else "cpu", **options}
    reserved = {"num_cpus": num_cpus, "num_gpus": num_gpus}
    return dataset.map_batches(
        Predict,
        fn_constructor_kwargs=known,
        concurrency=concurrency,
        batch_size=batch_size,
        **{name: value for name, value in reserved.items() if value is not None},
    )


class Predict:
    """A predictor for ``ray.data.Dataset.map_batches``; it needs no Ray itself.

    Args:
        model: As for `pixaff.load`.
        image: Column of the images, each the bytes of an image file, a dictionary with these as "bytes" (as Hugging
            Face data sets have), a path, or a uint8 array (H,W,3) or (H,W).
        labels: Column of the labels, each a list of class names or 0-based indices, or None; without the column, or
            with None, they are predicted.
        batch: Number of images computed together.
        **options: As for `pixaff.load`, such as ``device="cuda"`` or ``alpha=4``.

    Raises:
        UsageError: As `pixaff.load`.
        CheckpointError: The model cannot be loaded.

    Example:
        >>> dataset.map_batches(
        ...     pixaff.ray.Predict, fn_constructor_kwargs={"model": "lite"}, concurrency=2, batch_size=32
        ... )  # doctest: +SKIP
    """

    def __init__(
        self,
        model: str | Path | None = None,
        *,
        image: str = "image",
        labels: str | None = None,
        batch: int = 4,
        **options: Any,
    ) -> None:
        settle_process()
        from pixaff.loaders import load

        self.model, self.image, self.labels, self.batch = load(model, **options), image, labels, batch

    def __call__(self, rows: Mapping[str, Any]) -> dict[str, Any]:
        """Add to a batch of rows the columns "mask" (bytes of a palette PNG), "classes" (list of names) and "error".

        An image that cannot be read or computed costs itself alone: its mask is None, and "error" says why, on one
        line; of all others "error" is None.

        Raises:
            UsageError: A column is missing.
        """
        for column in (self.image, self.labels):
            if column is not None and column not in rows:
                raise UsageError(f"no column {shortened(column)!r}", f"columns: {', '.join(map(shortened, rows))}")
        images = list(rows[self.image])
        given = [None] * len(images) if self.labels is None else list(map(_labels, rows[self.labels]))
        made: list[tuple[bytes | None, list[str], str | None]] = []
        for begin in range(0, len(images), self.batch):
            there = slice(begin, begin + self.batch)
            made += self._masks(images[there], given[there])
        masks, classes, errors = zip(*made, strict=True) if made else ((), (), ())
        labels = {} if self.labels is None else {self.labels: _column(given)}  # Arrow takes lists, no arrays of arrays
        return {**rows, **labels, MASK: _column(masks), CLASSES: _column(classes), ERROR: _column(errors)}

    def _masks(self, images: Sequence[Any], labels: Sequence[Any]) -> list[tuple[bytes | None, list[str], str | None]]:
        from pixaff.io.masks import mask_png

        try:
            samples = [self.model.sample(_image(one), each) for one, each in zip(images, labels, strict=True)]
            return [(mask_png(one.mask), list(one.classes), None) for one in self.model.predict(samples)]
        except Exception as error:
            if len(images) == 1:
                told = str(error) if isinstance(error, PixaffError) else f"{type(error).__name__}: {shortened(error)}"
                return [(None, [], told)]
        return [made for pair in zip(images, labels, strict=True) for made in self._masks([pair[0]], [pair[1]])]


def _image(value: Any) -> ImageLike:
    """An image as the predictor takes it."""
    if isinstance(value, Mapping):
        value = value.get("bytes") or value.get("path")
    if isinstance(value, (bytes, bytearray, memoryview)):
        return Blob("image", bytes(value))
    if value is None:
        raise ImageError("found no image, expected bytes, a path or an array")
    return value


def _labels(value: Any) -> list[str | int] | None:
    return None if value is None else [one if isinstance(one, str) else int(one) for one in value]


def _column(values: Sequence[Any]) -> Any:
    """A column of objects: NumPy would make text of bytes, and arrays of lists."""
    import numpy as np

    column = np.empty(len(values), object)
    column[:] = values
    return column

"""Shards of the photos in a folder, as webdataset and Hugging Face write them."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def tar_of(path: Path, members: Mapping[str, bytes]) -> Path:
    """A tar file with members of these names."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


def parquet_of(path: Path, images: list[Any], **columns: list[Any]) -> Path:
    """A Parquet file with a column of images."""
    import pyarrow as pa
    from pyarrow import parquet

    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pa.table({"image": images, **columns}), path)
    return path


def unpacked(path: Path) -> dict[str, bytes]:
    """The files in a tar file, or the masks in a Parquet file."""
    if path.suffix == ".tar":
        with tarfile.open(path) as archive:
            return {member.name: archive.extractfile(member).read() for member in archive}  # type: ignore[union-attr]
    from pyarrow import parquet

    return {row["mask"]["path"]: row["mask"]["bytes"] for row in parquet.read_table(path).to_pylist() if row["mask"]}

"""A source of any kind: fetch a file from it, list it, or ask whether it answers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import quote

from pixaff.errors import DownloadError
from pixaff.weights import drive, http, onedrive, resuming
from pixaff.weights.catalogue import Expected, Source
from pixaff.weights.network import Found, Network

WEIGHTS_SUFFIXES = (".pth", ".pt", ".ckpt", ".bin", ".safetensors")


def is_weights_name(name: str) -> bool:
    """Whether a file's name is one that weights have; a README beside them has not."""
    return name.lower().removesuffix(".tar").endswith(WEIGHTS_SUFFIXES)


def transfer(source: Source, folder: Path, file: str, network: Network, *, label: str, wanted: Expected) -> Path:
    """Fetch one file, or the rest of it, into ``folder`` under a hidden name, which is returned.

    Raises:
        DownloadError: It cannot be had.
        OutputError: The disk is full.
    """
    if source.kind == "drive-folder":
        source = _in_folder(source, file, network)
    if source.kind == "drive-file":
        return drive.download(source.value, folder, file, network, label=label, size=wanted.size)
    if source.kind == "onedrive":
        return onedrive.download(source.value, folder, file, network, label=label, size=wanted.size)
    address = source.value + quote(file) if source.value.endswith("/") else source.value
    return resuming.download(address, folder, file, network, label=label, size=wanted.size)


def list_files(source: Source, known: Sequence[str], network: Network) -> list[tuple[str, Source]]:
    """The files of a folder's source: pairs of relative path and where it lies.

    Args:
        source: A folder on Google Drive, or an address ending in "/", whose files are those that are known.
        known: Names from the catalogue or from an earlier download.
        network: How it is reached.

    Raises:
        DownloadError: It cannot be listed, or no names are known.
    """
    if source.kind == "drive-folder":
        return [(path, Source("drive-file", key)) for key, path in drive.list_folder(source.value, network)]
    if not known:
        raise DownloadError(
            f"{http.shown(source.value)}: the names of its files are not known", "pin them in a catalogue of your own"
        )
    return [(path, Source("http", source.value + quote(path))) for path in known]


def probe(source: Source, file: str, network: Network) -> Iterator[tuple[str, Found | DownloadError]]:
    """Try each way to a source without fetching it: the way's name ("" where there is one only) and what came."""
    try:
        if source.kind == "onedrive":
            yield from onedrive.probe(source.value, network)
        elif source.kind == "drive-folder":
            for path, each in list_files(source, (), network):
                yield path, drive.probe(each.value, network)
        elif source.kind == "drive-file":
            yield "", drive.probe(source.value, network)
        else:
            yield "", http.probe(source.value + quote(file) if source.value.endswith("/") else source.value, network)
    except DownloadError as error:
        yield "", error


def source_words(source: Source) -> str:
    """A source as it may be shown and recorded."""
    return http.shown(source.value) if source.kind == "http" else str(source)


def _in_folder(source: Source, file: str, network: Network) -> Source:
    for key, path in drive.list_folder(source.value, network):
        if path.rpartition("/")[2] == file:
            return Source("drive-file", key)
    raise DownloadError(f"{source}: found no file called {file} in it")

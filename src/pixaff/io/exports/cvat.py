"""CVAT's "Segmentation mask 1.1": a zip of masks of classes and of instances, in colours that `labelmap.txt` lists."""

from __future__ import annotations

import io
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pixaff.errors import FormatError, quoted, shortened
from pixaff.io.atomic import atomic_stream
from pixaff.io.exports.base import Corrected, Item, Writer, class_values, image_name, without_void
from pixaff.io.masks import Colour, voc_palette
from pixaff.io.picture_files import opened
from pixaff.io.zips import open_zip

MASKS, LABEL_MAP = "SegmentationClass", "labelmap.txt"
MOST_MEMBER = 256 << 20
"""Bytes of a mask in an archive, unpacked: far above what a PNG of the largest photo takes."""
_BACKGROUND = ("background", "__background__", "_background_")
_DAMAGED = (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError, ValueError, OSError)
MOST_OBJECTS = 255
"""Colours that are told apart in a mask of instances."""


class Cvat(Writer):
    """``masks.zip``, to be imported into a task that has the photos. Void becomes background."""

    name = "cvat"
    regions = True
    forbidden = ":\n"

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.names: list[str] = []
        self._open = ExitStack()

    def shared(self) -> tuple[Path, ...]:
        return (self.out / "masks.zip",)

    def __enter__(self) -> Cvat:
        stream = self._open.enter_context(atomic_stream(self.shared()[0]))
        self._zip = self._open.enter_context(zipfile.ZipFile(stream, "w"))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._open:
            if error is not None:
                self._open.__exit__(kind, error, trace)
                return
            colours = voc_palette()[: len(self.classes) + 1].tolist()
            lines = [
                f"{name}:{red},{green},{blue}::\n"
                for name, (red, green, blue) in zip(("background", *self.classes), colours, strict=True)
            ]
            self._zip.writestr(LABEL_MAP, "# label:color_rgb:parts:actions\n" + "".join(lines))
            self._zip.writestr("ImageSets/Segmentation/default.txt", "".join(f"{name}\n" for name in self.names))

    def convert(self, item: Item) -> Any:
        assert item.regions is not None
        mask, objects = without_void(item.mask), item.regions
        if objects.max() > MOST_OBJECTS:
            objects = mask.astype(np.int64)  # an instance for each class
        return _coloured(mask), _coloured(objects.astype(np.uint8))

    def add(self, name: str, made: Any) -> None:
        self.names.append(name)
        for folder, png in zip((MASKS, "SegmentationObject"), made, strict=True):
            self._zip.writestr(f"{folder}/{name}.png", png)


def _coloured(values: NDArray[np.uint8]) -> bytes:
    """A PNG in RGB: of palettes, programs disagree whether the number or the colour counts."""
    png = io.BytesIO()
    Image.fromarray(voc_palette()[values]).save(png, format="PNG")
    return png.getvalue()


def detect(source: Path) -> bool:
    """Whether this is a "Segmentation mask 1.1" from CVAT: a zip archive, or the folder that was in one."""
    if source.is_dir():
        return (source / LABEL_MAP).is_file() and (source / MASKS).is_dir()
    return source.is_file() and zipfile.is_zipfile(source)


@contextmanager
def corrected(source: Path, classes: Sequence[str] | None) -> Iterator[Corrected]:
    """Read what CVAT exports. Nothing is unpacked but one mask at a time, in a bounded size.

    Args:
        source: The archive or folder.
        classes: Names of the mask values 1, 2, ...; None takes those of `labelmap.txt`, in its order.

    Raises:
        FormatError: It is damaged, is no such archive, or leads out of its folder.
    """
    with ExitStack() as stack:
        read: Callable[[str], bytes]
        if source.is_dir():
            files = [path for path in (source / MASKS).rglob("*.png") if path.is_file() and not path.is_symlink()]
            members = [path.relative_to(source).as_posix() for path in files]
            read = lambda member: (source / member).read_bytes()  # noqa: E731
        else:
            try:
                archive = stack.enter_context(open_zip(source))
            except _DAMAGED as error:
                raise FormatError(f"{source}: no readable zip archive: {shortened(error)}") from None
            members = [each.filename for each in archive.infolist() if not each.is_dir()]
            read = lambda member: _unpacked(source, archive, member)  # noqa: E731
            if LABEL_MAP not in members:
                found = f"{source}: found no {LABEL_MAP} in it, expected CVAT's masks"
                raise FormatError(found, 'export as "Segmentation mask 1.1"')
        colours = _label_map(read(LABEL_MAP), source)
        names = tuple(name for name in colours.values() if name not in _BACKGROUND)
        classes = names if classes is None else tuple(classes)
        values = dict.fromkeys(_BACKGROUND, 0) | class_values(names, classes, source)
        table = {colour: values[name] for colour, name in colours.items()}
        masks = {
            image_name(member.removeprefix(f"{MASKS}/"), source): member
            for member in members
            if member.startswith(f"{MASKS}/") and member.lower().endswith(".png")
        }
        if not masks:
            raise FormatError(f"{source}: found no masks in {MASKS}/ of it", "annotate some photos first")

        def mask_of(name: str) -> NDArray[np.uint8]:
            return _mask(read(masks[name]), f"{source}, {masks[name]}", table)

        yield Corrected(classes, tuple(sorted(masks)), mask_of)


def _unpacked(source: Path, archive: zipfile.ZipFile, member: str) -> bytes:
    """A member of an archive. What its header says of its size is not believed."""
    try:
        with archive.open(member) as stream:
            data = stream.read(MOST_MEMBER + 1)
    except _DAMAGED as error:
        raise FormatError(f"{source}, {shortened(member)}: cannot be unpacked: {shortened(error)}") from None
    if len(data) > MOST_MEMBER:
        raise FormatError(f"{source}, {shortened(member)}: found more than {MOST_MEMBER >> 20} MiB, expected a mask")
    return data


def _label_map(data: bytes, source: Path) -> dict[Colour, str]:
    """Names by colour."""
    found: dict[Colour, str] = {}
    for number, line in enumerate(data[:1_000_000].decode("utf-8-sig", "replace").splitlines(), 1):
        name, _, rest = line.partition(":")
        if not line.strip() or line.startswith("#"):
            continue
        try:
            red, green, blue = (int(part) for part in rest.split(":")[0].split(","))
        except ValueError:
            where = f"{source}, {LABEL_MAP}, line {number}"
            raise FormatError(f"{where}: found {quoted(line)}, expected name:red,green,blue::") from None
        found[red, green, blue] = name.strip()
    return found


def _mask(data: bytes, where: str, values: dict[Colour, int]) -> NDArray[np.uint8]:
    """A mask from the colours of a PNG: programs disagree on what numbers of a palette mean."""
    with tempfile.TemporaryDirectory(prefix="pixaff-") as folder:
        path = Path(folder) / "mask.png"
        path.write_bytes(data)
        try:
            with opened(path, FormatError) as picture:
                pixels = np.asarray(picture.convert("RGB"))
        except FormatError as error:
            raise FormatError(error.message.replace(str(path), where), error.hint) from None
    packed = pixels.astype(np.uint32) @ np.array([1 << 16, 1 << 8, 1], np.uint32)
    present, places = np.unique(packed, return_inverse=True)
    table = np.zeros(len(present), np.uint8)
    for place, code in enumerate(present.tolist()):
        colour = (code >> 16, code >> 8 & 255, code & 255)
        if colour not in values:
            hint = "export the task from CVAT once more, masks and class list together"
            raise FormatError(f"{where}: found the colour {colour}, which {LABEL_MAP} does not name", hint)
        table[place] = values[colour]
    return table[places].reshape(packed.shape)

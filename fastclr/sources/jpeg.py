"""Which JPEGs every decoder reads alike: their structure, checked on the encoded bytes before a decoder sees them."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import prod

import numpy as np
import numpy.typing as npt

START = b"\xff\xd8"
END = b"\xff\xd9"
SOF0, SOF2, DHT, RST0, RST7, EOI, SOS, DQT, DRI, APP0, APP1, APP14, APP15, COM = (
    *(0xC0, 0xC2, 0xC4, 0xD0, 0xD7, 0xD9, 0xDA, 0xDB, 0xDD, 0xE0, 0xE1, 0xEE, 0xEF, 0xFE),
)
KNOWN = {SOF0, SOF0 + 1, SOF2, DHT, SOS, DQT, DRI, COM, *range(APP0, APP15 + 1)}
EXIF = b"Exif\0\0"
XMP_ORIENTATION = b"tiff:Orientation"
ORIENTATION = 0x0112
SHORT = 3  # TIFF's type of a 16-bit number
TABLES = 4
LARGEST_SHIFT = 13  # of the successive approximation of a progressive JPEG
MAX_SCANS = 256  # each pass over the coefficients of all pixels costs time, whatever its length in bytes


class IrregularError(ValueError):
    """A file is no JPEG, or one that decoders may read in different ways."""


@dataclass
class Component:
    """One colour component: its number, sampling factors and quantisation table."""

    name: int
    across: int
    down: int
    table: int


@dataclass
class Frame:
    """What the segments before a scan have said.

    Args:
        height: in pixels, as stored; 0 until the frame header is read.
        width: likewise.
        progressive: whether it is a progressive JPEG.
        components: the colour components, one or three.
        quantisation: numbers of the quantisation tables defined so far.
        huffman: those of the Huffman tables, and 16 more for the tables of AC coefficients.
        restart: number of blocks between restart markers; 0 for no such markers.
        jfif: whether there is a JFIF segment.
        transform: colour transform of Adobe's segment; None without one.
        oriented: whether the EXIF data state an orientation.
        exif: whether there are EXIF data.
    """

    height: int = 0
    width: int = 0
    progressive: bool = False
    components: list[Component] = field(default_factory=list)
    quantisation: set[int] = field(default_factory=set)
    huffman: set[int] = field(default_factory=set)
    restart: int = 0
    jfif: bool = False
    transform: int | None = None
    oriented: bool = False
    exif: bool = False
    xmp_oriented: bool = False


def require(condition: bool, reason: str) -> None:
    """Raise IrregularError with the reason unless the condition holds."""
    if not condition:
        raise IrregularError(reason)


def is_regular(data: bytes, size: tuple[int, int] | None = None) -> bool:
    """Return whether `data` is a JPEG that libjpeg, nvJPEG and DALI read alike, down to its end marker.

    It is if it is baseline or progressive with grey or YCbCr pixels of 8 bits, has one frame, all tables that its scans
    name, nothing but entropy-coded data and the restart markers announced within a scan, an end marker, and at most
    one plain statement of its orientation. Entropy-coded data are not decoded. All other files are for Pillow, which
    decides whether they can be read.

    Args:
        data: the whole file.
        size: height and width that it must have, before or after its orientation is applied; None for any.
    """
    try:
        frame = read_structure(data, whole=True)
    except IrregularError:
        return False
    return size is None or sorted(size) == sorted((frame.height, frame.width))


def read_structure(data: bytes, whole: bool) -> Frame:
    """Walk over the segments of a JPEG, to its end, or else to its first scan.

    Raises:
        IrregularError: it is not regular, see :func:`is_regular`.
    """
    require(data.startswith(START), "no JPEG")
    frame, position, scans, covered = Frame(), len(START), 0, set[int]()
    markers: npt.NDArray[np.int64] | None = None
    while True:
        require(len(data) >= position + 2, "ends without a scan or an end marker")
        require(data[position] == 0xFF, f"no marker at byte {position}")
        marker = data[position + 1]
        if marker == EOI:
            require(scans > 0 and len(covered) == len(frame.components), "ends before all components were scanned")
            return frame
        require(marker in KNOWN, f"marker {marker:#x}, which decoders read in different ways")
        body = read_body(data, position)
        position += 4 + len(body)
        if marker != SOS:
            read_segment(frame, marker, body)
            continue
        scans += 1
        require(scans <= MAX_SCANS, f"more than {MAX_SCANS} scans")
        scanned = check_scan(frame, body)
        if not whole:
            return frame
        names = {component.name for component in scanned}
        require(frame.progressive or not covered & names, "a component that is scanned twice")
        covered |= names
        if markers is None:
            markers = find_markers(data, position)
        position = end_of_scan(frame, scanned, data, markers[np.searchsorted(markers, position) :])


def read_body(data: bytes, position: int) -> bytes:
    """Return the segment at `position` without its marker and length."""
    length = int.from_bytes(data[position + 2 : position + 4], "big")
    require(length >= 2 and position + 2 + length <= len(data), f"a segment at byte {position} has a wrong length")
    return data[position + 4 : position + 2 + length]


def read_segment(frame: Frame, marker: int, body: bytes) -> None:
    """Take a segment other than a scan header into account."""
    if marker == DQT:
        read_quantisation(frame, body)
    elif marker == DHT:
        read_huffman(frame, body)
    elif SOF0 <= marker <= SOF2:
        read_frame(frame, body, progressive=marker == SOF2)
    elif marker == DRI:
        require(len(body) == 2, "restart interval of a wrong length")
        frame.restart = int.from_bytes(body, "big")
    elif marker == APP0:
        frame.jfif |= body.startswith(b"JFIF\0")
    elif marker == APP1:
        read_metadata(frame, body)
    elif marker == APP14 and body.startswith(b"Adobe"):
        require(len(body) >= 12 and frame.transform is None, "Adobe's segment is short, or there are two")
        frame.transform = body[11]


def read_quantisation(frame: Frame, body: bytes) -> None:
    """Note the quantisation tables of a segment."""
    while body:
        precision, number = divmod(body[0], 16)
        size = 1 + 64 * (1 + precision)
        require(precision <= 1 and number < TABLES and len(body) >= size, "damaged quantisation table")
        require(precision == 0 or any(body[1:size]), "damaged quantisation table")
        frame.quantisation.add(number)
        body = body[size:]


def read_huffman(frame: Frame, body: bytes) -> None:
    """Note the Huffman tables of a segment; their codes must fit into their lengths."""
    while body:
        require(len(body) >= 17, "damaged Huffman table")
        counts = body[1:17]
        size = 17 + sum(counts)
        require((body[0] & 0xEF) < TABLES and 0 < sum(counts) <= 256 and len(body) >= size, "damaged Huffman table")
        code = 0
        for length, count in enumerate(counts, 1):
            code = 2 * code + count
            require(code < 2**length or count == 0, "a Huffman table with more codes than bits")
        require(body[0] >= 16 or max(body[17:size]) <= 15, "a Huffman table with impossible differences")
        frame.huffman.add(body[0])
        body = body[size:]


def read_frame(frame: Frame, body: bytes, progressive: bool) -> None:
    """Take size and components from a frame header."""
    require(not frame.components, "two frames")
    require(len(body) >= 6 and body[0] == 8, "not 8 bits per colour")
    frame.height, frame.width = int.from_bytes(body[1:3], "big"), int.from_bytes(body[3:5], "big")
    require(frame.height > 0 and frame.width > 0, "height or width is 0")
    require(body[5] in (1, 3) and len(body) == 6 + 3 * body[5], "neither grey nor three colours")
    for name, sampling, table in zip(body[6::3], body[7::3], body[8::3], strict=True):
        frame.components.append(Component(name, sampling >> 4, sampling & 15, table))
    require(len({component.name for component in frame.components}) == body[5], "two components of one name")
    across, down = largest_sampling(frame)
    for part in frame.components:
        require(1 <= part.across <= 4 and 1 <= part.down <= 4, "sampling factors out of range")
        require(across % part.across == 0 and down % part.down == 0, "fractional sampling")
    frame.progressive = progressive


def largest_sampling(frame: Frame) -> tuple[int, int]:
    """Return the largest sampling factors across and down."""
    return max(part.across for part in frame.components), max(part.down for part in frame.components)


def read_metadata(frame: Frame, body: bytes) -> None:
    """Take the orientation from EXIF data, and note one in XMP data, which Pillow reads and DALI does not."""
    if not body.startswith(EXIF):
        frame.xmp_oriented |= XMP_ORIENTATION in body
        return
    require(not frame.exif, "two segments of EXIF data")
    frame.exif = True
    tiff = body[len(EXIF) :]
    require(tiff[:4] in (b"II*\0", b"MM\0*"), "damaged EXIF data")
    order = "little" if tiff.startswith(b"II") else "big"

    def number(start: int, size: int) -> int:
        require(start + size <= len(tiff), "damaged EXIF data")
        return int.from_bytes(tiff[start : start + size], order)  # type: ignore[arg-type]

    first = number(4, 4)
    for entry in range(first + 2, first + 2 + 12 * number(first, 2), 12):
        if number(entry, 2) == ORIENTATION:
            require(not frame.oriented, "two orientations")
            plain = number(entry + 2, 2) == SHORT and number(entry + 4, 4) == 1
            require(plain and 1 <= number(entry + 8, 2) <= 8, "an orientation that is none")
            frame.oriented = True


def check_scan(frame: Frame, body: bytes) -> list[Component]:
    """Return the components of a scan if it can be decoded with what was defined before."""
    require(bool(frame.components), "a scan before the frame")
    check_colours(frame)
    count = body[0] if body else 0
    require(1 <= count <= len(frame.components) and len(body) == 4 + 2 * count, "damaged scan header")
    named = {component.name: component for component in frame.components}
    chosen = body[1 : 1 + 2 * count : 2]
    require(len(set(chosen)) == count and named.keys() >= set(chosen), "a scan of components that there are not")
    parts = [named[name] for name in chosen]
    require(count == 1 or sum(part.across * part.down for part in parts) <= 10, "more blocks than a scan may hold")
    first, last, (high, low) = body[-3], body[-2], divmod(body[-1], 16)
    if frame.progressive:
        require(first <= last < 64 and (last == 0 if first == 0 else count == 1), "damaged scan header")
        require(low <= LARGEST_SHIFT and high in (0, low + 1), "damaged scan header")
    else:
        require((first, last, high, low) == (0, 63, 0, 0), "damaged scan header")
    for part, tables in zip(parts, body[2 : 2 + 2 * count : 2], strict=True):
        require(part.table in frame.quantisation, f"quantisation table {part.table} is not defined")
        if first == 0 and high == 0:
            require(tables >> 4 in frame.huffman, "a Huffman table is not defined")
        if last > 0:
            require(16 + (tables & 15) in frame.huffman, "a Huffman table is not defined")
    return parts


def check_colours(frame: Frame) -> None:
    """Raise IrregularError unless the pixels are grey or YCbCr for every decoder."""
    require(frame.oriented or not frame.xmp_oriented, "its orientation is stated in XMP data only")
    if len(frame.components) == 3:
        names = [component.name for component in frame.components]
        plain = frame.jfif or frame.transform is not None or names == [1, 2, 3]
        require(plain and frame.transform in (None, 1) and bytes(names) != b"RGB", "not YCbCr")


def find_markers(data: bytes, start: int) -> npt.NDArray[np.int64]:
    """Return the positions from `start` on where a scan would end or restart: 0xFF and then a byte other than 0."""
    # NumPy, because it lets other threads go on meanwhile: this takes a tenth of the time that decoding takes
    values = np.frombuffer(data, dtype=np.uint8, offset=start)
    found: npt.NDArray[np.int64] = np.flatnonzero(values[:-1] == 0xFF)
    markers: npt.NDArray[np.int64] = found[values[found + 1] != 0] + start
    return markers


def end_of_scan(frame: Frame, parts: list[Component], data: bytes, markers: npt.NDArray[np.int64]) -> int:
    """Return the first of the positions `markers` that is not a restart within the scan before it."""
    for restarts, position in enumerate(markers.tolist()):
        marker = data[position + 1]
        if not RST0 <= marker <= RST7:
            announced = (blocks(frame, parts) - 1) // frame.restart if frame.restart else 0
            require(restarts == announced, f"{restarts} restart markers, not {announced}")
            return int(position)
        require(marker == RST0 + restarts % 8, "a restart marker out of turn")
    raise IrregularError("ends within a scan")


def blocks(frame: Frame, parts: list[Component]) -> int:
    """Return the number of coded units of a scan."""
    across, down = largest_sampling(frame)
    if len(parts) > 1:
        return prod((-(-frame.width // (8 * across)), -(-frame.height // (8 * down))))
    width, height = -(-frame.width * parts[0].across // across), -(-frame.height * parts[0].down // down)
    return -(-width // 8) * -(-height // 8)

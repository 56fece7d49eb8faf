"""Images of every format with every kind of damage, made anew from a seed."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
from PIL import Image
from stream_cases import encode, photo

Random = np.random.Generator
Damage = Callable[[bytes, Random], bytes]


def exif(orientation: int) -> Image.Exif:
    """EXIF data with an orientation."""
    data = Image.Exif()
    data[0x0112] = orientation
    return data


FORMATS: dict[str, Callable[[int], bytes]] = {
    "jpg": lambda seed: encode(photo(seed, 40, 50), "JPEG"),
    "progressive.jpg": lambda seed: encode(photo(seed, 40, 50), "JPEG", progressive=True),
    "grey.jpg": lambda seed: encode(photo(seed, 40, 50).convert("L"), "JPEG"),
    "cmyk.jpg": lambda seed: encode(photo(seed, 40, 50).convert("CMYK"), "JPEG"),
    "restarts.jpg": lambda seed: encode(photo(seed, 40, 50), "JPEG", restart_marker_blocks=2),
    "turned.jpg": lambda seed: encode(photo(seed, 40, 50), "JPEG", exif=exif(1 + seed % 8)),
    "png": lambda seed: encode(photo(seed, 30, 20), "PNG"),
    "deep.png": lambda seed: encode(
        Image.fromarray(np.random.default_rng(seed).integers(0, 65536, (20, 30), dtype=np.uint16)), "PNG"
    ),
    "webp": lambda seed: encode(photo(seed, 30, 20), "WEBP"),
    "bmp": lambda seed: encode(photo(seed, 30, 20), "BMP"),
    "gif": lambda seed: encode(photo(seed, 30, 20), "GIF"),
    "tif": lambda seed: encode(photo(seed, 30, 20), "TIFF", compression="tiff_lzw"),
    "ppm": lambda seed: encode(photo(seed, 30, 20), "PPM"),
}


def flip(data: bytes, rng: Random, low: float, high: float, count: int) -> bytes:
    """Replace bytes between two fractions of the file by random ones."""
    changed = bytearray(data)
    for place in rng.integers(int(low * len(data)), max(int(high * len(data)), 1), count):
        changed[place] = rng.integers(256)
    return bytes(changed)


def overwrite(data: bytes, rng: Random, value: bytes) -> bytes:
    """Overwrite a stretch in the second half of the file."""
    start = int(rng.integers(len(data) // 2, len(data) - 1))
    return data[:start] + (value * 12)[: len(data) - start] + data[start + 12 * len(value) :]


def cut(data: bytes, rng: Random) -> bytes:
    """Cut the file anywhere."""
    return data[: int(rng.integers(1, len(data)))]


DAMAGE: dict[str, Damage] = {
    "whole": lambda data, rng: data,
    "tail": lambda data, rng: data + rng.bytes(40),
    "cut": cut,
    "cut with an end": lambda data, rng: cut(data, rng) + b"\xff\xd9",
    "last byte gone": lambda data, rng: data[:-1],
    "head": lambda data, rng: flip(data, rng, 0, 0.1, 3),
    "tables": lambda data, rng: flip(data, rng, 0.05, 0.5, 3),
    "body": lambda data, rng: flip(data, rng, 0.6, 1, 3),
    "zeros": lambda data, rng: overwrite(data, rng, b"\0"),
    "ones": lambda data, rng: overwrite(data, rng, b"\xff"),
    "stretch gone": lambda data, rng: data[: len(data) // 2] + data[len(data) // 2 + int(rng.integers(1, 40)) :],
    "stretch twice": lambda data, rng: data[: len(data) // 2] + data[len(data) // 3 :],
    "head before": lambda data, rng: data[:20] + data,
    "empty": lambda data, rng: b"",
    "other": lambda data, rng: b"no image, or " + rng.bytes(60),
}


def segments(jpeg: bytes) -> list[bytes]:
    """The segments of a JPEG up to its first scan, then the rest, each with its marker."""
    parts, position = [jpeg[:2]], 2
    while jpeg[position + 1] != 0xDA:
        end = position + 2 + int.from_bytes(jpeg[position + 2 : position + 4], "big")
        parts.append(jpeg[position:end])
        position = end
    return [*parts, jpeg[position:]]


def any_segment(data: bytes, rng: Random, change: Callable[[bytes], bytes]) -> bytes:
    """Change one segment of a JPEG."""
    parts = segments(data)
    place = int(rng.integers(1, len(parts)))
    parts[place] = change(parts[place])
    return b"".join(parts)


def in_scan(data: bytes, rng: Random, marker: bytes) -> bytes:
    """Put a marker among the entropy-coded data of a JPEG."""
    scan = len(data) - len(segments(data)[-1]) + 20
    place = int(rng.integers(scan, len(data) - 2))
    return data[:place] + marker + data[place + 2 :]


def turn(data: bytes, rng: Random) -> bytes:
    """State an orientation where one decoder looks and the other does not, or twice, or one that is none."""
    texts = [b'http://ns.adobe.com/xap/1.0/\0<x tiff:Orientation="6"/>']
    texts += [b"Exif\0\0" + exif(int(turned)).tobytes().removeprefix(b"Exif\0\0") for turned in (3, 6, 9, 0)]
    texts += [texts[1][:-2], texts[1][:20], b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x04\0\0\0\x01\0\0\0\x06\0\0\0\0"]
    inserted = b""
    for choice in rng.integers(len(texts), size=int(rng.integers(1, 3))):
        inserted += b"\xff\xe1" + (len(texts[choice]) + 2).to_bytes(2, "big") + texts[choice]
    return data[:2] + inserted + data[2:]


JPEG_DAMAGE: dict[str, Damage] = {
    "no scan": lambda data, rng: b"".join(segments(data)[:-1]) + b"\xff\xd9",
    "segment gone": lambda data, rng: any_segment(data, rng, lambda part: b""),
    "segment twice": lambda data, rng: any_segment(data, rng, lambda part: part + part),
    "other marker": lambda data, rng: any_segment(
        data, rng, lambda part: bytes([255, int(rng.integers(0xC0, 0xFF))]) + part[2:]
    ),
    "wrong length": lambda data, rng: any_segment(
        data, rng, lambda part: part[:2] + int(rng.integers(0, 90)).to_bytes(2, "big") + part[4:]
    ),
    "filled": lambda data, rng: any_segment(data, rng, lambda part: b"\xff\xff" + part),
    "a second frame": lambda data, rng: in_scan(data, rng, b"\xff" + bytes([0xC0 + int(rng.integers(4))])),
    "a second scan": lambda data, rng: in_scan(data, rng, b"\xff\xda"),
    "an early end": lambda data, rng: in_scan(data, rng, b"\xff\xd9"),
    "a restart": lambda data, rng: in_scan(data, rng, b"\xff" + bytes([0xD0 + int(rng.integers(8))])),
    "restarts gone": lambda data, rng: re.sub(rb"\xff[\xd0-\xd3]", b"", data),
    "other size": lambda data, rng: any_segment(
        data, rng, lambda part: part[:5] + bytes([0, int(rng.integers(1, 90))]) + part[7:]
    ),
    "turned": turn,
    "two pictures": lambda data, rng: data + data,
}


def damaged_files(seed: int, rounds: int) -> dict[str, bytes]:
    """Return files by name: each format with each kind of damage, `rounds` times."""
    rng = np.random.default_rng(seed)
    files: dict[str, bytes] = {}
    for kind, make in FORMATS.items():
        for damage, apply in (DAMAGE | (JPEG_DAMAGE if kind.endswith("jpg") else {})).items():
            for number in range(6 * rounds if damage == "whole" else rounds):  # more than half must be good
                name = f"{damage.replace(' ', '-')}-{number}.{kind}"
                files[name] = apply(make(int(rng.integers(1000))), rng)
    return files

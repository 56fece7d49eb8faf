"""The structure of JPEGs: what every decoder reads alike passes, and everything else is for Pillow."""

from __future__ import annotations

import numpy as np
import pytest
from damaged_files import JPEG_DAMAGE, exif, segments
from PIL import Image
from stream_cases import encode, photo, with_second_frame, without_scan, without_table

from fastclr.sources.jpeg import IrregularError, is_regular, read_structure

WHOLE = encode(photo(0, 80, 100), "JPEG")


@pytest.mark.parametrize("size", [(1, 1), (8, 8), (17, 33), (40, 50), (200, 300)])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"progressive": True},
        {"optimize": True},
        {"quality": 100, "subsampling": 0},
        {"subsampling": 1},
        {"restart_marker_rows": 1},
        {"restart_marker_blocks": 3},
        {"restart_marker_blocks": 1, "progressive": True},
        {"exif": exif(6)},
        {"icc_profile": bytes(100_000)},
        {"comment": b"x"},
    ],
)
def test_what_libjpeg_writes_is_regular(options: dict[str, object], size: tuple[int, int]) -> None:
    """Grey and YCbCr JPEGs with all usual options pass, with bytes behind the end too; CMYK does not."""
    for image in (photo(1, *size), photo(1, *size).convert("L")):
        data = encode(image, "JPEG", **options)
        assert (
            is_regular(data) and is_regular(data + b"tail") and is_regular(data, size) and is_regular(data, size[::-1])
        )
        assert not is_regular(data, (size[0] + 1, size[1]))
        assert read_structure(data, whole=False).width == size[1]
    assert not is_regular(encode(photo(1, *size).convert("CMYK"), "JPEG"))
    assert not is_regular(encode(photo(1, *size), "JPEG", keep_rgb=True))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "no JPEG"),
        (encode(photo(0, 9, 9), "PNG"), "no JPEG"),
        (WHOLE[:-2], "ends within a scan"),
        (WHOLE[: len(WHOLE) // 2], "ends within a scan"),
        (without_scan(WHOLE), "ends before all components were scanned"),
        (without_table(WHOLE), "quantisation table 3 is not defined"),
        (with_second_frame(WHOLE), "marker 0xc3"),
        (
            WHOLE[:2]
            + b"\xff\xe1\0\x3fhttp://ns.adobe.com/xap/1.0/\0"
            + b' tiff:Orientation="6"'.ljust(32)
            + WHOLE[2:],
            "XMP",
        ),
        (encode(photo(0, 9, 9), "JPEG", exif=exif(9)), "an orientation that is none"),
        (WHOLE[:2] + segments(encode(photo(0, 9, 9), "JPEG", exif=exif(3)))[2] * 2 + WHOLE[2:], "two segments of EXIF"),
    ],
)
def test_why_a_file_is_irregular(data: bytes, reason: str) -> None:
    """Each kind of oddity has its name."""
    assert not is_regular(data)
    with pytest.raises(IrregularError, match=reason):
        read_structure(data, whole=True)


def test_random_damage_gives_an_answer() -> None:
    """Bytes of any kind are regular or not, without another exception; a whole file with a changed segment is not."""
    rng = np.random.default_rng(5)
    for number in range(3000):
        changed = bytearray(WHOLE)
        for place in rng.integers(2, len(WHOLE) if number % 2 else 620, 1 + number % 4):
            changed[place] = rng.integers(256)
        assert is_regular(bytes(changed[: rng.integers(len(WHOLE) // 2, len(WHOLE) + 1)])) in (True, False)
    for damage in ("no scan", "segment gone", "a second frame", "a second scan", "filled"):
        data = JPEG_DAMAGE[damage](encode(photo(3, 40, 50), "JPEG"), rng)
        # without its first segment, JFIF's, it is a JPEG still
        assert is_regular(data) is (damage == "segment gone" and b"JFIF" not in data)


def test_a_picture_of_noise_is_regular() -> None:
    """Entropy-coded data hold 0xFF often."""
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (100, 100, 3), dtype=np.uint8))
    data = encode(noise, "JPEG", quality=100)
    assert data.count(b"\xff\0") > 50 and is_regular(data)

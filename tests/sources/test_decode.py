"""Decoding: every kind of file becomes upright 8-bit RGB, and what is no image says so."""

from __future__ import annotations

import io
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from fastclr.sources.decode import decode_image, image_size, is_image_name, resized
from fastclr.sources.remarks import quiet_pillow

RNG = np.random.default_rng(0)
POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n"
PIXELS = RNG.integers(0, 256, (13, 20, 3), dtype=np.uint8)


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    """Return ``image`` as a file of the given kind."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)  # type: ignore[arg-type]
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "PPM", "WEBP"])
def test_lossless_rgb_comes_back(kind: str, tmp_path: Path) -> None:
    """Bytes and paths of lossless files give the pixels that were saved."""
    data = encoded(Image.fromarray(PIXELS), kind, **({"lossless": True} if kind == "WEBP" else {}))
    path = tmp_path / "x.bin"
    path.write_bytes(data)
    for source in (data, path):
        decoded = decode_image(source)
        assert decoded.dtype == np.uint8 and decoded.flags.c_contiguous
        assert np.array_equal(decoded, PIXELS)
    assert image_size(path) == (13, 20)


def test_jpeg_equals_pillow() -> None:
    """A JPEG gives what Pillow decodes."""
    data = encoded(Image.fromarray(PIXELS), "JPEG")
    assert np.array_equal(decode_image(data), np.asarray(Image.open(io.BytesIO(data))))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "JPEG"])
def test_exif_orientation(orientation: int, kind: str) -> None:
    """Images are turned as Pillow's own exif_transpose turns them, TIFF (which Pillow turns unasked) included."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(Image.fromarray(PIXELS), kind, exif=exif)
    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    assert expected is not None and expected.size == ((20, 13) if orientation < 5 else (13, 20))
    assert np.array_equal(decode_image(data), np.asarray(expected))


def test_grey_palette_bilevel_alpha() -> None:
    """Images without three channels get three, and an alpha channel is dropped."""
    grey = PIXELS[..., 0]
    alpha = np.concatenate([PIXELS, 255 - PIXELS[..., :1]], axis=2)
    assert np.array_equal(decode_image(encoded(Image.fromarray(grey))), np.repeat(grey[..., None], 3, 2))
    assert np.array_equal(decode_image(encoded(Image.fromarray(alpha))), PIXELS)
    assert np.array_equal(decode_image(encoded(Image.fromarray(alpha[..., [0, 3]]))), np.repeat(grey[..., None], 3, 2))
    bilevel = decode_image(encoded(Image.fromarray(grey > 127)))
    assert np.array_equal(bilevel, np.repeat(np.where(grey > 127, 255, 0)[..., None], 3, 2))
    palette = Image.fromarray(np.arange(6, dtype=np.uint8).reshape(2, 3)).convert("P")
    palette.putpalette(PIXELS.reshape(-1)[: 3 * 256].tolist() + [0] * (768 - len(PIXELS.reshape(-1)[:768])))
    assert np.array_equal(decode_image(encoded(palette, "GIF")), np.asarray(palette.convert("RGB")))


def test_cmyk_jpeg() -> None:
    """CMYK becomes RGB: full ink is dark and no ink is white."""
    for ink, expected in ((0, 255), (255, 0)):
        decoded = decode_image(encoded(Image.fromarray(np.full((8, 8, 4), ink, np.uint8), mode="CMYK"), "JPEG"))
        assert decoded.shape == (8, 8, 3) and np.all(np.abs(decoded.astype(int) - expected) <= 2)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
def test_sixteen_bit_grey_is_scaled(kind: str) -> None:
    """16-bit values are divided by 257 and rounded, not clipped at 255."""
    values = np.concatenate([[0, 1, 128, 129, 255, 256, 257, 32768, 65406, 65407, 65535], RNG.integers(0, 65536, 53)])
    values = values.astype(np.uint16).reshape(8, 8)
    expected = np.floor(values / 257 + 0.5).astype(np.uint8)
    assert np.array_equal(decode_image(encoded(Image.fromarray(values), kind)), np.repeat(expected[..., None], 3, 2))


def test_smallest_image() -> None:
    """One pixel is an image."""
    assert decode_image(encoded(Image.new("RGB", (1, 1), (1, 2, 3)))).tolist() == [[[1, 2, 3]]]


@pytest.mark.parametrize(
    ("size", "to", "expected"), [((13, 20), 6, (6, 9)), ((20, 13), 13, (20, 13)), ((7, 9), 20, (7, 9))]
)
def test_resize_shorter(size: tuple[int, int], to: int, expected: tuple[int, int]) -> None:
    """The shorter side comes down to what is asked, the ratio stays, and nothing is enlarged."""
    pixels = RNG.integers(0, 256, (*size, 3), dtype=np.uint8)
    decoded = decode_image(encoded(Image.fromarray(pixels)), to)
    assert resized(*size, to) == decoded.shape[:2] == expected
    reference = Image.fromarray(pixels).resize(expected[::-1], Image.Resampling.BILINEAR)
    assert np.array_equal(decoded, np.asarray(reference))


def test_resize_jpeg_with_draft_stays_close() -> None:
    """Decoding a JPEG at a fraction of its size and then resizing is close to resizing the whole."""
    y, x = np.mgrid[0:200, 0:300]
    waves = np.stack([128 + 100 * np.sin(x / 6), 128 + 100 * np.sin(y / 6), (x + y) / 2], 2).astype(np.uint8)
    decoded = decode_image(encoded(Image.fromarray(waves), "JPEG", quality=95, subsampling=0), 50)
    reference = np.asarray(Image.fromarray(waves).resize((75, 50), Image.Resampling.BILINEAR))
    assert decoded.shape == (50, 75, 3) and np.abs(decoded.astype(int) - reference).mean() < 3


def test_resize_turned_jpeg() -> None:
    """The orientation is applied after resizing: height and width change places."""
    exif = Image.Exif()
    exif[0x0112] = 6
    assert decode_image(encoded(Image.new("RGB", (400, 200)), "JPEG", exif=exif), 50).shape == (100, 50, 3)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"this is a text\n",
        POSTSCRIPT,
        encoded(Image.fromarray(PIXELS), "JPEG")[:300],
        encoded(Image.fromarray(PIXELS), "PNG")[:200],
    ],
    ids=["empty", "text", "postscript", "truncated-jpeg", "truncated-png"],
)
def test_unreadable(data: bytes) -> None:
    """What is no image, or only part of one, is an OSError; PostScript is never handed to another program."""
    with pytest.raises(OSError):
        decode_image(data)


def test_float_pixels_and_bombs_are_refused(tmp_path: Path) -> None:
    """Floating-point pixels have no range; a header that announces too many pixels is refused before decoding."""
    with pytest.raises(ValueError, match="no known range"):
        decode_image(encoded(Image.fromarray(np.full((4, 4), 1.5, np.float32)), "TIFF"))
    bomb = encoded(Image.new("1", (20000, 10000)))
    assert len(bomb) < 100_000
    with pytest.raises(Image.DecompressionBombError):
        decode_image(bomb)
    (tmp_path / "bomb.png").write_bytes(bomb)
    assert image_size(tmp_path / "bomb.png") is None
    assert image_size(io.BytesIO(b"text")) is None
    assert image_size(io.BytesIO(POSTSCRIPT)) is None


def test_large_photos_pass_without_a_warning() -> None:
    """Between Pillow's warning and its refusal lies the panorama, which is read in silence."""
    with warnings.catch_warnings(record=True) as caught, quiet_pillow():
        warnings.simplefilter("always", append=True)
        assert image_size(io.BytesIO(encoded(Image.new("1", (20000, 5000))))) == (5000, 20000)
    assert caught == []


def test_suffixes() -> None:
    """Suffixes count in any case, and only as suffixes."""
    assert all(map(is_image_name, ("a.jpg", "b/c.JPEG", "x.y.PnG", "n01440764_tench.JPEG")))
    assert not any(map(is_image_name, ("jpg", "a.jpg.txt", "a.eps", "labels.csv")))

"""Arrays, DICOM, TIFF of many bands and images of more than 8 bits, against NumPy, pydicom, tifffile and Pillow."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fastclr.sources.decode import (
    decode_image,
    decoding_bytes,
    deep_values,
    examine,
    image_names,
    image_size,
    pixels_of,
)
from fastclr.sources.reading import Raw, Reading, to_bytes

RANDOM = np.random.default_rng(3)


def npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def scaled(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """The range as bytes, in exact arithmetic of another form."""
    return np.interp(values.astype(np.float64), [low, high], [0, 255]).__add__(0.5).astype(np.uint8)


def dicom(values: np.ndarray, **elements: Any) -> bytes:
    """A DICOM file of grey values [H, W], [frames, H, W], or colours [H, W, 3]."""
    pydicom = pytest.importorskip("pydicom")
    meta = pydicom.dataset.FileMetaDataset()
    meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = pydicom.uid.CTImageStorage
    meta.MediaStorageSOPInstanceUID = "1.2.3"
    data = pydicom.dataset.Dataset()
    data.file_meta = meta
    colour = values.ndim == 3 and values.shape[-1] == 3
    data.Rows, data.Columns = values.shape[:2] if colour else values.shape[-2:]
    data.SamplesPerPixel = 3 if colour else 1
    data.PhotometricInterpretation = "RGB" if colour else "MONOCHROME2"
    data.BitsAllocated = data.BitsStored = 8 * values.itemsize
    data.PixelRepresentation = int(values.dtype.kind == "i")
    if colour:
        data.PlanarConfiguration = 0
    elif values.ndim == 3:
        data.NumberOfFrames = len(values)
    for name, value in elements.items():
        setattr(data, name, value)
    data.HighBit = data.BitsStored - 1
    data.PixelData = values.tobytes()
    buffer = io.BytesIO()
    pydicom.dcmwrite(buffer, data, enforce_file_format=True)
    return buffer.getvalue()


def test_all_values_of_16_bits_keep_what_they_were() -> None:
    """Without a range, 0 .. 65535 becomes 0 .. 255 as in exact integer arithmetic."""
    values = np.arange(65536, dtype=np.uint16).reshape(256, 256, 1)
    wide = values.astype(np.int64)
    assert np.array_equal(to_bytes(Raw(values, (0, 65535)), None), (wide * 255 + 32767) // 65535)
    assert np.array_equal(decode_image(npy(values))[..., 1:2], (wide * 255 + 32767) // 65535)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "npy"])
def test_ranges_of_16_bit_images(kind: str) -> None:
    """A pair, the file's own values, and the range of the type: as NumPy interpolates."""
    values = RANDOM.integers(100, 4000, (31, 47)).astype(np.uint16)
    data = npy(values) if kind == "npy" else encoded(Image.fromarray(values), kind)
    for choice, ends in (((0, 4095), (0, 4095)), ("file", (values.min(), values.max())), (None, (0, 65535))):
        found = decode_image(data, None, Reading(1, choice))
        assert np.array_equal(found[..., 0], scaled(values, *ends))
        assert np.array_equal(decode_image(data, None, Reading(3, choice)), np.repeat(found, 3, axis=2))
    clipped = decode_image(data, None, Reading(1, (1000, 2000)))
    assert {0, 255} <= set(np.unique(clipped).tolist())


def test_floats_and_odd_types() -> None:
    values = RANDOM.normal(0, 50, (9, 7)).astype(np.float32)
    for data in (npy(values), encoded(Image.fromarray(values), "TIFF")):
        with pytest.raises(ValueError, match=r"float32, here -.* have no known range: say --range LO HI, auto or file"):
            decode_image(data)
        assert np.array_equal(decode_image(data, None, Reading(1, (-100, 100)))[..., 0], scaled(values, -100, 100))
    unit = RANDOM.random((4, 5))
    assert np.array_equal(decode_image(npy(unit), None, Reading(1))[..., 0], scaled(unit, 0, 1))
    gaps = np.array([[0.0, np.nan, np.inf, -np.inf]])
    assert decode_image(npy(gaps), None, Reading(1, (0, 1))).ravel().tolist() == [0, 0, 255, 0]
    signed = RANDOM.integers(-500, 500, (4, 4)).astype(">i2")
    assert np.array_equal(
        decode_image(npy(signed), None, Reading(1, "file"))[..., 0], scaled(signed, signed.min(), signed.max())
    )
    assert not decode_image(npy(np.full((3, 3), 7, np.int32)), None, Reading(1, "file")).any()
    for wrong in (np.array(["a"]), np.zeros((2, 2), complex), np.zeros((0, 3)), np.zeros(5), np.zeros((2, 2, 2, 2))):
        with pytest.raises(ValueError, match="is no image"):
            decode_image(npy(wrong))


@pytest.mark.parametrize("kind", ["int16", "int32", "uint32"])
def test_integers_of_tiff_without_a_known_range(kind: str) -> None:
    """Without a range they are refused as those of arrays are, neither white nor black; with one they are read."""
    tifffile = pytest.importorskip("tifffile")
    low, high = (0, 2**32 - 1) if kind == "uint32" else (-30000, 30000)
    values = RANDOM.integers(low, high, (9, 11)).astype(kind)
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, values)
    with pytest.raises(ValueError, match="have no known range: say --range LO HI, auto or file"):
        decode_image(buffer.getvalue())
    found = decode_image(buffer.getvalue(), None, Reading(1, (low, high)))
    assert np.array_equal(found[..., 0], scaled(values, low, high))
    with pytest.raises(ValueError, match="have no known range"):  # an image of Pillow's own
        pixels_of(Image.new("I", (3, 3), 70000))


@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize("highest", [300, 4095, 65535])
def test_the_range_of_a_pgm_is_in_stored_values(highest: int, plain: bool) -> None:
    """Pillow stretches them to 65535; without a range, the largest value that the file states becomes 255."""
    values = RANDOM.integers(0, highest + 1, (13, 17)).astype(np.uint16)
    head = f"{'P2' if plain else 'P5'}\n17 13\n{highest}\n".encode()
    data = head + (" ".join(map(str, values.ravel())).encode() if plain else values.astype(">u2").tobytes())
    for choice, ends in (((20, 200), (20, 200)), (None, (0, highest)), ("file", (values.min(), values.max()))):
        assert np.array_equal(decode_image(data, None, Reading(1, choice))[..., 0], scaled(values, *ends))
    raw = deep_values(data, Reading(1))
    assert raw is not None and np.array_equal(raw.values[..., 0], values)
    with Image.open(io.BytesIO(data)) as image:
        assert np.array_equal(pixels_of(image, None, Reading(1, (20, 200)))[..., 0], scaled(values, 20, 200))


def test_bands_of_arrays() -> None:
    """[H, W, C] and [C, H, W], in either memory order; what may be both is refused with what to say."""
    bands = RANDOM.integers(0, 256, (20, 30, 13), dtype=np.uint8)
    many = Reading(13)
    for array in (bands, np.moveaxis(bands, -1, 0), np.asfortranarray(bands)):
        assert np.array_equal(decode_image(npy(array), None, many), bands)
        header = examine(npy(array), None, many)
        assert (header.height, header.width, header.plain) == (20, 30, False)
    thin = np.zeros((13, 40, 13), np.uint8)
    with pytest.raises(ValueError, match=r"\[13, 40, 13\] may be .*--channel-axis last or --channel-axis first"):
        decode_image(npy(thin), None, many)
    assert decode_image(npy(thin), None, Reading(13, channel_axis="first")).shape == (40, 13, 13)
    assert decode_image(npy(thin), None, Reading(13, channel_axis="last")).shape == (13, 40, 13)
    for number, message in ((3, "--channels 13 reads it"), (12, r"it has 13 channel\(s\), and the run has 12")):
        with pytest.raises(ValueError, match=message):
            decode_image(npy(bands), None, Reading(number))
        with pytest.raises(ValueError, match=message):
            examine(npy(bands), None, Reading(number))
    with pytest.raises(ValueError, match="no axis of 1 to 16 channels"):
        decode_image(npy(np.zeros((40, 30, 20), np.uint8)))


def test_bands_are_reduced_as_pillow_does() -> None:
    bands = RANDOM.integers(0, 256, (40, 60, 5), dtype=np.uint8)
    found = decode_image(npy(bands), 16, Reading(5))
    assert found.shape == (16, 24, 5)
    for c in range(5):
        plane = Image.fromarray(bands[..., c]).resize((24, 16), Image.Resampling.BILINEAR)
        assert np.array_equal(found[..., c], np.asarray(plane))


def test_pictures_of_other_channels() -> None:
    """Grey by Pillow's luma; four bands with alpha; what has not so many is refused."""
    colours = Image.fromarray(RANDOM.integers(0, 256, (8, 9, 4), dtype=np.uint8), "RGBA")
    assert np.array_equal(decode_image(encoded(colours), None, Reading(4)), np.asarray(colours))
    assert np.array_equal(decode_image(encoded(colours)), np.asarray(colours)[..., :3])
    assert np.array_equal(decode_image(encoded(colours), None, Reading(1))[..., 0], np.asarray(colours.convert("L")))
    jpeg = encoded(colours.convert("RGB"), "JPEG")
    assert np.array_equal(
        decode_image(jpeg, None, Reading(1))[..., 0], np.asarray(Image.open(io.BytesIO(jpeg)).convert("L"))
    )
    assert not examine(jpeg, None, Reading(1)).plain
    with pytest.raises(ValueError, match=r"it has 3 channel\(s\), and the run has 4: --channels 3"):
        examine(jpeg, None, Reading(4))
    with pytest.raises(ValueError, match=r"it has 3 channel\(s\), and the run has 2"):
        decode_image(jpeg, None, Reading(2))


def test_pages() -> None:
    """The first page, or all as channels."""
    pages = RANDOM.integers(0, 60000, (4, 12, 10)).astype(np.uint16)
    images = [Image.fromarray(page) for page in pages]
    data = encoded(images[0], "TIFF", save_all=True, append_images=images[1:])
    assert np.array_equal(decode_image(data, None, Reading(1))[..., 0], scaled(pages[0], 0, 65535))
    stacked = decode_image(data, None, Reading(4, (0, 60000), pages="channels"))
    assert np.array_equal(stacked, scaled(np.moveaxis(pages, 0, -1), 0, 60000))
    with pytest.raises(ValueError, match=r"it has 4 channel\(s\), and the run has 5"):
        decode_image(data, None, Reading(5, pages="channels"))
    mixed = encoded(images[0], "TIFF", save_all=True, append_images=[Image.new("RGB", (10, 12))])
    with pytest.raises(ValueError, match="page 1 has 3 bands"):
        decode_image(mixed, None, Reading(2, pages="channels"))
    needed = decoding_bytes(data, None, Reading(4, pages="channels"))
    assert needed is not None and needed > 4 * 2 * 120


@pytest.mark.parametrize("options", [{}, {"compression": "deflate"}, {"planarconfig": "separate"}, {"byteorder": ">"}])
def test_tiff_of_many_bands(options: dict[str, str]) -> None:
    tifffile = pytest.importorskip("tifffile")
    pytest.importorskip("imagecodecs")
    bands = RANDOM.integers(0, 10000, (16, 24, 7)).astype(np.uint16)
    options = {"planarconfig": "contig", **options}
    buffer = io.BytesIO()
    planar = options["planarconfig"] == "separate"
    tifffile.imwrite(buffer, np.moveaxis(bands, -1, 0) if planar else bands, photometric="minisblack", **options)
    data = buffer.getvalue()
    assert np.array_equal(decode_image(data, None, Reading(7, (0, 10000))), scaled(bands, 0, 10000))
    header = examine(data, None, Reading(7))
    assert (header.height, header.width) == (16, 24) == image_size(io.BytesIO(data))
    with pytest.raises(ValueError, match="--channels 7 reads it"):
        examine(data)


def test_colours_of_16_bits() -> None:
    """A range applies to those of TIFF; of PNG and PPM Pillow keeps 8 bits, so they are refused."""
    tifffile = pytest.importorskip("tifffile")
    colours = RANDOM.integers(0, 4096, (6, 8, 3)).astype(np.uint16)
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, colours, photometric="rgb")
    assert np.array_equal(decode_image(buffer.getvalue(), None, Reading(3, (0, 4095))), scaled(colours, 0, 4095))
    png = bytearray(encoded(Image.new("RGB", (4, 4))))
    png[24] = 16
    ppm = b"P6\n8 6\n4095\n" + colours.astype(">u2").tobytes()
    for data in (bytes(png), ppm):
        with pytest.raises(ValueError, match="Pillow keeps 8"):
            decode_image(data, None, Reading(3, (0, 4095)))
    assert np.abs(decode_image(ppm).astype(int) - scaled(colours, 0, 4095)).max() <= 1


def test_dicom_in_hounsfield_units() -> None:
    """Slope and intercept by pydicom's own function, the range of the stored bits, and MONOCHROME1 inverted."""
    stored = RANDOM.integers(0, 4096, (20, 14)).astype(np.uint16)
    data = dicom(stored, BitsStored=12, RescaleSlope=1, RescaleIntercept=-1024)
    pydicom = pytest.importorskip("pydicom")
    units = pydicom.pixels.apply_modality_lut(stored, pydicom.dcmread(io.BytesIO(data)))
    assert np.array_equal(decode_image(data, None, Reading(1))[..., 0], scaled(units, -1024, 3071))
    assert np.array_equal(decode_image(data, None, Reading(1, (-160, 240)))[..., 0], scaled(units, -160, 240))
    assert np.array_equal(decode_image(data, None, Reading(3, "file"))[..., 2], scaled(units, units.min(), units.max()))
    film = dicom(stored, BitsStored=12, PhotometricInterpretation="MONOCHROME1")
    assert np.array_equal(decode_image(film, None, Reading(1))[..., 0], 255 - scaled(stored, 0, 4095))
    signed = (stored.astype(np.int16) - 2048).astype(np.int16)
    assert np.array_equal(
        decode_image(dicom(signed, RescaleSlope=0.5), None, Reading(1, (-1024, 1024)))[..., 0],
        scaled(signed / 2, -1024, 1024),
    )
    assert image_size(io.BytesIO(data)) == (20, 14)
    header = examine(data, None, Reading(1))
    assert (header.height, header.width) == (20, 14)
    needed = decoding_bytes(data, None, Reading(1))
    assert needed is not None and needed >= 3 * stored.nbytes


def test_dicom_of_frames_and_colours() -> None:
    frames = RANDOM.integers(0, 256, (5, 6, 7), dtype=np.uint8)
    data = dicom(frames)
    assert np.array_equal(decode_image(data, None, Reading(1))[..., 0], frames[0])
    stacked = decode_image(data, None, Reading(5, pages="channels"))
    assert np.array_equal(stacked, np.moveaxis(frames, 0, -1))
    colours = RANDOM.integers(0, 256, (6, 7, 3), dtype=np.uint8)
    assert np.array_equal(decode_image(dicom(colours)), colours)


def test_dicom_that_is_not_read() -> None:
    data = dicom(np.zeros((4, 4), np.uint16))
    with pytest.raises(ValueError, match="deflated"):
        decode_image(data[:132] + b"1.2.840.10008.1.2.1.99" + data[132:])
    huge = dicom(np.zeros((4, 4), np.uint16), NumberOfFrames=2**30)
    for read in (decode_image, examine):
        with pytest.raises(ValueError, match="is not read"):
            read(huge)
    with pytest.raises(Exception):  # noqa: B017 (whatever pydicom raises)
        decode_image(data[:-20])


def test_hostile_arrays_allocate_nothing() -> None:
    """A header that announces more than the file holds is refused before anything is allocated."""
    data = npy(np.zeros((4, 4), np.uint8)).replace(b"(4, 4)", b"(99999, 99999)".ljust(6)[:6])
    lie = npy(np.zeros((1000, 1000), np.uint8))[:500]
    with pytest.raises(ValueError, match=r"\[1000, 1000\] of uint8, which its 500 bytes do not hold"):
        decode_image(lie)
    with pytest.raises(OSError, match="ends early"):
        examine(lie)
    with pytest.raises(ValueError):
        decode_image(data)
    objects = npy(np.zeros(3)).replace(b"<f8", b"|O8")
    with pytest.raises(ValueError, match=r"no array|no image"):
        decode_image(objects)


def test_names(tmp_path: Path) -> None:
    """Arrays are images where there are no pictures; DICOM files always are."""
    assert image_names(["a.npy", "b.png", "c.dcm", "d.txt"]) == ["b.png", "c.dcm"]
    assert image_names(["a.npy", "d.txt", "B.NPY"]) == ["a.npy", "B.NPY"]
    (tmp_path / "a.npy").write_bytes(npy(np.zeros((13, 20, 30), np.uint8)))
    assert image_size(tmp_path / "a.npy") == (20, 30)
    assert decode_image(tmp_path / "a.npy", None, Reading(13)).shape == (20, 30, 13)

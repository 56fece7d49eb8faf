"""What the tests of the loaders share: small photos, a folder of odd files, and a way to compare batches."""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from fastclr.augment.images import RaggedImages
from fastclr.data import Batch


def photo(seed: int, height: int, width: int) -> Image.Image:
    """A picture with smooth and sharp parts, so that JPEG has something to do."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (4, 5, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC), dtype=np.int16)
    return Image.fromarray(np.clip(smooth + rng.integers(-20, 21, (height, width, 3)), 0, 255).astype(np.uint8))


def encode(image: Image.Image, kind: str, **options: object) -> bytes:
    """Return ``image`` as a file."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)  # type: ignore[arg-type]
    return buffer.getvalue()


def without_table(jpeg: bytes) -> bytes:
    """A JPEG whose header is fine and whose pixels no decoder can find: it names a quantisation table it lacks."""
    frame = jpeg.index(b"\xff\xc0")
    return jpeg[: frame + 12] + b"\x03" + jpeg[frame + 13 :]


def without_scan(jpeg: bytes) -> bytes:
    """A JPEG of headers alone, several of which make DALI 2.4 crash when they are in one batch."""
    return jpeg[: jpeg.index(b"\xff\xda")] + b"\xff\xd9"


def with_second_frame(jpeg: bytes) -> bytes:
    """A JPEG with another frame's marker in its scan: DALI makes half a picture of it, and Pillow refuses it."""
    place = jpeg.index(b"\xff\xda") + 60
    return jpeg[:place] + b"\xff\xc3" + jpeg[place + 2 :]


def write_photos(root: Path, count: int, kind: str = "JPEG", ragged: bool = True) -> Path:
    """Write a folder of photos in two classes."""
    for index in range(count):
        folder = root / ("cat", "dog")[index % 2]
        folder.mkdir(parents=True, exist_ok=True)
        height, width = (20 + 7 * (index % 5), 30 + 3 * (index % 4)) if ragged else (24, 32)
        (folder / f"{index:03d}.{kind.lower()}").write_bytes(encode(photo(index, height, width), kind))
    return root


def picture(images: Tensor | RaggedImages, index: int) -> np.ndarray:
    """Return one image of a batch on the CPU."""
    image = images.image(index) if isinstance(images, RaggedImages) else images[index]
    return image.cpu().numpy()


def contents(batch: Batch) -> list[tuple[int, int, bytes]]:
    """Return id, label and pixels of every image, comparable with ``==``."""
    pixels = [picture(batch.images, i) for i in range(len(batch))]
    heads = zip(batch.ids.tolist(), batch.labels.tolist(), strict=True)
    return [(i, label, str(p.shape).encode() + p.tobytes()) for (i, label), p in zip(heads, pixels, strict=True)]


def write_tar(path: Path, tree: dict[str, bytes]) -> Path:
    """Write files as an archive, in the order given."""
    with tarfile.open(path, "w:gz" if path.suffix == ".gz" else "w") as archive:
        for name, content in tree.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def write_odd_folder(root: Path) -> tuple[set[str], set[str], set[str]]:
    """Write a folder of everything that people's folders contain.

    Returns:
        the names of images that are good, of those that an index refuses, and of those that only fail when decoded.
    """
    root.mkdir()
    jpeg = encode(photo(0, 40, 50), "JPEG")
    png = encode(photo(1, 30, 20), "PNG")
    good = {
        **{f"plain{i:02d}.jpg": encode(photo(i, 40, 50 + i % 2), "JPEG") for i in range(12)},
        "one.png": encode(photo(2, 1, 1), "PNG"),
        "one.jpg": encode(photo(3, 1, 1), "JPEG"),
        "wide.jpg": encode(photo(4, 20, 20_000), "JPEG", quality=50),
        "cmyk.jpg": encode(photo(5, 30, 40).convert("CMYK"), "JPEG"),
        "rgb.jpg": encode(photo(6, 30, 40), "JPEG", keep_rgb=True),
        "grey.jpg": encode(photo(7, 30, 40).convert("L"), "JPEG"),
        "progressive.jpg": encode(photo(8, 30, 40), "JPEG", progressive=True),
        "deep.png": encode(Image.fromarray((np.arange(600).reshape(20, 30) * 100).astype(np.uint16)), "PNG"),
        "clear.webp": encode(photo(9, 30, 40), "WEBP", lossless=True),
        "png named.jpg": png,
        "tail.jpg": jpeg + b"\0" * 100,
        "\u65e5\u672c \u00e4.jpg": encode(photo(10, 30, 40), "JPEG"),
        "n" * 246 + ".jpg": encode(photo(11, 30, 40), "JPEG"),
    }
    bomb = bytearray(encode(photo(12, 8, 8), "BMP"))
    bomb[18:26] = (60_000).to_bytes(4, "little") * 2  # width and height of the header
    refused = {
        "empty.jpg": b"",
        "text.jpg": b"no image",
        "short.jpg": jpeg[: len(jpeg) // 2],
        "bomb.bmp": bytes(bomb),
        "table.jpg": without_table(jpeg),
        "no scan.jpg": without_scan(jpeg),
    }
    damaged = {
        "short.png": png[: len(png) // 2],
        "flipped.png": png[:200] + b"\xff" * 40 + png[240:],
        "frames.jpg": with_second_frame(jpeg),
    }
    for name, content in (good | refused | damaged).items():
        (root / name).write_bytes(content)
    (root / "loop").symlink_to(root)
    os.mkfifo(root / "pipe.jpg")
    return set(good), set(refused), set(damaged)

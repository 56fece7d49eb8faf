"""Readers of sources, without torch: each function makes a case, which damages one input and reads it."""

from __future__ import annotations

import io
import json
import pickle
import random
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from mutations import changed, damaged

Case = Callable[[random.Random], None]


def image_bytes(kind: str, mode: str = "RGB") -> bytes:
    """Return a small encoded image."""
    from PIL import Image

    file = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (24, 20, 3), dtype=np.uint8)
    Image.fromarray(pixels).convert(mode).save(file, kind)
    return file.getvalue()


def tar_bytes(files: dict[str, bytes], kind: str = "") -> bytes:
    """Return an archive."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode=f"w:{kind}") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return file.getvalue()


def header(folder: Path) -> Case:
    """Headers and pixels of images, as every decoder reads them: whatever Pillow raises is counted there."""
    from fastclr.sources.byte_ranges import Storage
    from fastclr.sources.decode import decode_image, examine, glance, image_size, quiet_pillow

    seeds = [image_bytes(kind) for kind in ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "JPEG2000")]
    seeds += [image_bytes("JPEG", "CMYK"), image_bytes("PNG", "P"), image_bytes("TIFF", "I;16"[:1])]

    def case(rng: random.Random) -> None:
        data = damaged(rng.choice(seeds), rng)
        (folder / "input").write_bytes(data)
        with quiet_pillow():
            image_size(io.BytesIO(data))
            try:
                glance(Storage.of_files([str(folder / "input")]), 0)
                examine(data)
                decode_image(data, rng.choice((None, 8)))
            except Exception:  # as in decode_many, which names the file with what it says
                pass

    return case


def tar(folder: Path) -> Case:
    """Archives of images, plain and packed, listed and read."""
    from fastclr.sources.tar import index_tar

    files = {f"a/{i}.png": image_bytes("PNG") for i in range(3)}
    seeds = [tar_bytes(files, kind) for kind in ("", "gz", "bz2", "xz")]

    def case(rng: random.Random) -> None:
        (folder / "input.tar").write_bytes(damaged(rng.choice(seeds), rng))
        found = index_tar(folder / "input.tar")
        for _ in found.read(found.names):
            pass

    return case


def shards(folder: Path, suffix: str) -> Case:
    """WebDataset shards whose labels are damaged."""
    from fastclr.sources.shards import index_shards

    values: list[Any] = [0, 3, "3", "cat", 1.0, {"label": 2}, {"label": "dog", "a": [1, {"b": None}]}]
    image = image_bytes("PNG")

    def case(rng: random.Random) -> None:
        files: dict[str, bytes] = {}
        for number in range(3):
            content = json.dumps(changed(rng.choice(values), rng)).encode()
            files[f"{number}.png"] = image
            files[f"{number}.{suffix}"] = damaged(content, rng) if rng.random() < 0.5 else content
        (folder / "input.tar").write_bytes(tar_bytes(files))
        index_shards({"input.tar": folder / "input.tar"}, "input.tar")

    return case


def csv(folder: Path) -> Case:
    """Files of labels."""
    from fastclr.sources.label_file import read_labels

    seed = 'name,label\na/1.png,cat\na/2.png,\n"b,3.png",caf\u00e9\n'.encode()

    def case(rng: random.Random) -> None:
        (folder / "labels.csv").write_bytes(damaged(seed, rng))
        read_labels(folder / "labels.csv")

    return case


def captions(folder: Path) -> Case:
    """Captions in text, JSON and shards, and tables of them, which are sources too."""
    from fastclr.sources.caption_table import index_caption_table, read_table
    from fastclr.sources.captions import CaptionOptions, read_captions
    from fastclr.sources.shards import index_shards

    text, image = "a red star\nein St\u00e4rnchen\n".encode(), image_bytes("PNG")
    values: list[Any] = [{"caption": "a star"}, {"text": ["a", "b"]}, {"captions": [], "caption": None}, "a", 3]
    table = 'filepath\ttitle\na/1.png\t"a ""red"" star"\na/1.png\tcaf\u00e9\n\tx\n'.encode()
    options = CaptionOptions()

    def case(rng: random.Random) -> None:
        record = damaged(json.dumps(changed(rng.choice(values), rng)).encode(), rng)
        step = rng.randrange(4)
        if step == 0:
            suffix = rng.choice(("txt", "json"))
            read_captions(record if suffix == "json" else damaged(text, rng), suffix)
        elif step == 1:
            files = {"1.png": image, "1.txt": damaged(text, rng), "2.png": image, "2.json": record}
            (folder / "input.tar").write_bytes(tar_bytes({**files, "3.png": image, "3.txt": text, "4.png": image}))
            index_shards({"input.tar": folder / "input.tar"}, "input.tar", options)
        else:
            (folder / "captions.csv").write_bytes(damaged(table, rng))
            if step == 2:
                read_table(folder / "captions.csv", options)
            else:
                index_caption_table(folder / "captions.csv", options)

    return case


def pickles(folder: Path) -> Case:
    """CIFAR's pickles, as Python 2 and 3 write them."""
    from fastclr.sources.plain_pickle import byte_array, read_pickle

    content = {b"data": np.zeros((2, 12), np.uint8), b"labels": [1, 2], "names": [b"a", "b"], b"rest": (1.5, None, {})}
    seeds = [pickle.dumps(content, protocol) for protocol in (3, 4)]

    def case(rng: random.Random) -> None:
        data = damaged(rng.choice(seeds), rng)
        (folder / "input").write_bytes(data)
        found = read_pickle(data)
        if isinstance(found, dict):
            for value in found.values():
                byte_array(value)

    return case


def tables(folder: Path) -> Case:
    """Parquet and Arrow files with images, listed and read."""
    import pyarrow as pa
    import pyarrow.parquet

    from fastclr.sources.byte_ranges import admit_all
    from fastclr.sources.tables import index_tables

    features = {"image": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": ["a", "b"]}}
    about: Any = {"info": {"features": features}}
    rows = {"image": [{"bytes": image_bytes("PNG"), "path": None}] * 3, "label": [0, 1, 1]}

    def written(suffix: str, metadata: Any) -> bytes:
        table = pa.table(rows).replace_schema_metadata({"huggingface": json.dumps(metadata)})
        file = io.BytesIO()
        if suffix == "parquet":
            pa.parquet.write_table(table, file)
        else:
            with pa.ipc.new_stream(file, table.schema) as writer:
                writer.write_table(table)
        return file.getvalue()

    seeds = {suffix: written(suffix, about) for suffix in ("parquet", "arrow")}

    def case(rng: random.Random) -> None:
        suffix = rng.choice(("parquet", "arrow"))
        path = folder / f"input.{suffix}"
        data = damaged(seeds[suffix], rng) if rng.random() < 0.7 else written(suffix, changed(about, rng))
        path.write_bytes(data)
        found = index_tables({path.name: path}, path.name)
        for _, image in found.files.stream({entry.path for entry in found.groups.get("train", [])}):
            image.read(admit_all)

    return case

"""`fastclr embed RUN IMAGES`: write the features of images to a file."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from fastclr.commands.bare_options import BareOptions
from fastclr.commands.preset import shallow
from fastclr.data.image_source import Split
from fastclr.data.loader_choice import LoaderKind
from fastclr.sources.printable import show
from fastclr.transfer.embed import Kind

SHOWN = 10


@dataclass
class EmbedOptions:
    """Write the features of images to a file; run the same command again to resume after a kill."""

    run: Annotated[str, tyro.conf.Positional]
    """Folder of a run. With --encoder or --init there is none, and this is IMAGES."""
    images: Annotated[str | None, tyro.conf.Positional] = None
    """As `--data` of pretrain: a folder, a tar, shards, `shapes`, `cifar10`, ..."""
    bare: tyro.conf.OmitArgPrefixes[BareOptions] = field(default_factory=BareOptions)
    out: Path = Path("features.npz")
    """The file to write, .npz or .parquet."""
    features: Kind = "h"
    """`h`: of the encoder. `z`: of the projection head."""
    split: Split = "all"
    """Which images to use, of a source with a `train` folder."""
    dtype: Literal["float32", "float16"] = "float32"
    """Storage type; the arithmetic is float32."""
    batch_size: int = 256
    """Images per forward pass."""
    device: str = "auto"
    """`auto` (CUDA if available), or a torch device: `cpu`, `cuda:1`, `mps`."""
    loader: LoaderKind = "auto"
    """`resident` decodes as many images at a time as fit; `dali`, `torch` stream; `auto`: resident if all fit."""
    workers: int | None = None
    """Threads (resident, dali) or processes (torch) that decode. Default: one per core."""
    labels: Path | None = None
    """CSV file with the columns name (or file_name) and label that gives the classes; without it, folders do."""
    follow_links: str | None = None
    """Follow symbolic links that lead into this folder. Without it, many images behind links are an error."""
    memory: float | None = None
    """GB of main memory that images may take. Default: half of what is free."""
    data_root: str = "data"
    """Folder with the files of `cifar10`, `cifar100` and `stl10`."""


def main(arguments: list[str]) -> None:
    """Embed, and print a summary."""
    options = tyro.cli(EmbedOptions, args=arguments, prog="fastclr embed")
    run, images = (None, options.run) if options.images is None else (Path(options.run), options.images)
    if run is None and not options.bare.given():
        raise ValueError(f"embed needs RUN and IMAGES, or --encoder or --init and IMAGES, got {images} alone")
    others = {name: value for name, value in shallow(options).items() if name not in ("run", "bare", "images")}
    done = options.bare.open(run).embed(images, **others)
    if done is None:
        show(f"{options.out} already exists, made with the same settings")
        return
    before = f", {done.resumed} of them by an earlier call" if done.resumed else ""
    show(f"{options.out}: {done.images} images of {done.dim} features{before}")
    if done.skipped:
        show(f"{len(done.skipped)} image(s) skipped:")
        for name, reason in done.skipped[:SHOWN]:
            show(f"  {name!a}: {reason}")

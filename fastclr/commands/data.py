"""`fastclr data PATH`: a report on a data set."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import Annotated, Any

import tyro

from fastclr.data.cache import cache_folder, clear
from fastclr.data.decode_many import DecodeOptions
from fastclr.data.options import memory_bytes
from fastclr.device import available_cores, available_memory
from fastclr.report.caption_survey import CaptionSurvey
from fastclr.report.data_survey import Copies, SplitSurvey, Survey, survey
from fastclr.report.decode_rate import cores_for, dali_rate, pillow_rate
from fastclr.report.spread import Spread
from fastclr.sources.captions import CaptionOptions
from fastclr.sources.printable import one_line, show
from fastclr.sources.published import locate
from fastclr.sources.reading import AS_RGB, ChannelAxis, Pages, RangeChoice, Reading

SHOWN_CLASSES = 20
SHOWN_FILES = 10
# enough to keep a ResNet-50 busy, which trains on about 2,600 to 7,300 views/s on an A100 or H100, two per image
RESNET50_IMAGES_PER_S = 5000.0


@dataclass
class DataOptions:
    """Report what is in a data set, what is wrong with it, and what it takes to keep a GPU busy with it."""

    path: Annotated[str | None, tyro.conf.Positional] = None
    """What to look at: a folder, a .tar(.gz) of one, a .csv of paths, cifar10, cifar100, stl10, or shapes."""
    labels: str | None = None
    """CSV file with the columns name and label that gives the classes."""
    captions: str | None = None
    """Report on captions too: `auto`, `txt`, `json` or a table, as for pretrain."""
    caption_columns: tuple[str, str] | None = None
    """Header of the images and of the captions in a table. Default: filepath title, and other usual names."""
    caption_key: str = ""
    """Key of the captions in a .json or an .npz. Default: caption, captions or text."""
    resize_shorter: int | None = None
    """Estimate memory and speed for images shrunk to this shorter side."""
    follow_links: str | None = None
    """Follow symbolic links that lead into this folder. Without it, many images behind links are an error."""
    channels: int = 3
    """Channels of the images, 1 to 16."""
    range: RangeChoice | None = None
    """Values that become 0 and 255 in images of more than 8 bits: `LO HI` or `file`."""
    channel_axis: ChannelAxis = "auto"
    """Where arrays have their channels: `first`, `last`, or where one of them fits."""
    pages: Pages = "first"
    """Of a file of several images: the `first`, or all as `channels`."""
    memory: float | None = None
    """GB of main memory that images may take. Default: half of what is free."""
    gpu_images_per_s: float | None = None
    """Images per second that your GPU trains on. Default: 5000, for ResNet-50 at 224 px on an A100-class GPU."""
    data_root: str = "data"
    """Folder with the files of cifar10, cifar100 and stl10."""
    download: bool = False
    """Fetch them when they are not there."""
    all: bool = False
    """List all unreadable files, not only the first ten."""
    json: bool = False
    """Print the report as JSON."""
    clear_cache: bool = False
    """Remove the decoded images that were kept for the next run, and do nothing else."""
    cache: str = "auto"
    """Where they are kept: `auto` is ~/.cache/fastclr, or a folder."""


def main(arguments: list[str]) -> None:
    """Print the report, or clear the cache."""
    options = tyro.cli(DataOptions, args=arguments, prog="fastclr data")
    if options.clear_cache:
        if options.path is not None:
            raise ValueError(f"--clear-cache removes everything that is kept: drop {options.path!r}")
        folder = cache_folder(options.cache)
        if folder is None:
            raise ValueError("--clear-cache needs --cache auto or a folder, got off")
        count, size = clear(folder)
        show(f"removed {count} file(s), {size / 1e9:.3g} GB, from {folder}")
        return
    if options.path is None:
        raise ValueError("what to look at must be given: fastclr data PATH")
    for name in ("resize_shorter", "gpu_images_per_s"):
        if (value := getattr(options, name)) is not None and not 0 < value < float("inf"):
            raise ValueError(f"{name} must be a positive number, got {value}")
    memory_limit = memory_bytes(options.memory)
    source = locate(options.path, options.data_root, options.download)
    reading = Reading(options.channels, options.range, options.channel_axis, options.pages).within(None)
    captions = options.captions
    found, samples = survey(
        source,
        labels=options.labels,
        captions=captions and CaptionOptions(captions, options.caption_key, options.caption_columns),
        resize_shorter=options.resize_shorter,
        memory_limit=memory_limit,
        follow_links=options.follow_links,
        reading=reading,
    )
    wanted = options.gpu_images_per_s or RESNET50_IMAGES_PER_S
    machine = measure_machine(found, samples, wanted, memory_limit, reading)
    if options.json:
        show(json.dumps({**dataclasses.asdict(found), "machine": machine}, indent=2))
    else:
        show(describe(found, machine, options))


def measure_machine(
    found: Survey, samples: list[bytes], wanted: float, memory_limit: int | None = None, reading: Reading = AS_RGB
) -> dict[str, Any]:
    """Return what depends on this machine: memory, cores, and decoding rates in images per second and core."""
    import torch

    machine: dict[str, Any] = {"cores": available_cores(), "memory_free": available_memory()}
    machine["memory_usable"] = DecodeOptions(memory_limit=memory_limit).budget()
    machine["fits_in_memory"] = found.decoded_bytes <= machine["memory_usable"]
    machine["gpu_images_per_s"] = wanted
    if torch.cuda.is_available():
        machine["gpu_memory_free"] = torch.cuda.mem_get_info()[0]
        machine["fits_in_gpu_memory"] = found.decoded_bytes <= machine["gpu_memory_free"] // 2
    if not samples:
        return machine
    rates = {"Pillow": pillow_rate(samples, found.resize_shorter, reading)}
    try:
        rates["DALI"] = dali_rate(samples, found.resize_shorter)
    except ModuleNotFoundError:
        machine["dali"] = "not installed"
    except RuntimeError as error:
        machine["dali"] = f"cannot decode the sample: {str(error).splitlines()[0]}"
    machine["samples"] = len(samples)
    machine["images_per_s_per_core"] = rates
    machine["cores_needed"] = {name: cores_for(wanted, rate) for name, rate in rates.items()}
    return machine


def describe(found: Survey, machine: dict[str, Any], options: DataOptions) -> str:
    """Return the report as text."""
    rows: list[tuple[str, str]] = [("source", found.source)]
    for name, split in found.splits.items():
        rows += [(name, line) for line in split_lines(split)]
        if unknown := sorted(set(split.classes) - set(found.splits["train"].classes)):
            listed = ", ".join(map(one_line, unknown[:SHOWN_FILES])) + ", ..." * (len(unknown) > SHOWN_FILES)
            rows.append((name, f"{len(unknown)} class(es) that train lacks, which a run refuses: {listed}"))
    rows.append(("test images", found.test_images))
    if found.captions is not None:
        rows += [("captions", line) for line in caption_lines(found.captions, options.all)]
    rows.append(("size", f"height {numbers(found.height)}, width {numbers(found.width)} px (min / median / max)"))
    rows.append(("format", formats(found)))
    if found.other_files:
        kinds = ", ".join(f"{one_line(suffix)} {count:,}" for suffix, count in found.other_files.items())
        rows.append(("other files", f"not read: {kinds}"))
    rows += [("unreadable", line) for line in unreadable(found, options.all)]
    rows += [("copies", line) for line in copies(found.copies, found.held_out)]
    rows += [("memory", line) for line in memory(found, machine, options.memory is not None)]
    rows += [("decoding", line) for line in decoding(machine, options.gpu_images_per_s)]
    lines, last = [], ""
    for title, text in rows:
        lines.append(f"{'' if title == last else title:<13}{text}".rstrip())
        last = title
    return "\n".join(lines)


def numbers(spread: Spread) -> str:
    """Return a spread as text."""
    return f"{spread.min:g} / {spread.median:g} / {spread.max:g}"


def split_lines(split: SplitSurvey) -> list[str]:
    """Describe one split."""
    if split.per_class is None:
        return [f"{split.images:,} images, unlabelled"]
    per_class = f"{len(split.classes)} classes of {numbers(split.per_class)} images (min / median / max)"
    lines = [f"{split.images:,} images, {per_class}" + (f", {split.unlabelled:,} unlabelled" * bool(split.unlabelled))]
    if len(split.classes) <= SHOWN_CLASSES:
        lines.append(", ".join(f"{one_line(name)} {count:,}" for name, count in split.classes.items()))
    return lines


def caption_lines(found: CaptionSurvey, everything: bool) -> list[str]:
    """Describe captions, and the images that have none."""
    lines = [
        f"{found.captions:,}, of which {found.different:,} differ; {numbers(found.per_image)} an image, "
        f"{numbers(found.words)} words (min / median / max)",
        f"{len(found.without):,} images without one that can be used, which are left out",
    ]
    listed = found.without if everything else found.without[:SHOWN_FILES]
    lines += [f"  {name!a}: {reason.removeprefix('no caption: ')}" for name, reason in listed]
    if len(listed) < len(found.without):
        lines.append(f"  ... and {len(found.without) - len(listed):,} more (--all lists them)")
    return lines


def formats(found: Survey) -> str:
    """Describe the kinds of files."""
    if not found.formats:
        return "pixels, nothing to decode"
    kinds = ", ".join(f"{name} {count:,}" for name, count in found.formats.items())
    other = found.images - found.formats.get("JPEG", 0)
    shares = {"not JPEG": other, "greyscale": found.grey, "CMYK": found.cmyk}
    return kinds + "; " + ", ".join(f"{name} {100 * count / found.images:.3g}%" for name, count in shares.items())


def unreadable(found: Survey, everything: bool) -> list[str]:
    """Describe what cannot be used."""
    total = found.images + len(found.unreadable)
    how = f"{found.decoded:,} evenly spaced ones were decoded, of the others only the header was read"
    if found.all_decoded:
        how = "every image was decoded"
    lines = [f"{len(found.unreadable):,} of {total:,} images ({how})" if found.formats else "0 images"]
    if found.not_read:
        lines[0] += f", and {len(found.not_read):,} entries that are not read"
    listed = [*found.unreadable, *found.not_read]
    lines += [f"  {name!a}: {reason}" for name, reason in (listed if everything else listed[:SHOWN_FILES])]
    if not everything and len(listed) > SHOWN_FILES:
        lines.append(f"  ... and {len(listed) - SHOWN_FILES:,} more (--all lists them)")
    return lines


def copies(found: Copies, held_out: bool) -> list[str]:
    """Describe exact copies, and test images that are in the training set."""
    lines = [f"{found.images:,} images equal another one (identical {found.of})"]
    if held_out and found.images:
        lines.append("WARNING: held-out test images may have a copy among the training images")
    for name, count in found.shared_with_train.items():
        warning = "WARNING: " if count else ""
        lines.append(f"{warning}{count:,} images of {name} are also in train")
    return lines


def memory(found: Survey, machine: dict[str, Any], limited: bool) -> list[str]:
    """Describe how much memory the images take, and whether this machine has it."""
    size = "" if found.resize_shorter is None else f" with --resize-shorter {found.resize_shorter}"
    lines = [f"{found.decoded_bytes / 1e9:.3g} GB of pixels{size}"]
    usable = f"{machine['memory_usable'] / 1e9:.3g} GB"
    places = {"memory": f"the {usable} of --memory" if limited else f"half of the free main memory ({usable})"}
    if "gpu_memory_free" in machine:
        places["gpu_memory"] = f"half of the free GPU memory ({machine['gpu_memory_free'] / 2e9:.3g} GB)"
    for key, place in places.items():
        lines.append(f"{'fits' if machine[f'fits_in_{key}'] else 'does NOT fit'} into {place}")
    return lines


def decoding(machine: dict[str, Any], wanted: float | None) -> list[str]:
    """Describe how fast images decode here, and how many cores keep a GPU busy."""
    if "samples" not in machine:
        return ["not needed: these images are pixels"]
    rates, needed = machine["images_per_s_per_core"], machine["cores_needed"]
    listed = ", ".join(f"{name} {rate:,.0f}" for name, rate in rates.items())
    lines = [f"{listed} images/s on one core ({machine['samples']} images)"]
    if "dali" in machine:
        lines.append(f"DALI: {machine['dali']}")
    target = f"{machine['gpu_images_per_s']:,.0f} images/s"
    gpu = f"a GPU that trains on {target}" if wanted else f"ResNet-50 at 224 px on an A100-class GPU ({target})"
    listed = ", ".join(f"about {count:,} cores with {name}" for name, count in needed.items())
    lines.append(f"to keep up with {gpu}: {listed}; this machine has {machine['cores']}")
    if machine["fits_in_memory"]:
        lines.append("kept in memory, the images are decoded once, before training: no core is needed after that")
    return lines

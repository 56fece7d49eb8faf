"""Zero-shot classes and retrieval of a finished run of images and texts, and the results in ``results.json``."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence, Sized
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fastclr.data import Batch, ImageDataset, ImageIndex, LoaderKind, Splits
from fastclr.data.content_ids import image_ids
from fastclr.data.decode_many import DecodeOptions
from fastclr.data.open_source import open_source
from fastclr.device import resolve_device, uses_bf16
from fastclr.evaluate import class_embeddings, embed_texts, extract_features, retrieve, zero_shot_scores
from fastclr.evaluate.features import evaluation_batches
from fastclr.evaluate.scores import CONFUSION_UP_TO
from fastclr.evaluate.zero_shot import PROMPTS
from fastclr.methods import METHODS
from fastclr.parallel import check_single_process
from fastclr.sources.captions import CaptionOptions
from fastclr.sources.label_file import read_labels
from fastclr.sources.published import locate
from fastclr.training.build import load_data
from fastclr.training.config import PretrainConfig
from fastclr.training.images import named_after
from fastclr.training.run import Run

# images to evaluate on, and the loader for them
Part = tuple[ImageDataset | ImageIndex, LoaderKind]


@dataclass(frozen=True, kw_only=True)
class PlaceOptions:
    """Which images, and where to compute."""

    data: str | None = None
    """Images to evaluate on: their test split, or all where there is none. Default: the run's own test images."""
    device: str = "auto"
    """`auto` (CUDA if available), or a torch device."""


@dataclass(frozen=True, kw_only=True)
class ZeroshotOptions(PlaceOptions):
    """What the classes are called.

    Raises:
        ValueError: there is no prompt, or one without ``{}``.
    """

    labels: str | None = None
    """CSV file with the columns name (or file_name) and label. Default: folders; for the run's images as in the run."""
    prompts: tuple[str, ...] = PROMPTS
    """Texts with {} in place of the name of a class; their embeddings are averaged."""
    names: tuple[str, ...] = ()
    """Names of the classes, in their order. Default: those of the folders, with spaces for underscores."""

    def __post_init__(self) -> None:
        """Check the prompts before images are read."""
        if odd := [prompt for prompt in self.prompts if prompt.count("{}") != 1]:
            raise ValueError(f"a prompt must have one {{}} for the name of the class, got {odd[0]!r}")
        if not self.prompts:
            raise ValueError("prompts must be one or more texts, got none")


@dataclass(frozen=True, kw_only=True)
class RetrieveOptions(PlaceOptions):
    """Where the captions are."""

    captions: str | None = None
    """Captions of `data`: `auto`, `txt`, `json` or a table. Default: as in the run for its own images, else `auto`."""
    caption_columns: tuple[str, str] | None = None
    """Header of the images and of the captions in a table. Default: as in the run."""
    caption_key: str | None = None
    """Key of the captions in a .json, an item of a Dataset or an .npz. Default: as in the run."""

    def where(self, config: PretrainConfig) -> CaptionOptions:
        """Return where the captions are, for a run of this configuration."""
        place = self.captions or (config.captions if self.data is None else None) or "auto"
        key = config.caption_key if self.caption_key is None else self.caption_key
        return CaptionOptions(place, key, self.caption_columns or config.caption_columns)


class ImageTower(nn.Module):
    """From images to the space that they share with texts."""

    def __init__(self, method: nn.Module) -> None:
        super().__init__()
        self.method = method

    def forward(self, images: Tensor) -> Tensor:
        """Return embeddings ``[n, D]`` of images ``[n, 3, S, S]``."""
        found: Tensor = self.method.encode_image(images)  # type: ignore[operator]
        return found


class Towers:
    """Both towers of a run on a device.

    Args:
        run: of a method of images and texts.
        device: ``auto`` or a torch device.

    Raises:
        FileNotFoundError: the run has no checkpoint.
        ValueError: its method knows no texts.
    """

    def __init__(self, run: Run, device: str = "auto") -> None:
        check_texts(run)
        self.config = run.config
        self.device = resolve_device(device)
        self.tokenizer = run.load_tokenizer()
        self.method: Any = run.load_method().to(self.device).eval()
        self.autocast = uses_bf16(run.config.amp, self.device)

    def embed(self, texts: Sequence[str]) -> Tensor:
        """Return embeddings of texts, float32 ``[n, D]``."""
        with torch.no_grad():
            found: Tensor = self.method.encode_text(self.tokenizer(texts).to(self.device))
        return found.float()

    def images(self, parts: Sequence[Part]) -> Embedded:
        """Return embeddings of all readable images of some sets, with what is known of them."""
        tower, rows, labels, contents, captions = ImageTower(self.method), [], [], [], []
        for images, kind in parts:
            seen: list[Tensor] = []
            batches = evaluation_batches(images, self.device, loader=kind, workers=self.config.workers)
            watched = noting(batches, seen)
            found = extract_features(tower, watched, self.config.augment, autocast=self.autocast)
            rows.append(found.features)
            labels.append(found.labels.cpu())
            contents += seen
            if images.captions is not None:
                place = {key: row for row, key in enumerate(images.ids.tolist())}
                captions += [images.captions[place[key]] for key in found.ids.tolist()]
        return Embedded(torch.cat(rows), torch.cat(labels), torch.cat(contents), tuple(captions))


@dataclass(frozen=True)
class Embedded:
    """Embeddings ``[N, D]``, labels and content ids int64 ``[N]``, and the captions of N images, if they were read."""

    rows: Tensor
    labels: Tensor
    contents: Tensor
    captions: tuple[tuple[str, ...], ...]


def noting(batches: Iterator[Batch], seen: list[Tensor]) -> Iterator[Batch]:
    """Yield batches, and add the content ids of their images to ``seen``."""
    for batch in batches:
        seen.append(image_ids(batch.images).cpu())
        yield batch


def check_texts(run: Run) -> None:
    """Raise a ValueError unless a run's method has a text tower."""
    if not METHODS[run.config.method].uses_texts:
        able = ", ".join(name for name, method in METHODS.items() if method.uses_texts)
        raise ValueError(
            f"{run.folder} must be a run of a method with a text tower ({able}), got one of {run.config.method}"
        )


def own_test(run: Run, config: PretrainConfig, images: Splits | None, what: str) -> tuple[list[Part], tuple[str, ...]]:
    """Return the run's own test images and the names of their classes."""
    splits = images or load_data(config)
    if splits.test is None:
        raise ValueError(f"the run in {run.folder} has no test images: give {what} with --data")
    return [(splits.test, splits.loader)], splits.train.classes or splits.test.classes


def other_images(
    source: str | Sized,
    config: PretrainConfig,
    device: torch.device,
    captions: CaptionOptions | None,
    labels: str | None,
) -> tuple[list[Part], tuple[str, ...]]:
    """Return the test images of a source, or all where it has no test split, and the names of its classes."""
    options = DecodeOptions(config.resize_shorter, config.memory_limit, config.workers or None, reading=config.reading)
    place = locate(source, config.data_root)
    opened = open_source(place, options, config.follow_links, captions)
    if labels is not None:
        opened = opened.relabelled(read_labels(labels, place if isinstance(place, str) else None))
    try:
        _, classes = opened.listed("test")
        split: Any = "test"
    except ValueError:
        _, classes = opened.listed("all")
        split = "all"
    return list(opened.load_listed(split, "auto", options, device)), classes


def zeroshot(
    run: Run, options: ZeroshotOptions, images: Splits | None = None, given: Sized | None = None
) -> dict[str, Any]:
    """Classify images by the names of their classes, and store the result.

    Args:
        run: of a method of images and texts.
        options: what to classify, and the names.
        images: the run's own images, if they are at hand.
        given: the images, where ``options.data`` only names what a program holds.

    Raises:
        ValueError: the run has no text tower, there are no labelled images, or the names are not those of the classes.
    """
    check_single_process("an evaluation")
    check_texts(run)
    if options.data is None:
        own = options.labels is None
        config = run.config if own else dataclasses.replace(run.config, labels=options.labels)
        parts, classes = own_test(run, config, images if own else None, "labelled images")
    else:
        source = options.data if given is None else given
        parts, classes = other_images(source, run.config, resolve_device(options.device), None, options.labels)
    if not classes or not any(bool((part.labels >= 0).any()) for part, _ in parts):
        raise ValueError("the images to classify must have labels: folders of classes, or a CSV with --labels")
    names = options.names or tuple(name.replace("_", " ") for name in classes)
    if len(names) != len(classes):
        raise ValueError(f"names must be {len(classes)}, one for each class in their order, got {len(names)}")
    towers = Towers(run, options.device)
    words = class_embeddings(names, options.prompts, towers.embed)
    found = towers.images([(labelled(part), kind) for part, kind in parts if bool((part.labels >= 0).any())])
    scores = zero_shot_scores(found.rows, words.to(found.rows.device), found.labels.to(found.rows.device))
    result = {
        **scores.as_json(),
        "prompts": list(options.prompts),
        "class_count": len(classes),
        "chance": 1 / len(classes),
        "test_images": len(found.labels),
        "classes": list(names) if len(names) <= CONFUSION_UP_TO else None,
    }
    run.add_result(named_after("zeroshot", options.data), result)
    return result


def labelled(images: ImageDataset | ImageIndex) -> ImageDataset | ImageIndex:
    """Return the images of known class."""
    return images if images.labelled else images.select((images.labels >= 0).nonzero().flatten())


def retrieve_pairs(
    run: Run, options: RetrieveOptions, images: Splits | None = None, given: Sized | None = None
) -> dict[str, Any]:
    """Score the search between images and their captions, in both directions, and store the result.

    Args:
        run: of a method of images and texts.
        options: which images, and where their captions are.
        images: the run's own images, if they are at hand.
        given: the images, where ``options.data`` only names what a program holds.

    Raises:
        ValueError: the run has no text tower, or the images have no captions.
    """
    check_single_process("an evaluation")
    check_texts(run)
    captions = options.where(run.config)
    if options.data is None:
        own = (options.captions, options.caption_columns, options.caption_key) == (None, None, None)
        values: dict[str, Any] = {
            "captions": captions.place,
            "caption_columns": captions.columns,
            "caption_key": captions.key,
        }
        config = run.config if own else dataclasses.replace(run.config, **values)
        parts, _ = own_test(run, config, images if own else None, "pairs")
    else:
        source = options.data if given is None else given
        parts, _ = other_images(source, run.config, resolve_device(options.device), captions, None)
    towers = Towers(run, options.device)
    found = towers.images(parts)
    if not found.captions:
        raise ValueError("the images must have captions: say where they are with --captions")
    texts = [text for each in found.captions for text in each]
    owners = torch.arange(len(found.captions)).repeat_interleave(torch.tensor([len(each) for each in found.captions]))
    numbers = {text: number for number, text in enumerate(dict.fromkeys(texts))}
    text_ids = torch.tensor([numbers[text] for text in texts])
    embedded = embed_texts(texts, towers.embed).to(found.rows.device)
    sides = retrieve(
        found.rows, embedded, owners, image_ids=found.contents, text_ids=text_ids, device=found.rows.device
    )
    result = {
        name: {**side.as_json(), "different_captions": len(numbers)}
        for name, side in zip(("image to text", "text to image"), sides, strict=True)
    }
    run.add_result(named_after("retrieve", options.data), result)
    return result

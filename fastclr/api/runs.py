"""A run in Python: what its folder holds, and what can be done with it."""

from __future__ import annotations

import dataclasses
import html
import os
from collections.abc import Sequence, Sized
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn
from typing_extensions import Unpack

from fastclr.api.option_types import (
    DistillKeywords,
    EvaluateKeywords,
    FinetuneKeywords,
    ImageKeywords,
    ProbeKeywords,
    Protocol,
    ResumeKeywords,
)
from fastclr.api.starting import find_images, start_or_return, told
from fastclr.data import Splits
from fastclr.data.image_source import Split
from fastclr.data.loader_choice import LoaderKind
from fastclr.data.options import memory_bytes
from fastclr.evaluate.zero_shot import PROMPTS
from fastclr.methods.own_encoder import is_given
from fastclr.report import Missing, write_report
from fastclr.training.config import PretrainConfig
from fastclr.training.evaluation import can_evaluate
from fastclr.training.image_text import RetrieveOptions, ZeroshotOptions, retrieve_pairs, zeroshot
from fastclr.training.images import ImageOptions
from fastclr.training.keywords import configure, options_of, plain, take, take_images
from fastclr.training.phases import ExtensionKind
from fastclr.training.results import read_results
from fastclr.training.run import Run as Folder
from fastclr.training.scoring import KnnOptions, ProbeOptions, knn, probe
from fastclr.transfer.bare_encoder import BareEncoder, bare_encoder
from fastclr.transfer.classifier import Trained, check_free, is_pretrained
from fastclr.transfer.distill import DistillConfig, distill, find_teacher
from fastclr.transfer.embed import Embedded, Kind, embed
from fastclr.transfer.export import Exported, Format, export_run
from fastclr.transfer.finetune import FinetuneConfig, finetune
from fastclr.transfer.training_options import TrainingOptions


class Run:
    """A run, finished or not: what its folder holds, and what can be done with it.

    Args:
        folder: of the run.
        encoder: the module, or one built alike, if the run was made with an encoder that was given as a module.
        data: the images, if they were given as a Dataset or arrays; or where they are now.
        test_data: likewise those to test on.

    Raises:
        FileNotFoundError: `folder` holds no run.
        ValueError: an encoder was given to a run that can make its own.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        encoder: nn.Module | None = None,
        data: str | os.PathLike[str] | Sized | None = None,
        test_data: str | os.PathLike[str] | Sized | None = None,
    ) -> None:
        run = Folder.open(Path(folder))
        images = {name: value for name, value in (("data", data), ("test_data", test_data)) if value is not None}
        run = Folder(run.folder, configure(run.config, images))
        if encoder is not None:
            if not is_given(run.config.encoder):
                raise ValueError(f"the run in {folder} makes its encoder {run.config.encoder} itself: drop encoder")
            run = Folder(run.folder, dataclasses.replace(run.config, given=encoder))
        self._run = run
        self._images: Splits | None = None

    @classmethod
    def _of(cls, run: Folder, images: Splits | None = None) -> Run:
        made = cls.__new__(cls)
        made._run, made._images = run, images
        return made

    @classmethod
    def of_encoder(
        cls,
        encoder: str | None = None,
        *,
        pretrained: bool = False,
        init: str | os.PathLike[str] | None = None,
        **options: Any,
    ) -> Run:
        """Return an encoder that was trained elsewhere, for `embed`, `knn` and `probe`; it has no folder.

        Args:
            encoder: name of a timm model, or ``module:factory``. Default: as an ``encoder.safetensors`` in `init` says.
            pretrained: take the weights that timm publishes for it.
            init: or those of a file, of any library.
            options: ``init_prefix``, ``download``, ``size``, ``mean``, ``std``, ``data``, ``test_data``, ``labels``;
                see `fastclr.transfer.bare_encoder`.

        Raises:
            FileNotFoundError: the weights are not there.
            ValueError: it is not said whose weights, or they do not fit.
        """
        file = None if init is None else os.fspath(init)
        return cls._of(bare_encoder(encoder, pretrained=pretrained, init=file, **options))

    def __repr__(self) -> str:
        """Return how the run is opened."""
        if isinstance(self._run, BareEncoder):
            return f"fastclr.Run.of_encoder({self.config.encoder!r}, ...)"
        return f"fastclr.Run({str(self.folder)!r})"

    def _repr_html_(self) -> str:
        """Return the report, as a page within the page, where a notebook shows a run."""
        path = None if isinstance(self._run, BareEncoder) else self.folder / "report.html"
        if path is None or not path.is_file():
            return f"<code>{html.escape(repr(self))}</code>"
        page = html.escape(path.read_text(encoding="utf-8"))
        return f'<iframe sandbox srcdoc="{page}" style="width: 100%; height: 40em; border: 0"></iframe>'

    @property
    def folder(self) -> Path:
        """The folder."""
        return self._run.folder

    @property
    def config(self) -> PretrainConfig:
        """What was asked for."""
        return self._run.config

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """The records of ``metrics.jsonl``, of training and of evaluations."""
        return self._run.metrics.read()

    @property
    def results(self) -> dict[str, Any]:
        """The results of all evaluations so far, by name."""
        return read_results(self._run)

    @property
    def finished(self) -> bool:
        """Whether the last epoch is done."""
        return is_pretrained(self._run)

    @property
    def can_evaluate(self) -> bool:
        """Whether the images that the run was trained with have labels to learn from and to test on."""
        return self._images is not None and can_evaluate(self._images)

    @cached_property
    def encoder(self) -> nn.Module:
        """The encoder with the weights of the last checkpoint, on the CPU and in evaluation mode.

        From images ``[N, 3, S, S]``, normalised as in ``config.augment``, to features ``[N, F]``.
        """
        return self._run.load_encoder().eval()

    def _with(self, options: dict[str, Any]) -> tuple[Folder, Splits | None]:
        """Take Datasets and arrays out of `options`; return the run that has them, and its images if they are read."""
        places = (str, os.PathLike, type(None))
        names = [name for name in ("data", "test_data") if not isinstance(options.get(name), places)]
        if not names:
            return self._run, self._images
        return self._run.with_config(configure(self.config, {name: options.pop(name) for name in names})), None

    def knn(
        self, *, k: int | Sequence[int] = (), temperature: float | None = None, **options: Unpack[EvaluateKeywords]
    ) -> dict[str, Any]:
        """Score the frozen features by their nearest neighbours; see ``fastclr knn``. On one process alone.

        Args:
            k: number of neighbours that vote; several are scored in one search. Default: as in the run.
            temperature: votes are weighted by exp(cosine / temperature); 0: all equally. Default: as in the run.
            options: ``features``, ``data``, ``test_data``, ``labels``, ``device``.

        Returns:
            the result, as it stands in ``results.json``.
        """
        many = (k,) if isinstance(k, int) else tuple(k)
        asked = {"k": many, "temperature": temperature, **options}
        run, images = self._with(asked)
        return knn(run, take(KnnOptions, asked), images)

    def probe(self, protocol: Protocol = "lbfgs", **options: Unpack[ProbeKeywords]) -> dict[str, Any]:
        """Score a linear classifier on the frozen features; see ``fastclr probe``. On one process alone.

        Args:
            protocol: how it is fitted.
            options: ``seeds``, ``l2``, ``epochs``, ``batch_size``, ``lr``, ``weight_decay``, ``features``, ``data``,
                ``test_data``, ``labels``, ``device``.

        Returns:
            the result, as it stands in ``results.json``.
        """
        asked = {"protocol": protocol, **options}
        run, images = self._with(asked)
        return probe(run, take(ProbeOptions, asked), images)

    def zeroshot(
        self,
        *,
        data: str | os.PathLike[str] | Sized | None = None,
        labels: str | os.PathLike[str] | None = None,
        prompts: Sequence[str] = PROMPTS,
        names: Sequence[str] | os.PathLike[str] | None = None,
        device: str | torch.device = "auto",
    ) -> dict[str, Any]:
        """Classify images by the names of their classes; see ``fastclr zeroshot``. On one process alone.

        Args:
            data: labelled images, as for `fastclr.pretrain`: their test split, or all where there is none. Default: the
                run's own test images.
            labels: CSV file with their classes. Default: folders; for the run's images as in the run.
            prompts: texts with ``{}`` in place of the name of a class; their embeddings are averaged.
            names: of the classes, in their order, or a file with one a line. Default: those of the folders.
            device: where to compute.

        Returns:
            the result, as it stands in ``results.json``.
        """
        if names is None:
            names = ()
        elif isinstance(names, (str, os.PathLike)):
            names = [line.strip() for line in Path(names).read_text(encoding="utf-8").splitlines() if line.strip()]
        asked: dict[str, Any] = {"data": plain(data), "labels": labels, "device": device}
        asked |= {"prompts": tuple(prompts), "names": tuple(names)}
        given = take_images(asked).get("given_data")
        return zeroshot(self._run, take(ZeroshotOptions, asked), self._images, given)

    def retrieve(
        self,
        *,
        data: str | os.PathLike[str] | Sized | None = None,
        captions: str | os.PathLike[str] | None = None,
        caption_columns: tuple[str, str] | None = None,
        caption_key: str | None = None,
        device: str | torch.device = "auto",
    ) -> dict[str, Any]:
        """Score the search between images and their captions; see ``fastclr retrieve``. On one process alone.

        Args:
            data: images with captions, as for `fastclr.pretrain`: their test split, or all where there is none.
                Default: the run's test images.
            captions: where they are. Default: as in the run for its own images, else ``auto``.
            caption_columns: header of the images and of the captions in a table. Default: as in the run.
            caption_key: of the captions in a .json, in an item or an .npz. Default: as in the run.
            device: where to compute.

        Returns:
            the result by direction, as it stands in ``results.json``.
        """
        asked: dict[str, Any] = {
            "data": plain(data),
            "captions": captions,
            "caption_columns": caption_columns,
            "caption_key": caption_key,
            "device": device,
        }
        given = take_images(asked).get("given_data")
        return retrieve_pairs(self._run, take(RetrieveOptions, asked), self._images, given)

    def finetune(self, **options: Unpack[FinetuneKeywords]) -> Trained:
        """Train the whole network on labels, and return it with its scores; see ``fastclr finetune``.

        Args:
            options: those of `FinetuneConfig` and `TrainingOptions`.
        """
        asked = dict(options)
        run, images = self._with(asked)
        config, common = options_of(FinetuneConfig, asked), take(TrainingOptions, asked)
        name = common.name or config.name
        check_free(self.folder / name, common.overwrite)
        run, images = common.open(run, images)
        with told(f"the same call goes on in {self.folder / name}"):
            return finetune(run, images, config, name=name, overwrite=common.overwrite)

    def distill(self, teacher: str | None = None, **options: Unpack[DistillKeywords]) -> Trained:
        """Train a student on the predictions of a fine-tuned network, and return it; see ``fastclr distill``.

        Args:
            teacher: name of the fine-tuned network inside the run's folder. Default: the only one.
            options: those of `DistillConfig` and `TrainingOptions`.
        """
        asked = dict(options)
        run, images = self._with(asked)
        config, common = options_of(DistillConfig, asked), take(TrainingOptions, asked)
        taught = Trained.load(find_teacher(self.folder / teacher if teacher else self.folder), self.config.given)
        name = common.name or config.name(taught.settings["share"], taught.config)
        check_free(self.folder / name, common.overwrite)
        if common.labels is None and taught.config.labels != self.config.labels:  # given to the fine-tuning
            common = dataclasses.replace(common, labels=taught.config.labels)
        run, images = common.open(run, images)
        with told(f"the same call goes on in {self.folder / name}"):
            return distill(run, images, taught, config, name=name, overwrite=common.overwrite)

    def embed(
        self,
        images: str | os.PathLike[str] | Sized,
        out: str | os.PathLike[str] = "features.npz",
        *,
        features: Kind = "h",
        split: Split = "all",
        dtype: Literal["float32", "float16"] = "float32",
        batch_size: int = 256,
        device: str = "auto",
        loader: LoaderKind = "auto",
        workers: int | None = None,
        memory: float | None = None,
        data_root: str = "data",
        follow_links: str | None = None,
        labels: str | os.PathLike[str] | None = None,
    ) -> Embedded | None:
        """Write the features of images to a file; see ``fastclr embed``.

        Returns:
            what was written; None if the file was there, made with the same settings.
        """
        limit = memory_bytes(memory)
        if dtype not in ("float32", "float16"):
            raise ValueError(f"dtype must be float32 or float16, got {dtype!r}")
        return embed(
            self._run,
            os.fspath(images) if isinstance(images, os.PathLike) else images,
            Path(out),
            features=features,
            split=split,
            half=dtype == "float16",
            batch_size=batch_size,
            device=device,
            loader=loader,
            workers=workers,
            memory_limit=limit,
            data_root=data_root,
            follow_links=follow_links,
            labels=None if labels is None else Path(labels),
        )

    def export(
        self,
        format: Format | None = None,
        out: str | os.PathLike[str] | None = None,
        *,
        check: bool = True,
        licence: str | None = None,
        overwrite: bool = False,
    ) -> Exported:
        """Write the encoder to one file for use without fastclr, with a model card; see ``fastclr export``."""
        path = None if out is None else Path(out)
        return export_run(self._run, format, path, check=check, licence=licence, overwrite=overwrite)

    def report(self, **options: Unpack[ImageKeywords]) -> Path:
        """Write ``report.html`` into the folder and return its path; without images it says why they are missing.

        Args:
            options: ``data``, ``test_data``, ``labels``, ``device``.
        """
        given = dict(options)
        own, at_hand = self._with(given)
        asked = take(ImageOptions, given)
        run, images = Folder(self.folder, asked.config_for(own)), find_images(own, asked, at_hand)
        path = write_report(run, images, say=run.say)
        if isinstance(images, Missing):
            run.say(f"without pictures and features: {images.reason}")
        return path

    def resume(self, *, extend: ExtensionKind | None = None, **options: Unpack[ResumeKeywords]) -> Run:
        """Go on from the last checkpoint to the last epoch, and return the run.

        Args:
            extend: the rates from the last checkpoint on, where ``epochs``, the number of all, is not the run's:
                ``cosine-restart`` is a new cosine from the peak to zero, ``constant`` the peak. Default:
                ``cosine-restart`` for a run that has done its epochs, before that an error.
            options: as for `pretrain`; only those may differ that do not change what was done already.
        """
        config = configure(self.config, dict(options))
        self.__dict__.pop("encoder", None)
        return Run._of(*start_or_return(config, self.folder, str(self.folder), extend))

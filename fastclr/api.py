"""The Python door: `pretrain` starts a run, and a `Run` is what can be done with it; every command calls these."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
from collections.abc import Iterator, Sequence, Sized
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from torch import nn

from fastclr.data import Splits
from fastclr.data.image_source import Split
from fastclr.data.loader_choice import LoaderKind
from fastclr.environment import use_stored_threads
from fastclr.methods.own_encoder import is_given
from fastclr.parallel import speaks
from fastclr.report import Missing, write_report
from fastclr.training.config import PretrainConfig
from fastclr.training.evaluation import can_evaluate
from fastclr.training.extend import longer
from fastclr.training.images import ImageOptions
from fastclr.training.keywords import configure, near, options_of, take
from fastclr.training.loop import pretrain_in
from fastclr.training.phases import ExtensionKind
from fastclr.training.presets import PRESETS
from fastclr.training.results import read_results
from fastclr.training.run import Run as Folder
from fastclr.training.scoring import KnnOptions, ProbeOptions, knn, probe
from fastclr.training.stopping import Interrupted
from fastclr.transfer.classifier import Trained, check_free, is_pretrained
from fastclr.transfer.distill import DistillConfig, distill, find_teacher
from fastclr.transfer.embed import Embedded, Kind, embed
from fastclr.transfer.export import Exported, Format, export_run
from fastclr.transfer.finetune import FinetuneConfig, finetune
from fastclr.transfer.training_options import TrainingOptions

AUTO = "auto"


def pretrain(
    data: str | os.PathLike[str] | Sized = "",
    *,
    method: str | None = None,
    encoder: str | nn.Module | None = None,
    preset: str | None = None,
    out: str | os.PathLike[str] | None = None,
    resume: Literal["auto"] | None = None,
    extend: ExtensionKind | None = None,
    **options: Any,
) -> Run:
    """Pretrain an encoder, write its run to a folder with the report, and return the run.

    Under torchrun, or with an initialised process group, all processes train one model; each calls this function. In a
    notebook an interrupt (Ctrl-C, the stop button) ends the training between two steps, with a checkpoint, and returns
    the run as far as it came: `Run.resume` goes on.

    Args:
        data: the images: a folder, a tar, WebDataset shards, `shapes`, `cifar10`, `cifar100`, `stl10`, a map-style
            Dataset, arrays, or a dictionary of these by split; see `fastclr.data.load_splits`.
        method: the method. Default: the preset's, which is SimCLR.
        encoder: the name of a timm model, ``module:factory``, or a module from float32 images ``[N, 3, S, S]`` to
            features ``[N, F]`` or maps ``[N, F, h, w]``, which are averaged. A module is copied: the trained one is the
            run's. Default: the preset's, ``resnet18``.
        preset: start from the values of a preset, such as ``cifar10``; see docs/recipes.md.
        out: the folder. Default: ``runs/`` followed by the name of the preset, otherwise of the data.
        resume: ``auto`` goes on with the run in `out`, if there is one, so that one script serves a job that restarts.
        extend: as for `Run.resume`.
        options: every other option of ``fastclr pretrain``, with ``_`` for ``-``; see `PretrainConfig`. Those of the
            method are a dictionary, such as ``simclr={"temperature": 0.2}``, or the method's options; those of the
            augmentation, such as ``size``, stand among the others, or in ``augment``: a dictionary or `AugmentConfig`.

    Raises:
        TypeError: there is no such option.
        ValueError: a value does not fit, or the data are unsuitable.
        FileExistsError: the folder exists.
        Interrupted: a signal other than Ctrl-C came, or came under torchrun.
    """
    if resume not in (None, AUTO):
        raise ValueError(
            f"resume must be 'auto' or None, got {resume!r}: fastclr.Run(folder).resume() goes on with a run"
        )
    if preset is not None and preset not in PRESETS:
        raise ValueError(f"preset must be one of {', '.join(PRESETS)}, got {preset!r}{near(preset, PRESETS)}")
    base = PretrainConfig() if preset is None else PRESETS[preset]
    named = {"method": method, "encoder": encoder, "data": None if isinstance(data, str) and not data else data}
    given = {name: value for name, value in named.items() if value is not None}
    config = configure(base, {**given, **options})
    folder = default_folder(config, preset) if out is None else Path(out)
    return start_or_return(config, folder, resume, extend)


def default_folder(config: PretrainConfig, preset: str | None) -> Path:
    """Return the folder of a run that none was named for."""
    name = config.data[1:-1].rpartition(".")[2] if is_given(config.data) else Path(config.data).name.partition(".")[0]
    return Path("runs") / (preset or name)


def start(config: PretrainConfig, folder: Path, *, resume: str | None = None, extend: str | None = None) -> Run:
    """Pretrain in `folder`, or go on there, and write the report; errors are those of `pretrain_in` and `longer`.

    Args:
        config: the run.
        folder: new, or that of a run to go on with.
        resume: None starts a run; ``auto`` goes on if there is one; anything else goes on.
        extend: the rates from the last checkpoint on, where the run had other epochs.
    """
    goes_on = (folder / "config.json").is_file() if resume == AUTO else resume is not None
    if goes_on:
        config = longer(folder, config, extend)
        use_stored_threads(folder)
    elif extend is not None and resume is None:
        raise ValueError(f"extend is for a run that goes on, got {extend!r} for a new one: resume it, or drop extend")
    try:
        run, images, features = pretrain_in(folder, config, resume=goes_on)
    except Interrupted as interrupt:
        interrupt.args = (f"{interrupt}; continue with: fastclr pretrain --resume {folder}",)
        raise
    if speaks():
        write_report(run, images, features, run.say)
    return Run._of(run, images)


def start_or_return(config: PretrainConfig, folder: Path, resume: str | None, extend: str | None) -> Run:
    """Do what `start` does, but let Ctrl-C end it with the run as far as it came, if there is a checkpoint."""
    try:
        return start(config, folder, resume=resume, extend=extend)
    except KeyboardInterrupt as interrupt:
        number = getattr(interrupt, "number", signal.SIGINT)
        run = Folder(folder, config)
        if number != signal.SIGINT or "WORLD_SIZE" in os.environ or run.latest_checkpoint() is None:
            raise
        run.say(str(interrupt) or f"interrupted; continue with: fastclr pretrain --resume {folder}")
        return Run._of(Folder(folder, dataclasses.replace(Folder.open(folder).config, given=config.given)))


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

    def __repr__(self) -> str:
        """Return how the run is opened."""
        return f"fastclr.Run({str(self.folder)!r})"

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
        return Folder(self.folder, configure(self.config, {name: options.pop(name) for name in names})), None

    def knn(self, *, k: int | Sequence[int] = (), temperature: float | None = None, **options: Any) -> dict[str, Any]:
        """Score the frozen features by their nearest neighbours; see ``fastclr knn``.

        Args:
            k: number of neighbours that vote; several are scored in one search. Default: as in the run.
            temperature: votes are weighted by exp(cosine / temperature); 0: all equally. Default: as in the run.
            options: ``features``, ``data``, ``test_data``, ``labels``, ``device``.

        Returns:
            the result, as it stands in ``results.json``.
        """
        many = (k,) if isinstance(k, int) else tuple(k)
        run, images = self._with(options)
        return knn(run, take(KnnOptions, {"k": many, "temperature": temperature, **options}), images)

    def probe(self, protocol: Literal["lbfgs", "precomputed", "augmented"] = "lbfgs", **options: Any) -> dict[str, Any]:
        """Score a linear classifier on the frozen features; see ``fastclr probe``.

        Args:
            protocol: how it is fitted.
            options: ``seeds``, ``l2``, ``epochs``, ``batch_size``, ``lr``, ``weight_decay``, ``features``, ``data``,
                ``test_data``, ``labels``, ``device``.

        Returns:
            the result, as it stands in ``results.json``.
        """
        run, images = self._with(options)
        return probe(run, take(ProbeOptions, {"protocol": protocol, **options}), images)

    def finetune(self, **options: Any) -> Trained:
        """Train the whole network on labels, and return it with its scores; see ``fastclr finetune``.

        Args:
            options: those of `FinetuneConfig` and `TrainingOptions`.
        """
        run, images = self._with(options)
        config, common = options_of(FinetuneConfig, options), take(TrainingOptions, options)
        name = common.name or config.name
        check_free(self.folder / name, common.overwrite)
        run, images = common.open(run, images)
        with told(f"the same call goes on in {self.folder / name}"):
            return finetune(run, images, config, name=name, overwrite=common.overwrite)

    def distill(self, teacher: str | None = None, **options: Any) -> Trained:
        """Train a student on the predictions of a fine-tuned network, and return it; see ``fastclr distill``.

        Args:
            teacher: name of the fine-tuned network inside the run's folder. Default: the only one.
            options: those of `DistillConfig` and `TrainingOptions`.
        """
        run, images = self._with(options)
        config, common = options_of(DistillConfig, options), take(TrainingOptions, options)
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
    ) -> Embedded | None:
        """Write the features of images to a file; see ``fastclr embed``.

        Returns:
            what was written; None if the file was there, made with the same settings.
        """
        if memory is not None and not 0 < memory < float("inf"):
            raise ValueError(f"memory must be a positive number, got {memory}")
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
            memory_limit=None if memory is None else max(int(memory * 1e9), 1),
            data_root=data_root,
            follow_links=follow_links,
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

    def report(self, **options: Any) -> Path:
        """Write ``report.html`` into the folder and return its path; without images it says why they are missing.

        Args:
            options: ``data``, ``test_data``, ``labels``, ``device``.
        """
        own, at_hand = self._with(options)
        asked = take(ImageOptions, options)
        run, images = Folder(self.folder, asked.config_for(own)), find_images(own, asked, at_hand)
        path = write_report(run, images, say=run.say)
        if isinstance(images, Missing):
            run.say(f"without pictures and features: {images.reason}")
        return path

    def resume(self, *, extend: ExtensionKind | None = None, **options: Any) -> Run:
        """Go on from the last checkpoint to the last epoch, and return the run.

        Args:
            extend: the rates from the last checkpoint on, where ``epochs``, the number of all, is not the run's:
                ``cosine-restart`` is a new cosine from the peak to zero, ``constant`` the peak. Default:
                ``cosine-restart`` for a run that has done its epochs, before that an error.
            options: as for `pretrain`; only those may differ that do not change what was done already.
        """
        config = configure(self.config, options)
        self.__dict__.pop("encoder", None)
        return start_or_return(config, self.folder, str(self.folder), extend)


@contextlib.contextmanager
def told(how: str) -> Iterator[None]:
    """Add to an interrupt how to go on."""
    try:
        yield
    except Interrupted as interrupt:
        interrupt.args = (f"{interrupt}; {how}",)
        raise


def find_images(run: Folder, asked: ImageOptions, at_hand: Splits | None) -> Splits | Missing:
    """Return the images to report on, or why they could not be loaded."""
    try:
        return asked.load(run, at_hand)
    except (ValueError, OSError) as error:
        return Missing(f"The images could not be read: {error}. If they have moved, pass their location with --data.")

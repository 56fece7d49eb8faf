"""Where the records of a run go beside `metrics.jsonl`: TensorBoard, Weights & Biases, MLflow."""

from __future__ import annotations

import importlib
import secrets
import time
from pathlib import Path
from typing import Any

from fastclr.files import make_folder, write_text_atomically
from fastclr.training.config import PretrainConfig, flat
from fastclr.training.metrics import MetricsHook

# option, module that it needs, and how that is installed
NEEDED = (
    ("tensorboard", "torch.utils.tensorboard", "pip install 'fastclr[logging]'"),
    ("wandb", "wandb", "pip install wandb"),
    ("mlflow", "mlflow", "pip install mlflow"),
)


class TensorBoardHook:
    """Event files for TensorBoard.

    Args:
        folder: of the event files.
        step: the last step that is done; TensorBoard hides what an earlier process logged after it.
    """

    def __init__(self, folder: Path, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer: Any = SummaryWriter(str(folder), purge_step=step + 1)

    def log(self, record: dict[str, Any]) -> None:
        """Add every number of `record` as a scalar."""
        for name, value in scalars(record).items():
            self._writer.add_scalar(name, value, record["step"])
        self._writer.flush()  # a killed run shows as much here as in metrics.jsonl

    def close(self) -> None:
        """Close the event file."""
        self._writer.close()


class WandbHook:
    """A run on Weights & Biases, whose id is kept in `folder`, so that a resumed run goes on there.

    W&B takes no step twice: what is logged again after a resume is dropped there, the first values stay.

    Args:
        folder: of the run; `wandb-id` is written to it, and W&B's own files.
        project: name of the project.
        config: shown with the run.

    Raises:
        ValueError: W&B did not start.
    """

    def __init__(self, folder: Path, project: str, config: dict[str, Any]) -> None:
        import wandb

        path = folder / "wandb-id"
        if not path.exists():
            write_text_atomically(path, secrets.token_hex(8) + "\n")
        identity = path.read_text().strip()
        try:
            self._run: Any = wandb.init(
                project=project, id=identity, resume="allow", name=folder.name, dir=str(folder), config=config
            )
        except Exception as error:  # its types are its own
            raise ValueError(
                f"Weights & Biases did not start: {error}; run `wandb login`, or set WANDB_MODE=offline"
            ) from error

    def log(self, record: dict[str, Any]) -> None:
        """Log every number of `record`."""
        self._run.log(scalars(record), step=record["step"])

    def close(self) -> None:
        """Finish the run."""
        self._run.finish()


class MlflowHook:
    """A run of an MLflow experiment, whose id is kept in `folder`, so that a resumed run goes on there.

    MLflow keeps every value of a step: what is logged again after a resume stands there twice.

    Args:
        folder: of the run; `mlflow-id` is written to it.
        experiment: its name; it is made if it is not there.
        settings: shown as parameters of the run.

    Raises:
        ValueError: MLflow did not start.
    """

    def __init__(self, folder: Path, experiment: str, settings: dict[str, Any]) -> None:
        from mlflow import MlflowClient
        from mlflow.entities import Metric, Param

        path = folder / "mlflow-id"
        self._metric: Any = Metric
        try:
            self._client: Any = MlflowClient()
            if path.exists():
                self._id = path.read_text().strip()
                self._client.update_run(self._id, status="RUNNING")
                return
            known = self._client.get_experiment_by_name(experiment)
            place = self._client.create_experiment(experiment) if known is None else known.experiment_id
            self._id = self._client.create_run(place, run_name=folder.name).info.run_id
            self._client.log_batch(self._id, params=[Param(name, str(value)) for name, value in settings.items()])
        except Exception as error:  # its types are its own
            raise ValueError(f"MLflow did not start: {error}; see MLFLOW_TRACKING_URI") from error
        write_text_atomically(path, f"{self._id}\n")

    def log(self, record: dict[str, Any]) -> None:
        """Log every number of `record`."""
        now = int(1000 * time.time())
        metrics = [self._metric(name, value, now, record["step"]) for name, value in scalars(record).items()]
        self._client.log_batch(self._id, metrics=metrics)

    def close(self) -> None:
        """Finish the run."""
        self._client.set_terminated(self._id)


def check_hooks(config: PretrainConfig) -> None:
    """See that the packages of the hooks that are asked for are installed.

    Raises:
        ValueError: one is not; the message says how to install it.
    """
    for option, module, install in NEEDED:
        asked = getattr(config, option)
        if not asked:
            continue
        try:
            importlib.import_module(module)
        except ImportError as error:
            raise ValueError(f"{option}={asked!r} needs the package {option} ({error}): {install}") from error


def open_hooks(folder: Path, config: PretrainConfig, step: int) -> list[MetricsHook]:
    """Open the hooks that are asked for, for the run in `folder`, of which `step` steps are done.

    Raises:
        ValueError: a package is not installed, or a service did not start.
    """
    check_hooks(config)
    hooks: list[MetricsHook] = []
    if config.tensorboard:
        make_folder(folder / "tensorboard")
        hooks.append(TensorBoardHook(folder / "tensorboard", step))
    if config.wandb is not None:
        make_folder(folder / "wandb")
        hooks.append(WandbHook(folder, config.wandb, config.as_dict()))
    if config.mlflow is not None:
        hooks.append(MlflowHook(folder, config.mlflow, flat(config)))
    return hooks


def scalars(record: dict[str, Any]) -> dict[str, float]:
    """Return the numbers of `record`, but for the step, under its names."""
    return {k: v for k, v in record.items() if k != "step" and isinstance(v, int | float)}

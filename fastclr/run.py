"""The folder of a run: what is in it, under which name, and how it is found again."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from fastclr.checkpoint import MetricsLog, load_checkpoint, write_atomically
from fastclr.config import PretrainConfig, difference

# these change where and how often, not what is learnt
FREE_TO_CHANGE = {"device", "log_every", "checkpoint_every", "data", "test_data"}


@dataclass(frozen=True)
class Run:
    """One run: config, environment, metrics, checkpoint, encoder, results and report, each a file of its folder."""

    folder: Path
    config: PretrainConfig

    @property
    def metrics(self) -> MetricsLog:
        """The log of losses and accuracies."""
        return MetricsLog(self.folder / "metrics.jsonl")

    @property
    def checkpoint(self) -> Path:
        """The last checkpoint."""
        return self.folder / "checkpoint.pt"

    @staticmethod
    def check_free(folder: Path) -> None:
        """Raise a FileExistsError if there is something at `folder` already."""
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise FileExistsError(
                f"{folder} exists already: go on with `fastclr pretrain --resume {folder}`, or give another --out"
            )

    @staticmethod
    def create(folder: Path, config: PretrainConfig) -> Run:
        """Make the folder of a new run.

        Raises:
            FileExistsError: there is something at `folder` already.
        """
        Run.check_free(folder)
        folder.mkdir(parents=True, exist_ok=True)
        config.save(folder / "config.json")
        return Run(folder, config)

    @staticmethod
    def open(folder: Path, config: PretrainConfig | None = None) -> Run:
        """Open the folder of a run, to go on with `config` if one is given.

        Raises:
            FileNotFoundError: `folder` holds no run.
            ValueError: `config` means another run than the one that is there.
        """
        path = folder / "config.json"
        if not path.is_file():
            raise FileNotFoundError(f"{folder} is not the folder of a run: it has no config.json")
        stored = PretrainConfig.load(path)
        changed = {k: v for k, v in difference(stored, config or stored).items() if k not in FREE_TO_CHANGE}
        if changed:
            listed = ", ".join(f"{name}: {old!r} there, {new!r} now" for name, (old, new) in changed.items())
            raise ValueError(
                f"{folder} was made with another configuration ({listed}): drop these options, or give --out"
            )
        return Run(folder, config or stored)

    def say(self, message: str) -> None:
        """Print a line, above the progress bar if there is one."""
        from tqdm import tqdm

        tqdm.write(message, file=sys.stderr)
        sys.stderr.flush()

    def bar(self, total: int, initial: int, title: str, progress: bool) -> Any:
        """Return a tqdm bar for one epoch, silent where the output is no terminal."""
        from tqdm import tqdm

        silent = not (progress and sys.stderr.isatty())
        return tqdm(total=total, initial=initial, desc=title, leave=False, disable=silent, unit="step")

    def save_encoder(self, encoder: nn.Module) -> None:
        """Write the encoder's weights as safetensors, with what is needed to rebuild it as metadata."""
        from safetensors.torch import save

        state = {name: tensor.detach().cpu().contiguous() for name, tensor in encoder.state_dict().items()}
        about = {"encoder": self.config.encoder, "width": self.config.width, "stem": self.config.stem}
        metadata = {"fastclr": json.dumps({**about, "size": self.config.augment.size})}
        contents = save(state, metadata)
        write_atomically(self.folder / "encoder.safetensors", lambda file: file.write(contents))

    def load_encoder(self) -> nn.Module:
        """Rebuild the encoder with the weights of the last checkpoint."""
        from fastclr.models import build_encoder

        checkpoint = load_checkpoint(self.checkpoint)
        config = self.config
        encoder = build_encoder(config.encoder, width=config.width, stem=config.stem, size=config.augment.size)
        prefix = "encoder."
        encoder.load_state_dict({k[len(prefix) :]: v for k, v in checkpoint.model.items() if k.startswith(prefix)})
        return encoder

    def add_result(self, name: str, result: dict[str, Any]) -> None:
        """Store a result under `name` in ``results.json``, beside those already there."""
        path = self.folder / "results.json"
        results = json.loads(path.read_text()) if path.exists() else {}
        results[name] = result
        text = json.dumps(results, indent=2) + "\n"
        write_atomically(path, lambda file: file.write(text.encode()))

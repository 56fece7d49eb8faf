"""Choose how images reach the device: from memory, decoded by DALI, or decoded in PyTorch's DataLoader."""

from __future__ import annotations

import importlib.util
from typing import Literal, get_args

import torch

from fastclr.data.decode_many import DecodeOptions, estimated_bytes
from fastclr.device import local_processes
from fastclr.sources.folder import Files

ChosenKind = Literal["resident", "dali", "torch"]
LoaderKind = Literal["auto", "resident", "dali", "torch"]
"""How images are kept and decoded; "auto" chooses by size, memory and what is installed."""


def check_kind(kind: str) -> None:
    """Raise ValueError if there is no such loader."""
    if kind not in get_args(LoaderKind):
        raise ValueError(f"loader must be one of {', '.join(get_args(LoaderKind))}, got {kind!r}")


def has_dali() -> bool:
    """Return whether NVIDIA DALI is installed; it is not imported."""
    try:
        return importlib.util.find_spec("nvidia.dali") is not None
    except ModuleNotFoundError:  # there is no package nvidia
        return False


def choose_loader(
    kind: LoaderKind, files: Files, count: int, options: DecodeOptions, device: torch.device | str
) -> tuple[ChosenKind, str]:
    """Return which loader serves ``count`` images of ``files`` on ``device``, and why, in one sentence.

    ``auto`` keeps them in memory if, decoded, they fit into half of what is free (the processes of a job share the
    memory of a machine) beside the batches and views of a training step. Otherwise it takes DALI if that is installed,
    else PyTorch. The size is estimated from a sample of the headers before anything is decoded.
    """
    if kind != "auto":
        return kind, "it was asked for"
    needed = estimated_bytes(files, count, options)
    budget, place = device_budget(options, torch.device(device))
    step = options.step_bytes(estimated_bytes(files, 1, options))
    taken = f", batches and views {step / 1e9:.3g} GB" if step else ""
    size = (
        f"the {count} images take about {needed / 1e9:.3g} GB decoded{taken}, and {budget / 1e9:.3g} GB of {place} may "
        "be used"
    )
    if needed + step <= budget:
        return "resident", size
    return ("dali", f"{size}; DALI is installed") if has_dali() else ("torch", f"{size}; DALI is not installed")


def device_budget(options: DecodeOptions, device: torch.device) -> tuple[int, str]:
    """Return how many bytes may be used for images, and in which memory.

    Images for a CUDA device pass through main memory, so the smaller of the two limits counts.
    """
    budget, place = options.budget(), "main memory"
    processes = local_processes()
    if processes > 1 and options.memory_limit is None:
        place = f"main memory (shared by {processes} processes)"
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        if free // 2 < budget:
            budget, place = free // 2, f"{device}'s memory"
    return budget, place

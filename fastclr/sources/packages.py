"""Packages that an extra installs."""

from __future__ import annotations

import importlib
from typing import Any

# what every extra installs, by the names that are imported
MODULES = {
    "train": [
        "torchvision",
        "timm",
        "tyro",
        "sklearn",
        "scipy",
        "threadpoolctl",
        "tqdm",
        "safetensors",
        "PIL",
        "yaml",
        "filelock",
        "jinja2",
        "matplotlib",
    ],
    "export": ["onnx", "onnxscript", "onnxruntime", "pyarrow"],
    "text": ["open_clip", "transformers", "tokenizers"],
    "dali": ["nvidia"],
    "logging": ["tensorboard"],
    "remote": ["fsspec", "aiohttp"],
    "scientific": ["pydicom", "tifffile", "imagecodecs"],
    "bench": ["pytest", "pytest_benchmark", "lightly", "pytorch_metric_learning", "kornia", "albumentations"],
    "triton": ["triton"],
}


def remedy(module: str) -> str | None:
    """Return the command that installs the package of a module, or None if fastclr asks for no such package."""
    package = module.partition(".")[0]
    if package in ("torch", "numpy"):  # dependencies of fastclr itself, which somebody has removed
        return f"pip install {package}"
    return next((f"pip install 'fastclr[{extra}]'" for extra, names in MODULES.items() if package in names), None)


def needed(module: str, need: str, extra: str = "train") -> Any:
    """Return a module, such as one that `need`, as in "reading images needs Pillow", names.

    Raises:
        ModuleNotFoundError: it is not installed; the message says which extra installs it.
    """
    parts = module.split(".")
    try:
        for count in range(1, len(parts) + 1):
            found = importlib.import_module(".".join(parts[:count]))
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"{need}: pip install 'fastclr[{extra}]'", name=module) from error
    return found

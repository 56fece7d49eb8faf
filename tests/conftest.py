"""Shared by all tests. One thread, because two busy processes on two cores wait for each other.

Every worker of pytest-xdist has its own session, and with it its own fixtures.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from effort import EFFORT
from tiny_run import TINY

from fastclr.data import make_shapes
from fastclr.training.config import PretrainConfig

torch.set_num_threads(1)
if find_spec("hypothesis"):  # a machine that runs tests/gpu alone may lack it
    from hypothesis import settings

    settings.register_profile("fastclr", deadline=None, max_examples=100 * EFFORT)
    settings.load_profile("fastclr")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave out the files without slow tests where only those are asked for: importing them all takes long."""
    is_test = collection_path.match("test_*.py") and config.option.markexpr == "slow"
    return True if is_test and "mark.slow" not in collection_path.read_text() else None


@pytest.fixture(scope="session", autouse=True)
def cache_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Decoded images of tests are kept in a folder of their own, also by the processes that tests start."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield Path(os.environ["XDG_CACHE_HOME"])


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Undo what a command under test does to the number of threads, on which the last bits depend."""
    yield
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 128 training and 64 test images, in train/CLASS/ and test/CLASS/."""
    from PIL import Image

    root = tmp_path_factory.mktemp("pictures")
    shapes = make_shapes(train=128, test=64)
    for split, dataset in (("train", shapes.train), ("test", shapes.test)):
        for index, label in enumerate(dataset.labels.tolist()):
            path = root / split / dataset.classes[label] / f"{index:03d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(dataset.images[index].numpy()).save(path)
    return root


@pytest.fixture
def tiny(pictures: Path) -> PretrainConfig:
    """A run of twelve steps on few shapes."""
    return dataclasses.replace(TINY, data=str(pictures))

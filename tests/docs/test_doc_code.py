"""The Python of the tutorials runs, with trainings made small; names and arguments in that of other pages exist."""

from __future__ import annotations

import ast
import importlib
import inspect
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, get_type_hints

import pytest
from doc_pages import DOCS, PAGES, blocks, name_of
from PIL import Image

import fastclr
from fastclr.api import option_types, starting
from fastclr.data import make_shapes, open_source

RUN = [
    "from-another-library.md",
    "quickstart.md",
    "tutorials/swap-the-loss.md",
    "tutorials/pretrain-my-images.md",
    "tutorials/few-labels.md",
    "tutorials/images-and-text.md",
    "tutorials/compare-kernels.md",
]
SMALL = {"epochs": 1, "batch_size": 32, "device": "cpu", "amp": "off", "log_every": 1}
LARGE = 66  # the least even size for which a ResNet gets the stem of large images, which timm has a name for
PAIRS = {"epochs": 1, "warmup_epochs": 0, "device": "cpu", "knn_every": 0, "width": 0.125}


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a few pictures of each of three classes."""
    folder: Path = tmp_path_factory.mktemp("photos")
    shapes = make_shapes(train=160, test=8).train
    for index, (pixels, label) in enumerate(zip(shapes.images, shapes.labels.tolist(), strict=True)):
        if label < 3:
            (folder / str(label)).mkdir(exist_ok=True)
            Image.fromarray(pixels.numpy()).save(folder / str(label) / f"{index:03d}.png")
    return folder


@pytest.fixture
def small(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, page: str) -> None:
    """Trainings take seconds: fewer epochs and pixels than the pages ask for, no report, no check of exports."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").symlink_to(photos)
    pretrain, run = fastclr.pretrain, fastclr.Run
    narrow = {} if "export(" in (DOCS / page).read_text() else {"width": 0.125}  # timm has no name for it

    def quick(call: Callable[..., Any], **smaller: Any) -> Callable[..., Any]:
        return lambda *args, **options: call(*args, **{**options, **smaller})

    def start(data: str, **options: Any) -> fastclr.Run:
        size = min(options.get("size", 32), LARGE)
        return pretrain(data, **{**options, **(PAIRS if data == "shapes" else {**SMALL, **narrow, "size": size})})

    monkeypatch.setattr(fastclr, "pretrain", start)
    monkeypatch.setattr(starting, "write_report", lambda *_: None)
    monkeypatch.setattr(open_source, "make_shapes", partial(make_shapes, 512, 64))
    for name, smaller in {
        "finetune": {"epochs": 1, "batch_size": 16, "seeds": 1, "device": "cpu"},
        "distill": {"epochs": 1, "batch_size": 16, "device": "cpu"},
        "probe": {"l2": 0.01},
        "export": {"check": False},
    }.items():
        monkeypatch.setattr(run, name, quick(getattr(run, name), **smaller))


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("page", RUN)
def test_a_page_runs_from_top_to_bottom(page: str) -> None:
    pytest.importorskip("timm")
    found: dict[str, Any] = {}
    for number, code in enumerate(blocks(DOCS / page, "python")):
        exec(compile(code, f"{page}, block {number + 1}", "exec"), found)


def called(code: str) -> list[tuple[str, ast.Call]]:
    """The calls of names that code imports from fastclr, by their full name."""
    places = {"fastclr": "fastclr"}
    tree = ast.parse(code)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "fastclr":
            for alias in node.names:
                places[alias.asname or alias.name] = f"{node.module}.{alias.name}"
    calls = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            first, _, rest = ast.unparse(node.func).partition(".")
            if first in places and (rest or places[first] != "fastclr"):
                calls.append((f"{places[first]}.{rest}".rstrip("."), node))
    return calls


def misnamed(name: str, call: ast.Call) -> list[str]:
    """The keywords of a call that what it calls does not take."""
    owner, _, last = name.rpartition(".")
    try:
        target = getattr(importlib.import_module(owner), last)
    except ModuleNotFoundError:  # a method
        return []
    parameters = inspect.signature(target).parameters
    known = {each for each, parameter in parameters.items() if parameter.kind is not parameter.VAR_KEYWORD}
    for parameter in parameters.values():
        if parameter.kind is parameter.VAR_KEYWORD:
            owners = [option_types.PretrainKeywords] if target in (fastclr.pretrain, fastclr.v2) else []
            if not owners:
                return []
            known |= {key for each in owners for key in get_type_hints(each)}
    return [keyword.arg for keyword in call.keywords if keyword.arg and keyword.arg not in known]


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_code_of_a_page_names_what_exists(page: Path) -> None:
    for code in blocks(page, "python"):
        for node in ast.walk(ast.parse(code)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "fastclr":
                module = importlib.import_module(str(node.module))
                assert [alias.name for alias in node.names if not hasattr(module, alias.name)] == []
        for name, call in called(code):
            assert misnamed(name, call) == [], name


def test_a_misspelt_keyword_is_found() -> None:
    code = "import fastclr\nfrom fastclr import NTXentLoss\nfastclr.pretrain('a', epoch=3, size=3)\nNTXentLoss(tau=1)"
    assert [misnamed(*each) for each in called(code)] == [["epoch"], ["tau"]]

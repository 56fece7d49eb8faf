"""What decoders say about odd files is counted, not shown, and everything is as before afterwards."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path

import numpy as np
import pytest
from damaged_files import DAMAGE, FORMATS
from stream_cases import encode, photo

from fastclr.data import Order, load_splits, make_loader
from fastclr.sources.decode import decode_image
from fastclr.sources.remarks import REMARKS, quiet_pillow

WORDS = r"Pillow made \d+ remark\(s\) about odd files of .*root"


@pytest.fixture
def odd(tmp_path: Path) -> Path:
    """TIFFs of which Pillow, its log and libtiff have much to say, among good images."""
    rng, root = np.random.default_rng(0), tmp_path / "root"
    root.mkdir()
    for number in range(12):
        (root / f"good{number}.png").write_bytes(encode(photo(number, 20, 30), "PNG"))
        for damage in ("head", "tables", "body") if number < 4 else ():
            (root / f"{damage}{number}.tif").write_bytes(DAMAGE[damage](FORMATS["tif"](number), rng))
    return root


@pytest.mark.parametrize("kind", ["resident", "torch", "torch in this process", "dali"])
def test_one_summary_in_place_of_many_lines(kind: str, odd: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Two epochs over odd files give a single line about them, and nothing reaches stderr."""
    kind, _, alone = kind.partition(" ")
    if kind == "dali":
        pytest.importorskip("nvidia.dali", reason="NVIDIA DALI is not installed: pip install 'fastclr[dali]'")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        train = load_splits(odd, holdout=0, loader=kind).train  # type: ignore[arg-type]
        loader = make_loader(train, kind, Order(4, drop_last=False), workers=0 if alone else 1)  # type: ignore[arg-type]
        for epoch in range(2):
            assert sum(len(batch) for batch in loader.epoch(epoch)) == len(train)
        loader.close()
    texts = [str(warning.message) for warning in caught]
    assert sum("remark(s)" in text for text in texts) == 1, texts
    assert all("remark(s)" in text or "is left out" in text for text in texts)
    assert capfd.readouterr().err == ""


def test_everything_is_as_before_afterwards(odd: Path) -> None:
    """Warnings of others are shown meanwhile; those of Pillow are shown again when all have left."""
    data = (odd / "good0.png").read_bytes()
    before = warnings.showwarning, list(warnings.filters), logging.getLogger("PIL").propagate
    with pytest.warns(RuntimeWarning, match=WORDS), quiet_pillow("the root"), quiet_pillow():
        warnings.warn_explicit("odd", UserWarning, "/x/PIL/Image.py", 1, module="PIL.Image")
        logging.getLogger("PIL.TiffImagePlugin").error("odd")
        assert decode_image(data).shape == (20, 30, 3)
        with pytest.warns(UserWarning, match="mine"):
            warnings.warn("mine", UserWarning, stacklevel=1)
    assert (warnings.showwarning, list(warnings.filters), logging.getLogger("PIL").propagate) == before
    assert REMARKS.take() == 0
    with pytest.warns(UserWarning, match="odd"):
        warnings.warn_explicit("odd", UserWarning, "/x/PIL/Image.py", 1, module="PIL.Image")


def test_a_context_that_ends_within_another(odd: Path) -> None:
    """An abandoned epoch may end after somebody's catch_warnings, which took the count away with it."""
    before = warnings.showwarning
    with warnings.catch_warnings():
        context = quiet_pillow()
        context.__enter__()
    assert warnings.showwarning is before
    with quiet_pillow():  # puts it in place again
        warnings.warn_explicit("odd", UserWarning, "/x/PIL/Image.py", 1, module="PIL.Image")
        assert REMARKS.take() == 1
    context.__exit__(None, None, None)
    assert warnings.showwarning is before

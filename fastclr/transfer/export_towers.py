"""Exporting both towers of a method of images and texts: two computations, their weights, the tokenizer, and a card."""

from __future__ import annotations

import io
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fastclr.files import make_folder, write_atomically, write_text_atomically
from fastclr.methods import METHODS
from fastclr.methods.tokenizers import OpenClipTokenizer, Tokenizer
from fastclr.sources.printable import printable
from fastclr.training.run import TOKENIZER, Run
from fastclr.transfer.model_card import MARK

IMAGE, TEXT, WEIGHTS = "image.pt2", "text.pt2", "towers.safetensors"
TOLERANCE = 1e-4  # relative to the largest number of an embedding, which is small beside those inside of the tower
CHECK_TEXTS = ["a", "two small words, one of them long: antidisestablishmentarianism", "", "word " * 100]


def export_towers(
    run: Run, folder: Path | None, *, check: bool, overwrite: bool, images: Tensor
) -> tuple[Path, str, float | None]:
    """Write both towers of the last checkpoint for use without fastclr.

    ``image.pt2`` takes images ``[n, 3, S, S]`` and ``text.pt2`` token ids ``[n, L]``, for any n; both return embeddings
    ``[n, D]`` that are not of unit length. ``towers.safetensors`` has the weights under the names of the method, for
    ``--init``; ``tokenizer.json`` makes the token ids.

    Args:
        run: of a method of images and texts.
        folder: where to; None is ``export/towers`` in the run's folder.
        check: load the files in a fresh process where fastclr cannot be imported, and compare embeddings.
        overwrite: replace what is there.
        images: to compare with, float32 ``[n, 3, S, S]``.

    Returns:
        the folder, Python that loads what is in it, and the largest difference relative to the largest number of an
        embedding; None: not checked.

    Raises:
        ValueError: the method has no text tower, there are files already, or embeddings in the check differ.
        FileNotFoundError: the run has no checkpoint.
    """
    if not METHODS[run.config.method].uses_texts:
        raise ValueError(f"format towers is for methods of images and texts, got a run of {run.config.method}")
    folder = folder or run.folder / "export" / "towers"
    if not overwrite and folder.exists() and any(folder.iterdir()):
        raise ValueError(f"{folder} already holds files: choose another --out, or use --overwrite")
    readme = folder / "README.md"
    if readme.exists() and MARK not in readme.read_text(errors="replace"):
        raise ValueError(f"{readme} was not written by fastclr and would be lost: choose another --out")
    tokenizer = run.load_tokenizer()
    method: Any = run.load_method().cpu().float()
    sides = nn.Sequential(method.encoder, method.head), nn.Sequential(method.text, method.text_head)
    files = {
        IMAGE: computation(sides[0], images[:2]),
        TEXT: computation(sides[1], tokenizer(CHECK_TEXTS[:2])),
        WEIGHTS: weights_of(method),
        TOKENIZER: tokenizer.stored().encode(),
    }
    error = compare(sides, files, tokenizer, images) if check else None
    make_folder(folder.parent)
    make_folder(folder)
    for name, contents in files.items():
        write_atomically(folder / name, lambda file, contents=contents: file.write(contents))  # type: ignore[misc]
    return folder, loading_lines(tokenizer), error


def write_card(folder: Path, card: str) -> Path:
    """Write the model card beside the towers."""
    path = folder / "README.md"
    write_text_atomically(path, printable(card))
    return path


def computation(tower: nn.Module, example: Tensor) -> bytes:
    """Return a file of `torch.export` for any number of rows."""
    buffer = io.BytesIO()
    with torch.no_grad():
        program = torch.export.export(tower, (example,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    torch.export.save(program, buffer)
    return buffer.getvalue()


def weights_of(method: nn.Module) -> bytes:
    """Return the weights of both towers as safetensors; twins and queues stay behind."""
    from safetensors.torch import save

    parts = ("encoder.", "head.", "text.", "text_head.", "criterion.")
    state = {name: value for name, value in method.state_dict().items() if name.startswith(parts)}
    return save({name: value.contiguous().clone() for name, value in state.items()}, {"format": "pt"})


def loading_lines(tokenizer: Tokenizer) -> str:
    """Return the Python that loads the files in the current folder, and embeds `images` and `texts`."""
    if isinstance(tokenizer, OpenClipTokenizer):
        made = f"open_clip.SimpleTokenizer(context_length={tokenizer.vocabulary.context})"
        tokens = ["import open_clip", f"tokenize = {made}"]
    else:
        tokens = [
            "import tokenizers",
            f"tokens = tokenizers.Tokenizer.from_file({TOKENIZER!r})",
            "tokenize = lambda texts: torch.tensor([each.ids for each in tokens.encode_batch(texts)])",
        ]
    towers = f"image, text = (torch.export.load(name).module() for name in ({IMAGE!r}, {TEXT!r}))"
    return "\n".join(["import torch", *tokens, towers, "z, t = image(images), text(tokenize(texts))"])


def compare(sides: tuple[nn.Module, nn.Module], files: dict[str, bytes], tokenizer: Tokenizer, images: Tensor) -> float:
    """Embed images and texts in a fresh process without fastclr; return the largest relative difference.

    Raises:
        ValueError: the lines do not run, or the difference is above `TOLERANCE`.
    """
    with torch.no_grad():
        expected = [sides[0](images).numpy(), sides[1](tokenizer(CHECK_TEXTS)).numpy()]
    script = [
        "import sys",
        "sys.modules['fastclr'] = None",
        "import numpy, torch",
        "images = torch.from_numpy(numpy.load('images.npy'))",
        f"texts = {CHECK_TEXTS!r}",
        loading_lines(tokenizer),
        "numpy.save('z.npy', z.detach().numpy()); numpy.save('t.npy', t.detach().numpy())",
    ]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for file, contents in files.items():
            (folder / file).write_bytes(contents)
        np.save(folder / "images.npy", images.numpy())
        command = [sys.executable, "-c", "\n".join(script)]
        result = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        if result.returncode != 0:
            reason = result.stderr.strip().splitlines()[-1:] or [f"status {result.returncode}"]
            raise ValueError(f"the exported towers do not load without fastclr: {reason[0]}")
        found: list[Any] = [np.load(folder / "z.npy"), np.load(folder / "t.npy")]
    errors = [np.abs(a - b).max() / max(np.abs(b).max(), 1e-30) for a, b in zip(found, expected, strict=True)]
    error = float(max(errors))
    if not error <= TOLERANCE:
        raise ValueError(f"the exported towers' embeddings differ by {error:.1e}, more than {TOLERANCE:.0e}")
    return error

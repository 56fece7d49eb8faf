"""Starting weights: what other programs and earlier runs have stored, found by the names and shapes of an encoder."""

from __future__ import annotations

import contextlib
import pickle
import sys
import warnings
from collections import Counter, OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

# what a folder may hold: a run of fastclr, or a model as hubs store it
IN_FOLDERS = ("encoder.safetensors", "model.safetensors", "pytorch_model.bin")
COUNTER = "num_batches_tracked"  # old files lack it, and nothing depends on it
SHOWN = 5


class Ignored(OrderedDict[str, Any]):
    """Stands for an object of a class that is not imported: what a pickle puts into it is dropped with it."""

    def __new__(cls, *_: Any, **__: Any) -> Any:
        """Return a plain dictionary, the only kind that torch's reader of weights fills."""
        return OrderedDict()


class IgnoredState:
    """Stands for an object whose state is a tuple, as numpy's dtypes have it."""

    def __init__(self, *_: Any) -> None: ...

    def __setstate__(self, _: Any) -> None: ...


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read all tensors of a file of PyTorch or safetensors, or of the folder of a run, by their names joined with dots.

    Files of PyTorch are read with ``weights_only=True``; objects of other classes in them, such as a configuration, are
    neither imported nor made.

    Raises:
        FileNotFoundError: there is no such file, or the folder has none.
        ValueError: it is of another kind, damaged, or holds no tensor.
    """
    file = weight_file(path)
    with open(file, "rb") as opened:
        head = opened.read(9)
    if head[:2] == b"PK" or head[:1] == b"\x80":
        contents = load_torch(file)
    elif head[8:9] == b"{":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            contents = load_file(file)
        except SafetensorError as error:
            raise ValueError(f"{file} is damaged: {error}") from error
    else:
        raise ValueError(f"{file} must be a file of weights, written by torch.save or as safetensors; it is neither")
    weights = dict(tensors_in(contents))
    if not weights:
        raise ValueError(f"{file} holds no tensor under a name: store module.state_dict(), not the module")
    return weights


def weight_file(path: Path) -> Path:
    """Return the file to read: `path` itself, or the one in a folder; raises FileNotFoundError if there is none."""
    path = path.expanduser()
    if path.is_dir():
        found = [path / name for name in IN_FOLDERS if (path / name).is_file()]
        if not found:
            raise FileNotFoundError(f"init: the folder {path} has none of {', '.join(IN_FOLDERS)}")
        return found[0]
    if not path.is_file():
        raise FileNotFoundError(f"init: there is no file or folder {path}")
    return path


def load_torch(file: Path) -> Any:
    """Return what `torch.save` wrote, on the CPU; classes that torch does not know as safe become `Ignored`."""
    stubs: list[Any] = []
    try:
        with contextlib.suppress(ValueError):  # the format before torch 1.6: nothing is known before it is read
            for name in torch.serialization.get_unsafe_globals_in_checkpoint(file):
                stubs.append((IgnoredState if name == "numpy.dtype" else Ignored, name))
        known = torch.serialization.safe_globals([*stubs, (Ignored, "argparse.Namespace")])
        with known, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of pickle protocols, which matter only if reading fails
            return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:  # torch's own message says how to run it
        raise ValueError(
            f"{file} cannot be read as weights, for that would mean to run code that it names: store "
            "module.state_dict() alone"
        ) from error
    except Exception as error:  # torch raises many types
        reason = str(error).strip().partition("\n")[0]
        raise ValueError(f"{file} cannot be read as weights: {reason}") from error


def tensors_in(value: Any, name: str = "") -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors of nested dictionaries and lists, with their path."""
    items = value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list) else ()
    for key, each in items:
        path = f"{name}.{key}" if name else str(key)
        if isinstance(each, Tensor):
            yield path, each
        else:
            yield from tensors_in(each, path)


@dataclass
class Node:
    """The tensors whose names share a prefix."""

    path: str = ""
    tensor: Tensor | None = None
    children: dict[str, Node] = field(default_factory=dict)

    def walk(self) -> Iterator[Node]:
        """Yield this node and all below it, parents first."""
        yield self
        for child in self.children.values():
            yield from child.walk()

    def names(self) -> list[str]:
        """Return the names of all tensors that a state must have."""
        return [each.path for each in self.walk() if each.tensor is not None and not each.path.endswith(COUNTER)]

    @property
    def numbered(self) -> bool:
        """Whether the children are those of an `nn.Sequential`."""
        return bool(self.children) and all(name.isdecimal() for name in self.children)

    @property
    def deep(self) -> bool:
        """Whether there is more than one layer below."""
        return any(child.children for child in self.children.values())


def tree_of(weights: Mapping[str, Tensor]) -> Node:
    """Return the tensors as a tree over the parts of their names."""
    root = Node()
    for name, tensor in weights.items():
        node, path = root, ""
        for part in name.split("."):
            path = f"{path}.{part}" if path else part
            node = node.children.setdefault(part, Node(path))
        node.tensor = tensor
    return root


def pairs(wanted: Node, found: Node) -> dict[str, str]:
    """Return, for the tensors below `wanted`, those below `found` of the same name and shape.

    Where one of the two is an `nn.Sequential` of the other's layers, they are matched in order, and so is the one layer
    that has another name (``shortcut`` for ``downsample``): but only whole layers.
    """
    result: dict[str, str] = {}
    if wanted.tensor is not None and found.tensor is not None and wanted.tensor.shape == found.tensor.shape:
        result[wanted.path] = found.path
    for name, child in wanted.children.items():
        if name in found.children:
            result |= pairs(child, found.children[name])
    left = [child for name, child in wanted.children.items() if name not in found.children]
    spare = [child for name, child in found.children.items() if name not in wanted.children]
    if wanted.numbered == found.numbered and not (len(left) == len(spare) == 1 and left[0].deep):
        return result
    for child in left:
        for index, other in enumerate(spare):
            inner = pairs(child, other)
            if set(inner) >= set(child.names()):
                result |= inner
                spare = spare[index + 1 :]
                break
    return result


@dataclass(frozen=True)
class Match:
    """Which weights of a file go where in an encoder.

    Args:
        state: the matched weights under the encoder's names.
        missing: names of the encoder's weights that the file has not.
        shapes: of those, shape in the file and in the encoder, where only that differs.
        unexpected: names in the file, at the same place, that the encoder has not.
        place: where in the file the weights lie, a prefix; empty: at the top.
        others: further places with as many of them.
        resampled: names of the weights that timm fitted to this size of images or patches.
        elsewhere: number of tensors in other parts of the file, by the name of the part.
    """

    state: dict[str, Tensor]
    missing: list[str]
    shapes: dict[str, tuple[tuple[int, ...], tuple[int, ...]]]
    unexpected: list[str]
    place: str
    others: list[str]
    resampled: list[str]
    elsewhere: dict[str, int]

    @property
    def matched(self) -> int:
        """How many weights matched."""
        return sum(not name.endswith(COUNTER) for name in self.state)

    def lines(self, part: str = "encoder") -> list[str]:
        """Say what was matched, what is missing and what is not used, of the `part` of the networks."""
        where = f", found under {self.place}" if self.place else ""
        lines = [f"{self.matched} of {self.matched + len(self.missing)} weights of the {part} matched{where}"]
        if self.others:
            lines.append(f"as many are under {listed(self.others)}: --init-prefix chooses")
        if self.resampled:
            lines.append(f"resampled for this size of images and patches: {listed(self.resampled)}")
        if self.missing:
            lines.append(f"missing, and random: {self.lacks()}")
        if self.unexpected:
            lines.append(f"unexpected, and not used: {listed(self.unexpected)}")
        if self.elsewhere:
            parts = ", ".join(f"{name} ({count})" for name, count in list(self.elsewhere.items())[:SHOWN])
            lines.append(f"other parts of the file, not used: {parts}")
        return lines

    def lacks(self) -> str:
        """List what is missing, with the shapes where only these differ."""
        return listed(
            [
                f"{name} ({list(self.shapes[name][0])} there, {list(self.shapes[name][1])} here)"
                if name in self.shapes
                else name
                for name in self.missing
            ]
        )


def listed(names: list[str]) -> str:
    """Return the first few names and the number of the others."""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def match(encoder: nn.Module, weights: Mapping[str, Tensor], prefix: str | None = None) -> Match:
    """Find the weights of `encoder` in a file: the place where most names and shapes are the same.

    Of several such places a teacher's is taken, as DINO evaluates it, otherwise the first, as MoCo's queries are.

    Args:
        encoder: with any weights, on any device.
        weights: all tensors of the file.
        prefix: the place, instead.

    Raises:
        ValueError: there is nothing at the prefix.
    """
    wanted, found = tree_of(encoder.state_dict()), tree_of(weights)
    count = len(wanted.names())
    # an encoder may hold the network that the file has in a part of its own, beside further layers
    parts = [node for node in wanted.walk() if node.deep and 2 * len(node.names()) >= count] or [wanted]
    places = list(found.walk())
    if prefix is not None:
        places = [node for node in places if node.path == prefix.strip(".")]
        if not places:
            raise ValueError(f"init_prefix: the file has nothing under {prefix!r}, but {listed(list(found.children))}")
    tried = [(pairs(part, place), place) for place in places for part in parts]
    most = max(len(names) for names, _ in tried)
    best = [(names, place) for names, place in tried if len(names) == most]
    names, place = next((each for each in best if "teacher" in each[1].path), best[0])
    state = {here: weights[there] for here, there in names.items()}
    used = set(names.values())
    converted = by_timm(encoder, {node.path: node.tensor for node in place.walk() if node.tensor is not None}, place)
    other = pairs(wanted, tree_of(converted))
    resampled: list[str] = []
    start = f"{place.path}." if place.path else ""
    if len(other) > len(names):
        state = {here: converted[there] for here, there in other.items()}
        used = {f"{start}{there}" for there in other.values()}
        resampled = [
            n for n in other.values() if f"{start}{n}" in weights and weights[start + n].shape != converted[n].shape
        ]
    expected = encoder.state_dict()
    missing = [name for name in wanted.names() if name not in state]
    shapes = {
        name: (tuple(weights[start + name].shape), tuple(expected[name].shape))
        for name in missing
        if start + name in weights
    }
    inside = [name for name in weights if name.startswith(start)]
    unexpected = [n[len(start) :] for n in inside if n not in used and n[len(start) :] not in shapes]
    apart = Counter(part_beside(name, place.path) for name in weights if not name.startswith(start))
    return Match(
        state=state,
        missing=missing,
        shapes=shapes,
        unexpected=[name for name in unexpected if not name.endswith(COUNTER)],
        place=place.path,
        others=[each.path for _, each in best if each is not place] if most else [],
        resampled=resampled,
        elsewhere=dict(apart),
    )


def part_beside(name: str, place: str) -> str:
    """Return the part of a file in which a tensor lies that is not at `place`, such as ``state_dict.encoder_k``."""
    parts, near = name.split("."), place.split(".")
    shared = next((i for i, (one, other) in enumerate(zip(parts, near, strict=False)) if one != other), len(near))
    return ".".join(parts[: shared + 1])


def by_timm(encoder: nn.Module, weights: Mapping[str, Tensor], place: Node) -> dict[str, Tensor]:
    """Return weights as timm converts foreign ones for this model, such as DINOv2's, and resampled to its size."""
    convert = getattr(sys.modules.get(type(encoder).__module__), "checkpoint_filter_fn", None)
    if convert is None or not type(encoder).__module__.startswith("timm."):
        return {}
    start = len(place.path) + 1 if place.path else 0
    try:
        converted = convert({name[start:]: tensor for name, tensor in weights.items()}, encoder)
    except Exception:  # it is made for files of that very model, and this may be another
        return {}
    return {str(name): tensor for name, tensor in converted.items() if isinstance(tensor, Tensor)}


def load_matched(encoder: nn.Module, found: Match, source: str, partial: bool, *, part: str = "encoder") -> None:
    """Put matched weights into an encoder, or another `part` of the networks.

    Raises:
        ValueError: nothing matched; or something is missing and `partial` is off; or weights are not finite.
    """
    if not found.matched:
        names = [name for name in encoder.state_dict() if not name.endswith(COUNTER)]
        there = [f"{found.place}.{name}" if found.place else name for name in found.unexpected]
        raise ValueError(
            f"init: no weight of {source} fits the {part}: there are {listed(there)}, and it has {listed(names)}"
        )
    if found.missing and not partial:
        first = found.shapes.get("conv1.weight", ((), ()))
        hint = ""
        if len(first[0]) == len(first[1]) == 4 and first[0][2:] != first[1][2:]:
            hint = (
                f"--stem {'imagenet' if first[0][2] == 7 else 'cifar'} gives the encoder the file's first layer, and "
            )
        raise ValueError(
            f"init: {source} lacks {len(found.missing)} of the {len(found.missing) + found.matched} weights of the "
            f"{part}: {found.lacks()}; {hint}--init-partial starts from the rest of them"
        )
    check_weights(found.state, source)
    encoder.load_state_dict(found.state, strict=False)


def check_weights(state: Mapping[str, Any], source: str) -> None:
    """Raise a ValueError unless all values are tensors that lie in memory as they are, and all numbers finite."""
    for name, value in state.items():
        if not isinstance(value, Tensor) or value.layout != torch.strided or value.is_quantized or value.is_meta:
            raise ValueError(f"{name} in {source} must be a plain tensor, got {type(value).__name__}")
        # a stride of 0 makes few bytes stand for any number of values
        if value.nbytes > value.untyped_storage().nbytes():
            raise ValueError(f"{name} in {source} must have its values in memory, got {tuple(value.shape)}")
        if value.is_complex() or (value.is_floating_point() and not bool(value.isfinite().all())):
            raise ValueError(f"{name} in {source} must be finite real numbers, got {value.dtype} with others")

"""Hides packages from this process, as if they were not installed; for tests of what fastclr asks for."""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib.machinery import BuiltinImporter, FrozenImporter, ModuleSpec, PathFinder
from importlib.metadata import Distribution, DistributionFinder
from typing import Any

# what `pip install fastclr` brings beside a CPU build of torch: two dependencies and all that they depend on
PLAIN = {"torch", "numpy", "filelock", "typing_extensions", "setuptools", "sympy", "mpmath", "networkx", "jinja2"}
PLAIN |= {"markupsafe", "fsspec", "fastclr", "functorch", "torchgen", "plain_install"}


class Visible:
    """Finds the modules and distributions whose name, of the first package, `seen` accepts."""

    def __init__(self, seen: Callable[[str], bool]) -> None:
        self.seen = seen

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        """Return where a module is, or None, as for one that is not installed."""
        return PathFinder.find_spec(name, path, target) if self.seen(name.partition(".")[0]) else None

    def find_distributions(self, context: DistributionFinder.Context) -> list[Distribution]:
        """Return the distributions that are seen."""
        found = PathFinder.find_distributions(context)
        return [each for each in found if self.seen(each.metadata["Name"].replace("-", "_").lower())]


def see_only(seen: Callable[[str], bool]) -> None:
    """Hide all installed packages but those that `seen` accepts; the standard library stays."""
    finder: Any = Visible(lambda name: name in sys.stdlib_module_names or seen(name))
    # in a checkout, this one knows where kernels/ and benchmarks/ are
    editable = [each for each in sys.meta_path if "editable" in str(each).lower()]
    sys.meta_path[:] = [BuiltinImporter, FrozenImporter, finder, *editable]


def see_plain() -> None:
    """Hide everything that a plain ``pip install fastclr`` does not bring."""
    see_only(PLAIN.__contains__)


def see_train() -> None:
    """Hide what ``pip install 'fastclr[train]'`` does not bring, as far as an extra of ours does."""
    from fastclr.sources.packages import MODULES

    hidden = {name for extra, names in MODULES.items() if extra != "train" for name in names} - {"fsspec"}
    see_only(lambda name: name not in hidden)

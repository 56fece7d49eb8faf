"""What is trained: the networks, and one file per method that takes views to a loss."""

from fastclr.methods.base import Facts, Method, ViewPlan, Views
from fastclr.methods.groups import Group, parameter_groups
from fastclr.methods.options import MethodOptions, ModelOptions
from fastclr.methods.simclr import SimCLR, SimCLROptions
from fastclr.methods.supervised import Supervised, SupervisedOptions

METHODS: dict[str, type[Method]] = {
    "simclr": SimCLR,
    "supervised": Supervised,
}

__all__ = [
    "METHODS",
    "Facts",
    "Group",
    "Method",
    "MethodOptions",
    "ModelOptions",
    "SimCLR",
    "SimCLROptions",
    "Supervised",
    "SupervisedOptions",
    "ViewPlan",
    "Views",
    "parameter_groups",
]

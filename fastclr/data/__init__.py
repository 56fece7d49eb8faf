"""Data sets and loaders: everything that turns files into batches of uint8 images."""

from fastclr.data.batch import Batch
from fastclr.data.choose import LoaderKind
from fastclr.data.dali_loader import DaliLoader
from fastclr.data.dataset import ImageDataset, Splits
from fastclr.data.index import ImageIndex
from fastclr.data.loader import Loader, make_loader
from fastclr.data.order import stratified
from fastclr.data.resident import ResidentLoader
from fastclr.data.shapes import make_shapes
from fastclr.data.splits import load_dataset, load_splits
from fastclr.data.torch_loader import TorchLoader

__all__ = [
    "Batch",
    "DaliLoader",
    "ImageDataset",
    "ImageIndex",
    "Loader",
    "LoaderKind",
    "ResidentLoader",
    "Splits",
    "TorchLoader",
    "load_dataset",
    "load_splits",
    "make_loader",
    "make_shapes",
    "stratified",
]

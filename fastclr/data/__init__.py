"""Data sets and loaders: everything that turns files into batches of uint8 images."""

from fastclr.data.batch import Batch
from fastclr.data.dataset import ImageDataset, Splits
from fastclr.data.order import stratified
from fastclr.data.resident import ResidentLoader
from fastclr.data.shapes import make_shapes
from fastclr.data.splits import load_dataset, load_splits

__all__ = [
    "Batch",
    "ImageDataset",
    "ResidentLoader",
    "Splits",
    "load_dataset",
    "load_splits",
    "make_shapes",
    "stratified",
]

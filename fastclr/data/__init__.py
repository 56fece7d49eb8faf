"""From sources to sets of images, and from sets to batches in an order that depends on seed and position alone."""

from fastclr.data.batch import Batch
from fastclr.data.captioned import CaptionedLoader, Tokenize
from fastclr.data.dali_loader import DaliLoader
from fastclr.data.decoded_set import ImageDataset, Splits
from fastclr.data.indexed_set import ImageIndex
from fastclr.data.label_subsets import stratified
from fastclr.data.load import load_dataset, load_splits
from fastclr.data.loader import Loader, make_loader
from fastclr.data.loader_choice import LoaderKind
from fastclr.data.make_sets import decoded
from fastclr.data.order import Order
from fastclr.data.resident import ResidentLoader
from fastclr.data.shapes import make_shapes
from fastclr.data.torch_loader import TorchLoader
from fastclr.sources.captions import CaptionOptions

__all__ = [
    "Batch",
    "CaptionOptions",
    "CaptionedLoader",
    "DaliLoader",
    "ImageDataset",
    "ImageIndex",
    "Loader",
    "LoaderKind",
    "Order",
    "ResidentLoader",
    "Splits",
    "Tokenize",
    "TorchLoader",
    "decoded",
    "load_dataset",
    "load_splits",
    "make_loader",
    "make_shapes",
    "stratified",
]

"""Datasets as arrays of uint8 images: CIFAR-10, image folders, single files, drawn shapes."""

from utils.datasets.cifar10 import download_cifar10, find_cifar10, load_cifar10
from utils.datasets.data_file import load_dataset, save_dataset
from utils.datasets.dataset import Dataset, Split
from utils.datasets.image_folder import load_image_folder
from utils.datasets.open import open_dataset
from utils.datasets.synthetic import synthetic_shapes

__all__ = [
    "Dataset",
    "Split",
    "download_cifar10",
    "find_cifar10",
    "load_cifar10",
    "load_dataset",
    "load_image_folder",
    "open_dataset",
    "save_dataset",
    "synthetic_shapes",
]

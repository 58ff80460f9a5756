"""CIFAR-10 and CIFAR-100 from torchvision's standard folders, split as in the paper's protocol."""

import contextlib
import io
from pathlib import Path

import torch

from datasets import ImageSizeError
from datasets.pictures import Dataset, Pictures
from utils.errors import UserError

VALIDATION_PICTURES = 5_000  # the last ones of the official training order


def load_cifar10(root: str | None, image_size: int | None) -> Dataset:
    """CIFAR-10: 45,000 train, 5,000 validation, 10,000 test pictures of 32x32. See `_load`."""
    return _load("cifar10", "CIFAR10", root, image_size, (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))


def load_cifar100(root: str | None, image_size: int | None) -> Dataset:
    """CIFAR-100 (fine labels): 45,000 train, 5,000 validation, 10,000 test pictures of 32x32. See `_load`."""
    return _load("cifar100", "CIFAR100", root, image_size, (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762))


def _load(name: str, torchvision_name: str, root: str | None, image_size: int | None, mean: tuple[float, ...],
          std: tuple[float, ...]) -> Dataset:
    """Read the standard folder under `root` (default datasets/<name>), downloading it where the network allows.

    Raises UserError if it is not there and can't be fetched, or `image_size` is not 32.
    """
    import torchvision.datasets

    if image_size not in (None, 32):
        raise ImageSizeError(image_size, f"{name} is 32x32", "leave the flag out")
    folder = Path(root or f"datasets/{name}")
    dataset_class = getattr(torchvision.datasets, torchvision_name)
    parts = {}
    for train in (True, False):
        try:
            parts[train] = dataset_class(folder, train=train, download=False)
        except RuntimeError:
            parts[train] = _download(dataset_class, folder, train, name)
    official = Pictures(torch.from_numpy(parts[True].data), torch.tensor(parts[True].targets))
    test = Pictures(torch.from_numpy(parts[False].data), torch.tensor(parts[False].targets))
    cut = len(official) - VALIDATION_PICTURES
    return Dataset(name, Pictures(official.images[:cut], official.labels[:cut]),
                   Pictures(official.images[cut:], official.labels[cut:]), test, tuple(parts[True].classes),
                   mean, std, flip=True)


def _download(dataset_class: type, folder: Path, train: bool, name: str):
    was_there = folder.exists()
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            return dataset_class(folder, train=train, download=True)
    except Exception as error:  # torchvision raises what urllib, tarfile or the file system raise
        if not was_there:
            with contextlib.suppress(OSError):
                folder.rmdir()
        archive, standard = Path(dataset_class.url).name, dataset_class.base_folder
        raise UserError(
            f"--data {folder}: {name} is not there and can't be downloaded ({type(error).__name__}). Three ways to "
            f"supply it: run once on a machine with a network; put {archive} or its unpacked folder {standard}/ into "
            f"{folder}; or lay the pictures out as train/<class>/ and test/<class>/ and use --dataset imagefolder"
        ) from None

"""Pictures in memory. To add a data set: write a loader as in `datasets/digits.py`, then one line in DATASETS."""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datasets.pictures import Dataset

# name -> (module, loader); the modules are imported when asked for, since torch takes seconds to load
DATASETS: dict[str, tuple[str, str]] = {
    "cifar10": ("datasets.cifar", "load_cifar10"),
    "cifar100": ("datasets.cifar", "load_cifar100"),
    "digits": ("datasets.digits", "load_digits"),
    "imagefolder": ("datasets.imagefolder", "load_imagefolder"),
}


def load_dataset(name: str, root: str | None = None, image_size: int | None = None, limit: int | None = None,
                 seed: int = 1) -> "Dataset":
    """Load a data set of the registry into memory.

    Args:
        name: a key of DATASETS.
        root: its folder; None for the loader's own default.
        image_size: pictures become this many pixels high and wide (imagefolder only).
        limit: keep this many training pictures, drawn with `seed`, as evenly over the classes as possible.
    Raises:
        UserError: the pictures are missing, unreadable, or too few for `limit`.
    """
    module, loader = DATASETS[name]
    dataset = getattr(importlib.import_module(module), loader)(root, image_size)
    return dataset if limit is None else dataset.limited(limit, seed)

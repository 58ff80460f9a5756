"""Pictures in memory. To add a data set: write a loader as in `datasets/digits.py`, then one line in DATASETS."""

import argparse
import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datasets.pictures import Dataset
    from datasets.trigger import TriggerSet

# name -> (module, loader); the modules are imported when asked for, since torch takes seconds to load
DATASETS: dict[str, tuple[str, str]] = {
    "cifar10": ("datasets.cifar", "load_cifar10"),
    "cifar100": ("datasets.cifar", "load_cifar100"),
    "digits": ("datasets.digits", "load_digits"),
    "imagefolder": ("datasets.imagefolder", "load_imagefolder"),
}



@dataclass(frozen=True)
class TriggerKind:
    """One way to come by a trigger set.

    loader: function of `datasets.trigger`, from parsed flags, number of classes and picture size to a TriggerSet. help: as
    `--help` explains it. flags: of `utils.cli.add_trigger_flags`, those that mean something to it. needs: those that it
    can't do without.
    """

    loader: str
    help: str
    flags: tuple[str, ...]
    needs: tuple[str, ...] = ()


TRIGGER_SETS: dict[str, TriggerKind] = {
    "adi": TriggerKind("adi_by_flags", "the published set of Adi et al., as in the paper",
                       ("trigger_dir", "trigger_resize", "trigger_labels")),
    "keyed": TriggerKind("keyed_by_flags", "pictures and labels drawn from a secret key",
                         ("trigger_key", "trigger_count"), ("trigger_key",)),
    "folder": TriggerKind("folder_by_flags", "what make_triggers.py wrote", ("trigger_dir",), ("trigger_dir",)),
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


def load_triggers(args: argparse.Namespace, num_classes: int, size: int) -> "TriggerSet":
    """The trigger set of the registry that flags name.

    Args:
        args: has the flags of `utils.cli.add_trigger_flags`.
        num_classes: of the task.
        size: pixels per side of the task's pictures.
    Raises:
        UserError: the set can't be had, or not for this task.
    """
    module = importlib.import_module("datasets.trigger")
    return getattr(module, TRIGGER_SETS[args.trigger_set].loader)(args, num_classes, size)

"""Pictures and point clouds in memory. To add a data set: write a loader as in `datasets/digits.py`, then one entry in DATASETS
(docs/extending.md)."""

import argparse
import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from utils.errors import UserError

if TYPE_CHECKING:
    from datasets.pictures import Dataset
    from datasets.trigger import TriggerSet


class ImageSizeError(UserError):
    """Pictures that can't be had in the size that was asked for.

    why: without the flag, for somebody who asked in another way.
    """

    def __init__(self, image_size: int | None, why: str, mend: str = ""):
        where = "" if image_size is None else f"--image_size {image_size}: "
        super().__init__(f"{where}{why}" + (f"; {mend}" if mend else ""))
        self.why = why


@dataclass(frozen=True)
class Source:
    """One data set of the registry.

    module, loader: where it is; the function takes the folder and the size that `--data` and `--image_size` give, or None for
    its own defaults, and returns a Dataset. title: as tables and figures call it. kind: of its examples, which a network must
    take (`models.Architecture`).
    """

    module: str
    loader: str
    title: str
    kind: str = "pictures"


# the modules are imported when asked for, since torch takes seconds to load
DATASETS: dict[str, Source] = {
    "cifar10": Source("datasets.cifar", "load_cifar10", "CIFAR-10"),
    "cifar100": Source("datasets.cifar", "load_cifar100", "CIFAR-100"),
    "digits": Source("datasets.digits", "load_digits", "digits"),
    "imagefolder": Source("datasets.imagefolder", "load_imagefolder", "image folder"),
    "digit_points": Source("datasets.digits", "load_digit_points", "digits as points", kind="points"),
    "modelnet": Source("datasets.modelnet", "load_modelnet", "ModelNet", kind="points"),
}


@dataclass(frozen=True)
class TriggerKind:
    """One way to come by a trigger set.

    module: where its function `by_flags` is, from parsed flags, number of classes and picture size to a TriggerSet. help: as
    `--help` explains it. flags: of `utils.cli.add_trigger_flags`, those that mean something to it. needs: those that it
    can't do without.
    """

    module: str
    help: str
    flags: tuple[str, ...]
    needs: tuple[str, ...] = ()


TRIGGER_SETS: dict[str, TriggerKind] = {
    "adi": TriggerKind("datasets.trigger.adi", "the published set of Adi et al., as in the paper",
                       ("trigger_dir", "trigger_resize", "trigger_labels")),
    "keyed": TriggerKind("datasets.trigger.keyed", "pictures and labels drawn from a secret key",
                         ("trigger_key", "trigger_count"), ("trigger_key",)),
    "folder": TriggerKind("datasets.trigger.folder", "what make_triggers.py wrote", ("trigger_dir",), ("trigger_dir",)),
}


def load_dataset(name: str, root: str | None = None, image_size: int | None = None, limit: int | None = None,
                 seed: int = 1) -> "Dataset":
    """Load a data set of the registry into memory.

    Args:
        name: a key of DATASETS.
        root: its folder; None for the loader's own default.
        image_size: pictures become this many pixels high and wide, where the loader can do that (imagefolder can).
        limit: keep this many training pictures, drawn with `seed`, as evenly over the classes as possible.
    Raises:
        ImageSizeError: a UserError, for a size that they can't have.
        UserError: the pictures are missing, unreadable (an OSError of the loader's is one, too), or too few for `limit`; or they
            are not what training relies on (`check_dataset`).
    """
    source = DATASETS[name]
    try:
        dataset = getattr(importlib.import_module(source.module), source.loader)(root, image_size)
    except OSError as error:
        raise UserError(f"--data {error.filename or root}: {error.strerror or error}") from None
    check_dataset(name, dataset)
    return dataset if limit is None else dataset.limited(limit, seed)


def check_dataset(name: str, dataset: "Dataset") -> None:
    """Raise UserError naming the first requirement of docs/extending.md that a loaded data set does not meet."""
    import torch

    def unmet(what: str) -> UserError:
        return UserError(f"--dataset {name}: {what}; see docs/extending.md")

    if dataset.num_classes < 2:
        raise unmet(f"names {dataset.num_classes} classes, and needs 2")
    if len(dataset.mean) != 3 or len(dataset.std) != 3 or min(dataset.std) <= 0:
        raise unmet("mean and std must be three numbers each, std above 0")
    for part in ("train", "val", "test"):
        examples = getattr(dataset, part)
        labels = examples.labels
        if fault := examples.fault(dataset.train):
            raise unmet(f"{part} {fault}")
        if labels.dtype != torch.int64 or labels.shape != examples.inputs.shape[:1] or not len(labels):
            raise unmet(f"{part} labels must be int64 [N], one per example and at least one, and are {labels.dtype} "
                        f"{list(labels.shape)}")
        if labels.min() < 0 or labels.max() >= dataset.num_classes:
            raise unmet(f"{part} labels must be from 0 to {dataset.num_classes - 1}, and run from {labels.min()} to "
                        f"{labels.max()}")


def load_triggers(args: argparse.Namespace, num_classes: int, side: int | None) -> "TriggerSet":
    """The trigger set of the registry that flags name.

    Args:
        args: has the flags of `utils.cli.add_trigger_flags`.
        num_classes: of the task.
        side: pixels per side of the task's pictures, None of points.
    Raises:
        UserError: the set can't be had, or not for this task; there is none for points.
    """
    if side is None:
        raise UserError(f"--trigger_set {args.trigger_set}: is of pictures, and the task's data are points; leave the flag out")
    return importlib.import_module(TRIGGER_SETS[args.trigger_set].module).by_flags(args, num_classes, side)

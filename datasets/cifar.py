"""CIFAR-10 and CIFAR-100 from torchvision's standard folders, split as in the paper's protocol."""

import contextlib
import io
from pathlib import Path
from urllib.error import URLError

import torch

from datasets import ImageSizeError
from datasets.pictures import Dataset, Pictures
from utils import checkpoint
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
    archive, standard = Path(dataset_class.url).name, dataset_class.base_folder
    was_there = folder.exists()
    right = _one_level_off(folder, archive, standard)
    if right is not None:
        raise UserError(f"--data {folder}: {name} lies one level off; give --data {right}")
    damaged = _damaged(dataset_class, folder)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            return dataset_class(folder, train=train, download=True)
    except Exception as error:  # torchvision raises what urllib, tarfile or the file system raise
        if not was_there:
            with contextlib.suppress(OSError):
                folder.rmdir()
        if isinstance(error, OSError) and not isinstance(error, URLError) and (error.filename or error.errno in checkpoint.FULL):
            raise  # it is there, or came, but can't be written
        if damaged is not None:
            state = "is there, but damaged (checksum)" if damaged.exists() else "is missing"
            raise UserError(f"--data {folder}: {damaged.relative_to(folder)} {state}, and can't be downloaded anew "
                            f"({type(error).__name__}); put a whole {archive} into {folder}") from None
        raise UserError(
            f"--data {folder}: {name} is not there and can't be downloaded ({type(error).__name__}). Three ways to "
            f"supply it: run once on a machine with a network; put {archive} or its unpacked folder {standard}/ into "
            f"{folder}; or lay the pictures out as train/<class>/ and test/<class>/ and use --dataset imagefolder"
        ) from None


def _one_level_off(folder: Path, archive: str, standard: str) -> Path | None:
    """The folder that should have been given, where it is the one above, or one below, and this one holds neither."""
    def holds_it(place: Path) -> bool:
        return (place / archive).is_file() or (place / standard).is_dir()

    if folder.is_file() and folder.name == archive:
        return folder.parent
    if not folder.is_dir() or holds_it(folder):
        return None
    above = [folder.resolve().parent] if folder.resolve().name == standard else []
    return next(filter(holds_it, (*above, *sorted(folder.iterdir()))), None)


def _damaged(dataset_class: type, folder: Path) -> Path | None:
    """The first file of the standard ones that is there, but not as it was published; a folder lacks none of its files."""
    from torchvision.datasets.utils import check_integrity

    unpacked, archive = folder / dataset_class.base_folder, folder / dataset_class.filename
    parts = [*dataset_class.train_list, *dataset_class.test_list, (dataset_class.meta["filename"], dataset_class.meta["md5"])]
    places = [(unpacked / name, md5) for name, md5 in parts] if unpacked.is_dir() else []
    places += [(archive, dataset_class.tgz_md5)] if archive.exists() else []
    return next((path for path, md5 in places if not check_integrity(path, md5)), None)

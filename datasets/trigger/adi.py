"""The published set of Adi et al. ("Turning your weakness into a strength", USENIX Security 2018), which the paper uses.

Everybody has it, labels included, so knowing it proves nothing by itself.
"""

import argparse
import hashlib
import io
import os
import urllib.request
import zipfile
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image, ImageOps

from datasets.decoding import read_rgb
from datasets.trigger.trigger_set import TriggerSet, numbered
from utils import checkpoint
from utils.errors import UserError

# names and contents of the pictures and of the file of labels, as `_digest_of_files` sums them up
ADI_SHA256 = "8c7d948e647294d961ca388d506213a110eca280136d7db2d8f20dc735d7004f"
ADI_PICTURES, ADI_LABELS = "pics", "labels-cifar.txt"
ADI_ARCHIVE = "https://github.com/adiyoss/WatermarkNN/archive/refs/heads/master.zip"
ADI_IN_ARCHIVE = "data/trigger_set"
ADI_FOLDER = "datasets/trigger_set"
ADI_CLASSES = 10  # the published labels are 0 to 9
MAX_DOWNLOAD = 200 << 20  # bytes; the archive is an eighth of that


def by_flags(args: argparse.Namespace, num_classes: int, size: int) -> TriggerSet:
    """See `load_adi`."""
    published = {None: None, "published": True, "spread": False}[args.trigger_labels]
    return load_adi(args.trigger_dir or ADI_FOLDER, num_classes, size, args.trigger_resize, published)


def load_adi(folder: str | Path, num_classes: int, size: int, resize: bool = False,
             published_labels: bool | None = None) -> TriggerSet:
    """The published set: `pics/*` in plain string order of their names, line k of `labels-cifar.txt` for the k-th.

    Args:
        folder: where it lies; fetched from its authors' repository if it is not there and the network allows.
        num_classes: of the task.
        size: pictures become this many pixels high and wide: the central ones, as in the published code.
        resize: show the whole picture instead, scaled down and cropped to a square.
        published_labels: use the labels 0 to 9 of the file for any number of classes; else they are used for 10 classes,
            and for another number each picture's label is spread over all classes by the hash of its file. None: that.
    Raises:
        UserError: the set is missing and can't be fetched, pictures and labels don't fit, or a picture is too small.
    """
    folder = Path(folder)
    if not folder.exists():
        download_adi(folder)
    names, published = _adi_files(folder)
    if published_labels is None:
        published_labels = num_classes == ADI_CLASSES
    if published_labels and max(published) >= num_classes:
        raise UserError(f"--trigger_labels published: go up to {max(published)}, the task has {num_classes} classes; "
                        "leave the flag out")
    images = np.empty((len(names), size, size, 3), dtype=np.uint8)
    labels = []
    for index, name in enumerate(names):
        path = folder / ADI_PICTURES / name
        image = read_rgb(path)
        if resize:
            image = ImageOps.fit(image, (size, size), Image.Resampling.BICUBIC)
        elif min(image.size) < size:
            raise UserError(f"{path}: is {image.width}x{image.height}, too small for its central {size}x{size} pixels; "
                            "give --trigger_resize")
        left, top = (image.width - size) // 2, (image.height - size) // 2
        images[index] = np.asarray(image.crop((left, top, left + size, top + size)))
        spread = int.from_bytes(hashlib.sha256(path.read_bytes()).digest(), "big") % num_classes
        labels.append(published[index] if published_labels else spread)
    return numbered("adi", images, labels, num_classes)


def _adi_files(folder: Path) -> tuple[list[str], list[int]]:
    """Names of the pictures in order, and their published labels."""
    if not (folder / ADI_PICTURES).is_dir() or not (folder / ADI_LABELS).is_file():
        raise UserError(f"--trigger_dir {folder}: must hold {ADI_PICTURES}/ and {ADI_LABELS}, as published by Adi et al.")
    names = sorted(entry.name for entry in os.scandir(folder / ADI_PICTURES)
                   if entry.is_file() and entry.name[0] != ".")
    labels = []
    for number, line in enumerate((folder / ADI_LABELS).read_text("utf-8", "replace").splitlines(), 1):
        try:
            value = float(line)
        except ValueError:
            value = -1.0
        if not value.is_integer() or not 0 <= value < 1 << 16:
            raise UserError(f"{folder / ADI_LABELS}: line {number} is {line[:40]!r}, no label (a whole number from 0)")
        labels.append(int(value))
    if not names or len(names) != len(labels):
        raise UserError(f"--trigger_dir {folder}: {len(names)} pictures in {ADI_PICTURES}/, {len(labels)} labels in "
                        f"{ADI_LABELS}; they must be as many, and not none")
    return names, labels


def is_published(folder: str | Path) -> bool:
    """Whether a folder holds the set exactly as it was published."""
    return _digest_of_files(Path(folder)) == ADI_SHA256


def _digest_of_files(folder: Path) -> str:
    names, labels = _adi_files(folder)
    digest = hashlib.sha256(bytes(labels))
    for name in names:
        digest.update(name.encode() + b"\0" + hashlib.sha256((folder / ADI_PICTURES / name).read_bytes()).digest())
    return digest.hexdigest()


def download_adi(folder: str | Path, url: str = ADI_ARCHIVE) -> None:
    """Fetch the published set into `folder`, which must not exist.

    Raises UserError if it can't be fetched or is not what was published; `folder` is made only when all is there.
    """
    folder = Path(folder)
    supply = (f"put the published {ADI_PICTURES}/ and {ADI_LABELS} there yourself (data/trigger_set of "
              "https://github.com/adiyoss/WatermarkNN), or use --trigger_set keyed, which needs no download")
    if folder.exists():
        raise UserError(f"--trigger_dir {folder}: is there already; name another folder")
    try:
        with urllib.request.urlopen(url, timeout=60) as answer:
            packed = answer.read(MAX_DOWNLOAD + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        raise UserError(f"--trigger_dir {folder}: the Adi set is not there and can't be downloaded ({reason}); "
                        f"{supply}") from None
    part = folder.parent / f".{folder.name}.{os.getpid()}{checkpoint.TEMPORARY}"
    try:
        with zipfile.ZipFile(io.BytesIO(packed)) as archive:
            for member in archive.infolist():
                # only two kinds of names are taken out, rebuilt from their last part: nothing is written elsewhere
                place = PurePosixPath(member.filename)
                inside = PurePosixPath(*place.parts[1:])
                is_picture = str(inside.parent) == f"{ADI_IN_ARCHIVE}/{ADI_PICTURES}"
                if member.is_dir() or not (is_picture or str(inside) == f"{ADI_IN_ARCHIVE}/{ADI_LABELS}"):
                    continue
                target = part / ADI_PICTURES / place.name if is_picture else part / ADI_LABELS
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(archive.read(member))
        if not is_published(part):
            raise ValueError("not the published pictures and labels")
        part.rename(folder)
    except (ValueError, OSError, RuntimeError, zipfile.BadZipFile, NotImplementedError, UserError) as error:
        raise UserError(f"--trigger_dir {folder}: {url} is not the set any more ({error}); {supply}") from None
    finally:
        _remove(part)


def _remove(part: Path) -> None:
    for path in sorted(part.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    if part.exists():
        part.rmdir()

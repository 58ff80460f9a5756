"""Trigger sets (scheme V3, section 3.4): abstract pictures whose labels only a model that was trained on them knows.

`adi` is the published set of Adi et al. ("Turning your weakness into a strength", USENIX Security 2018), which the paper
uses. Everybody has it, labels included, so knowing it proves nothing by itself. `keyed` is drawn from a secret key: nobody
else can make it, its owner can make it again before an arbiter, and its labels are independent of everything that anybody
else's model saw. To add a kind: write a loader here, then one entry in `datasets.TRIGGER_SETS`.
"""

import argparse
import contextlib
import csv
import hashlib
import hmac
import io
import os
import re
import secrets
import urllib.request
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from PIL import Image, ImageOps

from datasets.decoding import read_rgb
from datasets.pictures import Dataset, Pictures, as_float, fingerprint
from utils import checkpoint
from utils.errors import UserError

# the published set: names and contents of the pictures and of the file of labels, as `_digest_of_files` sums them up
ADI_SHA256 = "8c7d948e647294d961ca388d506213a110eca280136d7db2d8f20dc735d7004f"
ADI_PICTURES, ADI_LABELS = "pics", "labels-cifar.txt"
ADI_ARCHIVE = "https://github.com/adiyoss/WatermarkNN/archive/refs/heads/master.zip"
ADI_IN_ARCHIVE = "data/trigger_set"
ADI_FOLDER = "datasets/trigger_set"
ADI_CLASSES = 10  # the published labels are 0 to 9
MAX_DOWNLOAD = 200 << 20  # bytes; the archive is an eighth of that

KEYED_LAYOUT = "lottery trigger set 1"  # says how keys become pictures; another layout needs another name
KEY_BYTES = (16, 1 << 16)  # shortest and longest key
KEY_FORMAT = "lottery-trigger-key/1"  # begins the keys that `new_key` makes; it is a part of the key
KEY_DIGITS = 64
GRID = 4  # colours of the background, per side
SHAPES = 6

EXPORT_FORMAT = "lottery-triggers/1"
MAX_EXPORTED = 1 << 32  # bytes of pixels
MAX_DESCRIPTION, MAX_ROW = 1 << 16, 1 << 9  # bytes of triggers.json, and of whatever else a file has beside its content; of a label
MAX_CLASSES = 1 << 20


@dataclass(frozen=True)
class TriggerSet:
    """Pictures and the labels that the owner's model gives them.

    kind: `adi` or `keyed`. pictures: images uint8 [N, S, S, 3] and labels int64 [N] on the CPU. names: of the pictures
    in an exported folder. num_classes: labels are below it.
    """

    kind: str
    pictures: Pictures
    names: tuple[str, ...]
    num_classes: int

    def __len__(self) -> int:
        return len(self.pictures)

    def fingerprint(self) -> str:
        """SHA-256, in hex, of the number of classes, which decides what chance is, and of all pictures and labels."""
        content = fingerprint((self.pictures.images, self.pictures.labels))
        return hashlib.sha256(f"{self.num_classes} classes\n{content}".encode()).hexdigest()


def _trigger_set(kind: str, images: np.ndarray, labels: list[int], num_classes: int) -> TriggerSet:
    names = tuple(f"{index:04d}.png" for index in range(len(labels)))
    return TriggerSet(kind, Pictures(torch.from_numpy(images), torch.tensor(labels)), names, num_classes)


# --- the published set ------------------------------------------------------------------------------------------------


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
    return _trigger_set("adi", images, labels, num_classes)


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


# --- an owner's own set -----------------------------------------------------------------------------------------------


def new_key(path: str | Path) -> None:
    """Write a fresh secret key, KEY_FORMAT and 64 hexadecimal digits, readable by its owner alone. Raises UserError if the file
    exists."""
    checkpoint.write_secret(path, f"{KEY_FORMAT} {secrets.token_hex(KEY_DIGITS // 2)}\n".encode("ascii"), "--new_key")


def read_key(path: str | Path) -> bytes:
    """The key in a file: its bytes without white space at both ends.

    Any bytes may be a key, as some owners made their own. Raises UserError for none, or a short one; for a file that is known to
    be something else, so that no other secret is handed to an arbiter by mistake; and for a damaged one of `new_key`.
    """
    shortest, longest = KEY_BYTES
    try:
        with checkpoint.open_regular(path, links=False) as file:
            key = file.read(longest + 2).strip()
    except UserError as error:
        raise UserError(f"--trigger_key {error}") from None
    other = _known_as_other(key)
    if other:
        raise UserError(f"--trigger_key {path}: is {other}, no trigger key; give the file that make_triggers.py --new_key made")
    if not shortest <= len(key) <= longest:
        raise UserError(f"--trigger_key {path}: a key has {shortest} to {longest} bytes; make_triggers.py --new_key "
                        "makes one")
    if key.startswith(KEY_FORMAT.encode()) and not re.fullmatch(rb"%b [0-9a-f]{%d}" % (KEY_FORMAT.encode(), KEY_DIGITS), key):
        raise UserError(f"--trigger_key {path}: is damaged; {KEY_FORMAT!r}, a space and {KEY_DIGITS} hexadecimal digits make a "
                        "key. Give an unchanged copy")
    return key


def _known_as_other(content: bytes) -> str | None:
    """What a file is that is given as a key by mistake, by its first bytes; None for what may be a key."""
    if content.startswith(b"-----BEGIN"):
        return "a PEM file, perhaps the owner's key that signs commitments"
    if content.startswith(b"{"):  # as one random key in 256 does, and a pass phrase may
        with contextlib.suppress(ValueError):
            checkpoint.parse_json(content)
            return "a JSON file, perhaps a claim"
    if content.startswith(b"PK\3\4"):
        return "a torch or another zip file, perhaps a key mask (scheme V1)"
    return None


class _Draws:
    """Numbers from HMAC-SHA-256 in counter mode: the same for a key on every machine, unrelated for any other key."""

    def __init__(self, key: bytes, purpose: str):
        self._key, self._purpose = key, f"{KEYED_LAYOUT}/{purpose}"
        self._words = self._stream()

    def _stream(self) -> Iterator[int]:
        block = 0
        while True:
            digest = hmac.digest(self._key, f"{self._purpose}/{block}".encode(), "sha256")
            yield from (int.from_bytes(digest[at:at + 4], "big") for at in range(0, 32, 4))
            block += 1

    def below(self, bound: int) -> int:
        """Uniform in 0 to bound - 1: words past the last whole multiple are thrown away."""
        limit = (1 << 32) // bound * bound
        return next(word for word in self._words if word < limit) % bound

    def several(self, count: int, bound: int) -> np.ndarray:
        return np.array([self.below(bound) for _ in range(count)], dtype=np.int64)


def keyed(key: bytes, count: int, num_classes: int, size: int) -> TriggerSet:
    """An owner's own abstract pictures and labels, drawn from a secret key.

    A picture is a background of smoothly running colours with a few filled shapes. Labels are uniform over all classes
    and independent of the pictures and of each other. All is done in whole numbers, so it is the same bit for bit on
    every machine; the first n pictures of a larger set are the smaller one, and a picture does not depend on the number
    of classes.

    Args:
        key: at least 16 secret bytes.
        count: pictures.
        num_classes: of the task.
        size: pixels per side.
    """
    images = np.stack([_abstract_picture(_Draws(key, f"picture/{size}/{index}"), size) for index in range(count)])
    labels = [_Draws(key, f"label/{num_classes}/{index}").below(num_classes) for index in range(count)]
    return _trigger_set("keyed", images, labels, num_classes)


def _abstract_picture(draws: _Draws, size: int) -> np.ndarray:
    """uint8 [size, size, 3]."""
    # bilinear between the colours of a coarse grid, at pixel centres, in units of 1 / (2 * size) of a cell
    grid = draws.several(GRID * GRID * 3, 256).reshape(GRID, GRID, 3)
    at = (2 * np.arange(size) + 1) * (GRID - 1)
    low, part = at // (2 * size), (at % (2 * size))[:, None]
    rows = grid[low] * (2 * size - part)[:, :, None] + grid[low + 1] * part[:, :, None]
    rows = rows.transpose(1, 0, 2)
    picture = (rows[low] * (2 * size - part)[:, :, None] + rows[low + 1] * part[:, :, None]).transpose(1, 0, 2)
    picture = (picture // (4 * size * size)).astype(np.uint8, order="C")

    # coordinates in 1/1024 of the side
    y, x = np.meshgrid(*[(2 * np.arange(size) + 1) * 512 // size] * 2, indexing="ij")
    for _ in range(SHAPES):
        kind, colour = draws.below(3), draws.several(3, 256)
        centre_y, centre_x = draws.several(2, 1024)
        half_y, half_x = 96 + draws.several(2, 256)
        across, down = x - centre_x, y - centre_y
        if kind == 0:  # an ellipse
            inside = (across * half_y) ** 2 + (down * half_x) ** 2 < (half_x * half_y) ** 2
        elif kind == 1:  # a rectangle
            inside = (abs(across) < half_x) & (abs(down) < half_y)
        else:  # a slanted band
            rising = 1 - 2 * draws.below(2)
            inside = abs(across * half_y + rising * down * half_x) < 64 * (half_x + half_y)
        picture[inside] = colour
    return picture


# --- folders of PNGs --------------------------------------------------------------------------------------------------


def export(triggers: TriggerSet, folder: str | Path, resume: bool = False) -> None:
    """Write a set as PNGs (to be shown to anybody's model), `labels.csv` (to be kept), and `triggers.json`, last.

    resume: what an interrupted call left is completed, and a whole set is left alone.
    Raises UserError if the folder holds something already, with `resume` if it is another set.
    """
    folder = Path(folder)
    if resume and (folder / "triggers.json").exists():
        try:
            found = load_exported(folder, "the set in")
        except UserError as error:
            raise UserError(f"{error}; remove {folder}, and the same command writes it anew") from None
        if found.fingerprint() != triggers.fingerprint():
            raise UserError(f"{folder}: holds another trigger set; name another --save_dir")
        return
    if not resume and folder.exists() and any(folder.iterdir()):
        raise UserError(f"--save_dir {folder}: is not empty; name another folder")
    for name, image in zip(triggers.names, triggers.pictures.images.numpy()):
        checkpoint.write_atomic(folder / name, lambda file: Image.fromarray(image).save(file, "PNG"))
    labels = triggers.pictures.labels.tolist()
    checkpoint.save_csv([{"image": name, "label": label} for name, label in zip(triggers.names, labels)],
                        ("image", "label"), folder / "labels.csv")
    checkpoint.save_json({"format": EXPORT_FORMAT, "kind": triggers.kind, "pictures": len(triggers),
                          "size": triggers.pictures.images.shape[1], "num_classes": triggers.num_classes,
                          "sha256": triggers.fingerprint()}, folder / "triggers.json")


def load_exported(folder: str | Path, flag: str = "--trigger_dir") -> TriggerSet:
    """Read what `export` wrote. Raises UserError, naming `flag`, for a folder that is no exported set, or was changed."""
    folder = Path(folder)
    if not (folder / "triggers.json").is_file():
        raise UserError(f"{flag} {folder}: holds no triggers.json; give a folder that make_triggers.py wrote")
    try:
        facts = checkpoint.parse_json(_read_bounded(folder / "triggers.json", MAX_DESCRIPTION))
    except ValueError as error:
        raise UserError(f"{folder / 'triggers.json'}: not a JSON file that can be read ({error})") from None
    wanted = {"format": str, "kind": str, "pictures": int, "size": int, "num_classes": int, "sha256": str}
    if not isinstance(facts, dict) or facts.get("format") != EXPORT_FORMAT \
            or {name: type(value) for name, value in facts.items()} != wanted:
        raise UserError(f"{folder / 'triggers.json'}: is no description of a trigger set ({EXPORT_FORMAT})")
    if min(facts["pictures"], facts["size"]) < 1 or 3 * facts["pictures"] * facts["size"] ** 2 > MAX_EXPORTED \
            or not 2 <= facts["num_classes"] <= MAX_CLASSES:
        raise UserError(f"{folder / 'triggers.json'}: its numbers are out of range")
    labels = _read_labels(folder / "labels.csv", facts["num_classes"], facts["pictures"])
    if len(labels) != facts["pictures"]:
        raise UserError(f"{folder / 'labels.csv'}: has {len(labels)} rows, triggers.json says {facts['pictures']}")
    size = facts["size"]
    images = np.empty((len(labels), size, size, 3), dtype=np.uint8)
    for index, name in enumerate(labels):
        content = _read_bounded(folder / name, MAX_DESCRIPTION + 16 * size ** 2)
        images[index] = np.asarray(read_rgb(folder / name, content, (size, size)))
    pictures = Pictures(torch.from_numpy(images), torch.tensor(list(labels.values())))
    found = TriggerSet(facts["kind"], pictures, tuple(labels), facts["num_classes"])
    if found.fingerprint() != facts["sha256"]:
        raise UserError(f"{flag} {folder}: a picture, a label or the number of classes was changed since the set "
                        "was exported")
    return found


def _read_bounded(path: Path, limit: int) -> bytes:
    """A file of a folder that anybody may have made."""
    with checkpoint.open_regular(path, links=False) as file:
        content = file.read(limit + 1)
    if len(content) > limit:
        raise UserError(f"{path}: has more than {limit} bytes, so is not what it should be")
    return content


def _read_labels(path: Path, num_classes: int, pictures: int) -> dict[str, int]:
    """Label by name of picture, in the file's order."""
    try:
        text = _read_bounded(path, MAX_DESCRIPTION + MAX_ROW * pictures).decode("utf-8")
        rows = list(csv.reader(io.StringIO(text, newline="")))
    except (ValueError, csv.Error) as error:
        raise UserError(f"{path}: not a CSV file ({error})") from None
    if not rows or rows[0] != ["image", "label"]:
        raise UserError(f"{path}: its first line must be image,label")
    labels: dict[str, int] = {}
    for number, row in enumerate(rows[1:], 2):
        good = len(row) == 2 and row[1].isascii() and row[1].isdigit() and len(row[1]) < 10
        if not good or not 0 <= int(row[1]) < num_classes:
            raise UserError(f"{path}: line {number} must be a picture's name and its label below {num_classes}")
        if row[0] in labels or row[0] != Path(row[0]).name or "\0" in row[0]:
            raise UserError(f"{path}: line {number} names {row[0][:40]!r}, which is no name of its own")
        labels[row[0]] = int(row[1])
    return labels


# --- by the flags of the scripts: see datasets.TRIGGER_SETS ------------------------------------------------------------


def adi_by_flags(args: argparse.Namespace, num_classes: int, size: int) -> TriggerSet:
    """See `load_adi`."""
    published = {None: None, "published": True, "spread": False}[args.trigger_labels]
    return load_adi(args.trigger_dir or ADI_FOLDER, num_classes, size, args.trigger_resize, published)


def keyed_by_flags(args: argparse.Namespace, num_classes: int, size: int) -> TriggerSet:
    """See `keyed`."""
    return keyed(read_key(args.trigger_key), args.trigger_count, num_classes, size)


def folder_by_flags(args: argparse.Namespace, num_classes: int, size: int) -> TriggerSet:
    """See `load_exported`; raises UserError where the set is for another task."""
    triggers = load_exported(args.trigger_dir)
    if triggers.num_classes != num_classes or triggers.pictures.images.shape[1] != size:
        raise UserError(f"--trigger_dir {args.trigger_dir}: is for {triggers.num_classes} classes and pictures of "
                        f"{triggers.pictures.images.shape[1]} pixels, the task has {num_classes} and {size}; export the "
                        "set anew")
    return triggers


# --- training on them -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class WithTriggers(Dataset):
    """A data set with trigger pictures mixed into every batch; they are followed as the probe `trigger`.

    A batch has `per_batch` trigger pictures at its end and the others of the task, cropped and mirrored as ever. Trigger
    pictures are shown as they are, pass after pass over the set, each pass in a random order of its own.
    """

    per_batch: int = 2

    def train_batches(self, size: int, generator: torch.Generator) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Like `Dataset.train_batches`: `size` counts both kinds. An epoch is one pass over the task's pictures."""
        triggers = self.probes["trigger"]
        if not 0 < self.per_batch < size:
            raise UserError(f"--trigger_per_batch {self.per_batch}: must be below --batch_size {size}")
        steps = -(-len(self.train) // (size - self.per_batch))
        passes = -(-steps * self.per_batch // len(triggers))
        order = torch.cat([torch.randperm(len(triggers), generator=generator) for _ in range(passes)])
        order = order.to(triggers.labels.device)
        for step, (images, labels) in enumerate(super().train_batches(size - self.per_batch, generator)):
            shown = triggers[order[step * self.per_batch:(step + 1) * self.per_batch]]
            yield torch.cat((images, as_float(shown.images))), torch.cat((labels, shown.labels))


def with_triggers(data: Dataset, triggers: TriggerSet, per_batch: int) -> WithTriggers:
    """The data set with a trigger set of the same size and number of classes mixed into its training."""
    followed = following(data, triggers)
    return WithTriggers(**{name: getattr(followed, name) for name in Dataset.__dataclass_fields__}, per_batch=per_batch)


def following(data: Dataset, triggers: TriggerSet) -> Dataset:
    """The data set, with the accuracy on a trigger set followed that is not trained on."""
    return replace(data, probes={**data.probes, "trigger": triggers.pictures.to(data.train.labels.device)})

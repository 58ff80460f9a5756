"""Any set as a folder of PNGs, to be shown to a model that can only be queried."""

import argparse
import csv
import io
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from datasets.decoding import read_rgb
from datasets.pictures import Pictures
from datasets.trigger.trigger_set import TriggerSet
from utils import checkpoint
from utils.errors import UserError

EXPORT_FORMAT = "lottery-triggers/1"
MAX_EXPORTED = 1 << 32  # bytes of pixels
MAX_DESCRIPTION, MAX_ROW = 1 << 16, 1 << 9  # bytes of triggers.json, and of what a file has beside its content; of a label
MAX_CLASSES = 1 << 15  # the largest list of ImageNet has 21,841; a network's last layer grows with them


def by_flags(args: argparse.Namespace, num_classes: int, size: int) -> TriggerSet:
    """See `load_exported`; raises UserError where the set is for another task."""
    triggers = load_exported(args.trigger_dir)
    if triggers.num_classes != num_classes or triggers.pictures.images.shape[1] != size:
        raise UserError(f"--trigger_dir {args.trigger_dir}: is for {triggers.num_classes} classes and pictures of "
                        f"{triggers.pictures.images.shape[1]} pixels, the task has {num_classes} and {size}; export the "
                        "set anew")
    return triggers


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
                        ("image", "label"), folder / "labels.csv", secret=True)
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
        text = checkpoint.without_mark(_read_bounded(path, MAX_DESCRIPTION + MAX_ROW * pictures)).decode("utf-8")
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

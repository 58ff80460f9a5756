"""Your own pictures: `train/<class>/**` and `test/<class>/**`, in any format Pillow reads, decoded once and cached."""

import contextlib
import hashlib
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from unicodedata import normalize

import numpy as np
import torch
from PIL import Image, ImageOps
from tqdm import tqdm

from datasets import ImageSizeError
from datasets.decoding import DEEP_COLOUR, deepest, is_picture, read_rgb, white_of
from datasets.pictures import Dataset, Pictures, hold_out, statistics
from utils import checkpoint
from utils.cli import one_line
from utils.errors import UserError

CACHE_LAYOUT = 2  # raise it when what is cached changes
MIN_SIDE, MAX_SIDE = 8, 4096
PARTS = ("train", "test")
# folders that systems put beside pictures: thumbnails, what was deleted, resource forks; and all that begin with a dot
SYSTEM_FOLDERS = frozenset(("@eadir", "@recycle", "#recycle", "$recycle.bin", "__macosx", "lost+found", "system volume information"))


def load_imagefolder(root: str | None, image_size: int | None) -> Dataset:
    """Pictures of `root`; classes are the sorted folder names of `train/`, a tenth of each is for validation.

    Folders in a class's folder are read too, and links are followed, as torchvision does. What is no picture is left out, counted
    and named once. Pictures with more than 8 bits per value are scaled by one range for all, see `datasets.decoding.white_of`.
    Pictures keep their size where all have the same, square one; else `image_size` must be given, and each is
    resized so that it covers the square and cropped to its centre. Decoded tensors are cached beside the pictures
    (or in the user's cache folder, where that is not writable) and used until a file is added, removed or changed.

    Raises:
        UserError: no such layout, a class missing in one part, a file that is no picture, sizes that differ.
    """
    if root is None:
        raise UserError("--data: imagefolder needs the folder that holds train/ and test/")
    folder = Path(root)
    if image_size is not None and image_size < MIN_SIDE:
        raise ImageSizeError(image_size, f"must be at least {MIN_SIDE}")
    if image_size is not None and image_size > MAX_SIDE:
        raise ImageSizeError(image_size, f"must be at most {MAX_SIDE}")
    folders = _classes(folder)
    classes = tuple(folders["train"])
    skipped: list[Path] = []
    files = {part: _files(folder / part, tuple(folders[part].values()), skipped) for part in PARTS}
    if skipped:
        print(f"note: --data {folder}: {len(skipped)} entries are no pictures and left out, such as "
              f"{', '.join(one_line(str(path.relative_to(folder))) for path in skipped[:3])}", file=sys.stderr)

    fingerprint = _fingerprint(folder, files, image_size)
    tensors = _from_cache(folder, fingerprint, {part: len(files[part]) for part in files})
    if tensors is None:
        # Pillow's remarks are silenced here, around the threads: filters belong to the whole process
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            white = _white(folder, [path for part in files.values() for path, _ in part])
            tensors = {part: _decode([path for path, _ in files[part]], image_size, white) for part in files}
        if tensors["train"].shape[1:] != tensors["test"].shape[1:]:
            raise ImageSizeError(None, f"--data {folder}: train/ and test/ differ in picture size", "give --image_size N")
        _to_cache(folder, fingerprint, tensors)

    parts = {part: Pictures(tensors[part], torch.tensor([label for _, label in files[part]])) for part in files}
    train, val = hold_out(parts["train"], 0.1, len(classes))
    if len(torch.unique(train.labels)) < len(classes):
        raise UserError(f"--data {folder}: every class of train/ needs at least 2 pictures, one is for validation")
    mean, std = statistics(train.images)
    return Dataset(folder.resolve().name, train, val, parts["test"], classes, mean, std, flip=True)


def _classes(folder: Path) -> dict[str, dict[str, str]]:
    """By part, class names and their folders' names: the same letter with its mark may be written in two ways."""
    found = {}
    for part in PARTS:
        if not (folder / part).is_dir():
            raise UserError(f"--data {folder}: no folder {part}/; " + (_one_level_off(folder) or
                            "lay pictures out as train/<class>/ and test/<class>/"))
        found[part] = {normalize("NFC", entry.name): entry.name for entry in os.scandir(folder / part)
                       if entry.is_dir() and not _is_systems(entry.name)}
    odd = sorted(found["train"].keys() ^ found["test"].keys())
    if odd:
        raise UserError(f"--data {folder}: class {odd[0]!r} is in one of train/ and test/ only")
    if len(found["train"]) < 2:
        raise UserError(f"--data {folder}: train/ needs at least 2 class folders")
    return {part: dict(sorted(names.items())) for part, names in found.items()}


def _one_level_off(folder: Path) -> str | None:
    """The mend, where the folder of the pictures is the one above or one below."""
    below = sorted(folder.iterdir()) if folder.is_dir() else []
    right = next((place for place in (folder.resolve().parent, *below) if all((place / part).is_dir() for part in PARTS)), None)
    return right and f"it lies one level off; give --data {right}"


def _is_systems(name: str) -> bool:
    return name.startswith(".") or name.lower() in SYSTEM_FOLDERS


def _files(folder: Path, classes: tuple[str, ...], skipped: list[Path]) -> list[tuple[Path, int]]:
    """Pictures with their labels, in order of their names. What else is there joins `skipped`, but for what begins with a dot."""
    files = []
    skipped += sorted(folder / entry.name for entry in os.scandir(folder) if entry.name not in classes and entry.name[0] != ".")
    for label, name in enumerate(classes):
        pictures = []
        for path in _below(folder / name, frozenset(map(os.path.realpath, (folder, folder.parent))), skipped):
            (pictures if path.is_file() and is_picture(path) else skipped).append(path)
        if not pictures:
            raise UserError(f"--data: {folder / name} holds no pictures")
        files += [(path, label) for path in pictures]
    return files


def _below(folder: Path, above: frozenset[str], skipped: list[Path]) -> Iterator[Path]:
    """All files below a folder, those of its own first; not those of links to the folders above it, which would have no end."""
    above |= {os.path.realpath(folder)}
    entries = sorted((entry for entry in os.scandir(folder) if not entry.name.startswith(".")), key=lambda entry: entry.name)
    yield from (folder / entry.name for entry in entries if not entry.is_dir())
    for entry in entries:
        if entry.is_dir():
            if _is_systems(entry.name) or os.path.realpath(entry.path) in above:
                skipped.append(folder / entry.name)
            else:
                yield from _below(folder / entry.name, above, skipped)


def _white(folder: Path, paths: Sequence[Path]) -> dict[str, int]:
    """What is white in pictures with more than 8 bits, by kind; says so where there are any."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        found = [deep for deep in pool.map(deepest, paths) if deep]
    try:
        white = white_of(found)
    except ValueError as error:
        raise UserError(f"--data {folder}: {error}") from None
    for kind, value in white.items():
        if kind != DEEP_COLOUR:
            print(f"note: --data {folder}: white is {value} in all pictures of more than 8 bits ({kind}); their largest value is "
                  f"{max(largest for other, largest in found if other == kind)}", file=sys.stderr)
    return white


def _read(path: Path, image_size: int | None, white: dict[str, int] | None = None) -> np.ndarray:
    image = read_rgb(path, white=white)
    if image_size is not None and image.size != (image_size, image_size):
        image = ImageOps.fit(image, (image_size, image_size), Image.Resampling.BICUBIC)
    return np.asarray(image)


def _decode(paths: list[Path], image_size: int | None, white: dict[str, int]) -> torch.Tensor:
    """Pictures as uint8 [N, H, W, 3]; threads pay because Pillow decodes outside Python's lock."""
    first = _read(paths[0], image_size, white)
    height, width = first.shape[:2]
    if height != width or height < MIN_SIDE:
        raise ImageSizeError(None, f"{paths[0]}: is {width}x{height}",
                             f"give --image_size N (at least {MIN_SIDE}) to make all square")
    if len(paths) * first.size > 0.8 * os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"):
        raise ImageSizeError(None, f"{len(paths)} pictures of {width}x{height} do not fit into memory",
                             "give a smaller --image_size")
    images = np.empty((len(paths), *first.shape), dtype=np.uint8)

    def fill(index: int) -> None:
        image = _read(paths[index], image_size, white)
        if image.shape != first.shape:
            raise ImageSizeError(None, f"{paths[index]}: is {image.shape[1]}x{image.shape[0]}, others are {width}x{height}",
                                 "give --image_size N")
        images[index] = image

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(tqdm(pool.map(fill, range(len(paths))), total=len(paths), desc="decoding pictures",
                  unit="picture", disable=None))
    return torch.from_numpy(images)


def _fingerprint(folder: Path, files: dict[str, list[tuple[Path, int]]], image_size: int | None) -> str:
    digest = hashlib.sha256(f"{CACHE_LAYOUT} {image_size} ".encode() + os.fsencode(folder.resolve()))
    for part in files:
        for path, _ in files[part]:
            status = path.stat()
            digest.update(os.fsencode(path.relative_to(folder)))
            digest.update(f"\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def _cache_places(folder: Path, fingerprint: str) -> list[Path]:
    name = f"decoded-{fingerprint[:16]}.pt"
    places = [folder / f".{name}"]
    with contextlib.suppress(RuntimeError):  # nobody's home: a user without an entry in the system's list
        places.append(Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lottery-verification" / name)
    return places


def _from_cache(folder: Path, fingerprint: str, counts: dict[str, int]) -> dict[str, torch.Tensor] | None:
    for place in _cache_places(folder, fingerprint):
        if place.is_file():
            try:
                tensors = checkpoint.load(place, "cache")
            except UserError:
                continue  # a damaged cache is decoded anew and written over
            if tensors.keys() == counts.keys() and all(
                    isinstance(tensors[part], torch.Tensor) and tensors[part].dtype == torch.uint8
                    and tensors[part].dim() == 4 and len(tensors[part]) == counts[part] for part in counts):
                return tensors
    return None


def _to_cache(folder: Path, fingerprint: str, tensors: dict[str, torch.Tensor]) -> None:
    for place in _cache_places(folder, fingerprint):
        try:
            return checkpoint.save(tensors, place)
        except OSError:
            continue  # a read-only folder: try the next place; without any, the next run decodes again

"""ModelNet's shapes as point clouds (Wu et al. 2015): out of a folder of sampled points or of meshes, or out of one file."""

import os
import zipfile
from pathlib import Path

import numpy as np
import torch

from datasets.pictures import Dataset
from datasets.points import Clouds, normalised, refuse_size, splits_of
from utils import checkpoint
from utils.errors import UserError

POINTS = 1024  # of a shape out of a folder
PARTS = ("train", "test")
LONGEST_LINE = 512  # bytes, of a point or of a list's entry
LARGEST_MESH = 1 << 28  # bytes; the largest of ModelNet40 has a third of it
LARGEST_ARRAYS = 1 << 30  # bytes of an .npz file's arrays together, unpacked; ModelNet40 with 2,048 points has a third of it
LARGEST_HEADER = 1 << 12  # bytes, of an array
MOST_SHAPES = 1 << 17
ARRAYS = {"points": (3, "iuf"), "labels": (1, "iu")}  # of each part: dimensions, and kinds of numbers


def load_modelnet(root: str | None, image_size: int | None) -> Dataset:
    """The official split; a tenth of the training shapes of each class is for validation.

    root: one of
        modelnet40_normal_resampled, with modelnet40_train.txt (or modelnet10_...) and <class>/<class>_0001.txt, of which the first
            POINTS points are taken;
        ModelNet's meshes, <class>/train/*.off and <class>/test/*.off, from each of which POINTS points are drawn;
        an .npz file with train_points [N, P, 3] and train_labels [N], the same of test, and class_names; points of whole numbers are
            multiplied by `step`, and `offset` is added.
    Raises:
        UserError: none of these, or a file in it is damaged.
    """
    refuse_size(image_size)
    if root is None:
        raise UserError("--data: modelnet needs a folder of modelnet40_normal_resampled or of .off meshes, or an .npz file")
    path = Path(root)
    name, layouts = path.resolve().name.removesuffix(".npz"), (
        (path.is_dir() and any(path.glob("modelnet*_train.txt")), _sampled_folder),
        (path.is_dir() and any(path.glob("*/train/*.off")), _mesh_folder),
        (not path.is_dir(), _arrays))
    read = next((reader for applies, reader in layouts if applies), None)
    if read is None:
        raise UserError(f"--data {path}: holds neither modelnet40_train.txt nor <class>/train/*.off; give a folder that does")
    parts, classes = read(path)
    for part, clouds in parts.items():
        absent = sorted(set(range(len(classes))) - set(clouds.labels.tolist()))
        if absent or clouds.labels.min() < 0 or clouds.labels.max() >= len(classes):
            raise UserError(f"--data {path}: its {part} labels must be from 0 to {len(classes) - 1}, and each of them be there")
        if not clouds.points.isfinite().all():
            raise UserError(f"--data {path}: holds points that are not finite")
    return splits_of(name, parts["train"], parts["test"], classes)


def _clouds(shapes: list[np.ndarray], labels: list[int]) -> Clouds:
    return Clouds(torch.from_numpy(normalised(np.stack(shapes))), torch.tensor(labels))


def _sampled_folder(folder: Path) -> tuple[dict[str, Clouds], tuple[str, ...]]:
    prefix = sorted(folder.glob("modelnet*_train.txt"))[-1].name.removesuffix("train.txt")  # of 10 and 40, 40
    shapes = {part: _lines(folder / f"{prefix}{part}.txt", MOST_SHAPES) for part in PARTS}
    classes = tuple(sorted({shape.rpartition("_")[0] for shape in shapes["train"]}))
    number, parts = {name: label for label, name in enumerate(classes)}, {}
    for part, names in shapes.items():
        for shape in names:
            if shape != Path(shape).name or shape.rpartition("_")[0] not in number:
                raise UserError(f"{folder / f'{prefix}{part}.txt'}: {checkpoint.shortened(shape)!r} is no name of a shape of the classes "
                                "there, such as chair_0007")
        parts[part] = _clouds([read_points(folder / shape.rpartition("_")[0] / f"{shape}.txt") for shape in names],
                              [number[shape.rpartition("_")[0]] for shape in names])
    return parts, classes


def _mesh_folder(folder: Path) -> tuple[dict[str, Clouds], tuple[str, ...]]:
    classes = tuple(sorted(entry.name for entry in os.scandir(folder) if (folder / entry.name / "train").is_dir()))
    parts = {}
    for part in PARTS:
        files = [(path, label) for label, name in enumerate(classes) for path in sorted((folder / name / part).glob("*.off"))]
        if not files:
            raise UserError(f"--data {folder}: no <class>/{part}/*.off")
        parts[part] = _clouds([sample(*read_off(path), POINTS, np.random.default_rng(0)) for path, _ in files],
                              [label for _, label in files])
    return parts, classes


def _lines(path: Path, most: int) -> list[str]:
    """The first lines of a file that are not blank."""
    with checkpoint.open_regular(path) as file:
        content = file.read(most * LONGEST_LINE)
    lines = (line.strip() for line in content.decode("utf-8", "replace").splitlines())
    return [line for line in lines if line][:most]


def read_points(path: Path) -> np.ndarray:
    """float64 [POINTS, 3], the first of a file with `x,y,z` or `x,y,z,normal` on each line."""
    try:
        points = np.array([[float(number) for number in line.split(",")[:3]] for line in _lines(path, POINTS)])
    except ValueError:
        points = np.empty(0)
    if points.shape != (POINTS, 3):
        raise UserError(f"{path}: must begin with {POINTS} lines x,y,z of numbers")
    return points


def read_off(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """(float64 [V, 3] corners, int64 [T, 3] triangles) of a mesh in text; polygons are cut into triangles at their first corner.

    The word OFF and the counts after it may stand on one line, without a blank too, as they do in some files of ModelNet.
    Raises UserError for anything else.
    """
    with checkpoint.open_regular(path) as file:
        content = file.read(LARGEST_MESH + 1)
    if len(content) > LARGEST_MESH:
        raise UserError(f"{path}: has more than {LARGEST_MESH} bytes, so is not what it should be")
    words = b"\n".join(line.partition(b"#")[0] for line in content.splitlines()).split()
    if not words or not words[0].startswith(b"OFF"):
        raise UserError(f"{path}: does not begin with OFF, so is no mesh in that format")
    words = [word for word in (words[0][3:], *words[1:]) if word]
    try:
        corners, faces = int(words[0]), int(words[1])
        if not 0 < 3 * corners <= len(words) or not 0 < faces <= len(words):
            raise ValueError
        points = np.array(words[3:3 + 3 * corners], dtype=np.float64).reshape(corners, 3)
        triangles, at = [], 3 + 3 * corners
        for _ in range(faces):
            size = int(words[at])
            face = [int(word) for word in words[at + 1:at + 1 + size]]
            if size < 3 or len(face) != size or min(face) < 0 or max(face) >= corners:
                raise ValueError
            triangles += [(face[0], second, third) for second, third in zip(face[1:], face[2:])]
            # behind a face its colour may stand, so the next one begins on the next line; ModelNet has no colours
            at += 1 + size
    except (ValueError, IndexError):
        raise UserError(f"{path}: is no mesh of as many corners and faces as it says") from None
    return points, np.array(triangles)


def sample(corners: np.ndarray, triangles: np.ndarray, count: int, random: np.random.Generator) -> np.ndarray:
    """float64 [count, 3], points drawn uniformly over the area of a mesh (Osada et al. 2002, section 3.1)."""
    first, second, third = corners[triangles].swapaxes(0, 1)
    area = np.linalg.norm(np.cross(second - first, third - first), axis=1)
    if not 0 < area.sum() < np.inf:  # as flat as a line: its corners are all there is
        return corners[random.integers(len(corners), size=count)]
    chosen = random.choice(len(area), count, p=area / area.sum())
    root, along = np.sqrt(random.random((count, 1))), random.random((count, 1))
    return (1 - root) * first[chosen] + root * (1 - along) * second[chosen] + root * along * third[chosen]


def _arrays(path: Path) -> tuple[dict[str, Clouds], tuple[str, ...]]:
    try:
        with checkpoint.open_regular(path) as file, zipfile.ZipFile(file) as archive:
            sizes = {member.filename: member.file_size for member in archive.infolist()}
            if sum(sizes.values()) > LARGEST_ARRAYS:
                raise UserError(f"--data {path}: unpacks to more than {LARGEST_ARRAYS} bytes, so is not what it should be")

            def array(name: str, dimensions: int, kinds: str) -> np.ndarray:
                return _read_array(archive.open(f"{name}.npy"), sizes[f"{name}.npy"], dimensions, kinds)

            names = array("class_names", 1, "U")
            found = {part: {kind: array(f"{part}_{kind}", *wanted) for kind, wanted in ARRAYS.items()} for part in PARTS}
            step, offset = ((float(array(name, 0, "f")) for name in ("step", "offset"))
                            if found["train"]["points"].dtype.kind != "f" else (1.0, 0.0))
        parts = {}
        for part, arrays in found.items():
            points = arrays["points"].astype(np.float64) * step + offset
            if points.shape[2] != 3 or not points.shape[1] or not 0 < len(points) == len(arrays["labels"]):
                raise ValueError(f"{part}_points must be [N, P, 3], with as many {part}_labels")
            parts[part] = Clouds(torch.from_numpy(normalised(points)), torch.from_numpy(arrays["labels"].astype(np.int64)))
    except (ValueError, KeyError, TypeError, OSError, EOFError, RuntimeError, NotImplementedError, zipfile.BadZipFile) as error:
        raise UserError(f"--data {path}: is no .npz file of train_points, train_labels, test_points, test_labels and class_names "
                        f"({checkpoint.shortened(str(error))})") from None
    return parts, tuple(str(name) for name in names)


def _read_array(file, size: int, dimensions: int, kinds: str) -> np.ndarray:
    """An array of an archive. Its header may say anything, so it is read before anything is reserved. Raises ValueError."""
    with file:
        if np.lib.format.read_magic(file) != (1, 0):
            raise ValueError("an array's format is not 1.0")
        shape, by_columns, dtype = np.lib.format.read_array_header_1_0(file, LARGEST_HEADER)
        length = int(np.prod([int(side) for side in shape], dtype=object)) * dtype.itemsize
        if by_columns or len(shape) != dimensions or dtype.kind not in kinds or length != size - file.tell():
            raise ValueError("an array is not of the shape, or not of the numbers, that it should be")
        return np.frombuffer(file.read(length), dtype).reshape(shape)

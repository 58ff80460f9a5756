"""A model's file of any format: told by its first bytes, and read by that format's reader. What can't be read is named, with the
way out."""

import io
import zipfile
from collections.abc import Callable
from typing import Any

from utils import checkpoint
from utils.checkpoint import FileBytes
from utils.errors import UserError
from utils.untrusted import onnx_files, safetensors_files

EXPORT = "save its state_dict() with torch.save, or as safetensors, and name that"
UNPACK = "unpack it, and name the model's file in it"
DOWNLOAD = "the download went wrong; get the file itself"
# what a file begins with, behind white space, which of these it then is, and what to do
REFUSED: tuple[tuple[bytes, str, str], ...] = (
    (b"version https://git-lfs.github.com/", "a git-LFS pointer, not the file it stands for", "fetch that with git lfs pull"),
    (b"<!doctype html", "an HTML page", DOWNLOAD), (b"<html", "an HTML page", DOWNLOAD), (b"<?xml", "an XML page", DOWNLOAD),
    (b"\x1f\x8b", "packed with gzip", UNPACK), (b"bzh", "packed with bzip2", UNPACK), (b"\xfd7zxz\0", "packed with xz", UNPACK),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", UNPACK), (b"rar!", "a RAR archive", UNPACK),
    (b"\x89hdf", "an HDF5 file, as Keras writes", "convert it to safetensors or ONNX"),
    (b"gguf", "a GGUF file", "convert it to safetensors"), (b"\x93numpy", "one array of numpy's", EXPORT),
)
TAR_AT = 257  # bytes into a tar archive, where it says so


def load(file: FileBytes) -> dict[str, Any]:
    """The entries of a model's file: tensors by name, and whatever else stands beside them. Nothing of it is executed. A file is parsed
    once, so nobody may change a tensor in place.

    Raises UserError for a file that is cut off, was changed, or is none of a model; see `utils.checkpoint.load`.
    """
    if not file.entries:
        file.entries.update(_load(file))
    return dict(file.entries)


def _load(file: FileBytes) -> dict[str, Any]:
    if len(file.raw) > checkpoint.MAX_MODEL:
        raise UserError(f"{file}: has more than {checkpoint.MAX_MODEL >> 30} GiB, so is no model of a network that is known here")
    begins = file.raw[:512].lstrip().lower()
    for start, what, way_out in REFUSED:
        if begins.startswith(start):
            raise UserError(f"{file}: is {what}, no model; {way_out}")
    if file.raw[TAR_AT:TAR_AT + 5] == b"ustar":
        raise UserError(f"{file}: is a tar archive, no model; {UNPACK}")
    for is_one, read in READERS:
        if is_one(file.raw):
            return read(file)
    if file.raw.startswith(b"PK\3\4"):
        _check_archive(file)
    return checkpoint.load(file)


# how each further format is told, and its reader; whatever is none of these is torch's, or nothing
READERS: tuple[tuple[Callable[[bytes], bool], Callable[[FileBytes], dict[str, Any]]], ...] = (
    (safetensors_files.is_one, safetensors_files.load), (safetensors_files.is_index, safetensors_files.load_sharded),
    (onnx_files.is_one, onnx_files.load))


def _check_archive(file: FileBytes) -> None:
    """Raise UserError for a zip archive that is not of torch.save's kind, but for a damaged one."""
    try:
        with zipfile.ZipFile(io.BytesIO(file.raw)) as archive:
            names = archive.namelist()
    except Exception:  # zipfile fails in many ways; the reader says that it is damaged
        return
    if any("/code/" in name or name.endswith("/constants.pkl") for name in names):
        raise UserError(f"{file}: is a TorchScript archive, which holds code beside the weights; load it where you trust it "
                        f"(torch.jit.load), {EXPORT}")
    if not any(name.lower().endswith("data.pkl") for name in names):
        raise UserError(f"{file}: is a zip archive (of {checkpoint.shortened(names[0]) if names else 'nothing'}"
                        f"{', ...' if len(names) > 1 else ''}), no model; {UNPACK}")

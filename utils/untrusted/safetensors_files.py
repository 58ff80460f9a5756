"""Strangers' safetensors files: one, or shards with an index.

The library checks that the tensors fill the file behind the header, without gaps or overlaps. What it lets pass is refused here:
a name twice, of which it would take the last, tensors of no entries, and shards that don't agree with their index.
"""

from typing import Any

from utils import checkpoint
from utils.checkpoint import FileBytes, shortened
from utils.errors import UserError

MAX_HEADER, MAX_SHARDS = 1 << 24, 1 << 8  # bytes of JSON; files
LONGEST_NAME = 255  # letters of a shard's
DAMAGED = "not a usable checkpoint: it is cut off or no safetensors file"


def is_one(raw: bytes) -> bool:
    """Whether a file begins as one: the header's length, then the header, a JSON object."""
    return raw[8:9] == b"{" and int.from_bytes(raw[:8], "little") <= max(MAX_HEADER, len(raw))


def is_index(raw: bytes) -> bool:
    """Whether a file is the JSON that says in which of several files each tensor is."""
    return raw.lstrip().startswith(b"{") and b'"weight_map"' in raw[:MAX_HEADER]


def load(file: FileBytes) -> dict[str, Any]:
    """Its tensors by name. Raises UserError for anything but a whole file."""
    from safetensors.torch import load as read

    length = int.from_bytes(file.raw[:8], "little")
    if length > MAX_HEADER:
        raise UserError(f"{file}: {DAMAGED} (a header of {length} bytes)")
    try:
        header = checkpoint.parse_json(file.raw[8:8 + length])
        empty = [name for name, of_tensor in header.items() if name != "__metadata__" and 0 in of_tensor["shape"]]
        tensors = {} if empty else read(file.raw)
    except Exception as error:  # the library's own, and whatever a hostile header brings about here
        reason = str(error) if isinstance(error, ValueError) and str(error).isascii() else type(error).__name__
        raise UserError(f"{file}: {DAMAGED} ({reason[:100]})") from None
    if empty:
        raise UserError(f"{file}: {shortened(empty[0])} has no entries; a network has no such tensor")
    # the file has them in the alphabet's order, in which 10 comes before 2
    return {name: tensors[name] for name in sorted(tensors, key=lambda name: [(len(part), part) if part.isdigit() else (0, part)
                                                                             for part in name.split(".")])}


def load_sharded(file: FileBytes) -> dict[str, Any]:
    """The tensors of all shards that an index names, which lie beside it. Raises UserError for shards that are not there, are
    none, or hold other tensors than the index says."""
    try:
        index = checkpoint.parse_json(file.raw)
        where = index["weight_map"]
        shards = sorted(set(where.values()))
        fits = len(shards) <= MAX_SHARDS and all(shard.isprintable() and len(shard) <= LONGEST_NAME and "/" not in shard
                                                 and shard not in ("", ".", "..") for shard in shards)
    except (ValueError, TypeError, KeyError, AttributeError):
        fits = False
    if not fits:
        raise UserError(f"{file}: is no index of safetensors files that lie beside it")
    tensors: dict[str, Any] = {}
    for shard in shards:
        part = load(file.beside(shard))
        if part.keys() != {name for name, held_by in where.items() if held_by == shard}:
            raise UserError(f"{file}: {shortened(shard)} holds other tensors than the index says")
        tensors |= part
    return tensors

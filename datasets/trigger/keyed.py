"""An owner's own set, drawn from a secret key.

Nobody else can make it, its owner can make it again before an arbiter, and its labels are independent of everything that anybody
else's model saw.
"""

import argparse
import contextlib
import hmac
import re
import secrets
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from datasets.trigger.trigger_set import TriggerSet, numbered
from utils import checkpoint
from utils.errors import UserError

KEYED_LAYOUT = "lottery trigger set 1"  # says how keys become pictures; another layout needs another name
KEY_BYTES = (16, 1 << 16)  # shortest and longest key
KEY_FORMAT = "lottery-trigger-key/1"  # begins the keys that `new_key` makes; it is a part of the key
KEY_DIGITS = 64
GRID = 4  # colours of the background, per side
SHAPES = 6


def by_flags(args: argparse.Namespace, num_classes: int, size: int) -> TriggerSet:
    """See `keyed`."""
    return keyed(read_key(args.trigger_key), args.trigger_count, num_classes, size)


def new_key(path: str | Path) -> None:
    """Write a fresh secret key, KEY_FORMAT and 64 hexadecimal digits, readable by its owner alone. Raises UserError if the file
    exists."""
    checkpoint.write_secret(path, f"{KEY_FORMAT} {secrets.token_hex(KEY_DIGITS // 2)}\n".encode("ascii"), "--new_key")


def read_key(path: str | Path) -> bytes:
    """The key in a file: its bytes without white space at both ends; one of `new_key` also where an editor saved it as UTF-16 or
    with a byte order mark.

    Any bytes may be a key, as some owners made their own. Raises UserError for none, or a short one; for a file that is known to
    be something else, so that no other secret is handed to an arbiter by mistake; and for a damaged one of `new_key`.
    """
    shortest, longest = KEY_BYTES
    try:
        with checkpoint.open_regular(path, links=False) as file:
            raw = file.read(2 * longest + 2)
    except UserError as error:
        raise UserError(f"--trigger_key {error}") from None
    text = checkpoint.without_mark(raw).strip()
    key = text if text.startswith(KEY_FORMAT.encode()) else raw.strip()  # any other bytes may be a key, those of a mark too
    other = _known_as_other(text)
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
    return numbered("keyed", images, labels, num_classes)


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

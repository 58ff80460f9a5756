"""Scheme V4: what a key draws over a mask, and how well a mask agrees with it.

Two carriers, each in kernels that the key draws. *Places*: each entry of such a kernel has a sign, and more of the ticket's weights
are to stand where it is +1. *Counts*: such a kernel has a sign itself, and is to hold more weights than its channels suggest
where it is +1. All of it follows by hash from owner and salt, and from the network, the ticket before it was signed and all
that decides how it is read: of any mask that was made without the key the signs are coin tosses, and whoever wants others has to try
another salt. A layer's signs depend on its own name and shape alone, so a suspect that lacks a layer is read without it.
"""

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from pruner.masks import Mask, weights_per_kernel
from utils.digests import sha256_of_parts

LABEL = "lottery-verification/keyed-mask/1"  # no digest that was made for another purpose can be taken for one of these
WHOLE = 1 << 32  # all kernels


@dataclass(frozen=True)
class Key:
    """What is drawn from.

    owner_key: Ed25519, public, 32 bytes. ticket_sha256: of the ticket before it was signed, in hex (see
    `pruner.key_mask.split.fingerprint`). places, counts: of 2^32 kernels so many carry signs of places, and of counts. largest: weights of
    the signed ticket; of a suspect with more, so many are looked at as well. payload_bits: that the places carry, 0 for none
    (`pruner.keyed_mask.payload`).
    """

    owner_key: bytes
    owner_name: str
    salt: bytes
    arch: str
    ticket_sha256: str
    places: int
    counts: int
    largest: int
    payload_bits: int = 0

    @cached_property
    def _seed(self) -> bytes:
        numbers = (self.places, self.counts, self.largest, self.payload_bits)
        return sha256_of_parts(LABEL.encode(), self.owner_key, self.owner_name.encode("utf-8"), self.salt, self.arch.encode(),
                               bytes.fromhex(self.ticket_sha256), *(number.to_bytes(8, "big") for number in numbers))

    def bytes_for(self, purpose: str, count: int, layer: str = "", shape: tuple[int, ...] = ()) -> bytes:
        name = sha256_of_parts(self._seed, purpose.encode(), layer.encode("utf-8"), ",".join(map(str, shape)).encode())
        return hashlib.shake_256(name).digest(count)

    def words(self, purpose: str, count: int, layer: str, shape: tuple[int, ...]) -> np.ndarray:
        """uint32 [count]."""
        return np.frombuffer(self.bytes_for(purpose, 4 * count, layer, shape), ">u4").astype(np.uint32)

    def _signs(self, purpose: str, count: int, layer: str, shape: tuple[int, ...]) -> np.ndarray:
        bits = np.frombuffer(self.bytes_for(purpose, -(-count // 8), layer, shape), np.uint8)
        return 2 * np.unpackbits(bits)[:count].astype(np.int8) - 1

    def place_signs(self, layer: str, shape: tuple[int, ...], word: np.ndarray | None = None) -> np.ndarray:
        """int8 [out * in, entries of a kernel], -1 or 1 in the kernels that carry signs of places, 0 in the others; in kernels of a single
        entry there is none. word: bool [modules], the payload's, each of which turns the signs of its group."""
        kernels, area = shape[0] * shape[1], math.prod(shape[2:])
        if not self.places or area < 2:
            return np.zeros((kernels, area), dtype=np.int8)
        signs = self._signs("place signs", kernels * area, layer, shape).reshape(kernels, area)
        if word is not None:
            signs = signs * (1 - 2 * word.astype(np.int8))[self.groups(layer, shape, len(word))]
        return signs * (self.words("place kernels", kernels, layer, shape) < self.places)[:, None]

    def count_signs(self, layer: str, shape: tuple[int, ...]) -> np.ndarray:
        """int8 [out, in], -1 or 1 where a kernel carries a sign of counts, else 0."""
        kernels = shape[0] * shape[1]
        if not self.counts:
            return np.zeros(shape[:2], dtype=np.int8)
        chosen = self.words("count kernels", kernels, layer, shape) < self.counts
        return (self._signs("count signs", kernels, layer, shape) * chosen).reshape(shape[:2])

    def groups(self, layer: str, shape: tuple[int, ...], modules: int) -> np.ndarray:
        """int64 [out * in, entries of a kernel], which module of a payload's word each entry belongs to."""
        words = self.words("groups", math.prod(shape), layer, shape)
        return (words.astype(np.int64) % modules).reshape(shape[0] * shape[1], -1)


@dataclass(frozen=True)
class Agreement:
    """How well weights agree with a carrier's signs. For a mask that was made without the key `agreeing` is a sum of independent
    fair signs times numbers whose squares add up to `squares`."""

    agreeing: float = 0.0
    squares: float = 0.0

    @property
    def z(self) -> float:
        """In standard deviations; 0 where there is nothing to agree."""
        return self.agreeing / math.sqrt(self.squares) if self.squares else 0.0


def in_all(layers: Mapping[str, Agreement]) -> Agreement:
    """Of all layers together."""
    return Agreement(sum(one.agreeing for one in layers.values()), sum(one.squares for one in layers.values()))


def place_agreement(key: Key, mask: Mask, word: np.ndarray | None = None) -> dict[str, Agreement]:
    """Of each layer, in whole numbers: weights at places of sign 1 less those at -1, and weights at either. word: the payload's."""
    found = {}
    for name, kept in mask.items():
        signs = key.place_signs(name, tuple(kept.shape), word)[kept.reshape(-1, math.prod(kept.shape[2:])).numpy()]
        found[name] = Agreement(int(signs.sum(dtype=np.int64)), int(np.count_nonzero(signs)))
    return found


def count_agreement(key: Key, mask: Mask) -> dict[str, Agreement]:
    """Of each layer: what kernels of sign 1 hold beyond what their channels suggest, less what those of -1 do."""
    return {name: residual_agreement(weights_per_kernel(mask[name]), key.count_signs(name, tuple(kept.shape)))
            for name, kept in mask.items()}


def residual_agreement(held: np.ndarray, signs: np.ndarray) -> Agreement:
    """Of one layer. held, signs: [out, in], weights in each kernel, and its sign or 0. An output and an input channel suggest
    the product of their weights, over all of the layer's."""
    total = int(held.sum())
    # in whole numbers, so that what is nothing is not a rounding error
    residual = (held * total - held.sum(1, keepdims=True) * held.sum(0, keepdims=True))[signs != 0] / max(1, total)
    return Agreement(float(residual @ signs[signs != 0]), float(residual @ residual))

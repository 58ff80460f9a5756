"""One hash that draws what a passport scheme keeps secret: the signature's bits, and vectors that nobody chose.

A vector that is free can be solved for, so that any network shows any bits. These follow by SHAKE-256 from
owner, name and a nonce, and from the ticket, the layers and the texts that they are for: whoever wants others, or other layers,
has to try another nonce. So of each network's signs the bits are right by coin tosses, whatever its weights are.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from statistics import NormalDist

import numpy as np

from utils.digests import sha256_of_parts

LABEL = "lottery-verification/passports/1"  # no digest that was made for another purpose can be taken for one of these


def as_text(texts: Mapping[str, str]) -> str:
    """Layers and their texts as the hash takes them."""
    return json.dumps(list(texts.items()), separators=(",", ":"))


@dataclass(frozen=True)
class Draw:
    """What is drawn from.

    owner_key: Ed25519, public, 32 bytes. arch: network. ticket_sha256: of what is trained, mask and weights, in hex (see
    `pruner.key_mask.split.fingerprint`). texts: layer -> text, "" for bits without one.
    """

    owner_key: bytes
    owner_name: str
    nonce: bytes
    arch: str
    ticket_sha256: str
    texts: Mapping[str, str]

    @cached_property
    def _seed(self) -> bytes:
        return sha256_of_parts(LABEL.encode(), self.owner_key, self.owner_name.encode("utf-8"), self.nonce, self.arch.encode(),
                               bytes.fromhex(self.ticket_sha256), as_text(self.texts).encode())

    def bytes_for(self, layer: str, purpose: str, count: int) -> bytes:
        return hashlib.shake_256(sha256_of_parts(self._seed, layer.encode(), purpose.encode())).digest(count)

    def normal(self, layer: str, purpose: str, count: int) -> np.ndarray:
        """float64 [count], standard normal."""
        words = np.frombuffer(self.bytes_for(layer, purpose, 4 * count), ">u4")
        return np.array([*map(NormalDist().inv_cdf, (words + 0.5) / 2**32)])

    def mask(self, layer: str, channels: int) -> np.ndarray:
        """uint8 [channels], 0 or 1: what whitens a text, so that its letters' regularities are none of the signature's."""
        return np.unpackbits(np.frombuffer(self.bytes_for(layer, "bits", -(-channels // 8)), np.uint8))[:channels]

    def bits(self, layer: str, channels: int) -> np.ndarray:
        """int8 [channels], -1 or 1: the signature of a layer. Its first bits are those of the text, first letter and most
        significant bit first, each turned or not by `mask`; the rest is `mask` itself."""
        bits = self.mask(layer, channels)
        text = np.unpackbits(np.frombuffer(self.texts[layer].encode("utf-8"), np.uint8))
        bits[:len(text)] ^= text
        return 2 * bits.astype(np.int8) - 1

    def read_text(self, layer: str, signs: np.ndarray) -> str:
        """The text as signs show it. signs: [channels], positive or not."""
        length = 8 * len(self.texts[layer].encode("utf-8"))
        bits = (signs[:length] > 0).astype(np.uint8) ^ self.mask(layer, len(signs))[:length]
        return np.packbits(bits).tobytes().decode("utf-8", "replace")

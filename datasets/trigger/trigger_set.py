"""What a trigger set is, wherever it comes from."""

import hashlib
from dataclasses import dataclass

import numpy as np
import torch

from datasets.pictures import Pictures, fingerprint


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


def numbered(kind: str, images: np.ndarray, labels: list[int], num_classes: int) -> TriggerSet:
    """A set of pictures uint8 [N, S, S, 3] that have no names of their own."""
    names = tuple(f"{index:04d}.png" for index in range(len(labels)))
    return TriggerSet(kind, Pictures(torch.from_numpy(images), torch.tensor(labels)), names, num_classes)

"""Labelled pictures as tensors: splitting, subsets, batches, augmentation."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

import torch
import torch.nn.functional as F

from utils.errors import UserError


@dataclass(frozen=True)
class Pictures:
    """images: uint8 [N, H, W, 3]; labels: int64 [N]."""

    images: torch.Tensor
    labels: torch.Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, indices: torch.Tensor) -> "Pictures":
        return Pictures(self.images[indices], self.labels[indices])

    def to(self, device: torch.device) -> "Pictures":
        return Pictures(self.images.to(device), self.labels.to(device))

    def batches(self, size: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """All pictures in order: float [B, 3, H, W] on the scale 0 to 1, channels last, with labels [B].

        size: pictures of up to 32x32 in a batch; of larger ones there are fewer, which take as much memory.
        """
        size = max(1, size * 32**2 // max(32**2, self.images[0, ..., 0].numel())) if len(self) else size
        for start in range(0, len(self), size):
            yield as_float(self.images[start:start + size]), self.labels[start:start + size]


@dataclass(frozen=True)
class Dataset:
    """Three splits and what training needs to know of them.

    mean, std: per channel, on the scale 0 to 1, of the training pictures. flip: whether a mirrored picture keeps its
    meaning. Random crops are cut from the picture padded with black by an eighth of its side (4 pixels of 32). probes:
    further pictures, by name, on which the accuracy of a training is followed.
    """

    name: str
    train: Pictures
    val: Pictures
    test: Pictures
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    flip: bool
    probes: Mapping[str, Pictures] = field(default_factory=dict)

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    def to(self, device: torch.device) -> "Dataset":
        return replace(self, train=self.train.to(device), val=self.val.to(device), test=self.test.to(device),
                       probes={name: pictures.to(device) for name, pictures in self.probes.items()})

    def fingerprint(self) -> str:
        """SHA-256, in hex, of all pictures and labels."""
        parts = (self.train, self.val, self.test, *self.probes.values())
        return fingerprint(tensor for part in parts for tensor in (part.images, part.labels))

    def limited(self, size: int, seed: int) -> "Dataset":
        """The same data set with `size` training pictures, class-balanced to within one picture per class."""
        if size > len(self.train):
            raise UserError(f"--limit {size}: {self.name} has only {len(self.train)} training pictures")
        generator = torch.Generator().manual_seed(seed)
        order = torch.randperm(len(self.train), generator=generator)
        # position of each picture among those of its class: taking the lowest positions balances the classes
        labels = self.train.labels.cpu()[order]
        rank = torch.empty_like(order)
        for label in range(self.num_classes):
            members = (labels == label).nonzero().squeeze(1)
            rank[members] = torch.arange(len(members))
        chosen = order[torch.argsort(rank, stable=True)[:size]]
        return replace(self, train=self.train[chosen.sort().values.to(self.train.labels.device)])

    def train_batches(self, size: int, generator: torch.Generator) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """One epoch in random order, each picture cropped (and mirrored) at random, on the pictures' device.

        All draws of the epoch come from the CPU `generator` at once, so they are the same on every device and cost
        one transfer; each batch is then two gathers. Yields like `Pictures.batches`.
        """
        images, labels = self.train.images, self.train.labels
        count, height, width, _ = images.shape
        pad, device = height // 8, images.device
        order = torch.randperm(count, generator=generator).to(device)
        corner = torch.randint(0, 2 * pad + 1, (2, count), generator=generator).to(device)
        mirror = (torch.rand(count, generator=generator) < 0.5 if self.flip else torch.zeros(count, dtype=torch.bool))
        mirror = mirror.to(device)
        rows = corner[0][:, None] + torch.arange(height, device=device)
        columns = torch.arange(width, device=device).expand(count, width)
        columns = corner[1][:, None] + torch.where(mirror[:, None], columns.flip(1), columns)

        # a single picture is no batch for batch norm: it joins the one before
        for start in range(0, count - 1 if count > 1 else count, size):
            batch = slice(start, start + size + (count - start == size + 1))
            which = order[batch]
            padded = F.pad(images[which], (0, 0, pad, pad, pad, pad))  # of the batch alone: the data set may fill the device
            position = torch.arange(len(which), device=device)
            cropped = padded[position[:, None, None], rows[batch][:, :, None], columns[batch][:, None, :]]
            yield as_float(cropped), labels[which]


def fingerprint(tensors: Iterable[torch.Tensor]) -> str:
    """SHA-256, in hex, of shapes and contents."""
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(f"{tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().data)
    return digest.hexdigest()


def as_float(images: torch.Tensor) -> torch.Tensor:
    """uint8 [B, H, W, 3] to float32 [B, 3, H, W] on the scale 0 to 1, in channels-last memory."""
    return images.permute(0, 3, 1, 2).float() / 255


def statistics(images: torch.Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Per-channel mean and standard deviation of uint8 [N, H, W, 3], on the scale 0 to 1."""
    # exact sums of whole numbers, a slice at a time, so that memory stays small and the result is the same everywhere
    total = torch.zeros(images.shape[-1], dtype=torch.int64)
    squares = torch.zeros(images.shape[-1], dtype=torch.int64)
    for part in images.split(1000):
        part = part.long()
        total += part.sum((0, 1, 2))
        squares += (part * part).sum((0, 1, 2))
    entries = images.numel() // images.shape[-1]
    mean = total.double() / entries
    variance = squares.double() / entries - mean * mean
    return tuple((mean / 255).tolist()), tuple((variance.sqrt() / 255).clamp_min(1e-6).tolist())


def hold_out(pictures: Pictures, share: float, num_classes: int, seed: int = 0) -> tuple[Pictures, Pictures]:
    """Split into (rest, held out), `share` of every class held out, at least one picture of each; seeded, in order."""
    generator = torch.Generator().manual_seed(seed)
    held = torch.zeros(len(pictures), dtype=torch.bool)
    for label in range(num_classes):
        members = (pictures.labels == label).nonzero().squeeze(1)
        count = max(1, round(share * len(members)))
        held[members[torch.randperm(len(members), generator=generator)[:count]]] = True
    return pictures[(~held).nonzero().squeeze(1)], pictures[held.nonzero().squeeze(1)]

"""Labelled pictures as tensors, and data sets of any kind of example: splitting, subsets, batches, augmentation."""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import ClassVar, TypeVar

import torch
import torch.nn.functional as F

from utils.errors import UserError

Kind = TypeVar("Kind", bound="Examples")
MIN_SIDE = 8  # pixels; the networks halve a picture up to three times


@dataclass(frozen=True)
class Examples:
    """Labelled inputs of one kind. inputs: [N, ...] as they are kept in memory; labels: int64 [N].

    A kind of data says what networks get of it (`floats`), how it is varied in training (`augmentation`), and what a loader must
    give (`fault`). usual: numbers of an input that `batches` counts as one. side: pixels per side of a picture.
    """

    inputs: torch.Tensor
    labels: torch.Tensor
    usual: ClassVar[int]
    side: ClassVar[int | None] = None

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self: Kind, indices: torch.Tensor | slice) -> Kind:
        return type(self)(self.inputs[indices], self.labels[indices])

    def to(self: Kind, device: torch.device) -> Kind:
        return type(self)(self.inputs.to(device), self.labels.to(device))

    def floats(self) -> torch.Tensor:
        """All inputs as networks take them, float32 [N, 3, ...]."""
        raise NotImplementedError

    def batches(self, size: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """All examples in order, as `floats`, with labels [B].

        size: inputs of up to `usual` numbers in a batch; of larger ones there are fewer, which take as much memory.
        """
        size = max(1, size * self.usual // max(self.usual, self.inputs[0].numel())) if len(self) else size
        for start in range(0, len(self), size):
            part = self[slice(start, start + size)]
            yield part.floats(), part.labels

    def augmentation(self, generator: torch.Generator, flip: bool) -> Callable[[torch.Tensor, slice], torch.Tensor]:
        """Draw what an epoch varies, all at once from the CPU `generator`, so that it is the same on every device and costs one
        transfer.

        flip: whether a mirrored example keeps its meaning.
        Returns:
            (indices [B] of examples, their places in the epoch) -> what networks get, on the examples' device.
        """
        raise NotImplementedError

    def fault(self: Kind, first: Kind) -> str | None:
        """In words, what is wrong with the inputs of a split; None where all is well. first: the data set's first split."""
        raise NotImplementedError


class Pictures(Examples):
    """images: uint8 [N, H, W, 3]. Networks get float [N, 3, H, W] on the scale 0 to 1, channels last."""

    usual = 3 * 32**2

    @property
    def images(self) -> torch.Tensor:
        return self.inputs

    @property
    def side(self) -> int:
        return self.images.shape[1]

    def floats(self) -> torch.Tensor:
        return as_float(self.images)

    def augmentation(self, generator: torch.Generator, flip: bool) -> Callable[[torch.Tensor, slice], torch.Tensor]:
        """Each picture is cropped (and mirrored) at random, out of itself padded with black by an eighth of its side (4 pixels of
        32). Each batch is then two gathers."""
        count, height, width, _ = self.images.shape
        pad, device = height // 8, self.images.device
        corner = torch.randint(0, 2 * pad + 1, (2, count), generator=generator).to(device)
        mirror = torch.rand(count, generator=generator) < 0.5 if flip else torch.zeros(count, dtype=torch.bool)
        mirror = mirror.to(device)
        rows = corner[0][:, None] + torch.arange(height, device=device)
        columns = torch.arange(width, device=device).expand(count, width)
        columns = corner[1][:, None] + torch.where(mirror[:, None], columns.flip(1), columns)

        def cropped(which: torch.Tensor, places: slice) -> torch.Tensor:
            padded = F.pad(self.images[which], (0, 0, pad, pad, pad, pad))  # of the batch alone: the data set may fill the device
            position = torch.arange(len(which), device=device)
            return as_float(padded[position[:, None, None], rows[places][:, :, None], columns[places][:, None, :]])

        return cropped

    def fault(self, first: "Pictures") -> str | None:
        side = first.images.shape[1] if first.images.dim() == 4 else 0
        if self.images.dtype != torch.uint8 or self.images.shape[1:] != (side, side, 3) or side < MIN_SIDE:
            return (f"images must be uint8 [N, S, S, 3], of one S >= {MIN_SIDE} in all parts, and are {self.images.dtype} "
                    f"{list(self.images.shape)}")
        return None


@dataclass(frozen=True)
class Dataset:
    """Three splits, all of one kind of examples, and what training needs to know of them.

    mean, std: per channel, on the scale 0 to 1, of the training pictures. flip: whether a mirrored picture keeps its
    meaning. probes: further examples, by name, on which the accuracy of a training is followed.
    """

    name: str
    train: Examples
    val: Examples
    test: Examples
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    flip: bool
    probes: Mapping[str, Examples] = field(default_factory=dict)

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    def to(self, device: torch.device) -> "Dataset":
        return replace(self, train=self.train.to(device), val=self.val.to(device), test=self.test.to(device),
                       probes={name: examples.to(device) for name, examples in self.probes.items()})

    def fingerprint(self) -> str:
        """SHA-256, in hex, of all inputs and labels."""
        parts = (self.train, self.val, self.test, *self.probes.values())
        return fingerprint(tensor for part in parts for tensor in (part.inputs, part.labels))

    def limited(self, size: int, seed: int) -> "Dataset":
        """The same data set with `size` training examples, class-balanced to within one per class."""
        if size > len(self.train):
            raise UserError(f"--limit {size}: {self.name} has only {len(self.train)} training pictures")
        generator = torch.Generator().manual_seed(seed)
        order = torch.randperm(len(self.train), generator=generator)
        # position of each example among those of its class: taking the lowest positions balances the classes
        labels = self.train.labels.cpu()[order]
        rank = torch.empty_like(order)
        for label in range(self.num_classes):
            members = (labels == label).nonzero().squeeze(1)
            rank[members] = torch.arange(len(members))
        chosen = order[torch.argsort(rank, stable=True)[:size]]
        return replace(self, train=self.train[chosen.sort().values.to(self.train.labels.device)])

    def train_batches(self, size: int, generator: torch.Generator) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """One epoch in random order, each example varied at random (`Examples.augmentation`), on the examples' device. Yields like
        `Examples.batches`."""
        count = len(self.train)
        order = torch.randperm(count, generator=generator).to(self.train.labels.device)
        augmented = self.train.augmentation(generator, self.flip)
        # a single example is no batch for batch norm: it joins the one before
        for start in range(0, count - 1 if count > 1 else count, size):
            places = slice(start, start + size + (count - start == size + 1))
            which = order[places]
            yield augmented(which, places), self.train.labels[which]


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


def hold_out(examples: Kind, share: float, num_classes: int, seed: int = 0) -> tuple[Kind, Kind]:
    """Split into (rest, held out), `share` of every class held out, at least one of each; seeded, in order."""
    generator = torch.Generator().manual_seed(seed)
    held = torch.zeros(len(examples), dtype=torch.bool)
    for label in range(num_classes):
        members = (examples.labels == label).nonzero().squeeze(1)
        count = max(1, round(share * len(members)))
        held[members[torch.randperm(len(members), generator=generator)[:count]]] = True
    return examples[(~held).nonzero().squeeze(1)], examples[held.nonzero().squeeze(1)]

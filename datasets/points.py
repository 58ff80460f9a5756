"""Labelled point clouds: how they are normalised, and varied in training."""

from collections.abc import Callable

import numpy as np
import torch

from datasets import ImageSizeError
from datasets.pictures import Dataset, Examples, hold_out

LARGEST_DROPOUT = 0.875  # share of a cloud's points that become copies of its first
SCALES, SHIFT = (0.8, 1.25), 0.1  # of a whole cloud: the least and the largest, and the largest along an axis


class Clouds(Examples):
    """points: float32 [N, P, 3], each cloud centred and in the unit sphere. Networks get float32 [N, 3, P]."""

    usual = 3 * 256

    @property
    def points(self) -> torch.Tensor:
        return self.inputs

    def floats(self) -> torch.Tensor:
        return self.points.transpose(1, 2).contiguous()

    def augmentation(self, generator: torch.Generator, flip: bool) -> Callable[[torch.Tensor, slice], torch.Tensor]:
        """As Qi et al.'s code for PointNet++ does and its followers do: points dropped, a share that is drawn per cloud; the cloud
        scaled; the cloud shifted along each axis. `flip` means nothing here."""
        count, points, _ = self.points.shape
        dropped = torch.rand(count, points, generator=generator) <= LARGEST_DROPOUT * torch.rand(count, 1, generator=generator)
        least, largest = SCALES
        scale = least + (largest - least) * torch.rand(count, 1, 1, generator=generator)
        shift = SHIFT * (2 * torch.rand(count, 1, 3, generator=generator) - 1)
        dropped, scale, shift = (drawn.to(self.points.device) for drawn in (dropped, scale, shift))

        def varied(which: torch.Tensor, places: slice) -> torch.Tensor:
            clouds = self.points[which]
            clouds = torch.where(dropped[places][:, :, None], clouds[:, :1], clouds)
            return (clouds * scale[places] + shift[places]).transpose(1, 2).contiguous()

        return varied

    def fault(self, first: "Clouds") -> str | None:
        size = first.points.shape[1] if first.points.dim() == 3 else 0
        if self.points.dtype != torch.float32 or self.points.shape[1:] != (size, 3) or not size:
            return f"points must be float32 [N, P, 3], of one P in all parts, and are {self.points.dtype} {list(self.points.shape)}"
        return None if self.points.isfinite().all() else "points must be finite"


def normalised(clouds: np.ndarray) -> np.ndarray:
    """float32 [N, P, 3]: each cloud centred on its mean, its farthest point at distance 1."""
    centred = clouds - clouds.mean(1, keepdims=True)
    radius = np.sqrt((centred ** 2).sum(2).max(1))[:, None, None]
    return (centred / np.maximum(radius, np.finfo(np.float32).tiny)).astype(np.float32)


def splits_of(name: str, official: Clouds, test: Clouds, classes: tuple[str, ...]) -> Dataset:
    """A data set of which a tenth of the training clouds, of every class, is for validation. Networks of points normalise nothing, so
    its mean and standard deviation change nothing."""
    train, val = hold_out(official, 0.1, len(classes))
    return Dataset(name, train, val, test, classes, mean=(0.0,) * 3, std=(1.0,) * 3, flip=False)


def refuse_size(image_size: int | None) -> None:
    """Raises ImageSizeError where a size was asked for."""
    if image_size is not None:
        raise ImageSizeError(image_size, "points have no picture's size", "leave the flag out")

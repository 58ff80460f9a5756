"""scikit-learn's 1,797 handwritten digits, 8x8, as pictures and as points: the embedded defaults that need no download."""

import numpy as np
import torch

from datasets import ImageSizeError
from datasets.pictures import Dataset, Pictures, hold_out, statistics
from datasets.points import Clouds, normalised, refuse_size, splits_of

INK = 4  # of 16: from there on a pixel is a point
POINTS = 64  # of a digit
JITTER = 0.02  # standard deviation, of coordinates from -1 to 1


def load_digits(root: str | None, image_size: int | None) -> Dataset:
    """The digits in three equal channels; a fifth is for test, a tenth of the rest for validation, both stratified.

    `root` is not used. Raises ImageSizeError for another `image_size` than 8.
    """
    from sklearn import datasets as sklearn_datasets

    if image_size not in (None, 8):
        raise ImageSizeError(image_size, "digits are 8x8", "leave the flag out")
    digits = sklearn_datasets.load_digits()
    images = torch.from_numpy(digits.images * (255 / 16)).round().to(torch.uint8)
    pictures = Pictures(images[..., None].expand(-1, -1, -1, 3).contiguous(), torch.from_numpy(digits.target).long())
    rest, test = hold_out(pictures, 0.2, 10)
    train, val = hold_out(rest, 0.1, 10)
    mean, std = statistics(train.images)
    return Dataset("digits", train, val, test, tuple(str(d) for d in range(10)), mean, std, flip=False)


def load_digit_points(root: str | None, image_size: int | None) -> Dataset:
    """The same digits, split alike: POINTS of a digit's inked pixels, drawn with replacement, as (column, row, ink), jittered and
    normalised.

    `root` is not used. Raises ImageSizeError for any `image_size`.
    """
    from sklearn import datasets as sklearn_datasets

    refuse_size(image_size)
    digits, random = sklearn_datasets.load_digits(), np.random.default_rng(0)
    clouds = np.empty((len(digits.images), POINTS, 3))
    for cloud, ink in zip(clouds, digits.images):
        row, column = random.choice(np.argwhere(ink >= INK), POINTS).T
        cloud[:] = np.stack([column / 3.5 - 1, 1 - row / 3.5, ink[row, column] / 16], 1) + random.normal(0, JITTER, cloud.shape)
    everything = Clouds(torch.from_numpy(normalised(clouds)), torch.from_numpy(digits.target).long())
    rest, test = hold_out(everything, 0.2, 10)
    return splits_of("digit_points", rest, test, tuple(str(d) for d in range(10)))

"""scikit-learn's 1,797 handwritten digits, 8x8: the embedded default that needs no download."""

import torch

from datasets import ImageSizeError
from datasets.pictures import Dataset, Pictures, hold_out, statistics


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

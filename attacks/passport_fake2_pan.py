"""Ambiguity attack I of passport-aware normalization (amb_attack_v3.py --type fake2): passports are trained that begin as noise."""

from collections.abc import Mapping

import torch

from attacks.private_branch import free_vectors, private_branch, train
from attacks.victim import Training
from passports.files import PassportFile
from pruner.masks import Mask


def fake2_pan(mask: Mask, weights: Mapping[str, torch.Tensor], training: Training, passports: PassportFile,
              seed: int) -> tuple[Mask, dict[str, torch.Tensor], dict[str, float]]:
    """Train passports for accuracy alone, from standard normal ones on. Of the owner's all is known but they themselves.

    Args and Returns: as of `attacks.passport_fake2.fake2`.
    Raises:
        UserError: the loss is no longer a number.
    """
    branch = private_branch(training.experiment.engine.model, weights, passports)
    generator = torch.Generator().manual_seed(seed)
    for layer in branch.layers.values():
        free_vectors(layer, torch.randn(layer.vectors.shape, generator=generator).to(layer.vectors.device))
    return mask, *train(training, branch, seed, "passports from noise")

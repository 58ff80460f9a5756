"""Ambiguity with random passports (DeepIPR, passport_attack_1.py): who has no others shows that others don't work."""

from collections.abc import Mapping
from dataclasses import replace

import torch

from attacks.private_branch import agreement, handed_in, private_branch
from attacks.victim import Training
from passports.files import PassportFile
from passports.vectors import make_vectors
from pruner.masks import Mask


def fake1(mask: Mask, weights: Mapping[str, torch.Tensor], training: Training, passports: PassportFile,
          seed: int) -> tuple[Mask, dict[str, torch.Tensor], dict[str, float]]:
    """Put passports of 20 random training pictures, as they go through the stolen network, in the place of the owner's.

    Nothing is trained. The original takes test pictures, and on CIFAR a network without training.

    Args:
        mask: where weights are; stays as it is.
        weights: complete state_dict.
        training: its pictures are used alone.
        passports: the owner's; layers, and in scheme pan the small network and the statistics, are known.
        seed: of the pictures.
    Returns:
        the mask, the plain network that computes the branch with the thief's passports, and how many percent of the owner's bits
        they show.
    """
    branch = private_branch(training.experiment.engine.model, weights, passports)
    draw = replace(passports.draw, nonce=seed.to_bytes(16, "big"))
    vectors = make_vectors("shuffle", draw, branch.network[0], training.experiment.data.train, {})
    for layer, vector in zip(branch.layers.values(), vectors.values()):
        layer.vectors = vector.to(layer.vectors.device)
    return mask, handed_in(branch), {"forged_acc": agreement(branch)}

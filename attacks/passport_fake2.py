"""Ambiguity by reverse engineering (DeepIPR, passport_attack_2.py): scales and shifts are trained, and passports never made."""

from collections.abc import Mapping

import torch

from attacks.flip import drawn_turns
from attacks.private_branch import TrainedScales, private_branch, train
from attacks.victim import Training
from passports.files import PassportFile
from pruner.masks import Mask


def fake2(mask: Mask, weights: Mapping[str, torch.Tensor], level: float, training: Training, passports: PassportFile,
          seed: int) -> tuple[Mask, dict[str, torch.Tensor], dict[str, float]]:
    """Train scales that begin as the signs of the private branch's, of which a share is turned, and shifts that begin with 0.

    In the original the public scales' signs are taken, which are all positive and attack nothing that is private.

    Args:
        mask: where weights are; stays as it is, as all weights do.
        weights: complete state_dict.
        level: share of the channels of all layers whose sign is turned, up to 1.
        training: pictures, protocol and files.
        passports: the owner's, of which the signs of the scales are known, and in scheme pan the statistics.
        seed: of the turned signs, of batch order and augmentation.
    Returns:
        the mask, the plain network that computes the forged branch, and figures, see `attacks.private_branch.train`.
    Raises:
        UserError: the loss is no longer a number.
    """
    branch = private_branch(training.experiment.engine.model, weights, passports)
    sizes = [len(layer.bits) for layer in branch.layers.values()]
    for (name, layer), turn in zip(list(branch.layers.items()), drawn_turns(sizes, level, seed)):
        branch.layers[name] = TrainedScales(layer, lambda signs, turn=turn: signs * turn.to(signs.device))
    return mask, *train(training, branch, seed, "scales by reverse engineering")

"""Ambiguity by a residual block in front of the scales (Chen et al., CVPR 2023): few pictures, and nothing known of the passports."""

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import nn

from attacks.private_branch import TrainedScales, agreement, handed_in, private_branch, train
from attacks.victim import Training
from passports.files import PassportFile
from pruner.masks import Mask

SLOPE, SHARE, HIDDEN = 0.01, 8, 10  # of LeakyReLU; a hidden unit to so many channels; hidden units of a channel alone


def cerb(channels: int) -> nn.Module:
    """A block for all channels together: [channels] -> [channels]."""
    hidden = max(1, channels // SHARE)
    return nn.Sequential(nn.Linear(channels, hidden), nn.LeakyReLU(SLOPE), nn.Linear(hidden, channels))


def ierb(channels: int) -> nn.Module:
    """A block for each channel by itself, the same for all: [channels] -> [channels]."""
    return nn.Sequential(nn.Unflatten(0, (channels, 1)), nn.Linear(1, HIDDEN), nn.LeakyReLU(SLOPE), nn.Linear(HIDDEN, 1), nn.Flatten(0))


BLOCKS = {"cerb": cerb, "ierb": ierb}


def block(mask: Mask, weights: Mapping[str, torch.Tensor], level: float, block: str, training: Training, passports: PassportFile,
          seed: int) -> tuple[Mask, dict[str, torch.Tensor], dict[str, float]]:
    """Train scales that begin with 1 and go through a residual block, and shifts that begin with 0.

    Args:
        mask: where weights are; stays as it is, as all weights do.
        weights: complete state_dict.
        level: share of the training pictures that the thief has, up to 1; with none nothing is trained.
        block: in BLOCKS.
        training: pictures, protocol and files.
        passports: says which layers, and what the thief's signs are compared with; in scheme pan its statistics are where his begin.
        seed: of the blocks' weights and the choice of pictures, of batch order and augmentation.
    Returns:
        the mask, the plain network that computes the forged branch, and figures, see `attacks.private_branch.train`; the bit
        dissimilarity of Chen et al. is 100 less "forged_acc".
    Raises:
        UserError: the loss is no longer a number.
    """
    experiment = training.experiment
    branch = private_branch(experiment.engine.model, weights, passports)
    torch.manual_seed(seed)
    for name, layer in list(branch.layers.items()):
        made = BLOCKS[block](len(layer.bits)).to(layer.bits.device)
        branch.layers[name] = TrainedScales(layer, torch.ones_like, made)
    pictures = round(level * len(experiment.data.train))
    if not pictures:
        return mask, handed_in(branch), {"forged_acc": agreement(branch)}
    few = replace(training, experiment=replace(experiment, data=experiment.data.limited(pictures, seed)))
    return mask, *train(few, branch, seed, "scales behind blocks")

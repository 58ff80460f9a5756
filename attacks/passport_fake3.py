"""Ambiguity by derived passports (DeepIPR, passport_attack_3.py; amb_attack_v3.py --type fake3s of passport-aware normalization)."""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import nn

from attacks.private_branch import free_vectors, private_branch, train
from attacks.victim import Training
from passports.files import PassportFile
from pruner.masks import Mask

NEAR = 0.001  # standard deviation of the first step away from the owner's passports
SIGN_WEIGHT = 0.1


def fake3(mask: Mask, weights: Mapping[str, torch.Tensor], level: float, mlp: str, training: Training, passports: PassportFile,
          seed: int) -> tuple[Mask, dict[str, torch.Tensor], dict[str, float]]:
    """Train passports from the owner's on: accurate, with the owner's bits or some of them turned, and away from them.

    The loss is cross-entropy, the sign loss to those bits, and the sum of 1 / mean squared distance. Passports are mean patches
    (`passports.vectors`), by which alone they act.

    Args:
        mask: where weights are; stays as it is, as all weights do.
        weights: complete state_dict.
        level: share of each layer's bits that are turned, up to 1.
        mlp: what becomes of scheme pan's small network: "known" goes on from the owner's, "fresh" begins at random and is trained;
            "random_frozen", the published code, is not, so that nothing can be learnt by it.
        training: pictures, protocol and files.
        passports: the owner's.
        seed: of all draws, of batch order and augmentation.
    Returns:
        the mask, the plain network that computes the forged branch, and figures: see `attacks.private_branch.train`; percent of the
        bits aimed at; mean squared distance and mean cosine between the owner's passports and the thief's.
    Raises:
        UserError: the loss is no longer a number.
    """
    branch = private_branch(training.experiment.engine.model, weights, passports)
    generator, pairs = torch.Generator().manual_seed(seed), []
    for layer in branch.layers.values():
        device, own, turned = layer.vectors.device, layer.vectors, torch.randperm(len(layer.bits), generator=generator)
        pairs.append((own, free_vectors(layer, own + NEAR * torch.randn(own.shape, generator=generator).to(device))))
        layer.bits[turned[:round(level * len(turned))].to(device)] *= -1
        for linear in (layer.mlp[0], layer.mlp[2]) if layer.mlp is not None else ():
            if mlp != "known":
                linear.weight.data = nn.init.xavier_normal_(torch.empty(linear.weight.shape), generator=generator).to(device)
            linear.requires_grad_(mlp != "random_frozen")

    def closeness() -> torch.Tensor:
        return sum((1 / (own - other).square().mean(0)).sum() for own, other in pairs)

    forged, figures = train(training, branch, seed, "derived passports", SIGN_WEIGHT, [other for _, other in pairs], closeness)
    # what was aimed at, and what the owner has: bits that are right of the one are wrong of the other where they differ
    with torch.no_grad():
        signs = [product[:, 0].sign() for product in branch.products()]
        own_bits = [torch.from_numpy(passports.draw.bits(name, len(one))).to(one.device) for name, one in zip(passports.draw.texts, signs)]
        owners = sum(int((one == bits).sum()) for one, bits in zip(signs, own_bits))
        figures |= {"target_acc": figures["forged_acc"], "forged_acc": 100 * owners / sum(map(len, signs)),
                    "mse": float(torch.cat([(own - other).square().flatten() for own, other in pairs]).mean()),
                    "cosine": float(torch.cat([F.cosine_similarity(own, other, 0) for own, other in pairs]).mean())}
    return mask, forged, figures

"""Passports in closed form: a public model answers them with any signature, and its private branch is as accurate as it is."""

import copy
from collections.abc import Mapping

import torch
from torch import nn

from attacks.forgeries.second_claim import SecondClaim
from models import STEM
from passports.attachment import attach
from passports.config import check_texts
from passports.draw import Draw
from passports.layers import normed_layers
from pruner.key_mask.split import fingerprint
from pruner.masks import Mask
from utils.errors import UserError

MARGIN = 0.3  # of the products whose signs are the bits; a trained owner's is 0.1


@torch.no_grad()
def by_solving(mask: Mask, weights: Mapping[str, torch.Tensor], signature: str, owner: bytes, owner_name: str, model: nn.Module,
               arch: str, seed: int) -> SecondClaim:
    """Claim passports of passport-aware normalization for a network that nobody trained for them.

    Of a layer with weights W [out, inputs], W m = MARGIN * bits has a solution m where out is at most `inputs`, as in every 3x3
    convolution of a ResNet but the stem; of all solutions the shortest is taken, which changes of W move least. The small network
    behind the products has two equations a channel, the deployed scale and shift, and out / 4 unknowns.

    Args:
        mask: where weights are.
        weights: complete state_dict.
        signature: text that goes into the first of the layers with most channels; all other bits follow from the draw.
        owner: the thief's public key, 32 bytes. owner_name: his name.
        model: the network, only its structure is used. arch: its name.
        seed: the nonce, and of the shifts' products, any of which will do.
    Returns:
        the model as it is, with the thief's passports.
    Raises:
        UserError: no layer has a solution, or the text does not fit.
    """
    network = copy.deepcopy(model).cpu().eval()
    network.load_state_dict(weights)
    norms = normed_layers(network)
    layers = {name: network.get_submodule(name) for name in norms if name != STEM}
    layers = {name: layer for name, layer in layers.items() if 8 <= len(layer.weight) <= layer.weight[0].numel()}
    if not layers:
        raise UserError("--by solve: no layer of this network has as many inputs as channels")
    texts = dict.fromkeys(layers, "") | {max(layers, key=lambda name: len(layers[name].weight)): signature}
    check_texts(f"--signature {signature!r}", texts, layers)
    draw = Draw(owner, owner_name, seed.to_bytes(16, "big"), arch, fingerprint(mask, weights), texts)
    generator, vectors = torch.Generator().manual_seed(seed), {}
    for name, layer in layers.items():
        bits = torch.from_numpy(draw.bits(name, len(layer.weight))).double()
        other = torch.randint(0, 2, bits.shape, generator=generator) * 2.0 - 1
        products = MARGIN * torch.stack((bits, other), 1)
        vectors[name] = (torch.linalg.pinv(layer.weight.double().flatten(1)) @ products).float()
    passports = attach(network, "pan", draw, vectors)
    for name, layer, products in zip(texts, passports.layers.values(), passports.products()):
        hidden = layer.mlp[1](layer.mlp[0](products.T)).T.double()
        norm = network.get_submodule(norms[name])
        deployed = torch.stack((norm.weight, norm.bias), 1).double()
        layer.mlp[2].weight.copy_(deployed @ torch.linalg.pinv(hidden))
    return SecondClaim(mask, weights, tried=1, passports=passports)

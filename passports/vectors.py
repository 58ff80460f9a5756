"""From passports to mean patches m, which are all that a passport does: scale = W m, with W of [out, in * height * width].

The mean over positions of a convolution's output is the product of its weights with the mean over positions of its input's
patches. So nothing is convolved in training, and a passport is a vector.
"""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from datasets.pictures import Examples
from passports import VECTOR
from passports.draw import Draw

KINDS = ("scale", "shift")  # the two passports of a layer
PICTURES = {"image": 1, "shuffle": 20}  # pictures for each passport


def mean_patch(layer: nn.Module, passport: torch.Tensor) -> torch.Tensor:
    """float64 [in * height * width] of a passport [1, in, H, W], zeros around it as the layer pads; of [1, in, P] for a Conv1d, [1, in]
    for a Linear, which are convolutions over pictures of width 1, and of one pixel."""
    if isinstance(layer, nn.Linear):
        return passport[0].double()
    sides = (layer.kernel_size, layer.dilation, layer.padding, layer.stride)
    if isinstance(layer, nn.Conv1d):
        passport, sides = passport[..., None], [(*side, width) for side, width in zip(sides, (1, 1, 0, 1))]
    return F.unfold(passport.double(), *sides).mean(2)[0]


def make_vectors(key_type: str, draw: Draw, model: nn.Module, pictures: Examples,
                 density: Mapping[str, float]) -> dict[str, torch.Tensor]:
    """Layer -> float32 [in * height * width, 2], m of the scale's and of the shift's passport.

    Args:
        key_type: in `passports.KEY_TYPES`. All draws follow from `draw`, so the same owner gets the same ones again.
        model: with the weights that pictures go through, and on the pictures' device.
        pictures: for training; for what enters a layer.
        density: layer -> share of its weights that are there, 1 where nothing is pruned. By it vectors are as long as scales of
            standard deviation 1 need: |m|^2 = out * height * width / (2 density), of weights as He et al. draw them, by what leaves a layer.
    """
    layers = {name: model.get_submodule(name) for name in draw.texts}
    if key_type == VECTOR:
        vectors = {name: [draw.normal(name, kind, layer.weight[0].numel()) for kind in KINDS] for name, layer in layers.items()}
        return {name: torch.tensor(np.stack([one * _length(layers[name], density.get(name, 1)) / np.linalg.norm(one) for one in pair], 1),
                                   dtype=torch.float32) for name, pair in vectors.items()}
    random = np.random.default_rng(list(draw.bytes_for("", key_type, 32)))
    passports: dict[str, list[torch.Tensor]] = {name: [] for name in layers}
    for _ in KINDS:
        shown = pictures[torch.from_numpy(random.choice(len(pictures), PICTURES.get(key_type, 1), replace=False))]
        for name, entering in inputs_of(model, layers, shown.floats()).items():
            if key_type == "random":
                passport = torch.from_numpy(random.uniform(-1, 1, entering[:1].shape))
            else:
                passport = entering[:1] if len(entering) == 1 or entering.shape[1] == 3 else mixed(entering, random)
            passports[name].append(mean_patch(layers[name], passport))
    return {name: torch.stack(pair, 1).float() for name, pair in passports.items()}


def _length(layer: nn.Module, density: float) -> float:
    return float(np.sqrt(layer.weight[:, 0].numel() / 2 / density))


def mixed(pictures: torch.Tensor, random: np.random.Generator) -> torch.Tensor:
    """[1, in, ...]: each channel out of another picture in turn, one that was not taken yet. pictures: [N, in, ...]."""
    count, channels = pictures.shape[:2]
    orders = [random.permutation(channels) for _ in range(count)]
    return torch.stack([pictures[channel % count, orders[channel % count][channel // count]] for channel in range(channels)])[None]


@torch.no_grad()
def inputs_of(model: nn.Module, layers: Iterable[str], pictures: torch.Tensor) -> dict[str, torch.Tensor]:
    """Layer -> [N, in, ...], on the CPU, what enters it when the network classifies. Leaves the model's mode as it was."""
    entering: dict[str, torch.Tensor] = {}

    def note(name: str):
        def hook(_: nn.Module, inputs: Sequence[torch.Tensor]) -> None:
            entering[name] = inputs[0].detach().cpu()
        return hook

    hooks, training = [model.get_submodule(name).register_forward_pre_hook(note(name)) for name in layers], model.training
    try:
        model.eval()(pictures)
    finally:
        model.train(training)
        for hook in hooks:
            hook.remove()
    return entering

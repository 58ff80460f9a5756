"""The private branch of a released network in a thief's hands: its weights are fixed, what stands for the passports is trained."""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from torch.nn.utils import clip_grad_norm_

from attacks.victim import Training
from passports import SCHEMES
from passports.attachment import LayerPassport, Passports, attach, released
from passports.files import PassportFile
from passports.layers import normed_layers
from passports.signature import read_signature, total
from passports.training import PassportEngine
from pruner import tickets
from pruner.experiment import Experiment
from utils import checkpoint

LONGEST_GRADIENT = 2.0  # of all passports together, as in DeepIPR
FOR_STATISTICS = 1000  # training pictures, without labels, on which the private branch's running statistics are made anew


def private_branch(model: nn.Module, weights: Mapping[str, torch.Tensor], file: PassportFile) -> Passports:
    """The owner's passports, attached to a copy of `model` with these weights, none of which is trained; the branch with passports
    is the only one."""
    network = copy.deepcopy(model)
    network.load_state_dict(weights)
    network.requires_grad_(False)
    passports = attach(network, file.scheme, file.draw, file.vectors)
    passports.load_state_dict(file.private)
    passports.scheme = replace(passports.scheme, public=False)
    return passports.requires_grad_(False)


class TrainedScales(nn.Module):
    """Stands where a `LayerPassport` was: scales and shifts that are trained themselves, without passports.

    bits: the signs of the owner's private scales, with which the thief's are compared.
    """

    def __init__(self, passport: LayerPassport, start: Callable[[torch.Tensor], torch.Tensor], block: nn.Module | None = None):
        """start: from these signs to the first scales, float32 [out]; shifts begin with 0. block: what it says of the scales is
        added to them."""
        super().__init__()
        signs = passport.private(passport.weights_times_vectors())[f"{passport.norm_name}.weight"].detach().sign()
        self.register_buffer("bits", signs, persistent=False)
        self.values = nn.Parameter(torch.stack((start(signs), torch.zeros_like(signs)), 1))
        self.block, self.passport = block, passport
        passport.mlp = None

    def weights_times_vectors(self) -> torch.Tensor:
        """float32 [out, 2], scales and shifts."""
        if self.block is None:
            return self.values
        scale, shift = self.values.T
        return torch.stack((scale + self.block(scale), shift), 1)

    def private(self, products: torch.Tensor) -> dict[str, torch.Tensor]:
        """As of `LayerPassport`."""
        return self.passport.private(products)


def free_vectors(layer: LayerPassport, start: torch.Tensor) -> nn.Parameter:
    """Let a layer's passports be trained, from `start` [in * height * width, 2] on; they then belong to the state_dict."""
    del layer.vectors
    layer.vectors = nn.Parameter(start)
    return layer.vectors


class ForgingEngine(PassportEngine):
    """Trains what a thief puts in the place of passports. vectors: passports whose common gradient is clipped. distance: a further
    term of the loss."""

    def __init__(self, training: Training, passports: Passports, sign_weight: float, vectors: Sequence[nn.Parameter],
                 distance: Callable[[], torch.Tensor] | None):
        engine = training.experiment.engine
        super().__init__(passports.network[0], engine.device, passports, sign_weight, amp=engine.amp)
        self.vectors, of_passports = vectors, self.objective

        def farther(*batch: Any) -> tuple[torch.Tensor, torch.Tensor]:
            loss, right = of_passports(*batch)
            return loss + distance(), right

        if distance is not None:
            self.objective = farther

    def run(self, batches, optimizer, *rest):
        def clip(*_: Any) -> None:
            clip_grad_norm_(self.vectors, LONGEST_GRADIENT)

        hook = optimizer.register_step_pre_hook(clip)
        try:
            return super().run(batches, optimizer, *rest)
        finally:
            hook.remove()


def train(training: Training, passports: Passports, seed: int, title: str, sign_weight: float = 0, vectors: Sequence[nn.Parameter] = (),
          distance: Callable[[], torch.Tensor] | None = None) -> tuple[dict[str, torch.Tensor], dict[str, float]]:
    """Train what may be trained of them on the training pictures, or go on with that where its files hold the beginning. Running
    statistics of the network move too.

    Args:
        seed: of batch order and augmentation. title: what the progress bar says. The others: see `ForgingEngine`.
    Returns:
        after the epoch with the best validation accuracy, the plain network that computes the thief's branch, and the figures of the
        training, with the percent of the owner's signs that are the thief's too.
    Raises:
        UserError: the loss is no longer a number.
    """
    experiment, model = training.experiment, passports.network[0]
    engine = ForgingEngine(training, passports, sign_weight, vectors, distance)
    trained = engine.fit(experiment.data, experiment.protocol, training.files, seed, facts=experiment.facts, title=title)
    model.load_state_dict(checkpoint.load(training.files.best)["state_dict"])
    return handed_in(passports), {**trained.in_columns(), "forged_acc": agreement(passports)}


def handed_in(passports: Passports) -> dict[str, torch.Tensor]:
    """The plain network that computes a thief's branch, on the CPU."""
    return tickets.plain(released(passports.network[0]))


@torch.no_grad()
def agreement(passports: Passports) -> float:
    """Percent of the layers' bits that the thief's signs are."""
    right, bits = passports.right(passports.products())
    return 100 * right.item() / bits


def what_is_left(model: nn.Module, weights: Mapping[str, torch.Tensor], file: PassportFile,
                 experiment: Experiment | None) -> dict[str, float]:
    """What the owner's passports show on attacked weights, as columns: bits of the signature in the weights' products, in one branch
    alone those of the deployed scales' signs too, and with pictures the private branch's accuracy in percent.

    The private branch gets new running statistics first, from FOR_STATISTICS training pictures without labels: others have trained
    or pruned below it.
    """
    right, bits = total(read_signature(file.draw, file.vectors, {layer: weights[f"{layer}.weight"].cpu() for layer in file.draw.texts}))
    columns = {"signature_right": right, "signature_bits": bits, "signature_acc": 100 * right / bits}
    if not SCHEMES[file.scheme].public:
        norms, columns["scales_right"] = normed_layers(model), 0
        for layer in file.draw.texts:
            signs = weights[f"{norms[layer]}.weight"].sign().cpu().numpy()
            columns["scales_right"] += int((signs == file.draw.bits(layer, len(signs))).sum())
    if experiment is None:
        return columns
    branch = private_branch(model, weights, file)
    engine = PassportEngine(branch.network[0], experiment.engine.device, branch, 0, amp=experiment.engine.amp)
    for module in engine.model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.momentum = 1.0  # the statistics of one batch
    engine.model.train()
    with torch.no_grad():
        branch.call(branch.products(), experiment.data.train[:FOR_STATISTICS].floats())
    return {**columns, "private_acc": engine.evaluate(experiment.data.test)[1]}

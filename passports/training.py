"""Training with passports: both branches on every batch, and what is followed besides."""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from passports.attachment import Passports
from utils.engine import Engine, Objective


def passport_objective(passports: Passports, sign_weight: float) -> Objective:
    """Cross-entropy of each branch and the sign loss, in one step. Right are the public branch's answers, or those of the only one."""

    def loss(network: Any, inputs: Any, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        products = passports.products()
        logits = passports.call(products, inputs).float()
        sum_of_losses = F.cross_entropy(logits, labels) + passports.sign_loss(products, sign_weight)
        if passports.scheme.public:
            logits = network(inputs).float()
            sum_of_losses = sum_of_losses + F.cross_entropy(logits, labels)
        return sum_of_losses, (logits.detach().argmax(1) == labels).sum()

    return loss


class PassportEngine(Engine):
    """Trains a network with passports (`passports.attachment.attach`). It evaluates the branch that is handed out, and in `private`
    the one with passports.

    Args:
        sign_weight: of the sign loss. The others as of `Engine`.
    """

    def __init__(self, model: nn.Module, device: torch.device, passports: Passports, sign_weight: float, compile_step: bool = False,
                 amp: bool | None = None):
        super().__init__(model, device, compile_step, amp, passport_objective(passports, sign_weight))
        self.passports, self.sign_weight, self.private = passports, sign_weight, not passports.scheme.public

    def predict(self, inputs: Any) -> torch.Tensor:
        return self.passports.call(self.passports.products(), inputs).float() if self.private else super().predict(inputs)


@dataclass(frozen=True)
class PrivateBranch:
    """A probe: loss and accuracy of the branch with passports on a split."""

    split: Any

    def evaluate(self, engine: PassportEngine) -> tuple[float, float]:
        before, engine.private = engine.private, True
        try:
            return engine.evaluate(self.split)
        finally:
            engine.private = before


@dataclass(frozen=True)
class Signature:
    """A probe: the sign loss, and percent of the signature's bits that the signs show."""

    def evaluate(self, engine: PassportEngine) -> tuple[float, float]:
        products = engine.passports.products()
        right, bits = engine.passports.right(products)
        return engine.passports.sign_loss(products, engine.sign_weight).item(), 100 * right.item() / bits

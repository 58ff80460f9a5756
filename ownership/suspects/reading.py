"""A suspect's model file: where its weights are, and how large."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from pruner import tickets
from pruner.key_mask.split import fingerprint
from pruner.masks import Mask
from pruner.tickets import Expected
from utils.checkpoint import FileBytes
from utils.errors import UserError


@dataclass(frozen=True)
class Suspect:
    """A mask and, where they are known, the weights it keeps: complete tensors by layer name."""

    mask: Mask
    weights: Mapping[str, torch.Tensor] | None = None

    def cleaned(self, threshold: float) -> "Suspect":
        """Without weights of magnitude below the owner's threshold t: the paper's defence against add-on attacks (section
        3.4). Raises UserError where only masks are known."""
        if self.weights is None:
            raise UserError("--threshold: the suspect's file holds masks only; there are no magnitudes to compare")
        return Suspect(Mask({name: kept & (self.weights[name].abs() >= threshold) for name, kept in self.mask.items()}),
                       self.weights)

    def sha256(self) -> str:
        """In hex, of the mask and of the weights in it where they are known, as `pruner.key_mask.split.fingerprint`."""
        return fingerprint(self.mask, self.weights and {f"{name}.weight": weight for name, weight in self.weights.items()})

    def magnitude_below(self, share: float) -> float:
        """The magnitude below which this share of the weights lies, over all layers together."""
        magnitudes = torch.cat([self.weights[name][kept].abs() for name, kept in self.mask.items()])
        return float(np.sort(magnitudes.double().numpy())[int(share * len(magnitudes))])


def expected_by(arch: str) -> Expected:
    """For messages to an arbiter, who names no network: the claim does."""
    return Expected(f"the claim is about {arch}")


def read_suspect(path: str | FileBytes, model: nn.Module, expected: Expected = Expected()) -> Suspect:
    """A suspect's file: where its weights are effectively there. Raises UserError as `pruner.tickets.read_model_file`."""
    given = tickets.read_model_file(path, model, head=False, expected=expected)
    mask = given.pattern("--checkpoint", model)
    return Suspect(mask, {name: given.weights[f"{name}.weight"] for name in mask} if given.weights is not None else None)

"""What an adversary starts from: a stolen model's file, and what there is to train with."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from attacks.noise import keep_only
from pruner import tickets
from pruner.experiment import Experiment
from pruner.masks import Mask
from utils import checkpoint
from utils.errors import UserError
from utils.run_dir import TrainingFiles


@dataclass(frozen=True)
class Victim:
    """A stolen model as the thief sees it.

    mask: where weights are there and not zero. weights: complete state_dict, zero elsewhere in the mask's layers.
    masks_only: the file held no weights; they are ones, and stand for nothing. key_share: of a locked ticket (scheme
    V1), the share of the whole one that its key was, which its file says; None for others.
    """

    mask: Mask
    weights: dict[str, torch.Tensor]
    masks_only: bool
    key_share: float | None


@dataclass(frozen=True)
class Training:
    """experiment: model, pictures and protocol. files: where a training leaves its checkpoints, and goes on from them."""

    experiment: Experiment
    files: TrainingFiles


def class_count(path: str | Path) -> int | None:
    """Width of the classifier in a file; None in a file of masks. Raises UserError for a file that is no model's."""
    content = checkpoint.load(path)
    for tensors in (content.get("state_dict"), content.get("init_weight"), content):
        for key, tensor in tensors.items() if isinstance(tensors, dict) else ():
            if str(key).removeprefix("module.") == f"{tickets.HEAD}.weight":
                # a hostile tensor may claim rows that it has no memory for
                if not isinstance(tensor, torch.Tensor) or tensor.layout != torch.strided or tensor.is_nested \
                        or tensor.device.type != "cpu" or tensor.dim() != 2 or not tensor.numel() \
                        or tensor.untyped_storage().nbytes() < tensor.numel() * tensor.element_size():
                    raise UserError(f"{path}: {key!r} is no classifier's weight; is it a model's file?")
                return len(tensor)
    return None


def read_victim(path: str | Path, model: nn.Module, head: bool, need_weights: bool) -> Victim:
    """Read a stolen model, checked against `model`.

    Args:
        path: a trained model, a ticket, or a mask file.
        model: gives the names and shapes to expect, and values for what the file may lack.
        head: whether the file's classifier is wanted; see `pruner.tickets.read_model_file`.
        need_weights: whether a mask file will not do.
    Raises:
        UserError: see `pruner.tickets.read_model_file`; or there are no weights in the model.
    """
    given = tickets.read_model_file(path, model, head)
    mask = given.pattern("--checkpoint", model)
    masks_only = given.weights is None and given.initial is None
    if masks_only and not need_weights:
        weights = {f"{name}.weight": kept.float() for name, kept in mask.items()}
    else:
        weights = keep_only(mask, given.need_weights("--checkpoint"))
        mask = Mask({name: weights[f"{name}.weight"] != 0 for name in mask})
    if not mask.nonzeros:
        raise UserError(f"--checkpoint {path}: has no weights left in the masked layers; there is nothing to attack")
    missing, share = given.facts.get("key_nonzeros"), None
    if given.facts.get("part") == "locked":
        if type(missing) is not int or not 0 < missing <= mask.entries - mask.nonzeros:
            raise UserError(f"--checkpoint {path}: is damaged: key_nonzeros {missing!r} is no size of a key")
        share = missing / (missing + mask.nonzeros)
    return Victim(mask, weights, masks_only, share)

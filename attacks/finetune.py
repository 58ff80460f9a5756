"""Removal by fine-tuning: the thief trains on, and hopes that the signature wears off (paper, section 4)."""

from collections.abc import Mapping

import torch

from pruner import tickets
from pruner.experiment import Experiment
from pruner.masks import Mask, MaskedWeights
from utils.engine import Trained
from utils.run_dir import TrainingFiles


def fine_tune(mask: Mask, weights: Mapping[str, torch.Tensor], experiment: Experiment, files: TrainingFiles, seed: int,
              free_mask: bool) -> tuple[Mask, dict[str, torch.Tensor], Trained]:
    """Train a model on, or go on with that where `files` hold the beginning.

    Args:
        mask: where weights are.
        weights: complete state_dict that fits the experiment's model (which is changed).
        experiment: model, pictures and protocol.
        files: checkpoints, metrics and curve are written there after every epoch.
        seed: of batch order and augmentation.
        free_mask: let every weight grow back, instead of holding the model to the mask.
    Returns:
        mask and weights after the epoch with the best validation accuracy, and what the training came to. With
        `free_mask` the mask is where weights are afterwards, in the same layers.
    Raises:
        UserError: the loss is no longer a number.
    """
    model = experiment.engine.model
    model.load_state_dict(weights)
    constraint = None if free_mask else MaskedWeights(model, mask)
    trained = experiment.engine.fit(experiment.data, experiment.protocol, files, seed, constraint,
                                    facts=experiment.facts,
                                    title="fine-tuning" + (" without mask" if free_mask else ""))
    tuned = tickets.read_model_file(files.best, model).need_weights("--save_dir")
    return Mask({name: tuned[f"{name}.weight"] != 0 for name in mask}), tuned, trained

"""Removal by fine-tuning: the thief trains on, and hopes that the signature wears off (paper, section 4)."""

from collections.abc import Mapping

import torch

from attacks.victim import Training
from pruner import tickets
from pruner.masks import Mask, MaskedWeights


def fine_tune(mask: Mask, weights: Mapping[str, torch.Tensor], training: Training, free_mask: bool,
              seed: int) -> tuple[Mask, dict[str, torch.Tensor], dict[str, float]]:
    """Train a model on, or go on with that where its files hold the beginning.

    Args:
        mask: where weights are.
        weights: complete state_dict that fits the experiment's model (which is changed).
        training: checkpoints, metrics and curve are written to its files after every epoch.
        free_mask: let every weight grow back, instead of holding the model to the mask.
        seed: of batch order and augmentation.
    Returns:
        mask and weights after the epoch with the best validation accuracy, and the figures of the training. With
        `free_mask` the mask is where weights are afterwards, in the same layers.
    Raises:
        UserError: the loss is no longer a number.
    """
    experiment, files = training.experiment, training.files
    model = experiment.engine.model
    model.load_state_dict(weights)
    constraint = None if free_mask else MaskedWeights(model, mask)
    trained = experiment.engine.fit(experiment.data, experiment.protocol, files, seed, constraint,
                                    facts=experiment.facts,
                                    title="fine-tuning" + (" without mask" if free_mask else ""))
    tuned = tickets.read_model_file(files.best, model).need_weights("--save_dir")
    return Mask({name: tuned[f"{name}.weight"] != 0 for name in mask}), tuned, trained.in_columns()

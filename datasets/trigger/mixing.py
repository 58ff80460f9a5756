"""Trigger pictures in the training: mixed into every batch, or followed without being trained on."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch

from datasets.pictures import Dataset
from datasets.trigger.trigger_set import TriggerSet
from utils.errors import UserError


@dataclass(frozen=True)
class WithTriggers(Dataset):
    """A data set with trigger pictures mixed into every batch; they are followed as the probe `trigger`.

    A batch has `per_batch` trigger pictures at its end and the others of the task, cropped and mirrored as ever. Trigger
    pictures are shown as they are, pass after pass over the set, each pass in a random order of its own.
    """

    per_batch: int = 2

    def train_batches(self, size: int, generator: torch.Generator) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Like `Dataset.train_batches`: `size` counts both kinds. An epoch is one pass over the task's pictures."""
        triggers = self.probes["trigger"]
        if not 0 < self.per_batch < size:
            raise UserError(f"--trigger_per_batch {self.per_batch}: must be below --batch_size {size}")
        steps = -(-len(self.train) // (size - self.per_batch))
        passes = -(-steps * self.per_batch // len(triggers))
        order = torch.cat([torch.randperm(len(triggers), generator=generator) for _ in range(passes)])
        order = order.to(triggers.labels.device)
        for step, (images, labels) in enumerate(super().train_batches(size - self.per_batch, generator)):
            shown = triggers[order[step * self.per_batch:(step + 1) * self.per_batch]]
            yield torch.cat((images, shown.floats())), torch.cat((labels, shown.labels))


def with_triggers(data: Dataset, triggers: TriggerSet, per_batch: int) -> WithTriggers:
    """The data set with a trigger set of the same size and number of classes mixed into its training."""
    followed = following(data, triggers)
    return WithTriggers(**{name: getattr(followed, name) for name in Dataset.__dataclass_fields__}, per_batch=per_batch)


def following(data: Dataset, triggers: TriggerSet) -> Dataset:
    """The data set, with the accuracy on a trigger set followed that is not trained on."""
    return replace(data, probes={**data.probes, "trigger": triggers.pictures.to(data.train.labels.device)})

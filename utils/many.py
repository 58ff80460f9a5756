"""Many trainings of one network at once: k models as one stack of weights, for sweeps that differ in masks and seeds.

A small network leaves a GPU idle: its time goes by in launching kernels. Here k models take their steps together; each has
its own weights, batches, batch-norm statistics, masks and files, and ends as it would alone, up to rounding. It knows nothing
of pruning, as `utils.engine`: constraints keep masks in force.
"""

import copy
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call, vmap
from tqdm import tqdm

from utils import engine, randomness
from utils.engine import Batches, Record, StepLoop, Trained, TrainingProtocol, WeightConstraint
from utils.run_dir import TrainingFiles


def stacked(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    """[k, ...] of k tensors of one shape, in which each has the strides it has alone in channels-last memory.

    The kernels of k convolutions then lie as those of one grouped convolution do, which is what vmap makes of them.
    """
    if tensors[0].dim() == 4:
        return torch.stack([tensor.permute(0, 2, 3, 1) for tensor in tensors]).permute(0, 1, 4, 2, 3)
    return torch.stack(list(tensors))


class Stack(nn.Module):
    """k models of one shape as one module, its parameters and buffers [k, ...].

    The models' own parameters become views of the stack's, so whatever is done to either is done to both, and what
    holds a model's parameters (a constraint) goes on working. `release` ends that.

    Args:
        models: of one architecture, on one device.
    Raises:
        ValueError: the models' parameters differ in name or shape.
    """

    def __init__(self, models: Sequence[nn.Module]):
        super().__init__()
        shapes = [{name: tensor.shape for name, tensor in model.state_dict(keep_vars=True).items()} for model in models]
        if any(shape != shapes[0] for shape in shapes):
            raise ValueError("models to be stacked must be of one shape")
        self.models = tuple(models)  # no submodules: their weights are here already
        self.blank = (copy.deepcopy(models[0]).to("meta"),)  # the program without its data; no submodule either
        self.weight_names = [name for name, _ in models[0].named_parameters()]
        self.buffer_names = [name for name, _ in models[0].named_buffers()]
        self.weights = nn.ParameterList(
            nn.Parameter(self._take([model.get_parameter(name) for model in models])) for name in self.weight_names)
        for index, name in enumerate(self.buffer_names):
            self.register_buffer(f"buffer_{index}", self._take([model.get_buffer(name) for model in models]))

    @staticmethod
    def _take(tensors: list[torch.Tensor]) -> torch.Tensor:
        """The tensors stacked; they become views of the result."""
        together = stacked([tensor.detach() for tensor in tensors])
        for tensor, part in zip(tensors, together):
            tensor.data = part
        return together

    def __len__(self) -> int:
        return len(self.models)

    def release(self) -> None:
        """Give the models memory of their own again."""
        for model in self.models:
            for tensor in (*model.parameters(), *model.buffers()):
                tensor.data = tensor.data.clone()

    def train(self, mode: bool = True) -> "Stack":
        self.blank[0].train(mode)
        return super().train(mode)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits [k, B, classes], of pictures [B, 3, H, W] that all models are shown or [B, k, 3, H, W], to each its own."""
        weights = dict(zip(self.weight_names, self.weights))
        buffers = {name: getattr(self, f"buffer_{index}") for index, name in enumerate(self.buffer_names)}

        def one(weights, buffers, images):
            return functional_call(self.blank[0], (weights, buffers), (images,))

        return vmap(one, in_dims=(0, 0, 1 if images.dim() == 5 else None))(weights, buffers, images)


class StackedEngine(StepLoop):
    """Steps and evaluation of a stack; see `utils.engine.StepLoop`. models: moved to `device` in place."""

    def __init__(self, models: Sequence[nn.Module], device: torch.device, compile_step: bool = False,
                 amp: bool | None = None):
        self.stack = Stack([model.to(device, memory_format=torch.channels_last) for model in models])
        super().__init__(self.stack, device, compile_step, amp, (len(models),))

    def loss(self, images: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """images [B, k, 3, H, W], labels [k, B]."""
        logits = self.forward(images).float()
        losses = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none").view_as(labels)
        return losses.mean(1), (logits.detach().argmax(2) == labels).sum(1)

    def evaluate(self, pictures: Any) -> list[tuple[float, float]]:
        """Each model's mean cross-entropy and accuracy in percent over a split; leaves the models' mode as it was."""
        training, count = self.stack.training, len(self.stack)
        self.stack.eval()
        losses = torch.zeros(count, device=self.device)
        correct = torch.zeros(count, dtype=torch.int64, device=self.device)
        with torch.no_grad(), self.autocast():
            for images, labels in pictures.batches(engine.EVAL_BATCH[self.device.type]):
                logits = self.stack(images).float()
                every = labels.expand(count, -1)
                losses += F.cross_entropy(logits.flatten(0, 1), every.flatten(), reduction="none").view_as(every).sum(1)
                correct += (logits.argmax(2) == every).sum(1)
        self.stack.train(training)
        return [(loss / len(pictures), 100 * hits / len(pictures))
                for loss, hits in zip(losses.tolist(), correct.tolist())]

    def train_on(self, batches: Iterable[tuple[torch.Tensor, torch.Tensor]], optimizer: torch.optim.Optimizer,
                 constraint: WeightConstraint | None = None,
                 rates: Callable[[int], float] | None = None) -> list[tuple[float, float]]:
        """`run`; each model's mean loss and accuracy in percent."""
        losses, correct, seen = self.run(batches, optimizer, constraint, rates)
        return [(loss / seen, 100 * hits / seen) for loss, hits in zip(losses.tolist(), correct.tolist())]


def side_by_side(data: Batches, size: int,
                 generators: Sequence[torch.Generator]) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """One epoch of batches for k models, each drawn as from its generator alone: [B, k, 3, H, W] with labels [k, B]."""
    for batches in zip(*(data.train_batches(size, generator) for generator in generators), strict=True):
        images, labels = zip(*batches)
        # channels last over all models' channels
        yield torch.stack([part.permute(0, 2, 3, 1) for part in images], 3).permute(0, 3, 4, 1, 2), torch.stack(labels)


@dataclass(frozen=True)
class Training:
    """One of the trainings that go on together; the fields are the arguments of `utils.engine.Engine.fit`."""

    model: nn.Module
    files: TrainingFiles
    seed: int
    constraint: WeightConstraint | None = None
    facts: dict[str, Any] | None = None
    title: str = "training"

    def record(self) -> Record:
        return Record(self.files, self.title, self.constraint, self.facts)


class Constraints:
    """Those of several models in one `apply`."""

    def __init__(self, constraints: Iterable[WeightConstraint | None]):
        self.constraints = [constraint for constraint in constraints if constraint]

    def apply(self) -> None:
        for constraint in self.constraints:
            constraint.apply()


def fit_many(trainings: Sequence[Training], data: Batches, protocol: TrainingProtocol, device: torch.device,
             compile_step: bool = False, amp: bool | None = None) -> list[Trained]:
    """Train k models at once, each as `Engine.fit` would, up to rounding.

    Files are the same as of k separate trainings: what was begun here can be resumed there, and the other way round.
    Trainings that are not equally far (the process was killed between two files) go on in groups until they are. Models
    with dropout or other draws in their forward pass can't be trained here.

    Args:
        trainings: models of one shape, each with folder and seed; moved to `device` in place.
        data: on `device`, the same for all; order and augmentation come from each training's own seed.
        compile_step, amp: as of `Engine`.
    Returns:
        outcomes in the order of `trainings`; each one's seconds are its share of the time all took. The models hold
        the weights of the last epoch.
    Raises:
        UserError: the loss of one of them is no longer a number.
        ValueError: no trainings, or models of different shape.
    """
    if not trainings:
        raise ValueError("no trainings")
    done = [record.resume() and len(record.history) or 0 for record in (training.record() for training in trainings)]
    while min(done) < protocol.epochs:
        behind = [index for index, epochs in enumerate(done) if epochs == min(done)]
        until = min([protocol.epochs, *(epochs for epochs in done if epochs > min(done))])
        _fit_group([trainings[index] for index in behind], data, protocol, until, device, compile_step, amp)
        for index in behind:
            done[index] = until
    outcomes = []
    for training in trainings:
        record = training.record()
        training.model.load_state_dict(record.resume()["state_dict"])
        outcomes.append(record.finish())
    return outcomes


def _fit_group(trainings: Sequence[Training], data: Batches, protocol: TrainingProtocol, until: int,
               device: torch.device, compile_step: bool, amp: bool | None) -> None:
    """Bring trainings that are equally far to the end of epoch `until`; what they came to is in their files."""
    records = [training.record() for training in trainings]
    generators = [randomness.seed_everything(training.seed) for training in trainings]
    saved = [record.resume() for record in records]
    for training, generator, state in zip(trainings, generators, saved):
        if state:
            training.model.load_state_dict(state["state_dict"])
            randomness.set_state(state["random"], generator)
    trainer = StackedEngine([training.model for training in trainings], device, compile_step, amp)
    constraints = Constraints(training.constraint for training in trainings)
    constraints.apply()
    optimizer = engine.make_optimizer(trainer.stack.parameters(), protocol)
    schedule = engine.make_schedule(optimizer, protocol)
    if saved[0]:
        optimizer.load_state_dict(_joined([state["optimizer"] for state in saved]))
        schedule.load_state_dict(saved[0]["scheduler"])

    done = len(records[0].history)
    epochs = tqdm(range(done + 1, until + 1), initial=done, total=protocol.epochs, unit="epoch", disable=None,
                  desc=f"{len(trainings)} trainings")
    for epoch in epochs:
        started = time.perf_counter()
        rate = optimizer.param_groups[0]["lr"]
        trained = trainer.train_on(side_by_side(data, protocol.batch_size, generators), optimizer, constraints,
                                   engine.warmup_rates(data, protocol, optimizer, epoch))
        results = {"train": trained} | {name: trainer.evaluate(pictures) for name, pictures in
                                        {"val": data.val, "test": data.test, **data.probes}.items()}
        for index, record in enumerate(records):
            record.check(epoch, protocol, *(results[split][index][0] for split in engine.SPLITS))
        schedule.step()
        seconds = (time.perf_counter() - started) / len(trainings)
        states = optimizer.state_dict()
        for index, (training, record) in enumerate(zip(trainings, records)):
            row = {"epoch": epoch, "lr": rate}
            for name, models in results.items():
                row[f"{name}_loss"], row[f"{name}_acc"] = models[index]
            row["seconds"] = seconds
            # cloned: a file of a view holds all that it is a view of
            weights = {name: tensor.clone() for name, tensor in training.model.state_dict().items()}
            record.add(row, weights, _part(states, index), schedule, generators[index])
        epochs.set_postfix_str("test " + ", ".join(f"{record.history[-1]['test_acc']:.2f}" for record in records))
        if epochs.disable:
            print("\n".join(record.line(protocol.epochs) for record in records), flush=True)
    epochs.close()
    trainer.stack.release()


def _part(optimizer: dict[str, Any], index: int) -> dict[str, Any]:
    """One model's part of the state of a stack's optimizer, in the form of its own optimizer's."""
    return {**optimizer, "state": {number: {name: value[index].clone() for name, value in state.items()}
                                   for number, state in optimizer["state"].items()}}


def _joined(parts: list[dict[str, Any]]) -> dict[str, Any]:
    """The reverse of `_part`."""
    return {**parts[0], "state": {number: {name: stacked([part["state"][number][name] for part in parts])
                                           for name in state} for number, state in parts[0]["state"].items()}}
